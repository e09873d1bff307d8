"""Rows of the outbox: signed transactions and the nonces they took."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from zkserve.store.tables import SignerRow, TransactionRow

UNMINED = ("signed", "broadcast")


def lock_signer(session: Session, chain_id: int, address: str, *, at_least: int) -> SignerRow:
    """Lock a signer's row until the transaction ends; return it with ``next_nonce`` to take.

    ``at_least`` is the nonce the chain expects: whatever else the signer's owner sent took lower
    ones. A write comes first, so that on SQLite too nobody else reads before this is committed.
    """
    engine = session.get_bind().dialect.name
    insert = postgresql.insert if engine == "postgresql" else sqlite.insert
    locked = insert(SignerRow).values(chain_id=chain_id, address=address, next_nonce=at_least)
    session.execute(
        locked.on_conflict_do_update(
            index_elements=[SignerRow.chain_id, SignerRow.address],
            set_={"next_nonce": SignerRow.next_nonce},
        )
    )
    signer = session.get_one(SignerRow, (chain_id, address), populate_existing=True)
    signer.next_nonce = max(signer.next_nonce, at_least)
    return signer


def attempts(session: Session, purpose: str) -> list[TransactionRow]:
    """Return all attempts at a purpose, oldest first."""
    query = select(TransactionRow).where(TransactionRow.purpose == purpose)
    return list(session.scalars(query.order_by(TransactionRow.attempt)))


def unmined(session: Session, row: TransactionRow, *, from_nonce: int) -> list[TransactionRow]:
    """Return what the signer of ``row`` has waiting from a nonce up to its own, in nonce order.

    Of each nonce that is the newest attempt: a node refuses what bids less.
    """
    query = select(TransactionRow).where(
        TransactionRow.chain_id == row.chain_id,
        TransactionRow.signer == row.signer,
        TransactionRow.nonce.between(from_nonce, row.nonce),
        TransactionRow.state.in_(UNMINED),
    )
    found = session.scalars(query.order_by(TransactionRow.nonce, TransactionRow.attempt))
    return list({each.nonce: each for each in found}.values())
