"""An audit passes for the contracts that belong to a circuit, and for no others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.chain.anvil_node import Node, running
from tests.prover.conftest import Proven, Publish
from zkserve import outbox
from zkserve.audit import Audit, audit
from zkserve.chain import deploy
from zkserve.chain.adapter import AdapterTerms
from zkserve.chain.contracts import Binding, ModelCommitment, Registry
from zkserve.chain.evm import compile_verifier
from zkserve.chain.rpc import Chain
from zkserve.encoding import agreement_ppb, bytes32, identified, proof_system_id, sha256_file
from zkserve.engines.base import Bundle
from zkserve.engines.ezkl import EzklEngine
from zkserve.errors import BundleMismatch, ChainError
from zkserve.settings import Settings
from zkserve.store.database import Database
from zkserve.types import InputMode

pytestmark = [pytest.mark.prover, pytest.mark.chain]
SOLC = Settings(solc="").solc_command


class Owner:
    """Somebody who deploys and registers whatever they like."""

    def __init__(self, node: Node, database: Database) -> None:
        self.chain = node.chain()
        self.database = database
        ledger = deploy.deploy(self.chain, self.create)
        self.registry = Registry(self.chain, ledger.address(deploy.REGISTRY))

    def create(self, purpose: str, code: bytes) -> str:
        return outbox.create(self.database, self.chain, purpose=purpose, code=code)

    def verifier(self, bundle: Bundle, source: str) -> str:
        return deploy.deploy_verifier(
            self.chain,
            self.create,
            compile_verifier(source, SOLC).creation,
            AdapterTerms.of(bundle.manifest),
        )

    def register(self, name: str, bundle: Bundle, verifier: str, **changes: object) -> int:
        manifest = bundle.manifest
        commitment = ModelCommitment(
            model_hash=bytes.fromhex(manifest.pins["model"]),
            circuit_id=bytes32(manifest.circuit_id),
            vk_hash=bytes.fromhex(manifest.pins["verifying_key"]),
            proof_system_id=proof_system_id(manifest.engine, manifest.engine_version),
            uri="",
        )
        binding = Binding(
            verifier=verifier,
            weights=bytes32(manifest.weights),
            output_multiplier=1,
            output_shift=manifest.output_scale.shift,
            agreement_ppb=agreement_ppb(manifest.agreement),
            development_srs=True,
        )
        binding = replace(binding, **changes)
        data = self.registry.register_calldata(name, commitment, binding)
        outbox.send(self.database, self.chain, purpose=name, to=self.registry.address, data=data)
        outbox.wait(self.database, self.chain, name, depth=0, timeout_s=30)
        return self.registry.version_id(self.registry.lineage_of(self.chain.signer, name), 1)


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owner]:
    database = Database(f"sqlite:///{tmp_path / 'outbox.db'}")
    database.upgrade()
    with running() as node:
        yield Owner(node, database)
    database.close()


def check(owner: Owner, version_id: int, bundle: Bundle) -> Audit:
    reader = Chain(owner.chain._web3.provider.endpoint_uri)
    return audit(reader, owner.registry.address, version_id, bundle, SOLC)


def test_only_the_circuits_own_contracts_pass(
    ezkl_engine: EzklEngine, committed: Proven, publish: Publish, owner: Owner
):
    source = ezkl_engine.export_verifier(committed.bundle)
    other, _ = publish(InputMode.COMMITTED, 1)
    adapter = owner.verifier(committed.bundle, source)
    honest = owner.register("honest", committed.bundle, adapter)
    found = {
        name: check(owner, honest, bundle)
        for name, bundle in (("public", committed.public), ("private", committed.bundle))
    }
    made_again = "The verifying key is what the engine makes of the ONNX model."
    assert [made_again in audited.established for audited in found.values()] == [False, True]
    word = [any("ONNX model is the owner's" in line for line in a.caveats) for a in found.values()]
    assert word == [True, False]

    with pytest.raises(BundleMismatch, match="circuit id"):
        check(owner, honest, other)
    for name, changes, what in (
        ("unit", {"output_shift": 3}, "output scale"),
        ("weights", {"weights": bytes32(other.manifest.weights)}, "weights"),
        ("mark", {"development_srs": False}, "development SRS"),
        ("agreement", {"agreement_ppb": 5}, "agreement"),
    ):
        version = owner.register(name, committed.bundle, adapter, **changes)
        with pytest.raises(BundleMismatch, match=what):
            check(owner, version, committed.public)

    not_ours = owner.register("not ours", committed.bundle, owner.registry.address)
    with pytest.raises(ChainError, match="not that of"):
        check(owner, not_ours, committed.public)


def test_an_adapter_over_a_foreign_verifier_fails(
    ezkl_engine: EzklEngine, committed: Proven, publish: Publish, owner: Owner
):
    other, _ = publish(InputMode.COMMITTED, 1, outputs=3)
    foreign = owner.verifier(committed.bundle, ezkl_engine.export_verifier(other))
    version = owner.register("foreign", committed.bundle, foreign)
    with pytest.raises(BundleMismatch, match="other code"):
        check(owner, version, committed.public)


def test_a_pinned_source_that_the_key_does_not_give_fails(
    ezkl_engine: EzklEngine, committed: Proven, tmp_path: Path
):
    ezkl_engine.check_verifier(committed.public)
    altered = tmp_path / "verifier_source"
    source = ezkl_engine.export_verifier(committed.bundle)
    altered.write_text(source.replace("eq(proof.offset, 0x64)", "eq(0x64, 0x64)"))
    assert altered.read_text() != source
    manifest = committed.bundle.manifest
    pins = dict(manifest.pins) | {"verifier_source": sha256_file(altered)}
    bundle = Bundle(
        manifest=identified(replace(manifest, pins=pins)),
        files=dict(committed.public.files) | {"verifier_source": altered},
    )
    with pytest.raises(BundleMismatch, match="verifying key gives"):
        ezkl_engine.check_verifier(bundle)
