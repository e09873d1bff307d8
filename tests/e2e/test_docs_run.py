"""README and quickstarts do what they say: their blocks run in order, in one shell, for real."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.chain, pytest.mark.prover]

ROOT = Path(__file__).parents[2]
PAGES = (
    "docs/quickstart-owner.md",
    "docs/quickstart-dapp.md",
    "README.md",
    "docs/quickstart-contract.md",
)
BLOCK = re.compile(r"^```(bash|python) run\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TIMEOUT_S = 500


def script(pages: tuple[str, ...], ports: dict[str, int]) -> str:
    lines = ["set -euo pipefail"]
    for page in pages:
        text = (ROOT / page).read_text()
        for number, (language, code) in enumerate(BLOCK.findall(text), start=1):
            for written, free in ports.items():
                code = code.replace(written, str(free))
            lines.append(f"echo '== {page} block {number}'")
            lines.append(f"python - <<'BLOCK'\n{code}BLOCK" if language == "python" else code)
    return "\n".join(lines)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def run(code: str, folder: Path, port: int) -> tuple[int, str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("ZKSERVE_", "ETH_"))}
    environment["PATH"] = os.pathsep.join(
        [
            str(ROOT / ".venv/bin"),
            str(ROOT / "contracts/node_modules/.bin"),
            environment["PATH"],
        ]
    )
    environment["ZKSERVE_PORT"] = str(port)
    output = folder / "output.txt"
    with output.open("wb") as file:
        shell = subprocess.Popen(
            ["bash", "-c", code],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = shell.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            status = -1
        finally:
            end_group(shell)
    return status, output.read_text(errors="replace")


def end_group(shell: subprocess.Popen[bytes]) -> None:
    """End the shell and all that the blocks left running in the background."""
    end = time.monotonic() + 15
    with contextlib.suppress(ProcessLookupError):
        os.killpg(shell.pid, signal.SIGTERM)
        while time.monotonic() < end:
            shell.poll()
            os.killpg(shell.pid, 0)
            time.sleep(0.1)
        os.killpg(shell.pid, signal.SIGKILL)
    shell.wait()


def test_the_quickstarts_run(tmp_path: Path):
    for name in ("circuits", "contracts"):
        (tmp_path / name).symlink_to(ROOT / name)
    ports = {"8000": free_port(), "8545": free_port()}
    status, output = run(script(PAGES, ports), tmp_path, ports["8000"])
    assert status == 0, output[-6000:]
    assert "decision 3" in output
    assert output.count("valid  values") == 5, output[-6000:]
    assert (tmp_path / "case.opening.json").exists()


def test_a_block_that_fails_is_noticed(tmp_path: Path):
    status, _ = run("set -euo pipefail\nfalse\necho reached", tmp_path, free_port())
    assert status == 1
