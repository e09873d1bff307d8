"""The range proof of a registration, verified in plain Python from section 16 of the protocol.

It shows that committed weights are those of a quantised network: integers in their ranges, with
which no accumulator can leave its own. It shares no code with the C++ verifier.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from zkserve.engines.native.protocol.curve import ORDER, g2_from_bytes
from zkserve.engines.native.protocol.description import (
    HELPER_GROUP,
    Description,
    Equation,
    Product,
    clog,
    decode,
    digest,
)
from zkserve.engines.native.protocol.functionals import rotated
from zkserve.engines.native.protocol.opening import holds
from zkserve.engines.native.protocol.proof import ProofReader, check_weights, run_rounds
from zkserve.engines.native.protocol.range_bounds import bounds, largest_value
from zkserve.engines.native.protocol.range_layout import TABLE_BITS, ByteCell, RangeLayout
from zkserve.engines.native.protocol.transcript import REGISTRATION, Transcript
from zkserve.engines.native.protocol.vectors import (
    Family,
    Place,
    Term,
    Vector,
    cut,
    dot,
    eq_bits,
    eq_prefix,
    eqv,
    evaluate,
    last,
    padded,
    prod_mod,
    teq,
)
from zkserve.errors import ProofInvalid


def verify_registration(
    description: bytes,
    weight_bytes: int,
    srs_digest: bytes,
    g2_s: bytes,
    weights: bytes,
    proof: bytes,
) -> None:
    """Check that the weights behind the digest ``weights`` are those of a quantised network.

    Every weight is then an integer of ``weight_bytes`` bytes, every bias one of eight, and no input
    makes an accumulator leave its range. ``description``, ``srs_digest`` and ``g2_s`` (128 bytes,
    EIP-197 order) are trusted.

    Raises:
        ProofInvalid: the proof does not show it, whatever the reason.

    """
    try:
        layout = RangeLayout(d=decode(description), weight_bytes=weight_bytes)
        _verify(layout, digest(description), srs_digest, g2_s, weights, proof)
    except ProofInvalid:
        raise
    except Exception as exc:  # any exception is a rejection (section 11)
        raise ProofInvalid(f"The proof is not a range proof of these weights: {exc}") from exc


@dataclass(frozen=True, kw_only=True)
class RangeChallenges:
    """What is drawn; the names are those of the protocol."""

    alpha: int
    eta: int
    tau: Sequence[int]
    u: Sequence[int]
    chi_w: int
    xi: int
    groups: Sequence[Vector]  # e_g of each equation
    group_channels: Sequence[Vector]  # e_c'
    channels: Sequence[Vector]  # e_c


@dataclass(frozen=True, kw_only=True)
class RangeMessages:
    """What the prover says after the sumcheck, and the points at which it says so."""

    total: int  # V
    libra: int  # g(r)
    evaluations: Sequence[int]  # E
    masked: int  # s_M
    r: Sequence[int]
    chi_x: int
    chi: Sequence[int]


def _verify(
    layout: RangeLayout,
    d_digest: bytes,
    srs_digest: bytes,
    g2_s: bytes,
    weights: bytes,
    data: bytes,
) -> None:
    layout.check()
    d = layout.d
    if len(data) != layout.proof_bytes:
        raise ProofInvalid(
            f"A range proof of this circuit has {layout.proof_bytes} bytes; got {len(data)}."
        )
    if len(weights) != 32 or len(srs_digest) != 32:
        raise ProofInvalid("The digests of the weights and of the SRS are 32 bytes each.")
    secret_2 = g2_from_bytes(g2_s)
    if secret_2 is None:
        raise ProofInvalid("The SRS has the secret zero.")

    proof = ProofReader(data)
    commitment = proof.points(d.header.weight_tiles)
    multipliers = proof.multipliers(d.multipliers)
    row_points, helper_points = proof.points(layout.row_tiles), proof.points(layout.helper_tiles)
    total = proof.scalars(1)
    rounds = [proof.scalars(degree) for degree in layout.degrees]
    evaluations, masked = proof.scalars(layout.evaluations), proof.scalars(1)
    folds = [proof.scalars(2) for _ in range(d.header.k)]
    opened = proof.opening()
    check_weights(commitment, multipliers, weights)
    limits = bounds(d, multipliers)

    transcript = Transcript(REGISTRATION)
    transcript.absorb(srs_digest + d_digest + layout.weight_bytes.to_bytes(32, "big") + weights)
    transcript.absorb(row_points.data)
    alpha = transcript.challenge()
    transcript.absorb(helper_points.data)
    challenges = draw(d, transcript, alpha)
    transcript.absorb(total.data)
    r, claim = run_rounds(transcript, rounds, total.values[0])
    transcript.absorb(evaluations.data)
    chi_x, chi = transcript.challenge(), transcript.challenges(d.header.k)
    transcript.absorb(masked.data)
    messages = RangeMessages(
        total=total.values[0],
        libra=(claim - bracket(layout, challenges, r, evaluations.values)) % ORDER,
        evaluations=evaluations.values,
        masked=masked.values[0],
        r=r,
        chi_x=chi_x,
        chi=chi,
    )
    terms, claim = claims(layout, challenges, messages, limits, transcript.challenge())
    rho, claim = run_rounds(transcript, folds, claim)
    weight_of = evaluate(terms, rho, d.cells)
    families = {
        Family.WEIGHTS: commitment,
        Family.ROWS: row_points,
        Family.HELPERS: helper_points,
    }
    tiles = [
        (weight_of.get((family, tile), 0), point)
        for family, part in families.items()
        for tile, point in enumerate(part.points)
    ]
    if not holds(opened.challenged(transcript), tiles, point=rho, value=claim, g2_s=secret_2):
        raise ProofInvalid("The pairing equation does not hold: the weights are not proven.")


def draw(d: Description, transcript: Transcript, alpha: int) -> RangeChallenges:
    """Draw what follows the helpers, in the order of step 2; ``alpha`` was drawn before them."""
    eta, tau, u = transcript.challenge(), *(transcript.challenges(d.header.k) for _ in range(2))
    chi_w, xi = transcript.challenges(2)
    groups, group_channels = [], []
    for equation in d.equations:
        groups.append(teq(transcript.challenges(clog(equation.groups)), equation.groups))
        size = equation.group_channels
        group_channels.append(teq(transcript.challenges(clog(size)), size))
    channels = [
        [a * b % ORDER for a in group for b in channel]
        for group, channel in zip(groups, group_channels, strict=True)
    ]
    return RangeChallenges(
        alpha=alpha,
        eta=eta,
        tau=tau,
        u=u,
        chi_w=chi_w,
        xi=xi,
        groups=groups,
        group_channels=group_channels,
        channels=channels,
    )


def bracket(
    layout: RangeLayout, c: RangeChallenges, r: Sequence[int], evaluations: Sequence[int]
) -> int:
    """Return what is summed in the main sumcheck at ``r``, without the Libra polynomial."""
    terms = [(c.alpha - value) % ORDER for value in evaluations[: layout.columns]]
    rows, eta = 0, 1
    for number, helper in enumerate(evaluations[layout.columns : -2]):
        factors = terms[HELPER_GROUP * number : HELPER_GROUP * (number + 1)]
        others = sum(prod_mod(factors[:i] + factors[i + 1 :]) for i in range(len(factors)))
        rows += eta * (helper * prod_mod(factors) - others)
        eta = eta * c.eta % ORDER
    point = last(r, TABLE_BITS)
    byte = sum(coordinate << TABLE_BITS - 1 - i for i, coordinate in enumerate(point))
    inverse, count = evaluations[-2:]
    table = inverse * (c.alpha - byte) - count
    points = pow(2, -(layout.d.header.k - TABLE_BITS), ORDER)
    table *= points * eta % ORDER * eqv(c.tau[:TABLE_BITS], point)
    return (eqv(c.tau, r) * rows + table) % ORDER


def claims(
    layout: RangeLayout,
    c: RangeChallenges,
    messages: RangeMessages,
    limits: Sequence[Sequence[int]],
    beta: int,
) -> tuple[list[Term], int]:
    """Return all linear claims, combined with the powers of ``beta``, as terms and value."""
    powers = [1]
    for _ in range(5 + layout.evaluations):
        powers.append(powers[-1] * beta % ORDER)
    terms = [
        *_sums_of_helpers(layout, messages.r, powers),
        *_link(layout, c, powers[3]),
        *_mask_point(layout, messages, powers[4]),
        *_evaluations(layout, messages.r, powers[5:]),
    ]
    value = messages.total + powers[1] * messages.libra + powers[4] * messages.masked
    value += dot(messages.evaluations, powers[5:-1])
    weight = powers[-1]
    for number, bound in enumerate(limits):
        terms += _bounds(layout, c, number, weight)
        value += weight * dot(c.channels[number], bound)
        weight = weight * c.xi % ORDER
    return terms, value % ORDER


def _tile(layout: RangeLayout, number: int) -> int:
    return number << layout.d.header.k


def _at(family: Family, offset: int, coefficient: int) -> Place:
    return Place(family=family, offset=offset, coefficient=coefficient % ORDER)


def _ones(bits: int) -> tuple[Vector, ...]:
    return ((1, 1),) * bits


def _sums_of_helpers(layout: RangeLayout, r: Sequence[int], powers: Sequence[int]) -> list[Term]:
    """Claims 0 to 2: Libra over the cube and at ``r``, and the helpers' balance."""
    k = layout.d.header.k
    libra = [(1 << k) + powers[1]]
    for coordinate, degree in zip(r, layout.degrees, strict=True):
        power = 1
        for _ in range(degree):
            power = power * coordinate % ORDER
            libra.append((1 << k - 1) + powers[1] * power)
    own = _tile(layout, layout.helper_columns + 1) + layout.libra
    helpers = range(layout.helper_columns)
    table = _tile(layout, layout.helper_columns)
    return [
        Term(vectors=(padded(libra, clog(len(libra))),), places=(_at(Family.HELPERS, own, 1),)),
        Term(
            vectors=_ones(k),
            places=tuple(_at(Family.HELPERS, _tile(layout, i), powers[2]) for i in helpers),
        ),
        Term(vectors=_ones(TABLE_BITS), places=(_at(Family.HELPERS, table, -powers[2]),)),
    ]


def _link(layout: RangeLayout, c: RangeChallenges, beta: int) -> list[Term]:
    """Claim 3: every cell of family W is what its bytes say, at the random point ``u``."""
    k, weights, places = layout.d.header.k, [beta], list[Place]()
    for tile in range(layout.d.header.weight_tiles):
        address = _tile(layout, tile)
        places.append(_at(Family.WEIGHTS, address, weights[tile]))
        places += _bytes(layout.low_bytes(address), -weights[tile], signed=True)
        weights.append(weights[tile] * c.chi_w % ORDER)
    terms = [Term(vectors=eq_bits(c.u), places=tuple(places))]
    for number in range(len(layout.d.equations)):
        for block in layout.biases(number):
            tile, cell = divmod(block.piece.offset, layout.d.cells)
            log = block.piece.log
            factor = weights[tile] * eq_prefix(c.u[: k - log], cell >> log)
            high = _bytes(block.auxiliary, -factor, signed=True)
            terms.append(Term(vectors=eq_bits(last(c.u, log)), places=high))
    return terms


def _bytes(cells: Iterable[ByteCell], factor: int, *, signed: bool = False) -> tuple[Place, ...]:
    return tuple(
        _at(Family.ROWS, cell.address, (cell.sign if signed else 1) * factor << 8 * cell.byte)
        for cell in cells
    )


def _mask_point(layout: RangeLayout, messages: RangeMessages, beta: int) -> list[Term]:
    """Claim 4, at two points as in every proof (section 15, MUST 1)."""
    chi_x, chi = messages.chi_x, messages.chi
    helpers = tuple(
        _at(Family.HELPERS, _tile(layout, tile), beta * (1 + tile * chi_x))
        for tile in range(layout.helper_tiles)
    )
    rows = _at(Family.ROWS, _tile(layout, layout.columns), beta * chi_x * chi_x)
    return [
        Term(vectors=eq_bits(chi), places=helpers),
        Term(vectors=eq_bits(rotated(chi)), places=(rows,)),
    ]


def _evaluations(layout: RangeLayout, r: Sequence[int], powers: Sequence[int]) -> list[Term]:
    """Claims 5 and on: each private factor of the main sumcheck has the value that was sent."""
    columns, helpers = layout.columns, layout.helper_columns
    places = [_at(Family.ROWS, _tile(layout, i), powers[i]) for i in range(columns)]
    places += [_at(Family.HELPERS, _tile(layout, i), powers[columns + i]) for i in range(helpers)]
    inverted = _at(Family.HELPERS, _tile(layout, helpers), powers[columns + helpers])
    counted = _at(Family.ROWS, _tile(layout, columns), powers[columns + helpers + 1])
    z = r[-1] * (1 - r[-1]) % ORDER
    masks = [power * z % ORDER for power in powers[: layout.evaluations]]
    own = _at(Family.HELPERS, _tile(layout, helpers + 1), 1)
    return [
        Term(vectors=eq_bits(r), places=tuple(places)),
        Term(vectors=eq_bits(last(r, TABLE_BITS)), places=(inverted, counted)),
        Term(vectors=(padded(masks, clog(len(masks))),), places=(own,)),
    ]


def _bounds(layout: RangeLayout, c: RangeChallenges, number: int, factor: int) -> list[Term]:
    """Claim 5 + nE of one equation: bytes of weights and bias, and what they leave, add up."""
    d, equation, terms = layout.d, layout.d.equations[number], list[Term]()
    for product in equation.products:
        largest = largest_value(d, product.source, product.views)
        lead, rest = _contraction(d, equation, product, number, c)
        terms += [
            Term(vectors=vectors, places=_bytes(layout.low_bytes(offset), factor * largest))
            for offset, vectors in cut(product.pieces, lead, rest)
        ]
    for block in layout.biases(number):
        cells = (*layout.low_bytes(block.piece.offset), *block.auxiliary)
        vectors = (_part(c.channels[number], block.piece.first, block.piece.log),)
        terms.append(Term(vectors=vectors, places=_bytes(cells, factor)))
    for block in layout.slacks(number):
        vectors = (_part(c.channels[number], block.piece.first, block.piece.log),)
        terms.append(Term(vectors=vectors, places=_bytes(block.auxiliary, factor)))
    return terms


def _part(vector: Vector, first: int, log: int) -> Vector:
    return padded(vector[first : first + (1 << log)], log)


def _contraction(
    d: Description, equation: Equation, product: Product, number: int, c: RangeChallenges
) -> tuple[Vector, tuple[Vector, ...]]:
    """Return the vectors of a block of weights, all its contraction weighted with one."""
    first, *others = d.instance(number, product).bits
    behind = _ones(sum(others))
    channels = c.group_channels[number]
    inner = padded(channels, clog(equation.group_channels))
    if equation.groups > 1:
        rest = (inner, *_ones(first)) if product.order == 0 else (*_ones(first), inner)
        return c.groups[number], (*rest, *behind)
    if product.order == 0:
        return channels, (*_ones(first), *behind)
    end = product.pieces[-1]
    return [1] * (end.first + (1 << end.log)), (inner, *behind)
