"""A random forest in sums, clips and ReLUs: conditions, then leaves, then votes."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

MEASUREMENTS = 4
SPECIES = 3
COARSE = 32.0
"""How much flatter the first ramp of a condition is than the second.

One ramp as steep as the measurements are fine is too steep for a circuit: it would have to hold
numbers some thousand times as large as the activation.
"""


class Forest(nn.Module):
    """Map raw measurements (1, 4) to the votes (1, 3) for each species; they add up to one.

    Condition ``i`` asks whether one measurement is at most a threshold: 1 for yes, 0 for no, and
    a steep ramp halfway between the two nearest measurements that can occur. Leaf ``j`` is reached
    where all its conditions hold: they then add up to their number, and the bias leaves exactly 1.
    """

    def __init__(self, conditions: int, leaves: int) -> None:
        super().__init__()
        self.conditions = nn.Linear(MEASUREMENTS, conditions)
        self.leaves = nn.Linear(conditions, leaves)
        self.votes = nn.Linear(leaves, SPECIES, bias=False)

    def forward(self, measurements: torch.Tensor) -> torch.Tensor:
        """Return the votes."""
        near = self.conditions(measurements).clamp(-0.5, 0.5)
        met = (COARSE * near + 0.5).clamp(0.0, 1.0)
        return self.votes(torch.relu(self.leaves(met)))


def export(weights: Path, out: Path) -> None:
    """Write the trained model as ONNX with a batch of one."""
    tensors = load_file(weights)
    leaves, conditions = tensors["leaves.weight"].shape
    model = Forest(conditions, leaves)
    model.load_state_dict(tensors)
    torch.onnx.export(
        model.eval(),
        (torch.zeros(1, MEASUREMENTS),),
        out,
        input_names=["measurements"],
        output_names=["votes"],
        opset_version=17,
        dynamo=False,
    )
