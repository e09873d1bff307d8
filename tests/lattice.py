"""Lattice reduction: small solutions of few linear equations modulo a prime.

N. Howgrave-Graham and others' use of LLL (Lenstra, Lenstra, Lovász 1982): the integer solutions of
``A v = b (mod r)`` form a lattice shifted by one of them; where the secret v is much shorter than
other solutions, it is found as a short vector of the lattice that has b as one more column. All in
integers (de Weger 1989), which is slow and exact: some 30 unknowns in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence


def reduce(basis: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return the LLL-reduced basis (delta 3/4) of the lattice that independent rows span."""
    b = [list(row) for row in basis]
    n = len(b)
    d = [1] + [0] * n  # d[i + 1]: the determinant of the first i + 1 rows' Gram matrix
    lam = [[0] * n for _ in range(n)]  # lam[i][j] = d[j + 1] * mu[i][j]
    for i in range(n):
        for j in range(i + 1):
            u = _dot(b[i], b[j])
            for k in range(j):
                u = (d[k + 1] * u - lam[i][k] * lam[j][k]) // d[k]
            if j < i:
                lam[i][j] = u
            else:
                d[i + 1] = u
    k = 1
    while k < n:
        _shorten(b, d, lam, k, k - 1)
        if 4 * (d[k + 1] * d[k - 1] + lam[k][k - 1] ** 2) < 3 * d[k] ** 2:
            _swap(b, d, lam, k)
            k = max(1, k - 1)
        else:
            for j in range(k - 2, -1, -1):
                _shorten(b, d, lam, k, j)
            k += 1
    return b


def small_solution(
    coefficients: Sequence[Sequence[int]], right: Sequence[int], modulus: int, size: int
) -> list[int] | None:
    """Return v with ``coefficients * v = right (mod modulus)`` and entries of about ``size``.

    There are more unknowns than equations. None is returned where no short vector was found that
    solves them; what is returned is short, and the secret only if no other solution is as short.
    """
    equations, unknowns = len(coefficients), len(coefficients[0])
    free = unknowns - equations
    # The last unknowns and the right-hand side, as combinations of the first: eliminated by hand,
    # which leaves a smaller lattice than weighting the equations would.
    solved = _eliminate(
        [[*row, value] for row, value in zip(coefficients, right, strict=True)], free, modulus
    )
    basis = []
    for j in range(free):
        unit = [int(i == j) for i in range(free)]
        basis.append([*unit, *(-row[j] % modulus for row in solved), 0])
    for i in range(equations):
        basis.append([0] * free + [modulus * (j == i) for j in range(equations)] + [0])
    basis.append([0] * free + [row[-1] for row in solved] + [size])
    for row in reduce(basis):
        if abs(row[-1]) == size:
            sign = 1 if row[-1] > 0 else -1
            return [sign * value for value in row[:-1]]
    return None


def _eliminate(rows: list[list[int]], free: int, modulus: int) -> list[list[int]]:
    for i in range(len(rows)):
        inverse = pow(rows[i][free + i], -1, modulus)
        rows[i] = [value * inverse % modulus for value in rows[i]]
        for j in range(len(rows)):
            if j != i:
                factor = rows[j][free + i]
                rows[j] = [
                    (a - factor * b) % modulus for a, b in zip(rows[j], rows[i], strict=True)
                ]
    return rows


def _dot(a: Sequence[int], b: Sequence[int]) -> int:
    return sum(x * y for x, y in zip(a, b, strict=True))


def _shorten(b: list[list[int]], d: list[int], lam: list[list[int]], k: int, j: int) -> None:
    if 2 * abs(lam[k][j]) <= d[j + 1]:
        return
    q = (2 * lam[k][j] + d[j + 1]) // (2 * d[j + 1])
    b[k] = [x - q * y for x, y in zip(b[k], b[j], strict=True)]
    lam[k][j] -= q * d[j + 1]
    for i in range(j):
        lam[k][i] -= q * lam[j][i]


def _swap(b: list[list[int]], d: list[int], lam: list[list[int]], k: int) -> None:
    b[k], b[k - 1] = b[k - 1], b[k]
    for j in range(k - 1):
        lam[k][j], lam[k - 1][j] = lam[k - 1][j], lam[k][j]
    m = lam[k][k - 1]
    new = (d[k - 1] * d[k + 1] + m * m) // d[k]
    for i in range(k + 1, len(b)):
        t = lam[i][k]
        lam[i][k] = (d[k + 1] * lam[i][k - 1] - m * t) // d[k]
        lam[i][k - 1] = (new * t + m * lam[i][k]) // d[k + 1]
    d[k] = new
