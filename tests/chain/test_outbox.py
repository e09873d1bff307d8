"""The outbox on a real node: one purpose, one transaction, whatever breaks in between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select

from tests import databases
from tests.chain.anvil_node import Node, account, free_port
from tests.chain.faults import Killed, killed_at_line
from zkserve import outbox
from zkserve.chain.rpc import Chain
from zkserve.chain.transaction import Transaction
from zkserve.errors import ChainError, NotFound, TransactionReverted, Unavailable, Unprofitable
from zkserve.store import outbox as rows
from zkserve.store.database import Database
from zkserve.store.tables import Base, SignerRow, TransactionRow

pytestmark = pytest.mark.chain

PAYEE = "0x00000000000000000000000000000000000000AA"
WEI = 1
REVERTING = bytes.fromhex("63deadbeef60e01b60005260046000fd")
"""Creation code that reverts with the four bytes deadbeef."""


def pay(database: Database, chain: Chain, purpose: str, **options: Any) -> TransactionRow:
    return outbox.send(
        database, chain, purpose=purpose, to=PAYEE, data=b"", value_wei=WEI, **options
    )


def mined(database: Database, chain: Chain, purpose: str) -> TransactionRow:
    return outbox.wait(database, chain, purpose, depth=0, timeout_s=20, poll_s=0.05)


def all_rows(database: Database) -> list[TransactionRow]:
    with database.session() as session:
        return list(session.scalars(select(TransactionRow).order_by(TransactionRow.id)))


def next_nonce(database: Database, chain: Chain) -> int | None:
    with database.session() as session:
        signer = session.get(SignerRow, (chain.chain_id, chain.signer))
        return signer.next_nonce if signer else None


def test_same_purpose_is_sent_once(anvil: Node, database: Database) -> None:
    chain = anvil.chain()
    first = pay(database, chain, "pay/1")
    again = pay(database, chain, "pay/1")
    assert (first.hash, first.nonce) == (again.hash, again.nonce)
    pay(database, chain, "pay/2")
    row = mined(database, chain, "pay/1")
    assert (row.state, row.block, row.gas_used) == ("mined", 1, 21_000)
    mined(database, chain, "pay/2")
    assert [tx["nonce"] for tx in anvil.sent_by()] == [0, 1]
    assert chain.balance(PAYEE) == 2 * WEI


def test_killed_at_every_line_it_sends_once(anvil: Node, database: Database) -> None:
    """Send and confirm, stopped at line 1, 2, 3 …; then once more, unharmed."""
    chain = anvil.chain()
    chain.check()
    line, finished = 0, False
    while not finished:
        line += 1
        purpose = f"pay/{line}"
        try:
            with killed_at_line(line, outbox, rows):
                pay(database, chain, purpose)
                outbox.confirm(database, chain, purpose, depth=0)
            finished = True
        except Killed:
            pass
        pay(database, chain, purpose)
        row = mined(database, chain, purpose)
        assert (row.state, row.attempt) == ("mined", 1)
    assert line > 40, "the fault injection reached no line"
    sent = anvil.sent_by()
    assert [tx["nonce"] for tx in sent] == list(range(line))
    assert chain.balance(PAYEE) == line * WEI
    assert next_nonce(database, chain) == line


_PROCESS = """
import sys
from zkserve import outbox
from zkserve.chain.rpc import Chain
from zkserve.store.database import Database

url, database_url, key, purposes = sys.argv[1:]
chain, database = Chain(url, signer_key=key), Database(database_url)
for number in range(int(purposes)):
    print(number, flush=True)
    outbox.send(database, chain, purpose=f"pay/{number}", to="%s", data=b"", value_wei=1)
    outbox.wait(database, chain, f"pay/{number}", depth=0, timeout_s=20, poll_s=0.05)
print("done", flush=True)
"""


def _payer(anvil: Node, database: Database, purposes: int) -> subprocess.Popen[str]:
    arguments = [anvil.url, database.url, account(0).key.hex(), str(purposes)]
    return subprocess.Popen(
        [sys.executable, "-c", _PROCESS % PAYEE, *arguments], stdout=subprocess.PIPE, text=True
    )


def test_processes_killed_with_sigkill_lose_and_double_nothing(
    anvil: Node, database: Database
) -> None:
    purposes = 12
    for survives in (2, 5, 9):
        payer = _payer(anvil, database, purposes)
        assert payer.stdout is not None
        for line in payer.stdout:
            if line.strip() == str(survives):
                os.kill(payer.pid, signal.SIGKILL)
                break
        assert payer.wait() == -signal.SIGKILL
        payer.stdout.close()
    payer = _payer(anvil, database, purposes)
    output, _ = payer.communicate(timeout=60)
    assert payer.returncode == 0, output
    assert [tx["nonce"] for tx in anvil.sent_by()] == list(range(purposes))
    assert anvil.chain().balance(PAYEE) == purposes


@pytest.fixture(params=["sqlite", "postgresql"])
def shared(request: pytest.FixtureRequest, database: Database) -> Iterator[Database]:
    if request.param == "sqlite":
        yield database
        return
    other = Database(databases.new_database(request.getfixturevalue("postgresql")))
    Base.metadata.create_all(other.engine)
    yield other
    other.close()


def test_two_processes_share_a_signer(anvil: Node, shared: Database) -> None:
    """Both want the same twelve purposes: one transaction each, no nonce twice, no gap."""
    payers = [_payer(anvil, shared, 12) for _ in range(2)]
    for payer in payers:
        payer.communicate(timeout=60)
        assert payer.returncode == 0
    assert [tx["nonce"] for tx in anvil.sent_by()] == list(range(12))
    assert len(all_rows(shared)) == 12


def test_a_purpose_that_died_unsent_does_not_hold_back_the_next(
    anvil: Node, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = anvil.chain()
    with monkeypatch.context() as broken:
        broken.setattr(chain, "broadcast", _die)
        with pytest.raises(Killed):
            pay(database, chain, "pay/first")
    assert all_rows(database)[0].state == "signed"
    pay(database, chain, "pay/second")
    mined(database, chain, "pay/second")
    assert [tx["nonce"] for tx in anvil.sent_by()] == [0, 1]


def _die(_raw: bytes) -> None:
    raise Killed


def test_reorg_of_three_blocks_mines_the_same_bytes_again(anvil: Node, database: Database) -> None:
    chain = anvil.chain()
    anvil.mine(3)
    pay(database, chain, "pay/1")
    anvil.mine(1)
    assert outbox.confirm(database, chain, "pay/1", depth=3) is None
    before = all_rows(database)
    assert [row.state for row in before] == ["mined"]

    anvil.rpc("anvil_rollback", 3)
    assert chain.balance(PAYEE) == 0
    assert outbox.confirm(database, chain, "pay/1", depth=3) is None  # broadcasts once more
    assert outbox.confirm(database, chain, "pay/1", depth=3) is None
    anvil.mine(3)
    row = outbox.confirm(database, chain, "pay/1", depth=3)
    assert row is not None
    assert [(r.hash, r.raw, r.attempt) for r in all_rows(database)] == [
        (r.hash, r.raw, r.attempt) for r in before
    ]
    assert chain.balance(PAYEE) == WEI
    assert len(anvil.sent_by()) == 1


def test_snapshot_reverted_after_mining_is_a_reorg_too(anvil: Node, database: Database) -> None:
    chain = anvil.chain()
    snapshot = anvil.rpc("evm_snapshot")
    for number in range(4):
        pay(database, chain, f"pay/{number}")
        mined(database, chain, f"pay/{number}")
    anvil.rpc("evm_revert", snapshot)
    for number in reversed(range(4)):  # the highest nonce first: those below it go along
        outbox.confirm(database, chain, f"pay/{number}", depth=0)
    for number in range(4):
        mined(database, chain, f"pay/{number}")
    assert [tx["nonce"] for tx in anvil.sent_by()] == [0, 1, 2, 3]
    assert chain.balance(PAYEE) == 4


def test_confirms_only_at_depth(anvil: Node, database: Database) -> None:
    chain = anvil.chain()
    pay(database, chain, "pay/1")
    assert outbox.confirm(database, chain, "pay/1", depth=2) is None
    anvil.mine(1)
    assert outbox.confirm(database, chain, "pay/1", depth=2) is None
    anvil.mine(1)
    assert outbox.confirm(database, chain, "pay/1", depth=2) is not None


def test_finalized_tag_counts_on_other_than_development_chains(
    start_node: Callable[..., Node], database: Database
) -> None:
    node = start_node("--chain-id", "4242", "--slots-in-an-epoch", "2")
    chain = node.chain()
    pay(database, chain, "pay/1")
    assert outbox.confirm(database, chain, "pay/1", depth=0) is None
    node.mine(4)
    assert chain.settled(0) >= 1
    assert outbox.confirm(database, chain, "pay/1", depth=0) is not None


def test_stuck_transaction_is_replaced_by_a_higher_bid(anvil: Node, database: Database) -> None:
    chain = anvil.chain()
    anvil.automine(False)
    first = pay(database, chain, "pay/1")
    assert outbox.confirm(database, chain, "pay/1", depth=0) is None
    assert len(all_rows(database)) == 1, "too young to be replaced"
    assert outbox.confirm(database, chain, "pay/1", depth=0, bump_after_s=0) is None
    old, new = (Transaction.read(row.raw) for row in all_rows(database))
    assert (new.nonce, new.to, new.value_wei) == (old.nonce, old.to, old.value_wei)
    assert new.fees.tip_wei * 8 >= old.fees.tip_wei * 9
    assert new.fees.cap_wei * 8 >= old.fees.cap_wei * 9
    anvil.automine(True)
    anvil.mine(1)
    row = mined(database, chain, "pay/1")
    assert row.attempt == 2
    assert {r.hash: r.state for r in all_rows(database)} == {
        first.hash: "replaced",
        row.hash: "mined",
    }
    assert chain.balance(PAYEE) == WEI


def test_first_bid_mined_although_a_replacement_was_signed(
    anvil: Node, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = anvil.chain()
    anvil.automine(False)
    first = pay(database, chain, "pay/1")
    with monkeypatch.context() as broken:
        broken.setattr(chain, "broadcast", _die)
        with pytest.raises(Killed):
            outbox.confirm(database, chain, "pay/1", depth=0, bump_after_s=0)
    anvil.mine(1)
    row = mined(database, chain, "pay/1")
    assert row.hash == first.hash
    assert [r.state for r in all_rows(database)] == ["mined", "replaced"]


def test_bumps_stop_at_the_highest_fee(anvil: Node, database: Database) -> None:
    chain = anvil.chain(max_fee_gwei=3.2)
    anvil.automine(False)
    pay(database, chain, "pay/1")
    for _ in range(6):
        outbox.confirm(database, chain, "pay/1", depth=0, bump_after_s=0)
    found = [Transaction.read(row.raw) for row in all_rows(database)]
    assert all(tx.fees.cap_wei <= chain.max_fee_wei for tx in found)
    assert len(found) < 3
    anvil.automine(True)
    anvil.mine(1)
    mined(database, chain, "pay/1")


def dearer(anvil: Node, row: TransactionRow) -> None:
    """Raise the base fee above what a transaction bids, in the block mined now and in the next."""
    base_fee_wei = hex(3 * Transaction.read(row.raw).fees.cap_wei)
    for _ in range(2):
        anvil.rpc("anvil_setNextBlockBaseFeePerGas", base_fee_wei)
        anvil.mine(1)
    anvil.rpc("anvil_setNextBlockBaseFeePerGas", base_fee_wei)


def test_higher_bid_reaches_a_node_that_refuses_the_first(anvil: Node, database: Database) -> None:
    chain = anvil.chain()
    anvil.automine(False)
    first = pay(database, chain, "pay/1")
    dearer(anvil, first)
    with pytest.raises(ChainError, match="base fee"):
        chain.broadcast(chain.sign(replace(Transaction.read(first.raw), nonce=1)).raw)
    assert outbox.confirm(database, chain, "pay/1", depth=0, bump_after_s=0) is None
    assert [row.state for row in all_rows(database)] == ["broadcast", "broadcast"]
    anvil.mine(1)
    assert mined(database, chain, "pay/1").attempt == 2
    assert chain.balance(PAYEE) == WEI


@pytest.mark.parametrize("keeps_low_bids", [True, False])
def test_purpose_that_nobody_asks_for_does_not_hold_back_the_next(
    anvil: Node, database: Database, monkeypatch: pytest.MonkeyPatch, *, keeps_low_bids: bool
) -> None:
    chain = anvil.chain()
    broadcast = chain.broadcast

    def lenient(raw: bytes) -> None:
        """Take bytes below the base fee without a word, as some nodes do."""
        with suppress(ChainError):
            broadcast(raw)

    if keeps_low_bids:
        monkeypatch.setattr(chain, "broadcast", lenient)
    anvil.automine(False)
    abandoned = pay(database, chain, "pay/abandoned")
    dearer(anvil, abandoned)
    pay(database, chain, "pay/next")
    assert outbox.confirm(database, chain, "pay/next", depth=0, bump_after_s=0) is None
    anvil.mine(1)
    assert mined(database, chain, "pay/next").nonce == abandoned.nonce + 1
    assert [tx["nonce"] for tx in anvil.sent_by()] == [0, 1]
    assert chain.balance(PAYEE) == 2 * WEI
    assert mined(database, chain, "pay/abandoned").attempt == 2, "found, should anybody ask"


def test_what_is_refused_below_stops_nothing_but_its_own_refusal_is_told(
    anvil: Node, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = anvil.chain()
    anvil.automine(False)
    low = outbox.sign(database, chain, purpose="pay/low", to=PAYEE, data=b"", value_wei=WEI)
    high = outbox.sign(database, chain, purpose="pay/high", to=PAYEE, data=b"", value_wei=WEI)
    given, broadcast = [], chain.broadcast

    def refusing(raw: bytes) -> None:
        given.append(raw)
        if raw == low.raw:
            raise ChainError("The node refuses it.")
        broadcast(raw)

    monkeypatch.setattr(chain, "broadcast", refusing)
    assert outbox.confirm(database, chain, "pay/high", depth=0) is None
    assert given == [low.raw, high.raw]
    assert [row.state for row in all_rows(database)] == ["signed", "broadcast"]
    with pytest.raises(ChainError, match="refuses it"):
        outbox.confirm(database, chain, "pay/low", depth=0)


def test_what_costs_more_than_it_is_worth_takes_no_nonce(anvil: Node, database: Database) -> None:
    chain = anvil.chain()
    cost_wei = 21_000 * chain.gas_price_wei()

    def sign(worth_wei: int) -> TransactionRow:
        return outbox.sign(
            database, chain, purpose="pay/1", to=PAYEE, data=b"", worth_wei=worth_wei
        )

    with pytest.raises(Unprofitable, match=f"{cost_wei} wei, more than the {cost_wei - 1} wei"):
        sign(cost_wei - 1)
    assert all_rows(database) == []
    assert next_nonce(database, chain) is None
    signed = sign(cost_wei)
    assert sign(0).hash == signed.hash, "what is signed is not weighed again"


def test_gas_dearer_than_allowed_takes_no_nonce(anvil: Node, database: Database) -> None:
    chain = anvil.chain(max_fee_gwei=0.5)
    with pytest.raises(Unavailable, match="highest fee allowed"):
        pay(database, chain, "pay/1")
    assert all_rows(database) == []
    assert next_nonce(database, chain) is None


def test_call_bound_to_revert_takes_no_nonce(anvil: Node, database: Database) -> None:
    chain = anvil.chain()
    with pytest.raises(TransactionReverted, match="0xdeadbeef"):
        outbox.send(database, chain, purpose="create/1", to=None, data=REVERTING)
    assert all_rows(database) == []
    assert next_nonce(database, chain) is None


def test_mined_and_reverted_is_told(anvil: Node, database: Database) -> None:
    chain = anvil.chain()
    outbox.send(database, chain, purpose="create/1", to=None, data=REVERTING, gas=100_000)
    with pytest.raises(TransactionReverted, match="create/1"):
        mined(database, chain, "create/1")
    row = outbox.confirm(database, chain, "create/1", depth=0)
    assert row is not None
    assert row.state == "reverted"
    assert len(all_rows(database)) == 1


def test_signer_without_funds_takes_no_nonce(anvil: Node, database: Database) -> None:
    anvil.rpc("anvil_setBalance", account(0).address, hex(10_000))
    chain = anvil.chain()
    with pytest.raises(Unavailable, match="not enough funds"):
        pay(database, chain, "pay/1")
    assert all_rows(database) == []
    assert next_nonce(database, chain) is None
    anvil.rpc("anvil_setBalance", account(0).address, hex(10**18))
    assert pay(database, chain, "pay/1").nonce == 0


def test_nonce_taken_by_a_stranger_is_replaced_by_a_new_one(
    anvil: Node, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else holds the same key: our bytes can never be mined; sign once more."""
    chain = anvil.chain()
    with monkeypatch.context() as broken:
        broken.setattr(chain, "broadcast", _die)
        with pytest.raises(Killed):
            pay(database, chain, "pay/1")
    stolen = {"from": account(0).address, "to": account(1).address, "value": 7}
    anvil.web3.eth.send_transaction(stolen)
    assert outbox.confirm(database, chain, "pay/1", depth=0) is None
    row = mined(database, chain, "pay/1")
    assert (row.nonce, row.attempt) == (1, 2)
    assert chain.balance(PAYEE) == WEI


def test_foreign_transactions_are_stepped_over(anvil: Node, database: Database) -> None:
    chain = anvil.chain()
    pay(database, chain, "pay/1")
    anvil.web3.eth.send_transaction({"from": account(0).address, "to": PAYEE, "value": 0})
    assert pay(database, chain, "pay/2").nonce == 2


def test_node_down_then_up(start_node: Callable[..., Node], database: Database) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    chain = Chain(url, signer_key=account(0).key.hex())
    with pytest.raises(Unavailable, match="did not answer"):
        pay(database, chain, "pay/1")
    assert all_rows(database) == []
    node = start_node(port=port)
    pay(database, chain, "pay/1")
    node.process.kill()
    node.process.wait()
    with pytest.raises(Unavailable):
        outbox.confirm(database, chain, "pay/1", depth=0)
    assert len(all_rows(database)) == 1
    start_node(port=port)  # an empty chain of the same id: as if everything had been rolled back
    mined(database, chain, "pay/1")
    assert len(all_rows(database)) == 1


def test_wrong_chain_is_refused(start_node: Callable[..., Node], database: Database) -> None:
    node = start_node("--chain-id", "5")
    with pytest.raises(ChainError, match="serves chain 5, expected chain 1"):
        pay(database, node.chain(chain_id=1), "pay/1")
    assert all_rows(database) == []


def test_node_that_changes_its_chain_is_refused(
    start_node: Callable[..., Node], database: Database
) -> None:
    port = free_port()
    first = start_node(port=port)
    chain = first.chain()
    pay(database, chain, "pay/1")
    first.process.kill()
    first.process.wait()
    start_node("--chain-id", "5", port=port)
    with pytest.raises(ChainError, match="serves chain 5, expected chain 31337"):
        pay(database, chain, "pay/2")
    assert len(all_rows(database)) == 1


def test_purpose_of_another_chain_is_not_sent_here(
    anvil: Node, start_node: Callable[..., Node], database: Database
) -> None:
    pay(database, anvil.chain(), "pay/1")
    other = start_node("--chain-id", "5").chain()
    with pytest.raises(ChainError, match="signed for chain 31337, not 5"):
        pay(database, other, "pay/1")
    with pytest.raises(ChainError, match="signed for chain 31337, not 5"):
        outbox.confirm(database, other, "pay/1", depth=0)


def test_refused_bytes_are_an_error(anvil: Node) -> None:
    with pytest.raises(ChainError):
        anvil.chain().broadcast(b"\x02nonsense")


def test_nothing_to_confirm(anvil: Node, database: Database) -> None:
    with pytest.raises(NotFound, match="pay/none"):
        outbox.confirm(database, anvil.chain(), "pay/none", depth=0)


def test_reader_cannot_sign(anvil: Node, database: Database) -> None:
    with pytest.raises(ChainError, match="ZKSERVE_SIGNER_KEY"):
        pay(database, Chain(anvil.url), "pay/1")


def test_create_gives_the_address_of_one_contract(anvil: Node, database: Database) -> None:
    chain = anvil.chain()
    code = bytes.fromhex("600160005360016000f3")  # leaves the one byte 01 as code
    address = outbox.create(database, chain, purpose="deploy/one", code=code)
    assert outbox.create(database, chain, purpose="deploy/one", code=code) == address
    assert chain.code(address) == b"\x01"
    assert len(anvil.sent_by()) == 1
