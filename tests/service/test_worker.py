"""A worker in its own process, killed where it hurts, on both databases."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests import databases, fakes
from zkserve import prove
from zkserve.errors import Unavailable
from zkserve.node import Node
from zkserve.store import jobs
from zkserve.store.queue import JobQueue
from zkserve.store.tables import JobEventRow, JobRow, VersionRow
from zkserve.types import JobState

_PATIENCE_S = 300.0
_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
Start = Callable[..., "subprocess.Popen[bytes]"]
Accept = Callable[..., JobRow]


@pytest.fixture
def start(node: Node, tmp_path: Path) -> Iterator[Start]:
    """Start worker processes; whatever still runs at the end is killed."""
    started: list[subprocess.Popen[bytes]] = []

    def start(**options: object) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.worker_process"]
        command += ["--data-dir", str(tmp_path / "data"), "--database-url", node.database.url]
        command += ["--log", str(tmp_path / "children")]
        for name, value in options.items():
            command += [f"--{name.replace('_', '-')}", str(value)]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def accept(node: Node, queue: JobQueue, version: VersionRow, engine: fakes.FakeEngine) -> Accept:
    del engine

    def accept(value: float = 1.0) -> JobRow:
        return prove.accept(
            node,
            queue,
            version,
            prove.predict(node, version, np.full(fakes.ELEMENTS, value, np.float32)),
            tenant="acme",
            idempotency_key=None,
            request_sha256=None,
            max_open_jobs=1000,
        )

    return accept


def _until(what: str, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not holds():
        if time.monotonic() > deadline:
            pytest.fail(f"waited too long until {what}")
        time.sleep(0.02)


def _row(node: Node, job_id: str) -> JobRow:
    with node.database.snapshot() as session:
        return jobs.get(session, job_id)


def _events(node: Node, job_id: str) -> list[JobEventRow]:
    with node.database.snapshot() as session:
        return jobs.events_after(session, job_id)


def _states(node: Node, job_id: str) -> list[str]:
    return [event.state for event in _events(node, job_id) if "phase" not in event.detail]


def _until_final(node: Node, *job_ids: str) -> None:
    _until("the jobs are final", lambda: all(JobState(_row(node, i).state).final for i in job_ids))


def _children(tmp_path: Path) -> list[int]:
    log = tmp_path / "children"
    return [int(line.split()[1]) for line in log.read_text().splitlines()] if log.exists() else []


def _check_proven_once(node: Node, job_id: str) -> None:
    row = _row(node, job_id)
    assert (row.state, row.attempts) == (JobState.DONE, 0)
    states = _states(node, job_id)
    assert states.count("verified") == states.count("done") == 1
    with node.database.snapshot() as session:
        receipt = prove.receipt(node, session, row)
    assert receipt.proof == fakes.proof_of(receipt.claim)


def _stop(process: subprocess.Popen[bytes]) -> int:
    process.send_signal(signal.SIGTERM)
    return process.wait(timeout=_PATIENCE_S)


def test_a_worker_killed_mid_proof_and_restarted_finishes_the_job(
    node: Node, start: Start, accept: Accept, tmp_path: Path
) -> None:
    job = accept()
    worker = start(prove_s=60)
    _until("the child works", lambda: len(_children(tmp_path)) == 1)
    worker.kill()
    worker.wait()
    (child,) = _children(tmp_path)
    _until("the child died too", lambda: not fakes.runs(child))
    assert _row(node, job.id).state == JobState.PROVING

    worker = start(prove_s=0.2)
    _until_final(node, job.id)
    _check_proven_once(node, job.id)
    assert _states(node, job.id).count("proving") == 2
    # Forgotten in a step of its own, after the job is done.
    _until("the input is forgotten", lambda: _row(node, job.id).opening is None)
    assert _stop(worker) == 0


@pytest.mark.e2e
@_SQLITE
def test_a_worker_told_to_stop_leaves_its_job_to_the_next(
    node: Node, start: Start, accept: Accept, tmp_path: Path
) -> None:
    job = accept()
    worker = start(prove_s=60)
    _until("the child works", lambda: len(_children(tmp_path)) == 1)
    assert _stop(worker) == 0
    assert not fakes.runs(_children(tmp_path)[0])
    assert _row(node, job.id).state == JobState.PROVING
    start(prove_s=0)
    _until_final(node, job.id)
    _check_proven_once(node, job.id)


@pytest.mark.e2e
@_SQLITE
@pytest.mark.parametrize("state", ["verified", "stored"])
def test_a_worker_killed_between_steps_goes_on_from_there(
    node: Node, start: Start, accept: Accept, state: str
) -> None:
    job = accept()
    worker = start(die_at=state)
    assert worker.wait(timeout=_PATIENCE_S) == -signal.SIGKILL
    before = _row(node, job.id)
    assert before.state == "verified"  # what was not committed did not happen
    start()
    _until_final(node, job.id)
    _check_proven_once(node, job.id)
    assert _row(node, job.id).proof == before.proof
    assert _states(node, job.id).count("proving") == 1


@_SQLITE
def test_cancelling_frees_the_worker_for_the_next_job(
    node: Node, queue: JobQueue, start: Start, accept: Accept, tmp_path: Path
) -> None:
    first, second, third = accept(1.0), accept(2.0), accept(3.0)
    start(prove_s=60, slow_input=1.0)
    _until("the child works", lambda: len(_children(tmp_path)) == 1)
    prove.cancel(node, queue, first.id)
    prove.cancel(node, queue, second.id)
    _until_final(node, third.id)
    _check_proven_once(node, third.id)
    assert not fakes.runs(_children(tmp_path)[0])
    assert _states(node, first.id) == ["accepted", "proving", "cancelled"]
    assert _states(node, second.id) == ["accepted", "cancelled"]


@pytest.mark.e2e
@_SQLITE
def test_a_prover_that_recovers_costs_attempts_only(
    node: Node, start: Start, accept: Accept
) -> None:
    job = accept()
    start(failures=1)
    _until_final(node, job.id)
    assert _states(node, job.id) == [
        "accepted",
        "proving",
        "retry",
        "proving",
        "verified",
        "stored",
        "done",
    ]
    assert _row(node, job.id).attempts == 1


@pytest.mark.e2e
@_SQLITE
def test_one_executor_id_serves_one_worker(start: Start, accept: Accept, node: Node) -> None:
    job = accept()
    start()
    _until_final(node, job.id)
    assert start().wait(timeout=_PATIENCE_S) == 1
    assert start(executor_id="worker-2").poll() is None


@pytest.mark.parametrize("committed", [pytest.param(True, marks=pytest.mark.e2e), False])
def test_the_api_killed_after_the_commit_has_kept_its_promise(
    node: Node, version: VersionRow, start: Start, committed: bool
) -> None:
    script = f"""
import os, signal, sys
import numpy as np
from pathlib import Path
from tests import databases, fakes
from zkserve import prove
from zkserve.errors import Unavailable
from zkserve.node import Node
from zkserve.store import jobs, versions
from zkserve.store.queue import JobQueue

node = Node.open(data_dir=Path(sys.argv[1]), database_url=sys.argv[2])
queue = JobQueue(node.database, "1")
die = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
if not {committed}:
    enqueue = queue.enqueue
    queue.enqueue = lambda *a, **k: (enqueue(*a, **k), die())
with fakes.use(fakes.FakeEngine()), node.database.snapshot() as session:
    _, version = versions.find(session, "tiny")
    prediction = prove.predict(node, version, np.ones(4, np.float32))
    prove.accept(node, queue, version, prediction, tenant="acme", idempotency_key="k",
                 request_sha256=None, max_open_jobs=9)
    die()
"""
    command = [sys.executable, "-c", script, str(node.artifacts.folder.parent), node.database.url]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    with node.database.snapshot() as session:
        accepted = jobs.by_key(session, "acme", "k")
    if not committed:
        assert accepted is None
        assert JobQueue(node.database, "1")._client.list_workflows() == []
        return
    assert accepted is not None
    start()
    _until_final(node, accepted.id)
    _check_proven_once(node, accepted.id)


@pytest.mark.e2e
def test_random_kills_lose_nothing_and_double_nothing(
    node: Node, start: Start, accept: Accept, tmp_path: Path
) -> None:
    accepted = [accept(float(value)).id for value in range(20)]
    chance = random.Random(7)
    worker = start(prove_s=0.3)
    for _ in range(8):
        time.sleep(chance.uniform(1.5, 4.0))
        worker.kill()
        worker.wait()
        worker = start(prove_s=0.3)
    _until_final(node, *accepted)
    for job_id in accepted:
        _check_proven_once(node, job_id)
    assert not any(fakes.runs(pid) for pid in _children(tmp_path))


class TestMortalDatabase:
    """A PostgreSQL server that dies while a proof is made."""

    @pytest.fixture
    def server(self) -> Iterator[databases.Server]:
        folder = databases.binaries()
        if folder is None:
            pytest.skip("no PostgreSQL server on this machine")
        with databases.server(folder) as server:
            yield server

    @pytest.fixture
    def database_url(self, server: databases.Server) -> str:
        return databases.new_database(server.url)

    @pytest.mark.e2e
    def test_the_proof_outlives_it(
        self,
        node: Node,
        server: databases.Server,
        start: Start,
        accept: Accept,
        tmp_path: Path,
    ) -> None:
        first, second = accept(1.0), accept(2.0)
        start(prove_s=4)
        _until("the child works", lambda: len(_children(tmp_path)) == 1)
        server.stop()
        with pytest.raises(Unavailable):
            accept(3.0)
        _until("the child is done", lambda: not fakes.runs(_children(tmp_path)[0]))
        server.start()
        _until_final(node, first.id, second.id)
        for job in (first, second):
            _check_proven_once(node, job.id)
            assert _states(node, job.id).count("proving") == 1
