"""After publishing and proving, also where that is killed midway, no secret lies on the disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
from onnx import numpy_helper

from tests import fakes
from tests.models import tiny_onnx
from zkserve import prove, publish, recipe, runtime
from zkserve.engines import ENGINES
from zkserve.engines.native import core
from zkserve.node import Node
from zkserve.receipt import manifest_from_dict
from zkserve.store import jobs, versions
from zkserve.store.queue import JobQueue
from zkserve.store.tables import JobRow, VersionRow
from zkserve.types import InputMode, JobState

pytestmark = pytest.mark.prover
SIZES = {"ezkl": (3, 8), "native": (256, 1024)}
"""Inputs and hidden units."""
PIECE_BYTES = 24
_PATIENCE_S = 240.0
_WORK = "from zkserve import settings, worker; worker.main(settings.Settings())"


@dataclass(frozen=True, kw_only=True)
class Desk:
    """What an owner has, outside of all that zkserve writes: ``disk`` holds what it writes."""

    engine: str
    node: Node
    owner: Path
    disk: Path

    def source(self) -> recipe.Recipe:
        return source(self.owner, self.engine)

    @property
    def srs(self) -> publish.SrsSource:
        return publish.SrsSource(development_folder=self.disk / "data" / "srs")

    def publish(self) -> VersionRow:
        published = publish.publish(self.node, self.source(), self.srs, progress=lambda _: None)
        with self.node.database.snapshot() as session:
            return versions.find(session, published.model)[1]


def source(owner: Path, engine: str) -> recipe.Recipe:
    return replace(
        recipe.load(owner / "tiny.onnx", samples=owner / "samples.npz"),
        engine=engine,
        input_mode=InputMode.COMMITTED,
        options={"decomp_base": 128, "decomp_legs": 4} if engine == "ezkl" else {},
        tolerance=100.0,
    )


@pytest.fixture(params=ENGINES)
def desk(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Desk]:
    if request.param == "native" and not core.available():
        pytest.skip("the compiled core is not installed")
    owner, disk = tmp_path / "owner", tmp_path / "disk"
    owner.mkdir()
    (disk / "tmp").mkdir(parents=True)
    inputs, hidden = SIZES[request.param]
    tiny_onnx(owner / "tiny.onnx", inputs=inputs, hidden=hidden, outputs=2)
    rows = np.random.default_rng(7).normal(size=(40, inputs)).astype(np.float32)
    np.savez(owner / "samples.npz", calibration=rows, held_out=rows[:4])
    monkeypatch.setattr(tempfile, "tempdir", str(disk / "tmp"))
    monkeypatch.setenv("TMPDIR", str(disk / "tmp"))
    monkeypatch.setenv(runtime.VARIABLE, str(tmp_path / "memory"))
    node = Node.open(data_dir=disk / "data", database_url=f"sqlite:///{disk / 'zkserve.db'}")
    node.database.upgrade()
    yield Desk(engine=request.param, node=node, owner=owner, disk=disk)
    node.database.close()


def secrets_of(desk: Desk, version: VersionRow) -> dict[str, list[bytes]]:
    """Return what must not be found: pieces of the weights in each form that is stored."""
    manifest = manifest_from_dict(version.manifest)
    bundle = desk.node.bundle(manifest)
    secrets = {
        f"initializer {tensor.name}": pieces(numpy_helper.to_array(tensor).tobytes())
        for tensor in onnx.load(desk.owner / "tiny.onnx").graph.initializer
    }
    if desk.engine == "native":
        with np.load(bundle.files["weights"]) as archive:
            stored = {name: archive[name].tobytes() for name in ("cells", "blinds")}
    else:
        stored = {name: bundle.files[name].read_bytes() for name in ("compiled", "proving_key")}
    # A proving key begins with the verifying key, and a circuit holds its settings.
    public = [bundle.files[name].read_bytes() for name in sorted(manifest.public)]
    for name, data in stored.items():
        kept = [piece for piece in pieces(data) if not any(piece in file for file in public)]
        secrets[f"stored {name}"] = kept
    return {what: found for what, found in secrets.items() if found}


def pieces(data: bytes) -> list[bytes]:
    """Parts of a secret that nothing writes by chance: runs of few values are left out."""
    found = [data[at : at + PIECE_BYTES] for at in range(0, len(data), PIECE_BYTES)]
    telling = [piece for piece in found if len(set(piece)) > PIECE_BYTES // 2]
    return telling[:: max(1, len(telling) // 100)]


def found_in(folder: Path, secrets: dict[str, list[bytes]]) -> set[str]:
    """Return which secrets the files below a folder hold a piece of."""
    shown = set()
    for path in folder.rglob("*"):
        if path.is_file():
            # By another process: to close a database's file takes this one's locks on it away, and
            # the next process would cut short what this one has mapped.
            data = subprocess.run(["cat", path], capture_output=True, check=False).stdout
            shown |= {
                f"{what} in {path.relative_to(folder)}"
                for what, parts in secrets.items()
                if any(part in data for part in parts)
            }
    return shown


@contextmanager
def working(desk: Desk) -> Iterator[subprocess.Popen[bytes]]:
    environment = os.environ | {
        "ZKSERVE_DATA_DIR": str(desk.disk / "data"),
        "ZKSERVE_DATABASE_URL": desk.node.database.url,
    }
    with (desk.disk / "log").open("ab") as log:
        command = [sys.executable, "-c", _WORK]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def until(what: str, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not holds():
        if time.monotonic() > deadline:
            pytest.fail(f"waited too long until {what}")
        time.sleep(0.02)


def test_no_secret_is_on_the_disk_after_a_worker_was_killed_in_a_proof_nor_after_it(
    desk: Desk,
) -> None:
    version = desk.publish()
    secrets = secrets_of(desk, version)
    assert {"initializer", "stored"} == {what.split()[0] for what in secrets}
    queue = JobQueue(desk.node.database, "1")
    size = SIZES[desk.engine][0]
    rows = np.random.default_rng(11).normal(size=size).astype(np.float32)
    prediction = prove.predict(desk.node, version, rows)
    job = prove.accept(
        desk.node,
        queue,
        version,
        prediction,
        tenant="acme",
        idempotency_key=None,
        request_sha256=None,
        max_open_jobs=1,
    )
    assert job.opening
    opened = prediction.opening
    secrets["opening"] = [opened[at : at + 40] for at in range(0, len(opened) - 40, 40)]
    assert found_in(desk.disk, secrets) == set(), "before any worker could have sealed it"

    def row() -> JobRow:
        with desk.node.database.snapshot() as session:
            return jobs.get(session, job.id)

    def at_work() -> bool:
        with desk.node.database.snapshot() as session:
            return any("phase" in event.detail for event in jobs.events_after(session, job.id))

    with working(desk) as process:
        until("the engine works on the proof", at_work)
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
    until("the children died too", lambda: not any(fakes.runs(child.pid) for child in children))
    assert found_in(desk.disk, secrets) == set()
    # The pieces are right: in memory they are found, as long as somebody works with them.
    in_memory = {what.split()[0] for what in found_in(runtime.root(), secrets)}
    assert "stored" in in_memory

    with working(desk):
        until("the job is done", lambda: JobState(row().state).final)
        until("its private input is forgotten", lambda: row().opening is None)
        assert row().state == JobState.DONE
        assert found_in(desk.disk, secrets) == set()
    assert found_in(desk.disk, secrets) == set()


PHASES = {
    "native": ["committing to the weights", "trying it out", "measuring agreement", "storing"],
    "ezkl": ["making keys", "trying the keys", "measuring agreement", "storing"],
}


@pytest.mark.parametrize("number", range(4))
def test_no_secret_is_on_the_disk_where_publishing_was_killed(desk: Desk, number: int) -> None:
    phase = PHASES[desk.engine][number]
    script = f"""
import os, signal
from pathlib import Path
from tests.prover.test_sealed import source
from zkserve import artifacts, publish
from zkserve.node import Node
disk, owner = Path({str(desk.disk)!r}), Path({str(desk.owner)!r})
node = Node.open(data_dir=disk / "data", database_url={desk.node.database.url!r})
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
tell = lambda phase: die() if phase.startswith({phase!r}) else None
if {phase!r} == "storing":
    artifacts.Path.rename, tell = die, lambda _: None
where = publish.SrsSource(development_folder=disk / "data" / "srs")
publish.publish(node, source(owner, {desk.engine!r}), where, progress=tell)
"""
    killed = subprocess.run([sys.executable, "-c", script], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert list(runtime.root().glob(runtime.FOLDER_PREFIX + "*"))
    secrets = secrets_of(desk, desk.publish())
    assert found_in(desk.disk, secrets) == set()
