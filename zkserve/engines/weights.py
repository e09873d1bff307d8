"""The weights that an ONNX model holds, and what tells them in another model; in a child only."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from zkserve.engines import onnx_model
from zkserve.engines.base import FloatArray

_TELLING_VALUES = 16


def weights_of(model: onnx.ModelProto) -> list[FloatArray]:
    """Return the float tensors that a checked model holds, in no promised order."""
    constants = [
        attribute.t
        for node in model.graph.node
        for attribute in node.attribute
        if attribute.type == onnx.AttributeProto.TENSOR
    ]
    tensors = [*model.graph.initializer, *constants]
    return [
        numpy_helper.to_array(tensor) for tensor in tensors if tensor.data_type == TensorProto.FLOAT
    ]


def digests(model: str) -> list[str]:
    """Child step: return what tells the same weights in another model, sorted; never to be shown.

    A SHA-256 for each tensor, and for all of them together, over the values as sorted little-endian
    float32: reshaping, transposing and renaming change nothing. What has few distinct values is
    left out, for that is in models that have nothing to do with each other.
    """
    tensors = [tensor.ravel() for tensor in weights_of(onnx_model.load(Path(model)))]
    return sorted(
        {
            hashlib.sha256(np.sort(values.astype("<f4")).tobytes()).hexdigest()
            for values in [*tensors, np.concatenate(tensors)]
            if len(np.unique(values)) >= _TELLING_VALUES
        }
        if tensors
        else set()
    )
