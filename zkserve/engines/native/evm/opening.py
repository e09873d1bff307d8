"""The check of the opening, section 10, as factors of points."""

from __future__ import annotations

from collections.abc import Sequence

from zkserve.engines.native.evm.words import Words
from zkserve.engines.native.evm.yul import Value


def opening(k: int, w: Words) -> tuple[list[Value], list[Value]]:
    """Return the factors of [h], [q*], [g], [S], W1, W2, G; and what must be zero, not zero.

    The second list is ``zeta·hint - 1``, which must be zero, and ``theta``, which must not.
    """
    graph = w.graph
    high = k - k // 2
    g_z, g_i, h_z, h_i, s_z, inverse = w.openings
    zeta, nu, omega = w.zeta, w.nu, w.omega
    upper, lower = w.rho[:high], w.rho[high:]

    def factored(point: Sequence[Value], at: Value) -> Value:
        return graph.product(
            (1 - u) + u * at ** (1 << (len(point) - 1 - t)) for t, u in enumerate(point)
        )

    def powers(at: Value) -> Value:
        inner = graph.product(1 + at ** (1 << t) for t in range(high))
        return inner + at ** (1 << high)

    q_z = w.gamma * factored(upper, zeta) - powers(w.theta * zeta)
    q_i = w.gamma * factored(upper, inverse) - powers(w.theta * inverse)
    sides = g_z * factored(lower, inverse) + g_i * factored(lower, zeta) + h_z * q_i + h_i * q_z
    s_i = zeta * (sides - 2 * w.gamma * w.final - zeta * s_z)
    half = zeta ** (1 << k // 2)
    moved = half - w.theta
    f_z = g_z - moved * (half * inverse) * g_i
    y1 = f_z + nu * (g_z + nu * (h_z + nu * s_z))
    y2 = g_i + nu * (h_i + nu * s_i)
    both = nu + omega
    factors = [
        nu * both,
        -moved,
        both,
        nu * nu * both,
        zeta,
        omega * inverse,
        -(y1 + omega * y2),
    ]
    return factors, [zeta * inverse - 1, w.theta]
