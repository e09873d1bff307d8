"""Open Inference tensors to the flat array an engine takes, refusing all that is not one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from zkserve.api.schemas import InferTensor
from zkserve.engines.base import FloatArray
from zkserve.errors import InvalidInput
from zkserve.types import TensorSpec

_BITS = (8, 16, 32, 64)
_INTEGER_RANGES = {
    **{f"INT{bits}": (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) for bits in _BITS},
    **{f"UINT{bits}": (0, (1 << bits) - 1) for bits in _BITS},
}


def join(specs: Sequence[TensorSpec], tensors: Sequence[InferTensor], batch: int) -> FloatArray:
    """Return all inputs of a model flattened row-major and joined in the model's order, as FP32.

    A tensor's data is flat or nested as its shape; leading dimensions of 1 may be left out of the
    shape or added. Where a batch is not full, its last row is repeated: that can be proved if the
    row can, and shows nothing of the model that the row does not.

    Raises:
        InvalidInput: an input is missing, unknown or given twice; a shape is not the model's; there
            are more rows than ``batch``; data do not fit their shape or datatype; a number is not
            finite as FP32.

    """
    rows = rows_of(specs, tensors, batch)
    given = {tensor.name: tensor for tensor in tensors}
    parts = []
    for spec in specs:
        values = _values(given[spec.name], spec.size // batch * rows).reshape(rows, -1)
        parts.append(np.pad(values, ((0, batch - rows), (0, 0)), mode="edge").ravel())
    return np.concatenate(parts)


def rows_of(specs: Sequence[TensorSpec], tensors: Sequence[InferTensor], batch: int) -> int:
    """Return how many samples a request is about: from 1 to ``batch``, the same in each tensor.

    ``specs`` are those of the whole batch.

    Raises:
        InvalidInput: an input is missing, unknown or given twice; a shape is not the model's; there
            are more rows than ``batch``.

    """
    given = {tensor.name: tensor for tensor in tensors}
    expected = [spec.name for spec in specs]
    if len(given) != len(tensors) or sorted(given) != sorted(expected):
        raise InvalidInput(
            f"Expected exactly the inputs {expected}, got {[t.name[:80] for t in tensors]}.",
            remedy="Name each input of the model once; GET /v2/models/<model> lists them.",
        )
    rows = {spec.name: _rows(spec, given[spec.name].shape, batch) for spec in specs}
    if len(set(rows.values())) != 1:
        raise InvalidInput(
            f"The inputs have different numbers of rows: {rows}.",
            remedy="Send as many rows of each input.",
        )
    return rows[expected[0]]


def _rows(spec: TensorSpec, given: Sequence[int], batch: int) -> int:
    shape = _without_leading_ones(given)
    one = spec.shape if batch == 1 else spec.shape[1:]
    if shape == _without_leading_ones(one):
        return 1
    if batch == 1 or shape[1:] != list(one):
        raise InvalidInput(
            f"Input {spec.name!r} has shape {list(spec.shape)}, got {list(given)}.",
            remedy="Send one sample a request, in the model's shape."
            if batch == 1
            else f"Send 1 to {batch} rows in the model's shape.",
        )
    if shape[0] > batch:
        raise InvalidInput(
            f"Input {spec.name!r} has {shape[0]} rows; a proof of this version is about at most "
            f"{batch}.",
            remedy=f"Split the rows into requests of at most {batch}.",
        )
    return shape[0]


def _values(tensor: InferTensor, size: int) -> FloatArray:
    nested = bool(tensor.shape and tensor.data) and isinstance(tensor.data[0], list)
    shape = tensor.shape if nested else [size]
    flat: list[int | float] = []
    _flatten(tensor, tensor.data, shape, flat)
    with np.errstate(over="ignore"):
        values = np.asarray(flat, dtype=np.float64).astype(np.float32)
    if not np.isfinite(values).all():
        raise InvalidInput(
            f"Input {tensor.name!r} holds a number that FP32 cannot hold.",
            remedy="Send finite numbers below 3.4e38 in magnitude.",
        )
    return values


def _flatten(tensor: InferTensor, data: Any, shape: Sequence[int], flat: list[int | float]) -> None:
    if not isinstance(data, list) or len(data) != shape[0]:
        found = f"{len(data)} elements" if isinstance(data, list) else "a single value"
        raise InvalidInput(
            f"Input {tensor.name!r} needs {shape[0]} elements where it has {found}.",
            remedy=f"Send data flat, or nested as the shape {tensor.shape}.",
        )
    if len(shape) > 1:
        for row in data:
            _flatten(tensor, row, shape[1:], flat)
        return
    for value in data:
        _check(tensor, value)
    flat += data


def _check(tensor: InferTensor, value: Any) -> None:
    bounds = _INTEGER_RANGES.get(tensor.datatype)
    if bounds is None:
        good = (isinstance(value, float) and math.isfinite(value)) or (
            type(value) is int and abs(value) < 1 << 128
        )
        expected = "finite numbers"
    else:
        good = type(value) is int and bounds[0] <= value <= bounds[1]
        expected = f"integers from {bounds[0]} to {bounds[1]}"
    if not good:
        raise InvalidInput(
            f"Input {tensor.name!r} of datatype {tensor.datatype} holds something else than "
            f"{expected}.",
            remedy="Send finite JSON numbers of the datatype; no NaN, strings, null or booleans.",
        )


def _without_leading_ones(shape: Sequence[int]) -> list[int]:
    sizes = list(shape)
    while sizes and sizes[0] == 1:
        sizes.pop(0)
    return sizes
