"""The worker's stages in this process, without the job engine; the kill tests have the rest."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from sqlalchemy.exc import ProgrammingError

from tests import fakes
from zkserve import follow, fulfil, openings, prove, worker
from zkserve.chain.rpc import Chain
from zkserve.encoding import to_hex
from zkserve.engines.base import Limits
from zkserve.errors import (
    ChainError,
    EngineFailed,
    InputOutOfRange,
    ProofInvalid,
    Unavailable,
    Unprofitable,
    ZkserveError,
)
from zkserve.node import Node
from zkserve.store import jobs, requests
from zkserve.store.queue import JobQueue
from zkserve.store.tables import JobRow, VersionRow
from zkserve.types import JobState
from zkserve.worker import Worker

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def make(node: Node, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Worker]:
    monkeypatch.setattr(worker, "_FIRST_BACK_OFF_S", 0.0)

    def make(**options: Any) -> Worker:
        defaults: dict[str, Any] = {
            "executor_id": "worker-1",
            "application_version": "1",
            "threads": 1,
            "limits": Limits(time_s=30),
            "attempts": 2,
            "chain": Chain("http://127.0.0.1:9"),
            "poll_s": 0.0,
        }
        return Worker(node, **(defaults | options))

    return make


@pytest.fixture
def job(node: Node, queue: JobQueue, version: VersionRow, engine: fakes.FakeEngine) -> JobRow:
    del engine
    return prove.accept(
        node,
        queue,
        version,
        prove.predict(node, version, np.ones(fakes.ELEMENTS, np.float32)),
        tenant="acme",
        idempotency_key=None,
        request_sha256=None,
        max_open_jobs=9,
    )


@pytest.fixture
def requested(node: Node, queue: JobQueue, version: VersionRow, job: JobRow) -> JobRow:
    """An on-chain request without an input; ``job`` lends it one."""
    del job
    with node.database.session() as session:
        job = fakes.requested(session, version)
        queue.enqueue(session, "fulfil", "chain", job.id)
    return job


def _row(node: Node, job: JobRow) -> JobRow:
    with node.database.snapshot() as session:
        return jobs.get(session, job.id)


def _enqueued(queue: JobQueue, job: JobRow) -> list[str]:
    found = queue._client.list_workflows(status=["ENQUEUED", "DELAYED"], workflow_id_prefix=job.id)
    return sorted(workflow.workflow_id.removeprefix(job.id) for workflow in found)


def _raising(errors: list[Exception], then: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        if errors:
            raise errors.pop(0)
        return then(*arguments, **options)

    return call


@pytest.mark.parametrize(
    "error",
    [Unavailable("The database did not answer."), OSError(28, "No space left on device")],
)
def test_what_is_down_costs_no_attempt(
    node: Node,
    job: JobRow,
    make: Callable[..., Worker],
    engine: fakes.FakeEngine,
    error: Exception,
) -> None:
    engine.failures = [error] * 5
    make()._prove(job.id, 0)
    assert (_row(node, job).state, _row(node, job).attempts) == (JobState.DONE, 0)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (EngineFailed("it broke."), "engine-failed"),
        (ProofInvalid("it came out wrong."), "proof-invalid"),
        (FileNotFoundError(2, "No such file"), "engine-failed"),
        (ZeroDivisionError("private detail"), "engine-failed"),
    ],
)
def test_what_breaks_is_tried_once_more_and_then_failed(
    node: Node,
    queue: JobQueue,
    job: JobRow,
    make: Callable[..., Worker],
    engine: fakes.FakeEngine,
    error: Exception,
    code: str,
) -> None:
    engine.failures = [error, error]
    make()._prove(job.id, 0)
    assert (_row(node, job).state, _enqueued(queue, job)) == (JobState.RETRY, ["", ".prove.1"])
    make()._prove(job.id, 0)  # resumed after a death in between: the new attempt has its own
    assert _row(node, job).state == JobState.RETRY
    make()._prove(job.id, 1)
    failed = _row(node, job)
    assert (failed.state, failed.error_code, failed.attempts) == (JobState.FAILED, code, 2)
    assert "private detail" not in (failed.error_message or "")
    assert _enqueued(queue, job) == ["", ".prove.1"]


def test_bad_input_is_not_tried_again(
    node: Node, job: JobRow, make: Callable[..., Worker], engine: fakes.FakeEngine
) -> None:
    engine.failures = [InputOutOfRange("too large.")]
    make()._prove(job.id, 0)
    assert (_row(node, job).state, _row(node, job).error_code) == (
        JobState.FAILED,
        "input-out-of-range",
    )


def test_a_stopping_worker_ends_no_job(
    node: Node, job: JobRow, make: Callable[..., Worker], engine: fakes.FakeEngine
) -> None:
    stopping = make()
    engine.prove_s = 60.0
    threading.Timer(1.0, stopping._stopping.set).start()
    with pytest.raises(worker._Stopped):
        stopping._prove(job.id, 0)
    assert (_row(node, job).state, _row(node, job).attempts) == (JobState.PROVING, 0)
    assert not isinstance(worker._Stopped(), Exception)  # the job engine records exceptions


def test_a_request_whose_input_is_here_is_proved(
    node: Node,
    queue: JobQueue,
    job: JobRow,
    requested: JobRow,
    make: Callable[..., Worker],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def prepare(node: Node, job_id: str) -> bool:
        with node.database.session() as session:
            row = jobs.get(session, job_id)
            row.claim, row.opening = job.claim, job.opening
        return True

    monkeypatch.setattr(fulfil, "prepare", _raising([Unavailable("down")], prepare))
    make()._fulfil(requested.id, 0)
    assert _enqueued(queue, requested) == ["", ".prove.0"]
    make()._prove(requested.id, 0)
    assert _row(node, requested).state == JobState.STORED
    assert _enqueued(queue, requested) == ["", ".prove.0", ".settle.0"]
    make()._fulfil(requested.id, 0)  # resumed after a death: nothing is left to do
    assert _enqueued(queue, requested) == ["", ".prove.0", ".settle.0"]


def test_a_request_that_awaits_its_input_holds_no_thread(
    node: Node,
    queue: JobQueue,
    version: VersionRow,
    requested: JobRow,
    make: Callable[..., Worker],
    engine: fakes.FakeEngine,
) -> None:
    """Two hundred requests for inputs that never come must not keep others from being served."""
    prediction = prove.predict(node, version, np.ones(fakes.ELEMENTS, np.float32))
    with node.database.session() as session:
        row = requests.get_by_job(session, requested.id)
        row.input = to_hex(prediction.claim.input)
    make()._fulfil(requested.id, 0)  # returns, though the input is not here
    assert _row(node, requested).state == JobState.AWAITING_INPUT
    assert _enqueued(queue, requested) == [""]

    openings.keep_input(node, version, prediction, tenant="acme", max_inputs_ahead=1)
    assert follow.resume(node, queue) == 1
    assert follow.resume(node, queue) == 0
    with node.database.snapshot() as session:
        event = jobs.events_after(session, requested.id)[-1]
    assert _enqueued(queue, requested) == ["", f".fulfil.0.{event.id}"]
    make()._fulfil(requested.id, 0)
    assert ".prove.0" in _enqueued(queue, requested)
    make()._prove(requested.id, 0)
    assert _row(node, requested).state == JobState.STORED


def test_a_request_that_expires_unprepared_ends(
    node: Node,
    queue: JobQueue,
    requested: JobRow,
    make: Callable[..., Worker],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def prepare(node: Node, job_id: str) -> bool:
        with node.database.session() as session:
            jobs.transition(session, jobs.get(session, job_id), JobState.EXPIRED)
        return False

    monkeypatch.setattr(fulfil, "prepare", prepare)
    make()._fulfil(requested.id, 0)
    assert _enqueued(queue, requested) == [""]


def test_an_engine_that_breaks_while_preparing_gets_another_attempt(
    node: Node,
    queue: JobQueue,
    requested: JobRow,
    make: Callable[..., Worker],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fulfil, "prepare", _raising([EngineFailed("it broke.")], lambda *_: True))
    make()._fulfil(requested.id, 0)
    assert (_row(node, requested).state, _enqueued(queue, requested)) == (
        JobState.RETRY,
        ["", ".fulfil.1"],
    )
    make()._fulfil(requested.id, 1)
    assert _enqueued(queue, requested) == ["", ".fulfil.1", ".prove.1"]


@pytest.mark.parametrize(
    "error", [ChainError("the node lies"), Unavailable("it is down"), ZeroDivisionError("a fault")]
)
def test_settling_outlasts_the_node_and_our_own_faults(
    node: Node,
    job: JobRow,
    requested: JobRow,
    make: Callable[..., Worker],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    _store(node, requested, job)
    steps = iter([JobState.SIGNED, JobState.BROADCAST, JobState.MINED, JobState.DONE])

    def settle(
        node: Node, chain: Chain, job_id: str, *, confirmations: int, at_a_loss: bool
    ) -> bool:
        assert (confirmations, at_a_loss) == (3, True)
        state = next(steps)
        with node.database.session() as session:
            jobs.transition(session, jobs.get(session, job_id), state)
        return state.final

    monkeypatch.setattr(fulfil, "settle", _raising([error] * 3, settle))
    make(confirmations=3, at_a_loss=True)._settle(requested.id, 0)
    assert (_row(node, requested).state, _row(node, requested).attempts) == (JobState.DONE, 0)


def test_an_unprofitable_request_holds_no_thread(
    node: Node,
    queue: JobQueue,
    job: JobRow,
    requested: JobRow,
    make: Callable[..., Worker],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Requests that will never pay for their gas must not keep others from being settled."""
    _store(node, requested, job)
    moment = datetime(2030, 1, 1, 0, 3, tzinfo=UTC)
    monkeypatch.setattr(prove, "now", lambda: moment)
    errors: list[Exception] = [Unprofitable("gas is too dear.")] * 3
    monkeypatch.setattr(fulfil, "settle", _raising(errors, lambda *_, **__: True))
    make()._settle(requested.id, 0)
    make()._settle(requested.id, 0)  # resumed after a death: it is not looked at twice as often
    assert (_row(node, requested).state, _row(node, requested).attempts) == (JobState.STORED, 0)
    first = f".settle.0.{int(moment.timestamp()) // 600 + 1}"
    assert _enqueued(queue, requested) == ["", first]
    moment += timedelta(seconds=600)
    make()._settle(requested.id, 0)
    assert _enqueued(queue, requested) == sorted(
        ["", first, f".settle.0.{int(moment.timestamp()) // 600 + 1}"]
    )
    assert errors == []


def test_a_request_the_chain_will_not_take_fails_and_can_be_retried(
    node: Node,
    queue: JobQueue,
    job: JobRow,
    requested: JobRow,
    make: Callable[..., Worker],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _store(node, requested, job)
    refused: list[ZkserveError] = [ProofInvalid("the verifier refused.")]
    monkeypatch.setattr(fulfil, "settle", _raising([*refused], lambda *_, **__: True))
    make()._settle(requested.id, 0)
    assert _row(node, requested).state == JobState.FAILED
    assert prove.retry(node, queue, requested.id).state == JobState.STORED
    assert ".settle.1" in _enqueued(queue, requested)


def _store(node: Node, requested: JobRow, lender: JobRow) -> None:
    """Take a request's job to STORED."""
    with node.database.session() as session:
        row = jobs.get(session, requested.id)
        row.claim, row.opening = lender.claim, lender.opening
    prove.prove(node, requested.id, limits=Limits(), cancelled=lambda: False)
    with node.database.session() as session:
        jobs.transition(session, jobs.get(session, requested.id), JobState.STORED)


def test_the_watcher_outlives_every_error(
    make: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    watching = make(market="0x" + "ab" * 20, confirmations=2)
    passes: list[dict[str, Any]] = []

    def followed(*_: Any, **options: Any) -> int:
        passes.append(options)
        if len(passes) == 3:
            watching._stopping.set()
        return 1

    errors = [
        ChainError("the node lies"),
        Unavailable("it is down"),
        RuntimeError("a fault"),
        ProgrammingError("SELECT", {}, Exception("no such table")),
    ]
    resumed = Mock(return_value=0)
    monkeypatch.setattr(follow, "resume", resumed)
    monkeypatch.setattr(follow, "follow", _raising(list(errors), followed))
    monkeypatch.setattr(follow, "expire", lambda *_, **__: 0)
    watching._watch(Chain("http://127.0.0.1:9"))
    assert passes == [{"market": "0x" + "ab" * 20, "confirmations": 2}] * 3
    assert resumed.call_count == 7, "inputs that came are not kept waiting by the chain"


def test_tidying_outlives_every_error(
    make: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    tidying = make()
    monkeypatch.setattr(worker, "_TIDY_EVERY_S", 0.0)
    errors = [
        ProgrammingError("SELECT", {}, Exception("no such table")),
        OSError(5, "Input/output error"),
        RuntimeError("a fault"),
    ]

    def done(*_: Any, **__: Any) -> int:
        tidying._stopping.set()
        return 0

    monkeypatch.setattr(openings, "forget_inputs_ahead", _raising(list(errors), done))
    tidying._tidy()
    assert tidying._stopping.is_set()
