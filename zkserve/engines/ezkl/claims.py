"""Claims of the ezkl engine: how a claim and the circuit's public instances spell each other.

The order of instances is ezkl's own: for committed inputs the input commitment, the weights hash,
the outputs; for public inputs the weights hash, the inputs, the outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

from zkserve.encoding import FIELD_MODULUS, OUTPUT_BOUND, bytes32
from zkserve.engines.ezkl.inputs import Opening, SaltShape, pack, unpack
from zkserve.errors import BundleMismatch, EngineFailed, InvalidInput, ProofInvalid
from zkserve.types import CircuitManifest, Claim, InputMode


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
    weights = int.from_bytes(bytes32(claim.weights), "big")
    if weights >= FIELD_MODULUS:
        raise ProofInvalid("The weights commitment is not below the field's order.")
    if manifest.input_mode is InputMode.PUBLIC:
        try:
            inputs = unpack(claim.input, size=input_size(manifest))
        except InvalidInput as exc:
            raise ProofInvalid(exc.message) from exc
        tied = [weights, *inputs]
    else:
        if len(claim.input) != 32:
            raise ProofInvalid(f"An input commitment has 32 bytes, got {len(claim.input)}.")
        commitment = int.from_bytes(claim.input, "big")
        if commitment >= FIELD_MODULUS:
            raise ProofInvalid("The input commitment is not below the field's order.")
        tied = [commitment, weights]
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


def weights_of(
    instances: Sequence[int], *, input_mode: InputMode, inputs: int, outputs: int
) -> str:
    """Return the weights commitment among the instances of a circuit just set up.

    Raises:
        EngineFailed: there is another number of instances than the circuit's shapes call for.

    """
    committed = input_mode is InputMode.COMMITTED
    expected = (1 if committed else inputs) + 1 + outputs
    if len(instances) != expected:
        raise EngineFailed(f"The circuit has {len(instances)} instances; expected {expected}.")
    return f"0x{instances[1 if committed else 0]:064x}"


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


def _signed(element: int) -> int:
    return element - FIELD_MODULUS if element > FIELD_MODULUS // 2 else element
