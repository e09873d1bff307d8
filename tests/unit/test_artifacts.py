from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkserve import artifacts
from zkserve.artifacts import ArtifactStore
from zkserve.encoding import sha256_hex
from zkserve.errors import BundleMismatch, NotFound
from zkserve.sealing import StorageKey, new_key

ABSENT = "ab" * 32
KEY = StorageKey(new_key())


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "artifacts", KEY)


def files(store: ArtifactStore) -> set[str]:
    found = {path.name for path in store.folder.rglob("*") if path.is_file()}
    return found - {artifacts.RECIPIENTS}


@given(data=st.binary(max_size=4096))
def test_what_was_put_comes_back(data: bytes, tmp_path_factory: pytest.TempPathFactory):
    store = ArtifactStore(tmp_path_factory.mktemp("store"), KEY)
    digest = store.put(data)
    assert digest == sha256_hex(data)
    assert store.get(digest) == data
    store.check(digest)
    assert store.path(digest).read_bytes() == data
    assert store.put(data) == digest
    assert files(store) == {digest}


def test_a_file_of_many_blocks_is_copied(store: ArtifactStore, tmp_path: Path):
    source = tmp_path / "source"
    source.write_bytes(os.urandom((2 << 20) + 17))
    digest = store.put_file(source)
    assert digest == sha256_hex(source.read_bytes())
    source.write_bytes(b"changed afterwards")
    store.check(digest)


def test_only_this_user_may_look(store: ArtifactStore):
    digest = store.put(b"a proving key")
    assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(store.path(digest).parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(store.path(digest).stat().st_mode) == 0o600


def test_permissions_do_not_follow_the_umask(tmp_path: Path):
    before = os.umask(0)
    try:
        store = ArtifactStore(tmp_path / "open", KEY)
        digest = store.put(b"a proving key")
    finally:
        os.umask(before)
    assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(store.path(digest).stat().st_mode) == 0o600


@pytest.mark.parametrize("step", ["fsync", "rename"])
def test_a_write_cut_off_leaves_nothing(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, step: str
):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*(os, "fsync", full) if step == "fsync" else (Path, "rename", full))
    with pytest.raises(OSError, match="No space"):
        store.put(b"half of a key")
    assert not files(store)
    with pytest.raises(NotFound):
        store.get(sha256_hex(b"half of a key"))


def test_the_name_is_on_disk_before_the_digest_is_told(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
):
    """A power cut after ``put`` loses neither the file's name nor that of its folder."""
    synced: list[Path] = []
    monkeypatch.setattr(artifacts, "_sync_folder", synced.append)
    digest = store.put(b"data")
    assert synced == [store.folder, store.folder / digest[:2]]
    store.put(b"data")
    assert synced[2:] == [store.folder / digest[:2]]


def test_a_source_that_fails_midway_leaves_nothing(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source = tmp_path / "source"
    source.write_bytes(b"whole")

    class Interrupted:
        def __init__(self) -> None:
            self.blocks = 0

        def update(self, _: bytes) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(artifacts.hashlib, "sha256", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.put_file(source)
    assert not files(store)


def test_a_process_killed_while_writing_leaves_no_digest(store: ArtifactStore):
    """What SIGKILL leaves is a temporary name, which no digest finds."""
    (store.folder / ".new-abc").write_bytes(b"half")
    for name in (".new-abc", sha256_hex(b"half")):
        with pytest.raises(NotFound):
            store.path(name)


def test_an_altered_file_is_noticed_and_mended(store: ArtifactStore):
    digest = store.put(b"good")
    for bad in (b"bad!", b"", b"good\n"):
        store.path(digest).write_bytes(bad)
        with pytest.raises(BundleMismatch, match=digest):
            store.get(digest)
        with pytest.raises(BundleMismatch, match=digest):
            store.check(digest)
    store.put(b"good")
    assert store.get(digest) == b"good"


def test_what_is_absent_is_not_found(store: ArtifactStore):
    for look in (store.path, store.get, store.check):
        with pytest.raises(NotFound, match=ABSENT):
            look(ABSENT)
    store.delete(ABSENT)


def test_a_folder_under_a_digest_is_no_artifact(store: ArtifactStore):
    (store.folder / ABSENT[:2] / ABSENT).mkdir(parents=True)
    with pytest.raises(NotFound):
        store.get(ABSENT)


def test_what_was_deleted_is_gone_and_stays_out_of_others_way(store: ArtifactStore):
    kept, gone = store.put(b"kept"), store.put(b"gone")
    store.delete(gone)
    with pytest.raises(NotFound):
        store.get(gone)
    assert store.get(kept) == b"kept"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "..",
        "../" * 20 + "etc/passwd",
        "/etc/passwd",
        "a" * 63,
        "a" * 65,
        "A" * 64,
        "g" * 64,
        "a" * 63 + "\n",
        "a" * 63 + "/",
        "\u0661" * 64,
        ".new-" + "a" * 59,
    ],
)
def test_what_is_no_digest_leads_nowhere(store: ArtifactStore, name: str):
    for look in (store.path, store.get, store.check, store.delete):
        with pytest.raises(NotFound):
            look(name)


def test_free_space_is_that_of_the_stores_disk(store: ArtifactStore):
    assert 0 < store.free_bytes() < 1 << 60
