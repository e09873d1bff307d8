from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests import fakes
from zkserve.errors import Conflict, EngineFailed, NotFound
from zkserve.node import Node
from zkserve.store import inputs, jobs, versions
from zkserve.store.queue import PROOFS, JobQueue
from zkserve.store.tables import JobRow, VersionRow
from zkserve.types import JobState

S = JobState
_PATHS = [
    [S.PROVING, S.VERIFIED, S.STORED, S.DONE],
    [S.PROVING, S.PROVING, S.RETRY, S.PROVING, S.VERIFIED, S.STORED, S.DONE],
    [S.AWAITING_INPUT, S.ACCEPTED, S.PROVING, S.VERIFIED, S.STORED, S.SIGNED, S.BROADCAST],
    [S.PROVING, S.VERIFIED, S.STORED, S.SIGNED, S.BROADCAST, S.MINED, S.BROADCAST, S.MINED, S.DONE],
    [S.AWAITING_INPUT, S.EXPIRED],
    [S.PROVING, S.FAILED, S.RETRY, S.PROVING, S.CANCELLED],
]
_NEVER = [
    ([], S.DONE),
    ([], S.VERIFIED),
    ([S.PROVING], S.STORED),
    ([S.PROVING, S.VERIFIED], S.DONE),
    ([S.PROVING, S.VERIFIED, S.STORED, S.SIGNED], S.CANCELLED),
    ([S.PROVING, S.VERIFIED, S.STORED, S.SIGNED, S.BROADCAST, S.MINED], S.CANCELLED),
    *[([S.CANCELLED], state) for state in S],
    *[([S.EXPIRED], state) for state in S],
    *[([S.PROVING, S.VERIFIED, S.STORED, S.DONE], state) for state in S],
]


def _job(node: Node, version: VersionRow, tenant: str = "acme") -> JobRow:
    with node.database.session() as session:
        return jobs.add(session, version_id=version.id, tenant=tenant)


def _walk(node: Node, job_id: str, path: list[JobState]) -> None:
    for state in path:
        with node.database.session() as session:
            jobs.transition(session, jobs.get(session, job_id), state)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("path", _PATHS)
def test_a_legal_path_leaves_one_event_a_step(
    node: Node, version: VersionRow, path: list[JobState]
) -> None:
    job = _job(node, version)
    _walk(node, job.id, path)
    with node.database.snapshot() as session:
        events = jobs.events_after(session, job.id)
        assert [event.state for event in events] == [S.ACCEPTED, *path]
        assert [event.id for event in events] == sorted({event.id for event in events})
        assert jobs.get(session, job.id).state == path[-1]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("path", "state"), _NEVER)
def test_an_illegal_step_is_refused_and_leaves_no_trace(
    node: Node, version: VersionRow, path: list[JobState], state: JobState
) -> None:
    job = _job(node, version)
    _walk(node, job.id, path)
    with pytest.raises(Conflict, match=r"cannot follow"):
        _walk(node, job.id, [state])
    with node.database.snapshot() as session:
        assert [event.state for event in jobs.events_after(session, job.id)] == [S.ACCEPTED, *path]


def test_a_row_loaded_before_another_moved_it_does_not_win(node: Node, version: VersionRow) -> None:
    job = _job(node, version)
    with node.database.session() as session:
        early = jobs.get(session, job.id)
    _walk(node, job.id, [S.CANCELLED])
    with pytest.raises(Conflict), node.database.session() as session:
        jobs.transition(session, session.merge(early, load=False), S.PROVING)


def test_attempts_count_failures_and_not_restarts(node: Node, version: VersionRow) -> None:
    job = _job(node, version)
    _walk(node, job.id, [S.PROVING, S.PROVING, S.RETRY, S.PROVING, S.FAILED, S.RETRY])
    with node.database.snapshot() as session:
        assert jobs.get(session, job.id).attempts == 2


def test_a_failure_is_kept_with_its_code(node: Node, version: VersionRow) -> None:
    job = _job(node, version)
    with node.database.session() as session:
        jobs.fail(session, jobs.get(session, job.id), EngineFailed("it broke."))
    with node.database.snapshot() as session:
        row = jobs.get(session, job.id)
        assert (row.state, row.error_code, row.error_message) == (
            "failed",
            "engine-failed",
            "it broke.",
        )
        assert jobs.events_after(session, job.id)[-1].detail["code"] == "engine-failed"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_events_resume_after_the_last_one_seen(node: Node, version: VersionRow) -> None:
    job, other = _job(node, version), _job(node, version)
    with node.database.session() as session:
        jobs.note(session, jobs.get(session, other.id), phase="elsewhere")
        for number in range(3):
            jobs.note(session, jobs.get(session, job.id), phase=str(number))
        seen = jobs.events_after(session, job.id, limit=2)
        rest = jobs.events_after(session, job.id, seen[-1].id)
    assert [event.detail for event in rest] == [{"phase": "1"}, {"phase": "2"}]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_listing_and_counts_see_what_they_should(node: Node, version: VersionRow) -> None:
    first, second, foreign = _job(node, version), _job(node, version), _job(node, version, "other")
    _walk(node, first.id, [S.CANCELLED])
    with node.database.snapshot() as session:
        assert [job.id for job in jobs.listing(session, "acme")] == [second.id, first.id]
        assert [job.id for job in jobs.listing(session, "other")] == [foreign.id]
        assert [job.id for job in jobs.listing(session, "acme", state=S.CANCELLED)] == [first.id]
        assert jobs.open_count(session) == 2
        counts = jobs.count_by_state(session)
        assert (counts[S.CANCELLED], counts[S.ACCEPTED], counts[S.DONE]) == (1, 2, 0)
        with pytest.raises(NotFound):
            jobs.get(session, "job_nowhere")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_jobs_that_await_an_input_close_no_door(node: Node, version: VersionRow) -> None:
    _job(node, version)
    for _ in range(3):
        _walk(node, _job(node, version).id, [S.AWAITING_INPUT])
    with node.database.snapshot() as session:
        assert jobs.open_count(session) == 1


def test_row_and_enqueue_commit_together_or_not_at_all(
    node: Node, queue: JobQueue, version: VersionRow
) -> None:
    def add() -> str:
        job = jobs.add(session, version_id=version.id, tenant="acme")
        queue.enqueue(session, "prove", PROOFS, job.id)
        return job.id

    with pytest.raises(RuntimeError), node.database.session() as session:  # noqa: PT012
        add()
        raise RuntimeError
    assert _enqueued(node) == []
    with node.database.session() as session:
        kept = add()
    assert _enqueued(node) == [kept]
    with node.database.snapshot() as session:
        assert [job.id for job in jobs.listing(session, "acme")] == [kept]


def test_enqueueing_an_attempt_twice_is_once(
    node: Node, queue: JobQueue, version: VersionRow
) -> None:
    job = _job(node, version)
    for attempt in (1, 1, 2):
        with node.database.session() as session:
            queue.enqueue(session, "prove", PROOFS, job.id, attempt=attempt, first=False)
    assert _enqueued(node) == [f"{job.id}.prove.1", f"{job.id}.prove.2"]
    queue.cancel(job.id)
    assert _enqueued(node) == []


def test_writers_that_read_first_wait_for_each_other(node: Node, version: VersionRow) -> None:
    job = _job(node, version)
    writers, rounds = 4, 15

    def write() -> None:
        for _ in range(rounds):
            with node.database.session() as session:
                row = jobs.get(session, job.id, lock=True)
                row.attempts = row.attempts + 1

    with ThreadPoolExecutor(writers) as pool:
        for written in [pool.submit(write) for _ in range(writers)]:
            written.result()
    with node.database.snapshot() as session:
        assert jobs.get(session, job.id).attempts == writers * rounds


def test_a_reader_does_not_wait_for_a_writer(node: Node, version: VersionRow) -> None:
    job = _job(node, version)
    with node.database.session() as writing:
        jobs.transition(writing, jobs.get(writing, job.id), S.PROVING)
        with node.database.snapshot() as reading:
            assert jobs.get(reading, job.id).state == S.ACCEPTED


def test_versions_number_themselves_and_are_found(node: Node) -> None:
    first, second = fakes.publish(node, "tiny"), None
    with node.database.session() as session:
        second = versions.add(
            session,
            name="tiny",
            description="better",
            circuit_id="0x" + "33" * 32,
            publication="44" * 32,
            onnx_sha256="55" * 32,
            manifest={},
        )
    assert (first.number, second.number) == (1, 2)
    with node.database.session() as session:
        assert versions.find(session, "tiny")[1].id == second.id
        assert versions.find(session, "tiny", 1)[1].id == first.id
        assert versions.by_circuit(session, first.circuit_id)[1].id == first.id
        assert versions.get(session, second.id)[0].description == "better"
        assert [row.number for _, row in versions.listing(session)] == [2, 1]
        found = versions.by_publication(session, "44" * 32)
        assert found is not None
        assert found.id == second.id
        found.deprecated_at = found.created_at
    with node.database.snapshot() as session:
        assert versions.find(session, "tiny")[1].id == first.id
        for name, number in [("tiny", 3), ("large", None)]:
            with pytest.raises(NotFound):
                versions.find(session, name, number)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_an_input_handed_in_again_changes_nothing(node: Node, version: VersionRow) -> None:
    commitment = "0x" + "66" * 32
    with node.database.session() as session:
        rows = [
            inputs.add(
                session,
                version_id=version.id,
                tenant=tenant,
                commitment=commitment,
                opening=opening,
            )
            for tenant, opening in [("acme", "77" * 32), ("other", "88" * 32)]
        ]
        assert rows[0] is rows[1]
        assert inputs.find(session, version.id, commitment) is rows[0]
        assert inputs.find(session, version.id, "0x" + "99" * 32) is None


def test_every_state_says_what_may_follow() -> None:
    assert set(jobs.NEXT) == set(S)
    for state, following in jobs.NEXT.items():
        assert not state.final or state is S.FAILED or not following


def _enqueued(node: Node) -> list[str]:
    client = JobQueue(node.database, "1")._client
    found = client.list_workflows(status=["ENQUEUED", "DELAYED"])
    return sorted(workflow.workflow_id for workflow in found)
