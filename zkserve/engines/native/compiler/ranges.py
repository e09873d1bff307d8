"""Calibration: the ranges of a float network's tensors on real samples."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from zkserve.engines.native.compiler.network import Network
from zkserve.engines.native.compiler.program import Array
from zkserve.errors import ModelRejected

_KEPT = 1 << 20
"""Values of one tensor that percentiles are taken from."""
_OUTERMOST = 1e-4
_KEPT_BITS = 12
"""Ends of ranges are rounded outwards to so many significant bits.

CPUs add in different orders; a model compiled again elsewhere must not differ in the last place.
"""


@dataclass(frozen=True, kw_only=True)
class Range:
    """The least and largest value of a tensor, before and after its activation."""

    before: tuple[float, float]
    after: tuple[float, float]


def measure(network: Network, samples: Array, *, percentile: bool) -> list[Range]:
    """Return the ranges of every tensor, then of the output if it is stored in none.

    ``samples`` has shape ``(samples, elements)``. With ``percentile`` the outermost 0.01 % on
    either side do not count.

    Raises:
        ModelRejected: a value is not finite.

    """
    seen: list[tuple[list[Array], list[Array]]] = []
    for batch in network.batches(samples):
        if not seen:
            seen = [([], []) for _ in batch]
        for kept, pair in zip(seen, batch, strict=True):
            for values, array in zip(kept, pair, strict=True):
                values.append(_sample(array) if percentile else _ends(array))
    ends = [(_range(b, percentile), _range(a, percentile)) for b, a in seen]
    if not np.isfinite(ends).all():
        raise ModelRejected(
            "The model's values are not finite on the calibration samples.",
            remedy="Check the weights and the samples.",
        )
    return [
        Range(
            before=(_outwards(before[0]), _outwards(before[1])),
            after=(_outwards(after[0]), _outwards(after[1])),
        )
        for before, after in ends
    ]


def _outwards(value: float) -> float:
    mantissa, exponent = math.frexp(value)
    steps = mantissa * 2**_KEPT_BITS
    # What lies on the grid but for noise stays there.
    nearest = round(steps)
    away = nearest if abs(steps - nearest) < 2**-20 else math.copysign(math.ceil(abs(steps)), steps)
    return math.ldexp(away, exponent - _KEPT_BITS)


def _ends(array: Array) -> Array:
    return np.array([array.min(), array.max()])


def _sample(array: Array) -> Array:
    flat = array.reshape(-1)
    return flat[:: max(1, flat.size // (_KEPT // 16))].astype(np.float32)


def _range(kept: list[Array], percentile: bool) -> tuple[float, float]:
    values = np.concatenate(kept)
    if not percentile:
        return float(values.min()), float(values.max())
    low, high = np.quantile(values, [_OUTERMOST, 1 - _OUTERMOST])
    return float(low), float(high)
