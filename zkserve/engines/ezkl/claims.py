"""Claims of the ezkl engine: how a claim and the circuit's public instances spell each other.

The order of instances is ezkl's own: for committed inputs the input commitment, the weights hash,
the outputs; for public inputs the weights hash, the inputs, the outputs. The weights hash is there
in weights mode ``hashed`` only. In ``fixed`` the claim's weights are a digest of the verifying key,
which holds them; in ``polycommit`` a digest of the commitment that each proof begins with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from eth_utils.crypto import keccak

from zkserve.encoding import FIELD_MODULUS, OUTPUT_BOUND, bytes32, to_hex
from zkserve.engines.ezkl.inputs import Opening, SaltShape, pack, unpack
from zkserve.engines.ezkl.settings import Settings
from zkserve.errors import BundleMismatch, EngineFailed, InvalidInput, ProofInvalid
from zkserve.types import CircuitManifest, Claim, InputMode, WeightsMode

FIXED_TAG = b"zkserve/ezkl/fixed/v1"
POLYCOMMIT_TAG = keccak(text="zkserve/ezkl/polycommit/v1")
POINT_BYTES = 64
"""A point in a proof: its x and its y, 32 bytes each, big-endian."""


def to_instances(manifest: CircuitManifest, claim: Claim) -> list[int]:
    """Return the field elements that a proof of ``claim`` must show.

    Raises:
        ProofInvalid: the claim is not one of this circuit, or not in canonical form.

    """
    if (claim.circuit_id, claim.weights) != (manifest.circuit_id, manifest.weights):
        raise ProofInvalid("The claim is of another circuit or other weights.")
    if len(claim.outputs) != manifest.output.size:
        raise ProofInvalid(
            f"The claim has {len(claim.outputs)} outputs; the circuit has {manifest.output.size}."
        )
    if any(abs(output) >= OUTPUT_BOUND for output in claim.outputs):
        raise ProofInvalid("An output of the claim is outside ±2**127.")
    shown = _shown_weights(manifest)
    if manifest.input_mode is InputMode.PUBLIC:
        try:
            inputs = unpack(claim.input, size=input_size(manifest))
        except InvalidInput as exc:
            raise ProofInvalid(exc.message) from exc
        tied = [*shown, *inputs]
    else:
        if len(claim.input) != 32:
            raise ProofInvalid(f"An input commitment has 32 bytes, got {len(claim.input)}.")
        commitment = int.from_bytes(claim.input, "big")
        if commitment >= FIELD_MODULUS:
            raise ProofInvalid("The input commitment is not below the field's order.")
        tied = [commitment, *shown]
    return [value % FIELD_MODULUS for value in (*tied, *claim.outputs)]


def from_instances(manifest: CircuitManifest, opening: Opening, instances: Sequence[int]) -> Claim:
    """Return the claim that a witness of ``opening`` showing ``instances`` makes.

    Raises:
        BundleMismatch: the instances are not those of the manifest's weights and this opening.

    """
    claim = Claim(
        circuit_id=manifest.circuit_id,
        weights=manifest.weights,
        input=(
            pack(opening.values)
            if manifest.input_mode is InputMode.PUBLIC
            else instances[0].to_bytes(32, "big")
        ),
        outputs=tuple(_signed(output) for output in instances[-manifest.output.size :]),
    )
    if to_instances(manifest, claim) != instances:
        raise BundleMismatch("The compiled model has other weights than the manifest says.")
    return claim


def hashed_weights(
    instances: Sequence[int], *, input_mode: InputMode, inputs: int, outputs: int
) -> str:
    """Return the weights hash among the instances of a circuit just set up in ``hashed``.

    Raises:
        EngineFailed: there is another number of instances than the circuit's shapes call for.

    """
    committed = input_mode is InputMode.COMMITTED
    expected = (1 if committed else inputs) + 1 + outputs
    if len(instances) != expected:
        raise EngineFailed(f"The circuit has {len(instances)} instances; expected {expected}.")
    return f"0x{instances[1 if committed else 0]:064x}"


def fixed_weights(verifying_key_sha256: str) -> str:
    """Return what a claim in ``fixed`` names: the SHA-256 of a tag and the key's own SHA-256.

    The key holds commitments to the columns of constants, the weights among them, and to how cells
    are wired to them. Keys are drawn anew at each setup: equal weights give another digest then.
    """
    digest = hashlib.sha256(FIXED_TAG + bytes.fromhex(verifying_key_sha256))
    return to_hex(digest.digest())


def polycommit_weights(proof: bytes, points: int) -> str:
    """Return what a claim in ``polycommit`` names: Keccak-256 of a tag and a proof's first points.

    Those are the commitments to the columns that hold the weights, which nothing blinds: the same
    weights under the same SRS give the same points. Contracts recompute this.

    Raises:
        EngineFailed: there are no such points, and the digest would be of nothing.

    """
    if not 1 <= points <= len(proof) // POINT_BYTES:
        raise EngineFailed(f"A proof of {len(proof)} bytes does not begin with {points} points.")
    return to_hex(keccak(POLYCOMMIT_TAG + proof[: points * POINT_BYTES]))


def check_points(manifest: CircuitManifest, settings: Settings | None = None) -> None:
    """Check that claims in ``polycommit``, and no others, cover points that commit to weights.

    How many follows from the pinned ``settings``, whatever the manifest says: a claim that covers
    fewer than there are, or none, leaves weights free.

    Raises:
        BundleMismatch: the manifest's number is another, or none that proofs have room for.

    """
    polycommit = manifest.weights_mode is WeightsMode.POLYCOMMIT
    most = parameter(manifest, "proof_bytes") // POINT_BYTES if polycommit else 0
    points = manifest.parameters.get("weights_points", 0)
    if type(points) is not int or not int(polycommit) <= points <= most:
        raise BundleMismatch(
            f"The manifest says that {points!r} points of a proof commit to the weights, in "
            f"weights mode {str(manifest.weights_mode)!r} and proofs of at most {most} points.",
            remedy="Do not trust this circuit: its claims bind no weights.",
        )
    if settings is not None and points != settings.weights_points:
        raise BundleMismatch(
            f"The manifest says that {points} points of a proof commit to the weights; by the "
            f"circuit's settings it is {settings.weights_points}.",
            remedy="Do not trust this circuit: its claims leave weights free.",
        )


def check_manifest(manifest: CircuitManifest, settings: Settings) -> None:
    """Check that a manifest says of its circuit what the pinned ``settings`` say.

    It decides how a claim is read and the settings how the circuit is verified, here and on a
    chain: where the two differ, a valid proof is of something else than its claim.

    Raises:
        BundleMismatch: modes, scales, numbers of values or what binds the weights are not the
            circuit's.

    """
    inputs = input_size(manifest) if manifest.input_mode is InputMode.PUBLIC else 1
    hashed = manifest.weights_mode is WeightsMode.HASHED
    for what, said, found in (
        ("input mode", manifest.input_mode, settings.input_mode),
        ("weights mode", manifest.weights_mode, settings.weights_mode),
        ("input scale", parameter(manifest, "input_scale"), settings.input_scale),
        ("output scale", manifest.output_scale, settings.output_scale),
        ("number of outputs", manifest.output.size, settings.outputs),
        ("number of instances", inputs + hashed + manifest.output.size, settings.instances),
    ):
        if said != found:
            raise BundleMismatch(
                f"The manifest says that the circuit's {what} is {said}; by its settings it is "
                f"{found}.",
                remedy="Do not trust this circuit: its proofs are not of what its claims say.",
            )
    check_points(manifest, settings)
    if manifest.weights_mode is WeightsMode.FIXED and manifest.weights != fixed_weights(
        manifest.pins["verifying_key"]
    ):
        raise BundleMismatch("The manifest's weights are not those of its verifying key.")


def check_weights(manifest: CircuitManifest, settings: Settings, proof: bytes) -> None:
    """Check that a proof is of the manifest's weights, where ezkl itself compares nothing.

    In ``hashed`` that is an instance, which the proof shows (:func:`to_instances`), in ``fixed``
    the verifying key (:func:`check_manifest`).

    Raises:
        ProofInvalid: the proof begins with commitments to other weights (``polycommit``).

    """
    if manifest.weights_mode is WeightsMode.POLYCOMMIT:
        found = polycommit_weights(proof, settings.weights_points)
        if found != manifest.weights:
            raise ProofInvalid("The proof is of other weights: it begins with another commitment.")


def check_length(manifest: CircuitManifest, proof: bytes) -> None:
    """Check that a proof has the one length that proofs of this circuit have.

    Raises:
        ProofInvalid: it has not; ezkl itself would ignore trailing bytes.

    """
    expected = parameter(manifest, "proof_bytes")
    if len(proof) != expected:
        raise ProofInvalid(
            f"The proof has {len(proof)} bytes; proofs of this circuit have {expected}."
        )


def check_batch(manifest: CircuitManifest) -> None:
    """Check that inputs and output have the batch as their first dimension.

    Raises:
        BundleMismatch: they have not, and outputs would be read as other samples' than they are.

    """
    tensors = (*manifest.inputs, manifest.output)
    if manifest.batch != 1 and any(spec.shape[:1] != (manifest.batch,) for spec in tensors):
        raise BundleMismatch(
            f"The manifest's batch is {manifest.batch}, its shapes are "
            f"{[list(spec.shape) for spec in tensors]}."
        )


def decode_opening(manifest: CircuitManifest, opening: bytes) -> Opening:
    """Read an opening of this circuit.

    Raises:
        ProofInvalid: it is not one.

    """
    return Opening.decode(
        opening,
        size=input_size(manifest),
        scale=parameter(manifest, "input_scale"),
        salt=salt_shape(manifest),
    )


def salt_shape(manifest: CircuitManifest) -> SaltShape:
    """Return the shape of this circuit's salts."""
    return SaltShape(count=parameter(manifest, "salt_count"), bits=parameter(manifest, "salt_bits"))


def parameter(manifest: CircuitManifest, name: str) -> int:
    """Return a parameter that this engine wrote into the manifest.

    Raises:
        BundleMismatch: it is not there.

    """
    value = manifest.parameters.get(name)
    if type(value) is not int:
        raise BundleMismatch(
            f"The manifest's parameter {name!r} is {value!r}; expected an integer."
        )
    return value


def input_size(manifest: CircuitManifest) -> int:
    """Return the number of elements of all inputs together."""
    return sum(spec.size for spec in manifest.inputs)


def _shown_weights(manifest: CircuitManifest) -> list[int]:
    if manifest.weights_mode is not WeightsMode.HASHED:
        return []
    weights = int.from_bytes(bytes32(manifest.weights), "big")
    if weights >= FIELD_MODULUS:
        raise ProofInvalid("The weights commitment is not below the field's order.")
    return [weights]


def _signed(element: int) -> int:
    return element - FIELD_MODULUS if element > FIELD_MODULUS // 2 else element
