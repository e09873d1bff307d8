"""The vectors of linear functionals in closed form, over expressions.

Section 9 of the protocol weighs committed cells by outer products of vectors. A verifier needs of a
vector ``v`` of ``2**bits`` entries its inner product with ``eq(u)``, at a point ``u``; its entries
are zero from the real size on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from zkserve.engines.native.evm.yul import Graph, Value
from zkserve.engines.native.protocol.description import Piece, clog


class Vector(Protocol):
    """A vector over ``bits`` variables with ``size`` real entries."""

    @property
    def bits(self) -> int:
        """Number of variables."""
        ...

    @property
    def size(self) -> int:
        """Number of entries that may differ from zero."""
        ...

    def at(self, index: int) -> Value:
        """Return a real entry."""
        ...

    def total(self) -> Value:
        """Return the sum of the entries."""
        ...

    def pair(self, point: Sequence[Value]) -> Value:
        """Return the inner product with ``eq(point)``."""
        ...

    def cut(self, first: int, log: int) -> tuple[Value, Vector]:
        """Return a factor and a vector of ``2**log`` entries: those from ``first`` on."""
        ...


def table(graph: Graph, point: Sequence[Value], count: int | None = None) -> list[Value]:
    """Return the first ``count`` entries of ``eq(point)``."""
    entries = [graph.value(1)]
    for remaining, coordinate in zip(range(len(point) - 1, -1, -1), point, strict=True):
        wanted = len(entries) * 2 if count is None else -(-count >> remaining)
        longer: list[Value] = []
        for entry in entries:
            one = entry * coordinate
            longer += [entry - one, one]
        entries = longer[:wanted]
    return entries


def fold(graph: Graph, entries: Iterable[int], point: Sequence[Value]) -> Value:
    """Return the multilinear extension of constant entries; equal parts are computed once."""
    values = [graph.value(entry) for entry in entries]
    for coordinate in reversed(point):
        pairs = zip(values[::2], values[1::2], strict=True)
        values = [low + coordinate * (high - low) for low, high in pairs]
    return values[0]


@dataclass(frozen=True)
class Rank1:
    """Entries that are products of one factor per bit, cut off at ``size``."""

    graph: Graph
    factors: tuple[tuple[Value, Value], ...]
    """For each variable the factor where its bit is 0, and where it is 1."""
    size: int

    @property
    def bits(self) -> int:
        """Number of variables."""
        return len(self.factors)

    def at(self, index: int) -> Value:
        """Return a real entry."""
        entry = self.graph.value(1)
        for position, (zero, one) in enumerate(self.factors):
            bit = index >> (self.bits - 1 - position) & 1
            if one.constant is None and zero is 1 - one:  # as in :func:`table`, to share prefixes
                high = entry * one
                entry = high if bit else entry - high
            else:
                entry = entry * (one if bit else zero)
        return entry

    def total(self) -> Value:
        """Return the sum of the entries."""
        zeros = [zero for zero, _ in self.factors]
        ones = [one for _, one in self.factors]
        return self._walk(zeros, ones, [z + o for z, o in self.factors])

    def pair(self, point: Sequence[Value]) -> Value:
        """Return the inner product with ``eq(point)``."""
        both = list(zip(self.factors, point, strict=True))
        zeros = [zero * (1 - u) for (zero, _), u in both]
        ones = [one * u for (_, one), u in both]
        sums = []
        for ((zero, one), u), low, high in zip(both, zeros, ones, strict=True):
            if one.op != "const" and zero is 1 - one:
                sums.append((1 - u) + one * (u + u - 1))
            else:
                sums.append(low + high)
        return self._walk(zeros, ones, sums)

    def _walk(self, zeros: list[Value], ones: list[Value], sums: list[Value]) -> Value:
        """Sum the products over all indices below ``size``."""
        suffix = [self.graph.value(1)]
        for factor in reversed(sums):
            suffix.append(factor * suffix[-1])
        suffix.reverse()
        rest = (1 << self.bits) - self.size
        if rest == 0:
            return suffix[0]
        if rest.bit_count() < self.size.bit_count():
            return suffix[0] - _below(ones, zeros, suffix, rest)
        return _below(zeros, ones, suffix, self.size)

    def cut(self, first: int, log: int) -> tuple[Value, Vector]:
        """Return a factor and a vector of ``2**log`` entries: those from ``first`` on."""
        one, zero = self.graph.value(1), self.graph.value(0)
        if first == 0 and log >= self.bits:
            longer = ((one, zero),) * (log - self.bits) + self.factors
            return one, Rank1(self.graph, longer, self.size)
        if first % (1 << log) or log >= self.bits or first >= self.size:
            return one, _entries(self, first, log)
        lead = Rank1(self.graph, self.factors[: self.bits - log], 1 << (self.bits - log))
        size = min(1 << log, self.size - first)
        return lead.at(first >> log), Rank1(self.graph, self.factors[self.bits - log :], size)


def _below(zeros: list[Value], ones: list[Value], suffix: list[Value], size: int) -> Value:
    """Sum the products over all indices below ``size``, bit by bit of it.

    With zeros and ones exchanged: over the ``size`` largest indices. ``suffix`` holds for each
    position the sum over all bits from there on.
    """
    graph = suffix[-1].graph
    total, prefix = graph.value(0), graph.value(1)
    for position, (zero, one) in enumerate(zip(zeros, ones, strict=True)):
        rest = size & ((1 << (len(zeros) - position)) - 1)
        if rest == 0:
            break
        if rest >> (len(zeros) - 1 - position):
            total = total + prefix * zero * suffix[position + 1]
            prefix = prefix * one
        else:
            prefix = prefix * zero
    return total


@dataclass(frozen=True)
class Dense:
    """Entries without structure."""

    graph: Graph
    entries: tuple[Value, ...]
    bits: int

    @property
    def size(self) -> int:
        """Number of entries that may differ from zero."""
        return len(self.entries)

    def at(self, index: int) -> Value:
        """Return a real entry."""
        return self.entries[index]

    def total(self) -> Value:
        """Return the sum of the entries."""
        return self.graph.sum(self.entries)

    def pair(self, point: Sequence[Value]) -> Value:
        """Return the inner product with ``eq(point)``."""
        weights = table(self.graph, point, self.size)
        return self.graph.sum(a * b for a, b in zip(self.entries, weights, strict=True))

    def cut(self, first: int, log: int) -> tuple[Value, Vector]:
        """Return a factor and a vector of ``2**log`` entries: those from ``first`` on."""
        return self.graph.value(1), _entries(self, first, log)


@dataclass(frozen=True)
class Placed:
    """A vector that begins at entry ``start`` of a longer one."""

    inner: Vector
    start: int
    length: int

    @property
    def bits(self) -> int:
        """Number of variables."""
        return clog(self.length)

    @property
    def size(self) -> int:
        """Number of entries that may differ from zero."""
        return self.start + self.inner.size

    def at(self, index: int) -> Value:
        """Return a real entry."""
        if index < self.start:
            return self.inner.total().graph.value(0)
        return self.inner.at(index - self.start)

    def total(self) -> Value:
        """Return the sum of the entries."""
        return self.inner.total()

    def pair(self, point: Sequence[Value]) -> Value:
        """Return the inner product with ``eq(point)``."""
        factor, vector = self.cut(0, self.bits)
        return factor * vector.pair(point)

    def cut(self, first: int, log: int) -> tuple[Value, Vector]:
        """Return a factor and a vector of ``2**log`` entries: those from ``first`` on."""
        inner, width = self.inner, 1 << self.inner.bits
        if self.start <= first:
            return inner.cut(first - self.start, log)
        inside = self.start - first
        if isinstance(inner, Rank1) and inside % width == 0 and inside + width <= 1 << log:
            graph = inner.graph
            one, zero = graph.value(1), graph.value(0)
            prefix = inside >> inner.bits
            lead = log - inner.bits
            fixed = tuple(
                (zero, one) if prefix >> (lead - 1 - i) & 1 else (one, zero) for i in range(lead)
            )
            return one, Rank1(graph, fixed + inner.factors, inside + inner.size)
        return inner.total().graph.value(1), _entries(self, first, log)


def _entries(vector: Vector, first: int, log: int) -> Dense:
    last = min(first + (1 << log), vector.size)
    entries = tuple(vector.at(index) for index in range(first, last))
    graph = vector.total().graph
    return Dense(graph, entries or (graph.value(0),), log)


def eq(graph: Graph, point: Sequence[Value], size: int | None = None) -> Rank1:
    """Return ``eq(point)``, cut off at ``size``: the ``teq`` of the protocol."""
    factors = tuple((1 - coordinate, coordinate) for coordinate in point)
    return Rank1(graph, factors, 1 << len(point) if size is None else size)


def geometric(graph: Graph, ratio: Value, size: int) -> Rank1:
    """Return ``1, ratio, ratio**2, …`` with ``size`` entries."""
    bits = clog(size)
    one = graph.value(1)
    factors = tuple((one, ratio ** (1 << (bits - 1 - i))) for i in range(bits))
    return Rank1(graph, factors, size)


class Cells:
    """A sum of functionals on aligned blocks of ``2**bits`` cells, evaluated at one point.

    Blocks are collected by the high bits of their addresses; common prefixes are multiplied once.
    """

    def __init__(self, graph: Graph, point: Sequence[Value]) -> None:
        self._graph = graph
        self._point = list(point)
        self._values: dict[tuple[int, int], Value] = {}

    def add(self, offset: int, bits: int, value: Value) -> None:
        """Add a block's own value; ``offset`` counts cells of this space."""
        key = (len(self._point) - bits, offset >> bits)
        self._values[key] = self._values.get(key, self._graph.value(0)) + value

    def block(
        self, pieces: Sequence[Piece], lead: Vector, rest_bits: int, rest: Value, base: int = 0
    ) -> None:
        """Add a block stored in pieces; ``rest`` is its value over all but its first dimension."""
        end = len(self._point) - rest_bits
        for piece in pieces:
            factor, vector = lead.cut(piece.first, piece.log)
            value = factor * vector.pair(self._point[end - piece.log : end])
            self.add(base + piece.offset, piece.log + rest_bits, rest * value)

    def value(self) -> Value:
        """Return the value of everything added."""
        values, zero = dict(self._values), self._graph.value(0)
        for length in range(len(self._point), 0, -1):
            coordinate = self._point[length - 1]
            for prefix in sorted({key[1] >> 1 for key in values if key[0] == length}):
                low = values.pop((length, 2 * prefix), zero)
                high = values.pop((length, 2 * prefix + 1), zero)
                if high is zero:
                    merged = low * (1 - coordinate)
                elif low is zero:
                    merged = high * coordinate
                else:
                    merged = low + coordinate * (high - low)
                key = (length - 1, prefix)
                values[key] = values[key] + merged if key in values else merged
        return values.get((0, 0), self._graph.value(0))
