"""BN254 in plain Python: the two groups and the pairing check of the EVM's precompiles.

Points of G1 are ``(x, y)``, of G2 ``((x0, x1), (y0, y1))`` with ``x0 + x1·u``, ``u² = -1``;
infinity is None. Bytes are those of EIP-196 and EIP-197. The pairing is the optimal ate pairing of
BN curves (Vercauteren, "Optimal pairings"). Nothing here runs in constant time: it is for verifying
only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

ORDER: Final = 21888242871839275222246405745257275088548364400416034343698204186575808495617
"""``p``, the order of both groups."""
FIELD: Final = 21888242871839275222246405745257275088696311157297823662689037894645226208583
"""``q``, the base field."""

Fq2: TypeAlias = tuple[int, int]
G1: TypeAlias = tuple[int, int] | None
G2: TypeAlias = tuple[Fq2, Fq2] | None
Jacobian: TypeAlias = tuple[int, int, int]

GENERATOR: Final = (1, 2)
GENERATOR_2: Final = (
    (
        10857046999023057135944570762232829481370756359578518086990519993285655852781,
        11559732032986387107991004021392285783925812861821192530917403151452391805634,
    ),
    (
        8495653923123431417604973247489272438418190587263600148770280649306958101930,
        4082367875863433681332203403145435568316851327593401208105741076214120093531,
    ),
)

_WINDOW = 4
_INFINITY: Final = (1, 1, 0)


def g1_from_bytes(data: bytes) -> G1:
    """Read 64 bytes, x then y; infinity is 64 zero bytes.

    Raises:
        ValueError: a coordinate is not below ``q``, or the point is not on the curve.

    """
    if len(data) != 64:
        raise ValueError(f"expected 64 bytes, got {len(data)}")
    x, y = int.from_bytes(data[:32], "big"), int.from_bytes(data[32:], "big")
    if x >= FIELD or y >= FIELD:
        raise ValueError("a coordinate is not below the field's modulus")
    if x == y == 0:
        return None
    if (y * y - x * x * x - 3) % FIELD:
        raise ValueError("the point is not on the curve")
    return x, y


def g1_to_bytes(point: G1) -> bytes:
    """Return x then y, 64 bytes."""
    x, y = point or (0, 0)
    return x.to_bytes(32, "big") + y.to_bytes(32, "big")


def g2_from_bytes(data: bytes) -> G2:
    """Read 128 bytes: x imaginary, x real, y imaginary, y real; infinity is all zero.

    Raises:
        ValueError: a coordinate is not below ``q``, or the point is not in the group.

    """
    if len(data) != 128:
        raise ValueError(f"expected 128 bytes, got {len(data)}")
    x1, x0, y1, y0 = (int.from_bytes(data[i : i + 32], "big") for i in range(0, 128, 32))
    if max(x0, x1, y0, y1) >= FIELD:
        raise ValueError("a coordinate is not below the field's modulus")
    if x0 == x1 == y0 == y1 == 0:
        return None
    x, y = (x0, x1), (y0, y1)
    if _sub2(_mul2(y, y), _mul2(x, _mul2(x, x))) != _TWIST_B:
        raise ValueError("the point is not on the twisted curve")
    if _multiply_2((x, y), ORDER) is not None:
        raise ValueError("the point is not in the group of the pairing")
    return x, y


def g2_to_bytes(point: G2) -> bytes:
    """Return x imaginary, x real, y imaginary, y real, 128 bytes."""
    (x0, x1), (y0, y1) = point or ((0, 0), (0, 0))
    return b"".join(value.to_bytes(32, "big") for value in (x1, x0, y1, y0))


def combine(terms: Iterable[tuple[int, G1]]) -> G1:
    """Return the sum of ``scalar · point`` over all terms, by windows that share the doublings."""
    tables: list[list[Jacobian]] = []
    scalars: list[int] = []
    for scalar, point in terms:
        scalar %= ORDER
        if point is None or not scalar:
            continue
        first = (point[0], point[1], 1)
        table = [_INFINITY, first, _double(first)]
        while len(table) < 1 << _WINDOW:
            table.append(_add(table[-1], first))
        tables.append(table)
        scalars.append(scalar)
    result = _INFINITY
    for shift in range(256 - _WINDOW, -1, -_WINDOW):
        for _ in range(_WINDOW):
            result = _double(result)
        for scalar, table in zip(scalars, tables, strict=True):
            digit = scalar >> shift & (1 << _WINDOW) - 1
            if digit:
                result = _add(result, table[digit])
    x, y, z = result
    if not z:
        return None
    inverse = pow(z, -1, FIELD)
    square = inverse * inverse % FIELD
    return x * square % FIELD, y * square * inverse % FIELD


def pairing_is_one(pairs: Sequence[tuple[G1, G2]]) -> bool:
    """Return whether the product of the pairings of all pairs is one.

    The pairs share the squarings of one Miller loop. ``f^((q^12 - 1)/p) = 1`` exactly when
    ``h = f^((q^6 + 1)/p)`` is a non-zero element of the subfield of ``q^6`` elements, that is, when
    its odd coefficients vanish: no inversion is needed.
    """
    accumulator = _miller([(a, b) for a, b in pairs if a is not None and b is not None])
    result = _power12(accumulator, (FIELD**6 + 1) // ORDER)
    return any(result) and not any(result[1::2])


# --- G1 in Jacobian coordinates: x = X/Z², y = Y/Z³, infinity has Z = 0


def _double(point: Jacobian) -> Jacobian:
    x, y, z = point
    yy = y * y % FIELD
    s = 4 * x * yy % FIELD
    m = 3 * x * x
    x3 = (m * m - 2 * s) % FIELD
    return x3, (m * (s - x3) - 8 * yy * yy) % FIELD, 2 * y * z % FIELD


def _add(a: Jacobian, b: Jacobian) -> Jacobian:
    (x1, y1, z1), (x2, y2, z2) = a, b
    if not z1:
        return b
    if not z2:
        return a
    zz1, zz2 = z1 * z1 % FIELD, z2 * z2 % FIELD
    u1, u2 = x1 * zz2 % FIELD, x2 * zz1 % FIELD
    s1, s2 = y1 * z2 * zz2 % FIELD, y2 * z1 * zz1 % FIELD
    if u1 == u2:
        return _double(a) if s1 == s2 else _INFINITY
    h, r = u2 - u1, s2 - s1
    hh = h * h % FIELD
    hhh = h * hh % FIELD
    v = u1 * hh % FIELD
    x3 = (r * r - hhh - 2 * v) % FIELD
    return x3, (r * (v - x3) - s1 * hhh) % FIELD, z1 * z2 * h % FIELD


# --- Fq2 and G2, affine


def _mul2(a: Fq2, b: Fq2) -> Fq2:
    return (a[0] * b[0] - a[1] * b[1]) % FIELD, (a[0] * b[1] + a[1] * b[0]) % FIELD


def _sub2(a: Fq2, b: Fq2) -> Fq2:
    return (a[0] - b[0]) % FIELD, (a[1] - b[1]) % FIELD


def _inverse2(a: Fq2) -> Fq2:
    norm = pow(a[0] * a[0] + a[1] * a[1], -1, FIELD)
    return a[0] * norm % FIELD, -a[1] * norm % FIELD


def _power2(a: Fq2, exponent: int) -> Fq2:
    result = (1, 0)
    for bit in bin(exponent)[2:]:
        result = _mul2(result, result)
        if bit == "1":
            result = _mul2(result, a)
    return result


_XI: Final = (9, 1)
_TWIST_B: Final = _mul2((3, 0), _inverse2(_XI))
_FROBENIUS_X: Final = _power2(_XI, (FIELD - 1) // 3)
_FROBENIUS_Y: Final = _power2(_XI, (FIELD - 1) // 2)


def _slope(a: tuple[Fq2, Fq2], b: tuple[Fq2, Fq2]) -> Fq2 | None:
    """Return the slope of the line through two points, or the tangent; None if vertical."""
    (x1, y1), (x2, y2) = a, b
    if x1 != x2:
        return _mul2(_sub2(y2, y1), _inverse2(_sub2(x2, x1)))
    if y1 != y2 or y1 == (0, 0):
        return None
    xx = _mul2(x1, x1)
    return _mul2((3 * xx[0], 3 * xx[1]), _inverse2((2 * y1[0], 2 * y1[1])))


def _third(a: tuple[Fq2, Fq2], b: tuple[Fq2, Fq2], slope: Fq2) -> tuple[Fq2, Fq2]:
    x = _sub2(_sub2(_mul2(slope, slope), a[0]), b[0])
    return x, _sub2(_mul2(slope, _sub2(a[0], x)), a[1])


def _add_2(a: G2, b: G2) -> G2:
    if a is None or b is None:
        return a or b
    slope = _slope(a, b)
    return None if slope is None else _third(a, b, slope)


def _multiply_2(point: G2, scalar: int) -> G2:
    result: G2 = None
    for bit in bin(scalar)[2:]:
        result = _add_2(result, result)
        if bit == "1":
            result = _add_2(result, point)
    return result


def _frobenius(point: tuple[Fq2, Fq2]) -> tuple[Fq2, Fq2]:
    (x0, x1), (y0, y1) = point
    return _mul2((x0, -x1), _FROBENIUS_X), _mul2((y0, -y1), _FROBENIUS_Y)


# --- Fq12 as polynomials of degree 11 in w over Fq: w^6 = 9 + u, so w^12 = 18 w^6 - 82

_ONE: Final = [1] + [0] * 11
_LOOP: Final = bin(6 * 4965661367192848881 + 2)[3:]


def _reduce12(wide: list[int]) -> list[int]:
    for i in range(len(wide) - 1, 11, -1):
        wide[i - 6] += 18 * wide[i]
        wide[i - 12] -= 82 * wide[i]
    return [value % FIELD for value in wide[:12]]


def _mul12(a: list[int], b: list[int]) -> list[int]:
    wide = [0] * 23
    for i, x in enumerate(a):
        if x:
            for j, y in enumerate(b, start=i):
                wide[j] += x * y
    return _reduce12(wide)


def _square12(a: list[int]) -> list[int]:
    wide = [0] * 23
    for i, x in enumerate(a):
        wide[2 * i] += x * x
        x *= 2
        for j in range(i + 1, 12):
            wide[i + j] += x * a[j]
    return _reduce12(wide)


def _power12(a: list[int], exponent: int) -> list[int]:
    table = [_ONE, a]
    while len(table) < 1 << _WINDOW:
        table.append(_mul12(table[-1], a))
    result = _ONE
    length = -(-exponent.bit_length() // _WINDOW) * _WINDOW
    for shift in range(length - _WINDOW, -1, -_WINDOW):
        for _ in range(_WINDOW):
            result = _square12(result)
        digit = exponent >> shift & (1 << _WINDOW) - 1
        if digit:
            result = _mul12(result, table[digit])
    return result


def _line(point: tuple[int, int], through: tuple[Fq2, Fq2], slope: Fq2) -> list[int]:
    """Return the line at a point of G1: ``y - slope·x·w + (slope·x_T - y_T)·w³``."""
    x, y = point
    b = (-slope[0] * x, -slope[1] * x)
    c = _sub2(_mul2(slope, through[0]), through[1])
    line = [0] * 12
    line[0] = y
    line[1], line[7] = (b[0] - 9 * b[1]) % FIELD, b[1] % FIELD
    line[3], line[9] = (c[0] - 9 * c[1]) % FIELD, c[1]
    return line


def _miller(pairs: list[tuple[tuple[int, int], tuple[Fq2, Fq2]]]) -> list[int]:
    accumulator = _ONE
    running = [q for _, q in pairs]

    def step(addends: list[tuple[Fq2, Fq2]]) -> None:
        nonlocal accumulator
        for i, ((p, _), addend) in enumerate(zip(pairs, addends, strict=True)):
            slope = _slope(running[i], addend)
            if slope is None:
                raise ValueError("a point of the pairing is not in the group")
            accumulator = _mul12(_line(p, running[i], slope), accumulator)
            running[i] = _third(running[i], addend, slope)

    for bit in _LOOP:
        accumulator = _square12(accumulator)
        step(running)
        if bit == "1":
            step([q for _, q in pairs])
    once = [_frobenius(q) for _, q in pairs]
    step(once)
    twice = [_frobenius(q) for q in once]
    step([(x, _sub2((0, 0), y)) for x, y in twice])
    return accumulator
