"""Steps that tests run in child processes, well and badly behaved."""

from __future__ import annotations

import ctypes
import os
import resource
import socket
import subprocess
import sys
import threading
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


def try_out(*, secret: str, out: str, parent: int) -> dict[str, str]:
    """Return what each attempt ended in: "done" or the name of the error."""
    attempts = {
        "read a secret": lambda: Path(secret).read_bytes(),
        "list its folder": lambda: list(Path(secret).parent.iterdir()),
        "overwrite it": lambda: Path(secret).write_bytes(b"mine"),
        "read the parent's environment": lambda: Path(f"/proc/{parent}/environ").read_bytes(),
        "read passwords": lambda: Path("/etc/passwd").read_bytes(),
        "write into the package": lambda: Path(__file__).with_name("evil.py").write_text("evil"),
        "write a result": lambda: Path(out, "result").write_text("result"),
        "write in private": lambda: Path("private").write_text("private"),
        "TCP": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM).close(),
        "UDP": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close(),
        "Unix socket": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).close(),
        "run a program": lambda: subprocess.run(["/bin/true"], check=True),
        "signal the parent": lambda: os.kill(parent, 0),
        "a larger file": lambda: _grow_file(Path("large"), 1 << 30),
        "many files": lambda: [open(os.devnull) for _ in range(1000)],  # noqa: PTH123, SIM115
        "make no core": lambda: resource.setrlimit(resource.RLIMIT_CORE, (1, 1)),
    }
    ended = {}
    for name, attempt in attempts.items():
        try:
            attempt()
            ended[name] = "done"
        except (OSError, ValueError) as exc:
            ended[name] = type(exc).__name__
    return ended


MARK = "imported"


def whose() -> dict[str, int | str]:
    return {"pid": os.getpid(), "mark": MARK}


def ids() -> dict[str, int | str]:
    return {"pid": os.getpid(), "host": socket.gethostname()}


def fork() -> int:
    return os.fork()


def run_threads() -> list[int]:
    done: list[int] = []
    threads = [threading.Thread(target=done.append, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(done)


def fill_folder(*, size_bytes: int) -> None:
    for n in range(size_bytes >> 20):
        Path(f"{n}").write_bytes(bytes(1 << 20))
    time.sleep(300)


def burn() -> None:
    while True:
        pass


def leave_link(*, out: str) -> None:
    Path(out, "settings.json").symlink_to("/etc/hostname")


def answer_raw(*, text: str) -> None:
    from zkserve.engines import child

    os.write(child._reply_fd, text.encode() + b"\n")
    time.sleep(300)


def answer_without_end() -> None:
    from zkserve.engines import child

    while True:
        os.write(child._reply_fd, b"x" * (1 << 20))


def return_bytes() -> bytes:
    return b"\xff"


def speak(*, text: str) -> None:
    raise InputOutOfRange(text)


def exit_with(*, status: int) -> None:
    os._exit(status)


def _grow_file(path: Path, size_bytes: int) -> None:
    with path.open("wb") as file:
        file.truncate(size_bytes)


def compile_under(*, model: str, settings: str, out: str) -> None:
    """Compile a model of public input by the settings of another circuit."""
    import ezkl
    import onnx

    from zkserve.engines import onnx_model
    from zkserve.engines.ezkl import surgery

    network = Path("network.onnx")
    onnx.save(surgery.flatten(onnx_model.load(Path(model)), 0), network)
    ezkl.compile_circuit(str(network), out, settings)
