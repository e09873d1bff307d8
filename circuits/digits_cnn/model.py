"""Two small convolutions and a dense layer on an 8 by 8 handwritten digit."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

SIDE = 8
CHANNELS = (4, 8)
DIGITS = 10


class DigitsCnn(nn.Module):
    """Map pixels (1, 1, 8, 8) from 0 to 16 to ten logits (1, 10), the largest at the digit.

    A stride stands where pooling usually does: a maximum is dear to prove. The scaling of the
    pixels is folded into the first convolution.
    """

    def __init__(self) -> None:
        super().__init__()
        first, second = CHANNELS
        self.first = nn.Conv2d(1, first, kernel_size=3)
        self.second = nn.Conv2d(first, second, kernel_size=3, stride=2)
        self.logits = nn.Linear(second * 2 * 2, DIGITS)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        edges = torch.relu(self.first(pixels))
        shapes = torch.relu(self.second(edges))
        return self.logits(shapes.flatten(1))


def export(weights: Path, out: Path) -> None:
    """Write the trained model as ONNX with a batch of one."""
    model = DigitsCnn()
    model.load_state_dict(load_file(weights))
    torch.onnx.export(
        model.eval(),
        (torch.zeros(1, 1, SIDE, SIDE),),
        out,
        input_names=["pixels"],
        output_names=["logits"],
        opset_version=17,
        dynamo=False,
    )
