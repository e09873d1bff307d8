"""Native on a chain: registered, asked for, settled, audited; and nobody else's proofs accepted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from eth_abi.abi import encode

from tests.chain.anvil_node import Node as Anvil
from tests.chain.anvil_node import account, running
from tests.models import tiny_onnx
from zkserve import follow, fulfil, openings, outbox, prove, publish, recipe, register
from zkserve.audit import audit
from zkserve.chain import deploy
from zkserve.chain.contracts import Binding, Market, ModelCommitment, Registry, RequestStatus
from zkserve.chain.evm import compile_verifier
from zkserve.chain.rpc import Chain
from zkserve.chain.verifiers import Subject, verifiers
from zkserve.encoding import context, to_hex
from zkserve.engines import engine
from zkserve.engines.base import Bundle, Limits
from zkserve.engines.native import core
from zkserve.errors import BundleMismatch, ChainError, ProofInvalid, TransactionReverted
from zkserve.node import Node
from zkserve.receipt import manifest_from_dict
from zkserve.settings import Settings
from zkserve.store import jobs, requests, versions
from zkserve.store.queue import JobQueue
from zkserve.store.tables import VersionRow
from zkserve.types import CircuitManifest, InputMode, Receipt
from zkserve.verify import verify_on_chain

pytestmark = [
    pytest.mark.prover,
    pytest.mark.chain,
    pytest.mark.skipif(not core.available(), reason="the compiled core is not installed"),
]

SOLC = Settings(solc="").solc_command
PRICE_WEI = 10**16
OWNER, REQUESTER, COPIER = 0, 1, 2
FORWARDER = """
// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

contract Forwarder {
    address private immutable _other;

    constructor(address other) {
        _other = other;
    }

    fallback() external {
        require(msg.sig == bytes4(keccak256("verify((bytes32,bytes32,bytes,int256[]),bytes)")));
        (bool accepted,) = _other.staticcall(msg.data);
        require(accepted);
    }
}
"""
MODES = list(InputMode)


@dataclass(frozen=True, kw_only=True)
class World:
    """An owner with one version in each input mode, registered and offered."""

    anvil: Anvil
    chain: Chain
    node: Node
    queue: JobQueue
    registry: Registry
    market: Market
    samples: np.ndarray
    ids: dict[InputMode, int]

    def version(self, mode: InputMode) -> VersionRow:
        with self.node.database.snapshot() as session:
            return versions.find(session, mode.value)[1]

    def manifest(self, mode: InputMode) -> CircuitManifest:
        return manifest_from_dict(self.version(mode).manifest)

    def public(self, mode: InputMode) -> Bundle:
        return self.node.bundle(self.manifest(mode), public_only=True)

    def reader(self) -> Chain:
        return Chain(self.anvil.url)

    def request(self, version_id: int, packed: bytes) -> int:
        data = self.market.request_calldata(
            version_id, packed, callback_gas=0, deadline=self.chain.head().timestamp + 3600
        )
        web3 = self.anvil.web3
        sent = web3.eth.send_transaction(
            {
                "from": account(REQUESTER).address,
                "to": self.market.address,
                "data": to_hex(data),
                "value": PRICE_WEI,
                "gas": 3_000_000,
            }
        )
        receipt = web3.eth.wait_for_transaction_receipt(sent, timeout=20)
        assert receipt["status"] == 1
        (event,) = self.market.requested_events(receipt["blockNumber"], receipt["blockNumber"])
        return event.request_id

    def serve(self, request_id: int) -> Receipt:
        """Do what a worker does for a request; return its receipt."""
        follow.follow(
            self.node, self.chain, self.queue, market=self.market.address, confirmations=0
        )
        with self.node.database.snapshot() as session:
            row = requests.find(session, self.chain.chain_id, self.market.address, request_id)
            assert row is not None
        assert fulfil.prepare(self.node, row.job_id)
        prove.prove(self.node, row.job_id, limits=Limits(), cancelled=lambda: False)
        prove.deliver(self.node, self.queue, row.job_id)
        for _ in range(50):
            try:
                if fulfil.settle(self.node, self.chain, row.job_id):
                    break
            except ChainError:  # the node may tell of a settlement before its event
                time.sleep(0.05)
        with self.node.database.snapshot() as session:
            return prove.receipt(self.node, session, jobs.get(session, row.job_id))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("native")
    samples = np.random.default_rng(7).normal(size=(40, 3)).astype(np.float32)
    np.savez(folder / "samples.npz", calibration=samples[:30], held_out=samples[30:])
    node = Node.open(data_dir=folder / "data", database_url=f"sqlite:///{folder / 'zkserve.db'}")
    node.database.upgrade()
    with running() as anvil:
        chain = anvil.chain(OWNER)
        ledger = deploy.deploy(
            chain,
            lambda purpose, code: outbox.create(node.database, chain, purpose=purpose, code=code),
        )
        place = register.Place(
            chain=chain,
            registry=ledger.address(deploy.REGISTRY),
            market=ledger.address(deploy.MARKET),
            solc=SOLC,
        )
        ids = {mode: _registered(node, place, folder, mode) for mode in MODES}
        yield World(
            anvil=anvil,
            chain=chain,
            node=node,
            queue=JobQueue(node.database, "1"),
            registry=Registry(chain, place.registry),
            market=Market(chain, place.market),
            samples=samples,
            ids=ids,
        )
    node.database.close()


def _registered(node: Node, place: register.Place, folder: Path, mode: InputMode) -> int:
    model = tiny_onnx(folder / f"{mode.value}.onnx", inputs=3, hidden=2, outputs=2)
    source = replace(recipe.load(model, samples=folder / "samples.npz"), input_mode=mode)
    published = publish.publish(
        node, source, publish.SrsSource(development_folder=folder / "srs"), progress=lambda _: None
    )
    return register.register(
        node,
        place,
        published.model,
        published.number,
        price_wei=PRICE_WEI,
        uri="https://example.org",
        progress=lambda _: None,
    )


@dataclass(frozen=True, kw_only=True)
class Copier:
    """A stranger who registers the owner's public circuit as their own."""

    world: World
    chain: Chain

    @staticmethod
    def of(world: World) -> Copier:
        return Copier(world=world, chain=world.anvil.chain(COPIER))

    def deploy(self, source: str, other: str) -> str:
        code = compile_verifier(source, SOLC).creation + encode(["address"], [other])
        return outbox.create(self.world.node.database, self.chain, purpose="forwarder", code=code)

    def register(self, name: str, verifier: str) -> int:
        """Register the owner's terms with a verifier; return the version's id."""
        registry = self.world.registry
        published = registry.get_version(self.world.ids[InputMode.PUBLIC])
        manifest = self.world.manifest(InputMode.PUBLIC)
        commitment = ModelCommitment(
            model_hash=bytes.fromhex(manifest.pins["model"]),
            circuit_id=published.circuit_id,
            vk_hash=published.vk_hash,
            proof_system_id=published.proof_system_id,
            uri="https://example.org/copy",
        )
        binding = Binding(
            verifier=verifier,
            weights=published.weights,
            output_multiplier=published.output_multiplier,
            output_shift=published.output_shift,
            agreement_ppb=published.agreement_ppb,
            development_srs=published.development_srs,
        )
        data = registry.register_calldata(name, commitment, binding)
        database = self.world.node.database
        outbox.send(database, self.chain, purpose=name, to=registry.address, data=data)
        outbox.wait(database, self.chain, name, depth=0, timeout_s=30)
        return registry.latest(registry.lineage_of(self.chain.signer, name))


@pytest.mark.parametrize("mode", MODES)
def test_a_request_is_settled_with_a_native_proof(world: World, mode: InputMode) -> None:
    version_id, version = world.ids[mode], world.version(mode)
    prediction = prove.predict(world.node, version, world.samples[31])
    if mode is InputMode.COMMITTED:
        openings.keep_input(world.node, version, prediction, tenant="patient", max_inputs_ahead=10)
    request_id = world.request(version_id, prediction.claim.input)
    receipt = world.serve(request_id)
    assert world.market.request_of(request_id).status is RequestStatus.FULFILLED
    assert receipt.claim == prediction.claim
    assert receipt.settlement is not None
    assert receipt.settlement.gas < 600_000

    found = verify_on_chain(
        receipt,
        world.reader(),
        world.registry.address,
        version_id,
        market=world.market.address,
    )
    assert any("settled request" in line for line in found.established)
    for altered in (
        replace(receipt, proof=bytes(32) + receipt.proof[32:]),
        replace(receipt, proof=receipt.proof[:-1] + bytes([receipt.proof[-1] ^ 1])),
        replace(
            receipt,
            claim=replace(
                receipt.claim, outputs=(receipt.claim.outputs[0] + 1, *receipt.claim.outputs[1:])
            ),
        ),
    ):
        with pytest.raises(ProofInvalid):
            verify_on_chain(altered, world.reader(), world.registry.address, version_id)


@pytest.mark.parametrize("mode", MODES)
def test_an_audit_passes_for_the_version_and_for_no_other(world: World, mode: InputMode) -> None:
    found = audit(world.reader(), world.registry.address, world.ids[mode], world.public(mode), SOLC)
    assert any("is that source, compiled" in line for line in found.established)
    other = next(one for one in MODES if one is not mode)
    with pytest.raises(BundleMismatch):
        audit(world.reader(), world.registry.address, world.ids[other], world.public(mode), SOLC)


def test_a_verifier_of_another_registration_is_told_apart(world: World) -> None:
    manifest = world.manifest(InputMode.PUBLIC)
    registered = world.registry.get_version(world.ids[InputMode.PUBLIC])
    subject = Subject(
        manifest=manifest,
        source=engine("native").export_verifier(world.public(InputMode.PUBLIC)),
        registry=world.registry.address,
        version_id=world.ids[InputMode.PUBLIC],
    )
    contracts = verifiers("native")
    contracts.check(world.reader(), registered.verifier, subject, SOLC)
    for other in (
        replace(subject, version_id=subject.version_id + 1),
        replace(subject, registry=world.market.address),
        replace(subject, manifest=replace(manifest, weights="0x" + "33" * 32)),
        replace(subject, manifest=replace(manifest, circuit_id="0x" + "33" * 32)),
    ):
        with pytest.raises(BundleMismatch, match="other code"):
            contracts.check(world.reader(), registered.verifier, other, SOLC)


def test_a_proof_without_a_registration_is_refused(world: World) -> None:
    manifest = world.manifest(InputMode.PUBLIC)
    bundle = world.node.bundle(manifest)
    prediction = prove.predict(world.node, world.version(InputMode.PUBLIC), world.samples[32])
    ours = context(world.chain.chain_id, world.registry.address, world.ids[InputMode.PUBLIC])
    proof = engine("native").prove(bundle, prediction.claim, prediction.opening, context=ours)
    world.registry.verify_inference(world.ids[InputMode.PUBLIC], prediction.claim, proof.data)
    unbound = engine("native").prove(bundle, prediction.claim, prediction.opening)
    with pytest.raises(ProofInvalid):
        world.registry.verify_inference(world.ids[InputMode.PUBLIC], prediction.claim, unbound.data)


def test_a_verifier_cannot_be_registered_for_a_copy(world: World) -> None:
    """Somebody else registers our circuit and weights with our verifier, which takes our proofs."""
    copier = Copier.of(world)
    registered = world.registry.get_version(world.ids[InputMode.PUBLIC])
    with pytest.raises(TransactionReverted, match="ForeignVerifier"):
        copier.register("direct", registered.verifier)
    assert world.registry.latest(world.registry.lineage_of(copier.chain.signer, "direct")) == 0


def test_an_audit_refuses_a_copy_behind_a_forwarding_contract(world: World) -> None:
    """The chain cannot tell it from an honest verifier; our own checks refuse it."""
    copier = Copier.of(world)
    ours = world.ids[InputMode.PUBLIC]
    prediction = prove.predict(world.node, world.version(InputMode.PUBLIC), world.samples[33])
    receipt = world.serve(world.request(ours, prediction.claim.input))
    forwarder = copier.deploy(FORWARDER, world.registry.get_version(ours).verifier)
    copy = copier.register("forwarded", forwarder)
    world.registry.verify_inference(copy, receipt.claim, receipt.proof)

    with pytest.raises(BundleMismatch, match="other code"):
        audit(world.reader(), world.registry.address, copy, world.public(InputMode.PUBLIC), SOLC)
    assert receipt.settlement is not None
    presented = replace(receipt, settlement=replace(receipt.settlement, version_id=copy))
    with pytest.raises(ProofInvalid, match="bound to another registration"):
        verify_on_chain(presented, world.reader(), world.registry.address, copy)
    verify_on_chain(receipt, world.reader(), world.registry.address, ours)


def test_registering_again_changes_nothing(world: World) -> None:
    place = register.Place(
        chain=world.chain,
        registry=world.registry.address,
        market=world.market.address,
        solc=SOLC,
    )
    sent = world.chain.nonce(world.chain.signer)
    version_id = register.register(
        world.node,
        place,
        InputMode.PUBLIC.value,
        1,
        price_wei=PRICE_WEI,
        uri="",
        progress=lambda _: None,
    )
    assert version_id == world.ids[InputMode.PUBLIC]
    assert world.chain.nonce(world.chain.signer) == sent
