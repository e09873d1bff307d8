"""Boosted trees walked from root to leaf, as hummingbird-ml's perfect tree traversal does."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

FEATURES = 30


class BoostedTrees(nn.Module):
    """Map raw features (1, 30) to one logit (1, 1): above zero means malignant.

    Trees are perfect: of the same depth, all branches as long. A node of level ``i`` compares
    feature ``nodes[i][place]`` with ``biases[i][place]``; place ``2 p`` or ``2 p + 1`` of the next
    level follows. The names are hummingbird's.
    """

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)
        self.levels = sum(name.startswith("biases_") for name in tensors)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logit."""
        trees = len(self.root_biases)
        met = torch.index_select(features, 1, self.root_nodes) <= self.root_biases
        places = (met.long() + self.tree_indices).view(-1)
        for level in range(self.levels):
            nodes, biases = getattr(self, f"nodes_{level}"), getattr(self, f"biases_{level}")
            asked = torch.index_select(nodes, 0, places).view(-1, trees)
            values = torch.gather(features, 1, asked).view(-1)
            places = 2 * places + (values <= torch.index_select(biases, 0, places)).long()
        leaves = torch.index_select(self.leaf_nodes, 0, places).view(-1, trees)
        return leaves.sum(dim=1, keepdim=True) + self.base_prediction


def export(weights: Path, out: Path) -> None:
    """Write the trained model as ONNX with a batch of one."""
    torch.onnx.export(
        BoostedTrees(load_file(weights)).eval(),
        (torch.zeros(1, FEATURES),),
        out,
        input_names=["features"],
        output_names=["logit"],
        opset_version=17,
        dynamo=False,
    )
