"""Transactions, each sent for one purpose exactly once: signed bytes are stored before they leave.

::

    signed → broadcast → mined | reverted         the receipt vanished: → broadcast, the same bytes
    signed | broadcast → replaced                 another attempt of the same nonce was mined

No call here holds a database lock while it talks to a node, but for the moment of signing, which
is local. Every function may be stopped at any line and called again.
"""

from __future__ import annotations

import time
from datetime import timedelta

from zkserve import log
from zkserve.chain.rpc import GWEI, Chain, Inclusion
from zkserve.chain.transaction import Fees, Transaction
from zkserve.errors import ChainError, NotFound, TransactionReverted, Unavailable, Unprofitable
from zkserve.store import outbox
from zkserve.store.database import Database
from zkserve.store.tables import TransactionRow, now

BUMP_AFTER_S = 90.0
"""Age in seconds at which a transaction that is in no block is replaced by one that bids more."""
_GAS_SPARE = 30_000
_GAS_SPARE_SHARE = 5  # a fifth more: an estimate is exact only for the state it was made on

_log = log.get("outbox")


def send(
    database: Database,
    chain: Chain,
    *,
    purpose: str,
    to: str | None,
    data: bytes,
    value_wei: int = 0,
    gas: int | None = None,
) -> TransactionRow:
    """Sign a transaction for ``purpose`` as :func:`sign` does, then broadcast it.

    Raises:
        TransactionReverted, Unavailable, ChainError: as :func:`sign`; or the node refuses it.

    """
    row = sign(database, chain, purpose=purpose, to=to, data=data, value_wei=value_wei, gas=gas)
    if row.state in outbox.UNMINED:
        _broadcast(database, chain, row)
    return row


def sign(
    database: Database,
    chain: Chain,
    *,
    purpose: str,
    to: str | None,
    data: bytes,
    value_wei: int = 0,
    gas: int | None = None,
    worth_wei: int | None = None,
) -> TransactionRow:
    """Sign a transaction for ``purpose`` and store it, but do not send it; :func:`confirm` does.

    A purpose that was signed before is not signed again: its newest attempt is returned. A call
    that would revert, that the signer cannot pay, or whose gas is expected to cost more than
    ``worth_wei``, takes no nonce. ``to`` None creates a contract; ``gas`` None estimates it, with a
    margin; ``worth_wei`` None sends it whatever it costs.

    Raises:
        TransactionReverted: the call would revert.
        Unprofitable: it costs more than it is worth, now.
        Unavailable: the node is down, gas is too dear, or the signer's funds are short.
        ChainError: the node serves another chain.

    """
    attempts = _attempts(database, chain, purpose)
    if attempts:
        return attempts[-1]
    return _sign(
        database,
        chain,
        purpose,
        to=to,
        data=data,
        value_wei=value_wei,
        gas=gas,
        worth_wei=worth_wei,
    )


def confirm(
    database: Database,
    chain: Chain,
    purpose: str,
    *,
    depth: int,
    bump_after_s: float = BUMP_AFTER_S,
) -> TransactionRow | None:
    """Look once at what became of a purpose; return its row once it stands, else None.

    The row's state is then ``mined`` or ``reverted``, and ``depth`` blocks stand on it (see
    :meth:`Chain.settled`). Until then this does what is needed: broadcasts the same bytes again,
    and what waits before them, whoever still asks for it; replaces what is stuck there by a higher
    bid, up to the highest allowed; and, where somebody else used the signer's nonce, signs with a
    new one.

    Raises:
        NotFound: nothing was ever signed for this purpose.
        TransactionReverted: the call, to be signed with a new nonce, would revert now.
        Unavailable, ChainError: as :func:`send`.

    """
    attempts = _attempts(database, chain, purpose)
    if not attempts:
        raise NotFound(f"Nothing was signed for {purpose!r}.")
    # In this order: a nonce seen used here is either one of ours, found below, or a stranger's.
    settled = chain.settled(depth)
    newest = attempts[-1]
    nonce_used = settled >= 0 and chain.nonce(newest.signer, settled) > newest.nonce
    for row in reversed(attempts):
        inclusion = chain.inclusion(row.hash)
        if inclusion is not None:
            row = _record(database, row, inclusion)
            return row if inclusion.block <= settled else None
    row = _reopen(database, purpose)
    if nonce_used:
        row = _sign_again(database, chain, row)
    _broadcast(database, chain, row, bump_after_s)
    return None


def wait(
    database: Database,
    chain: Chain,
    purpose: str,
    *,
    depth: int,
    timeout_s: float,
    poll_s: float = 0.5,
) -> TransactionRow:
    """Confirm a purpose again and again until it stands; return its mined row.

    Raises:
        TransactionReverted: it was mined and reverted.
        Unavailable: it does not stand after ``timeout_s``; it may yet, so ask again.
        NotFound, ChainError: as :func:`confirm`.

    """
    end = time.monotonic() + timeout_s
    while (row := confirm(database, chain, purpose, depth=depth)) is None:
        if time.monotonic() > end:
            raise Unavailable(
                f"{purpose} is not confirmed after {timeout_s:g} s.",
                remedy="Try again: what was sent stays sent, once.",
            )
        time.sleep(poll_s)
    if row.state == "reverted":
        raise TransactionReverted(f"{purpose} was mined in {row.hash} and reverted.")
    return row


def create(
    database: Database,
    chain: Chain,
    *,
    purpose: str,
    code: bytes,
    depth: int = 0,
    timeout_s: float = 120.0,
) -> str:
    """Create a contract, once per purpose, and return its address.

    Raises:
        TransactionReverted: the constructor reverts.
        Unavailable, ChainError: as :func:`send` and :func:`wait`.

    """
    send(database, chain, purpose=purpose, to=None, data=code)
    row = wait(database, chain, purpose, depth=depth, timeout_s=timeout_s)
    inclusion = chain.inclusion(row.hash)
    if inclusion is None or inclusion.contract is None:
        raise ChainError(f"The node lost the contract that {row.hash} created.")
    return inclusion.contract


def _attempts(database: Database, chain: Chain, purpose: str) -> list[TransactionRow]:
    chain.check()
    with database.snapshot() as session:
        attempts = outbox.attempts(session, purpose)
    if attempts and attempts[-1].chain_id != chain.chain_id:
        raise ChainError(
            f"{purpose!r} was signed for chain {attempts[-1].chain_id}, not {chain.chain_id}."
        )
    return attempts


def _sign(
    database: Database,
    chain: Chain,
    purpose: str,
    *,
    to: str | None,
    data: bytes,
    value_wei: int,
    gas: int | None,
    worth_wei: int | None = None,
    after: int = 0,
) -> TransactionRow:
    """Take a nonce and store signed bytes as attempt ``after + 1``, unless another did so first."""
    needed = chain.estimate_gas(to, data, value_wei) if gas is None else gas
    if gas is None:
        gas = needed + needed // _GAS_SPARE_SHARE + _GAS_SPARE
    if worth_wei is not None:
        _require_worth(chain, needed, worth_wei)
    fees = chain.fees()
    if chain.balance(chain.signer) < value_wei + gas * fees.cap_wei:
        raise chain.out_of_funds()
    expected = chain.nonce(chain.signer)
    with database.session() as session:
        signer = outbox.lock_signer(session, chain.chain_id, chain.signer, at_least=expected)
        attempts = outbox.attempts(session, purpose)
        if len(attempts) > after:
            return attempts[-1]
        row = _signed_row(
            chain,
            purpose,
            after + 1,
            Transaction(
                nonce=signer.next_nonce, to=to, data=data, value_wei=value_wei, gas=gas, fees=fees
            ),
        )
        signer.next_nonce += 1
        for earlier in attempts:
            earlier.state = "replaced"
        session.add(row)
    return row


def _require_worth(chain: Chain, gas: int, worth_wei: int) -> None:
    price_wei = chain.gas_price_wei()
    if gas * price_wei > worth_wei:
        raise Unprofitable(
            f"{gas} gas at {price_wei / GWEI:.3g} gwei cost {gas * price_wei} wei, more than the"
            f" {worth_wei} wei that they earn."
        )


def _signed_row(
    chain: Chain, purpose: str, attempt: int, transaction: Transaction
) -> TransactionRow:
    signed = chain.sign(transaction)
    return TransactionRow(
        purpose=purpose,
        attempt=attempt,
        chain_id=chain.chain_id,
        signer=chain.signer,
        nonce=transaction.nonce,
        raw=signed.raw,
        hash=signed.hash,
        state="signed",
    )


def _broadcast(
    database: Database, chain: Chain, row: TransactionRow, bump_after_s: float = BUMP_AFTER_S
) -> None:
    """Hand over the newest bid of ``row``'s nonce and of each that waits below it.

    What is stuck below holds ``row`` back, so it is replaced too, though nobody may ask for it any
    more; and what the node refuses there is left to the next look.
    """
    expected = chain.nonce(row.signer, "latest")
    with database.snapshot() as session:
        waiting = outbox.unmined(session, row, from_nonce=expected)
    for found in waiting:
        stuck = found.signer == chain.signer and _is_stuck(found, bump_after_s)
        newest = _bump(database, chain, found) if stuck else found
        try:
            chain.broadcast(newest.raw)
        except ChainError as exc:
            if newest.nonce == row.nonce:
                raise
            _log.warning(
                "refused",
                purpose=newest.purpose,
                nonce=newest.nonce,
                holds_back=row.purpose,
                reason=str(exc),
            )
            continue
        _mark_broadcast(database, newest)


def _mark_broadcast(database: Database, row: TransactionRow) -> None:
    if row.state == "signed":
        with database.session() as session:
            stored = session.get_one(TransactionRow, row.id)
            if stored.state == "signed":
                stored.state = "broadcast"


def _record(database: Database, row: TransactionRow, inclusion: Inclusion) -> TransactionRow:
    with database.session() as session:
        for each in outbox.attempts(session, row.purpose):
            if each.id == row.id:
                each.state = "mined" if inclusion.succeeded else "reverted"
                each.block, each.gas_used = inclusion.block, inclusion.gas_used
                found = each
            else:
                each.state, each.block, each.gas_used = "replaced", None, None
    return found


def _reopen(database: Database, purpose: str) -> TransactionRow:
    """Note that no attempt is in a block (any more); return the newest."""
    with database.session() as session:
        attempts = outbox.attempts(session, purpose)
        for each in attempts:
            if each.nonce == attempts[-1].nonce and each.state != "signed":
                each.state, each.block, each.gas_used = "broadcast", None, None
    return attempts[-1]


def _is_stuck(row: TransactionRow, bump_after_s: float) -> bool:
    return now() - row.created_at >= timedelta(seconds=bump_after_s)


def _bump(database: Database, chain: Chain, row: TransactionRow) -> TransactionRow:
    """Store a replacement that bids more, or return ``row`` where the highest bid is reached."""
    transaction = Transaction.read(row.raw)
    fees = _replacement(chain, transaction.fees)
    if fees is None:
        return row
    replacement = Transaction(
        nonce=transaction.nonce,
        to=transaction.to,
        data=transaction.data,
        value_wei=transaction.value_wei,
        gas=transaction.gas,
        fees=fees,
    )
    with database.session() as session:
        outbox.lock_signer(session, chain.chain_id, chain.signer, at_least=0)
        attempts = outbox.attempts(session, row.purpose)
        if attempts[-1].id != row.id:
            return attempts[-1]
        bumped = _signed_row(chain, row.purpose, row.attempt + 1, replacement)
        session.add(bumped)
    return bumped


def _replacement(chain: Chain, old: Fees) -> Fees | None:
    lowest = old.bumped(old)
    if lowest.cap_wei > chain.max_fee_wei:
        return None
    try:
        market = chain.fees()
    except Unavailable:  # dearer than we may bid: a bump would not help
        return None
    fees = old.bumped(market)
    return Fees(tip_wei=fees.tip_wei, cap_wei=min(fees.cap_wei, chain.max_fee_wei))


def _sign_again(database: Database, chain: Chain, row: TransactionRow) -> TransactionRow:
    """Sign the same call with a new nonce: a stranger's transaction took the old one for good."""
    old = Transaction.read(row.raw)
    return _sign(
        database,
        chain,
        row.purpose,
        to=old.to,
        data=old.data,
        value_wei=old.value_wei,
        gas=None,
        after=row.attempt,
    )
