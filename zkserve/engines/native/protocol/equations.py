"""What one equation says of the committed cells: weights, factors and its claim, section 9."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zkserve.engines.native.protocol.curve import ORDER
from zkserve.engines.native.protocol.description import (
    Description,
    Equation,
    Instance,
    ProductKind,
    Scaled,
    clog,
)
from zkserve.engines.native.protocol.vectors import (
    Cells,
    Term,
    Vector,
    dot,
    eq,
    padded,
    placed,
    pull_back,
    spatial,
    split,
    sums,
    teq,
    weight_terms,
)


@dataclass(frozen=True, kw_only=True)
class EquationWeights:
    """The random weights of one equation's accumulators; ``hat`` vectors contain multipliers.

    ``y, x`` weight window positions of the target (``e_Y``), ``read_y, read_x`` accumulators
    (``ē``), ``row_y, row_x`` cells of the target (``u``). All lie at real entries only.
    """

    group_hat: Vector
    group_channel_hat: Vector
    channel: Vector
    channel_hat: Vector
    batch: Vector
    y: Vector
    x: Vector
    read_y: Vector
    read_x: Vector
    row_y: Vector
    row_x: Vector
    multiplier: int


def equation_weights(
    d: Description, equation: Equation, multipliers: Sequence[int], point: Sequence[int]
) -> EquationWeights:
    """Return the weights of an equation at its challenges ``r_l``."""
    sizes = (equation.groups, equation.group_channels, d.header.batch, *d.target_size(equation))
    parts = split(point, d.equation_challenges(equation))
    group, group_channel, batch, y, x = (teq(u, m) for u, m in zip(parts, sizes, strict=True))
    group_hat, group_channel_hat = group, group_channel
    if equation.per_channel and equation.groups == 1:
        group_channel_hat = _times(group_channel, multipliers)
    elif equation.per_channel:
        group_hat = _times(group, multipliers)
    pool, size = equation.pool, (equation.height, equation.width)
    row_y, read_y = (y, y)
    row_x, read_x = (x, x)
    if equation.pooled:
        row_y, read_y = _spread(y, size[0], pool.kh, pool.eh, pool.sh, pool.ph)
        row_x, read_x = _spread(x, size[1], pool.kw, pool.ew, pool.sw, pool.pw)
    return EquationWeights(
        group_hat=group_hat,
        group_channel_hat=group_channel_hat,
        channel=[a * b % ORDER for a in group for b in group_channel],
        channel_hat=[a * b % ORDER for a in group_hat for b in group_channel_hat],
        batch=batch,
        y=y,
        x=x,
        read_y=read_y,
        read_x=read_x,
        row_y=row_y,
        row_x=row_x,
        multiplier=1 if equation.raw or equation.per_channel else multipliers[0],
    )


def _times(vector: Vector, factors: Sequence[int]) -> list[int]:
    return [a * b % ORDER for a, b in zip(vector, factors, strict=True)]


def _spread(
    vector: Vector, accumulators: int, window: int, stretched: int, stride: int, padding: int
) -> tuple[list[int], list[int]]:
    """Return the weights of rows and of accumulators from those of window positions."""
    rows, read = [], [0] * accumulators
    for row in range(len(vector) // stretched):
        positions = vector[row * stretched : (row + 1) * stretched]
        rows.append(sum(positions) % ORDER)
        for a, weight in enumerate(positions):
            index = stride * row + min(a, window - 1) - padding
            read[min(max(index, 0), accumulators - 1)] += weight
    return rows, [value % ORDER for value in read]


def weight_factor(
    equation: Equation, weights: EquationWeights, instance: Instance, point: Sequence[int]
) -> list[Term]:
    """Return ``A`` of a product term at its point, a functional on its weights."""
    group, *contraction = split(point, (instance.group_bits, *instance.bits))
    output = padded(weights.group_channel_hat, clog(equation.group_channels))
    inner = [eq(part) for part in contraction]
    if instance.product.order == 0:
        vectors: list[Vector] = [eq(group), output, *inner]
    else:
        vectors = [eq(group), inner[0], output, *inner[1:]]
    lead, *rest = vectors if equation.groups > 1 else vectors[1:]
    return weight_terms(instance.product.pieces, lead, tuple(rest), 1)


def source_factor(
    d: Description,
    equation: Equation,
    weights: EquationWeights,
    instance: Instance,
    point: Sequence[int],
) -> Cells:
    """Return ``B`` of a product term at its point, as weights of its source's cells."""
    product = instance.product
    source = d.tensors[product.source]
    group, channel, *kernel = split(point, (instance.group_bits, *instance.bits))
    group_weights = _times(teq(group, equation.groups), weights.group_hat)
    channel_weights = teq(channel, instance.sizes[0])
    channels = placed(
        [a * b % ORDER for a in group_weights for b in channel_weights],
        product.first_channel,
        source.channels,
    )
    batch = padded(weights.batch, clog(d.header.batch))
    if product.kind == ProductKind.GEMM and source.flat:
        whole = padded(teq(kernel[0], instance.sizes[1]), instance.bits[1])
        size = clog(source.height * source.width)
        return Cells(tensor=product.source, channels=channels, rest=(batch, whole[: 1 << size]))
    if product.kind == ProductKind.GEMM:
        y: Vector = teq(kernel[0], instance.sizes[1])
        x: Vector = teq(kernel[1], instance.sizes[2])
    else:
        seen = product.views[-1] if product.views else source
        taps = teq(kernel[0], product.kh), teq(kernel[1], product.kw)
        y = _taps(taps[0], weights.read_y, seen.height, product.sh, product.dh, product.ph)
        x = _taps(taps[1], weights.read_x, seen.width, product.sw, product.dw, product.pw)
    y = pull_back(y, source, product.views, 0)
    x = pull_back(x, source, product.views, 1)
    rest = (batch, *spatial(source, y, x))
    return Cells(tensor=product.source, channels=channels, rest=rest)


def _taps(
    taps: Vector, read: Vector, size: int, stride: int, dilation: int, padding: int
) -> list[int]:
    """Return weights of a source's positions: each accumulator reads one position a tap."""
    result = [0] * size
    for t, tap in enumerate(taps):
        for o, weight in enumerate(read):
            position = stride * o + dilation * t - padding
            if 0 <= position < size:
                result[position] += tap * weight
    return [value % ORDER for value in result]


def _target(
    d: Description, equation: Equation, channel: Vector, batch: Vector, y: Vector, x: Vector
) -> Cells:
    tensor = d.tensors[equation.target]
    rest = (padded(batch, clog(d.header.batch)), *spatial(tensor, y, x))
    channels = placed(channel, equation.first_channel, tensor.channels)
    return Cells(tensor=equation.target, channels=channels, rest=rest)


def _scaled_source(
    d: Description, equation: Equation, scaled: Scaled, weights: EquationWeights
) -> Cells:
    source = d.tensors[scaled.source]
    y = pull_back(weights.read_y, source, scaled.views, 0)
    x = pull_back(weights.read_x, source, scaled.views, 1)
    return Cells(
        tensor=scaled.source,
        channels=placed(weights.channel_hat, scaled.first_channel, source.channels),
        rest=(padded(weights.batch, clog(d.header.batch)), *spatial(source, y, x)),
    )


def equation_claim(
    d: Description,
    equation: Equation,
    weights: EquationWeights,
    factors: Sequence[int],
    outputs: Sequence[int],
) -> tuple[list[Term], int]:
    """Return ``left - bias - scal`` of an equation as terms, and ``const``.

    ``factors`` are the integers of its scaled terms; raw outputs are counted in ``const``.
    """
    terms: list[Term] = []
    if equation.raw:
        constant = weighted_outputs(
            outputs, weights.batch, weights.channel, weights.read_y, weights.read_x
        )
    else:
        row = (weights.row_y, weights.row_x)
        cells = _target(d, equation, weights.channel, weights.batch, *row)
        limbs = enumerate(d.columns.limbs)
        terms += cells.in_columns(d, [(column, 1 << 8 * i) for i, column in limbs])
        zero = d.tensors[equation.target].zero_point << d.shift
        constant = -((1 << d.shift - 1) + zero + (1 << d.value_bits - 1)) * cells.total
    if equation.pooled:
        pool = equation.pool
        for position, columns in enumerate(d.columns.differences):
            a, b = divmod(position, pool.ew)
            at = (weights.y[a :: pool.eh], weights.x[b :: pool.ew])
            cells = _target(d, equation, weights.channel_hat, weights.batch, *at)
            terms += cells.in_columns(
                d, [(column, -weights.multiplier << 8 * i) for i, column in enumerate(columns)]
            )
    total = sums(weights.batch, weights.y, weights.x) * weights.multiplier
    bias = padded(weights.channel_hat, clog(equation.channels))
    terms += weight_terms(equation.bias, bias, (), -total)
    for scaled, factor in zip(equation.scaled, factors, strict=True):
        cells = _scaled_source(d, equation, scaled, weights)
        terms += cells.values(d, -weights.multiplier * factor)
        zero_point = d.tensors[scaled.source].zero_point
        constant += weights.multiplier * factor * zero_point * cells.total
    return terms, constant % ORDER


def weighted_outputs(
    outputs: Sequence[int], batch: Vector, channel: Vector, y: Vector, x: Vector
) -> int:
    """Return the sum of all outputs, each weighted with an entry of every vector.

    Raises:
        ValueError: there are not as many outputs as weights.

    """
    width, grid = len(x), len(y) * len(x)
    lines = [dot(outputs[i : i + width], x) for i in range(0, len(outputs), width)]
    planes = [dot(lines[i : i + len(y)], y) for i in range(0, len(lines), len(y))]
    if len(planes) * grid != len(outputs) or len(planes) != len(batch) * len(channel):
        raise ValueError("the outputs do not have the shape of the circuit")
    items = [
        dot(planes[i : i + len(channel)], channel) for i in range(0, len(planes), len(channel))
    ]
    return dot(items, batch)
