"""The weights that an ONNX model holds, and what tells them in another model; in a child only."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from zkserve.engines import onnx_model
from zkserve.engines.base import FloatArray
from zkserve.engines.entropy import bits_of

_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE})
_TELLING_BITS = 64
"""What fewer bits tell may well be in models that have nothing to do with each other."""


def weights_of(model: onnx.ModelProto) -> list[FloatArray]:
    """Return the tensors of floats that a checked model holds, in no promised order."""
    constants = [
        attribute.t
        for node in model.graph.node
        for attribute in node.attribute
        if attribute.type == onnx.AttributeProto.TENSOR
    ]
    tensors = [*model.graph.initializer, *constants]
    return [numpy_helper.to_array(tensor) for tensor in tensors if tensor.data_type in _FLOATS]


def digests(model: str) -> list[str]:
    """Child step: return what tells the same weights in another model, sorted; never to be shown.

    A SHA-256 for each tensor, and for all of them together, over the values as sorted little-endian
    float32, but for zeros: reshaping, transposing, renaming, another type, and padding with zeros
    change nothing. Left out is what holds fewer than 64 bits, the number of values times the
    entropy of one: zeros, ones and short biases. All together are in wherever a leak budget allows
    a proof, for that asks for more bits still.
    """
    weights = weights_of(onnx_model.load(Path(model)))
    tensors = [tensor.ravel().astype("<f4") for tensor in weights]
    if not tensors:
        return []
    return sorted(
        {
            hashlib.sha256(np.sort(values[values != 0]).tobytes()).hexdigest()
            for values in [*tensors, np.concatenate(tensors)]
            if bits_of(values) >= _TELLING_BITS
        }
    )
