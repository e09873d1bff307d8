"""The non-linear part of a proof at the point of the main sumcheck, section 11, step 6."""

from __future__ import annotations

from collections.abc import Sequence

from zkserve.engines.native.protocol.curve import ORDER
from zkserve.engines.native.protocol.description import HELPER_GROUP, Description
from zkserve.engines.native.protocol.vectors import dot, eq, eq_prefix, eqv, last, prod_mod


def bracket(
    d: Description,
    *,
    alpha: int,
    lambda_: int,
    eta: int,
    tau: Sequence[int],
    r: Sequence[int],
    multipliers: Sequence[int],
    evaluations: Sequence[int],
) -> int:
    """Return ``F(E)``: what is summed in the main sumcheck at ``r``, without the Libra polynomial.

    ``multipliers`` are the ``M'_l`` of the equations.
    """
    half, n = pow(2, -1, ORDER), d.rounds
    etas = [1]
    for _ in range(len(d.equations) + 2 + d.helper_columns):
        etas.append(etas[-1] * eta % ORDER)
    total = 0
    for number, instance in enumerate(d.instances):
        a, b = evaluations[2 * number : 2 * number + 2]
        weight = etas[instance.equation] * multipliers[instance.equation]
        total += pow(half, n - instance.kappa, ORDER) * weight % ORDER * a % ORDER * b
    at = 2 * len(d.instances)
    row_bits, table_bits = d.header.row_bits, d.header.table_bits
    point = last(r, row_bits)
    rows = row_constraints(
        d,
        columns=evaluations[at : at + d.columns.count],
        helpers=evaluations[at + d.columns.count : -2],
        function=function_at(d, point),
        alpha=alpha,
        lambda_=lambda_,
        etas=etas[len(d.equations) :],
    )
    total += pow(half, n - row_bits, ORDER) * eqv(tau[:row_bits], point) % ORDER * rows
    point = last(r, table_bits)
    inverse, count = evaluations[-2:]
    table = inverse * (alpha - table_at(d, point, lambda_)) - count
    total += pow(half, n - table_bits, ORDER) * eqv(tau[:table_bits], point) * etas[-1] * table
    return total % ORDER


def function_at(d: Description, point: Sequence[int]) -> int:
    """Return ``K`` at a point of the row space: 2, and the number of a function on its tensors."""
    result = 2
    for tensor in d.tensors[1:]:
        if not tensor.function:
            continue
        for piece in tensor.pieces:
            bits = piece.log + tensor.rest_bits(d.header.batch)
            leading = point[: d.header.row_bits - bits]
            result += tensor.function * eq_prefix(leading, piece.offset >> bits)
    return result % ORDER


def row_constraints(
    d: Description,
    *,
    columns: Sequence[int],
    helpers: Sequence[int],
    function: int,
    alpha: int,
    lambda_: int,
    etas: Sequence[int],
) -> int:
    """Return the sum of the constraints of a row, weighted with ``etas``."""
    c = d.columns
    low = _limbs(columns, c.low)
    value = columns[c.y if c.z is None else c.z]
    total = etas[0] * (value - columns[c.selected] * low - d.top * columns[c.saturated])
    if c.differences:
        total += etas[1] * prod_mod(_limbs(columns, limbs) for limbs in c.differences)
    looked_up = [alpha - columns[column] for column in c.bytes_looked_up]
    square, cube = lambda_ * lambda_ % ORDER, pow(lambda_, 3, ORDER)
    clamped = columns[c.high] + square * columns[c.selected] + cube * columns[c.saturated]
    looked_up.append(alpha - lambda_ - clamped)
    if c.z is not None:
        looked_up.append(alpha - columns[c.z] - lambda_ * function - square * columns[c.y])
    for number, helper in enumerate(helpers):
        factors = looked_up[HELPER_GROUP * number : HELPER_GROUP * (number + 1)]
        others = sum(prod_mod(factors[:i] + factors[i + 1 :]) for i in range(len(factors)))
        total += etas[2 + number] * (helper * prod_mod(factors) - others)
    return total % ORDER


def _limbs(columns: Sequence[int], numbers: Sequence[int]) -> int:
    return sum(columns[number] << 8 * i for i, number in enumerate(numbers)) % ORDER


def table_at(d: Description, point: Sequence[int], lambda_: int) -> int:
    """Return the lookup table ``T`` at a point."""
    leading, v = point[:-8], point[-8:]
    byte = sum(coordinate << 7 - i for i, coordinate in enumerate(v))
    zeros = prod_mod(1 - coordinate for coordinate in v[1:])
    square, cube = lambda_ * lambda_ % ORDER, pow(lambda_, 3, ORDER)
    values = [byte, byte + lambda_ + square * v[0] * zeros + cube * v[0] * (1 - zeros)]
    table = eq(v)
    values += [
        byte + lambda_ * (2 + number) + square * dot(function, table)
        for number, function in enumerate(d.functions)
    ]
    return dot(eq(leading)[: len(values)], values)
