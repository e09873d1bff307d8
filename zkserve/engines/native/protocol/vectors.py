"""Vectors of field elements over the indices of tiles, and sums of their outer products.

A functional on committed cells is a list of terms. A term has one vector per dimension of a block;
the same vectors often weight several blocks, so a term has several *places*.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from zkserve.engines.native.protocol.curve import ORDER
from zkserve.engines.native.protocol.description import Description, Piece, Tensor, View, clog

Vector: TypeAlias = Sequence[int]


class Family(StrEnum):
    """The families of tiles, by the letters of the protocol."""

    WEIGHTS = "W"
    ROWS = "w"
    HELPERS = "h"
    INPUT = "X"


@dataclass(frozen=True, kw_only=True)
class Place:
    """A block of a family at a cell address, weighted by ``coefficient`` mod ``p``."""

    family: Family
    offset: int
    coefficient: int


@dataclass(frozen=True, kw_only=True)
class Term:
    """The outer product of ``vectors``, whose lengths are powers of two, at every place."""

    vectors: tuple[Vector, ...]
    places: tuple[Place, ...]

    @property
    def bits(self) -> int:
        """log2 of the cells of a block."""
        return sum(clog(len(vector)) for vector in self.vectors)

    def scaled(self, factor: int) -> Term:
        """Return the term with every coefficient multiplied by ``factor``."""
        places = tuple(
            Place(
                family=place.family,
                offset=place.offset,
                coefficient=place.coefficient * factor % ORDER,
            )
            for place in self.places
        )
        return Term(vectors=self.vectors, places=places)


def eq(point: Sequence[int]) -> list[int]:
    """Return ``eq(point, i)`` for every index, the first coordinate being the highest bit."""
    table = [1]
    for u in point:
        table = [v for x in table for v in ((x - x * u) % ORDER, x * u % ORDER)]
    return table


def teq(point: Sequence[int], size: int) -> list[int]:
    """Return the first ``size`` entries of ``eq(point)``; the others count as zero."""
    return eq(point)[:size]


def eq_bits(point: Sequence[int]) -> tuple[Vector, ...]:
    """Return ``eq(point)`` as one vector of two entries per coordinate."""
    return tuple(((1 - u) % ORDER, u) for u in point)


def eq_prefix(point: Sequence[int], index: int) -> int:
    """Return ``eq(point, index)`` of one index."""
    result = 1
    for i, u in enumerate(reversed(point)):
        result = result * (u if index >> i & 1 else 1 - u) % ORDER
    return result


def eqv(a: Sequence[int], b: Sequence[int]) -> int:
    """Return ``eq`` of two points."""
    return prod_mod((1 - x - y + 2 * x * y) for x, y in zip(a, b, strict=True))


def prod_mod(factors: Iterable[int]) -> int:
    """Return a product mod ``p``."""
    result = 1
    for factor in factors:
        result = result * factor % ORDER
    return result


def dot(a: Sequence[int], b: Sequence[int]) -> int:
    """Return the inner product of two vectors of one length."""
    return sum(x * y for x, y in zip(a, b, strict=True)) % ORDER


def sums(*vectors: Vector) -> int:
    """Return the product of the sums of the entries."""
    return prod_mod(sum(vector) for vector in vectors)


def last(point: Sequence[int], count: int) -> Sequence[int]:
    """Return the last coordinates of a point."""
    return point[len(point) - count :]


def split(point: Sequence[int], bits: Sequence[int]) -> list[Sequence[int]]:
    """Return the coordinates of each part, which together are the whole point."""
    if sum(bits) != len(point):
        raise ValueError(f"{len(point)} coordinates do not split into {list(bits)}")
    at, parts = 0, []
    for count in bits:
        parts.append(point[at : at + count])
        at += count
    return parts


def padded(vector: Vector, bits: int) -> list[int]:
    """Return the vector filled with zeros up to ``2**bits`` entries."""
    return [*vector, *([0] * ((1 << bits) - len(vector)))]


def placed(vector: Vector, at: int, size: int) -> list[int]:
    """Return ``size`` entries, zero but for ``vector`` from index ``at`` on."""
    return [0] * at + list(vector) + [0] * (size - at - len(vector))


def cut(
    pieces: Iterable[Piece], lead: Vector, rest: tuple[Vector, ...]
) -> Iterator[tuple[int, tuple[Vector, ...]]]:
    """Yield (offset, vectors) of each piece of a block; a piece without weight is left out."""
    for piece in pieces:
        entries = lead[piece.first : piece.first + (1 << piece.log)]
        if any(entries):
            yield piece.offset, (padded(entries, piece.log), *rest)


def spatial(tensor: Tensor, y: Vector, x: Vector) -> tuple[Vector, ...]:
    """Return the vectors of a tensor's stored dimensions after channel and batch."""
    if tensor.flat:
        flat = [a * b % ORDER for a in y for b in x]
        return (padded(flat, clog(tensor.height * tensor.width)),)
    return padded(y, clog(tensor.height)), padded(x, clog(tensor.width))


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Weights of the cells of a tensor: one vector per stored dimension, channels first."""

    tensor: int
    channels: Vector
    rest: tuple[Vector, ...]

    @property
    def total(self) -> int:
        """The sum of the weights of all cells."""
        return sums(self.channels, *self.rest)

    def in_columns(self, d: Description, columns: Iterable[tuple[int, int]]) -> list[Term]:
        """Return the functional on row columns, each given with its coefficient."""
        weighted = [(column << d.header.row_bits, factor % ORDER) for column, factor in columns]
        pieces = d.tensors[self.tensor].pieces
        return [
            Term(
                vectors=vectors,
                places=tuple(
                    Place(family=Family.ROWS, offset=base + offset, coefficient=factor)
                    for base, factor in weighted
                ),
            )
            for offset, vectors in cut(pieces, self.channels, self.rest)
        ]

    def values(self, d: Description, factor: int) -> list[Term]:
        """Return the functional on what the tensor holds, zero point not subtracted."""
        if self.tensor:
            return self.in_columns(d, [(d.columns.y, factor)])
        return self.in_columns(
            d, [(column, factor << 8 * byte) for byte, column in enumerate(d.columns.input)]
        )


def weight_terms(
    pieces: Iterable[Piece], lead: Vector, rest: tuple[Vector, ...], factor: int
) -> list[Term]:
    """Return the functional on a block of weights."""
    return [
        Term(
            vectors=vectors,
            places=(Place(family=Family.WEIGHTS, offset=offset, coefficient=factor % ORDER),),
        )
        for offset, vectors in cut(pieces, lead, rest)
    ]


def pull_back(vector: Vector, source: Tensor, views: Sequence[View], axis: int) -> Vector:
    """Return weights of a source's rows (axis 0) or columns from those of its views' result.

    It is the transpose of the window sums, last view first.
    """
    sizes = [(source.height, source.width)[axis]]
    sizes += [(view.height, view.width)[axis] for view in views]
    for view, size in zip(reversed(views), sizes[-2::-1], strict=True):
        kernel, stride, padding = ((view.kh, view.sh, view.ph), (view.kw, view.sw, view.pw))[axis]
        pulled = [0] * size
        for o, weight in enumerate(vector):
            start = stride * o - padding
            for i in range(max(start, 0), min(start + kernel, size)):
                pulled[i] += weight
        vector = [value % ORDER for value in pulled]
    return vector


def evaluate(
    terms: Iterable[Term], point: Sequence[int], cells: int
) -> dict[tuple[Family, int], int]:
    """Return ``L_t(point)`` of every tile (family, number) that a term touches.

    The multilinear extension of a term is a product of one inner product per dimension and of
    ``eq`` of the leading coordinates at the block's position in its tile.
    """
    tables: dict[tuple[int, int], list[int]] = {}
    prefixes: dict[tuple[int, int], int] = {}
    result: dict[tuple[Family, int], int] = {}
    for term in terms:
        bits = term.bits
        at = leading = len(point) - bits
        value = 1
        for vector in term.vectors:
            end = at + clog(len(vector))
            table = tables.get((at, end))
            if table is None:
                table = tables[at, end] = eq(point[at:end])
            value = value * dot(vector, table) % ORDER
            at = end
        for place in term.places:
            tile, offset = divmod(place.offset, cells)
            key = (leading, offset >> bits)
            prefix = prefixes.get(key)
            if prefix is None:
                prefix = prefixes[key] = eq_prefix(point[:leading], key[1])
            name = (place.family, tile)
            result[name] = (
                result.get(name, 0) + value * prefix % ORDER * place.coefficient
            ) % ORDER
    return result
