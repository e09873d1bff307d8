"""Operators that are sums: products with weights, affine maps, additions."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from zkserve.engines.native.compiler.builder import (
    Builder,
    Handlers,
    Open,
    Stored,
    Unsupported,
    Value,
)
from zkserve.engines.native.compiler.graph import Node
from zkserve.engines.native.compiler.program import Array


def _gemm(low: Builder, node: Node) -> Value:
    if node.attributes.get("transA", 0):
        raise Unsupported("transposes its first operand")
    left, right = node.inputs[:2]
    if not low.is_constant(right):
        raise Unsupported(
            "multiplies a constant on the left by a computed value; write it as MatMul"
            if low.is_constant(left)
            else "multiplies two computed values"
        )
    weights = low.constant(right) * node.attributes.get("alpha", 1.0)
    if not node.attributes.get("transB", 0):
        weights = weights.T
    bias = None
    if node.given(2):
        added = low.constant(node.inputs[2]) * node.attributes.get("beta", 1.0)
        bias = np.broadcast_to(added.reshape(-1), (len(weights),)).copy()
    return _contract(low, node, left, weights, bias)


def _matmul(low: Builder, node: Node) -> Value:
    left, right = node.inputs
    if low.is_constant(right):
        weights = low.constant(right)
        if weights.ndim == 1:
            weights = weights[:, None]
        if weights.ndim > 2 and weights.size != math.prod(weights.shape[-2:]):
            raise Unsupported("multiplies by a stack of matrices")
        return _contract(low, node, left, weights.reshape(weights.shape[-2:]).T, None)
    if low.is_constant(left):
        weights = low.constant(left)
        if weights.ndim == 1:
            weights = weights[None]
        return _contract(low, node, right, weights, None)
    raise Unsupported("multiplies two computed values")


def _contract(low: Builder, node: Node, name: str, weights: Array, bias: Array | None) -> Value:
    value = low.stored(name)
    shape = low.graph.shapes[node.output]
    if weights.ndim != 2 or value.index.size != weights.shape[1]:
        raise Unsupported(
            f"multiplies {value.index.size // max(1, weights.shape[-1])} rows; one can be proved "
            "at a time (a batch is an option of the engine)"
        )
    return low.gemm(value, weights, bias, shape)


def _batch_normalisation(low: Builder, node: Node) -> Value:
    gain, bias, mean, variance = (low.constant(name) for name in node.inputs[1:5])
    variance = variance + node.attributes.get("epsilon", 1e-5)
    if not (variance > 0).all():
        raise Unsupported("has a variance that is not positive")
    slope = gain / np.sqrt(variance)
    rank = len(low.graph.shapes[node.inputs[0]])
    shape = (1, -1, *[1] * (rank - 2))
    added = (bias - mean * slope).reshape(shape)
    return _affine(low, low.free(node.inputs[0]), slope.reshape(shape), added)


def _affine(low: Builder, value: Value, slope: Array | float, added: Array | float) -> Value:
    """Return ``slope * value + added``; arrays broadcast to the ONNX shape."""
    slope, added = _number(slope), _number(added)
    shape = value.index.shape
    for array in (slope, added):
        if isinstance(array, np.ndarray) and np.broadcast_shapes(array.shape, shape) != shape:
            raise Unsupported("makes its value larger by broadcasting")
    if isinstance(value, Open):
        if value.plain and not value.equation.scaled:
            return _affine_open(low, value, slope, added)
        value = low.store(value)
    offset = np.multiply(value.offset, slope) + added
    scale = np.multiply(value.scale, slope)
    return replace(
        value,
        scale=float(scale) if scale.ndim == 0 else np.broadcast_to(scale, shape),
        offset=float(offset) if np.ndim(offset) == 0 else np.broadcast_to(offset, shape),
    )


def _affine_open(low: Builder, value: Open, slope: Array | float, added: Array | float) -> Value:
    equation = value.equation
    grid = (equation.channels, *value.size)
    try:
        factors, offsets = (
            low.by_channel(np.asarray(array), value.index, grid[0], grid, rest)
            for array, rest in ((slope, 1.0), (added, 0.0))
        )
    except Unsupported:
        return _affine(low, low.store(value), slope, added)
    bias = None if equation.bias is None else equation.bias * factors
    if not isinstance(added, float) or added:
        bias = offsets + (0 if bias is None else bias)
    products = tuple(
        replace(product, weights=product.weights * factors[:, None, None, None])
        for product in equation.products
    )
    return replace(value, equation=replace(equation, products=products, bias=bias))


def _number(array: Array | float) -> Array | float:
    return float(np.asarray(array).reshape(())) if np.size(array) == 1 else array


def _add(low: Builder, node: Node) -> Value:
    return _sum(low, node, 1.0)


def _sub(low: Builder, node: Node) -> Value:
    return _sum(low, node, -1.0)


def _sum(low: Builder, node: Node, sign: float) -> Value:
    left, right = node.inputs
    if low.is_constant(right):
        return _affine(low, low.free(left), 1.0, sign * low.constant(right))
    if low.is_constant(left):
        return _affine(low, low.free(right), sign, low.constant(left))
    first, second = low.free(left), low.free(right)
    if left == right:
        return _affine(low, first, 1.0 + sign, 0.0)
    if sign < 0:
        second = _affine(low, second, -1.0, 0.0)
    return _join(low, first, second)


def _join(low: Builder, first: Value, second: Value) -> Value:
    """Return the sum of two computed values as one equation."""
    parts = [
        low.opened(v) if isinstance(v, Stored) else v if v.plain else low.opened(low.store(v))
        for v in (first, second)
    ]
    a, b = parts
    same = (a.equation.channels, a.size) == (b.equation.channels, b.size)
    if not same or a.index.shape != b.index.shape or (a.index != b.index).any():
        if a.index.size != b.index.size:
            raise Unsupported("makes a value larger by broadcasting")
        a, b = (vector(low, part) for part in parts)
    if a.equation.products and b.equation.products and a.equation.groups != b.equation.groups:
        # One equation has one number of groups: the one with more is stored, then scaled.
        grouped, other = (a, b) if a.equation.groups > b.equation.groups else (b, a)
        a, b = other, low.opened(low.store(grouped))
    groups = a.equation.groups if a.equation.products else b.equation.groups
    biases = [part.equation.bias for part in (a, b) if part.equation.bias is not None]
    equation = replace(
        a.equation,
        groups=groups,
        products=a.equation.products + b.equation.products,
        scaled=a.equation.scaled + b.equation.scaled,
        bias=sum(biases) if biases else None,  # type: ignore[arg-type]
    )
    return replace(a, equation=equation)


def vector(low: Builder, part: Open) -> Open:
    """Return a value whose elements are channels in order."""
    plain = np.arange(part.index.size)
    if part.size == (1, 1) and (part.index.reshape(-1) == plain).all():
        return part
    stored = low.store(part)
    return replace(low.selected(stored), index=plain.reshape(part.index.shape))


def _mul(low: Builder, node: Node) -> Value:
    left, right = node.inputs
    if low.is_constant(right):
        return _affine(low, low.free(left), low.constant(right), 0.0)
    if low.is_constant(left):
        return _affine(low, low.free(right), low.constant(left), 0.0)
    raise Unsupported("multiplies two computed values")


def _div(low: Builder, node: Node) -> Value:
    left, right = node.inputs
    if not low.is_constant(right):
        raise Unsupported("divides by a computed value")
    return _affine(low, low.free(left), 1.0 / low.constant(right), 0.0)


def _neg(low: Builder, node: Node) -> Value:
    return _affine(low, low.free(node.inputs[0]), -1.0, 0.0)


HANDLERS: Handlers = {
    "Add": _add,
    "BatchNormalization": _batch_normalisation,
    "Div": _div,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Mul": _mul,
    "Neg": _neg,
    "Sub": _sub,
}
