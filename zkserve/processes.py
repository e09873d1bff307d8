"""Child processes that end with their parent, however that ends."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from zkserve.errors import Unavailable

_PR_SET_PDEATHSIG = 1
_STOP_TIMEOUT_S = 10.0
_libc = ctypes.CDLL(None, use_errno=True)


class Processes:
    """Starts named programs, each in a session of its own and logging to ``<folder>/<name>.log``.

    Leaving the context stops them all, newest first: SIGTERM, then SIGKILL to the whole group.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        with ExitStack() as stack:  # goes on where one stop is interrupted
            for name in self._running:
                stack.callback(self.stop, name)

    def start(
        self, name: str, command: Sequence[str], *, environment: Mapping[str, str] | None = None
    ) -> None:
        """Start a program; ``environment`` is added to this process's own, less its settings."""
        inherited = {name: value for name, value in os.environ.items() if "ZKSERVE_" not in name}
        with (self._folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=inherited | dict(environment or {}),
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )

    def require_running(self, name: str) -> None:
        """Check that a program still runs.

        Raises:
            Unavailable: it ended; its last words are in the message.

        """
        code = self._running[name].poll()
        if code is not None:
            words = (self._folder / f"{name}.log").read_text(errors="replace").strip()
            raise Unavailable(
                f"{name} ended with status {code}: {words[-500:]}.",
                remedy=f"Its log is {self._folder / name}.log.",
            )

    def stop(self, name: str) -> None:
        """Stop a program and everything it started."""
        process = self._running.pop(name)
        process.terminate()
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self._kill_group(process)

    @staticmethod
    def _kill_group(process: subprocess.Popen[bytes]) -> None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        finally:
            process.wait()


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
