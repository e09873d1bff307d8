"""A real proof, its worker killed in the middle of it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests import fakes
from tests.prover.conftest import Publish
from zkserve import prove
from zkserve.engines.base import Bundle, FloatArray
from zkserve.engines.ezkl import EzklEngine
from zkserve.errors import ProofInvalid
from zkserve.node import Node
from zkserve.receipt import manifest_to_dict
from zkserve.store import jobs, versions
from zkserve.store.queue import JobQueue
from zkserve.store.tables import VersionRow
from zkserve.types import InputMode, JobState

pytestmark = [
    pytest.mark.prover,
    pytest.mark.parametrize("database_url", ["sqlite"], indirect=True),
]
_PATIENCE_S = 240.0
_WORK = "from zkserve import settings, worker; worker.main(settings.Settings())"


@pytest.fixture
def start(node: Node, tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    environment = os.environ | {
        "ZKSERVE_DATA_DIR": str(tmp_path / "data"),
        "ZKSERVE_DATABASE_URL": node.database.url,
    }

    def start() -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-c", _WORK], env=environment)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def _store(node: Node, bundle: Bundle) -> VersionRow:
    for path in bundle.files.values():
        node.artifacts.put_file(path)
    with node.database.session() as session:
        return versions.add(
            session,
            name="tiny",
            description="",
            circuit_id=bundle.manifest.circuit_id,
            publication="11" * 32,
            onnx_sha256="22" * 32,
            manifest=manifest_to_dict(bundle.manifest),
        )


def _until(what: str, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not holds():
        if time.monotonic() > deadline:
            pytest.fail(f"waited too long until {what}")
        time.sleep(0.02)


def test_a_worker_killed_in_a_real_proof_and_restarted_finishes_it(
    node: Node,
    queue: JobQueue,
    start: Callable[[], subprocess.Popen[bytes]],
    publish: Publish,
    samples: FloatArray,
    ezkl_engine: EzklEngine,
) -> None:
    bundle, _ = publish(InputMode.COMMITTED, seed=1)
    version = _store(node, bundle)
    job = prove.accept(
        node,
        queue,
        version,
        prove.predict(node, version, samples[1]),
        tenant="acme",
        idempotency_key=None,
        request_sha256=None,
        max_open_jobs=1,
    )

    def phases() -> list[str]:
        with node.database.snapshot() as session:
            events = jobs.events_after(session, job.id)
        return [event.detail["phase"] for event in events if "phase" in event.detail]

    def state() -> JobState:
        with node.database.snapshot() as session:
            return JobState(jobs.get(session, job.id).state)

    worker = start()
    _until("the engine works on the proof", lambda: phases() != [])
    children = psutil.Process(worker.pid).children(recursive=True)
    assert children
    worker.kill()
    worker.wait()
    _until("the children died too", lambda: not any(fakes.runs(child.pid) for child in children))
    assert state() is JobState.PROVING

    start()
    _until("the job is final", lambda: state().final)
    with node.database.snapshot() as session:
        row = jobs.get(session, job.id)
        receipt = prove.receipt(node, session, row)
        states = [event.state for event in jobs.events_after(session, job.id)]
    assert (row.state, row.attempts, row.opening) == (JobState.DONE, 0, None)
    assert states.count("verified") == states.count("done") == 1
    ezkl_engine.verify(bundle, receipt.claim, receipt.proof)
    with pytest.raises(ProofInvalid):
        ezkl_engine.verify(
            bundle, receipt.claim, receipt.proof[:-1] + bytes([receipt.proof[-1] ^ 1])
        )
