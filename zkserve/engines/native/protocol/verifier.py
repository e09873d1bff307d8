"""A second verifier of native proofs, in plain Python, from the text of the protocol alone.

It shares no code with the C++ verifier. A machine without the compiled extension uses it, and tests
ask both. A proof of a small network takes it a fraction of a second.
"""

from __future__ import annotations

from collections.abc import Sequence

from eth_utils.crypto import keccak

from zkserve.engines.native.protocol.constraints import bracket
from zkserve.engines.native.protocol.curve import ORDER, g2_from_bytes
from zkserve.engines.native.protocol.description import Description, decode, digest
from zkserve.engines.native.protocol.equations import equation_weights
from zkserve.engines.native.protocol.functionals import Challenges, Messages, claims
from zkserve.engines.native.protocol.opening import holds
from zkserve.engines.native.protocol.proof import ProofReader, check_weights, run_rounds
from zkserve.engines.native.protocol.transcript import (
    OUTPUT_BOUND,
    Transcript,
    hidden_input_digest,
    statement,
)
from zkserve.engines.native.protocol.vectors import Family, evaluate
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
    if hidden and d.hidden_input_bits > d.header.k:
        raise ProofInvalid("The input of this circuit does not fit the tile of hidden inputs.")
    _check_sizes(d, hidden, weights, claimed_input, outputs, data)
    secret_2 = g2_from_bytes(g2_s)
    if secret_2 is None:
        raise ProofInvalid("The SRS has the secret zero.")

    h = d.header
    proof = ProofReader(data)
    own_context = proof.take(32)
    if context is not None and own_context != context:
        raise ProofInvalid("The proof was made for another registration.")
    weight_points = proof.points(h.weight_tiles)
    input_points = proof.points(int(hidden))
    multipliers = proof.multipliers(d.multipliers)
    row_points, helper_points = proof.points(h.row_tiles), proof.points(h.helper_tiles)
    total = proof.scalars(1)
    rounds = [proof.scalars(degree) for degree in d.degrees]
    evaluations, masked = proof.scalars(d.evaluations), proof.scalars(1)
    folds = [proof.scalars(2) for _ in range(h.k)]
    opened = proof.opening()

    check_weights(weight_points, multipliers, weights)
    if None in input_points.points:
        raise ProofInvalid("A commitment to weights or input is the point at infinity.")
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
    r, claim = run_rounds(transcript, rounds, total.values[0])
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
    rho, claim = run_rounds(transcript, folds, claim)

    opening = opened.challenged(transcript)
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
    if not holds(opening, tiles, point=rho, value=claim, g2_s=secret_2):
        raise ProofInvalid("The pairing equation does not hold: the claim is not proven.")


def _padding(d: Description, packed: bytes) -> bytes:
    """Return the bytes of a packed input that stand for no value."""
    packing = d.input_packing
    row, used = packing.words_per_row * packing.word_bytes, d.tensors[0].width * packing.value_bytes
    return b"".join(packed[at + used : at + row] for at in range(0, len(packed), row))


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
    if not hidden and any(_padding(d, claimed_input)):
        raise ProofInvalid("The padding behind the rows of the input is not zero.")
    if len(weights) != 32:
        raise ProofInvalid(f"The weights of a claim are 32 bytes; got {len(weights)}.")
    if len(outputs) != d.outputs:
        raise ProofInvalid(f"The circuit has {d.outputs} outputs; got {len(outputs)}.")
    if any(type(value) is not int or abs(value) >= OUTPUT_BOUND for value in outputs):
        raise ProofInvalid("Outputs are integers strictly between -2^62 and 2^62.")
