"""A second verifier of native proofs, in plain Python, from the text of the protocol alone.

It shares no code with the C++ verifier. A machine without the compiled extension uses it, and tests
ask both. A proof of a small network takes it a fraction of a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eth_utils.crypto import keccak

from zkserve.engines.native import opening as openings
from zkserve.engines.native.constraints import bracket
from zkserve.engines.native.curve import G1, ORDER, g1_from_bytes, g2_from_bytes
from zkserve.engines.native.description import Description, decode, digest
from zkserve.engines.native.functionals import Challenges, Messages, claims, equation_weights
from zkserve.engines.native.transcript import (
    OUTPUT_BOUND,
    Transcript,
    hidden_input_digest,
    statement,
    weights_digest,
)
from zkserve.engines.native.vectors import Family, evaluate
from zkserve.errors import ProofInvalid

PUBLIC, HIDDEN = 0, 1
"""The modes: the input is part of the claim, or only a digest of its commitment is."""


def verify(
    description: bytes,
    *,
    srs_digest: bytes,
    g2_s: bytes,
    context: bytes | None,
    mode: int,
    weights: bytes,
    input: bytes,  # noqa: A002 - the claim's word
    outputs: Sequence[int],
    proof: bytes,
) -> None:
    """Check a proof against its claim ``(weights, input, outputs)``.

    ``description``, ``srs_digest`` and ``g2_s`` (128 bytes, EIP-197 order) are trusted, and so is
    ``context`` unless it is None: then any context is accepted, and the proof's own is what it was
    made for.

    Raises:
        ProofInvalid: the proof does not prove the claim, whatever the reason.

    """
    try:
        _verify(
            decode(description),
            digest(description),
            srs_digest=srs_digest,
            g2_s=g2_s,
            context=context,
            mode=mode,
            weights=weights,
            claimed_input=input,
            outputs=outputs,
            data=proof,
        )
    except ProofInvalid:
        raise
    except Exception as exc:  # any exception is a rejection (section 11)
        raise ProofInvalid(f"The proof is not a native proof of its claim: {exc}") from exc


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Scalars or points as they came, and as read."""

    data: bytes
    values: list[int]
    points: list[G1]


class _Proof:
    """Reads the parts of a proof in order; every scalar and point is checked before use."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        data = self._data[self._at : self._at + size]
        self._at += size
        return data

    def scalars(self, count: int) -> _Part:
        data = self.take(32 * count)
        values = [int.from_bytes(data[i : i + 32], "big") for i in range(0, len(data), 32)]
        if len(values) != count or any(value >= ORDER for value in values):
            raise ProofInvalid("A scalar of the proof is not below the order of the group.")
        return _Part(data=data, values=values, points=[])

    def points(self, count: int) -> _Part:
        data = self.take(64 * count)
        points = [g1_from_bytes(data[i : i + 64]) for i in range(0, len(data), 64)]
        return _Part(data=data, values=[], points=points)


def _verify(
    d: Description,
    d_digest: bytes,
    *,
    srs_digest: bytes,
    g2_s: bytes,
    context: bytes | None,
    mode: int,
    weights: bytes,
    claimed_input: bytes,
    outputs: Sequence[int],
    data: bytes,
) -> None:
    if mode not in (PUBLIC, HIDDEN):
        raise ProofInvalid(f"The mode is {PUBLIC} or {HIDDEN}; got {mode}.")
    hidden = mode == HIDDEN
    _check_sizes(d, hidden, weights, claimed_input, outputs, data)
    secret_2 = g2_from_bytes(g2_s)
    if secret_2 is None:
        raise ProofInvalid("The SRS has the secret zero.")

    h = d.header
    proof = _Proof(data)
    own_context = proof.take(32)
    if context is not None and own_context != context:
        raise ProofInvalid("The proof was made for another registration.")
    weight_points = proof.points(h.weight_tiles)
    input_points = proof.points(int(hidden))
    multipliers = tuple(int.from_bytes(proof.take(4), "big") for _ in range(d.multipliers))
    row_points, helper_points = proof.points(h.row_tiles), proof.points(h.helper_tiles)
    total = proof.scalars(1)
    rounds = [proof.scalars(degree) for degree in d.degrees]
    evaluations, masked = proof.scalars(d.evaluations), proof.scalars(1)
    folds = [proof.scalars(2) for _ in range(h.k)]
    opened_h, opened = proof.points(1), proof.points(3)
    values, witnesses = proof.scalars(6), proof.points(2)

    if None in weight_points.points or None in input_points.points:
        raise ProofInvalid("A commitment to weights or input is the point at infinity.")
    if any(not 1 <= multiplier < 1 << 16 for multiplier in multipliers):
        raise ProofInvalid("A multiplier is not between 1 and 65535.")
    points = [weight_points.data[i : i + 64] for i in range(0, 64 * h.weight_tiles, 64)]
    if weights_digest(points, multipliers) != weights:
        raise ProofInvalid("The proof is about other weights.")
    if hidden and hidden_input_digest(input_points.data) != claimed_input:
        raise ProofInvalid("The proof is about another input.")

    transcript = Transcript()
    transcript.absorb(
        statement(
            context=own_context,
            hidden=hidden,
            srs_digest=srs_digest,
            description_digest=d_digest,
            weights=weights,
            input_digest=claimed_input if hidden else keccak(claimed_input),
            outputs=outputs,
        )
    )
    transcript.absorb(row_points.data)
    alpha, lambda_ = transcript.challenges(2)
    transcript.absorb(helper_points.data)
    eta = transcript.challenge()
    tau = transcript.challenges(d.rounds)
    equations = [transcript.challenges(sum(d.equation_challenges(e))) for e in d.equations]
    output = transcript.challenges(sum(d.output_challenges))

    split = d.split_multipliers(multipliers)
    own_weights = [
        equation_weights(d, equation, own, point)
        for equation, (own, _), point in zip(d.equations, split, equations, strict=True)
    ]
    transcript.absorb(total.data)
    r, claim = _rounds(transcript, rounds, total.values[0])
    transcript.absorb(evaluations.data)
    chi_x = transcript.challenge()
    chi = transcript.challenges(h.k)
    known = bracket(
        d,
        alpha=alpha,
        lambda_=lambda_,
        eta=eta,
        tau=tau,
        r=r,
        multipliers=[own.multiplier for own in own_weights],
        evaluations=evaluations.values,
    )
    transcript.absorb(masked.data)
    challenges = Challenges(
        alpha=alpha,
        lambda_=lambda_,
        eta=eta,
        tau=tau,
        equations=equations,
        output=output,
        r=r,
        chi_x=chi_x,
        chi=chi,
        beta=transcript.challenge(),
    )
    messages = Messages(
        total=total.values[0],
        libra=(claim - known) % ORDER,
        evaluations=evaluations.values,
        masked=masked.values[0],
    )
    terms, claim = claims(
        d,
        challenges,
        own_weights,
        [factors for _, factors in split],
        messages,
        packed_input=None if hidden else claimed_input,
        outputs=outputs,
    )
    rho, claim = _rounds(transcript, folds, claim)

    transcript.absorb(opened_h.data)
    theta, gamma = transcript.challenges(2)
    transcript.absorb(opened.data)
    zeta = transcript.challenge()
    transcript.absorb(values.data)
    nu = transcript.challenge()
    transcript.absorb(witnesses.data)
    omega = transcript.challenge()
    g_zeta, g_inverse, h_zeta, h_inverse, s_zeta, inverse = values.values
    weight_of = evaluate(terms, rho, d.cells)
    families = {
        Family.WEIGHTS: weight_points,
        Family.ROWS: row_points,
        Family.HELPERS: helper_points,
        Family.INPUT: input_points,
    }
    tiles = [
        (weight_of.get((family, tile), 0), point)
        for family, part in families.items()
        for tile, point in enumerate(part.points)
    ]
    opening = openings.Opening(
        h=opened_h.points[0],
        quotient=opened.points[0],
        g=opened.points[1],
        s=opened.points[2],
        g_zeta=g_zeta,
        g_inverse=g_inverse,
        h_zeta=h_zeta,
        h_inverse=h_inverse,
        s_zeta=s_zeta,
        inverse=inverse,
        w1=witnesses.points[0],
        w2=witnesses.points[1],
        theta=theta,
        gamma=gamma,
        zeta=zeta,
        nu=nu,
        omega=omega,
    )
    if not openings.holds(opening, tiles, point=rho, value=claim, g2_s=secret_2):
        raise ProofInvalid("The pairing equation does not hold: the claim is not proven.")


def _check_sizes(
    d: Description,
    hidden: bool,
    weights: bytes,
    claimed_input: bytes,
    outputs: Sequence[int],
    data: bytes,
) -> None:
    expected = d.proof_bytes(hidden=hidden)
    if len(data) != expected:
        raise ProofInvalid(f"A proof of this circuit has {expected} bytes; got {len(data)}.")
    expected = 32 if hidden else d.input_packing.size_bytes
    if len(claimed_input) != expected:
        raise ProofInvalid(f"The input of a claim has {expected} bytes; got {len(claimed_input)}.")
    if len(weights) != 32:
        raise ProofInvalid(f"The weights of a claim are 32 bytes; got {len(weights)}.")
    if len(outputs) != d.outputs:
        raise ProofInvalid(f"The circuit has {d.outputs} outputs; got {len(outputs)}.")
    if any(type(value) is not int or abs(value) >= OUTPUT_BOUND for value in outputs):
        raise ProofInvalid("Outputs are integers strictly between -2^62 and 2^62.")


def _rounds(transcript: Transcript, rounds: Sequence[_Part], claim: int) -> tuple[list[int], int]:
    """Run sumcheck rounds whose linear coefficient is implied by the claim before."""
    point = []
    for sent in rounds:
        transcript.absorb(sent.data)
        constant, *others = sent.values
        linear = claim - 2 * constant - sum(others)
        r = transcript.challenge()
        claim = 0
        for coefficient in reversed((constant, linear, *others)):
            claim = (claim * r + coefficient) % ORDER
        point.append(r)
    return point, claim
