from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fakes import runs
from zkserve import processes
from zkserve.errors import Unavailable
from zkserve.processes import Processes

WAIT_S = 20.0
STUBBORN = "trap '' TERM; echo $$ > {name}.pid; while true; do sleep 0.1; done"
FAMILY = "sleep 1000 & echo $! > child.pid; echo $$ > {name}.pid; wait"


def pid_in(path: Path) -> int:
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        if path.exists() and (text := path.read_text().strip()):
            return int(text)
        time.sleep(0.02)
    pytest.fail(f"{path.name} was not written")


def gone(pid: int) -> bool:
    end = time.monotonic() + WAIT_S
    while runs(pid) and time.monotonic() < end:
        time.sleep(0.02)
    return not runs(pid)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(processes, "_STOP_TIMEOUT_S", 0.3)
    return tmp_path


def start(programs: Processes, folder: Path, name: str, script: str) -> int:
    programs.start(name, ["sh", "-c", script.format(name=name)])
    return pid_in(folder / f"{name}.pid")


def test_leaving_ends_all_of_them_with_their_children(folder: Path):
    with Processes(folder / "logs") as programs:
        one = start(programs, folder, "one", FAMILY)
        other = start(programs, folder, "other", STUBBORN)
        child = pid_in(folder / "child.pid")
        assert all(map(runs, (one, other, child)))
    assert all(map(gone, (one, other, child)))


def test_an_error_inside_ends_them_too(folder: Path):
    def fail() -> None:
        with Processes(folder / "logs") as programs:
            start(programs, folder, "one", STUBBORN)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert gone(pid_in(folder / "one.pid"))


def test_a_second_interrupt_while_stopping_leaves_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    stop = Processes.stop

    def impatient(self: Processes, name: str) -> None:
        stop(self, name)
        raise KeyboardInterrupt

    monkeypatch.setattr(Processes, "stop", impatient)
    with pytest.raises(KeyboardInterrupt), Processes(folder / "logs") as programs:
        pids = [start(programs, folder, name, STUBBORN) for name in ("one", "two", "three")]
    assert all(map(gone, pids))


def test_stop_asks_before_it_kills(folder: Path, monkeypatch: pytest.MonkeyPatch):
    polite = (
        "trap 'echo bye > left; exit 0' TERM; echo $$ > {name}.pid; while true; do sleep 0.02; done"
    )
    with Processes(folder / "logs") as programs:
        pid = start(programs, folder, "one", polite)
        monkeypatch.setattr(processes, "_STOP_TIMEOUT_S", WAIT_S)
        programs.stop("one")
        assert gone(pid)
    assert (folder / "left").read_text() == "bye\n"


def test_what_ended_says_its_last_words(folder: Path):
    with Processes(folder / "logs") as programs:
        start(programs, folder, "one", STUBBORN)
        programs.require_running("one")
        programs.start("other", ["sh", "-c", "echo no such luck >&2; exit 3"])
        programs._running["other"].wait(WAIT_S)
        with pytest.raises(Unavailable) as ended:
            programs.require_running("other")
        assert "other ended with status 3: no such luck" in ended.value.message
        assert str(folder / "logs" / "other.log") in str(ended.value.remedy)


def test_settings_of_ours_are_not_inherited(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ZKSERVE_SIGNER_KEY", "secret")
    with Processes(folder / "logs") as programs:
        programs.start("one", ["sh", "-c", "env"], environment={"ZKSERVE_PORT": "1"})
        programs._running["one"].wait(WAIT_S)
    seen = (folder / "logs" / "one.log").read_text()
    assert "ZKSERVE_PORT=1" in seen
    assert "secret" not in seen


def test_the_environment_is_added_to_and_input_is_empty(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("KEPT", "kept")
    with Processes(folder / "logs") as programs:
        command = 'read line; echo "$KEPT $ADDED <$line>"; echo $$ > one.pid'
        programs.start("one", ["sh", "-c", command], environment={"ADDED": "added"})
        pid_in(folder / "one.pid")
    assert (folder / "logs" / "one.log").read_text() == "kept added <>\n"


_PARENT = """
import sys, time
from pathlib import Path
from zkserve.processes import Processes
with Processes(Path("logs")) as programs:
    programs.start("one", ["sh", "-c", "echo $$ > one.pid; exec sleep 1000"])
    time.sleep(1000)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_programs_end_with_their_parent_however_that_ends(folder: Path, number: signal.Signals):
    with subprocess.Popen([sys.executable, "-c", _PARENT], stderr=subprocess.DEVNULL) as parent:
        pid = pid_in(folder / "one.pid")
        assert runs(pid)
        parent.send_signal(number)
        parent.wait(WAIT_S)
    assert gone(pid)
