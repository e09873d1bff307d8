"""The child's half of the protocol of :mod:`zkserve.engines.child`: calls in, answers out.

Every child imports this first, so it imports little: starting is most of what a short call costs.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import resource
import sys
from pathlib import Path
from typing import Any

from zkserve import errors
from zkserve.engines import replies

_reply_fd = -1


def report(phrase: str) -> None:
    """Tell the parent how far the work is; called in a child only."""
    _reply({"progress": phrase})


def _reply(message: dict[str, Any]) -> None:
    data = json.dumps(message).encode() + b"\n"
    if len(data) > replies.MAX_REPLY_BYTES:
        raise replies.too_long()
    while data:
        data = data[os.write(_reply_fd, data) :]


def _peak_rss_bytes() -> int:
    # Not getrusage: its maximum survives exec and would show the parent's memory.
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _serve(line: str) -> None:
    request = json.loads(line)
    module, _, name = request["target"].partition(":")
    used = resource.getrusage(resource.RUSAGE_SELF)
    try:
        value = getattr(importlib.import_module(module), name)(**request["arguments"])
    except errors.ZkserveError as exc:
        answer: dict[str, Any] = {
            "error": {"kind": type(exc).__name__, "message": exc.message, "remedy": exc.remedy}
        }
    except MemoryError:
        sys.stderr.write("MemoryError\n")
        os._exit(1)
    except BaseException as exc:  # noqa: BLE001 (a Rust panic is a BaseException)
        answer = {"error": {"kind": type(exc).__name__, "message": str(exc)[:300], "remedy": None}}
    else:
        now = resource.getrusage(resource.RUSAGE_SELF)
        answer = {
            "value": value,
            "peak_rss_bytes": _peak_rss_bytes(),
            "cpu_s": now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime,
        }
    try:
        _reply(answer)
    except errors.EngineFailed as exc:
        _reply({"error": {"kind": "EngineFailed", "message": exc.message, "remedy": exc.remedy}})
    except (TypeError, ValueError) as exc:  # no JSON: the text of a model that is no text
        error = {"kind": type(exc).__name__, "message": str(exc)[:300], "remedy": None}
        _reply({"error": error})


def main(reply_fd: int, cpu_s: int) -> None:
    """Serve calls until the parent closes the pipe; :mod:`sandbox` has restricted this process."""
    global _reply_fd
    os.set_inheritable(reply_fd, False)
    _reply_fd = reply_fd
    for line in sys.stdin:
        _bound_cpu(cpu_s)
        _serve(line)


def _bound_cpu(cpu_s: int) -> None:
    """Let the kernel end what goes on after the parent that watches it is gone, or hangs."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    bound = math.ceil(used.ru_utime + used.ru_stime) + cpu_s
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    if hard != resource.RLIM_INFINITY:
        bound = min(bound, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (bound, hard))
