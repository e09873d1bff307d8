"""Committed inputs handed in ahead of the on-chain orders that name only their commitment."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from zkserve.store.tables import InputRow, JobRow, RequestRow
from zkserve.types import JobState


def add(
    session: Session, *, version_id: int, tenant: str, commitment: str, opening: str
) -> InputRow:
    """Keep where the opening of a commitment lies; the same commitment again changes nothing.

    ``commitment`` is 0x-prefixed 32 bytes, ``opening`` the digest of the private artifact.
    """
    known = find(session, version_id, commitment)
    if known is not None:
        return known
    row = InputRow(version_id=version_id, tenant=tenant, commitment=commitment, opening=opening)
    session.add(row)
    session.flush()
    return row


def find(session: Session, version_id: int, commitment: str) -> InputRow | None:
    """Return the input behind a commitment, if it was handed in."""
    return session.scalar(
        select(InputRow).where(InputRow.version_id == version_id, InputRow.commitment == commitment)
    )


def count(session: Session, tenant: str) -> int:
    """Return how many inputs of a tenant are kept."""
    query = select(func.count()).select_from(InputRow).where(InputRow.tenant == tenant)
    return session.scalar(query) or 0


def handed_in_before(session: Session, moment: datetime, *, limit: int = 1000) -> list[InputRow]:
    """Return inputs handed in before a moment that no open order waits for."""
    over = [state for state in JobState if state.final]
    awaited = (
        select(RequestRow.id)
        .join(JobRow, JobRow.id == RequestRow.job_id)
        .where(RequestRow.input == InputRow.commitment, JobRow.state.not_in(over))
    )
    query = select(InputRow).where(InputRow.created_at < moment, ~awaited.exists())
    return list(session.scalars(query.order_by(InputRow.id).limit(limit)))
