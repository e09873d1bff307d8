"""What a child holds, in memory and in files, measured from outside while it runs; what it left.

The child may have been taken over by what it read. It may put bytes where they are in no process's
resident memory: into files of a folder in memory, into such files after they were deleted, into
memory that it shares with nobody. What can be counted is counted; what cannot be is as good as
endless. Nothing here opens a file that the child made, and no depth or number of them is followed
without end.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil

from zkserve.errors import EngineFailed

UNMEASURABLE = sys.maxsize
"""More than any limit: the child holds what cannot be counted."""
MAX_ENTRIES = 10_000
"""Files and folders, each of which takes the kernel's memory; honest work makes dozens."""
_BLOCK_BYTES = 512
_PAGED_BYTES = 64 << 20
_HOLES = 16
# What the kernel calls memory that is a file without a name, whichever call made it.
_NAMELESS = (b"/dev/zero", b"/memfd:", b"/SYSV", b"/anon_hugepage")

_Identity = tuple[int, int]


def resident_bytes(pid: int) -> int:
    """Return the resident memory of one process, 0 when it is gone."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return int(psutil.Process(pid).memory_info().rss)
    return 0


def held_bytes(pid: int, folders: Iterable[Path], *, mapped: bool = True) -> int:
    """Return what a process and all it started hold.

    That is their resident memory, what lies in ``folders``, and deleted files that they have open.
    :data:`UNMEASURABLE` where something cannot be counted: a folder that cannot be listed or holds
    too many, a deleted file that is only mapped, shared memory without a name. The last two are
    looked for where ``mapped``: reading all mappings takes longer than the rest.
    """
    files: dict[_Identity, int] = {}
    resident = 0
    try:
        devices = {folder.stat().st_dev for folder in folders}
        for folder in folders:
            for found in _entries(folder):
                files[found.st_dev, found.st_ino] = found.st_blocks * _BLOCK_BYTES
        for process in _tree(pid):
            resident += resident_bytes(process)
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                files |= _deleted_but_open(process)
                if mapped and _deleted_but_mapped(process, devices) - files.keys():
                    return UNMEASURABLE
    except (OSError, OverflowError):
        return UNMEASURABLE
    return resident + sum(files.values())


def require_plain(folder: Path, size_bytes: int) -> None:
    """Refuse what nobody may read who trusts the folder: we would follow it, or not come back.

    Plain are folders and files that have one name each, that their owner may read, that are
    ``size_bytes`` together at most, and none of which is large and almost nothing but holes.

    Raises:
        EngineFailed: not all is plain.

    """
    total_bytes = 0
    try:
        for found in _entries(folder):
            total_bytes += found.st_size
            if not _plain(found) or total_bytes > size_bytes:
                break
        else:
            return
    except (OSError, OverflowError):
        pass
    raise EngineFailed("The child process left something other than plain files.")


def _plain(found: os.stat_result) -> bool:
    if stat.S_ISDIR(found.st_mode):
        return found.st_mode & stat.S_IRWXU == stat.S_IRWXU
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1 or not found.st_mode & stat.S_IRUSR:
        return False
    allocated = found.st_blocks * _BLOCK_BYTES
    return found.st_size <= max(_PAGED_BYTES, _HOLES * allocated)


def _entries(folder: Path) -> Iterator[os.stat_result]:
    """Yield all below a folder; what vanishes meanwhile may be missing.

    Raises:
        OSError: a folder cannot be listed: it is closed to us, or nested too deeply.
        OverflowError: there are too many.

    """
    count = 0
    waiting = [str(folder)]
    while waiting:
        with contextlib.suppress(FileNotFoundError), os.scandir(waiting.pop()) as listed:
            for entry in listed:
                count += 1
                if count > MAX_ENTRIES:
                    raise OverflowError
                with contextlib.suppress(FileNotFoundError):
                    found = entry.stat(follow_symlinks=False)
                    yield found
                    if stat.S_ISDIR(found.st_mode):
                        waiting.append(entry.path)


def _tree(pid: int) -> Iterator[int]:
    """Yield a process and all it started; bubblewrap stands between us and the child."""
    yield pid
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for process in (thread / "children").read_text().split():
                yield from _tree(int(process))


def _deleted_but_open(pid: int) -> dict[_Identity, int]:
    found = {}
    with os.scandir(f"/proc/{pid}/fd") as descriptors:
        for descriptor in descriptors:
            with contextlib.suppress(FileNotFoundError):
                file = descriptor.stat()
                if stat.S_ISREG(file.st_mode) and not file.st_nlink:
                    found[file.st_dev, file.st_ino] = file.st_blocks * _BLOCK_BYTES
    return found


def _deleted_but_mapped(pid: int, devices: Iterable[int]) -> set[_Identity]:
    """Return the deleted files on these devices that are mapped, and memory that is such a file."""
    found = set()
    for line in Path(f"/proc/{pid}/maps").read_bytes().splitlines():
        if line.endswith(b"(deleted)"):
            _, _, _, numbers, inode, path = line.split(None, 5)
            device = os.makedev(*(int(number, 16) for number in numbers.split(b":")))
            if device in devices or path.startswith(_NAMELESS):
                found.add((device, int(inode)))
    return found
