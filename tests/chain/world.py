"""A market with one real circuit on it, and recorded real proofs instead of a prover."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest import mock

from eth_utils.crypto import keccak

from tests.chain.anvil_node import Node as Anvil
from tests.chain.anvil_node import account
from zkserve import follow, fulfil, outbox, prove
from zkserve.chain.adapter import AdapterTerms
from zkserve.chain.contracts import Binding, Market, ModelCommitment, Registry
from zkserve.chain.deploy import Ledger, deploy, deploy_verifier
from zkserve.chain.evm import compile_verifier
from zkserve.chain.rpc import GWEI
from zkserve.encoding import bytes32, hex_bytes, identified, to_hex
from zkserve.engines.base import Bundle, FloatArray, Limits, Prediction, Proof
from zkserve.errors import ChainError, InvalidInput
from zkserve.node import Node
from zkserve.receipt import manifest_to_dict
from zkserve.store import inputs, jobs, requests, versions
from zkserve.store.queue import JobQueue
from zkserve.store.tables import JobRow, VersionRow
from zkserve.types import (
    CircuitManifest,
    Claim,
    InputMode,
    JobState,
    Scale,
    TensorSpec,
    WeightsMode,
)

CONTRACTS = Path(__file__).parents[2] / "contracts"
SOLC = str(CONTRACTS / "tools/solc")
PRICE_WEI = 10**16
OWNER, REQUESTER, STRANGER = 0, 1, 2


@cache
def recorded() -> dict[str, Any]:
    return json.loads((CONTRACTS / "test/fixtures/ezkl_committed.json").read_text())


@cache
def raw_verifier() -> bytes:
    return compile_verifier(
        (CONTRACTS / "test/fixtures/EzklCommittedPatched.sol").read_text(), SOLC
    ).creation


class RecordedEngine:
    """Knows a few openings by name, and the real proofs that were once made for them."""

    name = "recorded"
    version = "1"

    def claim(self, manifest: CircuitManifest, case: str) -> Claim:
        found = recorded()[case]
        return Claim(
            circuit_id=manifest.circuit_id,
            weights=manifest.weights,
            input=hex_bytes(found["input"]),
            outputs=tuple(int(value) for value in found["outputs"]),
        )

    def reopen(self, bundle: Bundle, opening: bytes) -> Prediction:
        return Prediction(claim=self.claim(bundle.manifest, opening.decode()), opening=opening)

    def unpack_input(self, bundle: Bundle, packed: bytes) -> FloatArray:
        raise InvalidInput("this circuit takes no public inputs")

    def context_of(self, proof: bytes) -> bytes | None:
        return None

    def prove(
        self, bundle: Bundle, claim: Claim, opening: bytes, *, limits: Limits, **_: Any
    ) -> Proof:
        data = hex_bytes(recorded()[opening.decode()]["proof"])
        return Proof(data=data, prove_s=1.0, prove_cpu_s=1.0, peak_rss_bytes=1)


def manifest() -> CircuitManifest:
    pins = {"vk": "ab" * 32}
    weights = recorded()["first"]["weights"]
    unnamed = CircuitManifest(
        circuit_id="",
        engine="recorded",
        engine_version="1",
        input_mode=InputMode.COMMITTED,
        weights_mode=WeightsMode.HASHED,
        weights=weights,
        output_scale=Scale(shift=8),
        pins=pins,
        inputs=(TensorSpec(name="x", shape=(1, 4)),),
        output=TensorSpec(name="y", shape=(1, 3)),
        public=frozenset(),
        development_srs=True,
        rows=100,
    )
    return identified(unnamed)


class World:
    """Everything of one chain and one service; ``chain`` signs for the service and the owner."""

    def __init__(self, anvil: Anvil, node: Node, queue: JobQueue) -> None:
        self.anvil, self.node, self.queue = anvil, node, queue
        self.chain = anvil.chain(OWNER)
        self.requester = anvil.chain(REQUESTER)
        self.manifest = manifest()
        create = partial(self._create, node, self.chain)
        self.ledger: Ledger = deploy(self.chain, create)
        self.registry = Registry(self.chain, self.ledger.address("ModelRegistry"))
        self.market = Market(self.chain, self.ledger.address("PredictionMarket"))
        self.verifier = deploy_verifier(
            self.chain,
            create,
            raw_verifier(),
            AdapterTerms(
                circuit_id=self.manifest.circuit_id,
                weights=self.manifest.weights,
                weights_mode=self.manifest.weights_mode,
                weights_points=0,
                committed_input=True,
                input_count=recorded()["input_count"],
                output_count=recorded()["output_count"],
                proof_bytes=recorded()["proof_size_bytes"],
            ),
        )
        self.version_id = self.register("tiny")
        self.version = self._publish()

    @staticmethod
    def _create(node: Node, chain: Any, purpose: str, code: bytes) -> str:
        return outbox.create(node.database, chain, purpose=purpose, code=code)

    def commitment(self) -> ModelCommitment:
        return ModelCommitment(
            model_hash=b"\x01" * 32,
            circuit_id=bytes32(self.manifest.circuit_id),
            vk_hash=b"\x02" * 32,
            proof_system_id=keccak(text="recorded/1"),
            uri="https://example.org",
        )

    def binding(self) -> Binding:
        return Binding(
            verifier=self.verifier,
            weights=bytes32(self.manifest.weights),
            output_multiplier=1,
            output_shift=8,
            agreement_ppb=5,
            development_srs=True,
        )

    def register(self, name: str) -> int:
        """Register a version and offer it."""
        data = self.registry.register_calldata(name, self.commitment(), self.binding())
        self.transact(f"register/{name}", self.registry.address, data)
        version_id = self.registry.latest(self.registry.lineage_of(self.chain.signer, name))
        offer = self.market.set_price_calldata(version_id, PRICE_WEI)
        self.transact(f"price/{name}", self.market.address, offer)
        return version_id

    def _publish(self) -> VersionRow:
        with self.node.database.session() as session:
            version = versions.add(
                session,
                name="tiny",
                description="",
                circuit_id=self.manifest.circuit_id,
                publication="cd" * 32,
                onnx_sha256="ef" * 32,
                manifest=manifest_to_dict(self.manifest),
            )
            version.chain_id = self.chain.chain_id
            version.registry_address = self.registry.address
            version.verifier_address = self.verifier
            version.chain_version_id = to_hex(self.version_id.to_bytes(32, "big"))
        return version

    def transact(self, purpose: str, to: str, data: bytes, *, value_wei: int = 0) -> None:
        database = self.node.database
        outbox.send(database, self.chain, purpose=purpose, to=to, data=data, value_wei=value_wei)
        outbox.wait(database, self.chain, purpose, depth=0, timeout_s=20, poll_s=0.02)

    def send_as(
        self, index: int, data: bytes, *, value_wei: int = 0, wait: bool = True, tip_wei: int = GWEI
    ) -> Any:
        """Send to the market past the service, as anvil's own account."""
        web3 = self.anvil.web3
        transaction = web3.eth.send_transaction(
            {
                "from": account(index).address,
                "to": self.market.address,
                "data": to_hex(data),
                "value": value_wei,
                "gas": 3_000_000,
                "maxPriorityFeePerGas": tip_wei,
                "maxFeePerGas": tip_wei + 10 * GWEI,
            }
        )
        if not wait:
            return transaction
        receipt = web3.eth.wait_for_transaction_receipt(transaction, timeout=20)
        assert receipt["status"] == 1
        return receipt

    def request(
        self,
        case: str = "first",
        *,
        version_id: int | None = None,
        callback_gas: int = 0,
        window_s: int = 3600,
    ) -> int:
        """Request a prediction and return the request's number."""
        data = self.market.request_calldata(
            version_id or self.version_id,
            hex_bytes(recorded()[case]["input"]),
            callback_gas=callback_gas,
            deadline=self.chain.head().timestamp + window_s,
        )
        receipt = self.send_as(REQUESTER, data, value_wei=PRICE_WEI)
        (event,) = self.market.requested_events(receipt["blockNumber"], receipt["blockNumber"])
        return event.request_id

    def calldata(self, request_id: int, case: str = "first") -> bytes:
        claim = RecordedEngine().claim(self.manifest, case)
        return self.market.fulfil_calldata(
            request_id, claim.input, claim.outputs, hex_bytes(recorded()[case]["proof"])
        )

    def follow(self, confirmations: int = 0) -> int:
        return follow.follow(
            self.node,
            self.chain,
            self.queue,
            market=self.market.address,
            confirmations=confirmations,
        )

    def hand_in(self, case: str = "first") -> None:
        with self.node.database.session() as session:
            inputs.add(
                session,
                version_id=self.version.id,
                tenant="patient",
                commitment=recorded()[case]["input"],
                opening=self.node.artifacts.seal(case.encode()),
            )

    def job(self, request_id: int) -> JobRow:
        with self.node.database.snapshot() as session:
            row = requests.find(session, self.chain.chain_id, self.market.address, request_id)
            assert row is not None
            return jobs.get(session, row.job_id)

    def states(self, job_id: str) -> list[JobState]:
        with self.node.database.snapshot() as session:
            return [JobState(event.state) for event in jobs.events_after(session, job_id)]

    def proven(self, case: str = "first", **options: Any) -> tuple[int, str]:
        """Request, follow and prove: a request and its job, ready to settle."""
        request_id = self.request(case, **options)
        assert self.follow() == 1
        return request_id, self.prepared(request_id, case)

    def prepared(self, request_id: int, case: str) -> str:
        """Hand in the input of a request that was followed and prove it; return its job."""
        self.hand_in(case)
        job_id = self.job(request_id).id
        assert fulfil.prepare(self.node, job_id)
        self.prove(job_id)
        return job_id

    def prove(self, job_id: str) -> None:
        prove.prove(self.node, job_id, limits=Limits(), cancelled=lambda: False)
        prove.deliver(self.node, self.queue, job_id)

    def settle(self, job_id: str, *, confirmations: int = 0, looks: int = 20) -> bool:
        return any(self._settle(job_id, confirmations) for _ in range(looks))

    def _settle(self, job_id: str, confirmations: int) -> bool:
        """Look once, as the worker does: a node may tell of a settlement before its event."""
        try:
            return fulfil.settle(self.node, self.chain, job_id, confirmations=confirmations)
        except ChainError as exc:
            if "lacks the event" not in exc.message:
                raise
            time.sleep(0.05)
            return False

    def fulfilments(self, index: int = OWNER) -> list[Any]:
        """Transactions of an account that called ``fulfil``, mined, reverted or not."""
        selector = self.calldata(1)[:4]
        return [
            tx
            for tx in self.anvil.sent_by(index)
            if tx["to"] == self.market.address and bytes(tx["input"])[:4] == selector
        ]


@contextmanager
def engine() -> Iterator[None]:
    """Let every node of this process prove with the recorded proofs."""
    bundle = mock.patch.object(
        Node, "bundle", lambda _node, given, **_: Bundle(manifest=given, files={})
    )
    recorded_engine = RecordedEngine()
    with (
        mock.patch("zkserve.node.engine", return_value=recorded_engine),
        mock.patch("zkserve.verify.engine", return_value=recorded_engine),
        bundle,
    ):
        yield
