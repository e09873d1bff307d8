"""Proof jobs: look, follow, cancel, fetch the receipt.

A tenant sees its own, and those of on-chain requests, which are as public as the requests.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC
from typing import Annotated, Any

import anyio
from anyio import to_thread
from fastapi import APIRouter, Depends, Header, Query, Response
from fastapi.responses import JSONResponse, StreamingResponse
from sqlalchemy.orm import Session

from zkserve import prove
from zkserve.api import schemas
from zkserve.api.auth import Tenant, Viewer, require
from zkserve.api.inference import RETRY_AFTER_S
from zkserve.api.schemas import ProofId
from zkserve.api.service import Service, ServiceDep
from zkserve.encoding import claim_digest
from zkserve.errors import Conflict, NotFound, Unavailable
from zkserve.receipt import claim_from_dict, receipt_to_dict
from zkserve.store import jobs, keys, versions
from zkserve.store.tables import JobEventRow, JobRow
from zkserve.types import JobState

router = APIRouter(tags=["proofs"])

_POLL_S = 0.05
"""Between looks for events just after one came; longer the longer none comes."""
_LONGEST_POLL_S = 0.5
_HEARTBEAT_S = 15.0
_EVENT_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Server-sent events: `event` is the state, `data` JSON with state, detail "
        "and time, `id` what to send as Last-Event-ID to go on from there.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    },
    204: {"description": "The job is final and its last event was seen: do not reconnect"},
}


def _visible(session: Session, viewer: str | None, proof_id: str) -> JobRow:
    try:
        job = jobs.get(session, proof_id)
        if job.tenant == keys.ON_CHAIN:
            return job
    except NotFound:
        require(viewer)
        raise
    return _checked(job, require(viewer))


def _checked(job: JobRow, tenant: str) -> JobRow:
    if job.tenant != tenant:
        # Exactly what an unknown id gets: whether another tenant has it is not to be learnt.
        raise NotFound(f"There is no job {job.id!r}.")
    return job


@router.get("/v1/proofs")
def list_proofs(
    service: ServiceDep,
    tenant: Tenant,
    state: JobState | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> schemas.ProofJobList:
    """List the caller's proof jobs, newest first."""
    with service.node.database.snapshot() as session:
        found = [
            proof_resource(session, job)
            for job in jobs.listing(session, tenant, state=state, limit=limit)
        ]
    return schemas.ProofJobList(proofs=found)


@router.get("/v1/proofs/{proof_id}")
def get_proof(
    service: ServiceDep, viewer: Viewer, proof_id: ProofId, response: Response
) -> schemas.ProofJob:
    """Return a proof job as it stands."""
    with service.node.database.snapshot() as session:
        job = proof_resource(session, _visible(session, viewer, proof_id))
    if not job.final:
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
    return job


@router.delete("/v1/proofs/{proof_id}")
def cancel_proof(service: ServiceDep, tenant: Tenant, proof_id: ProofId) -> schemas.ProofJob:
    """Cancel a proof job; a conflict where it has gone too far or ended otherwise."""
    with service.node.database.snapshot() as session:
        _checked(jobs.get(session, proof_id), tenant)
    cancelled = prove.cancel(service.node, service.queue, proof_id)
    with service.node.database.snapshot() as session:
        return proof_resource(session, cancelled)


@router.get("/v1/proofs/{proof_id}/receipt")
def get_receipt(service: ServiceDep, viewer: Viewer, proof_id: ProofId) -> JSONResponse:
    """Return the receipt of a verified proof; a conflict while there is none."""
    with service.node.database.snapshot() as session:
        job = _visible(session, viewer, proof_id)
        if job.proof is None:
            final = JobState(job.state).final
            raise Conflict(
                f"Proof {job.id} is {job.state}: there is no receipt"
                + (" and there will be none." if final else " yet."),
                remedy=f"Look at /v1/proofs/{job.id} for the reason."
                if final
                else f"Follow /v1/proofs/{job.id}/events until it is done.",
            )
        receipt = prove.receipt(service.node, session, job)
    return JSONResponse(receipt_to_dict(receipt))


def _job_to_follow(service: ServiceDep, viewer: Viewer, proof_id: ProofId) -> str:
    with service.node.database.snapshot() as session:
        return _visible(session, viewer, proof_id).id


async def _place_to_follow(service: ServiceDep) -> AsyncIterator[None]:
    """Take one of the places for event streams; given back when the answer has ended."""
    place = object()
    try:
        service.streams.acquire_on_behalf_of_nowait(place)
    except anyio.WouldBlock as exc:
        raise Unavailable(
            "Too many event streams are open.", remedy="Ask for the proof itself now and then."
        ) from exc
    try:
        yield
    finally:
        service.streams.release_on_behalf_of(place)


@router.get(
    "/v1/proofs/{proof_id}/events", response_class=StreamingResponse, responses=_EVENT_STREAM
)
async def follow_proof(
    service: ServiceDep,
    job_id: Annotated[str, Depends(_job_to_follow)],
    _place: Annotated[None, Depends(_place_to_follow)],
    last_event_id: Annotated[
        str, Header(pattern="^[0-9]{1,18}$", description="Only events after this one.")
    ] = "0",
) -> Response:
    """Stream the job's events from the first, or after ``Last-Event-ID``, to the last."""
    last_id = int(last_event_id)
    first = await to_thread.run_sync(_events, service, job_id, last_id)
    if not first and await to_thread.run_sync(_is_final, service, job_id):
        return Response(status_code=204)
    return StreamingResponse(
        _stream(service, job_id, last_id),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _stream(service: Service, job_id: str, last_id: int) -> AsyncIterator[str]:
    quiet_s = 0.0
    while True:
        try:
            found = await to_thread.run_sync(_events, service, job_id, last_id)
        except Unavailable:
            found = []  # the database will be back; the listener need not even notice
        for row in found:
            yield _server_sent(row)
            last_id = row.id
            quiet_s = 0.0
        if found and JobState(found[-1].state).final:
            return
        if not found:
            wait_s = min(_POLL_S + quiet_s / 4, _LONGEST_POLL_S)
            await anyio.sleep(wait_s)
            quiet_s += wait_s
        if quiet_s >= _HEARTBEAT_S:
            yield ": still here\n\n"
            quiet_s = 0.0


def _events(service: Service, job_id: str, last_id: int) -> list[JobEventRow]:
    with service.node.database.snapshot() as session:
        return jobs.events_after(session, job_id, last_id)


def _is_final(service: Service, job_id: str) -> bool:
    with service.node.database.snapshot() as session:
        return JobState(jobs.get(session, job_id).state).final


def _server_sent(row: JobEventRow) -> str:
    data = json.dumps(
        {"state": row.state, "detail": row.detail, "at": row.at.astimezone(UTC).isoformat()}
    )
    return f"id: {row.id}\nevent: {row.state}\ndata: {data}\n\n"


def proof_resource(session: Session, job: JobRow) -> schemas.ProofJob:
    """Return a job as the API shows it."""
    model, version = versions.get(session, job.version_id)
    self = f"/v1/proofs/{job.id}"
    return schemas.ProofJob(
        id=job.id,
        model=model.name,
        version=version.number,
        circuit_id=version.circuit_id,
        state=JobState(job.state),
        final=JobState(job.state).final,
        created_at=job.created_at,
        updated_at=job.updated_at,
        attempts=job.attempts,
        claim=job.claim,
        claim_digest=claim_digest(claim_from_dict(job.claim)) if job.claim else None,
        metrics=schemas.Metrics(
            prove_s=job.prove_s, prove_cpu_s=job.prove_cpu_s, peak_rss_bytes=job.peak_rss_bytes
        ),
        error=schemas.JobError(code=job.error_code, message=job.error_message)
        if job.error_code
        else None,
        settlement=job.settlement,
        links=schemas.Links(
            self=self, events=f"{self}/events", receipt=f"{self}/receipt" if job.proof else None
        ),
    )
