"""How large weights may be: the conditions of section 3 as bounds on the L1 norm of a channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from zkserve.engines.native.protocol.description import Description, View
from zkserve.errors import ProofInvalid

VALUE_BOUND: Final = 1 << 32
"""Sources whose values can reach this are refused: sums of them could exceed ``p``."""
RAW_BOUND: Final = (1 << 62) - 1


def bounds(d: Description, multipliers: tuple[int, ...]) -> list[list[int]]:
    """Return for each equation and channel ``B``, the largest harmless L1 norm of its weights.

    Raises:
        ProofInvalid: scaled terms alone can leave the range, or a value can be too large.

    """
    result = []
    for equation, (own, factors) in zip(d.equations, d.split_multipliers(multipliers), strict=True):
        taken = sum(
            factor * largest_value(d, scaled.source, scaled.views)
            for scaled, factor in zip(equation.scaled, factors, strict=True)
        )
        limits = [RAW_BOUND] * equation.channels
        if not equation.raw:
            zero = d.tensors[equation.target].zero_point << d.shift
            room = (1 << d.value_bits - 1) - (1 << d.shift - 1) - zero - 1
            by_channel = own if equation.per_channel else own * equation.channels
            limits = [room // multiplier for multiplier in by_channel]
        if equation.pooled:
            widest = ((1 << 8 * d.header.difference_limbs) - 1) // 2
            limits = [min(limit, widest) for limit in limits]
        limits = [limit - taken for limit in limits]
        if min(limits) < 0:
            raise ProofInvalid("An accumulator can leave its range whatever the weights are.")
        result.append(limits)
    return result


def largest_value(d: Description, source: int, views: Sequence[View]) -> int:
    """Return the largest magnitude ``vmax`` of what a term reads.

    Raises:
        ProofInvalid: it is too large for the argument.

    """
    zero = d.tensors[source].zero_point
    top = d.top if source else (1 << 8 * d.header.input_bytes) - 1
    largest = max(zero, top - zero)
    for view in views:
        largest *= view.kh * view.kw
    if largest >= VALUE_BOUND:
        raise ProofInvalid("A pooled value is too large for a range proof.")
    return largest
