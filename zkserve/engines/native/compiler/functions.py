"""Function tables: a byte for a byte, made from a kind and scales that are powers of two.

The scales lie on so coarse a grid that a retrained model usually keeps its tables, and with them
its description and its verifier.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from zkserve.engines.native.compiler.network import Activation, Kind
from zkserve.errors import ModelRejected

_TOP = 255
_LARGEST_STEP = 2.0**100
_CENTRES = (128, 64, 32)
_SATURATED = {Kind.SIGMOID: 8.0, Kind.TANH: 4.0}
"""Where the function has come as close to its limits as a byte can tell."""
_VANISHED = {Kind.GELU: -4.0, Kind.GELU_TANH: -4.0, Kind.SILU: -8.0}
"""Below this the function is 0 for a byte."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """``data[z]`` for a cell ``z`` that stands for ``before_scale * (z - centre)``.

    The result stands for ``after_scale * (data[z] - zero)``.
    """

    data: bytes
    before_scale: float
    centre: int
    after_scale: float
    zero: int

    def __post_init__(self) -> None:
        if len(self.data) != _TOP + 1:
            raise ValueError(f"a table has {_TOP + 1} bytes, not {len(self.data)}")


def tabulate(activation: Activation, low: float, high: float, *, at_least: float = 0.0) -> Table:
    """Return the finest table for values from ``low`` to ``high`` before the activation.

    ``at_least`` is the smallest step allowed.

    Raises:
        ModelRejected: no step makes the activation fit, which a LeakyRelu of a steep slope does.

    """
    if limit := _SATURATED.get(activation.kind):
        reach = min(max(abs(low), abs(high)), limit)
        step = _power(max(reach / (_TOP - 128), at_least))
        if activation.kind == Kind.SIGMOID:
            return _make(activation, step, 128, 1 / _TOP, 0)
        return _make(activation, step, 128, 1 / 127, 128)
    low = min(0.0, max(low, _VANISHED.get(activation.kind, -math.inf)))
    candidates = []
    for centre in _CENTRES:
        step = _power(max(max(high, 0.0) / (_TOP - centre), -low / centre, at_least))
        while step < _LARGEST_STEP:
            zero = math.ceil(-float(activation(np.arange(-centre, 1) * step).min()) / step)
            if max(high, 0.0) / step <= _TOP - zero:
                candidates.append((step, -centre, zero))
                break
            step *= 2
    if not candidates:
        raise ModelRejected(
            f"Values from {low:g} to {high:g} and what {activation.kind} makes of them do not fit "
            "into one table of 256 steps.",
            remedy="Take a gentler slope, or scale what comes before it.",
        )
    step, negative, zero = min(candidates)
    return _make(activation, step, -negative, step, zero)


def _power(at_least: float) -> float:
    """Return the least power of two that is not smaller; 2^-20 for nothing at all."""
    return 2.0 ** math.ceil(math.log2(max(at_least, 2.0**-20)))


def _make(activation: Activation, step: float, centre: int, after_scale: float, zero: int) -> Table:
    before = (np.arange(_TOP + 1) - centre) * step
    cells = np.floor(activation(before) / after_scale + 0.5) + zero
    return Table(
        data=np.clip(cells, 0, _TOP).astype(np.uint8).tobytes(),
        before_scale=step,
        centre=centre,
        after_scale=after_scale,
        zero=zero,
    )
