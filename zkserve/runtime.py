"""The runtime folder: where secrets lie in clear while they are worked with, in memory.

``ZKSERVE_RUNTIME_DIR``, or else ``/dev/shm``; the folder for temporary files where neither is.
Children find it as engines do, by the environment, so this is read here and not passed down.

Everything in it is this user's only and may vanish at any moment without loss: a machine that goes
down forgets it, a process that is killed leaves it to the next one. Locks are the kernel's, held by
an open file, so that none outlives its process.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import resource
import shutil
import stat
import subprocess
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import psutil

from zkserve.errors import Unavailable

VARIABLE = "ZKSERVE_RUNTIME_DIR"
FOLDER_PREFIX = "zkserve-child-"
ABANDONED_AFTER_S = 60.0
MARGIN_BYTES = 8 << 20
"""Left free beside what is put in."""
_MEMORY = Path("/dev/shm")  # noqa: S108 (folders in it are made private)
_HOLDING, _MAKING, _PART = ".lock", ".making", ".part"
_IN_MEMORY = frozenset({"tmpfs", "ramfs"})


def root() -> Path:
    """Return the folder that all else here lies in."""
    named = os.environ.get(VARIABLE)
    if named:
        path = Path(named).absolute()
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path
    if os.access(_MEMORY, os.W_OK | os.X_OK):
        return _MEMORY
    return Path(tempfile.gettempdir())


def in_memory(path: Path) -> bool:
    """Return whether a path lies on a file system that is never written to a disk but by swap."""
    path = path.resolve()
    mounts = [
        (len(mount.mountpoint), mount.fstype)
        for mount in psutil.disk_partitions(all=True)
        if path.is_relative_to(mount.mountpoint)
    ]
    return max(mounts, default=(0, ""))[1] in _IN_MEMORY


def leave_no_core() -> None:
    """Have this process and what it starts leave no core dump, which would hold secrets."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    # 1 is too little for a file and, unlike 0, also keeps the kernel from piping one to a program.
    bound = 1 if hard == resource.RLIM_INFINITY else min(1, hard)
    resource.setrlimit(resource.RLIMIT_CORE, (bound, bound))


def free_bytes() -> int:
    """Return what may still be put into the runtime folder."""
    at = root()
    free = shutil.disk_usage(at).free
    # A file system in memory may be allowed more than there is memory.
    return min(free, psutil.virtual_memory().available) if in_memory(at) else free


def require_room(size_bytes: int, what: str) -> None:
    """Check that something fits.

    Raises:
        Unavailable: it does not.

    """
    free = free_bytes()
    if free < size_bytes + MARGIN_BYTES:
        raise no_room(f"{what} needs {size_bytes / 2**20:.1f} MiB; {free >> 20} MiB are free")


def no_room(found: str) -> Unavailable:
    """Return the error for a runtime folder that is full."""
    return Unavailable(
        f"The runtime folder {root()} is too small: {found}.",
        remedy="Give it more (a container: --shm-size=4g), or set ZKSERVE_RUNTIME_DIR to a larger "
        "folder in memory.",
    )


def make_folder() -> tuple[Path, int]:
    """Make a private folder; return it and the descriptor that holds it as long as it is open."""
    sweep_abandoned()
    folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=root()))
    lock = os.open(folder, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return folder, lock


def remove_folder(folder: Path, lock: int) -> None:
    """Remove a private folder and let go of it."""
    try:
        _remove(folder)
    finally:
        os.close(lock)


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """Hold a private folder; the next one that is made removes what a killed process left."""
    folder, lock = make_folder()
    try:
        yield folder
    finally:
        remove_folder(folder, lock)


def sweep_abandoned() -> None:
    """Remove private folders whose owner was killed before it could: they may hold inputs."""
    for parent in {root(), Path(tempfile.gettempdir())}:
        for folder in parent.glob(FOLDER_PREFIX + "*"):
            with contextlib.suppress(OSError):
                if time.time() - folder.stat().st_mtime < ABANDONED_AFTER_S:
                    continue
                # Others may put what they like under the name, a pipe that nobody writes too.
                lock = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
                try:
                    if os.fstat(lock).st_uid == os.geteuid():
                        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        _remove(folder)
                finally:
                    os.close(lock)


def _remove(folder: Path) -> None:
    with contextlib.suppress(RecursionError):
        shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():  # nested too deeply for Python, or closed even to its owner
        for command in (["chmod", "-R", "u+rwx"], ["rm", "-rf"]):
            subprocess.run([*command, "--", str(folder)], stderr=subprocess.DEVNULL, check=False)


class Held:
    """A file in clear that stays at ``path`` as long as this object lives."""

    def __init__(
        self, path: Path, lock: int | None = None, copies: ClearCopies | None = None
    ) -> None:
        self.path = path
        self._copies = copies  # they go when nobody needs them
        if lock is not None:
            weakref.finalize(self, os.close, lock)


class ClearCopies:
    """Clear copies of the sealed files of one folder, by name, shared by this user's processes.

    A copy is made once and stays; where room is short, the one that was longest not asked for goes
    first, but none that is held. The last process that leaves removes them all; what is left where
    the last one was killed, the next one to leave removes.

    Each name has two locks. The one is shared by those who hold or want the copy, and alone for who
    removes it, who never waits for it. The other is alone for who makes it, who has the first one
    too. No lock is ever converted: that is not atomic. Each process shares the folder's own lock,
    and removes the folder alone.
    """

    def __init__(self, sealed: Path) -> None:
        self._name = str(sealed.resolve())
        self._presence: int | None = None
        self._mutex = threading.Lock()

    @property
    def folder(self) -> Path:
        """Where the copies lie."""
        digest = hashlib.sha256(self._name.encode()).hexdigest()[:16]
        return root() / f"zkserve-{os.geteuid()}-{digest}"

    def hold(self, name: str, size_bytes: int, write: Callable[[BinaryIO], None]) -> Held:
        """Return the copy of a name, made by ``write`` where there is none.

        Raises:
            Unavailable: there is no room for it, or the folder is not ours.

        """
        path = self._enter() / name
        lock = _locked(path.with_suffix(_HOLDING), fcntl.LOCK_SH)
        try:
            while True:
                with contextlib.suppress(FileNotFoundError):
                    os.utime(path)
                    return Held(path, lock, self)
                # Nobody removes it from now on, as we hold the name; one of us makes it.
                with _making(path):
                    if not path.exists():
                        self._make(path, size_bytes, write)
        except BaseException:
            os.close(lock)
            raise

    def _make(self, path: Path, size_bytes: int, write: Callable[[BinaryIO], None]) -> None:
        part = path.with_suffix(_PART)
        part.unlink(missing_ok=True)  # of a process that was killed; it would count as used room
        self._make_room(path, size_bytes)
        try:
            descriptor = os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o400)
            with os.fdopen(descriptor, "wb") as file:
                write(file)
            part.rename(path)
        except OSError as exc:
            if exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM):
                raise no_room(f"a file of {size_bytes >> 20} MiB did not fit") from exc
            raise
        finally:
            part.unlink(missing_ok=True)

    def _make_room(self, wanted: Path, size_bytes: int) -> None:
        for path in sorted(wanted.parent.glob("*"), key=_used_at):
            if free_bytes() >= size_bytes + MARGIN_BYTES:
                return
            if path.suffix in ("", _PART):
                _discard(path)
        require_room(size_bytes, f"a file of {size_bytes >> 20} MiB")

    def _enter(self) -> Path:
        folder = self.folder
        with self._mutex:
            while self._presence is None or not _is_at(folder, self._presence):
                self._presence = _present(folder)
                weakref.finalize(self, _leave, folder, self._presence)
        return folder


def _present(folder: Path) -> int:
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as exc:
        raise _not_ours(folder) from exc
    found = os.fstat(descriptor)
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        os.close(descriptor)
        raise _not_ours(folder)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def _is_at(folder: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(folder.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _leave(folder: Path, descriptor: int) -> None:
    with contextlib.suppress(OSError):
        if _is_at(folder, descriptor):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    os.close(descriptor)


def _discard(path: Path) -> None:
    """Remove a copy, or what was left of one, unless somebody holds or wants it."""
    with contextlib.suppress(OSError):
        lock = _locked(path.with_suffix(_HOLDING), fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            path.unlink(missing_ok=True)
        finally:
            os.close(lock)


@contextlib.contextmanager
def _making(path: Path) -> Iterator[None]:
    lock = _locked(path.with_suffix(_MAKING), fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(lock)


def _locked(path: Path, how: int) -> int:
    lock = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, how)
    except BaseException:
        os.close(lock)
        raise
    return lock


def _used_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _not_ours(folder: Path) -> Unavailable:
    return Unavailable(
        f"{folder} is not a private folder of this user.",
        remedy="Remove it, or set ZKSERVE_RUNTIME_DIR to a folder of your own.",
    )
