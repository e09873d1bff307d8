"""Predict, accept a job, prove it, deliver the receipt; cancel and retry.

Rows say where a job stands; workflows only drive it there. Every function here may be cut off at
any point and called again: a worker's death loses nothing and costs no attempt.
"""

from __future__ import annotations

import time
from collections.abc import Collection

from sqlalchemy import select
from sqlalchemy.orm import Session

from zkserve import budgets, log, openings
from zkserve.encoding import context, sha256_hex
from zkserve.engines.base import NO_CONTEXT, Cancelled, FloatArray, Limits, Prediction, Proof
from zkserve.errors import (
    Conflict,
    EngineFailed,
    IdempotencyConflict,
    JobCancelled,
    ProofInvalid,
    Unavailable,
    ZkserveError,
)
from zkserve.node import Node
from zkserve.receipt import claim_from_dict, claim_to_dict, manifest_from_dict
from zkserve.store import jobs, versions
from zkserve.store.queue import CHAIN, PROOFS, SETTLE, JobQueue
from zkserve.store.tables import JobRow, RequestRow, VersionRow, now
from zkserve.types import JobState, Receipt, Settlement

_CANCEL_POLL_S = 0.5
_PROGRESS_EVERY_S = 1.0
_RETRY_AFTER_S = 2.0
_LONGEST_BACK_OFF_S = 60.0

_log = log.get("prove")


def predict(node: Node, version: VersionRow, inputs: FloatArray) -> Prediction:
    """Run the circuit's arithmetic on ``inputs``, shape ``(elements,)``; nothing is stored.

    Raises:
        InputOutOfRange: the circuit does not cover this input.
        DevelopmentSrsRefused: production, and the circuit rests on a development SRS.

    """
    manifest = manifest_from_dict(version.manifest)
    return node.engine(manifest).predict(node.bundle(manifest), inputs)


def replay(
    node: Node, *, tenant: str, idempotency_key: str, fingerprints: Collection[str | None]
) -> JobRow | None:
    """Return the job that this very request led to before, if it did.

    ``fingerprints`` are the request's under each storage key: it may be older than the first.

    Raises:
        IdempotencyConflict: the key came with another body.

    """
    with node.database.snapshot() as session:
        return _replay(session, tenant, idempotency_key, fingerprints)


def _replay(
    session: Session, tenant: str, idempotency_key: str, fingerprints: Collection[str | None]
) -> JobRow | None:
    job = jobs.by_key(session, tenant, idempotency_key)
    if job is not None and job.request_sha256 not in fingerprints:
        raise IdempotencyConflict(
            f"Idempotency-Key {idempotency_key[:64]!r} was used with another body.",
            remedy="Use a new key for a new request.",
        )
    return job


def accept(
    node: Node,
    queue: JobQueue,
    version: VersionRow,
    prediction: Prediction,
    *,
    tenant: str,
    idempotency_key: str | None,
    request_sha256: str | None,
    max_open_jobs: int,
) -> JobRow:
    """Promise a proof: what is returned is stored and enqueued, whatever dies from here on.

    The same key and body give the same job, whatever has run out since.

    Raises:
        IdempotencyConflict: the key came with another body.
        VersionDeprecated: the version reveals its weights and was deprecated.
        LeakBudgetSpent: the proof would reveal more of the weights than may be.
        Unavailable: too many jobs are open, the disk is nearly full, or the database is down.

    """
    opening = sha256_hex(prediction.opening)
    try:
        with node.database.session() as session:
            if idempotency_key is not None:
                # Before anything is counted: the same request may just have taken the last of it.
                node.database.lock(session, f"idempotency-key/{tenant}/{idempotency_key}")
                known = _replay(session, tenant, idempotency_key, (request_sha256,))
                if known is not None:
                    return known
            openings.require_disk(node)
            budgets.require_offered(session, version)
            open_jobs = jobs.open_count(session)
            if open_jobs >= max_open_jobs:
                raise Unavailable(f"{open_jobs} jobs are open.", remedy="Try again later.")
            budgets.require(node.database, session, version)
            # Equal openings share a file: see forget_input.
            node.database.lock(session, opening)
            node.artifacts.seal(prediction.opening)
            job = jobs.add(
                session,
                version_id=version.id,
                tenant=tenant,
                claim=claim_to_dict(prediction.claim),
                opening=opening,
                idempotency_key=idempotency_key,
                request_sha256=request_sha256,
            )
            queue.enqueue(session, "prove", PROOFS, job.id)
        return job
    except OSError as exc:
        raise Unavailable("The disk refused to store the job.", remedy="Try again later.") from exc


def enqueue(node: Node, queue: JobQueue, job_id: str) -> None:
    """Have a prepared on-chain order proved; the same attempt again changes nothing."""
    with node.database.session() as session:
        job = jobs.get(session, job_id, lock=True)
        if not JobState(job.state).final and job.proof is None:
            queue.enqueue(session, "prove", PROOFS, job.id, attempt=job.attempts, first=False)


def settle_later(node: Node, queue: JobQueue, job_id: str, *, pause_s: int) -> None:
    """Have a request settled when the next pause ends, at most once for each of them."""
    moment_s = now().timestamp()
    pauses = int(moment_s // pause_s) + 1
    with node.database.session() as session:
        job = jobs.get(session, job_id, lock=True)
        if not JobState(job.state).final:
            queue.enqueue(
                session,
                "settle",
                SETTLE,
                job.id,
                attempt=job.attempts,
                delay_s=pauses * pause_s - moment_s,
                first=False,
                occasion=pauses,
            )


def is_current(node: Node, job_id: str, attempt: int) -> bool:
    """Return whether a workflow begun for ``attempt`` still has work to do.

    False where the job is final, or a later attempt was enqueued before the worker died.
    """
    with node.database.snapshot() as session:
        job = jobs.get(session, job_id)
        return job.attempts == attempt and not JobState(job.state).final


def prove(node: Node, job_id: str, *, limits: Limits, cancelled: Cancelled) -> None:
    """Make one attempt: PROVING, then VERIFIED with the proof stored; nothing if there is one.

    The proof's child is stopped when ``cancelled`` says so or the job becomes final meanwhile.
    A proof once made is not dropped: while disk or database fail, storing it is tried again.

    Raises:
        JobCancelled: the work was stopped.
        ZkserveError: the engine's error; the job stays PROVING: see :func:`record_failure`.

    """
    with node.database.session() as session:
        job = jobs.get(session, job_id, lock=True)
        if job.proof is not None:
            return
        jobs.transition(session, job, JobState.PROVING, attempt=job.attempts + 1)
        _, version = versions.get(session, job.version_id)
    if job.claim is None or job.opening is None:
        raise Conflict(f"Job {job_id} has no input to prove.")
    manifest = manifest_from_dict(version.manifest)
    claim = claim_from_dict(job.claim)
    opening = node.artifacts.get(job.opening)
    watch = _Watch(node, job_id, cancelled)
    proof = node.engine(manifest).prove(
        node.bundle(manifest),
        claim,
        opening,
        context=_context(version),
        limits=_tighter(limits, version),
        progress=watch.progress,
        cancelled=watch.cancelled,
    )
    delay_s = _RETRY_AFTER_S
    while not _stored(node, job_id, proof):
        if cancelled():
            raise JobCancelled("the work was stopped before its proof could be stored.")
        time.sleep(delay_s)
        delay_s = min(2 * delay_s, _LONGEST_BACK_OFF_S)


def record_failure(
    node: Node,
    queue: JobQueue,
    job_id: str,
    error: ZkserveError,
    *,
    attempts: int,
    workflow: str = "prove",
) -> None:
    """Turn an error into RETRY with a delayed new attempt, or into FAILED.

    Engine failures are tried ``attempts`` times in all, an invalid proof is tried once more; what
    would fail again the same way (input, bundle) fails at once. A final job stays as it is.
    """
    with node.database.session() as session:
        job = jobs.get(session, job_id, lock=True)
        if JobState(job.state).final:
            return
        if isinstance(error, ProofInvalid):
            again = job.error_code != ProofInvalid.code
        else:
            again = isinstance(error, EngineFailed) and job.attempts + 1 < attempts
        if not again or JobState.RETRY not in jobs.NEXT[JobState(job.state)]:
            jobs.fail(session, job, error)
            return
        jobs.fail(session, job, error, JobState.RETRY)
        queue.enqueue(
            session,
            workflow,
            PROOFS if workflow == "prove" else CHAIN,
            job.id,
            attempt=job.attempts,
            delay_s=min(_RETRY_AFTER_S * 2 ** (job.attempts - 1), _LONGEST_BACK_OFF_S),
            first=False,
        )


def deliver(node: Node, queue: JobQueue, job_id: str) -> None:
    """Make the receipt of a VERIFIED job available: DONE, or on to the chain if requested there."""
    with node.database.session() as session:
        job = jobs.get(session, job_id, lock=True)
        if JobState(job.state) is JobState.VERIFIED:
            jobs.transition(session, job, JobState.STORED)
            if _requested_on_chain(session, job):
                queue.enqueue(session, "settle", SETTLE, job.id, attempt=job.attempts, first=False)
            else:
                jobs.transition(session, job, JobState.DONE)
    openings.forget_input(node, job_id)


def receipt(node: Node, session: Session, job: JobRow) -> Receipt:
    """Return the proven prediction of a job.

    Raises:
        Conflict: it is not proven yet, or never will be.

    """
    if job.proof is None or job.claim is None:
        raise Conflict(
            f"Job {job.id} is {job.state} and has no proof.",
            remedy="Cancelled, expired and failed jobs have no receipt; wait for the others.",
        )
    model, version = versions.get(session, job.version_id)
    manifest = manifest_from_dict(version.manifest)
    return Receipt(
        claim=claim_from_dict(job.claim),
        proof=node.artifacts.get(job.proof),
        engine=manifest.engine,
        engine_version=manifest.engine_version,
        model=model.name,
        version=version.number,
        output_scale=manifest.output_scale,
        development_srs=manifest.development_srs,
        settlement=Settlement(**job.settlement) if job.settlement is not None else None,
    )


def cancel(node: Node, queue: JobQueue, job_id: str) -> JobRow:
    """Stop a job that has signed nothing yet, or discard a failed one; delete its input.

    A proof in the making is stopped within a second. Safe to repeat.

    Raises:
        NotFound: there is no such job.
        Conflict: it is done, expired, or under way on the chain.

    """
    with node.database.session() as session:
        job = jobs.get(session, job_id, lock=True)
        state = JobState(job.state)
        if state is not JobState.CANCELLED:
            signed = state is JobState.FAILED and job.proof is not None
            if signed or JobState.CANCELLED not in jobs.NEXT[state]:
                raise Conflict(
                    f"Job {job.id} is {state.value} and cannot be cancelled.",
                    remedy="Only jobs that have sent nothing to a chain can be.",
                )
            jobs.transition(session, job, JobState.CANCELLED)
    queue.cancel(job_id)
    openings.forget_input(node, job_id)
    return job


def retry(node: Node, queue: JobQueue, job_id: str) -> JobRow:
    """Give a FAILED job one more attempt, from the stage it failed in.

    Raises:
        NotFound: there is no such job.
        Conflict: it has not failed, or its input is gone.
        LeakBudgetSpent: its proof would reveal more of the weights than may be by now.

    """
    with node.database.session() as session:
        job = jobs.get(session, job_id, lock=True)
        if JobState(job.state) is not JobState.FAILED:
            raise Conflict(
                f"Job {job.id} is {job.state}; only failed jobs can be retried.",
                remedy="Wait for it, or make a new request.",
            )
        if job.proof is not None:
            state, workflow, name = JobState.STORED, "settle", SETTLE
        elif job.opening is not None:
            _, version = versions.get(session, job.version_id)
            budgets.require(node.database, session, version)
            state, workflow, name = JobState.RETRY, "prove", PROOFS
        elif _requested_on_chain(session, job):
            state, workflow, name = JobState.ACCEPTED, "fulfil", CHAIN
        else:
            raise Conflict(f"The input of job {job.id} was deleted.", remedy="Make a new request.")
        jobs.transition(session, job, state, by="operator")
        queue.enqueue(session, workflow, name, job.id, attempt=job.attempts, first=False)
    return job


class _Watch:
    """Looks twice a second whether the job still wants its proof, and tells its progress."""

    def __init__(self, node: Node, job_id: str, cancelled: Cancelled) -> None:
        self._node = node
        self._job_id = job_id
        self._asked = cancelled
        self._over = False
        self._look_at = 0.0
        self._tell_at = 0.0

    def cancelled(self) -> bool:
        if not self._over and time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + _CANCEL_POLL_S
            try:
                with self._node.database.snapshot() as session:
                    self._over = JobState(jobs.get(session, self._job_id).state).final
            except Unavailable:
                _log.warning("cancel_poll_failed", job=self._job_id)
        return self._over or self._asked()

    def progress(self, phrase: str) -> None:
        if time.monotonic() < self._tell_at:
            return
        self._tell_at = time.monotonic() + _PROGRESS_EVERY_S
        try:
            with self._node.database.session() as session:
                jobs.note(session, jobs.get(session, self._job_id), phase=phrase)
        except Unavailable:
            _log.warning("progress_not_stored", job=self._job_id)


def _stored(node: Node, job_id: str, proof: Proof) -> bool:
    """Store a proof with its row; True when that is done or no longer wanted."""
    try:
        with node.database.session() as session:
            job = jobs.get(session, job_id, lock=True)
            if JobState(job.state) is not JobState.PROVING:
                return True  # cancelled, or another worker was first: a late result loses
            job.proof = node.artifacts.put(proof.data)
            job.prove_s = proof.prove_s
            job.prove_cpu_s = proof.prove_cpu_s
            job.peak_rss_bytes = proof.peak_rss_bytes
            job.error_code = job.error_message = None
            jobs.transition(
                session,
                job,
                JobState.VERIFIED,
                prove_s=round(proof.prove_s, 3),
                proof_bytes=len(proof.data),
            )
    except (OSError, Unavailable) as exc:
        _log.warning("proof_not_stored_yet", job=job_id, error=type(exc).__name__)
        return False
    return True


def _context(version: VersionRow) -> bytes:
    """Return what proofs of a version are bound to: where it is registered, or nowhere."""
    if version.chain_id is None or version.chain_version_id is None:
        return NO_CONTEXT
    return context(
        version.chain_id, str(version.registry_address), int(version.chain_version_id, 16)
    )


def _tighter(limits: Limits, version: VersionRow) -> Limits:
    own = version.limits
    return Limits(
        time_s=min(limits.time_s, own.get("time_s", limits.time_s)),
        memory_bytes=min(limits.memory_bytes, own.get("memory_bytes", limits.memory_bytes)),
    )


def _requested_on_chain(session: Session, job: JobRow) -> bool:
    return session.scalar(select(RequestRow.id).where(RequestRow.job_id == job.id)) is not None
