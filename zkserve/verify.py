"""Verify receipts: recompute the claim, never trust a digest that came with it.

Offline needs only the public artifacts of the circuit; on chain needs a node one trusts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from eth_utils.crypto import keccak

from zkserve.chain.contracts import Market, Registry, RequestStatus
from zkserve.chain.rpc import Chain
from zkserve.encoding import (
    claim_digest,
    context,
    pack_outputs,
    parse_json,
    proof_system_id,
    sha256_file,
    to_hex,
)
from zkserve.engines import engine
from zkserve.engines.base import NO_CONTEXT, Bundle
from zkserve.errors import BundleMismatch, InvalidInput, NotFound, ProofInvalid
from zkserve.receipt import manifest_from_dict, receipt_from_dict
from zkserve.types import CircuitManifest, Claim, InputMode, Receipt, Scale, Settlement


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was established, in words, and what was not; only ever made for a valid proof."""

    claim_digest: str
    circuit_id: str
    values: tuple[float, ...]
    batch: int | None
    """Samples that the values are of, in order; None where only the public artifacts can tell."""
    established: tuple[str, ...]
    caveats: tuple[str, ...]
    opened_input: tuple[float, ...] | None = None


def read_receipt(path: Path) -> Receipt:
    """Read a receipt file strictly.

    Raises:
        NotFound: there is no such file.
        InvalidInput: it is not a receipt.

    """
    return receipt_from_dict(_read_json(path, "receipt"))


def read_bundle(folder: Path, *, private: bool = False) -> Bundle:
    """Read artifacts: ``manifest.json`` and beside it each public file under its pin's name.

    With ``private``, those that are not public and lie there too are read and compared as well.

    Raises:
        NotFound: the folder, the manifest or a public file is missing.
        BundleMismatch: the manifest contradicts itself, or a file is not the pinned one.

    """
    manifest = manifest_from_dict(_read_json(folder / "manifest.json", "manifest"))
    missing = [name for name in sorted(manifest.public) if not (folder / name).is_file()]
    if missing:
        raise NotFound(
            f"{folder} lacks the public artifacts {', '.join(missing)}.",
            remedy="Download them again: `zkserve verify RECEIPT --url URL` does.",
        )
    names = manifest.pins if private else manifest.public
    files = {name: folder / name for name in sorted(names) if (folder / name).is_file()}
    for name, path in files.items():
        if sha256_file(path) != manifest.pins[name]:
            raise BundleMismatch(
                f"{path} is not the artifact that circuit {manifest.circuit_id} pins.",
                remedy="Download it again: `zkserve verify RECEIPT --url URL` does.",
            )
    return Bundle(manifest=manifest, files=files)


def verify_offline(
    receipt: Receipt,
    folder: Path,
    *,
    expected_circuit: str | None = None,
    opening: bytes | None = None,
) -> Verification:
    """Verify a receipt from a folder of public artifacts alone; no network, no weights.

    Args:
        receipt: What to verify.
        folder: See :func:`read_bundle`.
        expected_circuit: The circuit id known from elsewhere (the registry, a model card). Without
            it the answer says only that *some* circuit of that id was proved.
        opening: The private opening of a committed input; with it the commitment is recomputed.

    Raises:
        ProofInvalid: the receipt does not hold.
        BundleMismatch: the artifacts are not the pinned ones, or of another circuit.

    """
    bundle = read_bundle(folder)
    manifest, claim = bundle.manifest, receipt.claim
    _require_rows(manifest)
    _require_same("circuit id", manifest.circuit_id, claim.circuit_id)
    if expected_circuit is not None:
        _require_same("circuit id", expected_circuit, claim.circuit_id)
    _require_receipt_matches(receipt, manifest)
    proof_system = engine(manifest.engine)
    proof_system.verify(bundle, claim, receipt.proof)
    opened = None
    if opening is not None:
        opened = tuple(proof_system.check_opening(bundle, claim, opening))
    bound, unbound = _context_said(proof_system.context_of(receipt.proof), receipt.settlement)
    return Verification(
        claim_digest=claim_digest(claim),
        circuit_id=claim.circuit_id,
        values=tuple(receipt.output_scale.to_real(value) for value in claim.outputs),
        batch=manifest.batch,
        established=(*_established(manifest, opened is not None), *bound),
        caveats=(
            *unbound,
            *_repeated(claim, manifest.batch),
            *_caveats(manifest, expected=expected_circuit is not None, opened=opened is not None),
            *proof_system.caveats(bundle),
            *_OWNERS_WORD,
        ),
        opened_input=opened,
    )


def verify_on_chain(
    receipt: Receipt, chain: Chain, registry: str, version_id: int, *, market: str | None = None
) -> Verification:
    """Verify a receipt by asking the registered verifier itself (``eth_call``, no gas spent).

    Anybody may register any circuit id, with a verifier that accepts everything: ``version_id`` is
    the version *you* rely on, as a contract would, never the one that the receipt names. The
    registry says which circuit, weights, output scale and verifier it has. With ``market``, the
    address of the one you trust, the settlement is checked against its record too.

    Raises:
        ProofInvalid: the registry's verifier refuses, the chain's records differ, or the proof is
            bound to another registration.
        NotFound: there is no engine of the receipt's name.
        InvalidInput: the receipt was never settled, so it names no version on this chain.

    """
    claim, settlement = receipt.claim, receipt.settlement
    if settlement is None:
        raise InvalidInput(
            "This receipt was not settled on a chain.",
            remedy="Verify it offline with --artifacts or --url.",
        )
    if settlement.chain_id != chain.chain_id:
        raise InvalidInput(
            f"The receipt was settled on chain {settlement.chain_id}, the node is on "
            f"chain {chain.chain_id}.",
            remedy="Name a node of the receipt's chain with --rpc-url.",
        )
    _require_same("registry", registry.lower(), settlement.registry.lower())
    _require_same("version", f"{version_id:#x}", f"{settlement.version_id:#x}")
    records = Registry(chain, registry)
    version = records.get_version(version_id)
    _require_same("circuit id", to_hex(version.circuit_id), claim.circuit_id)
    _require_same("weights commitment", to_hex(version.weights), claim.weights)
    system = proof_system_id(receipt.engine, receipt.engine_version)
    _require_same("proof system", to_hex(version.proof_system_id), to_hex(system))
    scale = Scale(multiplier=version.output_multiplier, shift=version.output_shift)
    _require_same("output scale", scale, receipt.output_scale)
    _require_same("development SRS mark", version.development_srs, receipt.development_srs)
    records.verify_inference(version_id, claim, receipt.proof)
    bound = engine(receipt.engine).context_of(receipt.proof)
    if bound is not None and bound != context(chain.chain_id, registry, version_id):
        raise ProofInvalid(
            f"The proof is bound to another registration than version {version_id:#x}, yet the "
            f"verifier of that version, {version.verifier}, accepts it.",
            remedy="Do not rely on this version: its verifier takes proofs made for another.",
        )
    established = [
        f"Version {version_id:#x} of the registry pins this circuit and weights.",
        f"Its verifier, {version.verifier}, accepts the proof of this claim.",
    ]
    if bound is not None:
        established.append("The proof was made for this version of this registry and chain.")
    caveats = [
        "You trust the node you asked, and the registry's address you gave.",
        "What that verifier verifies is for `zkserve audit` to say.",
        *_OWNERS_WORD,
    ]
    if len(claim.outputs) > 1:
        caveats.append(
            "Whether the values are of one sample or of several, the chain does not say: the "
            "public artifacts do (--artifacts or --url)."
        )
    if market is None:
        caveats.append("The settlement was not checked: name the market you trust (--market).")
    else:
        _check_settlement(claim, settlement, Market(chain, market))
        established.append(f"The market settled request {settlement.request_id} with this claim.")
    if version.development_srs:
        caveats.append(_SRS_CAVEAT)
    return Verification(
        claim_digest=claim_digest(claim),
        circuit_id=claim.circuit_id,
        values=tuple(scale.to_real(value) for value in claim.outputs),
        batch=1 if len(claim.outputs) == 1 else None,
        established=tuple(established),
        caveats=tuple(caveats),
    )


def _check_settlement(claim: Claim, settlement: Settlement, market: Market) -> None:
    _require_same("market", market.address.lower(), settlement.market.lower())
    _require_same("market's registry", market.registry().lower(), settlement.registry.lower())
    request = market.request_of(settlement.request_id)
    _require_same("request's state", RequestStatus.FULFILLED.name, request.status.name)
    _require_same("request's version", request.version_id, settlement.version_id)
    _require_same("request's verifier", request.verifier.lower(), settlement.verifier.lower())
    _require_same("request's input", to_hex(request.input_hash), to_hex(keccak(claim.input)))
    outputs = to_hex(keccak(pack_outputs(claim.outputs)))
    _require_same("request's outputs", to_hex(request.outputs_hash), outputs)


_OWNERS_WORD = (
    "That the circuit is the model it is said to be is the owner's word.",
    "The receipt's model name and version are labels: the circuit id is what counts.",
)
_SRS_CAVEAT = "Development SRS: whoever made it can forge proofs. Good for trying things out only."


def _require_same(what: str, expected: object, given: object) -> None:
    if str(expected) != str(given):
        raise ProofInvalid(f"The {what} differs: expected {expected}, the receipt has {given}.")


def _require_receipt_matches(receipt: Receipt, manifest: CircuitManifest) -> None:
    _require_same("weights commitment", manifest.weights, receipt.claim.weights)
    _require_same("engine", manifest.engine, receipt.engine)
    _require_same("engine version", manifest.engine_version, receipt.engine_version)
    _require_same("output scale", manifest.output_scale, receipt.output_scale)
    _require_same("development SRS mark", manifest.development_srs, receipt.development_srs)
    if len(receipt.claim.outputs) != manifest.output.size:
        raise ProofInvalid(
            f"The circuit has {manifest.output.size} outputs, the receipt has "
            f"{len(receipt.claim.outputs)}."
        )


def _require_rows(manifest: CircuitManifest) -> None:
    if manifest.batch != 1 and manifest.output.shape[:1] != (manifest.batch,):
        raise BundleMismatch(
            f"The manifest says a batch of {manifest.batch}, its output has the shape "
            f"{list(manifest.output.shape)}."
        )


def _established(manifest: CircuitManifest, opened: bool) -> tuple[str, ...]:
    lines = [
        f"The artifacts are those that circuit {manifest.circuit_id} pins.",
        f"The proof shows that this circuit, with weights of commitment {manifest.weights}, "
        "gives these outputs on this input.",
    ]
    if manifest.batch > 1:
        lines.append(
            f"The circuit is one of {manifest.batch} samples, by the manifest that its id pins: "
            "input and values are theirs, in one order."
        )
    if opened:
        lines.append("The opening is what the claim's input commitment commits to.")
    return tuple(lines)


def _caveats(manifest: CircuitManifest, *, expected: bool, opened: bool) -> tuple[str, ...]:
    lines = []
    if not expected:
        lines.append(
            "The circuit id was not compared with anything: check it against the registry or the "
            "model card (--expect-circuit)."
        )
    if manifest.input_mode is InputMode.COMMITTED and not opened:
        lines.append(
            "The input is committed: which input it was is not shown (--opening shows it)."
        )
    if manifest.development_srs:
        lines.append(_SRS_CAVEAT)
    return tuple(lines)


def _repeated(claim: Claim, batch: int) -> tuple[str, ...]:
    """Return what rows with equal outputs leave open; nothing shows which of a batch were sent."""
    size = len(claim.outputs) // batch
    rows = {claim.outputs[start : start + size] for start in range(0, batch * size, size)}
    if len(rows) == batch:
        return ()
    return (
        f"The {batch} rows hold {len(rows)} different answers. Equal ones may be of one sample, "
        "repeated: a batch that is not full is filled with its last row.",
    )


def _context_said(
    bound: bytes | None, settlement: Settlement | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what is established of the registration that a proof is for, and what is not."""
    if bound is None:
        return (), ()
    if bound == NO_CONTEXT:
        return (), ("The proof is bound to no registration: no contract accepts it.",)
    if settlement is None:
        return (), (f"Which registration the proof is bound to was not checked: {to_hex(bound)}.",)
    named = context(settlement.chain_id, settlement.registry, settlement.version_id)
    where = (
        f"version {settlement.version_id:#x} of registry {settlement.registry} on chain "
        f"{settlement.chain_id}"
    )
    if named != bound:
        return (), ("The proof is bound to another registration than the receipt names.",)
    return (f"The proof is bound to one registration: {where}.",), ()


def _read_json(path: Path, what: str) -> dict[str, object]:
    try:
        data = parse_json(path.read_bytes())
    except FileNotFoundError as exc:
        raise NotFound(f"There is no {what} at {path}.") from exc
    except ValueError as exc:
        raise InvalidInput(f"{path} is not JSON: expected a {what}.") from exc
    if not isinstance(data, dict):
        raise InvalidInput(f"{path} holds no JSON object: expected a {what}.")
    return data


__all__ = [
    "Verification",
    "read_bundle",
    "read_receipt",
    "verify_offline",
    "verify_on_chain",
]
