"""Operators on one number: clamps and function tables."""

from __future__ import annotations

import math
from dataclasses import replace

from zkserve.engines.native.compiler.builder import (
    Builder,
    Handlers,
    Open,
    Stored,
    Unsupported,
    Value,
)
from zkserve.engines.native.compiler.graph import Node
from zkserve.engines.native.compiler.network import (
    IDENTITY,
    Activation,
    Kind,
)


def _activate(low: Builder, node: Node, activation: Activation) -> Value:
    value = low.free(node.inputs[0])
    if isinstance(value, Open) and value.activation != IDENTITY:
        if value.activation.kind == Kind.RELU and activation.kind == Kind.CLIP:
            low_end = max(0.0, activation.low)
            return replace(value, activation=replace(activation, low=low_end))
        value = low.store(value)
    if isinstance(value, Stored):
        if activation.kind == Kind.RELU and low.nonnegative(value):
            return value
        value = low.opened(value)
    return replace(value, activation=activation)


def _relu(low: Builder, node: Node) -> Value:
    return _activate(low, node, Activation(kind=Kind.RELU))


def _clip(low: Builder, node: Node) -> Value:
    ends = [-math.inf, math.inf]
    for i, name in enumerate(("min", "max")):
        if name in node.attributes:
            ends[i] = float(node.attributes[name])
        elif node.given(i + 1):
            ends[i] = float(low.constant(node.inputs[i + 1]).reshape(()))
    # What float32 cannot exceed clips nothing.
    low_end, high_end = (e if abs(e) < 3e38 else math.copysign(math.inf, e) for e in ends)
    if not low_end <= 0 <= high_end or low_end == high_end:
        raise Unsupported(f"clips to [{low_end:g}, {high_end:g}], which leaves out 0")
    if math.isinf(low_end) and math.isinf(high_end):
        return low.computed(node.inputs[0])
    if low_end == 0 and math.isinf(high_end):
        return _relu(low, node)
    if math.isinf(low_end) or math.isinf(high_end):
        raise Unsupported(f"clips at one end only, to [{low_end:g}, {high_end:g}]")
    return _activate(low, node, Activation(kind=Kind.CLIP, low=low_end, high=high_end))


def _sigmoid(low: Builder, node: Node) -> Value:
    return _activate(low, node, Activation(kind=Kind.SIGMOID))


def _tanh(low: Builder, node: Node) -> Value:
    return _activate(low, node, Activation(kind=Kind.TANH))


def _silu(low: Builder, node: Node) -> Value:
    return _activate(low, node, Activation(kind=Kind.SILU))


def _gelu(low: Builder, node: Node) -> Value:
    approximate = node.attributes.get("approximate", b"none")
    kind = Kind.GELU_TANH if approximate == b"tanh" else Kind.GELU
    return _activate(low, node, Activation(kind=kind))


def _leaky_relu(low: Builder, node: Node) -> Value:
    slope = float(node.attributes.get("alpha", 0.01))
    return _activate(low, node, Activation(kind=Kind.LEAKY_RELU, slope=slope))


HANDLERS: Handlers = {
    "Clip": _clip,
    "Gelu": _gelu,
    "LeakyRelu": _leaky_relu,
    "Relu": _relu,
    "Sigmoid": _sigmoid,
    "Silu": _silu,
    "Tanh": _tanh,
}
