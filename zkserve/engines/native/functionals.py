"""The linear claims of a proof: what every equation says of the committed cells, section 9."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from zkserve.engines.native.curve import ORDER
from zkserve.engines.native.description import (
    Description,
    Equation,
    Instance,
    OutputKind,
    ProductKind,
    Scaled,
    clog,
)
from zkserve.engines.native.vectors import (
    Cells,
    Family,
    Place,
    Term,
    Vector,
    dot,
    eq,
    eq_bits,
    last,
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
class Challenges:
    """What is drawn before the claims are formed; the names are those of the protocol."""

    alpha: int
    lambda_: int
    eta: int
    tau: Sequence[int]
    equations: Sequence[Sequence[int]]
    output: Sequence[int]
    r: Sequence[int]
    chi_x: int
    chi: Sequence[int]
    beta: int


@dataclass(frozen=True, kw_only=True)
class Messages:
    """What the prover says and the claims are about."""

    total: int  # V
    libra: int  # g(r)
    evaluations: Sequence[int]  # E
    masked: int  # s_M


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
        constant = _weighted_outputs(
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


def _weighted_outputs(
    outputs: Sequence[int], batch: Vector, channel: Vector, y: Vector, x: Vector
) -> int:
    width, grid = len(x), len(y) * len(x)
    lines = [dot(outputs[i : i + width], x) for i in range(0, len(outputs), width)]
    planes = [dot(lines[i : i + len(y)], y) for i in range(0, len(lines), len(y))]
    if len(planes) * grid != len(outputs) or len(planes) != len(batch) * len(channel):
        raise ValueError("the outputs do not have the shape of the circuit")
    items = [
        dot(planes[i : i + len(channel)], channel) for i in range(0, len(planes), len(channel))
    ]
    return dot(items, batch)


def public_input(d: Description, chi_x: int, packed: bytes) -> tuple[list[Term], int]:
    """Return the claim that the input cells hold the packed input, as terms and value."""
    packing, tensor = d.input_packing, d.tensors[0]
    size = packing.word_bytes
    words = [int.from_bytes(packed[i : i + size], "big") for i in range(0, len(packed), size)]
    power = [1]
    for _ in range(packing.words_per_row * packing.rows):
        power.append(power[-1] * chi_x % ORDER)
    step, per_word = packing.words_per_row, packing.per_word
    x = [
        power[i // per_word] << 8 * packing.value_bytes * (per_word - 1 - i % per_word)
        for i in range(tensor.width)
    ]
    y = [power[i * step] for i in range(tensor.height)]
    step *= tensor.height
    channels = [power[i * step] for i in range(tensor.channels)]
    step *= tensor.channels
    batch = padded([power[i * step] for i in range(d.header.batch)], clog(d.header.batch))
    cells = Cells(tensor=0, channels=channels, rest=(batch, *spatial(tensor, y, x)))
    return cells.values(d, 1), dot(words, power[: len(words)])


def hidden_input(d: Description, chi_x: int) -> list[Term]:
    """Return the functional that is zero when the input cells are those of tile X."""
    tensor = d.tensors[0]
    sizes = (d.header.input_bytes, tensor.channels, d.header.batch, *tensor.spatial)
    bits = [clog(size) for size in sizes]
    powers = [chi_x]
    for _ in range(sum(bits) - 1):
        powers.append(powers[-1] * powers[-1] % ORDER)
    point = powers[::-1][: sum(bits)]
    vectors = [
        padded(teq(part, size), count)
        for part, size, count in zip(split(point, bits), sizes, bits, strict=True)
    ]
    byte, channels, *rest = vectors
    cells = Cells(tensor=0, channels=channels[: tensor.channels], rest=tuple(rest))
    columns = list(zip(d.columns.input, byte, strict=False))
    tile = Place(family=Family.INPUT, offset=0, coefficient=ORDER - 1)
    return [*cells.in_columns(d, columns), Term(vectors=tuple(vectors), places=(tile,))]


def claims(
    d: Description,
    c: Challenges,
    weights: Sequence[EquationWeights],
    factors: Sequence[Sequence[int]],
    messages: Messages,
    *,
    packed_input: bytes | None,
    outputs: Sequence[int],
) -> tuple[list[Term], int]:
    """Return all linear claims, combined with the powers of ``beta``, as terms and value.

    ``packed_input`` is None in hidden mode.
    """
    powers = [1]
    for _ in range(5 + d.evaluations):
        powers.append(powers[-1] * c.beta % ORDER)
    terms: list[Term] = []
    value = messages.total + powers[1] * messages.libra + powers[4] * messages.masked

    eta = 1
    for equation, own, scaled in zip(d.equations, weights, factors, strict=True):
        equation_terms, constant = equation_claim(d, equation, own, scaled, outputs)
        terms += [term.scaled(eta) for term in equation_terms]
        value -= eta * constant
        eta = eta * c.eta % ORDER
    terms.append(_libra(d, c, powers[1]))
    terms += _sums_of_helpers(d, powers[2])
    if packed_input is None:
        terms += [term.scaled(powers[3]) for term in hidden_input(d, c.chi_x)]
    else:
        input_terms, packed = public_input(d, c.chi_x, packed_input)
        terms += [term.scaled(powers[3]) for term in input_terms]
        value += powers[3] * packed
    terms += _mask_point(d, c, powers[4])
    evaluation_terms, evaluation_value = _evaluations(d, c, weights, messages, powers[5:])
    terms += evaluation_terms
    value += evaluation_value
    if d.header.output_kind == OutputKind.REQUANTISED:
        output_terms, output_value = _requantised_outputs(d, c.output, outputs)
        terms += [term.scaled(powers[5 + d.evaluations]) for term in output_terms]
        value += powers[5 + d.evaluations] * output_value
    return terms, value % ORDER


def _helper_term(vectors: tuple[Vector, ...], offsets: Iterable[int], factor: int) -> Term:
    places = (Place(family=Family.HELPERS, offset=o, coefficient=factor % ORDER) for o in offsets)
    return Term(vectors=vectors, places=tuple(places))


def _helper_offsets(d: Description) -> Iterator[int]:
    return (d.offsets.helpers + (i << d.header.row_bits) for i in range(d.helper_columns))


def _libra(d: Description, c: Challenges, beta: int) -> Term:
    """Claims 0 and 1 on the Libra coefficients: their sum over the cube and their value at r."""
    n = d.rounds
    vector = [(1 << n) + beta]
    for r, degree in zip(c.r, d.degrees, strict=True):
        power = 1
        for _ in range(degree):
            power = power * r % ORDER
            vector.append(((1 << n - 1) + beta * power) % ORDER)
    return _helper_term((padded(vector, clog(len(vector))),), [d.offsets.libra], 1)


def _sums_of_helpers(d: Description, beta: int) -> list[Term]:
    ones: Vector = (1, 1)
    return [
        _helper_term((ones,) * d.header.row_bits, _helper_offsets(d), beta),
        _helper_term((ones,) * d.header.table_bits, [d.offsets.table_helpers], -beta),
    ]


def rotated(chi: Sequence[int]) -> list[int]:
    """Return ``chi'``, the point at which masks of family w are read."""
    return [*chi[1:], chi[0]]


def _mask_point(d: Description, c: Challenges, beta: int) -> list[Term]:
    """Claim 4. Tiles of h are read at chi, the last tile of w at chi rotated by one coordinate.

    With one point for both, every round of the final sumcheck would give away a relation between
    weights (section 15, MUST 1).
    """
    places = tuple(
        Place(
            family=Family.HELPERS,
            offset=tile << d.header.k,
            coefficient=beta * (1 + tile * c.chi_x) % ORDER,
        )
        for tile in range(d.header.helper_tiles)
    )
    last_rows = Place(
        family=Family.ROWS,
        offset=(d.header.row_tiles - 1) << d.header.k,
        coefficient=beta * c.chi_x * c.chi_x % ORDER,
    )
    return [
        Term(vectors=eq_bits(c.chi), places=places),
        Term(vectors=eq_bits(rotated(c.chi)), places=(last_rows,)),
    ]


def _evaluations(
    d: Description,
    c: Challenges,
    weights: Sequence[EquationWeights],
    messages: Messages,
    powers: Sequence[int],
) -> tuple[list[Term], int]:
    """Claims 5 and on: each private factor of the main sumcheck has the value that was sent."""
    terms: list[Term] = []
    value = dot(messages.evaluations, powers[: d.evaluations])
    for number, instance in enumerate(d.instances):
        equation, own = d.equations[instance.equation], weights[instance.equation]
        point = last(c.r, instance.kappa)
        first, second = powers[2 * number], powers[2 * number + 1]
        terms += [t.scaled(first) for t in weight_factor(equation, own, instance, point)]
        cells = source_factor(d, equation, own, instance, point)
        terms += cells.values(d, second)
        value += second * d.tensors[instance.product.source].zero_point * cells.total
    at = 2 * len(d.instances)
    row_bits, table_bits = d.header.row_bits, d.header.table_bits
    rows, table = eq_bits(last(c.r, row_bits)), eq_bits(last(c.r, table_bits))
    places = [
        Place(family=Family.ROWS, offset=column << row_bits, coefficient=powers[at + column])
        for column in range(d.columns.count)
    ]
    at += d.columns.count
    places += [
        Place(family=Family.HELPERS, offset=offset, coefficient=powers[at + helper])
        for helper, offset in enumerate(_helper_offsets(d))
    ]
    at += d.helper_columns
    terms.append(Term(vectors=rows, places=tuple(places)))
    counted = Place(family=Family.ROWS, offset=d.offsets.multiplicities, coefficient=powers[at + 1])
    inverted = Place(family=Family.HELPERS, offset=d.offsets.table_helpers, coefficient=powers[at])
    terms.append(Term(vectors=table, places=(inverted, counted)))
    z = c.r[-1] * (1 - c.r[-1]) % ORDER
    masks = padded([power * z % ORDER for power in powers[: d.evaluations]], clog(d.evaluations))
    terms.append(_helper_term((masks,), [d.offsets.masks], 1))
    return terms, value


def _requantised_outputs(
    d: Description, point: Sequence[int], outputs: Sequence[int]
) -> tuple[list[Term], int]:
    number = d.equations[-1].target
    tensor = d.tensors[number]
    sizes = (tensor.channels, d.header.batch, *tensor.spatial)
    parts = split(point, d.output_challenges)
    channels, batch, *grid = (teq(u, m) for u, m in zip(parts, sizes, strict=True))
    rest = [padded(v, clog(len(v))) for v in (batch, *grid)]
    cells = Cells(tensor=number, channels=channels, rest=tuple(rest))
    y, x = grid if len(grid) == 2 else ([1], grid[0])
    value = _weighted_outputs(outputs, batch, channels, y, x)
    return cells.in_columns(d, [(d.columns.y, 1)]), value + tensor.zero_point * cells.total
