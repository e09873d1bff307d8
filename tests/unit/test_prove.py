from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from tests import fakes
from zkserve import openings, prove
from zkserve.artifacts import ArtifactStore
from zkserve.encoding import context, sha256_hex, to_hex
from zkserve.engines.base import NO_CONTEXT, Limits, Prediction
from zkserve.errors import (
    ChildKilled,
    Conflict,
    EngineFailed,
    IdempotencyConflict,
    InputOutOfRange,
    JobCancelled,
    NotFound,
    ProofInvalid,
    Unavailable,
    ZkserveError,
)
from zkserve.node import Node
from zkserve.receipt import receipt_from_dict, receipt_to_dict
from zkserve.store import inputs, jobs, versions
from zkserve.store.queue import JobQueue
from zkserve.store.tables import JobRow, VersionRow
from zkserve.types import InputMode, JobState

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

LIMITS = Limits(time_s=30)
INPUT = np.array([1.0, 2.0, 3.0, 4.0], np.float32)
Accept = Callable[..., JobRow]


@pytest.fixture
def accept(node: Node, queue: JobQueue, version: VersionRow, engine: fakes.FakeEngine) -> Accept:
    del engine

    def accept(**changes: Any) -> JobRow:
        prediction = changes.pop("prediction", None) or prove.predict(node, version, INPUT)
        options: dict[str, Any] = {
            "tenant": "acme",
            "idempotency_key": None,
            "request_sha256": None,
            "max_open_jobs": 10,
        }
        return prove.accept(node, queue, version, prediction, **(options | changes))

    return accept


def _row(node: Node, job: JobRow) -> JobRow:
    with node.database.snapshot() as session:
        return jobs.get(session, job.id)


def _prove(node: Node, job: JobRow, cancelled: Callable[[], bool] = lambda: False) -> None:
    prove.prove(node, job.id, limits=LIMITS, cancelled=cancelled)


def _finish(node: Node, queue: JobQueue, job: JobRow) -> JobRow:
    _prove(node, job)
    prove.deliver(node, queue, job.id)
    return _row(node, job)


def _kept(node: Node, opening: str | None) -> bool:
    assert opening is not None
    try:
        node.artifacts.get(opening)
    except NotFound:
        return False
    return True


def _enqueued(queue: JobQueue) -> list[str]:
    found = queue._client.list_workflows(status=["ENQUEUED", "DELAYED"])
    return [workflow.workflow_id for workflow in found]


def test_a_job_ends_in_a_receipt_that_reads_back(
    node: Node, queue: JobQueue, accept: Accept
) -> None:
    job = _finish(node, queue, accept())
    assert job.state == JobState.DONE
    with node.database.snapshot() as session:
        receipt = prove.receipt(node, session, job)
    assert receipt.claim.outputs == (2560, -2560)
    assert receipt.proof == fakes.proof_of(receipt.claim)
    assert (receipt.model, receipt.version, receipt.development_srs) == ("tiny", 1, True)
    assert receipt_from_dict(receipt_to_dict(receipt)) == receipt


def test_a_proof_is_made_for_the_registered_version_or_for_none(
    node: Node, queue: JobQueue, accept: Accept, engine: fakes.FakeEngine, version: VersionRow
) -> None:
    _finish(node, queue, accept())
    registry = "0x" + "12" * 20
    with node.database.session() as session:
        row = session.get_one(VersionRow, version.id)
        row.chain_id, row.registry_address = 31337, registry
        row.chain_version_id = f"0x{7:064x}"
    _finish(node, queue, accept())
    assert engine.contexts == [NO_CONTEXT, context(31337, registry, 7)]


def test_there_is_no_receipt_before_the_proof(node: Node, accept: Accept) -> None:
    job = accept()
    with node.database.snapshot() as session, pytest.raises(Conflict, match="no proof"):
        prove.receipt(node, session, job)


def test_proving_again_makes_no_second_proof(
    node: Node, queue: JobQueue, accept: Accept, engine: fakes.FakeEngine
) -> None:
    job = accept()
    for _ in range(3):
        _prove(node, job)
    for _ in range(3):
        prove.deliver(node, queue, job.id)
    _prove(node, job)
    assert engine.proved == 1
    with node.database.snapshot() as session:
        states = [event.state for event in jobs.events_after(session, job.id)]
    assert states.count("verified") == states.count("done") == 1


def test_the_same_key_and_body_give_the_same_job(
    node: Node, queue: JobQueue, accept: Accept
) -> None:
    first = accept(idempotency_key="k", request_sha256="aa")
    assert accept(idempotency_key="k", request_sha256="aa").id == first.id
    assert accept(idempotency_key="k", request_sha256="aa", tenant="other").id != first.id
    with pytest.raises(IdempotencyConflict):
        accept(idempotency_key="k", request_sha256="bb")
    assert len(_enqueued(queue)) == 2


def test_of_many_at_once_with_one_key_one_job_comes_where_there_is_room_for_one(
    node: Node, queue: JobQueue, version: VersionRow, accept: Accept
) -> None:
    predictions = [prove.predict(node, version, INPUT) for _ in range(4)]  # each of its own salt

    def ask(prediction: Prediction) -> str:
        options = {"idempotency_key": "k", "request_sha256": "aa", "max_open_jobs": 1}
        return accept(prediction=prediction, **options).id

    with ThreadPoolExecutor(len(predictions)) as threads:
        with node.database.session():  # somebody writes: all of them come to wait
            asked = [threads.submit(ask, prediction) for prediction in predictions]
            time.sleep(0.3)
        (job_id,) = {job.result() for job in asked}
    assert _enqueued(queue) == [job_id]
    kept = [_kept(node, sha256_hex(prediction.opening)) for prediction in predictions]
    assert kept.count(True) == 1


def test_a_repeated_request_is_answered_whatever_has_run_out(
    accept: Accept, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"idempotency_key": "k", "request_sha256": "aa", "max_open_jobs": 1}
    first = accept(**options)
    monkeypatch.setattr(ArtifactStore, "free_bytes", lambda _: 1 << 20)
    assert accept(**options).id == first.id


def test_too_many_open_jobs_are_refused(node: Node, queue: JobQueue, accept: Accept) -> None:
    job = accept(max_open_jobs=1)
    with pytest.raises(Unavailable):
        accept(max_open_jobs=1)
    _finish(node, queue, job)
    accept(max_open_jobs=1)


def test_a_full_disk_is_refused_at_the_door(
    node: Node, queue: JobQueue, accept: Accept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ArtifactStore, "free_bytes", lambda _: 1 << 20)
    with pytest.raises(Unavailable, match="disk"):
        accept()
    assert _enqueued(queue) == []


def test_what_cannot_be_enqueued_is_not_accepted(
    node: Node, queue: JobQueue, accept: Accept, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the queue broke")

    monkeypatch.setattr(queue, "enqueue", broken)
    with pytest.raises(RuntimeError):
        accept()
    with node.database.snapshot() as session:
        assert jobs.listing(session, "acme") == []


def test_the_private_input_goes_when_the_proof_is_stored(
    node: Node, queue: JobQueue, accept: Accept
) -> None:
    job = accept()
    _prove(node, job)
    assert _kept(node, job.opening)
    done = _finish(node, queue, job)
    assert done.opening is None
    assert not _kept(node, job.opening)


def test_an_input_that_another_job_needs_stays(
    node: Node, queue: JobQueue, engine: fakes.FakeEngine
) -> None:
    del engine
    version = fakes.publish(node, "open", input_mode=InputMode.PUBLIC)
    prediction = prove.predict(node, version, INPUT)  # no salt: equal inputs, equal openings
    first, second = (
        prove.accept(
            node,
            queue,
            version,
            prediction,
            tenant="acme",
            idempotency_key=None,
            request_sha256=None,
            max_open_jobs=9,
        )
        for _ in range(2)
    )
    assert first.opening == second.opening
    _finish(node, queue, first)
    assert _kept(node, first.opening)
    assert _finish(node, queue, second).state == JobState.DONE
    assert not _kept(node, first.opening)


def test_an_input_handed_in_ahead_stays(
    node: Node, queue: JobQueue, version: VersionRow, accept: Accept
) -> None:
    job = accept()
    assert job.opening is not None
    with node.database.session() as session:
        inputs.add(
            session,
            version_id=version.id,
            tenant="acme",
            commitment="0x" + "11" * 32,
            opening=job.opening,
        )
    assert _finish(node, queue, job).opening is None
    assert _kept(node, job.opening)


def test_inputs_left_by_a_crash_are_found(node: Node, accept: Accept) -> None:
    open_job, proven, cancelled = accept(), accept(), accept()
    _prove(node, proven)  # and died before deliver
    with node.database.session() as session:
        jobs.transition(session, jobs.get(session, cancelled.id), JobState.CANCELLED)
    with node.database.snapshot() as session:
        assert set(jobs.spent(session)) == {proven.id, cancelled.id}
    openings.forget_input(node, open_job.id)
    assert _kept(node, open_job.opening)


@pytest.mark.parametrize("proven", [False, True])
def test_a_cancelled_job_stays_cancelled(
    node: Node, queue: JobQueue, accept: Accept, proven: bool
) -> None:
    job = accept()
    if proven:
        _prove(node, job)
    for _ in range(2):
        assert prove.cancel(node, queue, job.id).state == JobState.CANCELLED
    prove.deliver(node, queue, job.id)
    assert _row(node, job).state == JobState.CANCELLED
    assert _enqueued(queue) == []
    assert not _kept(node, job.opening)


def test_a_job_under_way_on_the_chain_cannot_be_cancelled(
    node: Node, queue: JobQueue, accept: Accept
) -> None:
    job = accept()
    _prove(node, job)
    with node.database.session() as session:
        for state in (JobState.STORED, JobState.SIGNED):
            jobs.transition(session, jobs.get(session, job.id), state)
    with pytest.raises(Conflict, match="signed"):
        prove.cancel(node, queue, job.id)
    assert _row(node, job).state == JobState.SIGNED


def test_cancelling_stops_the_child_and_no_proof_is_stored(
    node: Node, queue: JobQueue, accept: Accept, engine: fakes.FakeEngine
) -> None:
    job = accept()
    engine.prove_s = 60.0
    started = iter([True])

    def cancel_once() -> bool:
        if next(started, False):
            prove.cancel(node, queue, job.id)
        return False  # the job's row says it, not the worker

    with pytest.raises(JobCancelled):
        _prove(node, job, cancel_once)
    assert (_row(node, job).state, _row(node, job).proof) == (JobState.CANCELLED, None)


def test_a_late_result_loses(
    node: Node, queue: JobQueue, accept: Accept, engine: fakes.FakeEngine
) -> None:
    job = accept()
    real = engine.check_opening

    def meanwhile(*args: Any) -> list[float]:
        prove.cancel(node, queue, job.id)
        return real(*args)

    engine.check_opening = meanwhile  # type: ignore[method-assign]
    _prove(node, job)
    assert engine.proved == 1
    assert (_row(node, job).state, _row(node, job).proof) == (JobState.CANCELLED, None)


def test_a_proof_waits_for_the_disk(
    node: Node, accept: Accept, engine: fakes.FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = accept()
    real, full = ArtifactStore.put, iter([True, True])

    def put(store: ArtifactStore, data: bytes) -> str:
        if next(full, False):
            raise OSError(28, "No space left on device")
        return real(store, data)

    monkeypatch.setattr(ArtifactStore, "put", put)
    monkeypatch.setattr(prove.time, "sleep", lambda _: None)
    _prove(node, job)
    assert (_row(node, job).state, engine.proved) == (JobState.VERIFIED, 1)


def test_a_proof_waits_for_the_database(
    node: Node, accept: Accept, engine: fakes.FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = accept()
    real, down = node.database.session, iter([False, False, True, True])

    @contextmanager
    def session():
        if next(down, False):
            raise Unavailable("The database did not answer.")
        with real() as opened:
            yield opened

    monkeypatch.setattr(node.database, "session", session)
    monkeypatch.setattr(prove.time, "sleep", lambda _: None)
    _prove(node, job)
    assert (_row(node, job).state, engine.proved) == (JobState.VERIFIED, 1)


def _fail(node: Node, queue: JobQueue, job: JobRow, error: ZkserveError) -> JobRow:
    with node.database.session() as session:
        jobs.transition(session, jobs.get(session, job.id), JobState.PROVING)
    prove.record_failure(node, queue, job.id, error, attempts=3)
    return _row(node, job)


def test_prover_errors_are_tried_again_and_then_dead_lettered(
    node: Node, queue: JobQueue, accept: Accept
) -> None:
    job = accept()
    states = [_fail(node, queue, job, ChildKilled("out of memory.")).state for _ in range(3)]
    assert states == [JobState.RETRY, JobState.RETRY, JobState.FAILED]
    assert _row(node, job).error_code == "child-killed"
    assert _enqueued(queue) == [job.id, f"{job.id}.prove.1", f"{job.id}.prove.2"]


def test_a_workflow_of_an_earlier_attempt_has_nothing_to_do(
    node: Node, queue: JobQueue, accept: Accept
) -> None:
    job = accept()
    assert prove.is_current(node, job.id, 0)
    _fail(node, queue, job, EngineFailed("it broke."))
    assert not prove.is_current(node, job.id, 0)
    assert prove.is_current(node, job.id, 1)
    prove.cancel(node, queue, job.id)
    assert not prove.is_current(node, job.id, 1)


def test_an_invalid_proof_gets_one_fresh_try(node: Node, queue: JobQueue, accept: Accept) -> None:
    job = accept()
    error = ProofInvalid("the proof came out wrong.")
    assert _fail(node, queue, job, error).state == JobState.RETRY
    failed = _fail(node, queue, job, error)
    assert (failed.state, failed.error_code) == (JobState.FAILED, "proof-invalid")


def test_bad_input_fails_at_once(node: Node, queue: JobQueue, accept: Accept) -> None:
    failed = _fail(node, queue, accept(), InputOutOfRange("too large."))
    assert (failed.state, failed.attempts) == (JobState.FAILED, 1)


def test_an_operator_can_retry_what_failed(node: Node, queue: JobQueue, accept: Accept) -> None:
    job = accept()
    with pytest.raises(Conflict, match="only failed"):
        prove.retry(node, queue, job.id)
    _fail(node, queue, job, InputOutOfRange("too large."))
    assert prove.retry(node, queue, job.id).state == JobState.RETRY
    assert _fail(node, queue, job, InputOutOfRange("too large.")).state == JobState.FAILED
    prove.retry(node, queue, job.id)
    assert _enqueued(queue) == [job.id, f"{job.id}.prove.1", f"{job.id}.prove.2"]
    assert _finish(node, queue, job).state == JobState.DONE
    assert _row(node, job).error_code is None


def test_a_failed_job_can_be_discarded_with_its_input(
    node: Node, queue: JobQueue, accept: Accept
) -> None:
    job = accept()
    _fail(node, queue, job, InputOutOfRange("too large."))
    openings.forget_input(node, job.id)
    assert _kept(node, job.opening)
    prove.cancel(node, queue, job.id)
    assert not _kept(node, job.opening)
    with pytest.raises(Conflict):
        prove.retry(node, queue, job.id)


def test_a_request_goes_on_to_the_chain(
    node: Node, queue: JobQueue, version: VersionRow, accept: Accept
) -> None:
    with node.database.session() as session:
        job = fakes.requested(session, version)
        queue.enqueue(session, "fulfil", "chain", job.id)
    source = accept()
    with node.database.session() as session:
        row = jobs.get(session, job.id)
        row.claim, row.opening = source.claim, source.opening
    for _ in range(2):
        prove.enqueue(node, queue, job.id)
    stored = _finish(node, queue, job)
    prove.deliver(node, queue, job.id)
    assert (stored.state, stored.opening) == (JobState.STORED, None)
    assert sorted(set(_enqueued(queue)) - {source.id}) == [
        job.id,
        f"{job.id}.prove.0",
        f"{job.id}.settle.0",
    ]


def test_the_tighter_limit_holds(
    node: Node, version: VersionRow, accept: Accept, engine: fakes.FakeEngine
) -> None:
    job = accept()
    with node.database.session() as session:
        found = session.get(VersionRow, version.id)
        assert found is not None
        found.limits = {"time_s": 5.0, "memory_bytes": 1 << 60}
    seen: list[Limits] = []
    real = engine.prove
    engine.prove = lambda *a, **k: (seen.append(k["limits"]), real(*a, **k))[1]  # type: ignore[method-assign]
    _prove(node, job)
    assert seen == [Limits(time_s=5.0, memory_bytes=LIMITS.memory_bytes)]


def test_altered_artifacts_are_not_proved(node: Node, accept: Accept) -> None:
    job = accept()
    assert job.opening is not None
    sealed = {path.stem: path for path in node.artifacts.folder.rglob("*.age")}
    with node.database.snapshot() as session:
        _, version = versions.get(session, job.version_id)
    shutil.copy(sealed[version.onnx_sha256], sealed[job.opening])
    with pytest.raises(ZkserveError, match="altered"):
        _prove(node, job)


def test_inputs_kept_ahead_are_bounded_for_each_tenant(
    node: Node, version: VersionRow, engine: fakes.FakeEngine
) -> None:
    def keep(tenant: str) -> str:
        prediction = prove.predict(node, version, INPUT)
        openings.keep_input(node, version, prediction, tenant=tenant, max_inputs_ahead=2)
        return sha256_hex(prediction.opening)

    kept = [keep("acme"), keep("acme"), keep("other")]
    with pytest.raises(Conflict, match="2 inputs") as refused:
        keep("acme")
    assert refused.value.remedy
    with node.database.snapshot() as session:
        assert (inputs.count(session, "acme"), inputs.count(session, "other")) == (2, 1)
    assert all(_kept(node, opening) for opening in kept)


def test_a_full_disk_keeps_no_inputs_ahead(
    node: Node, version: VersionRow, engine: fakes.FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ArtifactStore, "free_bytes", lambda _: 1 << 20)
    prediction = prove.predict(node, version, INPUT)
    with pytest.raises(Unavailable, match="disk"):
        openings.keep_input(node, version, prediction, tenant="acme", max_inputs_ahead=2)
    with node.database.snapshot() as session:
        assert inputs.count(session, "acme") == 0


def test_inputs_handed_in_ahead_are_forgotten_in_time(
    node: Node, version: VersionRow, engine: fakes.FakeEngine
) -> None:
    prediction = prove.predict(node, version, INPUT)
    opening = node.artifacts.seal(prediction.opening)
    commitment = to_hex(prediction.claim.input)
    with node.database.session() as session:
        inputs.add(
            session, version_id=version.id, tenant="acme", commitment=commitment, opening=opening
        )
    assert openings.forget_inputs_ahead(node, kept_s=3600) == 0
    assert node.artifacts.get(opening) == prediction.opening

    with node.database.session() as session:
        job = fakes.requested(session, version, packed=prediction.claim.input)
    assert openings.forget_inputs_ahead(node, kept_s=0) == 0, "an open request waits for it"

    with node.database.session() as session:
        jobs.transition(session, jobs.get(session, job.id), JobState.EXPIRED)
    assert openings.forget_inputs_ahead(node, kept_s=0) == 1
    with pytest.raises(NotFound):
        node.artifacts.get(opening)
