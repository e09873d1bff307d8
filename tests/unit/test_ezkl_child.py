"""Child processes end when they must, say why, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import psutil
import pytest

from zkserve import runtime
from zkserve.engines.base import Limits
from zkserve.engines.child import Child, run_child
from zkserve.errors import ChildKilled, ChildTimeout, EngineFailed, InputOutOfRange, JobCancelled
from zkserve.runtime import FOLDER_PREFIX, sweep_abandoned

STEPS = "tests.child_steps:"
LIMITS = Limits(time_s=30, memory_bytes=1 << 30)


@pytest.fixture(autouse=True)
def _own_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(runtime.VARIABLE, str(tmp_path))
    yield
    assert not list(tmp_path.glob(FOLDER_PREFIX + "*")), "a private folder was left behind"


def gone(pid: int) -> bool:
    for _ in range(200):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


def test_returns_the_answer_its_cost_and_its_progress():
    phrases: list[str] = []
    answer = run_child(STEPS + "add", limits=LIMITS, progress=phrases.append, a=2, b=3)
    assert answer.value == 5
    assert phrases == ["adding"]
    assert 5 << 20 < answer.peak_rss_bytes < 1 << 30
    assert answer.cpu_s >= 0
    assert answer.wall_s > 0


def test_a_child_that_proves_loads_no_library_that_it_does_without():
    # Small proofs take a second: a fifth of that was once spent on importing what nothing used.
    code = "import sys, zkserve.engines.answering, zkserve.engines.ezkl.steps; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "ezkl" in loaded.stdout.split()
    spared = {"asyncio", "eth_utils", "numpy", "onnx", "onnxruntime", "pydantic", "web3"}
    assert not spared.intersection(loaded.stdout.split())


def test_the_environment_is_bare_and_the_folders_are_private(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ZKSERVE_SIGNER_KEY", "secret")
    seen = run_child(STEPS + "environment", limits=LIMITS).value
    assert "ZKSERVE_SIGNER_KEY" not in seen
    assert seen["EZKL_REPO_PATH"] == seen["HOME"] == seen["TMPDIR"] == seen["cwd"]
    assert FOLDER_PREFIX in seen["cwd"]


def test_a_typed_error_comes_back_whole_and_the_child_goes_on():
    child = Child(limits=LIMITS)
    with pytest.raises(InputOutOfRange) as caught:
        child.call(STEPS + "refuse")
    assert caught.value.message == "too far."
    assert caught.value.remedy == "Come closer."
    assert child.alive
    assert child.call(STEPS + "add", a=1, b=1).value == 2
    child.close()
    assert not child.alive
    child.close()


def test_a_panic_is_an_engine_failure():
    with pytest.raises(EngineFailed, match="Panic: index out of bounds"):
        run_child(STEPS + "panic", limits=LIMITS)


@pytest.mark.parametrize(("step", "reason"), [("abort", "SIGABRT"), ("exit_early", "SystemExit")])
def test_a_crash_is_an_error(step: str, reason: str):
    with pytest.raises(EngineFailed, match=reason):
        run_child(STEPS + step, limits=LIMITS)


def test_time_runs_out_even_while_the_gil_is_held():
    with pytest.raises(ChildTimeout, match="longer than 1 s"):
        run_child(STEPS + "hold_gil", limits=Limits(time_s=1), seconds=300)


def test_memory_is_bounded_by_what_is_resident():
    with pytest.raises(ChildKilled, match="limit of 200 MiB"):
        run_child(STEPS + "grow", limits=Limits(memory_bytes=200 << 20), size_bytes=1 << 30)


def test_a_huge_allocation_fails_at_once():
    with pytest.raises(ChildKilled, match="out of memory"):
        run_child(STEPS + "reserve", limits=Limits(memory_bytes=200 << 20), size_bytes=64 << 30)


def test_cancelling_stops_the_child_while_the_gil_is_held():
    asked = threading.Event()
    timer = threading.Timer(0.5, asked.set)
    timer.start()
    child = Child(limits=LIMITS)
    pid = child.pid
    with pytest.raises(JobCancelled):
        child.call(STEPS + "hold_gil", cancelled=asked.is_set, seconds=300)
    assert gone(pid)
    assert not child.alive
    assert not child.folder.exists()


def test_a_child_killed_from_outside_is_noticed():
    child = Child(limits=LIMITS)
    timer = threading.Timer(0.5, os.kill, (child.pid, signal.SIGKILL))
    timer.start()
    with pytest.raises(ChildKilled, match="SIGKILL"):
        child.call(STEPS + "hold_gil", seconds=300)
    assert not child.alive


def test_an_idle_child_killed_from_outside_is_not_alive():
    child = Child(limits=LIMITS)
    os.kill(child.pid, signal.SIGKILL)
    while child.alive:
        time.sleep(0.01)
    child.close()


def test_offspring_ends_with_the_child():
    child = Child(limits=LIMITS)
    offspring = child.call(STEPS + "have_offspring").value
    assert psutil.pid_exists(offspring)
    child.close()
    assert gone(offspring)


def test_what_the_child_prints_is_not_shown(capfd: pytest.CaptureFixture[str]):
    run_child(STEPS + "chatter", limits=LIMITS)
    assert capfd.readouterr() == ("", "")


def test_a_child_outlives_the_thread_that_made_it():
    made: list[Child] = []
    thread = threading.Thread(target=lambda: made.append(Child(limits=LIMITS)))
    thread.start()
    thread.join()
    time.sleep(0.3)
    assert made[0].call(STEPS + "add", a=1, b=2).value == 3
    made[0].close()


def test_a_child_dies_with_its_parent_and_its_folder_is_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    code = """
        import os, threading
        from zkserve.engines.base import Limits
        from zkserve.engines.child import Child
        child = Child(limits=Limits())
        child.call("tests.child_steps:add", a=1, b=1)
        threading.Timer(60, os._exit, (1,)).start()
        print(child.pid, flush=True)
        child.call("tests.child_steps:hold_gil", seconds=300)
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True
    )
    pid = int(parent.stdout.readline())
    time.sleep(0.3)
    parent.kill()
    parent.communicate()
    assert gone(pid)
    (folder,) = tmp_path.glob(FOLDER_PREFIX + "*")
    sweep_abandoned()
    assert folder.exists(), "too young to be taken for abandoned"
    monkeypatch.setattr(runtime, "ABANDONED_AFTER_S", -1)
    alive = Child(limits=LIMITS)
    assert not folder.exists()
    sweep_abandoned()
    assert alive.folder.exists(), "a folder in use was swept"
    alive.close()
