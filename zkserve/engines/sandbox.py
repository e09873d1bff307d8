"""The sandbox of children that read untrusted models: what they reach, and how that is held.

Two walls, of which each child gets the strongest that the machine has:

* **bubblewrap**: namespaces of its own (files, processes, network, IPC, host name). It sees the
  system's libraries, Python, this package and its reach, and nothing else; it starts no programs.
* **landlock**, where bubblewrap is missing or forbidden (containers often forbid it): the same view
  of files, held by the kernel's Landlock, without namespaces.

With either, and with neither, come resource limits, ``no_new_privs`` and, where libseccomp is
there, a filter of system calls: no child makes a socket, whatever it is for. The filter of confined
ones refuses what Landlock leaves open: owners, modes and times of files, signals, limits and
priorities of other processes, and memory that outlives its process or that nobody could count.

A wall that this machine has and that cannot be put up is an error, never silence. Which walls there
have to be is the operator's: ``ZKSERVE_SANDBOX``.

This file is also the program that a child starts as. It restricts itself here, before anything else
is imported: libraries start threads, which a later restriction would not hold. It therefore
imports nothing but the standard library.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import importlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

REQUIRE_VARIABLE = "ZKSERVE_SANDBOX"
FAILED = "sandbox: "
"""What the output of a child begins with whose walls could not be put up."""
_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_OPEN_FILES = 256
_SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/sys/devices/system/cpu")
_PROC = ("/proc/self", "/proc/cpuinfo", "/proc/meminfo")
_DEVICES = ("/dev/null", "/dev/urandom", "/dev/random", "/dev/zero")


@dataclass(frozen=True, kw_only=True)
class Reach:
    """The files and folders that a confined child sees beside its private folder."""

    readable: tuple[Path, ...] = ()
    writable: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Start:
    """How a child starts; crosses as JSON. ``None`` of a path list: the whole file system."""

    parent_pid: int | None
    """Who must still be the parent; None under bubblewrap, which sees to that."""
    reply_fd: int
    address_space_bytes: int
    file_bytes: int
    cpu_s: int
    """CPU seconds of one call."""
    niceness: int
    confined: bool
    filtered: bool
    """Whether system calls are filtered: where the parent found libseccomp."""
    landlock: tuple[list[str], list[str]] | None
    """Readable and writable paths."""


@dataclass(frozen=True, kw_only=True)
class Walls:
    """What this machine confines children with."""

    bubblewrap: bool
    landlock: bool
    seccomp: bool

    def __str__(self) -> str:
        filtered = "system calls filtered, no network" if self.seccomp else "no filter of calls"
        if self.bubblewrap:
            return f"bubblewrap: namespaces of its own, {filtered}"
        if self.landlock:
            network = "" if self.seccomp else ", NETWORK NOT REFUSED"
            return f"landlock without namespaces, {filtered}{network}"
        return f"NONE for files, only resource limits; {filtered}"


@functools.cache
def walls() -> Walls:
    """Return what works here; asked once a process."""
    return Walls(
        bubblewrap=_bubblewrap_works(), landlock=_landlock_version() > 0, seccomp=_seccomp_works()
    )


def in_force() -> Walls:
    """Return what untrusted models are read behind.

    Raises:
        Unavailable: it is not what the operator asked for: bubblewrap and the filter, or nothing.

    """
    found = walls()
    whole = found.bubblewrap and found.seccomp
    if os.environ.get(REQUIRE_VARIABLE) == "require" and not whole:
        from zkserve.errors import Unavailable  # late, as all that is not the standard library

        raise Unavailable(
            "Untrusted models are to be read under bubblewrap only, with system calls filtered; "
            f"this machine has {found}.",
            remedy="Install bubblewrap and libseccomp and allow user namespaces, or unset "
            "ZKSERVE_SANDBOX.",
        )
    return found


def landlock_paths(folder: Path, reach: Reach) -> tuple[list[str], list[str]]:
    """Return what a child without bubblewrap may read, and what it may write."""
    readable = [*_SYSTEM, *_PROC, *_DEVICES, *_python(), *map(str, reach.readable)]
    return readable, [str(folder), "/dev/null", *map(str, reach.writable)]


def bubblewrap(folder: Path, reach: Reach) -> list[str]:
    """Return the command that a confined child's own is appended to."""
    command = ["bwrap", *_NAMESPACES]
    for path in _SYSTEM:
        command += ["--ro-bind-try", path, path]
    for path in [*_python(), *map(str, reach.readable)]:
        command += ["--ro-bind", path, path]
    for path in [str(folder), *map(str, reach.writable)]:
        command += ["--bind", path, path]
    # Last, as the folders that were bound may lie below them: in memory, /dev/shm.
    command += ["--remount-ro", "/dev", "--remount-ro", "/"]
    return [*command, "--chdir", str(folder), "--"]


def program(start: Start) -> list[str]:
    """Return the command of a child."""
    return [sys.executable, "-P", str(Path(__file__).resolve()), json.dumps(asdict(start))]


_NAMESPACES = (
    *("--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"),
    *("--unshare-cgroup-try", "--disable-userns", "--cap-drop", "ALL", "--hostname", "sandbox"),
    *("--die-with-parent", "--proc", "/proc", "--dev", "/dev"),
)


def _python() -> list[str]:
    """Return the folders of the interpreter, its packages and this one, without doublets."""
    found = dict.fromkeys((sys.base_prefix, sys.prefix, str(Path(__file__).resolve().parents[1])))
    return [path for path in found if path != "/usr"]


def _bubblewrap_works() -> bool:
    if shutil.which("bwrap") is None:
        return False
    view = [word for path in ("/usr", "/lib", "/lib64", "/bin") for word in _try(path)]
    trial = ["bwrap", *_NAMESPACES, *view, "--", "/bin/true"]
    try:
        ended = subprocess.run(trial, capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return ended.returncode == 0


def _try(path: str) -> tuple[str, str, str]:
    return "--ro-bind-try", path, path


# What follows runs in the child, before anything else.

_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_LANDLOCK_VERSION_FLAG = 1
_LANDLOCK_PATH_BENEATH = 1
_READ = 1 << 2 | 1 << 3
# To execute, and to make devices, sockets, pipes and links: nobody gets these.
_NEVER = 1 << 0 | 1 << 6 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 15
_OF_FILES = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15
# Rights by the version that brought them: the first has 13; then refer, truncate, ioctl of devices.
_RIGHTS = {1: (1 << 13) - 1, 2: 1 << 13, 3: 1 << 14, 5: 1 << 15}
_TCP_SINCE, _BIND_AND_CONNECT = 4, 3
_SCOPED_SINCE, _ABSTRACT_SOCKETS_AND_SIGNALS = 6, 3

_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000
_DIFFERENT, _MASKED_EQUAL = 1, 7
_INT = 0xFFFFFFFF
_CLONE_THREAD, _CLONE_FILES = 0x10000, 0x400
_CLOSE_RANGE, _CLOSE_RANGE_UNSHARE = 436, 2
_PR_SET_DUMPABLE = 4
_F_SETOWN, _F_SETSIG, _F_SETOWN_EX = 8, 10, 15
_CAPABILITIES_VERSION = 0x20080522

_NO_NETWORK = ("socket", "io_uring_setup", "io_uring_enter", "io_uring_register")
_NOT_NEEDED = (
    # programs and processes
    *("execve", "execveat", "fork", "vfork", "setpgid"),
    *("ptrace", "process_vm_readv", "process_vm_writev", "kcmp", "move_pages", "migrate_pages"),
    *("pidfd_open", "pidfd_send_signal", "pidfd_getfd"),
    *("kill", "tkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo"),
    *("setpriority", "ioprio_set", "sched_setscheduler", "sched_setparam", "sched_setattr"),
    # whose a file is, what it is, when it was written; Landlock holds none of these
    *("chmod", "fchmod", "fchmodat", "chown", "fchown", "lchown", "fchownat"),
    *("setxattr", "lsetxattr", "fsetxattr", "removexattr", "lremovexattr", "fremovexattr"),
    *("utime", "utimes", "futimesat", "utimensat"),
    *("mknod", "mknodat", "link", "linkat", "symlink", "symlinkat"),
    *("inotify_init", "inotify_init1", "fanotify_init", "name_to_handle_at", "open_by_handle_at"),
    # memory that outlives the process, or that no limit counts: also files inside of messages
    *("shmget", "shmat", "shmctl", "msgget", "msgsnd", "msgrcv", "msgctl"),
    *("semget", "semop", "semtimedop", "semctl", "mq_open", "mq_unlink"),
    *("memfd_create", "sendmsg", "sendmmsg", "splice", "tee", "vmsplice"),
    *("add_key", "request_key", "keyctl"),
    # the kernel's own
    *("bpf", "perf_event_open", "userfaultfd", "quotactl"),
    *("mount", "umount2", "pivot_root", "move_mount", "fsopen", "fsmount", "fspick", "open_tree"),
    *("chroot", "setns", "unshare", "kexec_load", "init_module", "finit_module", "delete_module"),
)
# Numbers that old libseccomps have no names for; they are the same on all CPUs that Python wheels
# are made for. What came later than these rules is not there either, but for harmless calls that
# the C library makes: epoll_pwait2, futex_waitv, map_shadow_stack, the other futexes, mseal.
_UNNAMED = frozenset(range(440, 600)) - {441, 449, 453, 454, 455, 456, 462}


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


class _Comparison(ctypes.Structure):
    _fields_ = (
        *(("argument", ctypes.c_uint), ("operator", ctypes.c_int)),
        *(("mask", ctypes.c_uint64), ("value", ctypes.c_uint64)),
    )


def enter(start: Start) -> None:
    """Restrict this process, for good.

    Raises:
        OSError: a wall that is to stand does not.

    """
    if start.parent_pid is not None:
        _control_process(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != start.parent_pid:
            os._exit(1)
    _limit(resource.RLIMIT_AS, start.address_space_bytes)
    _limit(resource.RLIMIT_CORE, 1)  # no file, and unlike 0 none piped to a program either
    os.nice(start.niceness)
    if start.confined:
        _limit(resource.RLIMIT_FSIZE, start.file_bytes)
        _limit(resource.RLIMIT_NOFILE, _OPEN_FILES)
        _drop_capabilities()
    _control_process(_PR_SET_NO_NEW_PRIVS, 1)
    if start.landlock is not None:
        _landlock(*start.landlock)
    if start.filtered:
        _filter_calls(confined=start.confined)


def _control_process(what: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(what, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"The kernel refuses prctl {what}")


def _drop_capabilities() -> None:
    """Make root, where the service runs as root, a user like others."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES_VERSION, 0)
    if libc.capset(header, (ctypes.c_uint32 * 6)()):
        raise OSError(ctypes.get_errno(), "The kernel does not let go of capabilities")


def _limit(what: int, value: int) -> None:
    hard = resource.getrlimit(what)[1]
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(what, (value, value))


def _landlock_version() -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    return int(libc.syscall(_LANDLOCK_CREATE, None, 0, _LANDLOCK_VERSION_FLAG))


def _landlock(readable: Iterable[str], writable: Iterable[str]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    version = _landlock_version()
    rights = sum(bits for since, bits in _RIGHTS.items() if since <= version)
    scoped = _ABSTRACT_SOCKETS_AND_SIGNALS if version >= _SCOPED_SINCE else 0
    # {rights on files, on TCP, scopes}: older kernels know only what comes first.
    attributes = (ctypes.c_uint64 * 3)(rights, _BIND_AND_CONNECT, scoped)
    size = 24 if scoped else 16 if version >= _TCP_SINCE else 8
    rules = libc.syscall(_LANDLOCK_CREATE, attributes, size, 0)
    if rules < 0:
        raise OSError(ctypes.get_errno(), "Landlock refuses its rules")
    for path, allowed in [
        *((p, _READ) for p in readable),
        *((p, rights & ~_NEVER) for p in writable),
    ]:
        try:
            at = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        allowed &= rights if Path(path).is_dir() else rights & _OF_FILES
        rule = _PathBeneath(allowed, at)
        if libc.syscall(_LANDLOCK_ADD, rules, _LANDLOCK_PATH_BENEATH, ctypes.byref(rule), 0):
            raise OSError(ctypes.get_errno(), f"Landlock refuses a rule for {path}")
        os.close(at)
    if libc.syscall(_LANDLOCK_RESTRICT, rules, 0):
        raise OSError(ctypes.get_errno(), "Landlock does not restrict this process")
    os.close(rules)


def _libseccomp() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        return None
    library.seccomp_init.restype = ctypes.c_void_p
    for function in (library.seccomp_load, library.seccomp_release):
        function.argtypes = [ctypes.c_void_p]
    library.seccomp_rule_add_array.argtypes = [
        *(ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p)
    ]
    return library


def _seccomp_works() -> bool:
    library = _libseccomp()
    return library is not None and bool(library.seccomp_init(ctypes.c_uint32(_ALLOW)))


def _filter_calls(*, confined: bool) -> None:
    library = _libseccomp()
    rules = library and library.seccomp_init(ctypes.c_uint32(_ALLOW))
    if library is None or not rules:
        raise OSError(errno.ENOSYS, "libseccomp makes no filter")

    def refuse(call: str | int, error: int, *arguments: _Comparison) -> None:
        number = call
        if isinstance(call, str):
            number = library.seccomp_syscall_resolve_name(call.encode())
            if number == -1:
                raise OSError(errno.ENOSYS, f"libseccomp does not know {call}")
            if number < 0:  # what this CPU has not, nobody calls
                return
        compared = (_Comparison * len(arguments))(*arguments)
        failed = library.seccomp_rule_add_array(
            rules, _REFUSE | error, number, len(arguments), compared
        )
        if failed:
            raise OSError(-failed, f"libseccomp does not refuse {call}")

    for name in _NO_NETWORK + _NOT_NEEDED if confined else _NO_NETWORK:
        refuse(name, errno.EPERM)
    if confined:
        for number in _UNNAMED:
            refuse(number, errno.ENOSYS)
        # Threads, but no processes, and no thread with descriptors of its own. What asks by
        # clone3, whose flags no filter sees, asks again.
        refuse("clone3", errno.ENOSYS)
        refuse("clone", errno.EPERM, _Comparison(0, _MASKED_EQUAL, _CLONE_THREAD, 0))
        refuse("clone", errno.EPERM, _Comparison(0, _MASKED_EQUAL, _CLONE_FILES, 0))
        unshare = _Comparison(2, _MASKED_EQUAL, _CLOSE_RANGE_UNSHARE, _CLOSE_RANGE_UNSHARE)
        refuse(_CLOSE_RANGE, errno.ENOSYS, unshare)
        # Of this process only; abort() is a signal too.
        refuse("tgkill", errno.EPERM, _Comparison(0, _DIFFERENT, os.getpid(), 0))
        refuse("prlimit64", errno.EPERM, _Comparison(0, _DIFFERENT, 0, 0))
        refuse("sched_setaffinity", errno.EPERM, _Comparison(0, _DIFFERENT, 0, 0))
        # To outlive its parent, or not to be looked at, and so not measured.
        for what in (_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE):
            refuse("prctl", errno.EPERM, _Comparison(0, _MASKED_EQUAL, _INT, what))
        for command in (_F_SETOWN, _F_SETSIG, _F_SETOWN_EX):  # signals, when a file is ready
            refuse("fcntl", errno.EPERM, _Comparison(1, _MASKED_EQUAL, _INT, command))
    failed = library.seccomp_load(rules)
    library.seccomp_release(rules)
    if failed:
        raise OSError(-failed, "The filter of system calls cannot be loaded")


def _main(text: str) -> None:
    start = Start(**json.loads(text))
    try:
        enter(start)
    except OSError as exc:
        sys.stderr.write(f"{FAILED}{exc}\n")
        sys.stderr.flush()
        os._exit(1)
    # By its own name, so that steps that import it share its state.
    importlib.import_module("zkserve.engines.answering").main(start.reply_fd, start.cpu_s)


if __name__ == "__main__":
    _main(sys.argv[1])
    os._exit(0)  # ezkl's threads abort the interpreter's own shutdown.
