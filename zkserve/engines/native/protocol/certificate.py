"""The rank certificate of section 14: the gate that refuses layouts which would leak.

Everything a proof reveals, given its challenges, is an affine map of mask cells and blinds. Where
the rank of that map equals the number of revealed values, they are jointly uniform and say nothing
of the weights. The compiler certifies a layout once; whoever loads a description to prove with it,
or generates a verifier for it, checks the final bytes again.

The matrix is built from the terms of the linear claims alone: ``L`` at one index is a product of
few entries, so that nothing of the size of a tile is ever formed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from eth_utils.crypto import keccak

from zkserve.engines.native.protocol.curve import ORDER
from zkserve.engines.native.protocol.description import HELPER_BLINDS, Description, decode
from zkserve.engines.native.protocol.equations import equation_weights
from zkserve.engines.native.protocol.functionals import Challenges, Messages, claims, rotated
from zkserve.engines.native.protocol.vectors import Family, Term, Vector, eq, eq_prefix
from zkserve.engines.native.protocol.wire import DescriptionInvalid

TAG: Final = b"zkserve/native/certificate/v1"
SAMPLES: Final = (0, 1)
MODES: Final = (0, 1)


@dataclass(frozen=True, kw_only=True)
class Rank:
    """What one sample of all challenges shows of a layout.

    ``margin`` is whether the rank stays what it is without any one mask cell of h and any one of w.
    """

    rank: int
    columns: int
    coordinates: int
    margin: bool

    @property
    def full(self) -> bool:
        """Whether what is revealed is jointly uniform, with margin."""
        return self.rank == self.columns and self.margin


def certify(description: Description) -> Description:
    """Return the description with its certificate digest.

    Raises:
        DescriptionInvalid: masks and blinds of its layout do not hide what a proof reveals.

    """
    description = replace(description, certificate=bytes(32))
    seed = keccak(description.encode())
    digest = TAG + seed
    for mode in MODES:
        for sample in SAMPLES:
            found = measure(description, seed, mode=mode, sample=sample)
            _require(found, mode, sample)
            numbers = (found.rank, found.columns, found.coordinates)
            digest += b"".join(number.to_bytes(4, "big") for number in numbers)
    return replace(description, certificate=keccak(digest))


def check(data: bytes, multipliers: Sequence[int] | None = None) -> Description:
    """Read a description and run the gate on its final bytes.

    With a version's own ``multipliers`` it is run with those as well: full rank for random ones
    says nothing of particular ones.

    Raises:
        DescriptionInvalid: it is refused by the rules or by the gate, or its digest is another.

    """
    description = decode(data)
    if certify(description).certificate != description.certificate:
        raise DescriptionInvalid("The certificate digest is not that of the description.")
    if multipliers is not None:
        if len(multipliers) != description.multipliers:
            raise DescriptionInvalid(
                f"The circuit has {description.multipliers} multipliers; got {len(multipliers)}."
            )
        seed = keccak(replace(description, certificate=bytes(32)).encode())
        for mode in MODES:
            for sample in SAMPLES:
                found = measure(
                    description, seed, mode=mode, sample=sample, multipliers=multipliers
                )
                _require(found, mode, sample)
    return description


def _require(found: Rank, mode: int, sample: int) -> None:
    if found.full:
        return
    kind = "hidden" if mode else "public"
    raise DescriptionInvalid(
        f"The layout would leak: of {found.columns} revealed values {found.rank} are masked "
        f"(sample {sample}, {kind} input){'' if found.margin else ', without margin'}.",
        remedy="Place the mask cells elsewhere or add more of them.",
    )


class Sample:
    """All challenges of one mode and sample, derived from the description.

    They come in the order of section 7, then ``s``, then the multipliers.
    """

    def __init__(self, d: Description, seed: bytes, *, mode: int, sample: int) -> None:
        self._prefix = TAG + seed + bytes([mode, sample])
        self._counter = 0
        alpha, lambda_, eta = self._take(3)
        self.claims = Challenges(
            alpha=alpha,
            lambda_=lambda_,
            eta=eta,
            tau=self._take(d.rounds),
            equations=[self._take(sum(d.equation_challenges(e))) for e in d.equations],
            output=self._take(sum(d.output_challenges)),
            r=self._take(d.rounds),
            chi_x=self._one(),
            chi=self._take(d.header.k),
            beta=self._one(),
        )
        self.rho = self._take(d.header.k)
        self.theta, self.gamma, self.zeta, self.nu, self.omega, self.s = self._take(6)
        self.multipliers = [1 + value % 0xFFFF for value in self._take(d.multipliers)]

    def _one(self) -> int:
        data = keccak(self._prefix + self._counter.to_bytes(4, "big"))
        self._counter += 1
        return int.from_bytes(data, "big") % ORDER

    def _take(self, count: int) -> list[int]:
        return [self._one() for _ in range(count)]


def measure(
    d: Description,
    seed: bytes,
    *,
    mode: int,
    sample: int,
    multipliers: Sequence[int] | None = None,
) -> Rank:
    """Return what a sample shows; ``seed`` is the digest of D without its certificate."""
    challenges = Sample(d, seed, mode=mode, sample=sample)
    own = challenges.multipliers if multipliers is None else list(multipliers)
    split = d.split_multipliers(tuple(own))
    c = challenges.claims
    weights = [
        equation_weights(d, equation, numbers, point)
        for equation, (numbers, _), point in zip(d.equations, split, c.equations, strict=True)
    ]
    terms, _ = claims(
        d,
        c,
        weights,
        [factors for _, factors in split],
        Messages(total=0, libra=0, evaluations=[0] * d.evaluations, masked=0),
        packed_input=None if mode else bytes(d.input_packing.size_bytes),
        outputs=[0] * d.outputs,
    )
    matrix = _matrix(d, challenges, terms)
    helpers = len(d.helper_mask_cells)
    rank, kernel = _left_kernel(matrix)
    rays = [_ray(row) for row in kernel[: helpers + len(d.row_mask_cells)]]
    margin = None not in rays and not set(rays[:helpers]) & set(rays[helpers:])
    return Rank(rank=rank, columns=len(matrix[0]), coordinates=len(matrix), margin=margin)


@dataclass(frozen=True, kw_only=True)
class _Coordinate:
    """Coefficient ``index`` of a tile: a mask cell below ``N``, a blind from there on."""

    family: Family
    tile: int
    index: int


def _coordinates(d: Description) -> list[_Coordinate]:
    cells = [(Family.HELPERS, cell) for cell in d.helper_mask_cells]
    cells += [(Family.ROWS, cell) for cell in d.row_mask_cells]
    masks = [
        _Coordinate(family=family, tile=cell // d.cells, index=cell % d.cells)
        for family, cell in cells
    ]
    return masks + [
        _Coordinate(family=family, tile=tile, index=d.cells + blind)
        for family, tiles, blinds in (
            (Family.HELPERS, d.header.helper_tiles, HELPER_BLINDS),
            (Family.ROWS, d.header.row_tiles, 1),
        )
        for tile in range(tiles)
        for blind in range(blinds)
    ]


def _matrix(d: Description, sample: Sample, terms: Iterable[Term]) -> list[list[int]]:
    """One row per coordinate, one column per revealed value."""
    coordinates = _coordinates(d)
    tiles = [(Family.ROWS, tile) for tile in range(d.header.row_tiles)]
    tiles += [(Family.HELPERS, tile) for tile in range(d.header.helper_tiles)]
    folded = {tile: _Folded(d, terms, tile) for tile in tiles}
    chi = sample.claims.chi
    points = {Family.HELPERS: chi, Family.ROWS: rotated(chi)}
    square = sample.claims.chi_x * sample.claims.chi_x % ORDER

    rows = []
    for at in coordinates:
        power = pow(sample.s, at.index, ORDER)
        row = [power if tile == (at.family, at.tile) else 0 for tile in tiles]
        if at.family == Family.HELPERS:
            weight = 1 + at.tile * sample.claims.chi_x
        else:
            weight = square if at.tile == d.header.row_tiles - 1 else 0
        masked = at.index < d.cells
        row.append(weight * eq_prefix(points[at.family], at.index) % ORDER if masked else 0)
        rows.append(row)

    bound = [1] * len(coordinates)  # eq of the bits of each coordinate that are bound already
    for i, rho in enumerate(sample.rho):
        half = d.cells >> i + 1
        for number, at in enumerate(coordinates):
            if at.index >= d.cells:
                rows[number] += (0, 0)
                continue
            table = folded[at.family, at.tile]
            low = table.at(at.index & half - 1)
            difference = (table.at(at.index & half - 1 | half) - low) * bound[number] % ORDER
            if at.index & half:
                rows[number] += (0, difference)
                bound[number] = bound[number] * rho % ORDER
            else:
                rows[number] += (low * bound[number] % ORDER, -difference % ORDER)
                bound[number] = bound[number] * (1 - rho) % ORDER
        for table in folded.values():
            table.fold(rho)

    opened = _OpenedMonomials(sample, d.header.k)
    for row, at in zip(rows, coordinates, strict=True):
        row += opened.values(at.index, folded[at.family, at.tile].at(0))
    return rows


class _Folded:
    """The functional ``L_t`` of one tile while its leading variables are bound one by one.

    A block is the outer product of its vectors at some positions of the tile: first positions are
    folded, then the vectors from the front.
    """

    def __init__(self, d: Description, terms: Iterable[Term], tile: tuple[Family, int]) -> None:
        base = tile[1] << d.header.k
        self._blocks: list[tuple[dict[int, int], list[Vector], int]] = []
        for term in terms:
            bits, positions = term.bits, dict[int, int]()
            for place in term.places:
                if place.family == tile[0] and base <= place.offset < base + d.cells:
                    position = (place.offset - base) >> bits
                    positions[position] = positions.get(position, 0) + place.coefficient
            if positions:
                self._blocks.append((positions, [v for v in term.vectors if len(v) > 1], bits))
                for vector in term.vectors:
                    if len(vector) == 1:
                        for position in positions:
                            positions[position] = positions[position] * vector[0] % ORDER
        self._left = d.header.k

    def at(self, index: int) -> int:
        """Return the entry at an index of the variables that are not bound."""
        total = 0
        for positions, vectors, bits in self._blocks:
            value = positions.get(index >> bits)
            if value is None:
                continue
            rest = index
            for vector in reversed(vectors):
                size = len(vector)
                value = value * vector[rest & size - 1] % ORDER
                rest //= size
            total += value
        return total % ORDER

    def fold(self, rho: int) -> None:
        """Bind the first variable."""
        self._left -= 1
        for number, (positions, vectors, bits) in enumerate(self._blocks):
            if bits <= self._left:
                half = 1 << self._left - bits
                result: dict[int, int] = {}
                for position, value in positions.items():
                    weight = rho if position & half else 1 - rho
                    low = position & half - 1
                    result[low] = (result.get(low, 0) + weight * value) % ORDER
                self._blocks[number] = (result, vectors, bits)
                continue
            first, *others = vectors
            half = len(first) // 2
            table = [(a + rho * (b - a)) % ORDER for a, b in zip(first, first[half:], strict=False)]
            if half > 1:
                self._blocks[number] = (positions, [table, *others], bits - 1)
            else:
                scalar = {0: positions[0] * table[0] % ORDER}
                self._blocks[number] = (scalar, others, bits - 1)


class _OpenedMonomials:
    """What the opening of section 10 reveals of ``weight · X^index``."""

    def __init__(self, sample: Sample, k: int) -> None:
        self._sample = sample
        self._low_bits = k // 2
        high, low = sample.rho[: k - k // 2], sample.rho[k - k // 2 :]
        self._low = eq(low)
        powers = [1]
        for _ in range(1 << len(high)):
            powers.append(powers[-1] * sample.theta % ORDER)
        self._theta = powers
        q = [sample.gamma * entry - power for entry, power in zip(eq(high), powers, strict=False)]
        q.append(-powers[-1])
        self._points = (sample.s, sample.zeta)
        self._low_around = [_around(self._low, x) for x in self._points]
        self._q_around = [_around(q, x) for x in self._points]
        self._inverse = pow(sample.zeta, -1, ORDER)
        size = 1 << self._low_bits
        self._divisor = pow(pow(sample.s, size, ORDER) - sample.theta, -1, ORDER)

    def values(self, index: int, weight: int) -> list[int]:
        """Return the exponents of [h], [g], [S], [q*] and the five scalars that are sent."""
        s, zeta, inverse = self._sample.s, self._sample.zeta, self._inverse
        size = 1 << self._low_bits
        j, i = divmod(index, size)
        g, h = weight * self._theta[j] % ORDER, weight * self._low[i] % ORDER
        s_at = [
            g * low[i] + h * q[j] for low, q in zip(self._low_around, self._q_around, strict=True)
        ]
        g_s = g * pow(s, i, ORDER)
        quotient = (weight * pow(s, index, ORDER) - g_s) * self._divisor
        quotient += g * pow(s, size - 1 - i, ORDER)
        values = (
            *(h * pow(s, j, ORDER), g_s, s_at[0], quotient),
            *(g * pow(zeta, i, ORDER), g * pow(inverse, i, ORDER)),
            *(h * pow(zeta, j, ORDER), h * pow(inverse, j, ORDER), s_at[1]),
        )
        return [value % ORDER for value in values]


def _around(vector: Sequence[int], x: int) -> list[int]:
    """Return for each ``i`` the sum of ``vector[m] · x^(|i - m| - 1)`` over ``m != i``."""
    before, after = [0], [0]
    for value in vector[:-1]:
        before.append((before[-1] * x + value) % ORDER)
    for value in vector[:0:-1]:
        after.append((after[-1] * x + value) % ORDER)
    return [a + b for a, b in zip(before, reversed(after), strict=True)]


def _left_kernel(matrix: list[list[int]]) -> tuple[int, list[list[int]]]:
    """Return the rank, and for each row its coordinates in a basis of the left kernel.

    Deleting rows keeps the rank exactly when the kernel's vectors at those rows are independent.
    """
    columns = [list(column) for column in zip(*matrix, strict=True)]
    pivots: list[int] = []
    for pivot in range(len(matrix)):
        rank = len(pivots)
        found = next((i for i in range(rank, len(columns)) if columns[i][pivot]), None)
        if found is None:
            continue
        columns[rank], columns[found] = columns[found], columns[rank]
        scale = pow(columns[rank][pivot], -1, ORDER)
        lead = [value * scale % ORDER for value in columns[rank]]
        columns[rank] = lead
        for i, column in enumerate(columns):
            factor = column[pivot]
            if factor and i != rank:
                columns[i] = [(x - factor * y) % ORDER for x, y in zip(column, lead, strict=True)]
        pivots.append(pivot)
    free = [i for i in range(len(matrix)) if i not in set(pivots)]
    kernel: list[list[int]] = [[int(i == f) for f in free] for i in range(len(matrix))]
    for pivot, column in zip(pivots, columns, strict=False):
        kernel[pivot] = [-column[f] % ORDER for f in free]
    return len(pivots), kernel


def _ray(vector: Sequence[int]) -> tuple[int, ...] | None:
    """Return the multiple whose first non-zero entry is 1; None for zero."""
    lead = next((value for value in vector if value), None)
    if lead is None:
        return None
    scale = pow(lead, -1, ORDER)
    return tuple(value * scale % ORDER for value in vector)
