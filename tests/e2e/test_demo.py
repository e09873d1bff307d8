"""The demo does the whole job, and whatever happens to it nothing keeps running."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from zkserve import runtime

pytestmark = [pytest.mark.e2e, pytest.mark.chain, pytest.mark.prover]

ROOT = Path(__file__).parents[2]
MARK = "DEMO_OF_TEST"
DEMO_TIMEOUT_S = 400
STEP_TIMEOUT_S = 120
PROMISED = {
    "model",
    "engine",
    "weights_mode",
    "rows",
    "prove_s",
    "peak_rss_mb",
    "proof_bytes",
    "gas_fulfil",
    "agreement_max_abs",
    "verified_offline",
    "settled_on_chain",
    "callback_ok",
}


@dataclass(frozen=True, kw_only=True)
class Demo:
    """A demo at work, with all it ever starts marked in the environment.

    Children that touch models get an environment of their own, with a home in the runtime folder.
    """

    process: subprocess.Popen[bytes]
    folder: Path
    temporary: Path
    mark: str

    @property
    def memory(self) -> Path:
        """The runtime folder that it was given."""
        return self.temporary / "runtime"

    def running(self) -> dict[int, str]:
        """Return the command of each live process of this demo, wherever it was moved to."""
        found = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                environment = process.environ()
                home = Path(environment.get("HOME", "/"))
                if environment.get(MARK) == self.mark or home.is_relative_to(self.temporary):
                    found[process.pid] = " ".join(process.cmdline())
        return found

    def wait_for(self, *programs: str) -> None:
        """Wait until processes run whose commands end so."""
        end = time.monotonic() + STEP_TIMEOUT_S
        while time.monotonic() < end:
            commands = self.running().values()
            if all(any(program in command for command in commands) for program in programs):
                return
            assert self.process.poll() is None, self.output()
            time.sleep(0.1)
        pytest.fail(f"{programs} did not all start: {self.running()}\n{self.output()}")

    def wait_until_gone(self) -> None:
        """Wait until nothing of it is left; what a signal ended takes a moment to go."""
        end = time.monotonic() + 30
        while (left := self.running()) and time.monotonic() < end:
            time.sleep(0.1)
        assert not left

    def output(self) -> str:
        return (self.folder / "error.txt").read_text(errors="replace")[-4000:]


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    mark = uuid.uuid4().hex
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ZKSERVE_")}
    with (
        (tmp_path / "answer.txt").open("wb") as answer,
        (tmp_path / "error.txt").open("wb") as error,
    ):
        process = subprocess.Popen(
            [sys.executable, "-m", "zkserve", "demo", "--json", "--folder", str(tmp_path)],
            env=environment
            | {MARK: mark, "TMPDIR": str(temporary), runtime.VARIABLE: str(temporary / "runtime")},
            stdin=subprocess.DEVNULL,
            stdout=answer,
            stderr=error,
            start_new_session=True,
        )
    demo = Demo(process=process, folder=tmp_path, temporary=temporary, mark=mark)
    try:
        yield demo
    finally:
        for pid in demo.running():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def test_the_demo_proves_settles_and_verifies_two_predictions(demo: Demo):
    status = demo.process.wait(DEMO_TIMEOUT_S)
    assert status == 0, demo.output()
    written = json.loads((demo.folder / "demo.json").read_text())
    assert json.loads((demo.folder / "answer.txt").read_text()) == written
    over_http, on_chain = written["predictions"]
    for prediction in (over_http, on_chain):
        assert prediction.keys() == PROMISED
        assert prediction["model"] == "breast_cancer"
        assert prediction["engine"].startswith("native ")
        assert prediction["weights_mode"] == "committed"
        assert prediction["verified_offline"] is True
        assert prediction["rows"] > 0
        assert prediction["prove_s"] > 0
        assert prediction["peak_rss_mb"] > 0
        assert prediction["proof_bytes"] > 0
        assert 0 < prediction["agreement_max_abs"] <= 0.01
    assert (over_http["gas_fulfil"], over_http["settled_on_chain"]) == (None, False)
    assert over_http["callback_ok"] is None
    assert on_chain["gas_fulfil"] > 200_000
    assert on_chain["settled_on_chain"] is True
    assert on_chain["callback_ok"] is True
    assert written["development_srs"] is True
    for name in ("http", "on-chain"):
        assert (demo.folder / "demo" / f"{name}.receipt.json").is_file()
    demo.wait_until_gone()
    assert not list(demo.temporary.glob("zkserve-demo-*"))
    assert not list(demo.memory.iterdir())


def test_an_interrupted_demo_cleans_up(demo: Demo):
    demo.wait_for("anvil", "zkserve serve", "zkserve work")
    data_folders = list(demo.temporary.glob("zkserve-demo-*"))
    assert data_folders
    demo.process.send_signal(signal.SIGINT)
    assert demo.process.wait(60) == 130, demo.output()
    demo.wait_until_gone()
    assert not list(demo.temporary.glob("zkserve-demo-*"))
    assert not list(demo.memory.iterdir())
    assert not (demo.folder / "demo.json").exists()
    assert "Traceback" not in demo.output()


def test_what_a_demo_opens_lies_in_the_runtime_folder_that_was_set_and_goes_with_it(demo: Demo):
    """Also where service and worker are killed, which leave their clear copies behind."""
    demo.wait_for("anvil", "zkserve serve", "zkserve work")
    end = time.monotonic() + STEP_TIMEOUT_S
    while not [path for path in demo.memory.rglob("*") if len(path.name) == 64]:
        assert time.monotonic() < end, "no clear copy is in it"
        assert demo.process.poll() is None, demo.output()
        time.sleep(0.05)
    for pid, command in demo.running().items():
        if command.endswith(("zkserve serve", "zkserve work")):
            os.kill(pid, signal.SIGKILL)
    assert demo.process.wait(STEP_TIMEOUT_S) == 1, demo.output()
    demo.wait_until_gone()
    assert not list(demo.memory.iterdir())


def test_a_demo_interrupted_while_it_builds_cleans_up(demo: Demo):
    demo.wait_for("anvil", "engines/sandbox.py")
    demo.process.send_signal(signal.SIGINT)
    assert demo.process.wait(60) == 130, demo.output()
    demo.wait_until_gone()
    assert not list(demo.temporary.glob("zkserve-demo-*"))
    assert not list(demo.memory.iterdir())


def test_a_demo_told_to_end_cleans_up(demo: Demo):
    demo.wait_for("anvil")
    demo.process.terminate()
    assert demo.process.wait(60) != 0
    demo.wait_until_gone()
    assert not list(demo.temporary.glob("zkserve-demo-*"))
    assert not list(demo.memory.iterdir())


def test_what_a_killed_demo_started_ends_with_it(demo: Demo):
    demo.wait_for("anvil", "zkserve serve", "zkserve work")
    demo.process.kill()
    demo.process.wait()
    demo.wait_until_gone()
