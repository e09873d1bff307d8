"""On-chain requests on a real node with real proofs: served once, whatever breaks in between."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from tests.chain.anvil_node import Node, account
from tests.chain.faults import Killed, killed_at_line
from tests.chain.world import OWNER, PRICE_WEI, REQUESTER, STRANGER, World, recorded
from zkserve import follow, fulfil, prove
from zkserve.chain import contracts
from zkserve.chain.contracts import RequestStatus
from zkserve.chain.rpc import GWEI
from zkserve.encoding import claim_digest
from zkserve.errors import ChainError, Unavailable, Unprofitable
from zkserve.receipt import receipt_from_dict, receipt_to_dict
from zkserve.store import jobs, requests
from zkserve.store.tables import TransactionRow, now
from zkserve.types import JobState, Receipt

pytestmark = pytest.mark.chain

_S = JobState


def receipt_of(world: World, job_id: str) -> Receipt:
    with world.node.database.snapshot() as session:
        return prove.receipt(world.node, session, jobs.get(session, job_id))


def test_a_request_is_served_and_paid(world: World) -> None:
    request_id = world.request()
    assert world.follow() == 1
    job_id = world.job(request_id).id
    assert not fulfil.prepare(world.node, job_id), "its input is not here yet"
    world.hand_in()
    assert fulfil.prepare(world.node, job_id)
    world.prove(job_id)
    assert world.settle(job_id)

    # MINED is skipped where the block comes before the look.
    assert [state for state in world.states(job_id) if state is not _S.MINED] == [
        _S.ACCEPTED,
        _S.AWAITING_INPUT,
        _S.ACCEPTED,
        _S.PROVING,
        _S.VERIFIED,
        _S.STORED,
        _S.SIGNED,
        _S.BROADCAST,
        _S.DONE,
    ]
    assert world.market.request_of(request_id).status is RequestStatus.FULFILLED
    assert world.market.owed(world.chain.signer) == PRICE_WEI
    receipt = receipt_of(world, job_id)
    settlement = receipt.settlement
    assert settlement is not None
    (transaction,) = world.fulfilments()
    assert settlement.transaction == transaction["hash"].to_0x_hex()
    assert settlement.block == transaction["blockNumber"]
    assert (settlement.version_id, settlement.request_id) == (world.version_id, request_id)
    assert settlement.market == world.market.address
    assert settlement.registry == world.registry.address
    assert settlement.callback_ok
    assert 500_000 < settlement.gas < 1_000_000
    assert receipt_from_dict(receipt_to_dict(receipt)) == receipt
    event = world.market.fulfilled_event(request_id, 0)
    assert event is not None
    assert event.claim_digest == claim_digest(receipt.claim)
    assert world.settle(job_id, looks=1), "again changes nothing"
    assert len(world.fulfilments()) == 1


def test_events_read_again_start_nothing_twice(world: World) -> None:
    first, second = world.request(), world.request("second")
    assert world.follow() == 2
    assert world.follow() == 0
    with world.node.database.session() as session:
        cursor = requests.cursor(session, world.chain.chain_id, world.market.address)
        session.delete(cursor)
    assert world.follow() == 0
    assert world.job(first).id != world.job(second).id


def test_request_for_a_version_of_others_is_passed(world: World) -> None:
    foreign = world.register("foreign")
    world.request(version_id=foreign)
    assert world.follow() == 0
    with world.node.database.snapshot() as session:
        cursor = requests.cursor(session, world.chain.chain_id, world.market.address)
        assert cursor is not None
        assert cursor.block == world.chain.head().number
    world.request()
    assert world.follow() == 1


def test_following_stays_behind_the_head_and_reads_in_chunks(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "LOG_BLOCKS", 3)
    monkeypatch.setattr(contracts, "LOG_BLOCKS", 2)
    for _ in range(4):
        world.request()
        world.anvil.mine(2)
    assert world.follow(confirmations=4) == 3
    assert world.follow(confirmations=4) == 0
    assert world.follow() == 1


def test_following_killed_at_every_line_loses_and_doubles_nothing(world: World) -> None:
    line, request_ids, started, finished = 0, [], 0, False
    while not finished:
        line += 1
        request_ids.append(world.request())
        try:
            with killed_at_line(line, follow):
                world.follow()
            finished = True
        except Killed:
            pass
        if line % 7 == 0:
            world.follow()
    started = world.follow()
    assert line > 20, "the fault injection reached no line"
    assert started == 0
    ids = [world.job(number).id for number in request_ids]
    assert len(set(ids)) == len(request_ids)
    with world.node.database.snapshot() as session:
        assert jobs.count_by_state(session)[_S.ACCEPTED] == len(request_ids)


def test_reorg_of_three_blocks_loses_and_doubles_no_request(world: World) -> None:
    kept = world.request()
    world.anvil.mine(1)
    moved = world.request("second")
    lost_from_view = world.request()
    assert world.follow() == 3
    before = {number: world.job(number).id for number in (kept, moved, lost_from_view)}

    world.anvil.rpc("anvil_rollback", 3)
    assert world.follow() == 0, "shorter than what was read: wait"
    world.anvil.mine(1)
    assert world.request("second") == moved  # mined again, in another block
    world.anvil.mine(3)
    assert world.follow() == 0
    assert world.request() == lost_from_view  # and this one later still
    late = world.request("second")
    assert world.follow() == 1
    assert {number: world.job(number).id for number in before} == before
    assert world.job(late).id not in before.values()
    assert world.settle(world.prepared(moved, "second"))


def test_reorg_deeper_than_one_step_back_is_found_by_the_requests_it_moved(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "_REWIND_BLOCKS", 1)
    request_ids = []
    for _ in range(4):
        request_ids.append(world.request())
        world.anvil.mine(1)
    assert world.follow() == 4
    world.anvil.rpc("anvil_rollback", 6)  # all but the first request
    world.anvil.mine(2)
    assert [world.request("second") for _ in range(3)] == request_ids[1:]
    world.anvil.mine(3)
    assert world.follow() == 3
    assert world.follow() == 0


def test_request_replaced_by_another_of_its_number_in_a_reorg(world: World) -> None:
    number, job_id = world.proven()
    world.anvil.rpc("anvil_rollback", 1)
    assert world.request("second") == number
    world.anvil.mine(2)
    assert world.follow() == 1
    assert world.job(number).id != job_id
    assert world.states(job_id)[-1] is _S.FAILED
    assert world.settle(world.prepared(number, "second"))
    event = world.market.fulfilled_event(number, 0)
    assert event is not None
    assert event.outputs == tuple(int(value) for value in recorded()["second"]["outputs"])


def test_reorg_between_events_and_header_stalls_the_cursor(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.request()
    honest, calls = world.chain.block, iter(range(100))

    def shifting(which: Any = "latest") -> Any:
        block = honest(which)
        if isinstance(which, int) and which > 0 and next(calls) == 1:
            world.anvil.rpc("anvil_rollback", 1)
            world.anvil.mine(1)
            return honest(which)
        return block

    with monkeypatch.context() as patched:
        patched.setattr(world.chain, "block", shifting)
        with pytest.raises(ChainError, match="reorganised"):
            world.follow()
    with world.node.database.snapshot() as session:
        assert requests.cursor(session, world.chain.chain_id, world.market.address) is None
    assert world.follow() == 0, "the request is gone with its block"


def test_somebody_else_was_first(world: World) -> None:
    request_id, job_id = world.proven()
    world.send_as(STRANGER, world.calldata(request_id))
    assert world.settle(job_id)
    assert world.fulfilments() == []
    settlement = receipt_of(world, job_id).settlement
    assert settlement is not None
    (theirs,) = world.fulfilments(STRANGER)
    assert settlement.block == theirs["blockNumber"]
    assert world.states(job_id)[-2:] == [_S.STORED, _S.DONE]
    assert world.market.owed(world.chain.signer) == PRICE_WEI


def test_somebody_else_wins_the_race_in_the_mempool(world: World) -> None:
    request_id, job_id = world.proven()
    world.anvil.automine(False)
    assert not world.settle(job_id, looks=1)
    world.send_as(STRANGER, world.calldata(request_id), wait=False, tip_wei=20 * GWEI)
    world.anvil.mine(1)
    world.anvil.automine(True)
    assert world.settle(job_id)
    assert world.states(job_id)[-1] is _S.DONE
    assert world.market.owed(world.chain.signer) == PRICE_WEI
    (ours,), (theirs,) = world.fulfilments(), world.fulfilments(STRANGER)
    assert world.chain.inclusion(ours["hash"].to_0x_hex()).succeeded is False
    assert receipt_of(world, job_id).settlement.transaction == theirs["hash"].to_0x_hex()


def test_settling_killed_at_every_line_pays_once(world: World) -> None:
    line, finished, settled = 0, False, 0
    while not finished:
        line += 1
        _, job_id = world.proven()
        try:
            with killed_at_line(line, fulfil):
                world.settle(job_id)
            finished = True
        except Killed:
            pass
        assert world.settle(job_id)
        settled += 1
        assert world.states(job_id)[-1] is _S.DONE
    assert line > 40, "the fault injection reached no line"
    assert len(world.fulfilments()) == settled
    assert world.market.owed(world.chain.signer) == settled * PRICE_WEI


def test_settlement_reorganised_away_is_sent_again_as_it_was(world: World) -> None:
    request_id, job_id = world.proven()
    world.anvil.mine(3)
    assert not world.settle(job_id, confirmations=3, looks=3)
    assert world.states(job_id)[-1] is _S.MINED
    (before,) = world.fulfilments()

    world.anvil.rpc("anvil_rollback", 3)
    assert world.market.request_of(request_id).status is RequestStatus.OPEN
    assert not world.settle(job_id, confirmations=3, looks=3)
    assert world.states(job_id).count(_S.BROADCAST) == 2
    world.anvil.mine(3)
    assert world.settle(job_id, confirmations=3)
    (after,) = world.fulfilments()
    assert (after["hash"], after["nonce"]) == (before["hash"], before["nonce"])
    assert world.market.owed(world.chain.signer) == PRICE_WEI


def test_young_request_is_proved_but_not_yet_paid_for(world: World) -> None:
    _, job_id = world.proven()
    assert not world.settle(job_id, confirmations=2)
    assert world.states(job_id)[-1] is _S.STORED
    world.anvil.mine(2)
    assert not world.settle(job_id, confirmations=2, looks=2)
    world.anvil.mine(2)
    assert world.settle(job_id, confirmations=2)


def test_deadline_passes_before_the_proof(world: World) -> None:
    request_id, job_id = world.proven(window_s=120)
    world.anvil.rpc("evm_increaseTime", 200)
    world.anvil.mine(1)
    assert not world.settle(job_id, confirmations=2, looks=2), "the late block may yet vanish"
    world.anvil.mine(2)
    assert world.settle(job_id, confirmations=2)
    assert world.states(job_id)[-1] is _S.EXPIRED
    assert world.fulfilments() == []
    world.send_as(REQUESTER, world.market.refund_calldata(request_id))
    assert world.market.owed(account(REQUESTER).address) == PRICE_WEI


def test_refunded_request_expires(world: World) -> None:
    request_id, job_id = world.proven(window_s=120)
    world.anvil.rpc("evm_increaseTime", 200)
    world.send_as(STRANGER, world.market.refund_calldata(request_id))
    assert world.settle(job_id)
    assert world.states(job_id)[-1] is _S.EXPIRED
    assert world.fulfilments() == []


def test_proof_that_the_chain_refuses_fails_and_takes_no_nonce(world: World) -> None:
    _, job_id = world.proven()
    with world.node.database.session() as session:
        job = jobs.get(session, job_id)
        job.proof = world.node.artifacts.put(
            bytes.fromhex(recorded()["other_weights"]["proof"].removeprefix("0x"))
        )
    nonce = world.chain.nonce(world.chain.signer)
    assert world.settle(job_id)
    with world.node.database.snapshot() as session:
        job = jobs.get(session, job_id)
        assert job.state == _S.FAILED
        assert "ProofInvalid(0x" in (job.error_message or "")
    assert world.fulfilments() == []
    assert world.chain.nonce(world.chain.signer) == nonce


def test_failed_callback_is_told_and_paid_all_the_same(world: World) -> None:
    _, job_id = world.proven(callback_gas=100_000)
    world.anvil.rpc("anvil_setCode", account(REQUESTER).address, "0x60006000fd")
    assert world.settle(job_id)
    settlement = receipt_of(world, job_id).settlement
    assert settlement is not None
    assert not settlement.callback_ok
    assert world.market.owed(world.chain.signer) == PRICE_WEI


def test_gas_hungry_callback_gets_what_it_was_promised(world: World) -> None:
    """The estimate must leave 64/63 of the promised gas at the call, although none is used."""
    _, job_id = world.proven(callback_gas=1_000_000)
    burn_all = "0xfe"
    world.anvil.rpc("anvil_setCode", account(REQUESTER).address, burn_all)
    assert world.settle(job_id)
    settlement = receipt_of(world, job_id).settlement
    assert settlement is not None
    assert not settlement.callback_ok
    assert settlement.gas > 1_500_000


def test_signer_without_funds_waits_and_goes_on(world: World) -> None:
    _, job_id = world.proven()
    world.anvil.rpc("anvil_setBalance", world.chain.signer, hex(1000))
    with pytest.raises(Unavailable, match="not enough funds"):
        world.settle(job_id)
    assert world.states(job_id)[-1] is _S.STORED
    world.anvil.rpc("anvil_setBalance", world.chain.signer, hex(10**18))
    assert world.settle(job_id)
    assert world.states(job_id)[-1] is _S.DONE


def test_order_that_expired_in_the_pool_does_not_hold_back_the_next(world: World) -> None:
    _, late = world.proven(window_s=600)
    second = world.request("second", window_s=7200)
    world.follow()
    job_id = world.prepared(second, "second")
    anvil = world.anvil
    anvil.automine(False)
    assert not world.settle(late, looks=1)
    assert world.states(late)[-1] is _S.BROADCAST
    dear = hex(2 * world.chain.fees().cap_wei)
    anvil.rpc("evm_increaseTime", 700)
    anvil.rpc("anvil_setNextBlockBaseFeePerGas", dear)
    anvil.mine(1)
    assert world.settle(late, looks=1)
    assert world.states(late)[-1] is _S.EXPIRED
    with world.node.database.session() as session:
        session.execute(
            update(TransactionRow)
            .where(TransactionRow.purpose == f"fulfil/{late}")
            .values(created_at=now() - timedelta(hours=1))
        )
    anvil.rpc("anvil_setNextBlockBaseFeePerGas", dear)
    assert not world.settle(job_id, looks=1)
    anvil.mine(1)
    anvil.automine(True)
    assert world.settle(job_id)
    assert world.states(job_id)[-1] is _S.DONE
    assert len(world.fulfilments()) == 2, "the late one reverted; its nonce is used all the same"
    assert world.market.owed(world.chain.signer) == PRICE_WEI


_BURNS_ALL = "0xfe"


def dear_request(world: World) -> tuple[int, str]:
    """Return a proven request whose callback may burn more than its price."""
    request_id, job_id = world.proven(callback_gas=2_000_000)
    world.anvil.rpc("anvil_setCode", account(REQUESTER).address, _BURNS_ALL)
    set_base_fee(world, 30 * GWEI)
    return request_id, job_id


def set_base_fee(world: World, wei: int) -> None:
    world.anvil.rpc("anvil_setNextBlockBaseFeePerGas", hex(wei))
    world.anvil.mine(1)


def test_request_that_costs_more_than_its_price_waits_and_expires(world: World) -> None:
    request_id, job_id = dear_request(world)
    before = world.chain.balance(world.chain.signer)
    for _ in range(3):
        with pytest.raises(Unprofitable, match=f"more than the {PRICE_WEI} wei"):
            world.settle(job_id)
    assert world.chain.balance(world.chain.signer) == before
    with world.node.database.snapshot() as session:
        events = jobs.events_after(session, job_id)
    assert [event.state for event in events if event.detail.get("code") == "unprofitable"] == [
        _S.STORED
    ]
    world.anvil.rpc("evm_increaseTime", 4000)
    world.anvil.mine(1)
    assert world.settle(job_id)
    assert world.states(job_id)[-1] is _S.EXPIRED
    assert world.fulfilments() == []
    world.send_as(STRANGER, world.market.refund_calldata(request_id), tip_wei=60 * GWEI)
    assert world.market.owed(account(REQUESTER).address) == PRICE_WEI


def test_request_that_cost_too_much_is_settled_when_gas_gets_cheap(world: World) -> None:
    _, job_id = dear_request(world)
    with pytest.raises(Unprofitable):
        world.settle(job_id)
    set_base_fee(world, GWEI)
    before = world.chain.balance(world.chain.signer)
    assert world.settle(job_id)
    assert world.states(job_id)[-1] is _S.DONE
    assert before - world.chain.balance(world.chain.signer) < PRICE_WEI


def test_owner_may_settle_at_a_loss(world: World) -> None:
    _, job_id = dear_request(world)
    before = world.chain.balance(world.chain.signer)
    assert not fulfil.settle(world.node, world.chain, job_id, at_a_loss=True)
    assert world.settle(job_id), "once sent it is followed up, whatever the fees"
    assert world.states(job_id)[-1] is _S.DONE
    assert before - world.chain.balance(world.chain.signer) > PRICE_WEI


@pytest.mark.parametrize("refusal", [ChainError("Too many results."), Unavailable("No answer.")])
def test_range_of_events_that_a_node_refuses_is_halved(
    world: World, monkeypatch: pytest.MonkeyPatch, refusal: Exception
) -> None:
    request_ids = []
    for _ in range(3):
        request_ids.append(world.request())
        world.anvil.mine(5)
    logs, most = world.chain.logs, 4

    def limited(address: str, topics: Any, first: int, last: int) -> Any:
        if last - first >= most:
            raise refusal
        return logs(address, topics, first, last)

    monkeypatch.setattr(world.chain, "logs", limited)
    head = world.chain.head().number
    found = world.market.requested_events(0, head)
    assert [event.request_id for event in found] == request_ids
    assert world.follow() == 3
    most = 0
    with pytest.raises(type(refusal)):
        world.market.requested_events(0, head)


def test_market_address_without_code_is_refused(world: World) -> None:
    with pytest.raises(ChainError, match="no contract"):
        follow.follow(
            world.node,
            world.chain,
            world.queue,
            market=account(OWNER).address,
            confirmations=0,
        )


def test_chain_begun_anew_under_the_same_id_is_refused(
    world: World, start_node: Callable[..., Node]
) -> None:
    world.request()
    assert world.follow() == 1
    anew = start_node("--timestamp", "1000").chain()
    with pytest.raises(ChainError, match=r"another chain 31337 than before.*new ZKSERVE_DATA_DIR"):
        follow.follow(world.node, anew, world.queue, market=world.market.address, confirmations=0)
    assert world.follow() == 0, "the chain of before is followed on"


def test_request_of_another_chain_is_not_settled_here(world: World) -> None:
    _, job_id = world.proven()
    with world.node.database.session() as session:
        requests.get_by_job(session, job_id).chain_id = 1
    with pytest.raises(ChainError, match="chain 1"):
        world.settle(job_id)
