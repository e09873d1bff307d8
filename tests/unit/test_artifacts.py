from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkserve import artifacts, runtime
from zkserve.artifacts import ArtifactStore
from zkserve.encoding import sha256_hex
from zkserve.errors import BundleMismatch, NotFound, StorageKeyWrong
from zkserve.sealing import StorageKey, new_key

ABSENT = "ab" * 32
OLD = new_key()
KEY = StorageKey(OLD)


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


# secrets


def sealed_file(store: ArtifactStore, digest: str) -> Path:
    return store.folder / digest[:2] / f"{digest}.age"


def test_a_secret_is_sealed_and_comes_back(store: ArtifactStore, tmp_path: Path):
    data = os.urandom(100_000)
    (tmp_path / "source").write_bytes(data)
    digest = store.seal(data)
    assert digest == sha256_hex(data) == store.seal_file(tmp_path / "source")
    assert files(store) == {f"{digest}.age"}
    assert data[:16] not in sealed_file(store, digest).read_bytes()
    assert stat.S_IMODE(sealed_file(store, digest).stat().st_mode) == 0o600
    assert store.has(digest)
    assert store.get(digest) == data
    store.check(digest)
    assert store.hold(digest).path.read_bytes() == data
    with pytest.raises(NotFound):
        store.path(digest)
    store.delete(digest)
    assert not store.has(digest)
    assert not files(store)


def test_an_opening_that_is_read_is_nowhere_in_clear(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(runtime.VARIABLE, str(tmp_path / "runtime"))
    assert store.get(store.seal(b"an opening")) == b"an opening"
    assert not (tmp_path / "runtime").exists()


def test_a_clear_copy_is_not_in_the_folder_of_artifacts(store: ArtifactStore):
    held = store.hold(store.seal(b"a proving key"))
    assert not held.path.is_relative_to(store.folder.parent)
    assert held.path.is_relative_to(runtime.root())


def test_what_is_no_secret_is_held_where_it_lies(store: ArtifactStore):
    digest = store.put(b"a verifying key")
    assert store.hold(digest).path == store.path(digest)


@pytest.mark.parametrize("change", ["cut", "flipped", "exchanged", "emptied", "clear"])
def test_a_sealed_file_that_was_changed_is_a_mismatch(store: ArtifactStore, change: str):
    data = os.urandom(100_000)
    digest = store.seal(data)
    path = sealed_file(store, digest)
    whole = path.read_bytes()
    path.write_bytes(
        {
            "cut": whole[:-1],
            "flipped": whole[:-50] + bytes([whole[-50] ^ 1]) + whole[-49:],
            "exchanged": sealed_file(store, store.seal(b"other")).read_bytes(),
            "emptied": b"",
            "clear": data,
        }[change]
    )
    for look in (store.get, store.check, store.hold):
        with pytest.raises(BundleMismatch, match=digest):
            look(digest)
    store.seal(data)
    assert store.hold(digest).path.read_bytes() == data


def test_another_key_is_refused_before_anything_else(store: ArtifactStore):
    digest = store.seal(b"weights")
    before = {path: path.read_bytes() for path in store.folder.rglob("*") if path.is_file()}
    other = StorageKey(new_key())
    with pytest.raises(StorageKeyWrong, match=KEY.recipients[0]) as refused:
        ArtifactStore(store.folder, other)
    assert other.recipients[0] in str(refused.value)
    assert "ZKSERVE_STORAGE_KEY" in str(refused.value)
    assert {path: path.read_bytes() for path in before} == before
    (store.folder / artifacts.RECIPIENTS).unlink()  # as a backup may have left it out
    with pytest.raises(StorageKeyWrong, match="another storage key"):
        ArtifactStore(store.folder, other)
    assert ArtifactStore(store.folder, KEY).get(digest) == b"weights"
    with pytest.raises(StorageKeyWrong, match=KEY.recipients[0]):
        ArtifactStore(store.folder, other)


def test_a_replaced_key_seals_nothing_any_more(store: ArtifactStore, tmp_path: Path):
    """A process that was not stopped for the change would seal what nobody can open later."""
    digest = store.seal(b"weights")
    (tmp_path / "key").write_bytes(b"a proving key")
    new = new_key()
    later = ArtifactStore(store.folder, StorageKey(new + OLD))
    assert store.seal(b"an opening") == sha256_hex(b"an opening"), "both keys are there still"
    for sealed in (digest, sha256_hex(b"an opening")):
        assert later.reseal(sealed)
    later.retire_other_keys()
    before = files(store)
    for seal in (
        lambda: store.seal(b"another"),
        lambda: store.seal_file(tmp_path / "key"),
        lambda: store.reseal(digest),
    ):
        with pytest.raises(StorageKeyWrong):
            seal()
    with pytest.raises(StorageKeyWrong, match="replaced"):
        store.seal(b"another")
    assert files(store) == before


def test_what_is_sealed_anew_stays_open_until_it_is(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
):
    """Memory that is short takes clear copies away that nobody holds."""
    digest = store.seal(b"weights")
    both = ArtifactStore(store.folder, StorageKey(new_key() + OLD))
    begin = StorageKey.seal

    def pressed(key: StorageKey, source: BinaryIO, target: BinaryIO) -> str:
        runtime._discard(store.hold(digest).path)
        assert Path(source.name).exists()
        return begin(key, source, target)

    monkeypatch.setattr(StorageKey, "seal", pressed)
    assert both.reseal(digest)


def test_a_good_clear_file_is_not_given_up_for_a_sealed_one_that_was_altered(
    store: ArtifactStore,
):
    digest = store.seal(data := os.urandom(100_000))
    store.put(data)
    path = sealed_file(store, digest)
    path.write_bytes(path.read_bytes()[:-1])
    assert store.reseal(digest)
    assert files(store) == {f"{digest}.age"}
    assert store.get(digest) == data


def test_keys_change_without_a_moment_in_which_anything_is_lost(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
):
    old, new = new_key(), new_key()
    folder = store.folder.parent / "changing"
    digest = ArtifactStore(folder, StorageKey(old)).seal(b"weights")
    both = ArtifactStore(folder, StorageKey(new + old))
    assert both.get(digest) == b"weights"
    with pytest.raises(StorageKeyWrong):
        ArtifactStore(folder, StorageKey(new))
    with pytest.raises(StorageKeyWrong):
        ArtifactStore(folder, StorageKey(old))  # something may be sealed under the new one by now

    def cut_off(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", cut_off)
        with pytest.raises(KeyboardInterrupt):
            both.reseal(digest)
    assert both.get(digest) == b"weights"
    assert both.reseal(digest)
    assert not both.reseal(digest)
    both.retire_other_keys()
    assert ArtifactStore(folder, StorageKey(new)).get(digest) == b"weights"


def test_what_lies_in_clear_is_sealed_and_only_then_removed(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
):
    digest = store.put(b"weights")
    unlink = Path.unlink

    def killed(path: Path, missing_ok: bool = False) -> None:
        if path.name == digest:
            raise KeyboardInterrupt
        unlink(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            store.reseal(digest)
    assert files(store) == {digest, f"{digest}.age"}
    assert store.reseal(digest)
    assert files(store) == {f"{digest}.age"}
    assert store.get(digest) == b"weights"


def test_what_was_altered_in_clear_is_not_sealed_under_its_name(store: ArtifactStore):
    digest = store.put(b"weights")
    store.path(digest).write_bytes(b"weighty")
    with pytest.raises(BundleMismatch, match=digest):
        store.reseal(digest)
    assert store.path(digest).read_bytes() == b"weighty"
    assert files(store) == {digest}
