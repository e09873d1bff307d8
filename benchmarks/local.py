"""Programs on this machine's loopback: a port for each, and waiting until they answer."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import TypeVar

from zkserve.processes import Processes

_T = TypeVar("_T")
POLL_S = 0.05


def free_port() -> int:
    """Return a TCP port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def await_answer(
    processes: Processes, program: str, attempt: Callable[[], _T | None], *, timeout_s: float
) -> _T:
    """Try until something comes of it, as long as ``program`` runs and time is left."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        processes.require_running(program)
        if (found := attempt()) is not None:
            return found
        time.sleep(POLL_S)
    raise TimeoutError(f"{program} did not answer within {timeout_s:g} s")
