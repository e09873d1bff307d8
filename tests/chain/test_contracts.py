"""Deployment, and verification by ``eth_call``, with real proofs: any change is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from tests.chain.anvil_node import account
from tests.chain.world import (
    CONTRACTS,
    OWNER,
    PRICE_WEI,
    SOLC,
    RecordedEngine,
    World,
    recorded,
)
from zkserve import outbox
from zkserve.chain.adapter import Adapter, AdapterTerms
from zkserve.chain.contracts import Market, Registry, RequestStatus
from zkserve.chain.deploy import Ledger, deploy, deploy_verifier
from zkserve.chain.evm import compile_verifier
from zkserve.chain.interfaces import interface
from zkserve.encoding import FIELD_MODULUS, bytes32, hex_bytes
from zkserve.errors import ChainError, InvalidInput, NotFound, ProofInvalid, TransactionReverted
from zkserve.types import Claim, WeightsMode

FIXTURES = CONTRACTS / "test/fixtures"

pytestmark = pytest.mark.chain


def claim_and_proof(world: World, case: str = "first") -> tuple[Claim, bytes]:
    claim = RecordedEngine().claim(world.manifest, case)
    return claim, hex_bytes(recorded()[case]["proof"])


def test_real_proof_is_accepted(world: World) -> None:
    claim, proof = claim_and_proof(world)
    Adapter(world.chain, world.verifier).verify(claim, proof)
    world.registry.verify_inference(world.version_id, claim, proof)


def test_any_change_is_refused(world: World) -> None:
    claim, proof = claim_and_proof(world)
    other, other_proof = claim_and_proof(world, "second")
    flipped = bytes([proof[0] ^ 1]) + proof[1:]
    outputs = claim.outputs
    above_field = int.from_bytes(claim.input, "big") + FIELD_MODULUS
    wrong = [
        (replace(claim, circuit_id="0x" + "11" * 32), proof),
        (replace(claim, weights=recorded()["other_weights"]["weights"]), proof),
        (replace(claim, input=other.input), proof),
        (replace(claim, input=claim.input + b"\0"), proof),
        (replace(claim, input=above_field.to_bytes(32, "big")), proof),
        (replace(claim, outputs=(outputs[0] + 1, *outputs[1:])), proof),
        (replace(claim, outputs=(outputs[0] + FIELD_MODULUS, *outputs[1:])), proof),
        (replace(claim, outputs=outputs[:-1]), proof),
        (replace(claim, outputs=(*outputs, 0)), proof),
        (claim, flipped),
        (claim, proof[:-32]),
        (claim, proof + b"\0" * 32),
        (claim, b""),
        (claim, other_proof),
    ]
    for changed, data in wrong:
        with pytest.raises(ProofInvalid):
            Adapter(world.chain, world.verifier).verify(changed, data)
        with pytest.raises(ProofInvalid):
            world.registry.verify_inference(world.version_id, changed, data)


def test_empty_address_accepts_nothing(world: World) -> None:
    """A call to an address without code succeeds; it must not pass for a verification."""
    claim, proof = claim_and_proof(world)
    nobody = account(5).address
    with pytest.raises(ChainError, match="no contract"):
        Adapter(world.chain, nobody).verify(claim, proof)
    with pytest.raises(ChainError):
        Registry(world.chain, nobody).verify_inference(world.version_id, claim, proof)
    with pytest.raises(ChainError):
        Market(world.chain, nobody).request_of(1)


def test_version_reads_back_as_registered(world: World) -> None:
    version = world.registry.get_version(world.version_id)
    lineage = world.registry.lineage_of(world.chain.signer, "tiny")
    assert (version.lineage, version.number, version.deprecated) == (lineage, 1, False)
    for part in (world.commitment(), world.binding()):
        for field in part.__dataclass_fields__:
            assert getattr(version, field) == getattr(part, field), field
    assert world.registry.owner_of(world.version_id) == world.chain.signer
    assert world.registry.version_id(lineage, 1) == world.version_id
    assert world.market.registry() == world.registry.address


def test_next_version_and_deprecation(world: World) -> None:
    data = world.registry.update_calldata(world.version_id, world.commitment(), world.binding())
    world.transact("update/tiny/2", world.registry.address, data)
    lineage = world.registry.lineage_of(world.chain.signer, "tiny")
    second = world.registry.latest(lineage)
    assert second == world.registry.version_id(lineage, 2) != world.version_id
    data = world.registry.deprecate_calldata(world.version_id)
    world.transact("deprecate/tiny/1", world.registry.address, data)
    assert world.registry.get_version(world.version_id).deprecated
    assert world.market.price_of(world.version_id) == (PRICE_WEI, False)


def test_custom_errors_are_named(world: World) -> None:
    with pytest.raises(TransactionReverted, match=r"UnknownModel\(7\)"):
        world.registry.get_version(7)
    data = world.registry.register_calldata("tiny", world.commitment(), world.binding())
    with pytest.raises(TransactionReverted, match=r"NameTaken\(0x"):
        world.transact("register/again", world.registry.address, data)


def test_request_reads_back_as_made(world: World) -> None:
    number = world.request(callback_gas=50_000)
    request = world.market.request_of(number)
    assert request.status is RequestStatus.OPEN
    assert request.requester == account(1).address
    assert request.payee == account(OWNER).address
    assert (request.callback_gas, request.price_wei) == (50_000, PRICE_WEI)
    assert request.circuit_id == bytes32(world.manifest.circuit_id)
    assert request.verifier == world.verifier
    assert world.market.request_of(99).status is RequestStatus.NONE


def test_owner_withdraws_what_it_is_owed(world: World) -> None:
    _, job_id = world.proven()
    assert world.settle(job_id)
    payee = "0x" + "00" * 18 + "beef"
    data = world.market.withdraw_calldata(payee)
    world.transact("withdraw/1", world.market.address, data)
    assert world.chain.balance(payee) == PRICE_WEI
    assert world.market.owed(world.chain.signer) == 0


def test_deploying_again_gives_the_same_addresses(world: World) -> None:
    create = partial(world._create, world.node, world.chain)
    sent = len(world.anvil.sent_by())
    assert deploy(world.chain, create) == world.ledger
    assert len(world.anvil.sent_by()) == sent


def test_ledger_is_checked_against_the_chain(world: World, tmp_path: Path) -> None:
    path = tmp_path / "chain.toml"
    world.ledger.write(path)
    ledger = Ledger.read(path)
    assert ledger == world.ledger
    ledger.check(world.chain)
    with pytest.raises(ChainError, match="chain 1"):
        replace(ledger, chain_id=1).check(world.chain)
    world.anvil.rpc("anvil_setCode", world.market.address, "0x00")
    with pytest.raises(ChainError, match="PredictionMarket"):
        ledger.check(world.chain)


def test_ledger_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "chain.toml"
    with pytest.raises(NotFound):
        Ledger.read(path)
    for text in ("", "chain_id = 'x'", "chain_id = 1\n[Market]\nplace = 3", "["):
        path.write_text(text)
        with pytest.raises(InvalidInput):
            Ledger.read(path)
    with pytest.raises(NotFound, match="PredictionMarket"):
        Ledger(chain_id=1, contracts={}).address("PredictionMarket")


def test_code_of_ours_is_told_from_other_code(world: World) -> None:
    registry = interface("ModelRegistry")
    code = world.chain.code(world.registry.address)
    assert registry.is_code(code)
    assert not registry.is_code(code[:-1])
    assert not registry.is_code(b"")
    adapter = world.chain.code(world.verifier)
    assert interface("EzklVerifier").is_code(adapter), "whatever its immutables are"
    assert not interface("EzklVerifier").is_code(code)


@pytest.mark.parametrize("mode", ["fixed", "polycommit"])
def test_adapters_of_leaking_weights_hold_proofs_to_them(world: World, mode: str) -> None:
    """Real proofs of two models of one architecture, on a chain, by the terms that Python reads."""
    found = json.loads((FIXTURES / f"ezkl_{mode}.json").read_text())
    terms = AdapterTerms(
        circuit_id="0x" + "ab" * 32,
        weights=found["first"]["weights"],
        weights_mode=WeightsMode(mode),
        weights_points=found["weights_points"],
        committed_input=mode == "fixed",
        input_count=found["input_count"],
        output_count=found["output_count"],
        proof_bytes=found["proof_size_bytes"],
    )
    source = (FIXTURES / f"Ezkl{mode.capitalize()}Patched.sol").read_text()
    create = partial(World._create, world.node, world.chain)
    raw = compile_verifier(source, SOLC).creation
    adapter = Adapter(world.chain, deploy_verifier(world.chain, create, raw, terms))
    assert adapter.terms() == terms

    def shown(case: str) -> tuple[Claim, bytes]:
        claim = Claim(
            circuit_id=terms.circuit_id,
            weights=terms.weights,
            input=hex_bytes(found[case]["input"]),
            outputs=tuple(int(value) for value in found[case]["outputs"]),
        )
        return claim, hex_bytes(found[case]["proof"])

    adapter.verify(*shown("first"))
    with pytest.raises(ProofInvalid):
        adapter.verify(*shown("other_weights"))


def test_creating_what_is_not_ours_is_noticed(world: World) -> None:
    def create(purpose: str, _code: bytes) -> str:
        database = world.node.database
        return outbox.create(
            database, world.chain, purpose="x" + purpose, code=bytes.fromhex("600160005360016000f3")
        )

    with pytest.raises(ChainError, match="not that of ModelRegistry"):
        deploy(world.chain, create)
