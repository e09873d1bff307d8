"""Operators that move elements and change none."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from zkserve.engines.native.compiler.builder import Builder, Handlers, Open, Stored, Value
from zkserve.engines.native.compiler.graph import Node, cut
from zkserve.engines.native.compiler.linear import vector
from zkserve.engines.native.compiler.network import (
    IDENTITY,
    Activation,
    FloatTensor,
    Kind,
)
from zkserve.engines.native.compiler.program import Array


def _concat(low: Builder, node: Node) -> Value:
    axis = node.attributes["axis"]
    parts = [low.free(name) for name in node.inputs]
    stored = [part for part in parts if isinstance(part, Stored)]
    if len(stored) == len(parts) and all(
        (s.tensor, s.views) == (stored[0].tensor, stored[0].views) for s in stored
    ):
        return _concat_indices(stored, axis)
    kinds = {part.activation for part in parts if isinstance(part, Open)}
    if len(kinds) > 1 or (stored and kinds != {IDENTITY}):
        parts = [low.store(part) if isinstance(part, Open) else part for part in parts]
        kinds = set()
    activation = kinds.pop() if kinds else IDENTITY
    if all(isinstance(part, Stored) and low.nonnegative(part) for part in parts):
        activation = Activation(kind=Kind.RELU)
    opened = [low.opened(part) if isinstance(part, Stored) else part for part in parts]
    if len({part.size for part in opened}) > 1:
        opened = [
            vector(low, part) if part.activation == IDENTITY else low.selected(low.store(part))
            for part in opened
        ]
    size = opened[0].size
    area = math.prod(size)
    low.tensors.append(
        FloatTensor(
            channels=sum(part.equation.channels for part in opened),
            height=size[0],
            width=size[1],
            activation=activation,
        )
    )
    first, indices = 0, []
    for part in opened:
        indices.append(part.index + first * area)
        low.equations.append(replace(part.equation, target=len(low.tensors) - 1, first=first))
        first += part.equation.channels
    return Stored(tensor=len(low.tensors) - 1, index=np.concatenate(indices, axis=axis))


def _concat_indices(parts: list[Stored], axis: int) -> Stored:
    def whole(name: str) -> Array | float:
        given = [getattr(part, name) for part in parts]
        if all(isinstance(one, float) and one == given[0] for one in given):
            return float(given[0])
        arrays = [np.broadcast_to(g, p.index.shape) for g, p in zip(given, parts, strict=True)]
        return np.concatenate(arrays, axis=axis)

    index = np.concatenate([part.index for part in parts], axis=axis)
    return replace(parts[0], index=index, scale=whole("scale"), offset=whole("offset"))


def _layout(change: Callable[[Builder, Node, Array], Array]) -> Callable[..., Value]:
    """Return a handler for an operator that moves elements and changes none."""

    def handle(low: Builder, node: Node) -> Value:
        value = low.free(node.inputs[0])
        index = change(low, node, value.index)
        if isinstance(value, Open):
            if index.size == value.index.size:
                return replace(value, index=index)
            value = low.store(value)
        # Scales and offsets move with their elements.
        moved: dict[str, Any] = {"index": index}
        for name in ("scale", "offset"):
            array = getattr(value, name)
            if isinstance(array, np.ndarray):
                moved[name] = change(low, node, array)
        return replace(value, **moved)

    return handle


def _reshape(low: Builder, node: Node, array: Array) -> Array:
    return array.reshape(low.graph.shapes[node.output])


def _transpose(low: Builder, node: Node, array: Array) -> Array:
    return np.transpose(array, node.attributes.get("perm"))


def _slice(low: Builder, node: Node, array: Array) -> Array:
    for name in filter(None, node.inputs[1:]):
        low.constant(name)  # or it is refused
    return cut(array, node, low.graph.constants)


def _gather(low: Builder, node: Node, array: Array) -> Array:
    chosen = low.constant(node.inputs[1]).astype(int)
    return np.take(array, chosen, axis=node.attributes.get("axis", 0))


HANDLERS: Handlers = {
    "Concat": _concat,
    "Flatten": _layout(_reshape),
    "Gather": _layout(_gather),
    "Reshape": _layout(_reshape),
    "Slice": _layout(_slice),
    "Squeeze": _layout(_reshape),
    "Transpose": _layout(_transpose),
    "Unsqueeze": _layout(_reshape),
}
