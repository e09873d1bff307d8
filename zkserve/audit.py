"""Audit a registered version: whether its contract verifies the circuit of the artifacts.

A receipt that verifies on chain is worth what the registered verifier is worth. Nobody vouches for
that one but its bytes: they are made anew here from the public artifacts and compared.
"""

from __future__ import annotations

from dataclasses import dataclass

from zkserve.chain.contracts import RegisteredVersion, Registry
from zkserve.chain.rpc import Chain
from zkserve.chain.verifiers import Subject, verifiers
from zkserve.encoding import agreement_ppb, proof_system_id, to_hex
from zkserve.engines import engine
from zkserve.engines.base import Bundle
from zkserve.errors import BundleMismatch
from zkserve.types import CircuitManifest

_UNSEEN = (
    "That the circuit computes the registered ONNX model is the owner's word: only who has the "
    "weights can compile it again."
)
_TRUSTED = "You trust the node you asked, and the registry's address you gave."


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What was established about a version, in words, and what was not."""

    version_id: str
    circuit_id: str
    established: tuple[str, ...]
    caveats: tuple[str, ...]


def audit(chain: Chain, registry: str, version_id: int, bundle: Bundle, solc: str) -> Audit:
    """Compare a registered version and its contracts with a circuit's public artifacts.

    ``bundle`` needs only public files; where it has the private ones as well, the circuit is
    compiled again, if its engine can. ``solc`` as :func:`zkserve.chain.evm.compile_verifier`.

    Raises:
        BundleMismatch: something on the chain is not what the artifacts give.
        ChainError, Unavailable: the node refuses or does not answer.

    """
    manifest = bundle.manifest
    version = Registry(chain, registry).get_version(version_id)
    proof_system = engine(manifest.engine)
    _check_registration(version, manifest, proof_system.verifying_key)
    proof_system.check_verifier(bundle)
    subject = Subject(
        manifest=manifest,
        source=proof_system.export_verifier(bundle),
        registry=registry,
        version_id=version_id,
    )
    found = verifiers(manifest.engine).check(chain, version.verifier, subject, solc)
    again = proof_system.check_model(bundle)
    caveats = [*([] if again else [_UNSEEN]), _TRUSTED, *proof_system.caveats(bundle)]
    if version.development_srs:
        caveats.append("Development SRS: whoever made it can forge proofs.")
    return Audit(
        version_id=f"0x{version_id:064x}",
        circuit_id=manifest.circuit_id,
        established=(
            "The registry pins the circuit id, weights, key and output scale of the artifacts.",
            "The verifier's source is what the engine makes of the public artifacts.",
            *found,
            *(["The verifying key is what the engine makes of the ONNX model."] if again else []),
        ),
        caveats=tuple(caveats),
    )


def _check_registration(version: RegisteredVersion, manifest: CircuitManifest, key: str) -> None:
    _require("circuit id", manifest.circuit_id, to_hex(version.circuit_id))
    _require("weights commitment", manifest.weights, to_hex(version.weights))
    _require("verifying key", manifest.pins[key], version.vk_hash.hex())
    system = proof_system_id(manifest.engine, manifest.engine_version)
    _require("proof system", to_hex(system), to_hex(version.proof_system_id))
    unit = (manifest.output_scale.multiplier, manifest.output_scale.shift)
    _require("output scale", unit, (version.output_multiplier, version.output_shift))
    _require("agreement", agreement_ppb(manifest.agreement), version.agreement_ppb)
    _require("development SRS mark", manifest.development_srs, version.development_srs)


def _require(what: str, expected: object, found: object) -> None:
    if expected != found:
        raise BundleMismatch(
            f"The {what} on chain is {found}; the artifacts give {expected}.",
            remedy="Do not rely on this version on chain, or fetch the artifacts of its circuit.",
        )
