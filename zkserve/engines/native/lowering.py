"""ONNX graphs as float networks: which operator becomes which equation.

Every value is either *open*, accumulators that may still take a pool, an activation or more terms,
or *stored* in a tensor. Both carry an index: an array of the ONNX shape that says which cell of the
``(channels, height, width)`` grid holds each element. Reshape, Transpose and Slice touch nothing
but the index; whoever reads the value permutes its weights accordingly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zkserve.engines.native.description import Pool, View
from zkserve.engines.native.graph import Graph, Node
from zkserve.engines.native.network import (
    IDENTITY,
    Activation,
    FloatArray,
    FloatTensor,
    Kind,
    Network,
)
from zkserve.engines.native.program import Array, Equation, Product, Scaled
from zkserve.errors import ModelRejected

Index = NDArray[np.int64]
Pair = tuple[int, int]
MAX_WINDOW = 4
"""Positions of one max pooling."""
MAX_BYTE = 255
"""Kernels, strides, dilations and paddings are bytes of a description."""
_SELECTION_WEIGHTS = 1 << 16
"""Weights spent at most to bring elements in order."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Stored:
    """Cells of a tensor, seen through views; element ``i`` is ``scale·cell[index] + offset``.

    ``scale`` and ``offset`` have the ONNX shape or are single numbers.
    """

    tensor: int
    index: Index
    views: tuple[View, ...] = ()
    scale: Array | float = 1.0
    offset: Array | float = 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Open:
    """An equation without a target yet; ``size`` is that of its grid after pooling."""

    equation: Equation
    index: Index
    size: Pair
    activation: Activation = IDENTITY

    @property
    def plain(self) -> bool:
        """Whether terms may still join."""
        return self.activation == IDENTITY and self.equation.pool.positions == 1


Value = Stored | Open


def lower(graph: Graph) -> Network:
    """Return the float network of a graph.

    Raises:
        ModelRejected: no equations of ours compute it; every operator that stands in the way by
            itself is named.

    """
    if complaints := unsupported(graph):
        raise ModelRejected(" ".join(complaints))
    lowering = _Lowering(graph)
    for node in graph.nodes:
        try:
            lowering.add(node)
        except _Unsupported as reason:
            raise ModelRejected(f"{node.kind} ({node.output!r}) {reason}.") from None
    return lowering.finish()


def unsupported(graph: Graph) -> list[str]:
    """Return a sentence for each operator that cannot be computed whatever surrounds it."""
    found = []
    for node in graph.nodes:
        if node.kind not in _HANDLERS:
            found.append(f"Operator {node.kind} ({node.output!r}) is not supported.")
    return found


class _Unsupported(Exception):
    """What a node asks that no equation does, as the end of a sentence."""


@dataclass
class _Lowering:
    graph: Graph
    tensors: list[FloatTensor] = field(default_factory=list)
    equations: list[Equation] = field(default_factory=list)
    values: dict[str, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.uses = self.graph.uses
        self.elements = sum(math.prod(shape) for _, shape in self.graph.inputs)
        self.tensors.append(FloatTensor(channels=1, height=1, width=self.elements))
        self.shaped = False
        """Whether the input has got its height and width from a reader that needs them."""
        self.input_affine: tuple[Array, Array] | None = None
        start = 0
        for name, shape in self.graph.inputs:
            size = math.prod(shape)
            index = np.arange(start, start + size).reshape(shape)
            self.values[name] = Stored(tensor=0, index=index)
            start += size

    # -- reading

    def constant(self, name: str) -> Array:
        if name not in self.graph.constants:
            raise _Unsupported("needs a constant where it has a computed value")
        return self.graph.constants[name].astype(np.float64)

    def is_constant(self, name: str) -> bool:
        return name in self.graph.constants

    def stored(self, name: str) -> Stored:
        value = self.values[name]
        if isinstance(value, Open):
            value = self.store(value)
            self.values[name] = value
        return value

    def free(self, name: str) -> Value:
        """Return a value that may be changed: open only if nobody else reads it."""
        return self.values[name] if self.uses[name] == 1 else self.stored(name)

    def grid(self, value: Stored) -> tuple[int, int, int]:
        tensor = self.tensors[value.tensor]
        if value.views:
            return tensor.channels, value.views[-1].height, value.views[-1].width
        return tensor.channels, tensor.height, tensor.width

    # -- storing

    def store(self, value: Open) -> Stored:
        height, width = value.size
        tensor = FloatTensor(
            channels=value.equation.channels,
            height=height,
            width=width,
            activation=value.activation,
        )
        return Stored(tensor=self.emit(value.equation, tensor), index=value.index)

    def emit(self, equation: Equation, tensor: FloatTensor) -> int:
        self.tensors.append(tensor)
        target = len(self.tensors) - 1
        self.equations.append(replace(equation, target=target))
        return target

    def opened(self, value: Stored) -> Open:
        """Return accumulators over the whole grid that hold a stored value again."""
        if value.tensor == 0 and not self.shaped:
            # From now on the input has this grid, so let it be the image's if it is one.
            if value.index.ndim == 4:
                self.image(value)
            self.shaped = True
        channels, height, width = self.grid(value)
        scale, offset = self.affine_of(value, channels)
        products: tuple[Product, ...] = ()
        scaled: tuple[Scaled, ...] = ()
        if isinstance(scale, float) and scale > 0:
            scaled = (Scaled(source=value.tensor, first=0, factor=scale, views=value.views),)
        else:
            weights = np.broadcast_to(np.asarray(scale, np.float64), (channels,))
            products = (
                Product(
                    source=value.tensor,
                    first=0,
                    channels=channels,
                    weights=weights.reshape(channels, 1, 1, 1),
                    views=value.views,
                ),
            )
        equation = Equation(
            target=None,
            first=0,
            channels=channels,
            height=height,
            width=width,
            groups=channels if products else 1,
            products=products,
            scaled=scaled,
            bias=offset,
        )
        return Open(equation=equation, index=value.index, size=(height, width))

    def affine_of(self, value: Stored, channels: int) -> tuple[Array | float, Array | None]:
        """Return the scale, one number or one a channel, and the offset a channel, if any."""
        scale = value.scale
        if isinstance(scale, np.ndarray):
            scale = self.by_channel(scale, value.index, channels, self.grid(value), 1.0)
        if isinstance(value.offset, np.ndarray):
            return scale, self.by_channel(value.offset, value.index, channels, self.grid(value), 0)
        return scale, np.full(channels, value.offset) if value.offset else None

    def by_channel(
        self, array: Array, index: Index, channels: int, grid: tuple[int, int, int], rest: float
    ) -> FloatArray:
        """Return one number a channel from an array of the ONNX shape."""
        cells = np.full(math.prod(grid), np.nan)
        cells[index.reshape(-1)] = np.broadcast_to(array, index.shape).reshape(-1)
        cells = cells.reshape(channels, -1)
        one = np.where(
            np.isnan(cells).all(axis=1),
            rest,
            np.nanmax(np.where(np.isnan(cells), -np.inf, cells), axis=1),
        )
        if not ((cells == one[:, None]) | np.isnan(cells)).all():
            raise _Unsupported("has a constant that differs within a channel")
        return one

    # -- images

    def image(self, value: Stored) -> tuple[int, int, int, int]:
        """Return first channel, channels, height and width; axes are (1, channels, spatial…)."""
        shape = value.index.shape
        if len(shape) not in {3, 4} or shape[0] != 1:
            raise _Unsupported(f"needs an image of shape (1, channels, …), got {list(shape)}")
        channels, spatial = shape[1], shape[2:]
        height, width = (1, *spatial)[-2:]
        if value.tensor == 0 and not self.shaped and not value.views:
            self.shape_input(height, width)
        grid = self.grid(value)
        start = int(value.index.reshape(-1)[0])
        plain = np.arange(start, start + value.index.size).reshape(shape)
        if (height, width) != grid[1:] or start % (height * width) or (plain != value.index).any():
            raise _Unsupported("reads an image whose rows and columns were mixed by a reshape")
        return start // (height * width), channels, height, width

    def shape_input(self, height: int, width: int) -> None:
        if self.elements % (height * width):
            raise _Unsupported("reads a part of the input that is no image of its own")
        channels = self.elements // (height * width)
        self.tensors[0] = FloatTensor(channels=channels, height=height, width=width)
        self.shaped = True

    def absorb(self, value: Stored) -> bool:
        """Quantise the input after an affine map instead of before it, if nothing read it yet."""
        read = [
            term.source
            for equation in [
                *self.equations,
                *(v.equation for v in self.values.values() if isinstance(v, Open)),
            ]
            for term in (*equation.products, *equation.scaled)
        ]
        shape = value.index.shape
        if 0 in read or self.input_affine is not None or value.index.size != self.elements:
            return False
        scale, offset = np.empty(self.elements), np.empty(self.elements)
        scale[value.index] = np.broadcast_to(value.scale, shape)
        offset[value.index] = np.broadcast_to(value.offset, shape)
        if not scale.all():
            return False
        self.input_affine = (scale, offset)
        for name, other in self.values.items():
            if isinstance(other, Stored) and other.tensor == 0:
                ratio = other.scale / scale[other.index]
                rest = other.offset - ratio * offset[other.index]
                self.values[name] = replace(other, scale=_same(ratio), offset=_same(rest))
        return True

    # -- nodes

    def add(self, node: Node) -> None:
        self.values[node.output] = _HANDLERS[node.kind](self, node)

    def finish(self) -> Network:
        name, _ = self.graph.output
        value = self.values[name]
        if isinstance(value, Stored):
            value = self.in_order(value)
        output_scale = 1.0
        if isinstance(value, Stored):
            output_scale = float(value.scale)
        else:
            grid = (value.equation.channels, *value.size)
            if (value.index.reshape(-1) != np.arange(math.prod(grid))).any():
                value = self.selected(self.store(value))
            self.close(value)
        positions = {math.prod((e.pool.eh, e.pool.ew)) for e in self.equations} - {1}
        window = 0 if not positions else 2 if positions == {2} else MAX_WINDOW
        self.equations = [
            replace(equation, pool=_stretched(equation.pool, window)) for equation in self.equations
        ]
        scale, offset = self.input_affine or (np.ones(self.elements), np.zeros(self.elements))
        return Network(
            tensors=tuple(self.tensors),
            equations=tuple(self.flat_weights(equation) for equation in self.equations),
            input_scale=scale,
            input_offset=offset,
            output_scale=output_scale,
        )

    def close(self, value: Open) -> None:
        """Make a value the output: accumulators if it is plain, else a tensor."""
        if value.plain:
            self.equations.append(value.equation)
        else:
            self.store(value)

    def in_order(self, value: Stored) -> Value:
        """Return the output in the order of its grid, as the last equation's target or open."""
        cells = math.prod(self.grid(value))
        straight = value.index.size == cells and (value.index.reshape(-1) == np.arange(cells)).all()
        if not straight:
            return self.selected(value)
        last = value.tensor and self.equations[-1].target == value.tensor
        simple = isinstance(value.scale, float) and value.scale > 0 and not np.any(value.offset)
        return value if last and simple and not value.views else self.opened(value)

    def selected(self, value: Stored) -> Open:
        """Return the elements in order as channels, by a gemm of ones and zeros."""
        cells = math.prod(self.grid(value))
        if value.index.size * cells > _SELECTION_WEIGHTS:
            raise _Unsupported("leaves the elements in an order that no equation reads")
        return self.gemm(value, np.eye(value.index.size), None, (1, value.index.size))

    def gemm(
        self, value: Stored, weights: Array, bias: Array | None, shape: tuple[int, ...]
    ) -> Open:
        """Return ``weights @ elements + bias``, of ONNX shape ``shape``."""
        flat = value.index.reshape(-1)
        scale = np.broadcast_to(value.scale, value.index.shape).reshape(-1)
        if np.any(value.offset):
            offset = np.broadcast_to(value.offset, value.index.shape).reshape(-1)
            bias = weights @ offset + (0 if bias is None else bias)
        cells = np.zeros((len(weights), math.prod(self.grid(value))))
        np.add.at(cells.T, flat, (weights * scale).T)
        channels = self.tensors[value.tensor].channels
        product = Product(
            source=value.tensor,
            first=0,
            channels=channels,
            weights=cells[:, :, None, None],
            gemm=True,
            views=value.views,
        )
        equation = Equation(
            target=None,
            first=0,
            channels=len(weights),
            height=1,
            width=1,
            products=(product,),
            bias=bias,
        )
        index = np.arange(len(weights)).reshape(shape)
        return Open(equation=equation, index=index, size=(1, 1))

    def flat_weights(self, equation: Equation) -> Equation:
        """Give gemm weights the final shape of their source."""
        products = []
        for product in equation.products:
            if product.gemm:
                tensor = self.tensors[product.source]
                size = (tensor.height, tensor.width)
                if product.views:
                    size = (product.views[-1].height, product.views[-1].width)
                shape = (equation.channels, tensor.channels, *size)
                product = replace(
                    product, weights=product.weights.reshape(shape), channels=tensor.channels
                )
            products.append(product)
        return replace(equation, products=tuple(products))


def _stretched(pool: Pool, window: int) -> Pool:
    """Repeat positions until a pool has as many as every pool of its circuit."""
    if pool.positions == 1:
        return pool
    for eh in (1, 2, 4):
        ew = window // eh
        if eh >= pool.kh and ew >= pool.kw:
            return replace(pool, eh=eh, ew=ew)
    raise AssertionError("a pool of at most four positions fits")


# -- handlers: from a node to a value


def _gemm(low: _Lowering, node: Node) -> Value:
    if node.attributes.get("transA", 0):
        raise _Unsupported("transposes its first operand")
    weights = low.constant(node.inputs[1]) * node.attributes.get("alpha", 1.0)
    if not node.attributes.get("transB", 0):
        weights = weights.T
    bias = None
    if node.given(2):
        added = low.constant(node.inputs[2]) * node.attributes.get("beta", 1.0)
        bias = np.broadcast_to(added.reshape(-1), (len(weights),)).copy()
    return _contract(low, node, node.inputs[0], weights, bias)


def _matmul(low: _Lowering, node: Node) -> Value:
    left, right = node.inputs
    if low.is_constant(right):
        weights = low.constant(right)
        if weights.ndim == 1:
            weights = weights[:, None]
        if weights.ndim > 2 and weights.size != math.prod(weights.shape[-2:]):
            raise _Unsupported("multiplies by a stack of matrices")
        return _contract(low, node, left, weights.reshape(weights.shape[-2:]).T, None)
    if low.is_constant(left):
        weights = low.constant(left)
        if weights.ndim == 1:
            weights = weights[None]
        return _contract(low, node, right, weights, None)
    raise _Unsupported("multiplies two computed values")


def _contract(low: _Lowering, node: Node, name: str, weights: Array, bias: Array | None) -> Value:
    value = low.stored(name)
    shape = low.graph.shapes[node.output]
    if weights.ndim != 2 or value.index.size != weights.shape[1]:
        raise _Unsupported(
            f"multiplies {value.index.size // max(1, weights.shape[-1])} rows; one can be proved "
            "at a time (a batch is an option of the engine)"
        )
    return low.gemm(value, weights, bias, shape)


def _conv(low: _Lowering, node: Node) -> Value:
    value = low.stored(node.inputs[0])
    first, channels, height, width = low.image(value)
    weights = low.constant(node.inputs[1])
    if weights.ndim == 3:
        weights = weights[:, :, None]
    groups = node.attributes.get("group", 1)
    one = value.index.ndim == 3
    kernel, strides, dilations, padding, size = _window(
        node, (height, width), one=one, kernel=weights.shape[2:]
    )
    bias = low.constant(node.inputs[2]) if node.given(2) else None
    padded = _pads(padding, kernel, strides, dilations, size, (height, width))
    value = _without_offset(low, value, padded=padded)
    scale, offset = low.affine_of(value, low.grid(value)[0])
    if isinstance(scale, np.ndarray):
        scale = scale[first : first + channels].reshape(groups, 1, -1, 1, 1)
    outputs = len(weights)
    scaled = weights.reshape(groups, outputs // groups, *weights.shape[1:]) * scale
    scaled = scaled.reshape(weights.shape)
    if offset is not None:
        inner = offset[first : first + channels].reshape(groups, 1, -1, 1, 1)
        grouped = weights.reshape(groups, outputs // groups, *weights.shape[1:])
        shift = (grouped * inner).sum(axis=(2, 3, 4)).reshape(-1)
        bias = shift + (0 if bias is None else bias)
    equation = Equation(
        target=None,
        first=0,
        channels=outputs,
        height=size[0],
        width=size[1],
        groups=groups,
        products=(
            Product(
                source=value.tensor,
                first=first,
                channels=channels,
                weights=scaled,
                strides=strides,
                dilations=dilations,
                padding=padding,
                views=value.views,
            ),
        ),
        bias=bias,
    )
    index = np.arange(outputs * size[0] * size[1]).reshape(low.graph.shapes[node.output])
    return Open(equation=equation, index=index, size=size)


def _without_offset(low: _Lowering, value: Stored, *, padded: bool) -> Stored:
    """Return a value whose padding is really 0: an offset inside would not hold outside."""
    if not padded or not np.any(value.offset):
        return value
    if value.tensor == 0 and not value.views and low.absorb(value):
        return replace(value, scale=1.0, offset=0.0)
    return low.store(low.opened(value))


def _window(
    node: Node, have: Pair, *, one: bool, kernel: tuple[int, ...] | None = None
) -> tuple[Pair, Pair, Pair, Pair, Pair]:
    """Return kernel, strides, dilations, padding before, and the size of the result.

    With ``one`` spatial axis the height is 1.
    """
    attributes = node.attributes
    shape = tuple(attributes["kernel_shape"]) if kernel is None else kernel

    def pair(name: str, default: int) -> Pair:
        given = attributes.get(name, [default] * (1 if one else 2))
        return (default, *given)[-2:]  # type: ignore[return-value]

    window: Pair = (1, *shape)[-2:]  # type: ignore[assignment]
    strides, dilations = pair("strides", 1), pair("dilations", 1)
    pads = attributes.get("pads", [0, 0] if one else [0, 0, 0, 0])
    if one:
        pads = [0, pads[0], 0, pads[1]]
    reach = [d * (k - 1) + 1 for d, k in zip(dilations, window, strict=True)]
    automatic = attributes.get("auto_pad", b"NOTSET").decode()
    size, before = [], []
    for axis in range(2):
        if automatic in {"SAME_UPPER", "SAME_LOWER"}:
            out = -(-have[axis] // strides[axis])
            total = max(0, (out - 1) * strides[axis] + reach[axis] - have[axis])
            before.append((total + (automatic == "SAME_LOWER")) // 2)
            size.append(out)
            continue
        start, end = (0, 0) if automatic == "VALID" else (pads[axis], pads[axis + 2])
        if start < 0 or end < 0:
            raise _Unsupported("has negative padding")
        room = have[axis] + start + end - reach[axis]
        out = room // strides[axis] + 1
        if attributes.get("ceil_mode", 0) and room % strides[axis]:
            if node.kind == "AveragePool":
                raise _Unsupported("rounds its size up, so that its windows differ in size")
            out += out * strides[axis] < have[axis] + start
        before.append(start)
        size.append(out)
    numbers = [*window, *strides, *dilations, *before]
    if max(numbers) > MAX_BYTE:
        raise _Unsupported(f"has a kernel, stride, dilation or padding past {MAX_BYTE}")
    return (
        window,
        strides,
        dilations,
        (before[0], before[1]),
        (size[0], size[1]),
    )


def _pads(
    padding: Pair,
    kernel: Pair,
    strides: Pair,
    dilations: Pair,
    size: Pair,
    have: Pair,
) -> bool:
    """Return whether some window reaches outside."""
    return any(padding) or any(
        s * (out - 1) + d * (k - 1) >= end
        for s, out, d, k, end in zip(strides, size, dilations, kernel, have, strict=True)
    )


def _batch_normalisation(low: _Lowering, node: Node) -> Value:
    gain, bias, mean, variance = (low.constant(name) for name in node.inputs[1:5])
    slope = gain / np.sqrt(variance + node.attributes.get("epsilon", 1e-5))
    rank = len(low.graph.shapes[node.inputs[0]])
    shape = (1, -1, *[1] * (rank - 2))
    added = (bias - mean * slope).reshape(shape)
    return _affine(low, low.free(node.inputs[0]), slope.reshape(shape), added)


def _affine(low: _Lowering, value: Value, slope: Array | float, added: Array | float) -> Value:
    """Return ``slope * value + added``; arrays broadcast to the ONNX shape."""
    slope, added = _number(slope), _number(added)
    shape = value.index.shape
    for array in (slope, added):
        if isinstance(array, np.ndarray) and np.broadcast_shapes(array.shape, shape) != shape:
            raise _Unsupported("makes its value larger by broadcasting")
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


def _affine_open(low: _Lowering, value: Open, slope: Array | float, added: Array | float) -> Value:
    equation = value.equation
    grid = (equation.channels, *value.size)
    try:
        factors, offsets = (
            low.by_channel(np.asarray(array), value.index, grid[0], grid, rest)
            for array, rest in ((slope, 1.0), (added, 0.0))
        )
    except _Unsupported:
        value = low.store(value)
        return _affine(low, value, slope, added)
    bias = None if equation.bias is None else equation.bias * factors
    if not isinstance(added, float) or added:
        bias = offsets + (0 if bias is None else bias)
    products = tuple(
        replace(product, weights=product.weights * factors[:, None, None, None])
        for product in equation.products
    )
    return replace(value, equation=replace(equation, products=products, bias=bias))


def _same(array: Array) -> Array | float:
    return float(array.reshape(-1)[0]) if (array == array.reshape(-1)[0]).all() else array


def _number(array: Array | float) -> Array | float:
    return float(np.asarray(array).reshape(())) if np.size(array) == 1 else array


def _add(low: _Lowering, node: Node) -> Value:
    return _sum(low, node, 1.0)


def _sub(low: _Lowering, node: Node) -> Value:
    return _sum(low, node, -1.0)


def _sum(low: _Lowering, node: Node, sign: float) -> Value:
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


def _join(low: _Lowering, first: Value, second: Value) -> Value:
    """Return the sum of two computed values as one equation."""
    parts = [
        low.opened(v) if isinstance(v, Stored) else v if v.plain else low.opened(low.store(v))
        for v in (first, second)
    ]
    a, b = parts
    same = (a.equation.channels, a.size) == (b.equation.channels, b.size)
    if not same or a.index.shape != b.index.shape or (a.index != b.index).any():
        if a.index.size != b.index.size:
            raise _Unsupported("makes a value larger by broadcasting")
        a, b = (_vector(low, part) for part in parts)
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


def _vector(low: _Lowering, part: Open) -> Open:
    """Return a value whose elements are channels in order."""
    plain = np.arange(part.index.size)
    if part.size == (1, 1) and (part.index.reshape(-1) == plain).all():
        return part
    stored = low.store(part)
    return replace(low.selected(stored), index=plain.reshape(part.index.shape))


def _mul(low: _Lowering, node: Node) -> Value:
    left, right = node.inputs
    if low.is_constant(right):
        return _affine(low, low.free(left), low.constant(right), 0.0)
    if low.is_constant(left):
        return _affine(low, low.free(right), low.constant(left), 0.0)
    raise _Unsupported("multiplies two computed values")


def _div(low: _Lowering, node: Node) -> Value:
    return _affine(low, low.free(node.inputs[0]), 1.0 / low.constant(node.inputs[1]), 0.0)


def _neg(low: _Lowering, node: Node) -> Value:
    return _affine(low, low.free(node.inputs[0]), -1.0, 0.0)


def _activate(low: _Lowering, node: Node, activation: Activation) -> Value:
    value = low.free(node.inputs[0])
    if isinstance(value, Open) and value.activation != IDENTITY:
        if value.activation.kind == Kind.RELU and activation.kind == Kind.CLIP:
            low_end = max(0.0, activation.low)
            return replace(value, activation=replace(activation, low=low_end))
        value = low.store(value)
    if isinstance(value, Stored):
        nonnegative = value.tensor and low.tensors[value.tensor].activation.nonnegative
        if activation.kind == Kind.RELU and nonnegative and np.ndim(value.scale) == 0:
            if value.scale >= 0 and np.all(value.offset == 0):  # type: ignore[operator]
                return value
        value = low.opened(value)
    return replace(value, activation=activation)


def _relu(low: _Lowering, node: Node) -> Value:
    return _activate(low, node, Activation(kind=Kind.RELU))


def _clip(low: _Lowering, node: Node) -> Value:
    ends = [-math.inf, math.inf]
    for i, name in enumerate(("min", "max")):
        if name in node.attributes:
            ends[i] = float(node.attributes[name])
        elif node.given(i + 1):
            ends[i] = float(low.constant(node.inputs[i + 1]).reshape(()))
    # What float32 cannot exceed clips nothing.
    low_end, high_end = (e if abs(e) < 3e38 else math.copysign(math.inf, e) for e in ends)
    if not low_end <= 0 <= high_end or low_end == high_end:
        raise _Unsupported(f"clips to [{low_end:g}, {high_end:g}], which leaves out 0")
    if math.isinf(low_end) and math.isinf(high_end):
        return low.values[node.inputs[0]]
    if low_end == 0 and math.isinf(high_end):
        return _relu(low, node)
    if math.isinf(low_end) or math.isinf(high_end):
        raise _Unsupported(f"clips at one end only, to [{low_end:g}, {high_end:g}]")
    return _activate(low, node, Activation(kind=Kind.CLIP, low=low_end, high=high_end))


def _sigmoid(low: _Lowering, node: Node) -> Value:
    return _activate(low, node, Activation(kind=Kind.SIGMOID))


def _tanh(low: _Lowering, node: Node) -> Value:
    return _activate(low, node, Activation(kind=Kind.TANH))


def _silu(low: _Lowering, node: Node) -> Value:
    return _activate(low, node, Activation(kind=Kind.SILU))


def _gelu(low: _Lowering, node: Node) -> Value:
    approximate = node.attributes.get("approximate", b"none")
    kind = Kind.GELU_TANH if approximate == b"tanh" else Kind.GELU
    return _activate(low, node, Activation(kind=kind))


def _leaky_relu(low: _Lowering, node: Node) -> Value:
    slope = float(node.attributes.get("alpha", 0.01))
    return _activate(low, node, Activation(kind=Kind.LEAKY_RELU, slope=slope))


def _max_pool(low: _Lowering, node: Node) -> Value:
    if any(d != 1 for d in node.attributes.get("dilations", [1])):
        raise _Unsupported("has dilations")
    value = low.free(node.inputs[0])
    if isinstance(value, Open) and not (
        value.equation.pool.positions == 1 and value.activation.monotone and _straight(value)
    ):
        value = low.store(value)
    have = value.size if isinstance(value, Open) else low.image(value)[2:]
    one = value.index.ndim == 3
    window, strides, _, padding, size = _window(node, have, one=one)
    pool = Pool(
        kh=window[0], kw=window[1], sh=strides[0], sw=strides[1], ph=padding[0], pw=padding[1]
    )
    shape = low.graph.shapes[node.output]
    if window == (1, 1):
        raise _Unsupported("has a window of one position")
    if padding[0] >= window[0] or padding[1] >= window[1]:
        raise _Unsupported("has padding as large as its window")
    steps = [(pool, size)]
    if math.prod(window) > MAX_WINDOW:
        if max(window) > MAX_WINDOW:
            raise _Unsupported(
                f"has the window {list(window)}; an axis has at most {MAX_WINDOW} positions"
            )
        steps = [
            (replace(pool, kh=1, sh=1, ph=0), (have[0], size[1])),
            (replace(pool, kw=1, sw=1, pw=0), size),
        ]
    for step, made in steps:
        value = _pooled(low, value, step, made)
    return replace(value, index=value.index.reshape(shape))


def _straight(value: Open) -> bool:
    channels, (height, width) = value.equation.channels, value.size
    grid = {(1, channels, height, width), (1, channels, width) if height == 1 else ()}
    plain = np.arange(value.index.size).reshape(value.index.shape)
    return value.index.shape in grid and bool((value.index == plain).all())


def _pooled(low: _Lowering, value: Value, pool: Pool, size: Pair) -> Value:
    stretched = replace(pool, eh=pool.kh, ew=pool.kw)  # to the circuit's window later
    if isinstance(value, Open) and value.plain:
        # A pool may join whatever activation follows or precedes it, as long as that is monotone.
        return _with_pool(value, stretched, size)
    if isinstance(value, Open) and value.equation.pool.positions == 1:
        return _with_pool(value, stretched, size)
    stored = low.store(value) if isinstance(value, Open) else value
    uniform = isinstance(stored.scale, float) and stored.scale > 0
    if not uniform or stored.views or stored.tensor == 0:
        return _with_pool(low.opened(stored), stretched, size)
    tensor = low.tensors[stored.tensor]
    first, channels, _, _ = low.image(stored)
    equation = Equation(
        target=None,
        first=0,
        channels=channels,
        height=tensor.height,
        width=tensor.width,
        scaled=(Scaled(source=stored.tensor, first=first, factor=1.0, fixed=True),),
        pool=stretched,
    )
    target = low.emit(
        equation,
        FloatTensor(channels=channels, height=size[0], width=size[1], same_as=stored.tensor),
    )
    index = np.arange(channels * math.prod(size)).reshape(1, channels, *size)
    offset = stored.offset
    if isinstance(offset, np.ndarray):
        by_channel = low.by_channel(offset, stored.index, tensor.channels, low.grid(stored), 0.0)[
            first : first + channels
        ]
        offset = np.broadcast_to(by_channel.reshape(1, -1, 1, 1), index.shape)
    return replace(stored, tensor=target, index=index, offset=offset)


def _with_pool(value: Open, pool: Pool, size: Pair) -> Open:
    channels = value.equation.channels
    index = np.arange(channels * math.prod(size)).reshape(1, channels, *size)
    return replace(value, equation=replace(value.equation, pool=pool), size=size, index=index)


def _average_pool(low: _Lowering, node: Node) -> Value:
    if any(d != 1 for d in node.attributes.get("dilations", [1])):
        raise _Unsupported("has dilations")
    value = low.stored(node.inputs[0])
    _, _, height, width = low.image(value)
    one = value.index.ndim == 3
    window, strides, dilations, padding, size = _window(node, (height, width), one=one)
    padded = _pads(padding, window, strides, dilations, size, (height, width))
    if padded and not node.attributes.get("count_include_pad", 0):
        raise _Unsupported("has padding that its divisor leaves out (count_include_pad = 0)")
    value = _without_offset(low, value, padded=padded)
    view = View(
        kh=window[0],
        kw=window[1],
        sh=strides[0],
        sw=strides[1],
        ph=padding[0],
        pw=padding[1],
        height=size[0],
        width=size[1],
    )
    return _viewed(low, value, view, low.graph.shapes[node.output])


def _global_average_pool(low: _Lowering, node: Node) -> Value:
    value = low.stored(node.inputs[0])
    _, _, height, width = low.image(value)
    if max(height, width) > MAX_BYTE:
        raise _Unsupported(f"has a window past {MAX_BYTE}")
    view = View(kh=height, kw=width, sh=1, sw=1, ph=0, pw=0, height=1, width=1)
    return _viewed(low, value, view, low.graph.shapes[node.output])


def _reduce_mean(low: _Lowering, node: Node) -> Value:
    shape = low.graph.shapes[node.inputs[0]]
    axes = node.attributes.get("axes")
    if axes is None and node.given(1):
        axes = low.constant(node.inputs[1]).astype(int).tolist()
    wanted = list(range(2, len(shape)))
    if axes is None or sorted(axis % len(shape) for axis in axes) != wanted or not wanted:
        raise _Unsupported("averages over other axes than those of an image")
    return _global_average_pool(low, node)


def _viewed(low: _Lowering, value: Stored, view: View, shape: tuple[int, ...]) -> Stored:
    first, channels, _, _ = low.image(value)
    scale, offset = low.affine_of(value, low.grid(value)[0])
    area = view.height * view.width
    full = (1, channels, view.height, view.width)
    index = (first * area + np.arange(channels * area)).reshape(full)
    if isinstance(scale, np.ndarray):
        scale = np.broadcast_to(scale[first : first + channels].reshape(1, -1, 1, 1), full)
        scale = scale.reshape(shape)
    made: Array | float = 0.0
    if offset is not None:
        by_channel = offset[first : first + channels].reshape(1, -1, 1, 1)
        made = np.broadcast_to(by_channel, full).reshape(shape)
    return Stored(
        tensor=value.tensor,
        index=index.reshape(shape),
        views=(*value.views, view),
        scale=scale / (view.kh * view.kw),
        offset=made,
    )


def _concat(low: _Lowering, node: Node) -> Value:
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
    if not any(isinstance(part, Open) for part in parts) and all(
        s.tensor and low.tensors[s.tensor].activation.nonnegative and _positive(s)
        for s in parts
        if isinstance(s, Stored)
    ):
        activation = Activation(kind=Kind.RELU)
    opened = [low.opened(part) if isinstance(part, Stored) else part for part in parts]
    if len({part.size for part in opened}) > 1:
        opened = [
            _vector(low, part) if part.activation == IDENTITY else low.selected(low.store(part))
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


def _positive(value: Stored) -> bool:
    return isinstance(value.scale, float) and value.scale > 0 and not np.any(value.offset)


def _concat_indices(parts: list[Stored], axis: int) -> Stored:
    def whole(name: str) -> Array | float:
        given = [getattr(part, name) for part in parts]
        if all(isinstance(one, float) and one == given[0] for one in given):
            return float(given[0])
        arrays = [np.broadcast_to(g, p.index.shape) for g, p in zip(given, parts, strict=True)]
        return np.concatenate(arrays, axis=axis)

    index = np.concatenate([part.index for part in parts], axis=axis)
    return replace(parts[0], index=index, scale=whole("scale"), offset=whole("offset"))


def _layout(change: Callable[[_Lowering, Node, Array], Array]) -> Callable[..., Value]:
    """Return a handler for an operator that moves elements and changes none."""

    def handle(low: _Lowering, node: Node) -> Value:
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


def _reshape(low: _Lowering, node: Node, array: Array) -> Array:
    return array.reshape(low.graph.shapes[node.output])


def _transpose(low: _Lowering, node: Node, array: Array) -> Array:
    return np.transpose(array, node.attributes.get("perm"))


def _slice(low: _Lowering, node: Node, array: Array) -> Array:
    if node.given(1):
        given = [
            low.constant(name).astype(int).tolist() if name else None for name in node.inputs[1:]
        ]
    else:
        given = [node.attributes.get(name) for name in ("starts", "ends", "axes")]
    starts, ends, axes, steps = (*given, None, None)[:4]
    axes = axes or list(range(len(starts)))
    steps = steps or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        # ONNX asks for the whole axis backwards with an end before -size, which Python wraps.
        stop = None if step < 0 and end < -array.shape[axis] else end
        cut = [slice(None)] * array.ndim
        cut[axis] = slice(start, stop, step)
        array = array[tuple(cut)]
    return array


def _gather(low: _Lowering, node: Node, array: Array) -> Array:
    chosen = low.constant(node.inputs[1]).astype(int)
    return np.take(array, chosen, axis=node.attributes.get("axis", 0))


_HANDLERS: dict[str, Callable[[_Lowering, Node], Value]] = {
    "Add": _add,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_normalisation,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "Div": _div,
    "Flatten": _layout(_reshape),
    "Gather": _layout(_gather),
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_average_pool,
    "LeakyRelu": _leaky_relu,
    "MatMul": _matmul,
    "MaxPool": _max_pool,
    "Mul": _mul,
    "Neg": _neg,
    "ReduceMean": _reduce_mean,
    "Relu": _relu,
    "Reshape": _layout(_reshape),
    "Sigmoid": _sigmoid,
    "Silu": _silu,
    "Slice": _layout(_slice),
    "Squeeze": _layout(_reshape),
    "Sub": _sub,
    "Tanh": _tanh,
    "Transpose": _layout(_transpose),
    "Unsqueeze": _layout(_reshape),
}
