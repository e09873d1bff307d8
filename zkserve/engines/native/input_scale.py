"""How a model's input becomes cells: one scale for an image, one for each column of a table."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from zkserve.engines.native.compiler.network import FloatArray, Network
from zkserve.engines.native.compiler.program import Array, Equation

_MARGIN = {1: 0.1, 2: 2.0}
"""Room on either side of the calibrated range for values of so many bytes, as a part of it.

Inputs past it are refused. Values on a grid get none: it has ends of its own.
"""
_GRID_ERROR = 0.02
"""How far, in steps, a value may lie from a grid on which it is said to lie."""
_END_BITS = 4
"""Ends of ranges are rounded outwards to multiples of the power of two that is a sixteenth to an
eighth of the range: they are public, and the calibration samples are not.
"""
_COARSEST = 2.0**-20
"""A step is no smaller than this part of the largest value, so that float32 tells steps apart."""


@dataclass(frozen=True, kw_only=True, eq=False)
class InputScale:
    """Cell ``X`` of the input tensor stands for ``steps * (X - zero) + offsets`` in the network.

    ``steps`` and ``offsets`` have one entry a cell. ``unit`` is what a cell less its zero point is
    worth to the equations that :meth:`fold` returns. The model's own input is ``(X - zeros) *
    scales``, each of one entry or one a cell.
    """

    bytes: int
    zero: int
    unit: float
    steps: FloatArray
    offsets: FloatArray
    scales: tuple[float, ...]
    zeros: tuple[float, ...]

    def fold(self, network: Network) -> Network:
        """Return a network whose tensor 0 holds ``unit * (X - zero)``."""
        if not self.offsets.any() and (self.steps == self.unit).all():
            return network
        first = network.tensors[0]
        shape = (1, first.channels, first.height, first.width)
        offsets = [self.offsets.reshape(shape)]
        steps = self.steps.reshape(shape) / self.unit
        return replace(
            network,
            equations=tuple(_folded(one, steps, offsets) for one in network.equations),
        )


def choose(network: Network, samples: Array, size: int) -> InputScale:
    """Return the scales of the input from samples of shape ``(samples, elements)``.

    ``size`` is the bytes of a value: 1, 2, or 0 to take 2 for tables off any grid, else 1.
    """
    values = samples.astype(np.float64)
    readers = [
        product
        for equation in network.equations
        for product in equation.products
        if product.source == 0
    ]
    others = any(term.source == 0 for e in network.equations for term in e.scaled)
    columns = not others and all(product.gemm and not product.views for product in readers)
    padded = any(_reaches_outside(network, equation) for equation in network.equations)
    grid = _grid(values)
    width = size or (2 if columns and grid is None else 1)
    top = (1 << 8 * width) - 1
    elements = values.shape[1]
    axis = 0 if columns and (width == 2 or grid is None) else None
    low = np.broadcast_to(values.min(axis=axis), (elements,)).astype(np.float64)
    high = np.broadcast_to(values.max(axis=axis), (elements,)).astype(np.float64)
    on_grid = width == 1 and grid is not None
    if not on_grid:
        room = (high - low) * _MARGIN[width]
        # A column that never changes still tells small changes from none.
        room = np.where(high > low, room, np.maximum(np.abs(low), 1.0) / 2)
        signed = (low < 0) | (width == 2)
        low, high = _outwards(np.where(signed, low - room, np.maximum(low - room, 0)), high + room)
    if padded:
        zero, step = _zero_point(float(low[0]), float(high[0]), width, grid)
        steps, offsets, unit = np.full(elements, step), np.zeros(elements), step
    else:
        zero, unit = (top + 1) // 2, 1.0
        if on_grid and grid is not None:
            steps = np.full(elements, grid)
            low = np.full(elements, _start(float(low[0]), float(high[0]), grid))
        else:
            largest = np.maximum(np.abs(low), np.abs(high))
            steps = np.maximum(np.maximum((high - low) / top, largest * _COARSEST), 2.0**-60)
        offsets = low + steps * zero
    return InputScale(
        bytes=width,
        zero=zero,
        unit=unit,
        steps=steps,
        offsets=offsets,
        scales=_short(steps),
        zeros=_short(zero - offsets / steps),
    )


def _outwards(low: FloatArray, high: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return ends no closer together, on a grid so coarse that they tell no value of a sample."""
    _, exponents = np.frexp(np.maximum(high - low, 2.0**-60))
    unit = np.ldexp(1.0, exponents - _END_BITS)
    return np.floor(low / unit) * unit, np.ceil(high / unit) * unit


def _start(low: float, high: float, step: float) -> float:
    """Return a first cell's value, on the samples' grid, that tells as little of them as it can.

    It is the coarsest multiple below them from which 256 cells still reach the highest.
    """
    first, cells = round(low / step), round((high - low) / step)
    phase = low - first * step
    for exponent in range(7, 0, -1):
        start = first >> exponent << exponent
        if first - start + cells <= 255:
            return start * step + phase
    return low


def _short(array: FloatArray) -> tuple[float, ...]:
    return tuple(float(x) for x in (array[:1] if (array == array[0]).all() else array))


def _grid(values: Array) -> float | None:
    """Return the step of a grid of at most 256 values on which all values lie, if there is one."""
    distinct = np.unique(values)
    # What differs by rounding only is one value.
    span = float(distinct[-1] - distinct[0])
    if span == 0:
        return None
    distinct = distinct[np.concatenate([[True], np.diff(distinct) > span * 1e-5])]
    if len(distinct) > 256:
        return None
    step = float(np.diff(distinct).min())
    places = (distinct - distinct[0]) / step
    step = span / max(1.0, float(np.rint(places[-1])))
    places = (distinct - distinct[0]) / step
    count = round(float(places[-1]))
    if count > 255 or np.abs(places - np.rint(places)).max() > _GRID_ERROR:
        return None
    return step / (255 // count)


def _zero_point(low: float, high: float, width: int, grid: float | None) -> tuple[int, float]:
    """Return the zero point and step of an input whose padding must be exactly 0.

    Zero points are multiples of a sixteenth of the range: they are part of the description.
    """
    top = (1 << 8 * width) - 1
    if low >= 0 and width == 1 and grid is not None and high <= top * grid * (1 + 1e-4):
        off = low / grid
        if abs(off - round(off)) < _GRID_ERROR:
            return 0, grid
    ends = _outwards(np.array(min(low, 0.0)), np.array(max(high, 0.0)))
    low, high = (float(end) for end in ends)
    if low >= 0:
        return 0, max(high, 2.0**-60) / top
    sixteenth = (top + 1) // 16
    candidates = range(sixteenth, top, sixteenth)
    step, zero = min((max(-low / zero, high / (top - zero)), zero) for zero in candidates)
    return zero, step


def _reaches_outside(network: Network, equation: Equation) -> bool:
    """Return whether some window over the input, weighted or summed, reaches past its edges."""
    first = network.tensors[0]
    for term in equation.terms:
        if term.source:
            continue
        size = (first.height, first.width)
        for view in term.views:
            after = (view.height, view.width)
            window, strides, pads = (view.kh, view.kw), (view.sh, view.sw), (view.ph, view.pw)
            if _outside(size, after, window, strides, (1, 1), pads):
                return True
            size = after
    for product in equation.products:
        if product.source or product.gemm:
            continue
        have = (first.height, first.width)
        if product.views:
            have = (product.views[-1].height, product.views[-1].width)
        made = (equation.height, equation.width)
        kernel = product.weights.shape[2:]
        if _outside(have, made, kernel, product.strides, product.dilations, product.padding):
            return True
    return False


def _outside(
    have: tuple[int, int],
    made: tuple[int, int],
    window: tuple[int, ...],
    strides: tuple[int, int],
    dilations: tuple[int, int],
    padding: tuple[int, int],
) -> bool:
    return any(padding) or any(
        s * (out - 1) + d * (k - 1) >= end
        for s, out, d, k, end in zip(strides, made, dilations, window, have, strict=True)
    )


def _folded(equation: Equation, steps: Array, offsets: list[Array]) -> Equation:
    """Scale what reads the input, and add what its offsets give to the bias."""
    of_input = [term for term in equation.terms if term.source == 0]
    if not of_input:
        return equation
    apart = replace(
        equation,
        bias=None,
        products=tuple(p for p in equation.products if p.source == 0),
        scaled=tuple(s for s in equation.scaled if s.source == 0),
    )
    # No window reaches outside, so each accumulator of a channel gets the same from the offsets.
    constant = apart.accumulate(offsets)[0, :, 0, 0]
    uniform = float(steps.reshape(-1)[0])
    products = tuple(
        p
        if p.source
        else replace(p, weights=p.weights * (steps if p.gemm and not p.views else uniform))
        for p in equation.products
    )
    scaled = tuple(
        s if s.source else replace(s, factor=s.factor * uniform) for s in equation.scaled
    )
    bias = constant + (0 if equation.bias is None else equation.bias)
    return replace(equation, products=products, scaled=scaled, bias=bias)
