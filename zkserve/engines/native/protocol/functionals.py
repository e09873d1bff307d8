"""The linear claims of a proof: what every equation says of the committed cells, section 9."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from zkserve.engines.native.protocol.curve import ORDER
from zkserve.engines.native.protocol.description import (
    Description,
    OutputKind,
    clog,
)
from zkserve.engines.native.protocol.equations import (
    EquationWeights,
    equation_claim,
    source_factor,
    weight_factor,
    weighted_outputs,
)
from zkserve.engines.native.protocol.vectors import (
    Cells,
    Family,
    Place,
    Term,
    Vector,
    dot,
    eq_bits,
    last,
    padded,
    spatial,
    split,
    teq,
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
    value = weighted_outputs(outputs, batch, channels, y, x)
    return cells.in_columns(d, [(d.columns.y, 1)]), value + tensor.zero_point * cells.total
