"""On-chain requests, and how far each market's events were read."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from zkserve.errors import NotFound
from zkserve.store.tables import CursorRow, InputRow, JobRow, RequestRow, VersionRow
from zkserve.types import JobState


def cursor(session: Session, chain_id: int, contract: str) -> CursorRow | None:
    """Return how far a contract's events were read, None before the first time."""
    return session.get(CursorRow, (chain_id, contract))


def move_cursor(
    session: Session,
    chain_id: int,
    contract: str,
    *,
    block: int,
    block_hash: str,
    genesis_hash: str,
) -> None:
    """Note that a contract's events were read up to and with a block."""
    session.merge(
        CursorRow(
            chain_id=chain_id,
            contract=contract,
            block=block,
            block_hash=block_hash,
            genesis_hash=genesis_hash,
        )
    )


def find(session: Session, chain_id: int, market: str, request_id: int) -> RequestRow | None:
    """Return a request by what names it on chain."""
    return session.scalar(
        select(RequestRow).where(
            RequestRow.chain_id == chain_id,
            RequestRow.market == market,
            RequestRow.request_id == request_id,
        )
    )


def newest(session: Session, chain_id: int, market: str, *, up_to: int) -> RequestRow | None:
    """Return the last request seen in a block not above ``up_to``."""
    query = select(RequestRow).where(
        RequestRow.chain_id == chain_id, RequestRow.market == market, RequestRow.block <= up_to
    )
    return session.scalar(query.order_by(RequestRow.block.desc()).limit(1))


def by_job(session: Session, job_id: str) -> RequestRow | None:
    """Return the request that a job serves, None where it serves none (any more)."""
    return session.scalar(select(RequestRow).where(RequestRow.job_id == job_id))


def get_by_job(session: Session, job_id: str) -> RequestRow:
    """Return the request that a job serves.

    Raises:
        NotFound: it serves none.

    """
    row = by_job(session, job_id)
    if row is None:
        raise NotFound(f"Job {job_id} serves no on-chain request.")
    return row


def answered(session: Session, *, limit: int) -> list[str]:
    """Return jobs that await an input which was handed in by now."""
    here = (InputRow.version_id == JobRow.version_id) & (InputRow.commitment == RequestRow.input)
    query = (
        select(JobRow.id)
        .join(RequestRow, RequestRow.job_id == JobRow.id)
        .join(InputRow, here)
        .where(JobRow.state == JobState.AWAITING_INPUT)
    )
    return sorted(session.scalars(query.limit(limit)))


def overdue(session: Session, chain_id: int, time: int, *, limit: int) -> list[str]:
    """Return jobs of a chain that await an input past their deadline; ``time`` is Unix time."""
    query = (
        select(JobRow.id)
        .join(RequestRow, RequestRow.job_id == JobRow.id)
        .where(
            JobRow.state == JobState.AWAITING_INPUT,
            RequestRow.chain_id == chain_id,
            RequestRow.deadline < time,
        )
    )
    return sorted(session.scalars(query.limit(limit)))


def version_on_chain(session: Session, chain_id: int, version_id: str) -> VersionRow | None:
    """Return our version by its id on a chain, 0x-prefixed 32 bytes; None for others' versions."""
    return session.scalar(
        select(VersionRow).where(
            VersionRow.chain_id == chain_id, VersionRow.chain_version_id == version_id
        )
    )
