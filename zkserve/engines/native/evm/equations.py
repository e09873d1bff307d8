"""The vectors with which equations are weighted, and with which their terms read sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zkserve.engines.native.evm.axes import Axis, plain_axis, product_axis
from zkserve.engines.native.evm.closed_forms import (
    Dense,
    Placed,
    Rank1,
    Vector,
    eq,
    table,
)
from zkserve.engines.native.evm.words import Words
from zkserve.engines.native.evm.yul import Value
from zkserve.engines.native.protocol.description import (
    Description,
    Equation,
    Instance,
    Pool,
    ProductKind,
    Tensor,
    View,
    clog,
    viewed_size,
)

CLAIM_INPUT = 3
CLAIM_MASK = 4
"""Powers of beta, section 9."""


@dataclass(frozen=True)
class Weights:
    """The vectors with which one equation is weighted, section 9."""

    group: Vector
    channel: Vector
    scaled_group: Vector
    scaled_channel: Vector
    batch: Rank1
    y: AxisWeights
    x: AxisWeights
    multiplier: Value

    def channels(self, *, scaled: bool) -> Vector:
        """Return ``e_c``, or ``ê_c``."""
        group, channel = (
            (self.scaled_group, self.scaled_channel) if scaled else (self.group, self.channel)
        )
        if group.size == 1 and group.bits == 0:
            return channel
        graph = self.multiplier.graph
        if (
            isinstance(group, Rank1)
            and isinstance(channel, Rank1)
            and channel.size == 1 << channel.bits
        ):
            return Rank1(graph, group.factors + channel.factors, group.size * channel.size)
        entries = tuple(
            group.at(g) * channel.at(c) for g in range(group.size) for c in range(channel.size)
        )
        return Dense(graph, entries, clog(len(entries)))


@dataclass(frozen=True)
class AxisWeights:
    """Weights along one spatial axis: of window positions, of the target, of accumulators."""

    window: list[Value]
    """``eq`` of the coordinates that choose the position in a window."""
    target: Rank1
    grid: Vector


class Equations:
    """The equations of one description under the challenges of one proof."""

    def __init__(self, description: Description, words: Words) -> None:
        self.d = description
        self.w = words
        self.graph = words.graph
        # Multipliers are words of a proof here: their numbers stand for them where they are split.
        split = description.split_multipliers(tuple(range(-len(words.multipliers), 0)))
        self.scales = [tuple(self._multiplier(m) for m in scales) for _, scales in split]
        self.weights = [
            self._weights(equation, points, [self._multiplier(m) for m in own])
            for equation, points, (own, _) in zip(
                description.equations, words.equations, split, strict=True
            )
        ]

    def _multiplier(self, number: int) -> Value:
        return self.w.multipliers[number] if number < 0 else self.graph.value(number)

    def _weights(
        self, equation: Equation, points: list[list[Value]], own: Sequence[Value]
    ) -> Weights:
        group_point, channel_point, batch_point, y_point, x_point = points
        graph, one = self.graph, self.graph.value(1)
        group = eq(graph, group_point, equation.groups)
        channel = eq(graph, channel_point, equation.group_channels)
        scaled_group: Vector = group
        scaled_channel: Vector = channel
        if equation.per_channel and equation.groups == 1:
            scaled_channel = _times(channel, own)
        elif equation.per_channel:
            scaled_group = _times(group, own)
        height, width = self.d.target_size(equation)
        pool = equation.pool
        return Weights(
            group=group,
            channel=channel,
            scaled_group=scaled_group,
            scaled_channel=scaled_channel,
            batch=eq(graph, batch_point, self.d.header.batch),
            y=self._axis(equation, y_point, height, pool.eh, 0),
            x=self._axis(equation, x_point, width, pool.ew, 1),
            multiplier=one if equation.raw or equation.per_channel else own[0],
        )

    def _axis(
        self, equation: Equation, point: list[Value], size: int, stretch: int, axis: int
    ) -> AxisWeights:
        graph = self.graph
        cut = len(point) - clog(stretch)
        target = eq(graph, point[:cut], size // stretch)
        window = table(graph, point[cut:])
        if not equation.pooled:
            return AxisWeights(window, target, target)
        length = (equation.height, equation.width)[axis]
        reads = [
            _read(equation.pool, axis, *divmod(position, stretch), length)
            for position in range(size)
        ]
        if reads == list(range(size)):
            return AxisWeights(window, target, eq(graph, point, size))
        entries = table(graph, point, size)
        grid = [graph.value(0)] * length
        for position, read in enumerate(reads):
            grid[read] = grid[read] + entries[position]
        return AxisWeights(window, target, Dense(graph, tuple(grid), clog(length)))

    def output_vectors(self, tensor: Tensor) -> list[Rank1]:
        """Return the weights of requantised outputs, over the stored dimensions."""
        sizes = (tensor.channels, self.d.header.batch, *tensor.spatial)
        return [
            eq(self.graph, point, size) for point, size in zip(self.w.output, sizes, strict=True)
        ]

    def instance_point(self, instance: Instance) -> list[list[Value]]:
        """Return ``r'`` of a product term, split into group and contraction dimensions."""
        rest = self.w.r[self.d.rounds - instance.kappa :]
        parts = []
        for bits in (instance.group_bits, *instance.bits):
            parts.append(rest[:bits])
            rest = rest[bits:]
        return parts

    def source(self, instance: Instance) -> tuple[Vector, Rank1, Axis, Axis]:
        """Return the vectors of ``B`` over channel, batch, y and x of its source."""
        d, graph, product = self.d, self.graph, instance.product
        equation, weights = d.equations[instance.equation], self.weights[instance.equation]
        source = d.tensors[product.source]
        group_point, channel_point, *spatial = self.instance_point(instance)
        groups = eq(graph, group_point, equation.groups)
        channels = eq(graph, channel_point, instance.sizes[0])
        if equation.groups == 1:
            channel: Vector = channels
        else:
            entries = tuple(
                weights.scaled_group.at(g) * groups.at(g) * channels.at(i)
                for g in range(equation.groups)
                for i in range(channels.size)
            )
            channel = Dense(graph, entries, clog(len(entries)))
        placed = Placed(channel, product.first_channel, source.channels)
        height, width = source.height, source.width
        if product.kind == ProductKind.CONV:
            taps = [eq(graph, p, s) for p, s in zip(spatial, (product.kh, product.kw), strict=True)]
            y = product_axis(graph, product, 0, taps[0], weights.y.grid, height)
            x = product_axis(graph, product, 1, taps[1], weights.x.grid, width)
        elif source.flat:
            whole = eq(graph, spatial[0], height * width)
            y = plain_axis(graph, (), 0, whole, height * width)
            x = plain_axis(graph, (), 1, eq(graph, []), 1)
        else:
            seen = viewed_size(source, product.views)
            grids = [eq(graph, p, s) for p, s in zip(spatial, seen, strict=True)]
            y, x = self.spatial_axes(source, product.views, grids[0], grids[1])
        return placed, weights.batch, y, x

    def spatial_axes(
        self, source: Tensor, views: Sequence[View], y: Vector, x: Vector
    ) -> tuple[Axis, Axis]:
        """Return how weights of what views show read the source itself."""
        return (
            plain_axis(self.graph, views, 0, y, source.height),
            plain_axis(self.graph, views, 1, x, source.width),
        )


def _times(vector: Rank1, factors: Sequence[Value]) -> Dense:
    entries = tuple(vector.at(index) * factor for index, factor in enumerate(factors))
    return Dense(vector.graph, entries, vector.bits)


def _read(pool: Pool, axis: int, output: int, position: int, length: int) -> int:
    """Return the accumulator along one axis that a window position of an output reads."""
    if axis == 0:
        return min(max(pool.sh * output + min(position, pool.kh - 1) - pool.ph, 0), length - 1)
    return min(max(pool.sw * output + min(position, pool.kw - 1) - pool.pw, 0), length - 1)
