"""Steps that tests run in child processes, well and badly behaved."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from pathlib import Path

from zkserve.engines.child import report
from zkserve.errors import InputOutOfRange


class Panic(BaseException):
    """As pyo3 raises for a Rust panic."""


def add(*, a: int, b: int) -> int:
    report("adding")
    return a + b


def environment() -> dict[str, str]:
    return dict(os.environ) | {"cwd": str(Path.cwd())}


def refuse() -> None:
    raise InputOutOfRange("too far.", remedy="Come closer.")


def panic() -> None:
    raise Panic("index out of bounds")


def abort() -> None:
    os.abort()


def leave() -> None:
    sys.exit(0)


def hold_gil(*, seconds: int) -> None:
    Path("input-in-clear").write_text("secret")
    ctypes.PyDLL(None).sleep(seconds)


def grow(*, size_bytes: int) -> None:
    blocks = []
    for _ in range(size_bytes >> 20):
        blocks.append(bytearray(os.urandom(1 << 20)))
        time.sleep(0.001)
    time.sleep(60)


def reserve(*, size_bytes: int) -> int:
    return len(bytearray(size_bytes))


def chatter() -> None:
    sys.stdout.write("the input is 42\n")
    sys.stderr.write("the input is 42\n")
    os.write(2, b"the input is 42\n")


def have_offspring() -> int:
    return subprocess.Popen(["sleep", "300"]).pid
