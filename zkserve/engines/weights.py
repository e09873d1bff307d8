"""The weights that an ONNX model holds, and what tells them in another model; in a child only."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from zkserve.engines import onnx_model
from zkserve.engines.base import FloatArray
from zkserve.engines.entropy import bits_of, bits_of_counts

_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE})
_TELLING_BITS = 64
"""What fewer bits tell may well be in models that have nothing to do with each other."""
_STEPS = 32
"""Of the largest magnitude: what values are rounded to where they are to be told after a move."""
_OFFSETS = (0.382, 0.882)
"""A value that one rounding splits from its moved self is far from where the other does. Round
shares of the largest magnitude, of which quantised weights are made, lie at neither border."""


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

    And two for each, over how many values round to each multiple of a 32nd of the largest, where
    that tells 64 bits: so values that another exporter moved by a unit in the last place, and all
    scaled alike, are told too. Of many values some cross a border sooner: where all n move by the
    share d of the largest, each of the two stays with a chance of about ``exp(-32 d n)``. So larger
    moves, such as to half precision or by tuning further, are not told.
    """
    weights = weights_of(onnx_model.load(Path(model)))
    tensors = [tensor.ravel().astype("<f4") for tensor in weights]
    if not tensors:
        return []
    wholes = [*tensors, np.concatenate(tensors)]
    exact = {
        hashlib.sha256(np.sort(values[values != 0]).tobytes()).hexdigest()
        for values in wholes
        if bits_of(values) >= _TELLING_BITS
    }
    return sorted(exact.union(*map(_rounded, wholes)))


def _rounded(values: FloatArray) -> set[str]:
    """Return the digests of how many values round to what; what is next to zero is left out."""
    largest = float(np.abs(values).max(initial=0.0))
    if not 0 < largest < np.inf:
        return set()
    found = set()
    for offset in _OFFSETS:
        steps = np.floor(values.astype(np.float64) / largest * _STEPS + offset).astype("<i8")
        which, counts = np.unique(steps[steps != 0], return_counts=True)
        if bits_of_counts(counts) >= _TELLING_BITS:
            told = np.stack([which, counts.astype("<i8")]).tobytes()
            found.add(hashlib.sha256(f"rounded {offset} ".encode() + told).hexdigest())
    return found
