"""The API as a process of its own: what it loads, what it weighs, how it dies and comes back."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from fastapi import FastAPI

from tests.fakes import FakeEngine, proof_of
from tests.serving import running
from zkserve import prove
from zkserve.client import Client, JobEvent
from zkserve.engines.base import Limits
from zkserve.errors import Conflict, InputOutOfRange, NotFound
from zkserve.node import Node
from zkserve.store import jobs
from zkserve.store.queue import JobQueue
from zkserve.store.tables import VersionRow
from zkserve.types import JobState

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

SERVE = """
import sys
import uvicorn
from zkserve.api import serve
from zkserve.engines import engine
from zkserve.settings import Settings
heavy = {"torch", "ezkl", "onnx", "onnxruntime", "web3", "pandas", "sklearn"}
heavy |= {"eth_account", "eth_keys", "py_ecc"}  # they raise the recursion limit
run = uvicorn.run
def announce(app, **options):
    engine("ezkl")  # predictions go through it: in children
    print(sorted(heavy & sys.modules.keys()), sys.getrecursionlimit(), flush=True)
    run(app, **options)
uvicorn.run = announce
serve(Settings())
"""


class Process:
    """The API in a process of its own, on one port all its lives."""

    def __init__(self, tmp_path: Path, database_url: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = os.environ | {
            "ZKSERVE_DATA_DIR": str(tmp_path / "data"),
            "ZKSERVE_DATABASE_URL": database_url,
            "ZKSERVE_PORT": str(self.port),
        }
        self.heavy = ""
        self.child: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self.child = subprocess.Popen(
            [sys.executable, "-c", SERVE],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.child.stdout
        self.heavy = self.child.stdout.readline().strip()
        with Client(self.url) as client:
            while not client.ready():
                assert self.child.poll() is None, "the API did not start"

    def kill(self) -> None:
        assert self.child
        self.child.send_signal(signal.SIGKILL)
        self.child.communicate()


@pytest.fixture
def process(tmp_path: Path, node: Node, database_url: str) -> Iterator[Process]:
    process = Process(tmp_path, database_url)
    process.start()
    yield process
    process.kill()


def accept(node: Node, queue: JobQueue, version: VersionRow) -> str:
    prediction = prove.predict(node, version, np.array([1, 2, 3, 4], np.float32))
    return prove.accept(
        node,
        queue,
        version,
        prediction,
        tenant="anonymous",
        idempotency_key=None,
        request_sha256=None,
        max_open_jobs=9,
    ).id


def move(node: Node, job_id: str, *states: JobState) -> None:
    for state in states:
        with node.database.session() as session:
            jobs.transition(session, jobs.get(session, job_id), state)


def test_the_process_is_light(process: Process) -> None:
    """It must hold no prover: proving happens in the worker's children."""
    assert process.heavy == "[] 1000"
    with Client(process.url) as client:
        assert client.models() == []
    assert process.child
    assert psutil.Process(process.child.pid).memory_info().rss < 400 << 20


def test_a_follower_survives_the_death_of_the_api(
    process: Process, node: Node, queue: JobQueue, version: VersionRow, engine: FakeEngine
) -> None:
    job_id = accept(node, queue, version)
    seen: list[JobEvent] = []
    first = threading.Event()

    def follow() -> JobState:
        def on_event(event: JobEvent) -> None:
            seen.append(event)
            first.set()

        with Client(process.url) as client:
            return client.wait(job_id, 60, on_event).state

    ended: list[JobState] = []
    thread = threading.Thread(target=lambda: ended.append(follow()))
    thread.start()
    assert first.wait(30)
    move(node, job_id, JobState.PROVING)
    process.kill()
    # Nobody serves while these happen, and a part of them comes after the restart.
    move(node, job_id, JobState.RETRY, JobState.PROVING)
    process.start()
    move(node, job_id, JobState.FAILED)
    thread.join(60)
    assert ended == [JobState.FAILED]
    with node.database.snapshot() as session:
        written = [(row.id, row.state) for row in jobs.events_after(session, job_id)]
    assert [(event.id, event.state.value) for event in seen] == written
    assert len(written) == 5


def test_last_event_id_resumes_after_a_restart_without_loss_or_doubles(
    process: Process, node: Node, queue: JobQueue, version: VersionRow, engine: FakeEngine
) -> None:
    """The same without the SDK: the letter of server-sent events."""
    job_id = accept(node, queue, version)
    move(node, job_id, JobState.PROVING)
    url = f"{process.url}/v1/proofs/{job_id}/events"
    before: list[str] = []

    def read_until_the_end() -> None:
        with httpx.stream("GET", url, timeout=30) as response:
            for line in response.iter_lines():
                if line.startswith("id: "):
                    before.append(line.removeprefix("id: "))
                    if len(before) == 2:
                        process.kill()

    with pytest.raises(httpx.TransportError):
        read_until_the_end()
    move(node, job_id, JobState.FAILED)
    process.start()
    after = httpx.get(url, headers={"Last-Event-ID": before[-1]}, timeout=30)
    ids = [line.removeprefix("id: ") for line in after.text.split("\n") if line.startswith("id: ")]
    with node.database.snapshot() as session:
        written = [str(row.id) for row in jobs.events_after(session, job_id)]
    assert before + ids == written
    assert len(ids) == 1


def test_a_streaming_follower_does_not_hold_up_a_stop(
    process: Process, node: Node, queue: JobQueue, version: VersionRow, engine: FakeEngine
) -> None:
    job_id = accept(node, queue, version)
    with httpx.stream("GET", f"{process.url}/v1/proofs/{job_id}/events", timeout=30) as response:
        assert next(response.iter_lines()).startswith("id: ")
        assert process.child
        process.child.terminate()
        assert process.child.wait(30) is not None


def test_the_sdk_from_a_prediction_to_its_verified_receipt(
    app: FastAPI,
    node: Node,
    queue: JobQueue,
    version: VersionRow,
    engine: FakeEngine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with running(app) as url, Client(url) as client:
        assert client.ready()
        assert [model["name"] for model in client.models()] == ["tiny"]
        prediction = client.infer("tiny", [1, 2, 3, 4], idempotency_key="one")
        assert (prediction.values, prediction.outputs) == ((10.0, -10.0), (2560, -2560))
        assert client.infer("tiny", [[1, 2, 3, 4]], idempotency_key="two") != prediction
        assert client.infer("tiny", [1, 2, 3, 4], idempotency_key="one") == prediction
        assert client.infer("tiny", [1, 2, 3, 4], prove=False).proof_id is None
        proof_id = prediction.proof_id
        assert proof_id
        with pytest.raises(Conflict):
            client.receipt(proof_id)
        with pytest.raises(InputOutOfRange):
            client.infer("tiny", [1000, 0, 0, 0])
        with pytest.raises(NotFound):
            client.request(1, "0x" + "00" * 20, 1)

        worker = threading.Timer(0.2, work, (node, queue, proof_id))
        worker.start()
        job = client.wait(proof_id, 60)
        worker.join()
        assert job.state is JobState.DONE
        assert job.claim == prediction.claim
        receipt = client.receipt(proof_id)
        assert receipt.claim == prediction.claim
        assert receipt.proof == proof_of(receipt.claim)
        assert {job["id"] for job in client.proofs(JobState.DONE)} == {proof_id}
        with pytest.raises(Conflict):
            client.cancel(proof_id)

        committed = client.commit_input("tiny", [1, 2, 3, 4])
        assert len(committed.input) == 32
        assert committed.opening
        assert committed.circuit_id == version.circuit_id

        folder = tmp_path / "artifacts"
        manifest = client.download_artifacts(version.circuit_id, folder)
        assert {path.name for path in folder.iterdir()} == {"manifest.json", "vk"}
        assert json.loads((folder / "manifest.json").read_text())["circuit_id"] == (
            manifest.circuit_id
        )
        monkeypatch.setattr("zkserve.verify.engine", lambda _: engine)
        for where in (folder, None):
            verified = client.verify(
                receipt,
                where,
                expected_circuit=version.circuit_id,
                opening=prediction.opening,
            )
            assert verified.values == (10.0, -10.0)
            assert verified.opened_input == (1.0, 2.0, 3.0, 4.0)


def work(node: Node, queue: JobQueue, job_id: str) -> None:
    prove.prove(node, job_id, limits=Limits(), cancelled=lambda: False)
    prove.deliver(node, queue, job_id)
