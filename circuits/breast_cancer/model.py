"""A small multilayer perceptron on the 30 raw features of one patient's cell nuclei."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

FEATURES = 30
HIDDEN = 8


class BreastCancer(nn.Module):
    """Map raw features (1, 30) to one logit (1, 1): above zero means malignant.

    The scaling of the features is folded into the first layer, so callers send what was measured.
    """

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(FEATURES, HIDDEN)
        self.logit = nn.Linear(HIDDEN, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logit."""
        return self.logit(torch.relu(self.hidden(features)))


def export(weights: Path, out: Path) -> None:
    """Write the trained model as ONNX with a batch of one."""
    model = BreastCancer()
    model.load_state_dict(load_file(weights))
    torch.onnx.export(
        model.eval(),
        (torch.zeros(1, FEATURES),),
        out,
        input_names=["features"],
        output_names=["logit"],
        opset_version=17,
        dynamo=False,
    )
