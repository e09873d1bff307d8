"""The check of the opening of all tiles at one point, section 10."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zkserve.engines.native.protocol.curve import (
    FIELD,
    G1,
    G2,
    GENERATOR,
    GENERATOR_2,
    ORDER,
    combine,
    pairing_is_one,
)
from zkserve.engines.native.protocol.vectors import prod_mod


@dataclass(frozen=True, kw_only=True)
class Opening:
    """What the prover sends, and the challenges drawn in between."""

    h: G1
    quotient: G1  # q*
    g: G1
    s: G1
    g_zeta: int
    g_inverse: int
    h_zeta: int
    h_inverse: int
    s_zeta: int
    inverse: int  # 1/zeta, a hint
    w1: G1
    w2: G1
    theta: int
    gamma: int
    zeta: int
    nu: int
    omega: int


def holds(
    opening: Opening,
    tiles: Sequence[tuple[int, G1]],
    *,
    point: Sequence[int],
    value: int,
    g2_s: G2,
) -> bool:
    """Return whether the weighted sum of tiles has the value at the point ``rho``.

    ``tiles`` are pairs of a weight and a commitment; ``g2_s`` is the SRS's ``[s]_2``.
    """
    o, k = opening, len(point)
    zeta, inverse, theta, gamma, nu, omega = o.zeta, o.inverse, o.theta, o.gamma, o.nu, o.omega
    if zeta * inverse % ORDER != 1 or theta == 0:
        return False
    high_bits = k - k // 2
    high, low, size = point[:high_bits], point[high_bits:], 1 << k // 2
    q_zeta = gamma * _eq_polynomial(high, zeta) - _geometric(theta * zeta % ORDER, high_bits)
    q_inverse = gamma * _eq_polynomial(high, inverse) - _geometric(
        theta * inverse % ORDER, high_bits
    )
    s_inverse = zeta * (
        o.g_zeta * _eq_polynomial(low, inverse)
        + o.g_inverse * _eq_polynomial(low, zeta)
        + o.h_zeta * q_inverse
        + o.h_inverse * q_zeta
        - 2 * gamma * value
        - zeta * o.s_zeta
    )
    divisor = pow(zeta, size, ORDER) - theta
    f_zeta = o.g_zeta - divisor * pow(zeta, size - 1, ORDER) * o.g_inverse
    nu2, nu3 = nu * nu % ORDER, pow(nu, 3, ORDER)
    y1 = f_zeta + nu * o.g_zeta + nu2 * o.h_zeta + nu3 * o.s_zeta
    y2 = o.g_inverse + nu * o.h_inverse + nu2 * s_inverse
    left = combine(
        [
            *tiles,
            (-divisor, o.quotient),
            (nu + omega, o.g),
            (nu2 + omega * nu, o.h),
            (nu3 + omega * nu2, o.s),
            (-(y1 + omega * y2), GENERATOR),
            (zeta, o.w1),
            (omega * inverse, o.w2),
        ]
    )
    right = combine([(1, o.w1), (omega, o.w2)])
    negated = None if right is None else (right[0], -right[1] % FIELD)
    return pairing_is_one([(left, GENERATOR_2), (negated, g2_s)])


def _eq_polynomial(point: Sequence[int], x: int) -> int:
    """Return ``P_u(x)``: the entries of ``eq(u)`` as coefficients."""
    result, power = 1, x
    for u in reversed(point):
        result = result * (1 - u + u * power) % ORDER
        power = power * power % ORDER
    return result


def _geometric(x: int, bits: int) -> int:
    """Return the sum of ``x^j`` for j up to and with ``2**bits``."""
    powers = [x]
    for _ in range(bits):
        powers.append(powers[-1] * powers[-1] % ORDER)
    return (prod_mod(1 + power for power in powers[:-1]) + powers[-1]) % ORDER
