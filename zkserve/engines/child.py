"""Disposable child processes: where untrusted models are parsed and heavy work is contained.

A child is spawned, never forked; it has its own session, its own private folder in memory (working
directory, ``HOME``, ``TMPDIR`` and ezkl's cache) and a bare environment without our secrets. It
dies with its parent. The parent looks at what it holds (:mod:`zkserve.engines.holdings`), at the
time and at cancellation about twenty times a second and kills the whole process group when a bound
is passed. Nothing the child prints is shown: it may hold inputs. No child has a network. One that
is given a :class:`Reach` is confined to it, see :mod:`zkserve.engines.sandbox`: that is how all
that reads an untrusted model, or a circuit, starts.

Protocol: one JSON line a call on the child's standard input, ``{"target", "arguments"}``, where the
target is ``"module:function"``; JSON lines come back on a pipe of their own: any number of
``{"progress"}`` and then ``{"value", "peak_rss_bytes", "cpu_s"}`` or ``{"error"}``. Its halves are
:mod:`zkserve.engines.answering` in the child and :mod:`zkserve.engines.replies` here.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import signal
import subprocess
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import zkserve
from zkserve import errors, runtime
from zkserve.engines import holdings, replies, sandbox
from zkserve.engines.base import Cancelled, Limits, Progress
from zkserve.engines.replies import Replies
from zkserve.engines.sandbox import Reach

POLL_S = 0.05
ADDRESS_SPACE_SLACK_BYTES = 4 << 30
_POLLS_PER_LOOK_AT_MAPPINGS = 5
_TAIL_BYTES = 4096
_SIGNALLED = 128
_LONGEST_S = 1e8
_BUBBLEWRAP_ENDS_S = 2.0
_KEPT_ENVIRONMENT = (
    *("PATH", "LANG", "LC_ALL", "TZ"),
    *("RAYON_NUM_THREADS", "OMP_NUM_THREADS", "ZKSERVE_PROVER_THREADS"),
)

# The kernel's parent-death signal follows the *thread* that spawned the child: one thread that
# lives as long as the process spawns them all, so that no child dies with a request's thread.
_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="child-spawner")


def no_progress(_: str) -> None:
    """Ignore progress."""


def never_cancelled() -> bool:
    """Never ask for a stop."""
    return False


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a call returned and what it cost; ``value`` is plain JSON data."""

    value: Any
    peak_rss_bytes: int
    cpu_s: float
    wall_s: float


class Child:
    """One child process, good for many calls, one at a time; not thread-safe.

    A call that fails with a typed error leaves the child usable. One that ends in ``ChildKilled``,
    ``ChildTimeout`` or ``JobCancelled`` ends the child too: see :attr:`alive`.

    Args:
        limits: Bounds of every call; the address space is bounded at twice the memory and 4 GiB.
        niceness: Added to the scheduling niceness; larger yields to others.
        reach: Files and folders that the child is confined to; None: it is trusted with files.
            What it writes is looked at by :func:`run_child` only.

    Raises:
        Unavailable: bubblewrap is required for a confined child, and does not work here.

    """

    def __init__(self, *, limits: Limits, niceness: int = 0, reach: Reach | None = None) -> None:
        self.limits = limits
        self._wrapped = reach is not None and sandbox.in_force().bubblewrap
        self.folder, lock = runtime.make_folder()
        self._writable = None if reach is None else (self.folder, *reach.writable)
        self._reply_fd, reply_end = os.pipe()
        self._replies = Replies(self._reply_fd)
        self._output = (self.folder / "output").open("a+b")
        command = _command(self.folder, reach, self._wrapped, reply_end, limits, niceness)
        try:
            self._process: subprocess.Popen[bytes] = _spawner.submit(
                subprocess.Popen,
                command,
                stdin=subprocess.PIPE,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=_environment(self.folder),
                pass_fds=(reply_end,),
                start_new_session=True,
            ).result()
        except BaseException:
            os.close(self._reply_fd)
            self._output.close()
            runtime.remove_folder(self.folder, lock)
            raise
        finally:
            os.close(reply_end)
        assert self._process.stdin is not None  # noqa: S101 (opened as a pipe above)
        self._request_fd = self._process.stdin.fileno()
        os.set_blocking(self._request_fd, False)
        self._end = weakref.finalize(
            self, _end, self._process, self._reply_fd, self._output, self.folder, lock
        )

    @property
    def alive(self) -> bool:
        """Whether another call can be made."""
        # Peeks without reaping: until it is reaped the process group's id is not reused.
        ended = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return self._end.alive and os.waitid(os.P_PID, self.pid, ended) is None

    @property
    def pid(self) -> int:
        """Process id, which is also the id of the child's process group and session."""
        return self._process.pid

    def close(self) -> None:
        """Kill the process group and remove the private folder; safe to repeat."""
        self._end()

    def call(
        self,
        target: str,
        *,
        progress: Progress = no_progress,
        cancelled: Cancelled = never_cancelled,
        **arguments: Any,
    ) -> Answer:
        """Run ``module:function`` in the child with JSON arguments and wait for its answer.

        Raises:
            ZkserveError: whatever of :mod:`zkserve.errors` the function raised.
            EngineFailed: it raised something else, or panicked.
            ChildKilled: it passed the memory bound, or died without an answer.
            ChildTimeout: it passed the time bound.
            JobCancelled: ``cancelled`` returned True.

        """
        started = time.monotonic()
        request = json.dumps({"target": target, "arguments": arguments}) + "\n"
        os.ftruncate(self._output.fileno(), 0)
        try:
            reply = self._exchange(
                request.encode(), started + self.limits.time_s, progress, cancelled
            )
        except BaseException:
            self.close()
            raise
        if "error" in reply:
            raise replies.error(**reply["error"])
        return Answer(**reply, wall_s=time.monotonic() - started)

    def _exchange(
        self, request: bytes, deadline: float, progress: Progress, cancelled: Cancelled
    ) -> dict[str, Any]:
        said, polls = 0, 0
        while True:
            if request:
                request = self._write(request)
            for reply in self._read(asking=bool(request)):
                if "progress" not in reply:
                    if request or self._replies.pending:
                        raise errors.EngineFailed("The child process answered before it was asked.")
                    return reply
                said += 1
                if said > replies.MAX_PROGRESS:
                    raise errors.EngineFailed("The child process told its progress without end.")
                progress(reply["progress"])
            if cancelled():
                raise errors.JobCancelled("The work was cancelled and its child process stopped.")
            if time.monotonic() > deadline:
                raise errors.ChildTimeout(
                    f"The child process worked longer than {self.limits.time_s:g} s.",
                    remedy="Allow more time, or use a smaller circuit.",
                )
            polls += 1
            self._bound_memory(mapped=polls % _POLLS_PER_LOOK_AT_MAPPINGS == 0)

    def _write(self, request: bytes) -> bytes:
        """Send as much of a request as fits; return the rest. A child may never take it."""
        try:
            return request[os.write(self._request_fd, request) :]
        except BlockingIOError:
            return request
        except OSError:
            raise self._died() from None

    def _read(self, *, asking: bool) -> Iterator[dict[str, Any]]:
        poller = select.poll()
        poller.register(self._reply_fd, select.POLLIN)
        if asking:
            poller.register(self._request_fd, select.POLLOUT)
        if self._reply_fd in dict(poller.poll(POLL_S * 1000)):
            try:
                yield from self._replies.read()
            except EOFError:
                raise self._died() from None

    def _bound_memory(self, *, mapped: bool) -> None:
        if self._writable is None:  # asked often, and nothing that runs in one starts processes
            held_bytes = holdings.resident_bytes(self.pid)
        else:
            held_bytes = holdings.held_bytes(self.pid, self._writable, mapped=mapped)
            if held_bytes == holdings.UNMEASURABLE:  # as is, for a moment, what is just ending
                time.sleep(POLL_S)
                held_bytes = holdings.held_bytes(self.pid, self._writable)
        bound = self.limits.memory_bytes
        if held_bytes <= bound or not self.alive:
            return
        much = f"{held_bytes >> 20} MiB of memory"
        if held_bytes == holdings.UNMEASURABLE:
            much = "memory or files that cannot be measured"
        raise errors.ChildKilled(
            f"The child process used {much}, more than its limit of {bound >> 20} MiB.",
            remedy="Allow more memory, or use a smaller circuit.",
        )

    def _died(self) -> errors.ChildKilled:
        if self._wrapped:  # bubblewrap notices a moment later, and tells how its child ended
            deadline = time.monotonic() + _BUBBLEWRAP_ENDS_S
            while self.alive and time.monotonic() < deadline:
                time.sleep(0.005)
        # Waiting gives the group's id free for reuse, so the group is killed first.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        status = self._process.wait()
        if self._wrapped and status - _SIGNALLED in set(signal.Signals):  # it tells as shells do
            status = _SIGNALLED - status
        reason = f"exit status {status}"
        if -status in set(signal.Signals):
            reason = signal.Signals(-status).name
        output = _tail(self._output)  # of our own descriptor: what bears the name may be a pipe
        if b"memory allocation of" in output or b"MemoryError" in output:
            reason += ", out of memory"
        elif status == -signal.SIGXCPU:
            reason += ", more CPU time than its limit"
        elif output.startswith((b"bwrap: ", sandbox.FAILED.encode())):
            reason += ", its sandbox could not be made"
        return errors.ChildKilled(f"The child process died without an answer ({reason}).")


def run_child(
    target: str,
    *,
    limits: Limits,
    niceness: int = 0,
    reach: Reach | None = None,
    progress: Progress = no_progress,
    cancelled: Cancelled = never_cancelled,
    **arguments: Any,
) -> Answer:
    """Run ``module:function`` in a child of its own; see :meth:`Child.call` for the errors."""
    child = Child(limits=limits, niceness=niceness, reach=reach)
    try:
        answer = child.call(target, progress=progress, cancelled=cancelled, **arguments)
    finally:
        child.close()
    # Not before it has ended: a thread of it could put a link there after the look.
    for folder in reach.writable if reach else ():
        holdings.require_plain(folder, limits.memory_bytes)
    return answer


def _command(
    folder: Path,
    reach: Reach | None,
    wrapped: bool,
    reply_fd: int,
    limits: Limits,
    niceness: int,
) -> list[str]:
    landlocked = reach is not None and not wrapped and sandbox.walls().landlock
    start = sandbox.Start(
        parent_pid=None if wrapped else os.getpid(),
        reply_fd=reply_fd,
        address_space_bytes=2 * limits.memory_bytes + ADDRESS_SPACE_SLACK_BYTES,
        file_bytes=limits.memory_bytes,
        cpu_s=_cpu_s(limits),
        niceness=niceness,
        confined=reach is not None,
        filtered=sandbox.walls().seccomp,
        landlock=sandbox.landlock_paths(folder, reach) if reach and landlocked else None,
    )
    command = sandbox.program(start)
    return [*sandbox.bubblewrap(folder, reach), *command] if reach and wrapped else command


def _cpu_s(limits: Limits) -> int:
    return math.ceil(min(limits.time_s, _LONGEST_S) * (os.cpu_count() or 1)) + 1


def _environment(folder: Path) -> dict[str, str]:
    environment = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
    return environment | {
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "EZKL_REPO_PATH": str(folder),
        "PYTHONPATH": str(Path(zkserve.__file__).parents[1]),
        # ezkl would download a Solidity compiler, for an ABI that is known.
        "HTTP_PROXY": "http://127.0.0.1:9",
        "HTTPS_PROXY": "http://127.0.0.1:9",
    }


def _end(
    process: subprocess.Popen[bytes], replies: int, output: IO[bytes], folder: Path, lock: int
) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    with contextlib.suppress(OSError):
        if process.stdin is not None:
            process.stdin.close()
    os.close(replies)
    output.close()
    runtime.remove_folder(folder, lock)


def _tail(file: IO[bytes]) -> bytes:
    size_bytes = os.fstat(file.fileno()).st_size
    return os.pread(file.fileno(), _TAIL_BYTES, max(0, size_bytes - _TAIL_BYTES))
