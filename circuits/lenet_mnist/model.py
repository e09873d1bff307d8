"""LeNet-5 on a 28 by 28 handwritten digit, with rectifiers and average pooling."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

SIDE = 28
DIGITS = 10


class LeNet(nn.Module):
    """Map pixels (1, 1, 28, 28) from 0 to 255 to ten logits (1, 10), the largest at the digit.

    The layers of LeCun, Bottou, Bengio and Haffner, 1998, with two simplifications that are common
    today: rectifiers for squashing, and a second convolution that reads all six channels. The
    scaling of the pixels is folded into the first convolution.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 6, kernel_size=5, padding=2)
        self.second = nn.Conv2d(6, 16, kernel_size=5)
        self.third = nn.Linear(16 * 5 * 5, 120)
        self.fourth = nn.Linear(120, 84)
        self.logits = nn.Linear(84, DIGITS)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        edges = functional.avg_pool2d(torch.relu(self.first(pixels)), 2)
        shapes = functional.avg_pool2d(torch.relu(self.second(edges)), 2)
        parts = torch.relu(self.third(shapes.flatten(1)))
        return self.logits(torch.relu(self.fourth(parts)))


def export(weights: Path, out: Path) -> None:
    """Write the trained model as ONNX with a batch of one."""
    model = LeNet()
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
