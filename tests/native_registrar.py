"""A slow prover of range proofs that proves whatever cells it is given, to try verifiers with lies.

It follows section 16 of the protocol and stays consistent after the lie: multiplicities, helpers
and sums are those of the altered cells, so that a verifier can object to nothing but the lie. It
hides nothing (all masks and blinds are zero), and it knows the secret of its SRS, which spares it
multiplications but no step: every polynomial is the one that the protocol asks for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from zkserve.engines.native import core
from zkserve.engines.native.protocol import registration
from zkserve.engines.native.protocol.curve import (
    GENERATOR,
    GENERATOR_2,
    ORDER,
    g1_to_bytes,
    g2_to_bytes,
)
from zkserve.engines.native.protocol.description import HELPER_GROUP, Piece, decode, digest
from zkserve.engines.native.protocol.functionals import rotated
from zkserve.engines.native.protocol.range_bounds import bounds, largest_value
from zkserve.engines.native.protocol.range_layout import INTEGER_BYTES, ByteCell, RangeLayout
from zkserve.engines.native.protocol.transcript import (
    REGISTRATION,
    Transcript,
    srs_digest,
    weights_digest,
)
from zkserve.engines.native.protocol.vectors import Family, Term, dot, eq, last

SECRET = 0x5EED
HALF = pow(2, -1, ORDER)
Column = list[int]


def word(value: int) -> bytes:
    return (value % ORDER).to_bytes(32)


def inverse(value: int) -> int:
    return pow(value, -1, ORDER)


def at(polynomial: Sequence[int], x: int) -> int:
    result = 0
    for coefficient in reversed(polynomial):
        result = (result * x + coefficient) % ORDER
    return result


def fold(table: Sequence[int], r: int) -> list[int]:
    half = len(table) // 2
    return [(a + r * (b - a)) % ORDER for a, b in zip(table[:half], table[half:], strict=True)]


def interpolate(values: Sequence[int]) -> list[int]:
    """Return the coefficients of the polynomial with ``values[i]`` at ``i``."""
    coefficients, basis = [0] * len(values), [1]
    differences = list(values)
    for i in range(len(values)):
        for j, coefficient in enumerate(basis):
            coefficients[j] = (coefficients[j] + differences[0] * coefficient) % ORDER
        step = inverse(i + 1)
        pairs = pairwise(differences)
        differences = [(b - a) * step % ORDER for a, b in pairs]
        shifted = [0, *basis]
        basis = [(a - i * b) % ORDER for a, b in zip(shifted, [*basis, 0], strict=True)]
    return coefficients


class Registrar:
    """An owner with a description, multipliers and cells of family W: any field elements.

    ``columns`` are the bytes that an honest owner of integers has; a lie is made by changing cells
    or columns before :meth:`prove`.
    """

    def __init__(
        self, description: bytes, weight_bytes: int, multipliers: Sequence[int], cells: list[int]
    ) -> None:
        self.description = description
        self.layout = RangeLayout(d=decode(description), weight_bytes=weight_bytes)
        self.d = self.layout.d
        self.multipliers = tuple(multipliers)
        self.cells = cells
        size = self.d.cells
        self.columns: list[Column] = [[0] * size for _ in range(self.layout.columns)]
        self._fill()

    @property
    def srs_digest(self) -> bytes:
        return srs_digest(g1_s=self._commit([0, 1]), g2_s=self.g2_s)

    @property
    def g2_s(self) -> bytes:
        return bytes(core.load().g2_multiply(g2_to_bytes(GENERATOR_2), word(SECRET)))

    @property
    def weights(self) -> bytes:
        return weights_digest(self._commitments, self.multipliers)

    @property
    def _commitments(self) -> list[bytes]:
        size = self.d.cells
        return [self._commit(self.cells[i : i + size]) for i in range(0, len(self.cells), size)]

    def put(self, cell: ByteCell, index: int, value: int) -> None:
        """Set one byte of the integer ``index`` of a block."""
        tile, offset = divmod(cell.address + index, self.d.cells)
        self.columns[tile][offset] = value

    def write(self, blocks: Sequence[ByteCell], index: int, value: int) -> None:
        """Write an integer into its bytes, as far as there are bytes for it."""
        sign, magnitude = (1, value) if value >= 0 else (-1, -value)
        for cell in blocks:
            if cell.sign == sign:
                self.put(cell, index, magnitude >> 8 * cell.byte & 255)

    def slack(self, equation: int, channel: int) -> tuple[tuple[ByteCell, ...], int]:
        """Return the bytes of what a channel leaves below its bound, and its index in them."""
        for block in self.layout.slacks(equation):
            index = channel - block.piece.first
            if 0 <= index < 1 << block.piece.log:
                return block.auxiliary, index
        raise LookupError(channel)

    def _fill(self) -> None:
        for address, value in enumerate(self.cells):
            self.write(list(self.layout.low_bytes(address)), 0, value)
        limits = bounds(self.d, self.multipliers)
        for number, equation in enumerate(self.d.equations):
            for block in self.layout.biases(number):
                for index in range(1 << block.piece.log):
                    self.write(block.auxiliary, index, self.cells[block.piece.offset + index])
            for channel in range(equation.channels):
                left = limits[number][channel] - self.norm(number, channel)
                cells, index = self.slack(number, channel)
                self.write(cells, index, left % (1 << 8 * INTEGER_BYTES))

    def norm(self, number: int, channel: int) -> int:
        """Return ``T`` of a channel without scaled terms; groups and order 1 are not for here."""
        equation, total = self.d.equations[number], 0
        for product in equation.products:
            assert equation.groups == 1
            assert product.order == 0
            size = 1 << self.d.instance(number, product).rest_bits
            row = self._entry(product.pieces, channel, size)
            largest = largest_value(self.d, product.source, product.views)
            total += largest * sum(abs(value) for value in row)
        return total + sum(abs(value) for value in self._entry(equation.bias, channel, 1))

    def _entry(self, pieces: Sequence[Piece], channel: int, size: int) -> list[int]:
        for piece in pieces:
            if piece.first <= channel < piece.first + (1 << piece.log):
                start = piece.offset + (channel - piece.first) * size
                return self.cells[start : start + size]
        return []

    def _commit(self, polynomial: Sequence[int]) -> bytes:
        scalar = word(at(polynomial, SECRET))
        return bytes(core.load().g1_multiply(g1_to_bytes(GENERATOR), scalar))

    def prove(self) -> bytes:
        """Return a range proof; it verifies if there is no lie."""
        return _Run(self).proof()


class _Run:
    """One proof, step by step as in the protocol."""

    def __init__(self, owner: Registrar) -> None:
        self.o, self.layout, self.d = owner, owner.layout, owner.d
        self.size, self.k = self.d.cells, self.d.header.k
        self.sent = b""
        self.transcript = Transcript(REGISTRATION)
        self.transcript.absorb(
            owner.srs_digest
            + digest(owner.description)
            + self.layout.weight_bytes.to_bytes(32)
            + owner.weights
        )

    def _points(self, polynomials: Sequence[Sequence[int]]) -> None:
        data = b"".join(self.o._commit(p) for p in polynomials)
        self.sent += data
        self.transcript.absorb(data)

    def _scalars(self, values: Sequence[int]) -> None:
        data = b"".join(word(value) for value in values)
        self.sent += data
        self.transcript.absorb(data)

    def proof(self) -> bytes:
        rows, helpers, evaluated, draws = self._columns_and_helpers()
        total, r, libra, evaluations = self._main_sumcheck(evaluated, draws)
        chi_x, chi = self.transcript.challenge(), self.transcript.challenges(self.k)
        weights = eq(chi), eq(rotated(chi))
        masked = sum((1 + t * chi_x) * dot(tile, weights[0]) for t, tile in enumerate(helpers))
        masked += chi_x * chi_x * dot(rows[-1], weights[1])
        self._scalars([masked])
        messages = registration.RangeMessages(
            total=total,
            libra=libra,
            evaluations=evaluations,
            masked=masked,
            r=r,
            chi_x=chi_x,
            chi=chi,
        )
        limits = bounds(self.d, self.o.multipliers)
        beta = self.transcript.challenge()
        terms, claim = registration.claims(self.layout, draws, messages, limits, beta)
        cells = [self.o.cells[i : i + self.size] for i in range(0, len(self.o.cells), self.size)]
        tiles = {Family.WEIGHTS: cells, Family.ROWS: rows, Family.HELPERS: helpers}
        rho, combined = self._final_sumcheck(terms, tiles, claim)
        self._open(combined, rho)
        commitments = b"".join(self.o._commitments)
        multipliers = b"".join(value.to_bytes(4) for value in self.o.multipliers)
        return commitments + multipliers + self.sent

    def _columns_and_helpers(
        self,
    ) -> tuple[list[Column], list[Column], list[Column], registration.RangeChallenges]:
        columns, layout = self.o.columns, self.layout
        counts = [0] * 256
        for value in (value % ORDER for column in columns for value in column):
            if value < 256:
                counts[value] += 1
        rows = [*columns, counts + [0] * (self.size - 256)]
        self._points(rows)
        alpha = self.transcript.challenge()
        inverses = {value: inverse(alpha - value) for column in columns for value in column}
        groups = []
        for number in range(layout.helper_columns):
            group = columns[HELPER_GROUP * number : HELPER_GROUP * (number + 1)]
            groups.append([sum(inverses[v] for v in row) for row in zip(*group, strict=True)])
        table = [count * inverse(alpha - value) for value, count in enumerate(counts)]
        helpers = [*groups, table + [0] * (self.size - 256), [0] * self.size]
        self._points(helpers)
        draws = registration.draw(self.d, self.transcript, alpha)
        return rows, helpers, [*columns, *groups, table, counts], draws

    def _main_sumcheck(
        self, evaluated: list[Column], draws: registration.RangeChallenges
    ) -> tuple[int, list[int], int, list[int]]:
        """Sum over the cube what section 16 sums, all of it as tables of one size."""
        count = self.layout.columns
        spread = self.size // 256
        tables = [*evaluated[:-2], *(table * spread for table in evaluated[-2:])]
        tables += [eq(draws.tau), eq(draws.tau[:8]) * spread, list(range(256)) * spread]
        eta = [pow(draws.eta, i, ORDER) for i in range(self.layout.helper_columns + 1)]
        share = pow(HALF, self.k - 8, ORDER) * eta[-1] % ORDER

        def summand(values: Sequence[int]) -> int:
            *factors, inverted, counted, weight, table_weight, byte = values
            total = 0
            for number, helper in enumerate(factors[count:]):
                product, others = 1, 0
                for value in factors[HELPER_GROUP * number : HELPER_GROUP * (number + 1)][
                    : count - HELPER_GROUP * number
                ]:
                    term = draws.alpha - value
                    others = (others * term + product) % ORDER
                    product = product * term % ORDER
                total += eta[number] * (helper * product - others)
            table = share * table_weight % ORDER * (inverted * (draws.alpha - byte) - counted)
            return (weight * total + table) % ORDER

        total = sum(summand(row) for row in zip(*tables, strict=True)) % ORDER
        self._scalars([total])
        claim, r = total, []
        for degree in self.layout.degrees:
            half = len(tables[0]) // 2
            values = []
            for x in range(6):
                line = [fold(table, x) for table in tables]
                values.append(sum(summand([t[i] for t in line]) for i in range(half)) % ORDER)
            polynomial = interpolate(values) + [0] * (degree - 5)
            # The linear coefficient follows from the claim, which a lie leaves behind.
            constant, _, *others = polynomial
            self._scalars([constant, *others])
            linear = claim - 2 * constant - sum(others)
            r.append(self.transcript.challenge())
            claim = at([constant, linear, *others], r[-1])
            tables = [fold(table, r[-1]) for table in tables]
        evaluations = [table[0] for table in tables[:-3]]
        self._scalars(evaluations)
        bracket = registration.bracket(self.layout, draws, r, evaluations)
        return total, r, (claim - bracket) % ORDER, evaluations

    def _final_sumcheck(
        self, terms: Sequence[Term], tiles: Mapping[Family, list[Column]], claim: int
    ) -> tuple[list[int], Column]:
        names = [(family, i) for family, some in tiles.items() for i in range(len(some))]
        weights = {name: [0] * self.size for name in names}
        for term in terms:
            table = [1]
            for vector in term.vectors:
                table = [a * b % ORDER for a in table for b in vector]
            for place in term.places:
                number, offset = divmod(place.offset, self.size)
                own = weights[place.family, number]
                for i, value in enumerate(table):
                    own[offset + i] = (own[offset + i] + place.coefficient * value) % ORDER
        pairs = [(weights[name], tiles[name[0]][name[1]]) for name in names]
        rho = []
        for _ in range(self.k):
            half = len(pairs[0][0]) // 2
            constant = sum(dot(a[:half], b[:half]) for a, b in pairs)
            square = sum(
                (a[half + i] - a[i]) * (b[half + i] - b[i]) for a, b in pairs for i in range(half)
            )
            self._scalars([constant, square])
            rho.append(self.transcript.challenge())
            claim = at([constant, claim - 2 * constant - square, square], rho[-1])
            pairs = [(fold(a, rho[-1]), fold(b, rho[-1])) for a, b in pairs]
        combined = [0] * self.size
        for name, (weight, _) in zip(names, pairs, strict=True):
            for i, value in enumerate(tiles[name[0]][name[1]]):
                combined[i] = (combined[i] + weight[0] * value) % ORDER
        return rho, combined

    def _open(self, f: list[int], rho: list[int]) -> None:
        """Section 10, without blinds."""
        low_bits = self.k // 2
        b, high = 1 << low_bits, 1 << self.k - low_bits
        low_eq, high_eq = eq(last(rho, low_bits)), eq(rho[: self.k - low_bits])
        h = [dot(f[b * j : b * (j + 1)], low_eq) for j in range(high)]
        self._points([h])
        theta, gamma = self.transcript.challenges(2)
        quotient, running = [0] * len(f), [0] * b
        for j in range(high - 1, -1, -1):
            quotient[b * j : b * (j + 1)] = running
            running = [
                (a + theta * c) % ORDER
                for a, c in zip(f[b * j : b * (j + 1)], running, strict=True)
            ]
        g = running
        for i, coefficient in enumerate(g):
            quotient[b - 1 - i] = (quotient[b - 1 - i] + coefficient) % ORDER
        powers = [pow(theta, j, ORDER) for j in range(high + 1)]
        q = [gamma * e - p for e, p in zip([*high_eq, 0], powers, strict=True)]
        s = [0] * (high + 1)
        for a, c in ((g, low_eq), (h, q)):
            for i, x in enumerate(a):
                for j, y in enumerate(c):
                    if i != j:
                        s[abs(i - j) - 1] = (s[abs(i - j) - 1] + x * y) % ORDER
        self._points([quotient, g, s])
        zeta = self.transcript.challenge()
        back = inverse(zeta)
        self._scalars([at(g, zeta), at(g, back), at(h, zeta), at(h, back), at(s, zeta), back])
        nu = self.transcript.challenge()
        divisor = pow(zeta, b, ORDER) - theta
        first = [x - divisor * y for x, y in zip(f, quotient, strict=True)]
        openings = ((zeta, (first, g, h, s)), (back, (g, h, s)))
        for point, polynomials in openings:
            combined = [0] * max(map(len, polynomials))
            for number, polynomial in enumerate(polynomials):
                for i, coefficient in enumerate(polynomial):
                    combined[i] += pow(nu, number, ORDER) * coefficient
            # The quotient by X - point, at the secret.
            difference = at(combined, SECRET) - at(combined, point)
            self._points([[difference * inverse(SECRET - point)]])
