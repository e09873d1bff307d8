"""The value of the linear claims combined with powers of beta: steps 6 and 7 of a verifier."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from zkserve.engines.native.evm.closed_forms import Cells, Dense, Vector, eq, fold
from zkserve.engines.native.evm.equations import CLAIM_INPUT, CLAIM_MASK, Equations
from zkserve.engines.native.evm.yul import Graph, P, Value
from zkserve.engines.native.protocol.description import Instance, OutputKind


class ClaimValue:
    """The value ``v`` that the final sumcheck begins with."""

    def __init__(self, equations: Equations) -> None:
        self.equations = equations
        self.d = equations.d
        self.w = equations.w
        self.graph = equations.graph

    def value(self) -> Value:
        """Return the value ``v`` of the linear claims combined with powers of beta."""
        w, beta = self.w, self.w.beta
        total = w.first
        for index in range(len(self.d.equations)):
            total = total - w.eta**index * self._constant(index)
        total = total + beta * (w.main - self._brackets())
        if not w.hidden:
            total = total + beta**CLAIM_INPUT * w.input_sum
        total = total + beta**CLAIM_MASK * w.mask
        total = total + w.power_sum
        for index, instance in enumerate(self.d.instances):
            total = total + w.powers[2 * index + 1] * self._offset(instance)
        if self.d.header.output_kind == OutputKind.REQUANTISED:
            tensor = self.d.tensors[self.d.equations[-1].target]
            total = total + self.w.powers[self.d.evaluations] * self._outputs(
                self.equations.output_vectors(tensor), tensor.zero_point
            )
        return total

    def _constant(self, index: int) -> Value:
        equation, weights = self.d.equations[index], self.equations.weights[index]
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
        for term, scale in zip(equation.scaled, self.equations.scales[index], strict=True):
            source = self.d.tensors[term.source]
            if source.zero_point:
                y, x = self.equations.spatial_axes(
                    source, term.views, weights.y.grid, weights.x.grid
                )
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

    def _offset(self, instance: Instance) -> Value:
        """Return ``zp·sums`` for a factor ``B``, which claims weigh as cells less zero point."""
        source = self.d.tensors[instance.product.source]
        if source.zero_point == 0:
            return self.graph.value(0)
        channel, batch, y, x = self.equations.source(instance)
        return source.zero_point * (channel.total() * batch.total() * y.total() * x.total())

    def _brackets(self) -> Value:
        """Return ``F``: the bracket of the main sumcheck at ``r``, without the Libra polynomial."""
        d, w, graph = self.d, self.w, self.graph
        rows, entries = d.header.row_bits, d.header.table_bits
        total = graph.value(0)
        for index, instance in enumerate(d.instances):
            term = w.eta**instance.equation * self.equations.weights[instance.equation].multiplier
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
            image = index if number == 0 else fold(graph, function, point[-8:])
            values.append(index + w.lam * (2 + number) + w.lam**2 * image)
        return Dense(graph, tuple(values), len(segment)).pair(segment)


def _limbs(graph: Graph, limbs: Sequence[Value]) -> Value:
    return graph.sum(limb * (1 << 8 * index) for index, limb in enumerate(limbs))


def _contract(graph: Graph, vectors: Sequence[Vector], values: Iterator[Value]) -> Value:
    if not vectors:
        return next(values)
    first, *rest = vectors
    return graph.sum(first.at(i) * _contract(graph, rest, values) for i in range(first.size))
