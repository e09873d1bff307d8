"""What confined children cannot do, whichever wall this machine has; and that limits still hold."""

from __future__ import annotations

import dataclasses
import os
import resource
import signal
import threading
import time
import types
from pathlib import Path
from typing import Any

import psutil
import pytest

from zkserve import runtime
from zkserve.engines import child as child_module
from zkserve.engines import holdings, replies, sandbox
from zkserve.engines.base import Limits
from zkserve.engines.child import Child, run_child
from zkserve.engines.sandbox import Reach, Walls
from zkserve.errors import (
    ChildKilled,
    ChildTimeout,
    EngineFailed,
    InputOutOfRange,
    JobCancelled,
    Unavailable,
)

STEPS = "tests.child_steps:"
LIMITS = Limits(time_s=30, memory_bytes=512 << 20)
TESTS = Path(__file__).resolve().parents[1]
THIS_MACHINE = sandbox.walls()


@pytest.fixture(autouse=True)
def _own_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(runtime.VARIABLE, str(tmp_path / "runtime"))
    yield
    assert not list(runtime.root().iterdir()), "a private folder was left behind"


def stand(monkeypatch: pytest.MonkeyPatch, **changed: bool) -> Walls:
    walls = dataclasses.replace(THIS_MACHINE, **changed)
    monkeypatch.setattr(sandbox, "walls", lambda: walls)
    return walls


@pytest.fixture(params=["bubblewrap", "landlock", "neither"])
def wall(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "bubblewrap" and not THIS_MACHINE.bubblewrap:
        pytest.skip("bubblewrap is not installed, or user namespaces are forbidden")
    if request.param == "landlock" and not THIS_MACHINE.landlock:
        pytest.skip("this kernel has no Landlock")
    stand(
        monkeypatch,
        bubblewrap=request.param == "bubblewrap",
        landlock=THIS_MACHINE.landlock and request.param == "landlock",
    )
    return request.param


@pytest.fixture
def reach(tmp_path: Path) -> Reach:
    (tmp_path / "out").mkdir()
    return Reach(readable=(TESTS,), writable=(tmp_path / "out",))


def gone(pid: int) -> bool:
    for _ in range(200):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


def test_a_confined_child_reaches_only_what_it_was_given(wall: str, reach: Reach, tmp_path: Path):
    secret = tmp_path / "data" / "signer.key"
    secret.parent.mkdir()
    secret.write_bytes(b"secret")
    found = run_child(
        STEPS + "try_out",
        limits=LIMITS,
        reach=reach,
        secret=str(secret),
        out=str(reach.writable[0]),
        parent=os.getpid(),
    ).value
    allowed = {"write a result", "write in private"}
    if wall == "neither":  # files are not held; the rest is
        allowed |= {name for name, end in found.items() if "secret" in name or "it" in name}
        allowed |= {"read the parent's environment", "read passwords", "write into the package"}
        Path(TESTS, "evil.py").unlink(missing_ok=True)
    if not THIS_MACHINE.seccomp:
        pytest.skip("libseccomp is not installed: sockets and signals are not refused")
    assert {name for name, end in found.items() if end == "done"} <= allowed
    assert found["write a result"] == found["write in private"] == "done"
    assert (reach.writable[0] / "result").read_text() == "result"
    assert not Path(TESTS, "evil.py").exists()


def test_a_confined_child_meddles_with_nothing_that_landlock_leaves_open(wall: str, tmp_path: Path):
    if not THIS_MACHINE.seccomp:
        pytest.skip("libseccomp is not installed")
    file = tmp_path / "circuit"
    file.write_bytes(b"")
    found = run_child(
        STEPS + "meddle",
        limits=LIMITS,
        reach=Reach(readable=(TESTS, file)),
        file=str(file),
        parent=os.getpid(),
    ).value
    assert len(found) > 20
    assert not [name for name, end in found.items() if end == "done"]


def test_a_confined_child_of_root_is_no_root(wall: str, reach: Reach):
    found = run_child(STEPS + "capabilities", limits=LIMITS, reach=reach).value
    assert [int(mask, 16) for mask in found] == [0, 0]


def test_a_wall_that_cannot_be_put_up_is_an_error(reach: Reach, monkeypatch: pytest.MonkeyPatch):
    if not THIS_MACHINE.landlock:
        pytest.skip("this kernel has no Landlock")
    stand(monkeypatch, bubblewrap=False)
    no_folder = ["/dev/null/none"], []
    monkeypatch.setattr(sandbox, "landlock_paths", lambda folder, reach: no_folder)
    with pytest.raises(ChildKilled, match="its sandbox could not be made"):
        run_child(STEPS + "add", limits=LIMITS, reach=reach, a=1, b=2)


class BrokenSeccomp:
    """libseccomp, but for one call that fails."""

    def __init__(self, **failing: int | None) -> None:
        self._failing = failing

    def __getattr__(self, name: str):
        return lambda *_: self._failing.get(name, 1 if name == "seccomp_init" else 0)


@pytest.mark.parametrize(
    "broken",
    [
        None,
        BrokenSeccomp(seccomp_init=None),
        BrokenSeccomp(seccomp_syscall_resolve_name=-1),
        BrokenSeccomp(seccomp_rule_add_array=-12),
        BrokenSeccomp(seccomp_load=-22),
    ],
)
def test_no_failure_of_the_filter_is_passed_over(
    broken: BrokenSeccomp | None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sandbox, "_libseccomp", lambda: broken)
    with pytest.raises(OSError, match=r"seccomp|filter"):
        sandbox._filter_calls(confined=True)


def test_no_failure_of_the_kernel_is_passed_over(monkeypatch: pytest.MonkeyPatch):
    libc = types.SimpleNamespace(prctl=lambda *_: -1, capset=lambda *_: -1)
    monkeypatch.setattr(sandbox.ctypes, "CDLL", lambda *_, **__: libc)
    with pytest.raises(OSError, match="prctl 38"):
        sandbox._control_process(sandbox._PR_SET_NO_NEW_PRIVS, 1)
    with pytest.raises(OSError, match="capabilities"):
        sandbox._drop_capabilities()


def test_bubblewrap_gives_namespaces_of_its_own(wall: str, reach: Reach):
    if wall != "bubblewrap":
        pytest.skip("only bubblewrap makes namespaces")
    found = run_child(STEPS + "ids", limits=LIMITS, reach=reach).value
    assert found["pid"] < 10
    assert found["host"] == "sandbox"


def test_no_child_has_a_network_confined_or_not(tmp_path: Path):
    if not THIS_MACHINE.seccomp:
        pytest.skip("libseccomp is not installed")
    found = run_child(
        STEPS + "try_out",
        limits=LIMITS,
        secret=str(tmp_path / "none"),
        out=str(tmp_path),
        parent=os.getpid(),
    ).value
    Path(TESTS, "evil.py").unlink(missing_ok=True)
    assert found["TCP"] == found["UDP"] == found["Unix socket"] == "PermissionError"


def test_limits_hold_behind_every_wall(wall: str, reach: Reach):
    with pytest.raises(ChildKilled, match="limit of 200 MiB"):
        run_child(
            STEPS + "grow",
            limits=Limits(memory_bytes=200 << 20, time_s=60),
            reach=reach,
            size_bytes=1 << 30,
        )
    with pytest.raises(ChildKilled, match="out of memory"):
        run_child(
            STEPS + "reserve",
            limits=Limits(memory_bytes=200 << 20, time_s=60),
            reach=reach,
            size_bytes=64 << 30,
        )
    with pytest.raises(ChildTimeout, match="longer than 1 s"):
        run_child(STEPS + "hold_gil", limits=Limits(time_s=1), reach=reach, seconds=300)
    with pytest.raises(ChildKilled, match="SIGABRT"):
        run_child(STEPS + "abort", limits=LIMITS, reach=reach)
    with pytest.raises(ChildKilled, match="exit status 255"):
        run_child(STEPS + "exit_with", limits=LIMITS, reach=reach, status=255)


def test_a_confined_child_has_threads_but_starts_no_processes(wall: str, reach: Reach):
    child = Child(limits=LIMITS, reach=reach)
    assert child.call(STEPS + "run_threads").value == [0, 1, 2, 3]
    if THIS_MACHINE.seccomp:
        with pytest.raises(EngineFailed, match="PermissionError"):
            child.call(STEPS + "fork")
    child.close()


def test_what_a_confined_child_puts_into_its_folder_counts_as_memory(wall: str, reach: Reach):
    with pytest.raises(ChildKilled, match="limit of 200 MiB"):
        run_child(
            STEPS + "fill",
            limits=Limits(memory_bytes=200 << 20, time_s=60),
            reach=reach,
            size_bytes=300 << 20,
        )


@pytest.mark.parametrize(
    "how", ["deleted and open", "deleted and mapped", "memory of its own", "closed to its owner"]
)
def test_what_a_confined_child_hides_counts_as_memory(wall: str, reach: Reach, how: str):
    if how == "closed to its owner" and os.geteuid() == 0:
        pytest.skip("root lists every folder")
    with pytest.raises(ChildKilled, match="more than its limit of 200 MiB"):
        run_child(
            STEPS + "hide",
            limits=Limits(memory_bytes=200 << 20, time_s=20),
            reach=reach,
            size_bytes=400 << 20,
            how=how,
        )


def test_what_a_confined_child_puts_among_results_counts_as_memory(wall: str, reach: Reach):
    with pytest.raises(ChildKilled, match="limit of 200 MiB"):
        run_child(
            STEPS + "fill",
            limits=Limits(memory_bytes=200 << 20, time_s=20),
            reach=reach,
            folder=str(reach.writable[0]),
            size_bytes=300 << 20,
        )


@pytest.mark.parametrize(
    ("step", "arguments"),
    [
        ("make_many", {"count": 101}),
        ("nest", {"depth": 1500, "name": "d" * 200}),
        ("nest", {"depth": 30, "name": "d" * 200}),
    ],
)
def test_folders_without_end_end_the_child(
    wall: str,
    reach: Reach,
    step: str,
    arguments: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(holdings, "MAX_ENTRIES", 100)
    with pytest.raises(ChildKilled, match="cannot be measured"):
        run_child(STEPS + step, limits=Limits(time_s=20), reach=reach, **arguments)


def test_cancelling_leaves_no_process(wall: str, reach: Reach):
    asked = threading.Event()
    threading.Timer(0.7, asked.set).start()
    child = Child(limits=LIMITS, reach=reach)
    child.call(STEPS + "add", a=1, b=1)
    tree = [child.pid, *(p.pid for p in psutil.Process(child.pid).children(recursive=True))]
    with pytest.raises(JobCancelled):
        child.call(STEPS + "hold_gil", cancelled=asked.is_set, seconds=300)
    assert all(gone(pid) for pid in tree)


def test_a_confined_child_killed_from_outside_takes_its_tree_along(wall: str, reach: Reach):
    child = Child(limits=LIMITS, reach=reach)
    child.call(STEPS + "add", a=1, b=1)
    tree = [child.pid, *(p.pid for p in psutil.Process(child.pid).children(recursive=True))]
    os.kill(child.pid, signal.SIGKILL)
    assert all(gone(pid) for pid in tree)
    assert not child.alive
    child.close()


def test_cpu_time_is_bounded_where_nobody_watches(
    wall: str, reach: Reach, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(child_module, "_cpu_s", lambda limits: 1)
    with pytest.raises(ChildKilled, match="SIGXCPU, more CPU time"):
        run_child(STEPS + "burn", limits=Limits(time_s=60), reach=reach)


@pytest.mark.parametrize(
    "what",
    [
        *("pipe", "socket", "link", "second name", "holes", "depth", "number"),
        *("no right to read", "no right to list"),
    ],
)
def test_what_is_no_plain_file_among_results_is_refused(
    reach: Reach, what: str, monkeypatch: pytest.MonkeyPatch
):
    stand(monkeypatch, bubblewrap=False, landlock=False, seccomp=False)  # they would refuse some
    monkeypatch.setattr(holdings, "MAX_ENTRIES", 100)
    out = reach.writable[0]
    # Some of it may be seen before the child has answered.
    with pytest.raises((EngineFailed, ChildKilled), match=r"plain files|cannot be measured"):
        run_child(STEPS + "leave", limits=LIMITS, reach=reach, out=str(out), what=what)
    runtime._remove(out)
    assert not out.exists()


def test_results_are_bounded_in_sum(tmp_path: Path):
    for name in ("settings.json", "more.json"):
        (tmp_path / name).write_bytes(bytes(1000))
    holdings.require_plain(tmp_path, 2000)
    with pytest.raises(EngineFailed, match="plain files"):
        holdings.require_plain(tmp_path, 1999)


@pytest.mark.parametrize(
    "text",
    [
        "no JSON",
        "[]",
        '{"value": 1}',
        '{"progress": 1}',
        '{"error": {"kind": "InputOutOfRange", "message": 1, "remedy": null}}',
        '{"error": {"kind": "__class__"}}',
        '{"value": 1, "peak_rss_bytes": 1, "cpu_s": 1, "more": 1}',
        '{"value": 1, "peak_rss_bytes": -1, "cpu_s": 1}',
        '{"value": 1, "peak_rss_bytes": 1, "cpu_s": NaN}',
        '{"value": 1, "peak_rss_bytes": 1, "cpu_s": 1e999}',
        "[" * 200_000,
        "\x00",
    ],
)
def test_an_answer_that_is_none_ends_the_child(text: str):
    child = Child(limits=LIMITS)
    with pytest.raises(EngineFailed, match="no answer"):
        child.call(STEPS + "answer_raw", text=text)
    assert not child.alive


def test_an_endless_answer_does_not_fill_our_memory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(replies, "MAX_REPLY_BYTES", 4 << 20)
    with pytest.raises(EngineFailed, match="more than the 4 MiB it may"):
        run_child(STEPS + "answer_without_end", limits=LIMITS)


def test_an_answer_that_is_too_long_says_so_and_ends_nothing():
    child = Child(limits=LIMITS)
    assert len(child.call(STEPS + "return_much", size_bytes=15 << 20).value) == 15 << 20
    with pytest.raises(EngineFailed, match="more than the 16 MiB") as caught:
        child.call(STEPS + "return_much", size_bytes=16 << 20)
    assert caught.value.remedy
    assert child.call(STEPS + "add", a=1, b=2).value == 3
    child.close()


def test_a_child_that_takes_no_request_does_not_hang_its_parent():
    child = Child(limits=Limits(time_s=2))
    assert child.call(STEPS + "read_no_more").value == 1
    with pytest.raises(ChildTimeout):
        child.call(STEPS + "add", a=1, b="x" * (1 << 20))
    assert not child.alive


def test_an_answer_to_what_was_not_asked_ends_the_child():
    child = Child(limits=LIMITS)
    assert child.call(STEPS + "answer_twice").value == 1
    with pytest.raises(EngineFailed, match="before it was asked"):
        child.call(STEPS + "add", a=1, b="x" * (1 << 20))
    assert not child.alive


def test_progress_without_end_ends_the_child():
    child = Child(limits=LIMITS)
    with pytest.raises(EngineFailed, match="without end"):
        child.call(STEPS + "progress_without_end")
    assert not child.alive


@pytest.mark.parametrize("kind", ["JobCancelled", "ChildKilled", "ChildTimeout"])
def test_what_became_of_a_child_is_not_its_own_to_say(kind: str):
    with pytest.raises(EngineFailed, match=f"failed with {kind}") as caught:
        run_child(STEPS + "verdict", limits=LIMITS, kind=kind)
    assert type(caught.value) is EngineFailed


def test_an_answer_that_cannot_be_written_down_does_not_end_the_child():
    child = Child(limits=LIMITS)
    with pytest.raises(EngineFailed, match="TypeError"):
        child.call(STEPS + "return_bytes")
    assert child.call(STEPS + "add", a=1, b=2).value == 3
    child.close()


def test_what_an_error_repeats_is_harmless_to_a_terminal():
    with pytest.raises(InputOutOfRange) as caught:
        run_child(STEPS + "speak", limits=LIMITS, text="\x1b[2J\u202egnp.exe\n" + "x" * 10_000)
    assert caught.value.message.isprintable()
    assert "\\x1b[2J\\u202egnp" in caught.value.message
    assert len(caught.value.message) < 3000


@pytest.mark.parametrize("missing", [{"bubblewrap": False}, {"bubblewrap": True, "seccomp": False}])
def test_bubblewrap_can_be_required(
    missing: dict[str, bool], reach: Reach, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(sandbox.REQUIRE_VARIABLE, "require")
    walls = stand(monkeypatch, **missing)
    with pytest.raises(Unavailable, match="bubblewrap only") as caught:
        run_child(STEPS + "add", limits=LIMITS, reach=reach, a=1, b=2)
    assert str(walls) in caught.value.message
    assert "Install bubblewrap" in str(caught.value.remedy)
    assert run_child(STEPS + "add", limits=LIMITS, a=1, b=2).value == 3, "no model is read here"


def test_bubblewrap_that_does_not_work_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2; exit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert not sandbox._bubblewrap_works()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert not sandbox._bubblewrap_works()


@pytest.mark.parametrize("bubblewrap", [True, False])
@pytest.mark.parametrize("landlock", [True, False])
@pytest.mark.parametrize("seccomp", [True, False])
def test_the_walls_say_what_they_are_not(bubblewrap: bool, landlock: bool, seccomp: bool):
    said = str(Walls(bubblewrap=bubblewrap, landlock=landlock, seccomp=seccomp))
    assert ("bubblewrap" in said) == bubblewrap
    assert ("NONE" in said) == (not bubblewrap and not landlock)


def test_folders_deeper_than_we_may_open_files_are_removed(tmp_path: Path):
    at = tmp_path / "left"
    at.mkdir()
    deepest = at
    for _ in range(200):
        deepest = deepest / "d"
        deepest.mkdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (psutil.Process().num_fds() + 60, hard))
    try:
        runtime._remove(at)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not at.exists()
