"""Values on their way from ONNX to equations, and the network that grows with them.

A value is either *open*, accumulators that may still take a pool, an activation or more terms, or
*stored* in a tensor. Both carry an index: an array of the ONNX shape that says which cell of the
``(channels, height, width)`` grid holds each element. Reshape, Transpose and Slice touch nothing
but the index; whoever reads the value permutes its weights accordingly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from zkserve.engines.native.compiler.graph import Graph, Node
from zkserve.engines.native.compiler.network import (
    IDENTITY,
    Activation,
    FloatArray,
    FloatTensor,
    Network,
)
from zkserve.engines.native.compiler.program import Array, Equation, Product, Scaled
from zkserve.engines.native.protocol.description import Pool, View

Index = NDArray[np.int64]
Pair = tuple[int, int]
MAX_WINDOW = 4
"""Positions of one max pooling."""
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


class Unsupported(Exception):
    """What a node asks that no equation does, as the end of a sentence."""


Value = Stored | Open


@dataclass
class Builder:
    """A network under construction and the values of the graph so far."""

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
        start = 0
        for name, shape in self.graph.inputs:
            size = math.prod(shape)
            index = np.arange(start, start + size).reshape(shape)
            self.values[name] = Stored(tensor=0, index=index)
            start += size

    # -- reading

    def constant(self, name: str) -> Array:
        """Return a constant as real numbers."""
        if name not in self.graph.constants:
            raise Unsupported("needs a constant where it has a computed value")
        return self.graph.constants[name].astype(np.float64)

    def is_constant(self, name: str) -> bool:
        """Whether a value does not depend on the input."""
        return name in self.graph.constants

    def computed(self, name: str) -> Value:
        """Return a value that depends on the input, as it is."""
        if self.is_constant(name):
            raise Unsupported("has a constant where it needs a computed value")
        return self.values[name]

    def stored(self, name: str) -> Stored:
        """Return a value in a tensor, stored now if it was open."""
        value = self.computed(name)
        if isinstance(value, Open):
            value = self.store(value)
            self.values[name] = value
        return value

    def free(self, name: str) -> Value:
        """Return a value that may be changed: open only if nobody else reads it."""
        return self.computed(name) if self.uses[name] == 1 else self.stored(name)

    def grid(self, value: Stored) -> tuple[int, int, int]:
        """Return channels, height and width of what a value's index counts through."""
        tensor = self.tensors[value.tensor]
        if value.views:
            return tensor.channels, value.views[-1].height, value.views[-1].width
        return tensor.channels, tensor.height, tensor.width

    def nonnegative(self, value: Stored) -> bool:
        """Whether a stored value is known never to be negative."""
        plain = isinstance(value.scale, float) and value.scale > 0 and not np.any(value.offset)
        return plain and value.tensor > 0 and self.tensors[value.tensor].activation.nonnegative

    # -- storing

    def store(self, value: Open) -> Stored:
        """Requantise accumulators into a tensor of their own."""
        height, width = value.size
        tensor = FloatTensor(
            channels=value.equation.channels,
            height=height,
            width=width,
            activation=value.activation,
        )
        return Stored(tensor=self.emit(value.equation, tensor), index=value.index)

    def emit(self, equation: Equation, tensor: FloatTensor) -> int:
        """Add an equation and the tensor it fills; return the tensor's number."""
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
        # The unit of the input is public, and so are the factors of scaled terms: constants of the
        # graph that such a factor would tell go into weights.
        told = value.tensor == 0 and (np.any(scale != 1.0) or offset is not None)
        if isinstance(scale, float) and scale > 0 and not told:
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
        rows = cells.reshape(channels, -1)
        empty = np.isnan(rows)
        one = np.where(empty, -np.inf, rows).max(axis=1)
        one = np.asarray(np.where(empty.all(axis=1), rest, one))
        if not ((rows == one[:, None]) | empty).all():
            raise Unsupported("has a constant that differs within a channel")
        return one

    # -- images

    def image(self, value: Stored) -> tuple[int, int, int, int]:
        """Return first channel, channels, height and width; axes are (1, channels, spatial…)."""
        shape = value.index.shape
        if len(shape) not in {3, 4} or shape[0] != 1:
            raise Unsupported(f"needs an image of shape (1, channels, …), got {list(shape)}")
        channels, spatial = shape[1], shape[2:]
        height, width = (1, *spatial)[-2:]
        if value.tensor == 0 and not self.shaped and not value.views:
            self.shape_input(height, width)
        grid = self.grid(value)
        start = int(value.index.reshape(-1)[0])
        plain = np.arange(start, start + value.index.size).reshape(shape)
        if (height, width) != grid[1:] or start % (height * width) or (plain != value.index).any():
            raise Unsupported("reads an image whose rows and columns were mixed by a reshape")
        return start // (height * width), channels, height, width

    def shape_input(self, height: int, width: int) -> None:
        """Take the whole input as an image of this size."""
        if self.elements % (height * width):
            raise Unsupported("reads a part of the input that is no image of its own")
        channels = self.elements // (height * width)
        self.tensors[0] = FloatTensor(channels=channels, height=height, width=width)
        self.shaped = True

    # -- the end

    def finish(self) -> Network:
        """Return the network once every node is done."""
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
        return Network(
            tensors=tuple(self.tensors),
            equations=tuple(self.flat_weights(equation) for equation in self.equations),
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
            raise Unsupported("leaves the elements in an order that no equation reads")
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


def same(array: Array) -> Array | float:
    """Return the one number that an array repeats, or the array."""
    return float(array.reshape(-1)[0]) if (array == array.reshape(-1)[0]).all() else array


Handlers = dict[str, Callable[[Builder, Node], Value]]
"""Operators by name: from a node to a value."""
