"""What a verifier of one description computes, as expressions over challenges and proof.

Sections 9 to 11 of the protocol with everything that the description fixes folded in. The functions
have the shape of the document; what is common to several claims is shared because equal expressions
are one node of the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from zkserve.engines.native.closed_forms import (
    Axis,
    Cells,
    Dense,
    Placed,
    Rank1,
    Vector,
    eq,
    geometric,
    plain_axis,
    product_axis,
    table,
)
from zkserve.engines.native.description import (
    Description,
    Equation,
    Instance,
    OutputKind,
    Pool,
    ProductKind,
    Tensor,
    View,
    clog,
    viewed_size,
)
from zkserve.engines.native.yul import P, Graph, Value

_CLAIM_INPUT = 3
_CLAIM_MASK = 4
_CLAIM_FACTORS = 5


@dataclass(frozen=True, kw_only=True)
class Words:
    """The challenges, and what of the statement and the proof enters arithmetic."""

    graph: Graph
    hidden: bool
    alpha: Value
    lam: Value
    eta: Value
    tau: list[Value]
    equations: list[list[list[Value]]]
    """For each equation ``r_l``, split."""
    output: list[list[Value]]
    r: list[Value]
    chi_x: Value
    chi: list[Value]
    beta: Value
    rho: list[Value]
    theta: Value
    gamma: Value
    zeta: Value
    nu: Value
    omega: Value
    multipliers: tuple[Value, ...]
    outputs: list[Value]
    input_sum: Value
    """``sum_t word_t chi_x^t`` of a public input."""
    first: Value
    """``V``."""
    main: Value
    """The claim after the main sumcheck."""
    factors: list[Value]
    """``E``."""
    mask: Value
    """``s_M``."""
    final: Value
    """The claim ``e`` after the final sumcheck."""
    openings: list[Value]


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


class Verifier:
    """The expressions of one description."""

    def __init__(self, description: Description, words: Words) -> None:
        self.d = description
        self.w = words
        self.graph = words.graph
        split = description.split_multipliers(words.multipliers)  # type: ignore[arg-type]
        self.scales: list[tuple[Value, ...]] = [
            tuple(self.graph.value(m) for m in scales) for _, scales in split
        ]
        self.weights = [
            self._weights(equation, points, own)
            for equation, points, (own, _) in zip(
                description.equations, words.equations, split, strict=True
            )
        ]
        self._z = words.r[-1] * (1 - words.r[-1])

    def _weights(
        self, equation: Equation, points: list[list[Value]], own: Sequence[Value]
    ) -> Weights:
        group_point, channel_point, batch_point, y_point, x_point = points
        graph, one = self.graph, self.graph.value(1)
        group = scaled_group = eq(graph, group_point, equation.groups)
        channel = scaled_channel = eq(graph, channel_point, equation.group_channels)
        if equation.per_channel and equation.groups == 1:
            scaled_channel = _times(channel, own)  # type: ignore[assignment]
        elif equation.per_channel:
            scaled_group = _times(group, own)  # type: ignore[assignment]
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
        entries = table(graph, point, size)
        length = (equation.height, equation.width)[axis]
        grid = [graph.value(0)] * length
        for position in range(size):
            read = _read(equation.pool, axis, *divmod(position, stretch), length)
            grid[read] = grid[read] + entries[position]
        return AxisWeights(window, target, Dense(graph, tuple(grid), clog(length)))

    # --- the value of the combined claim

    def claim(self) -> Value:
        """Return the value ``v`` of the linear claims combined with powers of beta."""
        w, beta = self.w, self.w.beta
        total = w.first
        for index in range(len(self.d.equations)):
            total = total - w.eta**index * self._constant(index)
        total = total + beta * (w.main - self._brackets())
        if not w.hidden:
            total = total + beta**_CLAIM_INPUT * w.input_sum
        total = total + beta**_CLAIM_MASK * w.mask
        for index, factor in enumerate(w.factors):
            total = total + beta ** (_CLAIM_FACTORS + index) * (factor + self._offset(index))
        if self.d.header.output_kind == OutputKind.REQUANTISED:
            tensor = self.d.tensors[self.d.equations[-1].target]
            total = total + beta ** (_CLAIM_FACTORS + self.d.evaluations) * self._outputs(
                self._output_vectors(tensor), tensor.zero_point
            )
        return total

    def _constant(self, index: int) -> Value:
        equation, weights = self.d.equations[index], self.weights[index]
        batch = weights.batch.total()
        if equation.raw:
            sizes = (weights.channels(scaled=False), weights.batch, weights.y.grid, weights.x.grid)
            total = self._outputs(sizes, 0)
        else:
            zero_point = self.d.tensors[equation.target].zero_point
            constant = (
                (1 << self.d.shift - 1)
                + (zero_point << self.d.shift)
                + (1 << self.d.value_bits - 1)
            )
            total = -(
                weights.channels(scaled=False).total()
                * batch
                * weights.y.target.total()
                * weights.x.target.total()
                * constant
            )
        for term, scale in zip(equation.scaled, self.scales[index], strict=True):
            source = self.d.tensors[term.source]
            if source.zero_point:
                y, x = self._spatial(source, term.views, weights.y.grid, weights.x.grid)
                channels = weights.channels(scaled=True).total()
                factor = weights.multiplier * scale * source.zero_point
                total = total + factor * channels * batch * y.total() * x.total()
        return total

    def _outputs(self, vectors: Sequence[Vector], zero_point: int) -> Value:
        """Weigh the outputs, in their row-major order (batch, channel, then the rest)."""
        channel, batch, *spatial = vectors
        values = iter(self.w.outputs)
        total = self.graph.value(0)
        for n in range(batch.size):
            for c in range(channel.size):
                inner = _contract(self.graph, spatial, values)
                total = total + batch.at(n) * channel.at(c) * (
                    inner + zero_point * self.graph.product(v.total() for v in spatial)
                    if zero_point
                    else inner
                )
        return total

    def _output_vectors(self, tensor: Tensor) -> list[Rank1]:
        sizes = (tensor.channels, self.d.header.batch, *tensor.spatial)
        return [
            eq(self.graph, point, size) for point, size in zip(self.w.output, sizes, strict=True)
        ]

    def _offset(self, index: int) -> Value:
        """Return ``zp·sums`` for a factor ``B``, which claims weigh as cells less zero point."""
        instances = self.d.instances
        if index >= 2 * len(instances) or index % 2 == 0:
            return self.graph.value(0)
        instance = instances[index // 2]
        source = self.d.tensors[instance.product.source]
        if source.zero_point == 0:
            return self.graph.value(0)
        channel, batch, y, x = self._source(instance)
        return source.zero_point * (channel.total() * batch.total() * y.total() * x.total())

    def _brackets(self) -> Value:
        """Return ``F``: the bracket of the main sumcheck at ``r``, without the Libra polynomial."""
        d, w, graph = self.d, self.w, self.graph
        rows, entries = d.header.row_bits, d.header.table_bits
        total = graph.value(0)
        for index, instance in enumerate(d.instances):
            term = w.eta**instance.equation * self.weights[instance.equation].multiplier
            product = w.factors[2 * index] * w.factors[2 * index + 1]
            total = total + term * product * (1 << instance.kappa)
        at_rows = eq(graph, w.tau[:rows]).pair(w.r[d.rounds - rows :])
        total = total + at_rows * self._rows() * (1 << rows)
        at_table = eq(graph, w.tau[:entries]).pair(w.r[d.rounds - entries :])
        last = w.eta ** (len(d.equations) + 2 + d.helper_columns) * at_table
        entry = w.factors[-2] * (w.alpha - self._table()) - w.factors[-1]
        return (total + last * entry * (1 << entries)) * pow(2, -d.rounds, P)

    def _rows(self) -> Value:
        d, w, graph = self.d, self.w, self.graph
        columns = d.columns
        cell = w.factors[2 * len(d.instances) :]
        helpers = cell[columns.count :]
        power = len(d.equations)
        value = cell[columns.y if columns.z is None else columns.z]
        low = _limbs(graph, [cell[c] for c in columns.low])
        total = w.eta**power * (
            value - cell[columns.selected] * low - d.top * cell[columns.saturated]
        )
        if columns.differences:
            total = total + w.eta ** (power + 1) * graph.product(
                _limbs(graph, [cell[c] for c in window]) for window in columns.differences
            )
        terms = [w.alpha - cell[c] for c in columns.bytes_looked_up]
        kinds = w.lam + w.lam**2 * cell[columns.selected] + w.lam**3 * cell[columns.saturated]
        terms.append(w.alpha - (cell[columns.high] + kinds))
        if columns.z is not None:
            kinds = w.lam * self._kind() + w.lam**2 * cell[columns.y]
            terms.append(w.alpha - (cell[columns.z] + kinds))
        for group, helper in enumerate(helpers[: d.helper_columns]):
            fs = terms[3 * group : 3 * group + 3]
            if len(fs) == 1:
                constraint = helper * fs[0] - 1
            elif len(fs) == 2:
                constraint = helper * (fs[0] * fs[1]) - (fs[0] + fs[1])
            else:
                pair = fs[0] * fs[1]
                constraint = (helper * fs[2] - 1) * pair - fs[2] * (fs[0] + fs[1])
            total = total + w.eta ** (power + 2 + group) * constraint
        return total

    def _kind(self) -> Value:
        """Return ``K`` at the rows' point: which function's table a row is looked up in."""
        d = self.d
        cells = Cells(self.graph, self.w.r[d.rounds - d.header.row_bits :])
        for tensor in d.tensors[1:]:
            rest = tensor.rest_bits(d.header.batch)
            for piece in tensor.pieces:
                if tensor.function:
                    cells.add(piece.offset, piece.log + rest, self.graph.value(tensor.function))
        return 2 + cells.value()

    def _table(self) -> Value:
        """Return the lookup table at its point."""
        d, w, graph = self.d, self.w, self.graph
        point = w.r[d.rounds - d.header.table_bits :]
        segment, (top, *others) = point[:-8], point[-8:]
        index = graph.sum(v * (1 << (7 - i)) for i, v in enumerate(point[-8:]))
        zeros = graph.product(1 - v for v in others)
        selected, saturated = top * zeros, top * (1 - zeros)
        values = [index, index + w.lam + w.lam**2 * selected + w.lam**3 * saturated]
        for number, function in enumerate(d.functions):
            entries = tuple(graph.value(byte) for byte in function)
            image = index if number == 0 else Dense(graph, entries, 8).pair(point[-8:])
            values.append(index + w.lam * (2 + number) + w.lam**2 * image)
        return Dense(graph, tuple(values), len(segment)).pair(segment)

    # --- the scalars of the tiles

    def tiles(self) -> list[Value]:
        """Return ``L_t(rho)`` of W, X (hidden), w and h, in the order of points in a proof."""
        d, w = self.d, self.w
        h = d.header
        hidden = [self._hidden_input()] if w.hidden else []
        return [
            *self._weight_tiles(h.weight_tiles),
            *hidden,
            *self._row_tiles(h.row_tiles),
            *self._helper_tiles(h.helper_tiles),
        ]

    def _factor_power(self, index: int) -> Value:
        return self.w.beta ** (_CLAIM_FACTORS + index)

    def _weight_tiles(self, count: int) -> list[Value]:
        d, w, graph = self.d, self.w, self.graph
        tiles = _Tiles(graph, w.rho, count)
        for index, instance in enumerate(d.instances):
            lead, rest = self._weight_block(instance)
            coefficient = self._factor_power(2 * index)
            tiles.block(instance.product.pieces, lead, rest, coefficient)
        for index, equation in enumerate(d.equations):
            if equation.bias:
                weights = self.weights[index]
                sums = weights.batch.total() * weights.y.grid.total() * weights.x.grid.total()
                coefficient = -(w.eta**index * weights.multiplier * sums)
                tiles.block(equation.bias, weights.channels(scaled=True), [], coefficient)
        return tiles.values()

    def _weight_block(self, instance: Instance) -> tuple[Vector, list[Vector]]:
        group, *contraction = self._instance_point(instance)
        channel = self.weights[instance.equation].scaled_channel
        first, *others = [eq(self.graph, point) for point in contraction]
        vectors: list[Vector] = (
            [channel, first, *others] if instance.product.order == 0 else [first, channel, *others]
        )
        if self.d.equations[instance.equation].groups > 1:
            vectors.insert(0, eq(self.graph, group))
        return vectors[0], vectors[1:]

    def _instance_point(self, instance: Instance) -> list[list[Value]]:
        rest = self.w.r[self.d.rounds - instance.kappa :]
        parts = []
        for bits in (instance.group_bits, *instance.bits):
            parts.append(rest[:bits])
            rest = rest[bits:]
        return parts

    def _source(self, instance: Instance) -> tuple[Vector, Rank1, Axis, Axis]:
        """Return the vectors of ``B`` over channel, batch, y and x of its source."""
        d, graph, product = self.d, self.graph, instance.product
        equation, weights = d.equations[instance.equation], self.weights[instance.equation]
        source = d.tensors[product.source]
        group_point, channel_point, *spatial = self._instance_point(instance)
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
            y, x = self._spatial(source, product.views, grids[0], grids[1])
        return placed, weights.batch, y, x

    def _spatial(
        self, source: Tensor, views: Sequence[View], y: Vector, x: Vector
    ) -> tuple[Axis, Axis]:
        return (
            plain_axis(self.graph, views, 0, y, source.height),
            plain_axis(self.graph, views, 1, x, source.width),
        )

    def _row_tiles(self, count: int) -> list[Value]:
        d, w, graph = self.d, self.w, self.graph
        columns = d.columns
        sums = self._row_functionals()
        rows = eq(graph, w.r[d.rounds - d.header.row_bits :]).pair(self._row_point())
        tiles = _Tiles(graph, w.rho, count)
        first = 2 * len(d.instances)
        for column in range(columns.count):
            value = self._factor_power(first + column) * rows
            if column in sums:
                value = value + sums[column]
            tiles.add(column << d.header.row_bits, d.header.row_bits, value)
        entries = d.header.table_bits
        point = w.r[d.rounds - entries :]
        value = eq(graph, point).pair(w.rho[d.header.k - entries :])
        multiplicities = self._factor_power(d.evaluations - 1)
        tiles.add(d.offsets.multiplicities, entries, multiplicities * value)
        rotated = eq(graph, w.chi[1:] + w.chi[:1]).pair(w.rho)
        mask = w.beta**_CLAIM_MASK * (w.chi_x * w.chi_x) * rotated
        tiles.add((count - 1) << d.header.k, d.header.k, mask)
        return tiles.values()

    def _row_point(self) -> list[Value]:
        return self.w.rho[self.d.header.k - self.d.header.row_bits :]

    def _row_functionals(self) -> dict[int, Value]:
        """Return for each column what all functionals of rows weigh it with, at ``rho``."""
        d, w, graph = self.d, self.w, self.graph
        columns = d.columns
        targets, y, x = (Cells(graph, self._row_point()) for _ in range(3))
        pooled: dict[int, Cells] = {}
        for index, equation in enumerate(d.equations):
            weights, power = self.weights[index], w.eta**index
            if not equation.raw:
                self._target(targets, equation, weights, power, scaled=False)
            if equation.pooled and not equation.raw:
                self._differences(pooled, equation, weights, power)
            for term, scale in zip(equation.scaled, self.scales[index], strict=True):
                source = d.tensors[term.source]
                axes = self._spatial(source, term.views, weights.y.grid, weights.x.grid)
                channel = Placed(weights.channels(scaled=True), term.first_channel, source.channels)
                value = -(power * weights.multiplier * scale) * weights.batch.pair(
                    self._batch_point(source)
                )
                self._read(x if term.source == 0 else y, source, channel, axes, value)
        for index, instance in enumerate(d.instances):
            source = d.tensors[instance.product.source]
            channel, batch, *axes = self._source(instance)
            value = self._factor_power(2 * index + 1) * batch.pair(self._batch_point(source))
            cells = x if instance.product.source == 0 else y
            self._read(cells, source, channel, (axes[0], axes[1]), value)
        if d.header.output_kind == OutputKind.REQUANTISED:
            tensor = d.tensors[d.equations[-1].target]
            vectors = self._output_vectors(tensor)
            value = self._factor_power(d.evaluations)
            self._stored(y, tensor, vectors[0], vectors[1:], value)
        if not w.hidden:
            self._public_input(x)
        at_targets, at_inputs = targets.value(), x.value()
        sums = {c: at_targets * (1 << 8 * i) for i, c in enumerate(columns.limbs)}
        sums[columns.y] = y.value()
        sums.update({c: at_inputs * (1 << 8 * i) for i, c in enumerate(columns.input)})
        if w.hidden:
            limb, linked = self._hidden_input_rows()
            for index, column in enumerate(columns.input):
                sums[column] = sums[column] + limb.at(index) * linked
        for position, cells in pooled.items():
            value = cells.value()
            for limb, column in enumerate(columns.differences[position]):
                sums[column] = value * (1 << 8 * limb)
        return sums

    def _target(
        self, cells: Cells, equation: Equation, weights: Weights, power: Value, *, scaled: bool
    ) -> None:
        """Add the weights of an equation at its target's rows."""
        tensor = self.d.tensors[equation.target]
        channel = Placed(weights.channels(scaled=scaled), equation.first_channel, tensor.channels)
        if tensor.flat:
            entries = tuple(
                weights.y.target.at(i) * weights.x.target.at(j)
                for i in range(tensor.height)
                for j in range(tensor.width)
            )
            spatial: list[Vector] = [Dense(self.graph, entries, clog(len(entries)))]
        else:
            spatial = [weights.y.target, weights.x.target]
        self._stored(cells, tensor, channel, [weights.batch, *spatial], power)

    def _differences(
        self, pooled: dict[int, Cells], equation: Equation, weights: Weights, power: Value
    ) -> None:
        """Add the weights of the pooling differences, one set of rows per window position."""
        factor = -(power * weights.multiplier)
        whole = Cells(self.graph, self._row_point())
        self._target(whole, equation, weights, factor, scaled=True)
        value = whole.value()
        for a, at_y in enumerate(weights.y.window):
            for b, at_x in enumerate(weights.x.window):
                position = a * equation.pool.ew + b
                cells = pooled.setdefault(position, Cells(self.graph, self._row_point()))
                cells.add(0, self.d.header.row_bits, at_y * at_x * value)

    def _stored(
        self,
        cells: Cells,
        tensor: Tensor,
        channel: Vector,
        rest: Sequence[Vector],
        coefficient: Value,
    ) -> None:
        """Add an outer product over a tensor's stored dimensions."""
        point = self._row_point()
        value = coefficient
        end = len(point)
        for vector in reversed(rest):
            value = value * vector.pair(point[end - vector.bits : end])
            end -= vector.bits
        cells.block(tensor.pieces, channel, tensor.rest_bits(self.d.header.batch), value)

    def _batch_point(self, tensor: Tensor) -> list[Value]:
        point = self._row_point()
        end = len(point) - sum(clog(size) for size in tensor.spatial)
        return point[end - clog(self.d.header.batch) : end]

    def _read(
        self,
        cells: Cells,
        source: Tensor,
        channel: Vector,
        axes: tuple[Axis, Axis],
        coefficient: Value,
    ) -> None:
        """Add a term that reads a source through two axes."""
        point = self._row_point()
        y, x = axes
        spatial = point[len(point) - sum(clog(size) for size in source.spatial) :]
        if source.flat and x.size > 1 or (source.flat and y.size < source.spatial[0]):
            entries = table(self.graph, spatial, source.spatial[0])
            rows = [
                x.against(entries[i * source.width : (i + 1) * source.width])
                for i in range(source.height)
            ]
            value = y.against(rows)
        else:
            value = y.pair(spatial[: y.bits]) * x.pair(spatial[y.bits :])
        rest = source.rest_bits(self.d.header.batch)
        cells.block(source.pieces, channel, rest, coefficient * value)

    def _hidden_input_rows(self) -> tuple[Vector, Value]:
        """Return the weights of the input's bytes, and of its rows, in the link to the tile X."""
        limb, channel, *rest = self._hidden_vectors()
        cells = Cells(self.graph, self._row_point())
        self._stored(cells, self.d.tensors[0], channel, rest, self.w.beta**_CLAIM_INPUT)
        return limb, cells.value()

    def _public_input(self, cells: Cells) -> None:
        """Add the claim that ties the input's cells to the packed words."""
        d, w, graph = self.d, self.w, self.graph
        tensor, power = d.tensors[0], w.beta**_CLAIM_INPUT
        packing = d.input_packing
        per, low = packing.words_per_row, clog(packing.per_word)
        scale = 8 * packing.value_bytes
        words = geometric(graph, w.chi_x, max(1, 1 << clog(tensor.width) - low)).factors
        bytes_in_word = tuple(
            (graph.value(1 << (scale << (low - 1 - i))), graph.value(1)) for i in range(low)
        )
        self._stored(
            cells,
            tensor,
            geometric(graph, w.chi_x ** (per * tensor.height), tensor.channels),
            [
                geometric(
                    graph, w.chi_x ** (per * tensor.height * tensor.channels), d.header.batch
                ),
                geometric(graph, w.chi_x**per, tensor.height),
                Rank1(graph, words + bytes_in_word, tensor.width),
            ],
            power,
        )

    def _hidden_vectors(self) -> list[Rank1]:
        d = self.d
        tensor = d.tensors[0]
        sizes = (
            d.header.input_bytes,
            tensor.channels,
            d.header.batch,
            tensor.height,
            tensor.width,
        )
        bits = sum(clog(size) for size in sizes)
        point = [self.w.chi_x ** (1 << (bits - 1 - j)) for j in range(bits)]
        vectors = []
        for size in sizes:
            vectors.append(eq(self.graph, point[: clog(size)], size))
            point = point[clog(size) :]
        return vectors

    def _hidden_input(self) -> Value:
        vectors = self._hidden_vectors()
        tiles = _Tiles(self.graph, self.w.rho, 1)
        bits = sum(vector.bits for vector in vectors)
        point = self.w.rho[self.d.header.k - bits :]
        value = -(self.w.beta**_CLAIM_INPUT)
        for vector in vectors:
            value = value * vector.pair(point[: vector.bits])
            point = point[vector.bits :]
        tiles.add(0, bits, value)
        return tiles.values()[0]

    def _helper_tiles(self, count: int) -> list[Value]:
        d, w, graph = self.d, self.w, self.graph
        h, offsets = d.header, d.offsets
        tiles = _Tiles(graph, w.rho, count)
        libra = clog(d.libra_coefficients)
        tiles.add(offsets.libra, libra, self._libra(w.rho[h.k - libra :]))
        masks = clog(d.evaluations)
        powers = geometric(graph, w.beta, d.evaluations).pair(w.rho[h.k - masks :])
        tiles.add(offsets.masks, masks, self._factor_power(0) * self._z * powers)
        balance = w.beta * w.beta
        first = 2 * len(d.instances) + d.columns.count
        rows = eq(graph, w.r[d.rounds - h.row_bits :]).pair(self._row_point())
        for helper in range(d.helper_columns):
            value = balance + self._factor_power(first + helper) * rows
            tiles.add(offsets.helpers + (helper << h.row_bits), h.row_bits, value)
        entries = eq(graph, w.r[d.rounds - h.table_bits :]).pair(w.rho[h.k - h.table_bits :])
        value = self._factor_power(d.evaluations - 2) * entries - balance
        tiles.add(offsets.table_helpers, h.table_bits, value)
        mask = w.beta**_CLAIM_MASK * eq(graph, w.chi).pair(w.rho)
        for tile in range(count):
            tiles.add(tile << h.k, h.k, (1 + tile * w.chi_x) * mask)
        return tiles.values()

    def _libra(self, point: Sequence[Value]) -> Value:
        """Return both functionals of the Libra coefficients: claim 0 has weights ``2^(n-1)``."""
        d, w, graph = self.d, self.w, self.graph
        entries = table(graph, point, d.libra_coefficients)
        half = 1 << d.rounds - 1
        whole = eq(graph, point, d.libra_coefficients).total()
        total = entries[0]
        used = 1
        for r, degree in zip(w.r, d.degrees, strict=True):
            horner = graph.value(0)
            for entry in reversed(entries[used : used + degree]):
                horner = (horner + entry) * r
            total = total + horner
            used += degree
        return w.beta * total + half * (whole + entries[0])

    # --- the opening

    def opening(self) -> tuple[list[Value], list[Value]]:
        """Return the factors of [h], [q*], [g], [S], W1, W2, G; and what must be zero, not zero.

        The second list is ``zeta·hint - 1``, which must be zero, and ``theta``, which must not.
        """
        d, w, graph = self.d, self.w, self.graph
        k = d.header.k
        high = k - k // 2
        g_z, g_i, h_z, h_i, s_z, inverse = w.openings
        zeta, nu, omega = w.zeta, w.nu, w.omega
        upper, lower = w.rho[:high], w.rho[high:]

        def factored(point: Sequence[Value], at: Value) -> Value:
            return graph.product(
                (1 - u) + u * at ** (1 << (len(point) - 1 - t)) for t, u in enumerate(point)
            )

        def powers(at: Value) -> Value:
            inner = graph.product(1 + at ** (1 << t) for t in range(high))
            return inner + at ** (1 << high)

        q_z = w.gamma * factored(upper, zeta) - powers(w.theta * zeta)
        q_i = w.gamma * factored(upper, inverse) - powers(w.theta * inverse)
        sides = g_z * factored(lower, inverse) + g_i * factored(lower, zeta) + h_z * q_i + h_i * q_z
        s_i = zeta * (sides - 2 * w.gamma * w.final - zeta * s_z)
        half = zeta ** (1 << k // 2)
        moved = half - w.theta
        f_z = g_z - moved * (half * inverse) * g_i
        y1 = f_z + nu * (g_z + nu * (h_z + nu * s_z))
        y2 = g_i + nu * (h_i + nu * s_i)
        both = nu + omega
        factors = [
            nu * both,
            -moved,
            both,
            nu * nu * both,
            zeta,
            omega * inverse,
            -(y1 + omega * y2),
        ]
        return factors, [zeta * inverse - 1, w.theta]


class _Tiles:
    """One :class:`Cells` for each tile of a family."""

    def __init__(self, graph: Graph, point: Sequence[Value], count: int) -> None:
        self._cells = [Cells(graph, point) for _ in range(count)]
        self._bits = len(point)
        self._point = point

    def add(self, offset: int, bits: int, value: Value) -> None:
        tile = offset >> self._bits
        self._cells[tile].add(offset - (tile << self._bits), bits, value)

    def block(
        self, pieces: Sequence[object], lead: Vector, rest: Sequence[Vector], coefficient: Value
    ) -> None:
        bits = sum(vector.bits for vector in rest)
        end = self._bits
        value = coefficient
        for vector in reversed(rest):
            value = value * vector.pair(self._point[end - vector.bits : end])
            end -= vector.bits
        for piece in pieces:
            tile = piece.offset >> self._bits  # type: ignore[attr-defined]
            self._cells[tile].block(
                [piece],
                lead,
                bits,
                value,
                -(tile << self._bits),  # type: ignore[list-item]
            )

    def values(self) -> list[Value]:
        return [cells.value() for cells in self._cells]


def _times(vector: Rank1, factors: Sequence[Value]) -> Dense:
    entries = tuple(vector.at(index) * factor for index, factor in enumerate(factors))
    return Dense(vector.graph, entries, vector.bits)


def _limbs(graph: Graph, limbs: Sequence[Value]) -> Value:
    return graph.sum(limb * (1 << 8 * index) for index, limb in enumerate(limbs))


def _contract(graph: Graph, vectors: Sequence[Vector], values: object) -> Value:
    if not vectors:
        return next(values)  # type: ignore[call-overload, no-any-return]
    first, *rest = vectors
    return graph.sum(first.at(i) * _contract(graph, rest, values) for i in range(first.size))


def _read(pool: Pool, axis: int, output: int, position: int, length: int) -> int:
    """Return the accumulator along one axis that a window position of an output reads."""
    if axis == 0:
        return min(max(pool.sh * output + min(position, pool.kh - 1) - pool.ph, 0), length - 1)
    return min(max(pool.sw * output + min(position, pool.kw - 1) - pool.pw, 0), length - 1)
