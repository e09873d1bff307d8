"""Register a published version on chain, offer it, and one day deprecate it.

Each step is done once, however often it is cut off and called again: see :mod:`zkserve.outbox`.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from zkserve import outbox
from zkserve.chain.contracts import Binding, Market, ModelCommitment, Registry
from zkserve.chain.rpc import Chain
from zkserve.chain.verifiers import Subject, verifiers
from zkserve.encoding import agreement_ppb, bytes32, proof_system_id, to_hex
from zkserve.engines import engine
from zkserve.engines.base import Progress
from zkserve.errors import ChainError, Conflict
from zkserve.node import Node
from zkserve.receipt import manifest_from_dict
from zkserve.store import versions
from zkserve.store.tables import VersionRow, now

_CONFIRM_TIMEOUT_S = 1800.0


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where versions are registered and offered.

    ``confirmations`` are blocks to wait for on chains without a finalized tag; ``solc`` is the
    command of the Solidity compiler, see :mod:`zkserve.chain.evm`.
    """

    chain: Chain
    registry: str
    market: str
    solc: str
    confirmations: int = 0


def register(
    node: Node,
    place: Place,
    name: str,
    number: int,
    *,
    price_wei: int | None,
    uri: str,
    progress: Progress,
) -> int:
    """Register a published version with its verifier; return its id on chain.

    Args:
        node: Where the version is stored.
        place: Where to register it, with the owner's key.
        name: The model's name.
        number: The version's number.
        price_wei: What a prediction costs; None leaves the offer as it is.
        uri: Where the public artifacts are served; goes into the registry.
        progress: Told of each step.

    Raises:
        NotFound: there is no such version.
        ModelRejected: the verifier is too large for a chain.
        ChainError, Unavailable: the chain refuses or does not answer.

    """
    with node.database.snapshot() as session:
        _, row = versions.find(session, name, number)
    chain, records = place.chain, Registry(place.chain, place.registry)
    lineage = records.lineage_of(chain.signer, name)
    version_id = _registered(records, lineage, row.circuit_id)
    if version_id is None:
        latest = records.latest(lineage)
        next_id = records.version_id(
            lineage, records.get_version(latest).number + 1 if latest else 1
        )
        verifier = _deploy_verifier(node, place, row, next_id, progress)
        progress("registering the version")
        commitment, binding = _terms(row, verifier, uri)
        data = (
            records.update_calldata(latest, commitment, binding)
            if latest
            else records.register_calldata(name, commitment, binding)
        )
        purpose = f"register/{chain.chain_id}/{records.address}/{row.circuit_id}"
        _send(node, place, purpose, records.address, data)
        version_id = _registered(records, lineage, row.circuit_id)
        if version_id is None:
            raise ChainError("The registration was mined, but the registry does not show it.")
        if version_id != next_id:
            raise ChainError(
                f"The version was registered as {version_id:#x}; its verifier is for {next_id:#x}.",
                remedy="Something else registered a version of this model meanwhile: deprecate "
                "this one and publish it again.",
            )
    _note(node, place, row, version_id)
    market = Market(chain, place.market)
    if price_wei is not None and market.price_of(version_id) != (price_wei, True):
        progress("offering it on the market")
        # A price may be set again after another: each setting is a purpose of its own.
        purpose = f"price/{chain.chain_id}/{version_id:064x}/{secrets.token_hex(8)}"
        data = market.set_price_calldata(version_id, price_wei)
        _send(node, place, purpose, market.address, data)
    return version_id


def deprecate(
    node: Node, place: Place | None, name: str, number: int, *, replaced_by: int | None = None
) -> None:
    """Offer a version no longer: only who names it gets it here, and nobody new requests on chain.

    What was asked for before is still proved and settled. A version that leaks its weights goes on
    predicting, but takes no new requests for proofs. ``replaced_by`` is the number of the version
    that users are pointed to. Safe to repeat.

    Raises:
        NotFound: there is no such version.
        ChainError: it is registered on a chain that ``place`` does not name.
        Unavailable: the chain does not answer.

    """
    with node.database.snapshot() as session:
        _, row = versions.find(session, name, number)
    require_reach(place, row)
    if place is not None and row.chain_version_id is not None:
        version_id = int(row.chain_version_id, 16)
        records = Registry(place.chain, place.registry)
        if not records.get_version(version_id).deprecated:
            purpose = f"deprecate/{place.chain.chain_id}/{version_id:064x}"
            data = records.deprecate_calldata(version_id)
            _send(node, place, purpose, records.address, data)
    with node.database.session() as session:
        _, stored = versions.find(session, name, number)
        stored.deprecated_at = stored.deprecated_at or now()
        stored.replaced_by = replaced_by or stored.replaced_by


def require_reach(place: Place | None, row: VersionRow) -> None:
    """Return if a version can be deprecated: it is on no chain, or in the registry of a place.

    Raises:
        ChainError: it is not.

    """
    if row.chain_version_id is None:
        return
    if place is None or place.registry.lower() != str(row.registry_address).lower():
        raise ChainError(
            f"Version {row.number} is registered at {row.registry_address} "
            f"on chain {row.chain_id}.",
            remedy="Set ZKSERVE_RPC_URL, ZKSERVE_REGISTRY, ZKSERVE_MARKET and the signer.",
        )


def restore(node: Node, name: str, number: int) -> None:
    """Offer a deprecated version again. Safe to repeat.

    Raises:
        NotFound: there is no such version.
        Conflict: it is registered on a chain, where deprecating is for good.

    """
    with node.database.session() as session:
        _, row = versions.find(session, name, number)
        if row.deprecated_at is not None and row.chain_version_id is not None:
            raise Conflict(
                f"Version {number} of {name} was deprecated, which cannot be undone on chain "
                f"{row.chain_id}."
            )
        row.deprecated_at = row.replaced_by = None


def _registered(records: Registry, lineage: str, circuit_id: str) -> int | None:
    latest = records.latest(lineage)
    if not latest:
        return None
    for number in range(records.get_version(latest).number, 0, -1):
        version_id = records.version_id(lineage, number)
        if to_hex(records.get_version(version_id).circuit_id) == circuit_id:
            return version_id
    return None


def _deploy_verifier(
    node: Node, place: Place, row: VersionRow, version_id: int, progress: Progress
) -> str:
    manifest = manifest_from_dict(row.manifest)
    subject = Subject(
        manifest=manifest,
        source=engine(manifest.engine).export_verifier(node.bundle(manifest, public_only=True)),
        registry=place.registry,
        version_id=version_id,
    )
    progress("compiling and deploying the verifier")
    return verifiers(manifest.engine).deploy(
        place.chain,
        lambda purpose, code: outbox.create(
            node.database, place.chain, purpose=purpose, code=code, depth=place.confirmations
        ),
        subject,
        place.solc,
    )


def _terms(row: VersionRow, verifier: str, uri: str) -> tuple[ModelCommitment, Binding]:
    manifest = manifest_from_dict(row.manifest)
    commitment = ModelCommitment(
        model_hash=bytes.fromhex(manifest.pins["model"]),
        circuit_id=bytes32(manifest.circuit_id),
        vk_hash=bytes.fromhex(manifest.pins[engine(manifest.engine).verifying_key]),
        proof_system_id=proof_system_id(manifest.engine, manifest.engine_version),
        uri=uri,
    )
    binding = Binding(
        verifier=verifier,
        weights=bytes32(manifest.weights),
        output_multiplier=manifest.output_scale.multiplier,
        output_shift=manifest.output_scale.shift,
        agreement_ppb=agreement_ppb(manifest.agreement),
        development_srs=manifest.development_srs,
    )
    return commitment, binding


def _send(node: Node, place: Place, purpose: str, to: str, data: bytes) -> None:
    chain, depth = place.chain, place.confirmations
    outbox.send(node.database, chain, purpose=purpose, to=to, data=data)
    outbox.wait(node.database, chain, purpose, depth=depth, timeout_s=_CONFIRM_TIMEOUT_S)


def _note(node: Node, place: Place, row: VersionRow, version_id: int) -> None:
    records = Registry(place.chain, place.registry)
    registered = records.get_version(version_id)
    with node.database.session() as session:
        _, stored = versions.get(session, row.id)
        stored.chain_id = place.chain.chain_id
        stored.registry_address = records.address
        stored.verifier_address = registered.verifier
        stored.chain_version_id = f"0x{version_id:064x}"
