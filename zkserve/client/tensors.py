"""Numbers as callers have them, made into the tensors that a model takes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from zkserve.client.answers import reading
from zkserve.errors import InvalidInput


def tensors_of(
    metadata: Mapping[str, Any], model: str, inputs: Mapping[str, Any] | Sequence[Any]
) -> list[dict[str, Any]]:
    """Return Open Inference tensors of numbers by input name, or of a single input's numbers.

    Raises:
        InvalidInput: they are no numbers, or of inputs that the model does not have.

    """
    with reading():
        shapes = {spec["name"]: spec["shape"] for spec in metadata["inputs"]}
        batch = int(metadata.get("parameters", {}).get("batch", 1))
    if not isinstance(inputs, Mapping):
        if len(shapes) != 1:
            raise InvalidInput(
                f"{model} has the inputs {list(shapes)}.",
                remedy="Give a mapping from their names to numbers.",
            )
        inputs = dict.fromkeys(shapes, inputs)
    unknown = [name for name in inputs if name not in shapes]
    if unknown:
        raise InvalidInput(
            f"{model} has the inputs {list(shapes)}, not {unknown[0]!r}.",
            remedy="Name them as the model does.",
        )
    tensors = []
    for name, numbers in inputs.items():
        data = _plain(numbers)
        # Flat numbers take the model's shape; nested ones keep theirs for the service to check.
        nested = isinstance(data[0], list)
        shape = _shape(data) if nested else _rows_of(shapes[name], len(data), batch)
        tensors.append({"name": name, "shape": shape, "datatype": "FP64", "data": data})
    return tensors


def _plain(numbers: Any) -> list[Any]:
    plain = None
    if hasattr(numbers, "tolist"):
        # An array; to import its library only to recognise it would cost everyone.
        plain = numbers.tolist()
    elif isinstance(numbers, Sequence) and not isinstance(numbers, (str, bytes)):
        plain = list(numbers)
    if not isinstance(plain, list) or not plain:
        raise InvalidInput(
            f"Expected a list of numbers, got an empty one or a {type(numbers).__name__}.",
            remedy="Give a list or an array of numbers.",
        )
    return plain


def _rows_of(shape: list[int], numbers: int, batch: int) -> list[int]:
    """Return the shape of so many whole rows of a batch, or that of the batch."""
    row = math.prod(shape[1:])
    whole = batch > 1 and numbers % row == 0
    return [numbers // row, *shape[1:]] if whole else shape


def _shape(data: Any) -> list[int]:
    shape = []
    while isinstance(data, list) and data:
        shape.append(len(data))
        data = data[0]
    return shape
