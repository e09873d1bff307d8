"""The command ``doctor``: says whether this machine is fit for what the settings ask of it."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import version as installed_version
from typing import Any

import psutil
from rich.markup import escape

from zkserve import runtime
from zkserve.cli.console import JsonFlag, answer, read_settings
from zkserve.cli.owner import connect
from zkserve.engines import sandbox
from zkserve.errors import NotFound, ZkserveError
from zkserve.settings import Settings
from zkserve.store.database import Database

_MIN_FREE_GIB = 5
_MIN_MEMORY_GIB = 4
_MIN_RUNTIME_MIB = 512


def doctor(as_json: JsonFlag = False) -> None:
    """Check this machine: packages, tools, memory, disk, database, SRS, chain.

    Exits with 1 unless all is well. Example: `zkserve doctor`
    """
    settings = read_settings()
    findings: list[dict[str, Any]] = []
    for name, check in _checks(settings):
        try:
            found, ok = check(), True
        except ZkserveError as exc:
            found, ok = str(exc), False
        findings.append({"check": name, "ok": ok, "found": found})
    healthy = all(finding["ok"] for finding in findings)
    if as_json:
        answer({"healthy": healthy, "checks": findings}, True)
    else:
        for finding in findings:
            mark = "[green]✓[/]" if finding["ok"] else "[red]✗[/]"
            answer({}, False, f"{mark} {finding['check']:<10} {escape(finding['found'])}")
    if not healthy:
        sys.exit(1)


def _checks(settings: Settings) -> list[tuple[str, Callable[[], str]]]:
    return [
        ("python", lambda: platform.python_version()),
        ("packages", _check_packages),
        ("native", _check_native),
        ("memory", _check_memory),
        ("disk", lambda: _check_disk(settings)),
        ("runtime", _check_runtime),
        ("sandbox", _check_sandbox),
        ("sealing", lambda: _check_sealing(settings)),
        ("database", lambda: _check_database(settings)),
        ("solc", lambda: _check_solc(settings)),
        ("srs", lambda: _check_srs(settings)),
        ("chain", lambda: _check_chain(settings)),
    ]


def _check_packages() -> str:
    names = ("zkserve", "ezkl", "onnx", "onnxruntime", "dbos", "web3")
    return ", ".join(f"{name} {installed_version(name)}" for name in names)


def _check_native() -> str:
    from zkserve.engines.native import core

    return f"compiled core: {core.load().__name__.rpartition('.')[2]}"


def _check_sandbox() -> str:
    return str(sandbox.in_force())


def _check_memory() -> str:
    total_gib = psutil.virtual_memory().total / 2**30
    if total_gib < _MIN_MEMORY_GIB:
        raise ZkserveError(
            f"{total_gib:.1f} GiB.", remedy=f"Proving wants {_MIN_MEMORY_GIB} GiB or more."
        )
    return f"{total_gib:.1f} GiB, {psutil.cpu_count()} cores"


def _check_disk(settings: Settings) -> str:
    at = settings.data_dir.absolute()
    while not at.exists():
        at = at.parent
    free_gib = shutil.disk_usage(at).free / 2**30
    if free_gib < _MIN_FREE_GIB:
        raise ZkserveError(
            f"{free_gib:.1f} GiB free.", remedy=f"Keys want {_MIN_FREE_GIB} GiB or more."
        )
    return f"{free_gib:.0f} GiB free"


def _check_runtime() -> str:
    at, free = runtime.root(), runtime.free_bytes()
    remedy = f"Give it {_MIN_RUNTIME_MIB} MiB or more; ZKSERVE_RUNTIME_DIR names another folder."
    if not runtime.in_memory(at):
        raise ZkserveError(f"{at} is not in memory: secrets would reach a disk.", remedy=remedy)
    if free < _MIN_RUNTIME_MIB << 20:
        raise ZkserveError(f"{free >> 20} MiB free in {at}.", remedy=remedy)
    swap = "; swap is on: turn it off, or encrypt it" if psutil.swap_memory().total else ""
    return f"{at}, in memory, {free >> 20} MiB free{swap}"


def _check_sealing(settings: Settings) -> str:
    key = connect(settings).artifacts.key
    own = not (settings.storage_key.get_secret_value() or settings.storage_key_file)
    where = " (made here: it lies beside what it seals)" if own else ""
    return f"{key.recipients[0]}{where}"


def _check_database(settings: Settings) -> str:
    database = Database(settings.database)
    database.require_current()
    return "SQLite, up to date" if database.sqlite else "PostgreSQL, up to date"


def _check_solc(settings: Settings) -> str:
    from zkserve.chain.evm import solc_version

    return solc_version(settings.solc_command)


def _check_srs(settings: Settings) -> str:
    if settings.srs_path is None:
        if settings.production:
            raise ZkserveError("none.", remedy="Production needs ZKSERVE_SRS_PATH.")
        return "development SRS: proofs can be forged"
    if not settings.srs_path.is_file():
        raise NotFound(f"{settings.srs_path} is missing.")
    return f"{settings.srs_path.name}, pinned by digest"


def _check_chain(settings: Settings) -> str:
    if not settings.rpc_url:
        return "none set"
    from zkserve.chain.rpc import Chain

    return f"chain {Chain(settings.rpc_url).chain_id}"
