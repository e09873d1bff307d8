"""Steps that tests run in child processes, well and badly behaved."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import resource
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from zkserve.engines.answering import report
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


def exit_early() -> None:
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
        "leave a core": lambda: resource.setrlimit(resource.RLIMIT_CORE, (1 << 20, 1 << 20)),
    }
    return _tried(attempts)


def meddle(*, file: str, parent: int) -> dict[str, str]:
    """Return what each attempt at what Landlock leaves open ended in; none does harm."""
    libc = ctypes.CDLL(None, use_errno=True)

    def call(name: str, *arguments: int | bytes) -> None:
        if getattr(libc, name)(*arguments) < 0:
            raise OSError(ctypes.get_errno(), name)

    Path("own").touch()
    here, mode = os.open(file, os.O_RDONLY), Path(file).stat().st_mode & 0o777
    return _tried(
        {
            "chmod": lambda: Path(file).chmod(mode),
            "fchmod": lambda: os.fchmod(here, mode),
            "fchmodat2": lambda: call("syscall", 452, -100, file.encode(), mode, 0),
            "chown": lambda: os.chown(file, -1, -1),
            "fchown": lambda: os.fchown(here, -1, -1),
            "setxattr": lambda: os.setxattr(file, "user.mine", b""),
            "removexattr": lambda: os.removexattr(file, "user.mine"),
            "utime": lambda: os.utime(file),
            "link": lambda: os.link("own", "linked"),
            "symlink": lambda: Path("pointing").symlink_to(file),
            "pipe": lambda: os.mkfifo("pipe"),
            "signal a thread": lambda: call("tgkill", parent, parent, 0),
            "limit": lambda: resource.prlimit(parent, resource.RLIMIT_NOFILE),
            "renice": lambda: os.setpriority(os.PRIO_PROCESS, parent, 0),
            "schedule": lambda: os.sched_setscheduler(parent, os.SCHED_OTHER, os.sched_param(0)),
            "pin": lambda: os.sched_setaffinity(parent, os.sched_getaffinity(0)),
            "hear of files": lambda: fcntl.fcntl(1, fcntl.F_SETOWN, parent),
            "shared memory": lambda: call("shmget", 0, 4096, 0o1600),
            "messages": lambda: call("msgget", 0, 0o1600),
            "semaphores": lambda: call("semget", 0, 1, 0o1600),
            "a file of memory": lambda: os.memfd_create("none"),
            "a secret memory": lambda: call("syscall", 447, 0),
            "be unseen": lambda: call("prctl", 4, 0, 0, 0, 0),
            "outlive the parent": lambda: call("prctl", 1, 0, 0, 0, 0),
            "own descriptors": lambda: call("syscall", 436, 200, 201, 2),
        }
    )


def read(*, path: str) -> str:
    return Path(path).read_text()


def capabilities() -> list[str]:
    lines = Path("/proc/self/status").read_text().splitlines()
    return [line.split()[1] for line in lines if line.startswith(("CapEff", "CapPrm"))]


def _tried(attempts: dict[str, Callable[[], object]]) -> dict[str, str]:
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


def fill(*, size_bytes: int, folder: str = ".") -> None:
    for n in range(size_bytes >> 20):
        Path(folder, f"{n}").write_bytes(bytes(1 << 20))
    time.sleep(300)


def hide(*, size_bytes: int, how: str) -> None:
    """Put bytes into memory that is not resident in this process, and wait."""
    for n in range(size_bytes >> 24):
        path = Path(f"{n}")
        if how == "memory of its own":
            memory = mmap.mmap(-1, 1 << 24)
            memory.write(bytes(1 << 24))
            memory.madvise(mmap.MADV_DONTNEED)
            kept.append(memory)
            continue
        with path.open("wb") as file:
            file.write(bytes(1 << 24))
            if how == "deleted and open":
                kept.append(os.dup(file.fileno()))
            if how == "deleted and mapped":
                with path.open("rb") as again:
                    kept.append(map_page(again.fileno()))
        if how == "closed to its owner":
            Path("in").mkdir(mode=0o300, exist_ok=True)
            path.rename(f"in/{n}")
        else:
            path.unlink()
    time.sleep(300)


kept: list[object] = []


def map_page(descriptor: int) -> int:
    """Map without keeping a descriptor, as Python's own mmap does."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    return libc.mmap(None, 4096, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)


def make_many(*, count: int) -> None:
    for n in range(count):
        Path(f"{n}").touch()
    time.sleep(300)


def nest(*, depth: int, name: str) -> None:
    for _ in range(depth):
        os.mkdir(name)  # noqa: PTH102
        os.chdir(name)
    time.sleep(300)


def leave(*, out: str, what: str) -> None:
    """Leave something in a folder that is no plain file."""
    at = Path(out, "settings.json")
    if what == "pipe":
        os.mkfifo(at)
    elif what == "socket":
        socket.socket(socket.AF_UNIX).bind(str(at))
    elif what == "link":
        at.symlink_to("/etc/hostname")
    elif what == "second name":
        Path(out, "other").touch()
        at.hardlink_to(Path(out, "other"))
    elif what == "holes":
        _grow_file(at, 300 << 20)
    elif what == "no right to read":
        at.touch(mode=0o200)
    elif what == "no right to list":
        at.mkdir(mode=0o300)
    elif what == "depth":
        os.chdir(out)
        for _ in range(30):
            os.mkdir("d" * 200)  # noqa: PTH102
            os.chdir("d" * 200)
    elif what == "number":
        for n in range(101):
            Path(out, f"{n}").touch()


_ANSWER = b'{"value": 1, "peak_rss_bytes": 1, "cpu_s": 1}\n'


def read_no_more() -> None:
    """Answer, and never take another request."""
    from zkserve.engines import answering

    os.write(answering._reply_fd, _ANSWER)
    time.sleep(300)


def answer_twice() -> None:
    """Answer, and answer the next call once that was begun."""
    from zkserve.engines import answering

    os.write(answering._reply_fd, _ANSWER)
    select.select([0], [], [])
    os.write(answering._reply_fd, _ANSWER)
    time.sleep(300)


def progress_without_end() -> None:
    while True:
        report("still")


def verdict(*, kind: str) -> None:
    from zkserve import errors

    raise getattr(errors, kind)("It says so.")


def return_much(*, size_bytes: int) -> str:
    return "x" * size_bytes


def burn() -> None:
    while True:
        pass


def answer_raw(*, text: str) -> None:
    from zkserve.engines import answering

    os.write(answering._reply_fd, text.encode() + b"\n")
    time.sleep(300)


def answer_without_end() -> None:
    from zkserve.engines import answering

    while True:
        os.write(answering._reply_fd, b"x" * (1 << 20))


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
