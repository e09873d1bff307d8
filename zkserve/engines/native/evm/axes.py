"""How a term reads one spatial axis of its source, through views and a kernel's taps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zkserve.engines.native.evm.closed_forms import Rank1, Vector, table
from zkserve.engines.native.evm.yul import Graph, Value, reachable
from zkserve.engines.native.protocol.description import Product, View, clog


@dataclass(frozen=True)
class Axis:
    """How a product term reads one spatial axis of its source: views, then the kernel's taps.

    The entry at a source position is the sum of ``taps[t]·grid[o]`` over all that read it.
    """

    graph: Graph
    taps: Rank1
    grid: Vector
    """Weights of the positions: accumulators, or the contraction itself, with one tap."""
    stride: int
    dilation: int
    padding: int
    views: tuple[tuple[int, int, int, int], ...]
    """For each view its window, stride, padding and size of the result."""
    size: int

    @property
    def bits(self) -> int:
        """Number of variables."""
        return clog(self.size)

    def total(self) -> Value:
        """Return the sum of the entries."""
        return self.against([self.graph.value(1)] * self.size)

    def pair(self, point: Sequence[Value]) -> Value:
        """Return the inner product with ``eq(point)``."""
        ways = [self.against(table(self.graph, point, self.size))]
        halved = self._without_views(point)
        if halved is not None and isinstance(self.grid, Rank1):
            seen, size = halved
            if self._is_plain() and self.grid.bits == len(seen) and self.grid.size <= size:
                ways.append(self.taps.at(0) * self.grid.pair(seen))
            for low in range(self.grid.bits + 1):
                digits = self._by_digits(self.grid, seen, size, low)
                if digits is not None:
                    ways.append(digits)
        return min(ways, key=multiplications)

    def _is_plain(self) -> bool:
        return self.taps.size == 1 and self.stride == 1 and self.padding == 0

    def _without_views(self, point: Sequence[Value]) -> tuple[Sequence[Value], int] | None:
        """Return the point and size seen through the views, if those only drop low bits."""
        size = self.size
        for window, stride, padding, seen in self.views:
            log = clog(window)
            if window != 1 << log or stride != window or padding or seen * stride > size:
                return None
            point, size = point[: len(point) - log], seen
        return point, size

    def _by_digits(self, grid: Rank1, point: Sequence[Value], size: int, low: int) -> Value | None:
        """Add grid position and tap in two digits: ``low`` bits, and the rest with a carry.

        The high digits of what is read and of the grid then differ by the carry alone, so that
        their sums and those of the low digits are formed apart. None where the stride allows no
        such split.
        """
        stride = clog(self.stride)
        high_bits = len(point) - low - stride
        if self.stride != 1 << stride or high_bits < 0:
            return None
        graph, radix = self.graph, 1 << (low + stride)
        cut = grid.bits - low
        high = Rank1(graph, grid.factors[:cut], 1 << cut)
        digit = Rank1(graph, grid.factors[cut:], 1 << low)
        highs, lows = table(graph, point[:high_bits]), table(graph, point[high_bits:])
        sums: dict[frozenset[tuple[int, int, int]], Value] = {}
        for o in range(-(-grid.size >> low)):
            reads: dict[int, set[tuple[int, int, int]]] = {}
            for digits in range(min(1 << low, grid.size - (o << low))):
                for tap in range(self.taps.size):
                    offset = self.stride * digits + self.dilation * tap - self.padding
                    carry, rest = divmod(offset, radix)
                    if 0 <= (o + carry) * radix + rest < size:
                        reads.setdefault(o + carry, set()).add((rest, digits, tap))
            for q, triples in reads.items():
                key = frozenset(triples)
                sums[key] = sums.get(key, graph.value(0)) + high.at(o) * highs[q]
        total = graph.value(0)
        for key, weight in sums.items():
            inner: dict[int, Value] = {}
            for rest, digits, tap in sorted(key):
                term = digit.at(digits) * self.taps.at(tap)
                inner[rest] = inner.get(rest, graph.value(0)) + term
            total = total + weight * graph.sum(lows[rest] * value for rest, value in inner.items())
        return total

    def against(self, weights: list[Value]) -> Value:
        """Return the inner product with any weights of the source positions."""
        for window, stride, padding, size in self.views:
            weights = [
                self.graph.sum(
                    weights[i]
                    for i in range(o * stride - padding, o * stride - padding + window)
                    if 0 <= i < len(weights)
                )
                for o in range(size)
            ]
        total = self.graph.value(0)
        for tap in range(self.taps.size):
            offset = self.dilation * tap - self.padding
            read = [self.stride * o + offset for o in range(self.grid.size)]
            seen = [weights[i] if 0 <= i < len(weights) else self.graph.value(0) for i in read]
            if all(value is seen[0] for value in seen):
                inner = seen[0] * self.grid.total()
            else:
                inner = self.graph.sum(self.grid.at(o) * w for o, w in enumerate(seen))
            total = total + self.taps.at(tap) * inner
        return total


def multiplications(value: Value) -> int:
    """Return how many multiplications an expression takes."""
    return sum(node.op == "mul" for node in reachable([value]))


def product_axis(
    graph: Graph, product: Product, axis: int, taps: Rank1, grid: Vector, size: int
) -> Axis:
    """Return how a convolution reads axis 0 (y) or 1 (x) of its source."""
    stride, dilation, padding = (
        (product.sh, product.dh, product.ph),
        (product.sw, product.dw, product.pw),
    )[axis]
    return Axis(graph, taps, grid, stride, dilation, padding, views_of(product.views, axis), size)


def plain_axis(graph: Graph, views: Sequence[View], axis: int, grid: Vector, size: int) -> Axis:
    """Return how a term without kernel reads an axis: through its views alone."""
    return Axis(graph, Rank1(graph, (), 1), grid, 1, 1, 0, views_of(views, axis), size)


def views_of(views: Sequence[View], axis: int) -> tuple[tuple[int, int, int, int], ...]:
    """Return window, stride, padding and resulting size of each view along an axis."""
    if axis == 0:
        return tuple((v.kh, v.sh, v.ph, v.height) for v in views)
    return tuple((v.kw, v.sw, v.pw, v.width) for v in views)
