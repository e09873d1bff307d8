"""The opening forces degree and value, however long the SRS is (section 10 of the protocol).

The prover here knows the secret of the SRS, so it can commit to polynomials of any degree: that is
the SRS longer than the tiles which a public ceremony gives.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from py_ecc import bn128 as py_ecc

from zkserve.engines.native.protocol import opening as openings
from zkserve.engines.native.protocol.curve import G1, G2, GENERATOR, ORDER, combine, g2_from_bytes
from zkserve.engines.native.protocol.vectors import dot, eq

SECRET = 0x1D0_5EED_0F_7E57
Polynomial = list[int]
Laurent = dict[int, int]


def at(f: Sequence[int], x: int) -> int:
    value = 0
    for coefficient in reversed(f):
        value = (value * x + coefficient) % ORDER
    return value


def commit(f: Sequence[int]) -> G1:
    return combine([(at(f, SECRET), GENERATOR)])


def secret_2() -> G2:
    x, y = py_ecc.multiply(py_ecc.G2, SECRET)
    words = (x.coeffs[1], x.coeffs[0], y.coeffs[1], y.coeffs[0])
    return g2_from_bytes(b"".join(int(word).to_bytes(32, "big") for word in words))


G2_S = secret_2()


def combined(*parts: tuple[int, Sequence[int]]) -> Polynomial:
    size = max(len(f) for _, f in parts)
    result = [0] * size
    for factor, f in parts:
        for i, coefficient in enumerate(f):
            result[i] = (result[i] + factor * coefficient) % ORDER
    return result


def quotient(f: Sequence[int], x: int) -> Polynomial:
    """``(f - f(x)) / (X - x)``."""
    result, carry = [0] * (len(f) - 1), 0
    for i in range(len(f) - 1, 0, -1):
        carry = (carry * x + f[i]) % ORDER
        result[i - 1] = carry
    return result


def symmetric(a: Sequence[int], b: Sequence[int]) -> Laurent:
    """``a(X) b(1/X) + a(1/X) b(X)`` by exponent."""
    result: Laurent = {}
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            for exponent in (i - j, j - i):
                result[exponent] = (result.get(exponent, 0) + x * y) % ORDER
    return result


@dataclass(frozen=True)
class Forger:
    """Opens ``f`` at ``point``; what is added to ``h_0`` is hidden by a longer ``g``."""

    f: Polynomial
    point: list[int]
    added: int = 0

    @property
    def value(self) -> int:
        """What is claimed: the true value, and more where ``h`` was shifted."""
        high = self.point[: len(self.point) - len(self.point) // 2]
        return (
            dot(self.f[: 1 << len(self.point)], eq(self.point)) + self.added * eq(high)[0]
        ) % ORDER

    def open(self, rng: random.Random) -> tuple[openings.Opening, dict[str, Polynomial]]:
        k = len(self.point)
        low_bits = k // 2
        b, rows = 1 << low_bits, 1 << k - low_bits
        low, high = eq(self.point[k - low_bits :]), eq(self.point[: k - low_bits])
        f = self.f + [0] * ((rows + 1) * b - len(self.f))
        h = [dot(low, f[b * j : b * j + b]) for j in range(rows + 1)]
        h[0] = (h[0] + self.added) % ORDER
        theta, gamma, zeta, nu, omega = (rng.randrange(1, ORDER) for _ in range(5))

        q, g = [0] * (rows * b), [0] * b
        for i in range(b):
            carry = 0
            for j in range(rows, 0, -1):
                carry = (carry * theta + f[b * j + i]) % ORDER
                q[b * (j - 1) + i] = carry
            g[i] = (carry * theta + f[i]) % ORDER
        # The remainder of another quotient: f = (q - s)(X^b - theta) + g + s (X^b - theta).
        s = self.added * pow(-theta * low[0], -1, ORDER) % ORDER if self.added else 0
        if s:
            g = combined((1, g), (s, [-theta % ORDER, *[0] * (b - 1), 1]))
            q = combined((1, q), (1, [-s % ORDER]))
        star = combined((1, q), (1, g[:b][::-1]))
        # A longer g would need a negative exponent here, which is no polynomial: it is dropped.
        powers = [pow(theta, j, ORDER) for j in range(rows + 1)]
        big_q = combined((gamma, high), (-1, powers))
        both = symmetric(g, low)
        for exponent, x in symmetric(h, big_q).items():
            both[exponent] = (both.get(exponent, 0) + x) % ORDER
        # The forger can only hope where the constant term is right.
        assert both.get(0, 0) == 2 * gamma * self.value % ORDER
        sums = [both.get(i + 1, 0) for i in range(max(both))]

        inverse = pow(zeta, -1, ORDER)
        divisor = (pow(zeta, b, ORDER) - theta) % ORDER
        rest = combined((1, f), (-divisor, star))
        nu2, nu3 = nu * nu % ORDER, pow(nu, 3, ORDER)
        first = combined((1, rest), (nu, g), (nu2, h), (nu3, sums))
        second = combined((1, g), (nu, h), (nu2, sums))
        made = openings.Opening(
            h=commit(h),
            quotient=commit(star),
            g=commit(g),
            s=commit(sums),
            g_zeta=at(g, zeta),
            g_inverse=at(g, inverse),
            h_zeta=at(h, zeta),
            h_inverse=at(h, inverse),
            s_zeta=at(sums, zeta),
            inverse=inverse,
            w1=commit(quotient(first, zeta)),
            w2=commit(quotient(second, inverse)),
            theta=theta,
            gamma=gamma,
            zeta=zeta,
            nu=nu,
            omega=omega,
        )
        return made, {"rest": rest, "g": g, "h": h, "s": sums, "star": star}


def accepted(forger: Forger, made: openings.Opening, value: int | None = None) -> bool:
    return openings.holds(
        made,
        [(1, commit(forger.f))],
        point=forger.point,
        value=forger.value if value is None else value,
        g2_s=G2_S,
    )


@pytest.fixture(params=[5, 6])
def honest(request: pytest.FixtureRequest) -> Forger:
    rng = random.Random(request.param)
    blinds = 3
    f = [rng.randrange(ORDER) for _ in range((1 << request.param) + blinds)]
    return Forger(f=f, point=[rng.randrange(ORDER) for _ in range(request.param)])


def test_the_true_value_is_accepted_and_no_other(honest: Forger):
    made, _ = honest.open(random.Random(1))
    assert accepted(honest, made)
    assert not accepted(honest, made, honest.value + 1)


def test_coefficients_behind_the_tile_do_not_count(honest: Forger):
    tile = 1 << len(honest.point)
    other = replace(honest, f=[*honest.f[:tile], 1, 2, 3])
    made, _ = other.open(random.Random(1))
    assert accepted(other, made, honest.value)


def test_a_remainder_longer_than_the_srs_of_the_tile_forges_nothing(honest: Forger):
    forger = replace(honest, added=5)
    assert forger.value != honest.value
    made, parts = forger.open(random.Random(1))
    # Control: the attack is what it claims to be. All that the verifier would accept but for the
    # degree of g is there: f is g modulo X^b - theta, and (in open) both inner products hold.
    b = 1 << len(honest.point) // 2
    assert len(parts["g"]) == b + 1
    for i in range(b):
        folded = sum(x * pow(made.theta, j, ORDER) for j, x in enumerate(forger.f[i::b])) % ORDER
        g = parts["g"]
        assert folded == (g[i] + (made.theta * g[b] if i == 0 else 0)) % ORDER
    assert not accepted(forger, made)


def test_it_is_only_the_bound_on_the_degree_that_stops_it(honest: Forger):
    """With f'(zeta) taken from the prover, as if nothing tied it to g, the forgery passes."""
    forger = replace(honest, added=5)
    made, parts = forger.open(random.Random(1))
    true = at(parts["rest"], made.zeta)
    b = 1 << len(honest.point) // 2
    derived = (
        made.g_zeta
        - (pow(made.zeta, b, ORDER) - made.theta) * pow(made.zeta, b - 1, ORDER) * made.g_inverse
    )
    assert (derived - true) % ORDER != 0
    # The check is linear in f'(zeta): the difference added to f's commitment takes the bound away.
    shift = (derived - true) % ORDER
    assert openings.holds(
        made,
        [(1, commit(forger.f)), (shift, GENERATOR)],
        point=forger.point,
        value=forger.value,
        g2_s=G2_S,
    )
