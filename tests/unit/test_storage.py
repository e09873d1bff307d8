"""Data folders of releases that did not seal, changes of keys, and what a node wants of its key."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from tests import fakes
from zkserve import openings, prove, storage, worker
from zkserve.artifacts import RECIPIENTS
from zkserve.engines.base import Limits
from zkserve.errors import BundleMismatch, StorageKeyWrong, Unavailable
from zkserve.node import KEY_NAME, Node
from zkserve.receipt import manifest_from_dict
from zkserve.sealing import StorageKey, new_key
from zkserve.store.queue import JobQueue
from zkserve.store.tables import JobRow, VersionRow
from zkserve.worker import Worker

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
LONG_AGO = (1_000_000, 1_000_000)


def in_clear(node: Node) -> set[bytes]:
    folder = node.artifacts.folder
    return {path.read_bytes() for path in folder.glob("??/*") if not path.suffix}


def accepted(node: Node, queue: JobQueue, version: VersionRow) -> tuple[JobRow, bytes]:
    prediction = prove.predict(node, version, fakes.np.ones(4, fakes.np.float32))
    job = prove.accept(
        node,
        queue,
        version,
        prediction,
        tenant="acme",
        idempotency_key=None,
        request_sha256=None,
        max_open_jobs=9,
    )
    return job, prediction.opening


@pytest.fixture
def before(
    node: Node,
    queue: JobQueue,
    version: VersionRow,
    engine: fakes.FakeEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[JobRow, bytes]:
    """What a release without sealing leaves: an open job and an input handed in ahead."""
    model = version.manifest["pins"]["model"]
    data = node.artifacts.get(model)
    node.artifacts.delete(model)
    node.artifacts.put(data)
    with monkeypatch.context() as patch:
        patch.setattr(type(node.artifacts), "seal", lambda store, data: store.put(data))
        prediction = prove.predict(node, version, fakes.np.zeros(4, fakes.np.float32))
        openings.keep_input(node, version, prediction, tenant="acme", max_inputs_ahead=9)
        return accepted(node, queue, version)


def test_clear_secrets_of_an_earlier_release_are_read_sealed_and_removed(
    node: Node, before: tuple[JobRow, bytes], version: VersionRow
) -> None:
    job, opening = before
    assert job.opening
    assert node.artifacts.get(job.opening) == opening
    bundle = node.bundle(manifest_from_dict(version.manifest))
    assert bundle.files["model"].read_bytes() == b"compiled tiny"
    assert {opening, b"compiled tiny", b"key tiny"} < in_clear(node)
    assert storage.seal_clear(node) == 3
    assert in_clear(node) == {b"key tiny"}
    assert node.artifacts.get(job.opening) == opening
    bundle = node.bundle(manifest_from_dict(version.manifest))
    assert bundle.files["model"].read_bytes() == b"compiled tiny"
    assert storage.seal_clear(node) == 0


def test_proofs_and_public_artifacts_stay_in_clear(
    node: Node, before: tuple[JobRow, bytes]
) -> None:
    job, _ = before
    proof = node.artifacts.put(b"a proof")
    with node.database.session() as session:
        session.get_one(JobRow, job.id).proof = proof
    for path in node.artifacts.folder.glob("??/*"):
        os.utime(path, LONG_AGO)
    storage.seal_clear(node)
    assert in_clear(node) == {b"key tiny", b"a proof"}


def test_what_the_database_does_not_know_is_sealed_once_it_cannot_be_under_way(
    node: Node,
) -> None:
    """An opening whose job was never stored."""
    digest = node.artifacts.put(b"an opening")
    assert storage.seal_clear(node) == 0, "it may be a proof about to be noted"
    os.utime(node.artifacts.path(digest), LONG_AGO)
    assert storage.seal_clear(node) == 1
    assert node.artifacts.get(digest) == b"an opening"
    assert in_clear(node) == set()


def test_what_was_left_unfinished_in_clear_is_removed(node: Node) -> None:
    folder = node.artifacts.folder
    (folder / ".publish-abc").mkdir()
    (folder / ".publish-abc" / "pk.key").write_bytes(b"a key")
    for name in (".new-old", ".new-now"):
        (folder / name).write_bytes(b"half")
    for name in (".publish-abc", ".new-old"):
        os.utime(folder / name, LONG_AGO)
    storage.seal_clear(node)
    assert {path.name for path in folder.glob(".[np]*")} == {".new-now"}


def test_one_altered_file_does_not_keep_the_others_in_clear(
    node: Node, before: tuple[JobRow, bytes], version: VersionRow
) -> None:
    node.artifacts.path(version.manifest["pins"]["model"]).write_bytes(b"altered")
    assert storage.seal_clear(node) == 2
    assert in_clear(node) == {b"key tiny", b"altered"}


def test_several_who_start_at_once_seal_each_file_once(
    node: Node, before: tuple[JobRow, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed: list[int] = []
    start = threading.Barrier(4)
    begin = StorageKey.seal

    def slowly(*given: Any) -> str:
        time.sleep(0.02)
        return begin(*given)

    monkeypatch.setattr(StorageKey, "seal", slowly)

    def seal() -> None:
        start.wait()
        sealed.append(storage.seal_clear(node))

    threads = [threading.Thread(target=seal) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(sealed) == [0, 0, 0, 3]


def test_a_full_disk_keeps_what_it_cannot_seal(
    node: Node, before: tuple[JobRow, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = in_clear(node)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", _full)
        with pytest.raises(Unavailable, match=r"No space left on device\. Nothing was lost"):
            storage.seal_clear(node)
    assert in_clear(node) == kept
    assert not list(node.artifacts.folder.glob(".new-*"))
    assert storage.seal_clear(node) == 3


def _full(_: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def start(node: Node, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[set[bytes]]]:
    """Start a worker that is told to stop when it takes up jobs; return what lay in clear then."""
    own = Worker(
        node,
        executor_id="worker-1",
        application_version="1",
        threads=1,
        limits=Limits(),
        attempts=1,
    )

    def run() -> list[set[bytes]]:
        found: list[set[bytes]] = []

        def begin() -> None:
            found.append(in_clear(node))
            own._stopping.set()

        with monkeypatch.context() as patch:
            patch.setattr(worker, "DBOS", Mock(launch=begin))
            patch.setattr(worker.signal, "signal", lambda *_: None)
            own.run()
        return found

    return run


def test_a_worker_takes_no_job_before_all_is_sealed(
    before: tuple[JobRow, bytes], start: Callable[[], list[set[bytes]]]
) -> None:
    assert start() == [{b"key tiny"}]


def test_a_worker_that_cannot_seal_says_so_and_takes_no_job(
    node: Node,
    before: tuple[JobRow, bytes],
    start: Callable[[], list[set[bytes]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job, opening = before
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", _full)
        patch.setattr(worker.Worker, "_register", lambda _: pytest.fail("it goes on"))
        with pytest.raises(Unavailable, match="cannot be sealed"):
            start()
    assert job.opening
    assert node.artifacts.get(job.opening) == opening
    assert start() == [{b"key tiny"}]


def test_an_input_deleted_meanwhile_does_not_come_back(
    node: Node,
    queue: JobQueue,
    before: tuple[JobRow, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job, _ = before
    known = storage._Known.of(node)
    prove.cancel(node, queue, job.id)
    assert job.opening
    assert not storage._reseal(node, job.opening, known)
    assert not node.artifacts.has(job.opening)


def test_keys_are_changed_and_the_old_one_is_needed_no_more(
    node: Node, queue: JobQueue, version: VersionRow, engine: fakes.FakeEngine, tmp_path: Path
) -> None:
    job, opening = accepted(node, queue, version)
    assert job.opening
    old, new = (node.artifacts.folder.parent / KEY_NAME).read_text(), new_key()
    place = {"data_dir": node.artifacts.folder.parent, "database_url": node.database.url}
    both = Node.open(**place, storage_key=new + old)
    assert storage.seal_all(both) == 2
    assert storage.seal_all(both) == 0
    after = Node.open(**place, storage_key=new)
    assert after.artifacts.get(job.opening) == opening
    assert after.bundle(manifest_from_dict(version.manifest)).files["model"].exists()
    with pytest.raises(StorageKeyWrong):
        Node.open(**place, storage_key=old)


def test_a_change_of_keys_that_fails_midway_keeps_both(
    node: Node, queue: JobQueue, version: VersionRow, engine: fakes.FakeEngine
) -> None:
    accepted(node, queue, version)
    altered = node.artifacts.sealed()[0]  # what comes first must not stop the rest
    (sealed,) = node.artifacts.folder.rglob(f"{altered}.age")
    sealed.write_bytes(sealed.read_bytes()[:-1])
    old, new = (node.artifacts.folder.parent / KEY_NAME).read_text(), new_key()
    place = {"data_dir": node.artifacts.folder.parent, "database_url": node.database.url}
    both = Node.open(**place, storage_key=new + old)
    with pytest.raises(BundleMismatch, match=altered):
        storage.seal_all(both)
    with pytest.raises(StorageKeyWrong):
        Node.open(**place, storage_key=new)
    others = set(both.artifacts.sealed()) - {altered}
    assert others
    for path in node.artifacts.folder.glob("??/*.age"):
        with path.open("rb") as file:
            assert both.artifacts.key.is_current(file) == (path.stem in others)
    sealed.unlink()  # as the error says, where there is no backup
    storage.seal_all(both)
    Node.open(**place, storage_key=new)


def _killed_after(steps: int, work: Callable[[], object]) -> bool:
    """Work in a process that is killed before its next write to the disk after so many."""

    def step(real: Callable[..., object]) -> Callable[..., object]:
        def counted(*arguments: object) -> object:
            nonlocal steps
            if not steps:
                os.kill(os.getpid(), signal.SIGKILL)
            steps -= 1
            return real(*arguments)

        return counted

    child = os.fork()
    if not child:
        try:
            os.fsync, Path.rename = step(os.fsync), step(Path.rename)
            work()
        except BaseException:  # noqa: BLE001 (nothing of the tests goes on in here)
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL)
    return status != 0


def test_a_change_of_keys_killed_anywhere_loses_nothing_and_is_begun_again(
    node: Node, queue: JobQueue, version: VersionRow, engine: fakes.FakeEngine
) -> None:
    """Killed before each write to the disk in turn, with one more key every time."""
    job, opening = accepted(node, queue, version)
    assert job.opening
    data_dir = node.artifacts.folder.parent
    keys = (data_dir / KEY_NAME).read_text()
    place = {"data_dir": data_dir, "database_url": node.database.url}
    for steps in range(100):
        keys = new_key() + keys
        killed = _killed_after(
            steps, lambda keys=keys: storage.seal_all(Node.open(**place, storage_key=keys))
        )
        opened = [Node.open(**place, storage_key=keys)]
        with contextlib.suppress(StorageKeyWrong):  # the new one alone is refused, or opens all
            opened.append(Node.open(**place, storage_key=keys[: len(new_key())]))
        for other in opened:
            assert other.artifacts.get(job.opening) == opening
            files = other.bundle(manifest_from_dict(version.manifest)).files
            assert files["model"].read_bytes() == b"compiled tiny"
        if not killed:
            break
    assert steps > 8, "it was killed nowhere"
    assert len(opened) == 2


def test_what_is_sealed_under_the_old_key_during_the_change_is_sealed_anew(
    node: Node, queue: JobQueue, version: VersionRow, engine: fakes.FakeEngine
) -> None:
    """Somebody forgot to stop the service."""
    place = {"data_dir": node.artifacts.folder.parent, "database_url": node.database.url}
    old, new = (node.artifacts.folder.parent / KEY_NAME).read_text(), new_key()
    changing = Node.open(**place, storage_key=new + old)
    retire = changing.artifacts.retire_other_keys
    late: list[tuple[JobRow, bytes]] = []

    def retired() -> None:
        late.append(accepted(node, queue, version))
        retire()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(changing.artifacts, "retire_other_keys", retired)
        storage.seal_all(changing)
    ((job, opening),) = late
    assert job.opening
    assert Node.open(**place, storage_key=new).artifacts.get(job.opening) == opening
    with pytest.raises(StorageKeyWrong, match="replaced"):
        accepted(node, queue, version)


# the key of a node


def test_whoever_has_the_key_bounds_its_core_dumps(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounds = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (0, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", lambda *given: bounds.append(given))
    Node.open(**place(tmp_path))
    assert bounds == [(resource.RLIMIT_CORE, (1, 1))]


def test_whoever_has_the_key_leaves_no_core_dump(tmp_path: Path, database_url: str) -> None:
    script = """
import os, resource, sys
from pathlib import Path
from zkserve.node import Node
try:
    resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
except (OSError, ValueError):
    sys.exit(77)
Node.open(data_dir=Path("data"), database_url="sqlite://")
print(resource.getrlimit(resource.RLIMIT_CORE), flush=True)
os.abort()
"""
    command = [sys.executable, "-c", script]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    if ended.returncode == 77:
        pytest.skip("this machine allows no core dumps")
    assert ended.returncode == -signal.SIGABRT
    assert ended.stdout == "(1, 1)\n", "0 would still be piped to a program"
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def place(tmp_path: Path, **more: object) -> dict[str, object]:
    return {"data_dir": tmp_path / "data", "database_url": "sqlite://", **more}


def test_production_makes_no_key_of_its_own(tmp_path: Path, database_url: str) -> None:
    with pytest.raises(StorageKeyWrong, match="Production") as refused:
        Node.open(**place(tmp_path, production=True))
    assert "ZKSERVE_STORAGE_KEY_FILE" in str(refused.value)
    assert not (tmp_path / "data").exists()
    Node.open(**place(tmp_path, production=True, storage_key=new_key()))
    assert not (tmp_path / "data" / KEY_NAME).exists()


def test_production_takes_a_development_key_only_if_told(tmp_path: Path, database_url: str) -> None:
    Node.open(**place(tmp_path))
    with pytest.raises(StorageKeyWrong, match="Production"):
        Node.open(**place(tmp_path, production=True))
    path = tmp_path / "data" / KEY_NAME
    Node.open(**place(tmp_path, production=True, storage_key_file=path))


def test_a_key_that_is_gone_is_not_replaced_by_another(tmp_path: Path, database_url: str) -> None:
    digest = Node.open(**place(tmp_path)).artifacts.seal(b"weights")
    path = tmp_path / "data" / KEY_NAME
    kept = path.read_text()
    path.unlink()
    with pytest.raises(StorageKeyWrong, match=KEY_NAME):
        Node.open(**place(tmp_path))
    assert not path.exists()
    (tmp_path / "data" / "artifacts" / RECIPIENTS).unlink()  # as a backup may have left it out
    with pytest.raises(StorageKeyWrong, match=KEY_NAME):
        Node.open(**place(tmp_path))
    assert not path.exists()
    path.write_text(kept)
    path.chmod(0o600)
    assert Node.open(**place(tmp_path)).artifacts.get(digest) == b"weights"


def test_a_wrong_key_is_refused_before_the_database_is_opened(
    tmp_path: Path, database_url: str
) -> None:
    Node.open(**place(tmp_path))
    elsewhere = tmp_path / "database"
    with pytest.raises(StorageKeyWrong):
        Node.open(
            data_dir=tmp_path / "data",
            database_url=f"sqlite:///{elsewhere}",
            storage_key=new_key(),
        )
    assert not elsewhere.exists()


def test_a_key_file_may_be_commented(tmp_path: Path, database_url: str) -> None:
    key = new_key()
    (tmp_path / "key").write_text("# made today\n" + key + "\n")
    (tmp_path / "key").chmod(0o600)
    node = Node.open(**place(tmp_path, storage_key_file=tmp_path / "key"))
    assert node.artifacts.key.recipients == StorageKey(key).recipients
