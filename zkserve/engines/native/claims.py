"""Claims of the native engine: what is hashed into them, and what a proof begins with.

A proof begins with its context and the commitments that the claim's digests stand for (sections 6
and 12 of the protocol).
"""

from __future__ import annotations

from collections.abc import Sequence

from zkserve.encoding import to_hex
from zkserve.engines.native.inputs import Opening, pack, unpack
from zkserve.engines.native.protocol import transcript
from zkserve.engines.native.protocol.description import Description
from zkserve.errors import BundleMismatch, InvalidInput, ProofInvalid
from zkserve.types import CircuitManifest, Claim, InputMode

CONTEXT_BYTES = 32
POINT_BYTES = 64


def weights_digest(commitment: bytes, multipliers: Sequence[int]) -> str:
    """Return the weights commitment of a claim: of the points ``C_W`` and the multipliers."""
    starts = range(0, len(commitment), POINT_BYTES)
    points = [commitment[at : at + POINT_BYTES] for at in starts]
    return to_hex(transcript.weights_digest(points, multipliers))


def encode_multipliers(multipliers: Sequence[int]) -> bytes:
    """Return multipliers as they stand in a proof: four bytes each, big-endian."""
    return b"".join(value.to_bytes(4, "big") for value in multipliers)


def decode_multipliers(data: bytes) -> tuple[int, ...]:
    """Return the multipliers that :func:`encode_multipliers` wrote."""
    return tuple(int.from_bytes(data[at : at + 4], "big") for at in range(0, len(data), 4))


def claim_of(
    manifest: CircuitManifest,
    description: Description,
    opening: Opening,
    outputs: Sequence[int],
    commitment: bytes,
) -> Claim:
    """Return the claim of an opening; ``commitment`` is ``C_X``, empty for a public input."""
    hidden = manifest.input_mode is InputMode.COMMITTED
    return Claim(
        circuit_id=manifest.circuit_id,
        weights=manifest.weights,
        input=(
            transcript.hidden_input_digest(commitment)
            if hidden
            else pack(description, opening.cells)
        ),
        outputs=tuple(outputs),
    )


def check_claim(manifest: CircuitManifest, description: Description, claim: Claim) -> None:
    """Check that a claim is one of this circuit, in canonical form.

    Raises:
        ProofInvalid: it is not.

    """
    if (claim.circuit_id, claim.weights) != (manifest.circuit_id, manifest.weights):
        raise ProofInvalid("The claim is of another circuit or other weights.")
    if len(claim.outputs) != description.outputs:
        raise ProofInvalid(
            f"The claim has {len(claim.outputs)} outputs; the circuit has {description.outputs}."
        )
    if any(abs(output) >= transcript.OUTPUT_BOUND for output in claim.outputs):
        raise ProofInvalid("An output of the claim is outside ±2**62.")
    if manifest.input_mode is InputMode.COMMITTED:
        if len(claim.input) != 32:
            raise ProofInvalid(f"An input commitment has 32 bytes, got {len(claim.input)}.")
        return
    try:
        unpack(description, claim.input)
    except InvalidInput as exc:
        raise ProofInvalid(exc.message) from exc


def check_length(manifest: CircuitManifest, description: Description, proof: bytes) -> None:
    """Check that a proof has the one length that proofs of this circuit have.

    Raises:
        ProofInvalid: it has not.
        BundleMismatch: the manifest says another length than the description gives.

    """
    expected = description.proof_bytes(hidden=manifest.input_mode is InputMode.COMMITTED)
    if manifest.parameters.get("proof_bytes") != expected:
        raise BundleMismatch("The manifest's proof size is not that of the circuit's description.")
    if len(proof) != expected:
        raise ProofInvalid(
            f"The proof has {len(proof)} bytes; proofs of this circuit have {expected}."
        )
