"""Finding the input of an on-chain request; following and settling are tested on a real node."""

from __future__ import annotations

import numpy as np
import pytest

from tests import fakes
from zkserve import fulfil
from zkserve.encoding import to_hex
from zkserve.errors import EngineFailed, InvalidInput, NotFound, ProofInvalid
from zkserve.node import Node
from zkserve.receipt import claim_from_dict, manifest_from_dict
from zkserve.store import inputs, jobs, outbox
from zkserve.store.tables import VersionRow, now
from zkserve.types import InputMode, JobState

INPUTS = np.array([1.0, -0.5, 0.25, 2.0], np.float32)


def requested(node: Node, version: VersionRow, packed: bytes, *, window_s: float = 60) -> str:
    """Put a request as :func:`fulfil.follow` does; return its job."""
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
            opening=node.artifacts.put(expected.opening),
        )
    assert fulfil.prepare(node, job_id)
    with node.database.snapshot() as session:
        job = jobs.get(session, job_id)
        found = [JobState(event.state) for event in jobs.events_after(session, job_id)]
    assert job.claim is not None
    assert claim_from_dict(job.claim) == expected.claim
    assert found == [JobState.ACCEPTED, JobState.AWAITING_INPUT, JobState.ACCEPTED]


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
