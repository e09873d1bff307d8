"""ProofJobs: rows, events, and the only way from one state to the next.

::

    ACCEPTED → PROVING ⇄ RETRY       PROVING → VERIFIED → STORED
    ACCEPTED ⇄ AWAITING_INPUT        (on-chain requests whose committed input is not here yet)
    STORED → DONE                    (no chain)
    STORED → SIGNED → BROADCAST → MINED → DONE      SIGNED: also after a bump or a revert
    MINED → BROADCAST                (the chain dropped the block; the same bytes again)
    any → FAILED | EXPIRED           any before SIGNED → CANCELLED
    FAILED → RETRY | STORED | ACCEPTED  (an operator's retry)     FAILED → CANCELLED (discarded)
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from uuid import uuid4

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from zkserve.errors import Conflict, NotFound, ZkserveError
from zkserve.store.tables import InputRow, JobEventRow, JobRow
from zkserve.types import JobState

_S = JobState
_ENDS = frozenset({_S.EXPIRED, _S.FAILED})
_ENDS_UNSIGNED = _ENDS | {_S.CANCELLED}
NEXT: Mapping[JobState, frozenset[JobState]] = MappingProxyType(
    {
        _S.ACCEPTED: _ENDS_UNSIGNED | {_S.AWAITING_INPUT, _S.PROVING, _S.RETRY},
        _S.AWAITING_INPUT: _ENDS_UNSIGNED | {_S.ACCEPTED, _S.PROVING, _S.RETRY},
        # PROVING again: the worker died and another took over.
        _S.PROVING: _ENDS_UNSIGNED | {_S.PROVING, _S.RETRY, _S.VERIFIED},
        _S.RETRY: _ENDS_UNSIGNED | {_S.ACCEPTED, _S.AWAITING_INPUT, _S.PROVING},
        _S.VERIFIED: _ENDS_UNSIGNED | {_S.STORED},
        _S.STORED: _ENDS_UNSIGNED | {_S.SIGNED, _S.DONE},
        _S.SIGNED: _ENDS | {_S.SIGNED, _S.BROADCAST, _S.MINED, _S.DONE},
        _S.BROADCAST: _ENDS | {_S.SIGNED, _S.BROADCAST, _S.MINED, _S.DONE},
        _S.MINED: _ENDS | {_S.SIGNED, _S.BROADCAST, _S.DONE},
        _S.FAILED: frozenset({_S.RETRY, _S.STORED, _S.ACCEPTED, _S.CANCELLED}),
        _S.EXPIRED: frozenset(),
        _S.CANCELLED: frozenset(),
        _S.DONE: frozenset(),
    }
)
"""The legal transitions."""


def add(
    session: Session,
    *,
    version_id: int,
    tenant: str,
    claim: dict[str, Any] | None = None,
    opening: str | None = None,
    idempotency_key: str | None = None,
    request_sha256: str | None = None,
) -> JobRow:
    """Add a job in state ACCEPTED, with its first event.

    ``claim`` is the JSON form of :func:`zkserve.receipt.claim_to_dict`, ``opening`` the digest of
    the private artifact; both may come later (on-chain requests).
    """
    job = JobRow(
        id=f"job_{uuid4().hex}",
        tenant=tenant,
        version_id=version_id,
        state=JobState.ACCEPTED,
        claim=claim,
        opening=opening,
        idempotency_key=idempotency_key,
        request_sha256=request_sha256,
    )
    session.add(job)
    session.flush()
    session.add(JobEventRow(job_id=job.id, state=JobState.ACCEPTED, detail={}))
    session.flush()
    return job


def get(session: Session, job_id: str, *, lock: bool = False) -> JobRow:
    """Return a job; ``lock`` holds its row until the transaction ends.

    Raises:
        NotFound: there is none of that id.

    """
    job = session.get(JobRow, job_id[:40], with_for_update=lock or None)
    if job is None:
        raise NotFound(f"There is no job {job_id[:40]!r}.")
    return job


def by_key(session: Session, tenant: str, idempotency_key: str) -> JobRow | None:
    """Return the tenant's job that was accepted under this Idempotency-Key, if any."""
    return session.scalar(
        select(JobRow).where(JobRow.tenant == tenant, JobRow.idempotency_key == idempotency_key)
    )


def transition(session: Session, job: JobRow, state: JobState, **detail: Any) -> JobEventRow:
    """Move a job on, under its row lock, and write the event; ``detail`` is for the event's reader.

    Leaving a working state for RETRY or FAILED counts an attempt.

    Raises:
        Conflict: the job is in a state from which this one cannot follow.

    """
    # Whoever loaded the row earlier may be late: what counts is where the job stands now.
    session.refresh(job, ["state", "attempts"], with_for_update=True)
    current = JobState(job.state)
    if state not in NEXT[current]:
        raise Conflict(f"Job {job.id} is {current.value}; {state.value} cannot follow.")
    if state in {JobState.RETRY, JobState.FAILED} and current is not JobState.FAILED:
        job.attempts += 1
    job.state = state
    event = JobEventRow(job_id=job.id, state=state, detail=detail)
    session.add(event)
    session.flush()
    return event


def fail(
    session: Session, job: JobRow, error: ZkserveError, state: JobState = JobState.FAILED
) -> None:
    """Move a job to FAILED (or RETRY), with the error kept in its row and told in the event.

    Raises:
        Conflict: the job is final already.

    """
    transition(session, job, state, code=error.code, message=str(error))
    job.error_code = error.code
    job.error_message = str(error)


def note(session: Session, job: JobRow, **detail: Any) -> None:
    """Add an event that changes no state: progress within one."""
    # Under the row lock, so that a job's event ids are committed in their order.
    session.refresh(job, ["state"], with_for_update=True)
    session.add(JobEventRow(job_id=job.id, state=job.state, detail=detail))
    session.flush()


def events_after(
    session: Session, job_id: str, last_id: int = 0, *, limit: int = 100
) -> list[JobEventRow]:
    """Return a job's events with ids above ``last_id``, oldest first."""
    query = select(JobEventRow).where(JobEventRow.job_id == job_id, JobEventRow.id > last_id)
    return list(session.scalars(query.order_by(JobEventRow.id).limit(limit)))


def listing(
    session: Session, tenant: str | None, *, state: JobState | None = None, limit: int = 100
) -> list[JobRow]:
    """Return a tenant's jobs, or everybody's, newest first."""
    query = select(JobRow)
    if tenant is not None:
        query = query.where(JobRow.tenant == tenant)
    if state is not None:
        query = query.where(JobRow.state == state)
    return list(session.scalars(query.order_by(JobRow.created_at.desc(), JobRow.id).limit(limit)))


def open_count(session: Session) -> int:
    """Return how many jobs want work; those that await an input take no one's place."""
    idle = {state for state in JobState if state.final} | {JobState.AWAITING_INPUT}
    return sum(number for state, number in count_by_state(session).items() if state not in idle)


def count_by_state(session: Session) -> dict[JobState, int]:
    """Return the number of jobs in each state, zeros included."""
    query = select(JobRow.state, func.count()).group_by(JobRow.state)
    found = {row[0]: row[1] for row in session.execute(query)}
    return {state: found.get(state.value, 0) for state in JobState}


def opening_in_use(session: Session, opening: str) -> bool:
    """Return whether a job or an input handed in ahead still refers to this private artifact."""
    job = select(JobRow.id).where(JobRow.opening == opening).limit(1)
    ahead = select(InputRow.id).where(InputRow.opening == opening).limit(1)
    return session.scalar(job) is not None or session.scalar(ahead) is not None


def spent(session: Session, *, limit: int = 1000) -> list[str]:
    """Return ids of jobs that will not be proved any more yet still hold their private input."""
    over = [JobState.DONE, JobState.CANCELLED, JobState.EXPIRED]
    query = select(JobRow.id).where(
        JobRow.opening.is_not(None), JobRow.state.in_(over) | JobRow.proof.is_not(None)
    )
    return list(session.scalars(query.limit(limit)))
