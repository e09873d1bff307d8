"""A gated recurrent unit over the sunspot numbers of nine years."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

YEARS = 9
STATE = 4
UNIT = 128.0
"""The unit of sunspot numbers inside the model; by a power of two a circuit divides exactly."""


class SunspotsGru(nn.Module):
    """Map yearly sunspot numbers (1, 9), the latest last, to the change until the next (1, 1).

    The recurrence is written out year by year, so that the graph holds sums, products, sigmoids
    and hyperbolic tangents only.
    """

    def __init__(self) -> None:
        super().__init__()
        self.year = nn.Linear(1, 3 * STATE)
        self.past = nn.Linear(STATE, 3 * STATE)
        self.change = nn.Linear(STATE, 1)

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return the change, in sunspot numbers."""
        scaled = numbers * (1 / UNIT)
        state = torch.zeros(len(numbers), STATE)
        for year in range(YEARS):
            new, old = self.year(scaled[:, year : year + 1]), self.past(state)
            gates = torch.sigmoid(new[:, : 2 * STATE] + old[:, : 2 * STATE])
            keep, reset = gates[:, :STATE], gates[:, STATE:]
            candidate = torch.tanh(new[:, 2 * STATE :] + reset * old[:, 2 * STATE :])
            state = candidate + keep * (state - candidate)
        return self.change(state) * UNIT


def export(weights: Path, out: Path) -> None:
    """Write the trained model as ONNX with a batch of one."""
    model = SunspotsGru()
    model.load_state_dict(load_file(weights))
    torch.onnx.export(
        model.eval(),
        (torch.zeros(1, YEARS),),
        out,
        input_names=["numbers"],
        output_names=["change"],
        opset_version=17,
        dynamo=False,
    )
