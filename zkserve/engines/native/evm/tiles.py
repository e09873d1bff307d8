"""What the combined functionals weigh each tile with, at the point of the final sumcheck."""

from __future__ import annotations

from collections.abc import Sequence

from zkserve.engines.native.evm.axes import Axis
from zkserve.engines.native.evm.closed_forms import (
    Cells,
    Placed,
    Rank1,
    Vector,
    eq,
    geometric,
    table,
)
from zkserve.engines.native.evm.equations import (
    CLAIM_INPUT,
    CLAIM_MASK,
    Equations,
    Weights,
)
from zkserve.engines.native.evm.yul import Graph, Value
from zkserve.engines.native.protocol.description import (
    Equation,
    Instance,
    OutputKind,
    Piece,
    Tensor,
    clog,
)


class TileWeights:
    """``L_t(rho)`` of every tile."""

    def __init__(self, equations: Equations) -> None:
        self.equations = equations
        self.d = equations.d
        self.w = equations.w
        self.graph = equations.graph
        self._z = self.w.r[-1] * (1 - self.w.r[-1])

    def values(self) -> list[Value]:
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

    def _weight_tiles(self, count: int) -> list[Value]:
        d, w, graph = self.d, self.w, self.graph
        tiles = _Tiles(graph, w.rho, count)
        for index, instance in enumerate(d.instances):
            lead, rest = self._weight_block(instance)
            coefficient = self.w.powers[2 * index]
            tiles.block(instance.product.pieces, lead, rest, coefficient)
        for index, equation in enumerate(d.equations):
            if equation.bias:
                weights = self.equations.weights[index]
                sums = weights.batch.total() * weights.y.grid.total() * weights.x.grid.total()
                coefficient = -(w.eta**index * weights.multiplier * sums)
                tiles.block(equation.bias, weights.channels(scaled=True), [], coefficient)
        return tiles.values()

    def _weight_block(self, instance: Instance) -> tuple[Vector, list[Vector]]:
        group, *contraction = self.equations.instance_point(instance)
        channel = self.equations.weights[instance.equation].scaled_channel
        first, *others = contraction
        # One point for all that follows: its factors are those of every other term that ends there.
        if instance.product.order == 0:
            vectors: list[Vector] = [
                channel,
                eq(self.graph, [u for part in contraction for u in part]),
            ]
        else:
            vectors = [
                eq(self.graph, first),
                channel,
                eq(self.graph, [u for part in others for u in part]),
            ]
        if self.d.equations[instance.equation].groups > 1:
            vectors.insert(0, eq(self.graph, group))
        return vectors[0], vectors[1:]

    def _row_tiles(self, count: int) -> list[Value]:
        d, w, graph = self.d, self.w, self.graph
        columns = d.columns
        sums = self._row_functionals()
        rows = eq(graph, w.r[d.rounds - d.header.row_bits :]).pair(self._row_point())
        tiles = _Tiles(graph, w.rho, count)
        first, bits = 2 * len(d.instances), d.header.k - d.header.row_bits
        for tile, start in enumerate(range(0, columns.count, 1 << bits)):
            size = min(1 << bits, columns.count - start)
            powers = geometric(graph, w.beta, size).pair(w.rho[bits - clog(size) : bits])
            tiles.add(
                tile << d.header.k,
                clog(size) + d.header.row_bits,
                w.powers[first + start] * powers * rows,
            )
        for column, value in sums.items():
            tiles.add(column << d.header.row_bits, d.header.row_bits, value)
        entries = d.header.table_bits
        point = w.r[d.rounds - entries :]
        value = eq(graph, point).pair(w.rho[d.header.k - entries :])
        multiplicities = self.w.powers[d.evaluations - 1]
        tiles.add(d.offsets.multiplicities, entries, multiplicities * value)
        rotated = eq(graph, w.chi[1:] + w.chi[:1]).pair(w.rho)
        mask = w.beta**CLAIM_MASK * (w.chi_x * w.chi_x) * rotated
        tiles.add((count - 1) << d.header.k, d.header.k, mask)
        return tiles.values()

    def _row_point(self) -> list[Value]:
        return self.w.rho[self.d.header.k - self.d.header.row_bits :]

    def _row_functionals(self) -> dict[int, Value]:
        """Return for each column what all functionals of rows weigh it with, at ``rho``."""
        d, w, graph = self.d, self.w, self.graph
        columns = d.columns
        targets, y, x = (Cells(graph, self._row_point()) for _ in range(3))
        at_maxima = graph.value(0)
        differences: dict[int, Value] = {}
        for index, equation in enumerate(d.equations):
            weights, power = self.equations.weights[index], w.eta**index
            if equation.pooled and not equation.raw:
                scaled = self._maxima(equation, weights, scaled=True)
                plain = self._maxima(equation, weights, scaled=False)
                at_maxima = at_maxima + power * plain
                self._add_differences(differences, weights, -(power * weights.multiplier) * scaled)
            elif not equation.raw:
                self._target(targets, equation, weights, power, scaled=False)
            for term, scale in zip(equation.scaled, self.equations.scales[index], strict=True):
                source = d.tensors[term.source]
                axes = self.equations.spatial_axes(
                    source, term.views, weights.y.grid, weights.x.grid
                )
                channel = Placed(weights.channels(scaled=True), term.first_channel, source.channels)
                value = -(power * weights.multiplier * scale) * weights.batch.pair(
                    self._batch_point(source)
                )
                self._read(x if term.source == 0 else y, source, channel, axes, value)
        for index, instance in enumerate(d.instances):
            source = d.tensors[instance.product.source]
            read, batch, axis_y, axis_x = self.equations.source(instance)
            value = self.w.powers[2 * index + 1] * batch.pair(self._batch_point(source))
            cells = x if instance.product.source == 0 else y
            self._read(cells, source, read, (axis_y, axis_x), value)
        if d.header.output_kind == OutputKind.REQUANTISED:
            tensor = d.tensors[d.equations[-1].target]
            vectors = self.equations.output_vectors(tensor)
            value = self.w.powers[d.evaluations]
            self._stored(y, tensor, vectors[0], vectors[1:], value)
        if not w.hidden:
            self._public_input(x)
        at_targets, at_inputs = targets.value() + at_maxima, x.value()
        sums = {c: at_targets * (1 << 8 * i) for i, c in enumerate(columns.limbs)}
        sums[columns.y] = y.value()
        sums.update({c: at_inputs * (1 << 8 * i) for i, c in enumerate(columns.input)})
        if w.hidden:
            limb, linked = self._hidden_input_rows()
            for index, column in enumerate(columns.input):
                sums[column] = sums[column] + limb.at(index) * linked
        for position, value in differences.items():
            for index, column in enumerate(columns.differences[position]):
                sums[column] = value * (1 << 8 * index)
        return sums

    def _target(
        self, cells: Cells, equation: Equation, weights: Weights, power: Value, *, scaled: bool
    ) -> None:
        """Add the weights of an equation at its target's rows."""
        tensor = self.d.tensors[equation.target]
        channel = Placed(weights.channels(scaled=scaled), equation.first_channel, tensor.channels)
        axes = self.equations.spatial_axes(tensor, (), weights.y.target, weights.x.target)
        value = power * weights.batch.pair(self._batch_point(tensor))
        self._read(cells, tensor, channel, axes, value)

    def _maxima(self, equation: Equation, weights: Weights, *, scaled: bool) -> Value:
        """Return the weights of a pooled equation at its target's rows, without a coefficient."""
        cells = Cells(self.graph, self._row_point())
        self._target(cells, equation, weights, self.graph.value(1), scaled=scaled)
        return cells.value()

    def _add_differences(
        self, differences: dict[int, Value], weights: Weights, value: Value
    ) -> None:
        """Add the weights of the differences at each position of a window."""
        positions = [y * x for y in weights.y.window for x in weights.x.window]
        for position, factor in enumerate(positions):
            old = differences.get(position, self.graph.value(0))
            differences[position] = old + factor * value

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
        if source.flat and y.size < source.spatial[0]:
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
        self._stored(cells, self.d.tensors[0], channel, rest, self.w.beta**CLAIM_INPUT)
        return limb, cells.value()

    def _public_input(self, cells: Cells) -> None:
        """Add the claim that ties the input's cells to the packed words."""
        d, w, graph = self.d, self.w, self.graph
        tensor, power = d.tensors[0], w.beta**CLAIM_INPUT
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
        value = -(self.w.beta**CLAIM_INPUT)
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
        tiles.add(offsets.masks, masks, self.w.powers[0] * self._z * powers)
        balance = w.beta * w.beta
        first = 2 * len(d.instances) + d.columns.count
        rows = eq(graph, w.r[d.rounds - h.row_bits :]).pair(self._row_point())
        for helper in range(d.helper_columns):
            value = balance + self.w.powers[first + helper] * rows
            tiles.add(offsets.helpers + (helper << h.row_bits), h.row_bits, value)
        entries = eq(graph, w.r[d.rounds - h.table_bits :]).pair(w.rho[h.k - h.table_bits :])
        value = self.w.powers[d.evaluations - 2] * entries - balance
        tiles.add(offsets.table_helpers, h.table_bits, value)
        mask = w.beta**CLAIM_MASK * eq(graph, w.chi).pair(w.rho)
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
        self, pieces: Sequence[Piece], lead: Vector, rest: Sequence[Vector], coefficient: Value
    ) -> None:
        bits = sum(vector.bits for vector in rest)
        end = self._bits
        value = coefficient
        for vector in reversed(rest):
            value = value * vector.pair(self._point[end - vector.bits : end])
            end -= vector.bits
        for piece in pieces:
            tile = piece.offset >> self._bits
            self._cells[tile].block([piece], lead, bits, value, -(tile << self._bits))

    def values(self) -> list[Value]:
        return [cells.value() for cells in self._cells]
