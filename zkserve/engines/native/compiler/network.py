"""Float networks in the shape of integer programs: what lowering makes and quantisation reads."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from zkserve.engines.native.compiler.program import Array, Equation

FloatArray = NDArray[np.float64]
_BATCH_CELLS = 1 << 22
"""Activations held at once while a network runs."""


class Kind(StrEnum):
    """What is done to a sum before it is stored."""

    IDENTITY = "identity"
    RELU = "relu"
    CLIP = "clip"
    SIGMOID = "sigmoid"
    TANH = "tanh"
    GELU = "gelu"
    GELU_TANH = "gelu-tanh"
    SILU = "silu"
    LEAKY_RELU = "leaky-relu"


@dataclass(frozen=True, kw_only=True)
class Activation:
    """A function of one real number; ``low`` and ``high`` clip, ``slope`` is LeakyRelu's."""

    kind: Kind = Kind.IDENTITY
    low: float = -math.inf
    high: float = math.inf
    slope: float = 0.0

    @property
    def tabulated(self) -> bool:
        """Whether it takes a table; the others are clamps."""
        return self.kind not in {Kind.IDENTITY, Kind.RELU, Kind.CLIP}

    @property
    def monotone(self) -> bool:
        """Whether the maximum may be taken before it instead of after it."""
        if self.kind == Kind.LEAKY_RELU:
            return self.slope >= 0
        return self.kind not in {Kind.GELU, Kind.GELU_TANH, Kind.SILU}

    @property
    def nonnegative(self) -> bool:
        """Whether no result is negative."""
        return self.kind in {Kind.RELU, Kind.SIGMOID} or (self.kind == Kind.CLIP and self.low >= 0)

    def __call__(self, x: Array) -> Array:
        """Apply it to every element."""
        match self.kind:
            case Kind.IDENTITY:
                return x
            case Kind.RELU:
                return np.asarray(np.maximum(x, 0))
            case Kind.CLIP:
                return np.asarray(np.clip(x, self.low, self.high))
            case Kind.SIGMOID:
                return _sigmoid(x)
            case Kind.TANH:
                return np.asarray(np.tanh(x))
            case Kind.GELU:
                return np.asarray(x * 0.5 * (1 + _erf(x / math.sqrt(2))))
            case Kind.GELU_TANH:
                inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
                return np.asarray(0.5 * x * (1 + np.tanh(inner)))
            case Kind.SILU:
                return np.asarray(x * _sigmoid(x))
            case Kind.LEAKY_RELU:
                return np.where(x > 0, x, self.slope * x)


IDENTITY = Activation()


@dataclass(frozen=True, kw_only=True)
class FloatTensor:
    """A stored tensor. ``same_as`` names one whose quantisation it must share, value by value."""

    channels: int
    height: int
    width: int
    activation: Activation = IDENTITY
    same_as: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """Equations with real weights; tensor 0 is the input.

    The model's output is ``output_scale`` times what the last equation makes: its accumulators or,
    where it has a target, that tensor.
    """

    tensors: tuple[FloatTensor, ...]
    equations: tuple[Equation, ...]
    output_scale: float = 1.0

    def batches(self, inputs: Array) -> Iterator[list[tuple[Array, Array]]]:
        """Yield for each batch of inputs every tensor's values, before and after its activation.

        ``inputs`` has shape ``(samples, elements)``. The last pair is that of the output where the
        last equation has no target.
        """
        cells = sum(t.channels * t.height * t.width for t in self.tensors)
        step = max(1, _BATCH_CELLS // cells)
        for start in range(0, len(inputs), step):
            yield self._run(inputs[start : start + step].astype(np.float64))

    def run(self, inputs: Array) -> Array:
        """Return the model's outputs, shape ``(samples, outputs)``."""
        rows = [batch[-1][1].reshape(len(batch[-1][1]), -1) for batch in self.batches(inputs)]
        return np.concatenate(rows) * self.output_scale

    def _run(self, inputs: FloatArray) -> list[tuple[Array, Array]]:
        size = (self.tensors[0].channels, self.tensors[0].height, self.tensors[0].width)
        before = [np.zeros((len(inputs), t.channels, t.height, t.width)) for t in self.tensors]
        before[0] = inputs.reshape(-1, *size)
        after = list(before)
        for equation in self.equations:
            sums = equation.accumulate(after)
            if equation.target is None:
                before.append(sums)
                after.append(sums)
                continue
            tensor = self.tensors[equation.target]
            channels = slice(equation.first, equation.first + equation.channels)
            pooled = equation.maxima(sums, tensor.height, tensor.width)
            before[equation.target][:, channels] = pooled
            after[equation.target] = tensor.activation(before[equation.target])
        return list(zip(before, after, strict=True))


def _sigmoid(x: Array) -> Array:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)))


def _erf(x: Array) -> Array:
    return np.asarray(np.vectorize(math.erf, otypes=[np.float64])(x))
