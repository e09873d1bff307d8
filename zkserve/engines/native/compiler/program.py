"""Integer programs: what a native circuit computes, exactly.

A program is the network of ``docs/native-protocol.md``, section 3, with its weights; how its cells
are laid out is another matter: :mod:`zkserve.engines.native.compiler.layout`. :meth:`Program.run`
is the reference for what every prover must compute: NumPy, exact, without overflow, because
:meth:`Program.check` bounds every accumulator from the weights' L1 norms first.

The same equations with real weights make a float network:
:mod:`zkserve.engines.native.compiler.network`.

Arrays of activations have shape ``(samples, channels, height, width)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zkserve.engines.native.protocol.description import NO_POOL, OutputKind, Pool, View
from zkserve.errors import ModelRejected

Array = NDArray[Any]
IntArray = NDArray[np.int64]

MAX_MULTIPLIER = (1 << 16) - 1
MAX_OUTPUT = 1 << 62
EXACT_FLOAT = 1 << 53
_CHUNK_CELLS = 1 << 23
"""Cells of unfolded windows held at once."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Product:
    """Weights times some channels of a source.

    ``weights`` has shape ``(outputs, channels / groups, kh, kw)``; of a gemm, which reads
    everything, ``(outputs, channels, height, width)`` of the source as its views show it.
    """

    source: int
    first: int
    channels: int
    weights: Array
    gemm: bool = False
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    views: tuple[View, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Scaled:
    """A positive number times some channels of a source; ``fixed`` ones are part of the circuit."""

    source: int
    first: int
    factor: float
    fixed: bool = False
    views: tuple[View, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Equation:
    """Accumulators of shape ``(channels, height, width)`` and the tensor they go to.

    ``target`` is None where the accumulators are the output. They fill the target from channel
    ``first`` on, pooled by ``pool``.
    """

    target: int | None
    first: int
    channels: int
    height: int
    width: int
    pool: Pool = NO_POOL
    groups: int = 1
    products: tuple[Product, ...] = ()
    scaled: tuple[Scaled, ...] = ()
    bias: Array | None = None

    @property
    def terms(self) -> tuple[Product | Scaled, ...]:
        """All that is summed, the bias apart."""
        return (*self.products, *self.scaled)

    def accumulate(self, values: Sequence[Array]) -> Array:
        """Return the accumulators from the values (cells less zero points) of all tensors."""
        some = values[self.terms[0].source]
        out = np.zeros((len(some), self.channels, self.height, self.width), some.dtype)
        if self.bias is not None:
            out += self.bias.astype(out.dtype)[:, None, None]
        for product in self.products:
            source = values[product.source][:, product.first : product.first + product.channels]
            out += _product(product, self.groups, see(source, product.views), out.shape)
        for term in self.scaled:
            source = values[term.source][:, term.first : term.first + self.channels]
            out += see(source, term.views) * out.dtype.type(term.factor)
        return out

    def maxima(self, accumulators: Array, height: int, width: int) -> Array:
        """Return the pooled accumulators, of the target's size."""
        if self.pool.positions == 1:
            return accumulators
        p = self.pool
        rows, columns = (
            np.clip(stride * np.arange(size)[:, None] + np.arange(window) - pad, 0, end - 1)
            for stride, size, window, pad, end in (
                (p.sh, height, p.kh, p.ph, self.height),
                (p.sw, width, p.kw, p.pw, self.width),
            )
        )
        pooled: Array = accumulators[:, :, rows].max(axis=3)[:, :, :, columns].max(axis=4)
        return pooled


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """Cells of shape ``(channels, height, width)`` that stand for ``cell - zero``."""

    channels: int
    height: int
    width: int
    zero: int
    function: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Program:
    """A quantised network; tensor 0 is the input.

    ``multipliers`` has one entry an equation: one integer, or one for each channel; none for raw
    outputs. The widths are in bytes.
    """

    activation_bytes: int
    input_bytes: int
    tensors: tuple[Tensor, ...]
    equations: tuple[Equation, ...]
    multipliers: tuple[tuple[int, ...], ...]
    functions: tuple[bytes, ...] = ()

    @property
    def shift(self) -> int:
        """Bits that requantisation cuts off, ``S``."""
        return 8 * (self.activation_bytes + 1)

    @property
    def top(self) -> int:
        """The largest activation."""
        return (1 << 8 * self.activation_bytes) - 1

    @property
    def output_kind(self) -> OutputKind:
        """Whether the last equation's accumulators or its target are the output."""
        raw = self.equations[-1].target is None
        return OutputKind.RAW if raw else OutputKind.REQUANTISED

    def largest(self, tensor: int, views: Sequence[View] = ()) -> int:
        """Return ``vmax``: no value of a tensor, seen through views, is larger in magnitude."""
        top = self.top if tensor else (1 << 8 * self.input_bytes) - 1
        zero = self.tensors[tensor].zero
        return max(zero, top - zero) * prod(view.kh * view.kw for view in views)

    def bounds(self, equation: Equation) -> list[int]:
        """Return ``T``, for each channel the largest magnitude that an accumulator can have."""
        totals = np.zeros(equation.channels, object)
        if equation.bias is not None:
            totals += np.abs(equation.bias).astype(object)
        for product in equation.products:
            norms = np.abs(product.weights.reshape(equation.channels, -1)).sum(axis=1)
            totals += norms.astype(object) * self.largest(product.source, product.views)
        for term in equation.scaled:
            totals += int(term.factor) * self.largest(term.source, term.views)
        return [int(total) for total in totals]

    def limit(self, equation: Equation, multiplier: int) -> int:
        """Return the largest ``T`` that section 3 allows a channel with this multiplier."""
        if equation.target is None:
            return MAX_OUTPUT - 1
        zero = self.tensors[equation.target].zero
        bits = 8 * (2 * self.activation_bytes + 2)
        shifted = (1 << bits - 1) - (1 << self.shift - 1) - (zero << self.shift) - 1
        limit = shifted // multiplier
        if equation.pool.positions > 1:
            limit = min(limit, ((1 << 8 * (2 * self.activation_bytes + 1)) - 1) // 2)
        return limit

    def check(self) -> None:
        """Refuse a program in which some input could overflow.

        Raises:
            ModelRejected: it names the equation, its bound and the limit.

        """
        for number, equation in enumerate(self.equations):
            multipliers = self.multipliers[number] or (1,)
            if not all(1 <= m <= MAX_MULTIPLIER for m in multipliers):
                raise ModelRejected(
                    f"Multipliers run from 1 to {MAX_MULTIPLIER}; equation {number} has "
                    f"{min(multipliers)} to {max(multipliers)}."
                )
            bounds = self.bounds(equation)
            for channel, bound in enumerate(bounds):
                multiplier = multipliers[channel % len(multipliers)]
                if bound > (limit := self.limit(equation, multiplier)):
                    raise ModelRejected(
                        f"Channel {channel} of equation {number} can reach {bound}; at most "
                        f"{limit} may be reached with multiplier {multiplier}.",
                        remedy="Scale its weights down.",
                    )

    def run(self, inputs: Array) -> IntArray:
        """Return the outputs, shape ``(samples, outputs)``, each sample's in row-major order.

        ``inputs`` holds cells of the input tensor, shape ``(samples, channels, height, width)``.

        Raises:
            ModelRejected: see :meth:`check`.
            ValueError: the inputs have another shape or range.

        """
        return self.trace(inputs)[1]

    def trace(self, inputs: Array) -> tuple[list[Array], IntArray]:
        """Return the cells of every tensor, and the outputs; otherwise like :meth:`run`."""
        self.check()
        first = self.tensors[0]
        if inputs.shape[1:] != (first.channels, first.height, first.width):
            raise ValueError(
                f"Inputs have shape {inputs.shape}; expected (samples, {first.channels}, "
                f"{first.height}, {first.width})."
            )
        if inputs.size and not 0 <= int(inputs.min()) <= int(inputs.max()) < 256**self.input_bytes:
            raise ValueError(f"Input cells are integers of {self.input_bytes} bytes.")
        # Sums of integers below 2^53 are exact in float64 in any order, and far faster.
        largest = max(max(self.bounds(equation)) for equation in self.equations)
        dtype = np.float64 if largest < EXACT_FLOAT else np.int64
        cells: list[Array] = [
            np.zeros((len(inputs), t.channels, t.height, t.width), np.int64) for t in self.tensors
        ]
        cells[0] = inputs.astype(np.int64)
        values = [cell.astype(dtype) for cell in cells]
        values[0] = values[0] - first.zero
        outputs = np.zeros((len(inputs), 0), np.int64)
        for equation, multipliers in zip(self.equations, self.multipliers, strict=True):
            accumulators = equation.accumulate(values)
            if equation.target is None:
                outputs = accumulators.astype(np.int64).reshape(len(inputs), -1)
                continue
            tensor = self.tensors[equation.target]
            pooled = equation.maxima(accumulators, tensor.height, tensor.width).astype(np.int64)
            made = self.requantise(pooled, multipliers, tensor)
            channels = slice(equation.first, equation.first + equation.channels)
            cells[equation.target][:, channels] = made
            values[equation.target][:, channels] = made - tensor.zero
            outputs = (cells[equation.target] - tensor.zero).reshape(len(inputs), -1)
        return cells, outputs

    def requantise(
        self, accumulators: IntArray, multipliers: Sequence[int], tensor: Tensor
    ) -> IntArray:
        """Return cells: rounded half up, clamped at both ends, through the tensor's function."""
        factors = np.array(multipliers, np.int64)[:, None, None]
        quotient = (factors * accumulators + (1 << self.shift - 1)) >> self.shift
        cells: IntArray = np.clip(quotient + tensor.zero, 0, self.top)
        if self.functions:
            cells = np.frombuffer(self.functions[tensor.function], np.uint8)[cells].astype(np.int64)
        return cells


def see(values: Array, views: Sequence[View]) -> Array:
    """Return the sums over windows that a chain of views shows; outside lies 0."""
    for view in views:
        size = (view.height, view.width)
        strides, padding = (view.sh, view.sw), (view.ph, view.pw)
        padded = _pad(values, (view.kh, view.kw), strides, (1, 1), padding, size)
        made: Any = sum(
            _tap(padded, (y, x), strides, size) for y in range(view.kh) for x in range(view.kw)
        )
        values = made
    return values


def _product(product: Product, groups: int, source: Array, shape: tuple[int, ...]) -> Array:
    samples, channels, height, width = shape
    if product.gemm:
        matrix = product.weights.reshape(channels, -1).astype(source.dtype)
        out: Array = source.reshape(samples, -1) @ matrix.T
        return out[:, :, None, None]
    kernel = product.weights.shape[2:]
    taps = kernel[0] * kernel[1]
    weights = product.weights.reshape(groups, channels // groups, -1).astype(source.dtype)
    per_sample = product.channels * taps * height * width
    step = max(1, _CHUNK_CELLS // per_sample)
    size = (height, width)
    parts = []
    for start in range(0, samples, step):
        part = source[start : start + step]
        padded = _pad(part, kernel, product.strides, product.dilations, product.padding, size)
        windows = np.stack(
            [
                _tap(
                    padded,
                    (y * product.dilations[0], x * product.dilations[1]),
                    product.strides,
                    size,
                )
                for y in range(kernel[0])
                for x in range(kernel[1])
            ],
            axis=2,
        )
        windows = windows.reshape(len(part), groups, -1, height * width)
        parts.append((weights @ windows).reshape(len(part), channels, height, width))
    return np.concatenate(parts)


def _pad(
    values: Array,
    kernel: tuple[int, ...],
    strides: tuple[int, int],
    dilations: tuple[int, int],
    padding: tuple[int, int],
    size: tuple[int, int],
) -> Array:
    ends = [
        max(0, s * (out - 1) + d * (k - 1) + 1 - before - have)
        for s, out, d, k, before, have in zip(
            strides, size, dilations, kernel, padding, values.shape[2:], strict=True
        )
    ]
    spatial = list(zip(padding, ends, strict=True))
    return np.pad(values, [(0, 0), (0, 0), *spatial])


def _tap(
    padded: Array, at: tuple[int, int], strides: tuple[int, int], size: tuple[int, int]
) -> Array:
    y, x = at
    return padded[
        :,
        :,
        y : y + strides[0] * (size[0] - 1) + 1 : strides[0],
        x : x + strides[1] * (size[1] - 1) + 1 : strides[1],
    ]
