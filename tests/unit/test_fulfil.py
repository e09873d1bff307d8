"""Finding the input of an on-chain request; following and settling are tested on a real node."""

from __future__ import annotations

import secrets
from typing import cast

import numpy as np
import pytest
from sqlalchemy import event

from tests import fakes
from zkserve import follow, fulfil, openings, prove
from zkserve.chain.rpc import Block, Chain
from zkserve.encoding import to_hex
from zkserve.engines.base import Prediction
from zkserve.errors import EngineFailed, InvalidInput, NotFound, ProofInvalid
from zkserve.node import Node
from zkserve.receipt import claim_from_dict, manifest_from_dict
from zkserve.store import inputs, jobs, outbox, requests
from zkserve.store.queue import JobQueue
from zkserve.store.tables import VersionRow, now
from zkserve.types import InputMode, JobState

INPUTS = np.array([1.0, -0.5, 0.25, 2.0], np.float32)


def requested(node: Node, version: VersionRow, packed: bytes, *, window_s: float = 60) -> str:
    """Put a request as :func:`follow.follow` does; return its job."""
    deadline = int(now().timestamp() + window_s)
    with node.database.session() as session:
        return fakes.requested(session, version, packed=packed, deadline=deadline).id


def state(node: Node, job_id: str) -> JobState:
    with node.database.snapshot() as session:
        return JobState(jobs.get(session, job_id).state)


def test_public_input_comes_from_the_request(node: Node, engine: fakes.FakeEngine) -> None:
    version = fakes.publish(node, input_mode=InputMode.PUBLIC)
    bundle = node.bundle(manifest_from_dict(version.manifest))
    expected = engine.predict(bundle, INPUTS)
    job_id = requested(node, version, expected.claim.input)
    assert fulfil.prepare(node, job_id)
    assert fulfil.prepare(node, job_id), "again changes nothing"
    with node.database.snapshot() as session:
        job = jobs.get(session, job_id)
    assert job.claim is not None
    assert job.opening is not None
    assert claim_from_dict(job.claim) == expected.claim
    assert node.artifacts.get(job.opening) == expected.opening
    assert state(node, job_id) is JobState.ACCEPTED


def test_public_input_that_is_none_is_refused(node: Node, engine: fakes.FakeEngine) -> None:
    version = fakes.publish(node, input_mode=InputMode.PUBLIC)
    job_id = requested(node, version, b"short")
    with pytest.raises(InvalidInput):
        fulfil.prepare(node, job_id)


def test_prediction_of_another_input_is_refused(
    node: Node, engine: fakes.FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = fakes.publish(node, input_mode=InputMode.PUBLIC)
    bundle = node.bundle(manifest_from_dict(version.manifest))
    job_id = requested(node, version, engine.predict(bundle, INPUTS).claim.input)
    monkeypatch.setattr(engine, "unpack_input", lambda *_: INPUTS + 1)
    with pytest.raises(ProofInvalid, match="input that was requested"):
        fulfil.prepare(node, job_id)
    with node.database.snapshot() as session:
        assert jobs.get(session, job_id).claim is None


def test_committed_input_is_awaited_then_found(
    node: Node, version: VersionRow, engine: fakes.FakeEngine
) -> None:
    bundle = node.bundle(manifest_from_dict(version.manifest))
    expected = engine.predict(bundle, INPUTS)
    job_id = requested(node, version, expected.claim.input)
    assert not fulfil.prepare(node, job_id)
    assert not fulfil.prepare(node, job_id)
    assert state(node, job_id) is JobState.AWAITING_INPUT
    with node.database.session() as session:
        inputs.add(
            session,
            version_id=version.id,
            tenant="someone",
            commitment=to_hex(expected.claim.input),
            opening=node.artifacts.seal(expected.opening),
        )
    assert fulfil.prepare(node, job_id)
    with node.database.snapshot() as session:
        job = jobs.get(session, job_id)
        found = [JobState(event.state) for event in jobs.events_after(session, job_id)]
    assert job.claim is not None
    assert claim_from_dict(job.claim) == expected.claim
    assert found == [JobState.ACCEPTED, JobState.AWAITING_INPUT, JobState.ACCEPTED]


def hand_in(node: Node, version: VersionRow, prediction: Prediction) -> None:
    openings.keep_input(node, version, prediction, tenant="someone", max_inputs_ahead=99)


def enqueued(node: Node, job_id: str) -> list[str]:
    client = JobQueue(node.database, "1")._client
    found = client.list_workflows(workflow_id_prefix=job_id)
    return sorted(workflow.workflow_id.removeprefix(job_id) for workflow in found)


def test_a_job_that_awaits_its_input_again_is_resumed_again(
    node: Node, queue: JobQueue, version: VersionRow, engine: fakes.FakeEngine
) -> None:
    """A workflow's id that was used before would be passed over, and the job would stand still."""
    prediction = prove.predict(node, version, INPUTS)
    job_id = requested(node, version, prediction.claim.input)
    assert follow.resume(node, queue) == 0, "it does not await anything yet"
    for times in (1, 2):
        assert not fulfil.prepare(node, job_id)
        assert follow.resume(node, queue) == 0, "its input is not here"
        hand_in(node, version, prediction)
        assert follow.resume(node, queue) == 1
        assert state(node, job_id) is JobState.ACCEPTED
        assert len(enqueued(node, job_id)) == times
        with node.database.session() as session:
            session.delete(inputs.find(session, version.id, to_hex(prediction.claim.input)))


def test_a_retried_job_without_input_awaits_it(
    node: Node, queue: JobQueue, version: VersionRow, engine: fakes.FakeEngine
) -> None:
    prediction = prove.predict(node, version, INPUTS)
    job_id = requested(node, version, prediction.claim.input)
    with node.database.session() as session:
        jobs.transition(session, jobs.get(session, job_id), JobState.RETRY)
    assert not fulfil.prepare(node, job_id)
    assert state(node, job_id) is JobState.AWAITING_INPUT
    hand_in(node, version, prediction)
    assert follow.resume(node, queue) == 1
    assert fulfil.prepare(node, job_id)


def test_an_input_of_another_version_resumes_nothing(
    node: Node, queue: JobQueue, version: VersionRow, engine: fakes.FakeEngine
) -> None:
    prediction = prove.predict(node, version, INPUTS)
    job_id = requested(node, version, prediction.claim.input)
    assert not fulfil.prepare(node, job_id)
    hand_in(node, fakes.publish(node, "other"), prediction)
    assert follow.resume(node, queue) == 0
    assert state(node, job_id) is JobState.AWAITING_INPUT


def test_a_cancelled_job_is_not_resumed(
    node: Node,
    queue: JobQueue,
    version: VersionRow,
    engine: fakes.FakeEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prediction = prove.predict(node, version, INPUTS)
    job_id = requested(node, version, prediction.claim.input)
    assert not fulfil.prepare(node, job_id)
    prove.cancel(node, queue, job_id)
    monkeypatch.setattr("zkserve.store.requests.answered", lambda *_, **__: [job_id])
    assert follow.resume(node, queue) == 0, "cancelled between the look and the lock"
    assert (state(node, job_id), enqueued(node, job_id)) == (JobState.CANCELLED, [])


class Clock:
    """A chain of which only the time is asked."""

    def __init__(self, timestamp: int, chain_id: int = 31337) -> None:
        self.timestamp, self.chain_id = timestamp, chain_id

    def settled(self, confirmations: int) -> int:
        return 9 - confirmations

    def block(self, number: int) -> Block:
        return Block(
            number=number,
            hash="",
            parent_hash="",
            timestamp=self.timestamp - (9 - number),
            base_fee_wei=0,
        )


def test_awaiting_ends_at_the_deadline_by_the_chains_clock(
    node: Node, version: VersionRow, engine: fakes.FakeEngine
) -> None:
    job_id = requested(node, version, b"\x01" * 32)
    assert not fulfil.prepare(node, job_id)
    with node.database.snapshot() as session:
        deadline = requests.get_by_job(session, job_id).deadline
    for clock, confirmations in [
        (Clock(deadline), 0),
        (Clock(deadline + 1), 1),  # the block past the deadline may still be dropped
        (Clock(deadline + 1), 10),  # the chain has no block so deep
        (Clock(deadline + 1, chain_id=1), 0),  # the time of another chain
    ]:
        assert follow.expire(node, cast("Chain", clock), confirmations=confirmations) == 0
    assert state(node, job_id) is JobState.AWAITING_INPUT
    assert follow.expire(node, cast("Chain", Clock(deadline + 1))) == 1
    assert state(node, job_id) is JobState.EXPIRED
    assert follow.expire(node, cast("Chain", Clock(deadline + 1))) == 0


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_thousands_that_await_cost_a_look_no_more_statements(
    node: Node, queue: JobQueue, version: VersionRow, engine: fakes.FakeEngine
) -> None:
    prediction = prove.predict(node, version, INPUTS)
    statements: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    counts, request_id = [], 1
    for number in (1, 1999):
        with node.database.session() as session:
            for _ in range(number):
                request_id += 1
                packed = secrets.token_bytes(32)
                job = fakes.requested(session, version, packed=packed, request_id=request_id)
                job.state = JobState.AWAITING_INPUT
        event.listen(node.database.engine, "before_cursor_execute", note)
        assert follow.resume(node, queue) == 0
        assert follow.expire(node, cast("Chain", Clock(0))) == 0
        event.remove(node.database.engine, "before_cursor_execute", note)
        counts.append(len(statements))
        queries = [text for text in statements if text.startswith("SELECT")]
        statements.clear()
    assert counts[0] == counts[1]
    assert len(queries) == 2
    with node.database.snapshot() as session:
        connection = session.connection()
        for query in queries:
            plan = connection.exec_driver_sql(
                f"EXPLAIN QUERY PLAN {query}", tuple("0" * query.count("?"))
            )
            assert not [row for row in plan if row[3].startswith("SCAN")], "an index serves it"

    waiting = requested(node, version, prediction.claim.input)
    assert not fulfil.prepare(node, waiting)
    hand_in(node, version, prediction)
    assert follow.resume(node, queue) == 1, "the one among them is found"
    assert state(node, waiting) is JobState.ACCEPTED


def test_late_input_expires(node: Node, version: VersionRow, engine: fakes.FakeEngine) -> None:
    job_id = requested(node, version, b"\x01" * 32, window_s=-5)
    assert not fulfil.prepare(node, job_id)
    assert state(node, job_id) is JobState.EXPIRED
    assert not fulfil.prepare(node, job_id)


def test_broken_engine_leaves_the_request_as_it_was(
    node: Node, engine: fakes.FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = fakes.publish(node, input_mode=InputMode.PUBLIC)
    bundle = node.bundle(manifest_from_dict(version.manifest))
    job_id = requested(node, version, engine.predict(bundle, INPUTS).claim.input)

    def broken(*_: object) -> None:
        raise EngineFailed("broken")

    with monkeypatch.context() as patched:
        patched.setattr(engine, "predict", broken)
        with pytest.raises(EngineFailed):
            fulfil.prepare(node, job_id)
    assert fulfil.prepare(node, job_id)


def test_job_that_serves_no_request(node: Node, version: VersionRow) -> None:
    with node.database.session() as session:
        job = jobs.add(session, version_id=version.id, tenant="someone")
    with pytest.raises(NotFound, match="no on-chain request"):
        fulfil.prepare(node, job.id)


def test_nonces_are_given_out_once_and_step_over_foreign_ones(node: Node) -> None:
    signer = "0x" + "44" * 20

    def take(at_least: int) -> int:
        with node.database.session() as session:
            row = outbox.lock_signer(session, 5, signer, at_least=at_least)
            nonce = row.next_nonce
            row.next_nonce += 1
            return nonce

    assert [take(3), take(3), take(4), take(9), take(0)] == [3, 4, 5, 9, 10]
    with pytest.raises(ZeroDivisionError), node.database.session() as session:
        outbox.lock_signer(session, 5, signer, at_least=0).next_nonce += 1 // 0
    assert take(0) == 11
