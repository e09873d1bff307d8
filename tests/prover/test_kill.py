"""A real proof, its worker killed in the middle of it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests import fakes
from tests.models import tiny_onnx
from zkserve import prove, publish, recipe
from zkserve.engines import ENGINES, engine
from zkserve.engines.native import core
from zkserve.errors import ProofInvalid
from zkserve.node import Node
from zkserve.receipt import manifest_from_dict
from zkserve.store import jobs, versions
from zkserve.store.queue import JobQueue
from zkserve.store.tables import VersionRow
from zkserve.types import JobState

pytestmark = [
    pytest.mark.prover,
    pytest.mark.parametrize("database_url", ["sqlite"], indirect=True),
]
SIZES = {"ezkl": (3, 2), "native": (256, 1024)}
"""Inputs and hidden units."""
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


@pytest.fixture(params=ENGINES)
def version(request: pytest.FixtureRequest, node: Node, tmp_path: Path) -> VersionRow:
    """A small model published with each engine in turn: large enough to be caught at work."""
    if request.param == "native" and not core.available():
        pytest.skip("the compiled core is not installed")
    inputs, hidden = SIZES[request.param]
    model = tiny_onnx(tmp_path / "tiny.onnx", inputs=inputs, hidden=hidden, outputs=2)
    rows = np.random.default_rng(7).normal(size=(40, inputs)).astype(np.float32)
    np.savez(tmp_path / "samples.npz", calibration=rows, held_out=rows[:4])
    options = {"decomp_base": 128, "decomp_legs": 4} if request.param == "ezkl" else {}
    source = replace(
        recipe.load(model, samples=tmp_path / "samples.npz"),
        engine=request.param,
        options=options,
        tolerance=100.0,
    )
    folder = publish.SrsSource(development_folder=tmp_path / "srs")
    published = publish.publish(node, source, folder, progress=lambda _: None)
    with node.database.snapshot() as session:
        return versions.find(session, published.model)[1]


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
    version: VersionRow,
) -> None:
    manifest = manifest_from_dict(version.manifest)
    bundle, proof_system = node.bundle(manifest), engine(manifest.engine)
    size = sum(spec.size for spec in manifest.inputs)
    job = prove.accept(
        node,
        queue,
        version,
        prove.predict(node, version, np.zeros(size, np.float32)),
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

    def opening() -> str | None:
        with node.database.snapshot() as session:
            return jobs.get(session, job.id).opening

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
    _until("its private input is forgotten", lambda: opening() is None)
    with node.database.snapshot() as session:
        row = jobs.get(session, job.id)
        receipt = prove.receipt(node, session, row)
        states = [event.state for event in jobs.events_after(session, job.id)]
    assert (row.state, row.attempts) == (JobState.DONE, 0)
    assert states.count("verified") == states.count("done") == 1
    proof_system.verify(bundle, receipt.claim, receipt.proof)
    with pytest.raises(ProofInvalid):
        proof_system.verify(
            bundle, receipt.claim, receipt.proof[:-1] + bytes([receipt.proof[-1] ^ 1])
        )
