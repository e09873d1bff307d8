"""The rank certificate: layouts that hide what a proof reveals, and layouts that do not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from eth_utils.crypto import keccak

from tests.native_circuits import CIRCUITS, dense, wide
from tests.unit.test_native_description import example_bytes
from zkserve.engines.native import core
from zkserve.engines.native.protocol import certificate, functionals
from zkserve.engines.native.protocol.certificate import Sample, certify, check, measure
from zkserve.engines.native.protocol.curve import ORDER
from zkserve.engines.native.protocol.description import Description, decode
from zkserve.engines.native.protocol.equations import equation_weights
from zkserve.engines.native.protocol.functionals import Messages, claims
from zkserve.engines.native.protocol.vectors import Term, eq
from zkserve.engines.native.protocol.wire import DescriptionInvalid


def seed(d: Description) -> bytes:
    return keccak(replace(d, certificate=bytes(32)).encode())


def rank(d: Description, mode: int = 0) -> certificate.Rank:
    return measure(d, seed(d), mode=mode, sample=0)


def test_the_worked_example() -> None:
    d = decode(example_bytes())
    found = rank(d)
    assert (found.rank, found.columns, found.coordinates) == (34, 34, 114)
    first = Sample(d, seed(d), mode=0, sample=0).claims.alpha
    assert f"{first:064x}" == "12cacfaf42a5f3e86de0babc02b55b61ae9b2cd9c78410024067671ba5b4b407"
    assert (
        certify(d).certificate.hex()
        == "2e0262184766f230bceb06ba66fbbc4edf18f03beb3028193455a24f3f242eca"
    )


@pytest.mark.parametrize("name", CIRCUITS)
def test_final_bytes_pass(name: str) -> None:
    d = CIRCUITS[name]()
    data = d.encode()
    assert check(data, [2 + 7 * i for i in range(d.multipliers)]) == d
    if core.available():
        core.load().check_certificate(data)


def test_another_digest_is_refused() -> None:
    d = replace(dense(), certificate=bytes(31) + b"\1")
    with pytest.raises(DescriptionInvalid, match="digest is not"):
        check(d.encode())


def test_the_digest_binds_the_circuit() -> None:
    d = dense()
    changed = replace(d.tensors[2], zero_point=127)
    with pytest.raises(DescriptionInvalid, match="digest is not"):
        check(replace(d, tensors=(*d.tensors[:2], changed)).encode())


def test_multipliers_of_another_number_are_refused() -> None:
    with pytest.raises(DescriptionInvalid, match="has 2 multipliers; got 1"):
        check(dense().encode(), [1])


# --- layouts that leak. Some have too few cells for a reader, so only the gate is asked.


def helper_masks(d: Description, cells: Iterable[int]) -> Description:
    return replace(d, helper_mask_cells=tuple(cells))


def row_masks(d: Description, cells: Iterable[int]) -> Description:
    return replace(d, row_mask_cells=tuple(cells))


def leaks(d: Description) -> None:
    with pytest.raises(DescriptionInvalid, match="would leak"):
        certify(d)


def test_a_handful_of_masks_leaks() -> None:
    d = dense()
    leaks(helper_masks(d, ()))
    leaks(helper_masks(row_masks(d, d.row_mask_cells[:4]), d.helper_mask_cells[:4]))


def with_empty_tiles(d: Description, helper_cells: list[int], row_cells: list[int]) -> Description:
    """The same circuit with all masks at the given cells of tiles that hold nothing else."""
    header = replace(
        d.header,
        helper_tiles=d.header.helper_tiles + 1,
        row_tiles=d.header.row_tiles + 1,
    )
    helper, row = d.header.helper_tiles * d.cells, d.header.row_tiles * d.cells
    return replace(
        d,
        header=header,
        helper_mask_cells=tuple(helper + c for c in helper_cells),
        row_mask_cells=tuple(row + c for c in row_cells),
    )


SCATTERED = [13 * i for i in range(36)]
LOWER = [7 * i for i in range(36)]


def test_masks_in_one_half_leak() -> None:
    d = dense()
    assert max(LOWER) < d.cells // 2 < max(SCATTERED)
    assert rank(with_empty_tiles(d, SCATTERED, SCATTERED)).full
    leaks(with_empty_tiles(d, LOWER, LOWER))


def test_masks_of_rows_outside_the_last_tile_do_not_mask() -> None:
    layout = with_empty_tiles(dense(), SCATTERED, SCATTERED)
    behind = replace(layout.header, row_tiles=layout.header.row_tiles + 1)
    leaks(replace(layout, header=behind))


def test_one_mask_too_few_is_refused_for_want_of_margin() -> None:
    """Full rank is not enough: no single mask cell of each family may be needed."""
    layout = with_empty_tiles(dense(), SCATTERED, SCATTERED)
    found = [rank(row_masks(layout, layout.row_mask_cells[:count])) for count in (10, 11, 12)]
    assert [(r.columns - r.rank, r.margin) for r in found] == [(1, True), (0, False), (0, True)]
    with pytest.raises(DescriptionInvalid, match="without margin"):
        certify(row_masks(layout, layout.row_mask_cells[:11]))


def test_without_masks_of_rows_a_round_leaks() -> None:
    leaks(row_masks(with_empty_tiles(dense(), SCATTERED, SCATTERED), ()))


def test_one_point_for_both_families_leaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: with chi for w as for h, every round gives a relation between weights away."""
    d = dense()
    layout = with_empty_tiles(d, SCATTERED, SCATTERED)
    assert rank(layout).full
    for module in (functionals, certificate):
        monkeypatch.setattr(module, "rotated", list)
    found = rank(layout)
    assert found.columns - found.rank >= d.header.k
    leaks(layout)


# --- the matrix itself, against the protocol run on tables of 2^k cells


def expand(d: Description, terms: Iterable[Term], family: str, tile: int) -> list[int]:
    table = [0] * d.cells
    for term in terms:
        values = [1]
        for vector in term.vectors:
            values = [a * b % ORDER for a in values for b in vector]
        for place in term.places:
            number, at = divmod(place.offset, d.cells)
            if (place.family, number) == (family, tile):
                for i, value in enumerate(values):
                    table[at + i] = (table[at + i] + value * place.coefficient) % ORDER
    return table


def revealed(sample: Sample, k: int, functional: list[int], index: int) -> list[int]:
    """What the final sumcheck and the opening reveal of the polynomial ``X^index``."""
    cells = 1 << k
    values = [int(i == index) for i in range(cells)]
    out = []
    for r in sample.rho:
        half = len(values) // 2
        pairs = [(functional[i], functional[i + half], values[i], values[i + half])
                 for i in range(half)]  # fmt: skip
        out.append(sum(a * v for a, _, v, _ in pairs) % ORDER)
        out.append(sum((b - a) * (w - v) for a, b, v, w in pairs) % ORDER)
        functional = [(a + r * (b - a)) % ORDER for a, b, _, _ in pairs]
        values = [(v + r * (w - v)) % ORDER for _, _, v, w in pairs]
    f = [0] * (cells + 16)
    f[index] = functional[0]

    size, length = 1 << k // 2, 1 << k - k // 2
    low, high = eq(sample.rho[k - k // 2 :]), eq(sample.rho[: k - k // 2])
    h = [
        sum(low[i] * f[i + size * j] for i in range(size) if i + size * j < len(f))
        for j in range(length + 1)
    ]
    remainder, quotient = list(f), [0] * len(f)
    for i in range(len(f) - 1, size - 1, -1):
        quotient[i - size] = remainder[i]
        remainder[i - size] += sample.theta * remainder[i]
        remainder[i] = 0
    g = [value % ORDER for value in remainder[:size]]
    for i, value in enumerate(g):
        quotient[size - 1 - i] += value
    q = [sample.gamma * (high[j] if j < length else 0) - pow(sample.theta, j, ORDER)
         for j in range(length + 1)]  # fmt: skip
    s = [0] * (length + 1)
    for a, b in ((g, low), (h, q)):
        for i, x in enumerate(a):
            for j, y in enumerate(b):
                if i != j:
                    s[abs(i - j) - 1] += x * y

    def at(polynomial: list[int], x: int) -> int:
        return sum(c * pow(x, i, ORDER) for i, c in enumerate(polynomial)) % ORDER

    inverse = pow(sample.zeta, -1, ORDER)
    out += [at(p, sample.s) for p in (h, g, s, quotient)]
    out += [at(g, sample.zeta), at(g, inverse), at(h, sample.zeta), at(h, inverse)]
    return [*out, at(s, sample.zeta)]


def test_the_matrix_is_the_protocol_run_on_unit_polynomials() -> None:
    d = wide()
    sample = Sample(d, seed(d), mode=0, sample=0)
    split = d.split_multipliers(tuple(sample.multipliers))
    weights = [
        equation_weights(d, e, own, point)
        for e, (own, _), point in zip(d.equations, split, sample.claims.equations, strict=True)
    ]
    terms, _ = claims(
        d,
        sample.claims,
        weights,
        [factors for _, factors in split],
        Messages(total=0, libra=0, evaluations=[0] * d.evaluations, masked=0),
        packed_input=bytes(d.input_packing.size_bytes),
        outputs=[0] * d.outputs,
    )
    matrix = certificate._matrix(d, sample, terms)
    coordinates = certificate._coordinates(d)
    tiles = d.header.row_tiles + d.header.helper_tiles
    last_of_each = {(c.family, c.tile): n for n, c in enumerate(coordinates)}
    for number in [0, 1, 30, 40, 50, *last_of_each.values()]:
        c = coordinates[number]
        row = matrix[number]
        table = expand(d, terms, c.family, c.tile)
        assert [v for v in row[:tiles] if v] == [pow(sample.s, c.index, ORDER)]
        assert row[tiles + 1 :] == revealed(sample, d.header.k, table, c.index)
        # s_M is what claim 4 weighs with beta^4, and nothing else touches a mask cell
        masked = table[c.index] if c.index < d.cells else 0
        assert row[tiles] * pow(sample.claims.beta, 4, ORDER) % ORDER == masked
