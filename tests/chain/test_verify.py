"""What a receipt says of its settlement counts for nothing: the chain's own records do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.chain.world import World, recorded
from zkserve import outbox, prove
from zkserve.chain.deploy import deploy
from zkserve.encoding import to_hex
from zkserve.errors import InvalidInput, ProofInvalid
from zkserve.store import jobs
from zkserve.types import Receipt, Scale
from zkserve.verify import Verification, verify_on_chain

pytestmark = pytest.mark.chain


def settled(world: World, case: str = "first") -> Receipt:
    _, job_id = world.proven(case)
    assert world.settle(job_id)
    with world.node.database.snapshot() as session:
        return prove.receipt(world.node, session, jobs.get(session, job_id))


def check(world: World, receipt: Receipt, *, market: str | None = None) -> Verification:
    return verify_on_chain(
        receipt,
        world.requester,
        world.registry.address,
        world.version_id,
        market=market or world.market.address,
    )


def refused(world: World, receipt: Receipt) -> bool:
    try:
        check(world, receipt)
    except ProofInvalid:
        return True
    return False


def test_a_settled_receipt_verifies(world: World) -> None:
    receipt = settled(world)
    verified = check(world, receipt)
    assert verified.circuit_id == receipt.claim.circuit_id
    assert any("settled request" in line for line in verified.established)
    assert any("Development SRS" in line for line in verified.caveats)
    assert verified.batch is None, "two outputs: of one sample or of two, the chain does not say"
    assert any("one sample or of several" in line for line in verified.caveats)

    unchecked = verify_on_chain(receipt, world.requester, world.registry.address, world.version_id)
    assert any("not checked" in line for line in unchecked.caveats)
    assert not any("settled request" in line for line in unchecked.established)


def test_every_altered_field_is_refused(world: World) -> None:
    receipt = settled(world)
    assert receipt.settlement is not None
    claim, settlement = receipt.claim, receipt.settlement
    other = to_hex(b"\x07" * 32)
    altered: dict[str, Receipt] = {
        "circuit": replace(receipt, claim=replace(claim, circuit_id=other)),
        "weights": replace(receipt, claim=replace(claim, weights=other)),
        "input": replace(receipt, claim=replace(claim, input=claim.input[:-1] + b"\x00")),
        "outputs": replace(receipt, claim=replace(claim, outputs=(1, *claim.outputs[1:]))),
        "fewer outputs": replace(receipt, claim=replace(claim, outputs=claim.outputs[1:])),
        "proof": replace(receipt, proof=receipt.proof[:-1] + b"\x00"),
        "longer proof": replace(receipt, proof=receipt.proof + b"\x00"),
        "engine": replace(receipt, engine="other"),
        "engine version": replace(receipt, engine_version="2"),
        "scale": replace(receipt, output_scale=Scale(shift=9)),
        "mark": replace(receipt, development_srs=False),
    }
    fields: dict[str, Any] = {
        "registry": world.market.address,
        "market": world.registry.address,
        "verifier": world.market.address,
        "request_id": settlement.request_id + 1,
    }
    for name, value in fields.items():
        altered[name] = replace(receipt, settlement=replace(settlement, **{name: value}))
    assert receipt.proof[-1] != 0
    assert claim.input[-1] != 0
    assert [name for name, forged in altered.items() if not refused(world, forged)] == []


def test_the_request_of_somebody_else_does_not_serve(world: World) -> None:
    mine, theirs = settled(world), settled(world, "second")
    assert mine.settlement is not None
    assert recorded()["first"]["input"] != recorded()["second"]["input"]
    with pytest.raises(ProofInvalid, match="request's input"):
        check(world, replace(theirs, settlement=mine.settlement))


def test_a_market_that_is_not_the_trusted_one_is_not_asked(world: World) -> None:
    receipt = settled(world)
    assert receipt.settlement is not None

    def create(purpose: str, code: bytes) -> str:
        purpose = f"own/{purpose}"
        return outbox.create(world.node.database, world.chain, purpose=purpose, code=code)

    own = deploy(world.chain, create).address("PredictionMarket")
    assert own != world.market.address
    with pytest.raises(ProofInvalid, match="market"):
        check(world, replace(receipt, settlement=replace(receipt.settlement, market=own)))
    with pytest.raises(ProofInvalid, match="market"):
        check(world, receipt, market=own)


def test_what_was_never_settled_here_is_said_so(world: World) -> None:
    receipt = settled(world)
    assert receipt.settlement is not None
    with pytest.raises(InvalidInput, match="not settled"):
        check(world, replace(receipt, settlement=None))
    with pytest.raises(InvalidInput, match="chain 1,"):
        check(world, replace(receipt, settlement=replace(receipt.settlement, chain_id=1)))


def test_a_strangers_version_of_the_same_circuit_does_not_serve(world: World) -> None:
    """Registering is open to all: a stranger's verifier may accept whatever it is given."""
    receipt = settled(world)
    assert receipt.settlement is not None
    stranger = world.anvil.chain(2)
    database = world.node.database
    stops = bytes.fromhex("60016000f3")  # leaves the code 0x00: it stops, whatever it is asked
    accepting = outbox.create(database, stranger, purpose="verifier", code=stops)
    data = world.registry.register_calldata(
        "tiny", world.commitment(), replace(world.binding(), verifier=accepting)
    )
    outbox.send(database, stranger, purpose="theirs", to=world.registry.address, data=data)
    outbox.wait(database, stranger, "theirs", depth=0, timeout_s=20)
    theirs = world.registry.version_id(world.registry.lineage_of(stranger.signer, "tiny"), 1)
    claim = replace(receipt.claim, outputs=(1, 2, 3))
    world.registry.verify_inference(theirs, claim, b"junk")  # by their verifier anything goes
    forged = replace(
        receipt,
        claim=claim,
        proof=b"junk",
        settlement=replace(receipt.settlement, version_id=theirs, verifier=accepting),
    )
    with pytest.raises(ProofInvalid, match="version"):
        check(world, forged)
