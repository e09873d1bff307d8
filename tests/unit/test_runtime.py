"""The runtime folder: clear copies made once, kept while held, never another's, gone at the end."""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import stat
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import psutil
import pytest

from zkserve import runtime
from zkserve.errors import Unavailable
from zkserve.runtime import ClearCopies, Held

NAME, OTHER = "ab" * 32, "cd" * 32
PATIENCE_S = 120.0


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(runtime.VARIABLE, str(tmp_path / "memory"))
    return tmp_path / "memory"


@pytest.fixture
def copies(tmp_path: Path) -> ClearCopies:
    return ClearCopies(tmp_path)


def writing(data: bytes, made: list[int] | None = None) -> Callable[[BinaryIO], None]:
    def write(file: BinaryIO) -> None:
        if made is not None:
            made.append(1)
        file.write(data)

    return write


def never(_: BinaryIO) -> None:
    pytest.fail("it was made again")


def test_a_copy_is_made_once_and_stays(copies: ClearCopies):
    held = copies.hold(NAME, 6, writing(b"secret"))
    assert held.path.read_bytes() == b"secret"
    del held
    assert copies.hold(NAME, 6, never).path.read_bytes() == b"secret"


def test_only_this_user_may_look(copies: ClearCopies, root: Path):
    before = os.umask(0)
    try:
        held = copies.hold(NAME, 6, writing(b"secret"))
    finally:
        os.umask(before)
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    assert stat.S_IMODE(copies.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(held.path.stat().st_mode) == 0o400


@pytest.mark.parametrize("trap", ["open to others", "link", "file"])
def test_a_folder_laid_out_by_somebody_else_is_refused(
    copies: ClearCopies, root: Path, tmp_path: Path, trap: str
):
    root.mkdir(exist_ok=True)
    if trap == "open to others":
        copies.folder.mkdir()
        copies.folder.chmod(0o755)
    elif trap == "link":
        (tmp_path / "theirs").mkdir(mode=0o700)
        copies.folder.symlink_to(tmp_path / "theirs")
    else:
        copies.folder.touch()
    with pytest.raises(Unavailable, match="private folder"):
        copies.hold(NAME, 6, writing(b"secret"))
    assert not list(tmp_path.rglob(NAME))


def test_many_at_once_make_one_copy(tmp_path: Path):
    made: list[int] = []
    start = threading.Barrier(8)
    found: list[Held] = []

    def ask() -> None:
        own = ClearCopies(tmp_path)
        start.wait()
        found.append(own.hold(NAME, 1 << 20, writing(b"s" * (1 << 20), made)))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [held.path.read_bytes() for held in found] == [b"s" * (1 << 20)] * 8
    assert len(made) == 1


def test_a_failure_leaves_nothing_and_the_next_one_succeeds(copies: ClearCopies):
    def fail(file: BinaryIO) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copies.hold(NAME, 6, fail)
    assert not [p for p in copies.folder.iterdir() if p.suffix not in (".lock", ".making")]
    assert copies.hold(NAME, 6, writing(b"secret")).path.read_bytes() == b"secret"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_no_room_says_what_to_do(copies: ClearCopies, number: int):
    def full(_: BinaryIO) -> None:
        raise OSError(number, "full")

    with pytest.raises(Unavailable, match="too small") as refused:
        copies.hold(NAME, 6, full)
    assert "--shm-size" in str(refused.value)
    assert "ZKSERVE_RUNTIME_DIR" in str(refused.value)


def _bound(monkeypatch: pytest.MonkeyPatch, copies: ClearCopies, total: int) -> None:
    def free() -> int:
        used = sum(path.stat().st_size for path in copies.folder.glob("*"))
        return total + runtime.MARGIN_BYTES - used

    monkeypatch.setattr(runtime, "free_bytes", free)


def test_what_never_fits_is_refused_before_it_is_opened(
    copies: ClearCopies, monkeypatch: pytest.MonkeyPatch
):
    _bound(monkeypatch, copies, 100)
    with pytest.raises(Unavailable, match="too small"):
        copies.hold(NAME, 101, never)


def test_the_longest_unused_goes_first_where_room_is_short(
    copies: ClearCopies, monkeypatch: pytest.MonkeyPatch
):
    _bound(monkeypatch, copies, 100)
    names = [letter * 64 for letter in "abcd"]
    for name in names[:3]:
        path = copies.hold(name, 30, writing(bytes(30))).path
        os.utime(path, (1000 + ord(name[0]),) * 2)
    copies.hold(names[0], 30, never)  # used just now
    copies.hold(names[3], 30, writing(bytes(30)))
    assert {path.name for path in copies.folder.glob("*") if not path.suffix} == {
        *(names[0], names[2], names[3])
    }


def test_what_is_held_never_goes(copies: ClearCopies, monkeypatch: pytest.MonkeyPatch):
    _bound(monkeypatch, copies, 100)
    held = copies.hold(NAME, 60, writing(bytes(60)))
    with pytest.raises(Unavailable, match="too small"):
        copies.hold(OTHER, 60, never)
    assert held.path.exists()
    del held
    copies.hold(OTHER, 60, writing(bytes(60)))
    assert not (copies.folder / NAME).exists()


def test_the_last_to_leave_removes_all(tmp_path: Path):
    first, second = ClearCopies(tmp_path), ClearCopies(tmp_path)
    folder = first.folder
    first.hold(NAME, 6, writing(b"secret"))
    second.hold(NAME, 6, never)
    del first
    assert (folder / NAME).exists(), "another one still works there"
    second.hold(NAME, 6, never)
    del second
    assert not folder.exists()


def test_copies_that_vanish_are_made_again(copies: ClearCopies):
    copies.hold(NAME, 6, writing(b"secret"))
    shutil.rmtree(copies.folder)  # as systemd does at a logout, or a reboot
    assert copies.hold(NAME, 6, writing(b"secret")).path.read_bytes() == b"secret"


HOLDER = """
    import sys, time
    from pathlib import Path
    from zkserve.runtime import ClearCopies

    def write(file):
        file.write(b"half")
        file.flush()
        if sys.argv[2] == "inside":
            print("ready", flush=True)
            time.sleep(300)
        file.write(b" whole")

    held = ClearCopies(Path(sys.argv[1])).hold("ab" * 32, 10, write)
    print("ready", flush=True)
    time.sleep(300 if sys.argv[2] == "after" else 0)
"""


def _holder(sealed: Path, stage: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(HOLDER), str(sealed), stage]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("stage", ["inside", "after"])
def test_a_process_killed_in_the_middle_blocks_and_spoils_nothing(
    tmp_path: Path, copies: ClearCopies, stage: str
):
    other = _holder(tmp_path, stage)
    other.kill()
    other.communicate()
    held = copies.hold(NAME, 10, writing(b"half whole"))
    assert held.path.read_bytes() == b"half whole"
    assert {path.suffix for path in copies.folder.iterdir()} == {"", ".lock", ".making"}


def test_what_another_process_holds_stays_and_is_shared(
    tmp_path: Path, copies: ClearCopies, monkeypatch: pytest.MonkeyPatch
):
    other = _holder(tmp_path, "after")
    assert copies.hold(NAME, 10, never).path.read_bytes() == b"half whole"
    _bound(monkeypatch, copies, 15)
    with pytest.raises(Unavailable, match="too small"):
        copies.hold(OTHER, 10, never)
    other.kill()
    other.communicate()
    copies.hold(OTHER, 10, writing(bytes(10)))


def test_what_a_killed_process_left_half_made_takes_no_room_from_its_successor(
    tmp_path: Path, copies: ClearCopies, monkeypatch: pytest.MonkeyPatch
):
    other = _holder(tmp_path, "inside")
    other.kill()
    other.communicate()
    assert [path.stat().st_size for path in copies.folder.glob("*.part")] == [4]
    _bound(monkeypatch, copies, 10)
    held = copies.hold(NAME, 10, writing(b"half whole"))
    assert held.path.read_bytes() == b"half whole"


def test_a_copy_that_vanished_is_made_again_though_somebody_holds_it(
    tmp_path: Path, copies: ClearCopies
):
    """Whoever deletes single files, as systemd-tmpfiles may, stops nobody for good."""
    first = copies.hold(NAME, 6, writing(b"secret"))
    first.path.unlink()
    found: list[Held] = []
    seeker = threading.Thread(
        target=lambda: found.append(ClearCopies(tmp_path).hold(NAME, 6, writing(b"secret"))),
        daemon=True,
    )
    seeker.start()
    seeker.join(PATIENCE_S)
    assert found, "it waits for who holds what is not there"
    assert first.path.read_bytes() == b"secret"


STORM = """
    import os, random, sys, time
    from pathlib import Path
    from zkserve import runtime
    from zkserve.errors import Unavailable

    sealed, seed, rounds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    copies, draw = runtime.ClearCopies(sealed), random.Random(seed)
    SIZE, FIT = 4096, 3

    def free():
        used = 0
        for path in copies.folder.glob("*"):
            try:
                used += path.stat().st_size
            except FileNotFoundError:
                pass
        return FIT * SIZE + runtime.MARGIN_BYTES - used

    def content(name):
        return (name * SIZE)[:SIZE].encode()

    def write(file):
        data = content(name)
        file.write(data[:100])
        file.flush()
        if draw.random() < 0.2:
            time.sleep(0.002)
        file.write(data[100:])

    runtime.free_bytes = free
    while rounds:
        name = draw.choice("abcdef") * 64
        try:
            held = copies.hold(name, SIZE, write)
        except Unavailable:  # others hold all the room
            time.sleep(0.001)
            continue
        rounds -= 1
        print("working", flush=True)
        for _ in range(3):
            if held.path.read_bytes() != content(name):
                sys.exit("what is held was changed")
            time.sleep(draw.random() / 2000)
        del held
"""


def _storm(sealed: Path, seed: int, rounds: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(STORM), str(sealed), str(seed), str(rounds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_processes_that_come_go_and_are_killed_share_what_does_not_fit_them_all(
    tmp_path: Path, copies: ClearCopies
):
    """Room for three of six copies: each one held is whole, and everybody gets on."""
    lasting = [_storm(tmp_path, seed, 150) for seed in range(3)]
    draw = random.Random(7)
    try:
        for seed in range(10, 16):
            with _storm(tmp_path, seed, 1 << 30) as doomed:
                assert doomed.stdout is not None
                assert doomed.stdout.readline() == "working\n"
                time.sleep(draw.uniform(0.0, 0.05))
                doomed.kill()
        for process in lasting:
            _, said = process.communicate(timeout=PATIENCE_S)
            assert process.returncode == 0, said
    finally:
        for process in lasting:
            process.kill()
            process.communicate()
    for name in "abcdef":  # nothing is left locked
        held = copies.hold(name * 64, 1, writing((name * 4096).encode()))
        assert held.path.read_bytes() == (name * 4096).encode()
        del held


def test_a_process_that_ends_leaves_nothing(tmp_path: Path, copies: ClearCopies):
    other = _holder(tmp_path, "not at all")
    other.communicate()
    assert other.returncode == 0
    assert not copies.folder.exists()


def test_a_private_folder_goes_when_it_is_left_and_when_its_owner_was_killed(
    root: Path, monkeypatch: pytest.MonkeyPatch
):
    with runtime.private_folder() as folder:
        assert folder.parent == root
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        monkeypatch.setattr(runtime, "ABANDONED_AFTER_S", -1)
        runtime.sweep_abandoned()
        assert folder.exists(), "it is in use"
    assert not folder.exists()
    abandoned = root / (runtime.FOLDER_PREFIX + "x")
    abandoned.mkdir()
    runtime.sweep_abandoned()
    assert not abandoned.exists()


def test_room_in_memory_is_bounded_by_memory(monkeypatch: pytest.MonkeyPatch):
    """A file system in memory may promise more than there is."""
    monkeypatch.setattr(runtime, "in_memory", lambda _: True)
    fields = psutil.virtual_memory()._replace(available=12345)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: fields)
    assert runtime.free_bytes() == 12345


@pytest.mark.parametrize(
    ("hard", "bound"), [(resource.RLIM_INFINITY, 1), (1 << 30, 1), (1, 1), (0, 0)]
)
def test_no_core_is_left_and_none_piped_to_a_program(
    hard: int, bound: int, monkeypatch: pytest.MonkeyPatch
):
    """Linux pipes a core whatever its bound is, but for a bound of 1."""
    bounds = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (0, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda *given: bounds.append(given))
    runtime.leave_no_core()
    assert bounds == [(resource.RLIMIT_CORE, (bound, bound))]


def test_it_is_told_apart_what_lies_in_memory():
    assert not runtime.in_memory(Path(runtime.__file__))
    if not Path("/dev/shm").is_dir():
        pytest.skip("this machine has no /dev/shm")
    assert runtime.in_memory(Path("/dev/shm"))


def test_without_the_setting_it_is_memory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(runtime.VARIABLE)
    if os.access("/dev/shm", os.W_OK):
        assert runtime.root() == Path("/dev/shm")
    monkeypatch.setattr(runtime, "_MEMORY", Path("/nowhere"))
    assert runtime.root().is_dir()


def test_what_others_leave_under_a_childs_name_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(runtime.VARIABLE, str(tmp_path))
    pipe, nested = (tmp_path / (runtime.FOLDER_PREFIX + name) for name in ("pipe", "nested"))
    os.mkfifo(pipe)
    nested.mkdir()
    descriptor = os.open(nested, os.O_RDONLY)
    for _ in range(1500):  # by descriptors: the whole path is longer than a path may be
        os.mkdir("deeper", dir_fd=descriptor)
        inner = os.open("deeper", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(descriptor)
    for path in (pipe, nested):
        os.utime(path, (0, 0))
    runtime.sweep_abandoned()
    assert [path.name for path in tmp_path.iterdir()] == [pipe.name]
