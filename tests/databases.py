"""A PostgreSQL server for the tests, from the binaries of the machine, where it has them."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import psycopg


def binaries() -> Path | None:
    """Return the newest folder with PostgreSQL's programs, if this user can run a server."""
    if os.getuid() == 0 and (not shutil.which("runuser") or not _has_user("postgres")):
        return None
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: path.parent.name)
    if folders:
        return folders[-1]
    found = shutil.which("initdb")
    return Path(found).parent if found else None


@dataclass(frozen=True, kw_only=True)
class Server:
    """A running server; ``url`` is its maintenance database's."""

    url: str
    control: list[str]

    def stop(self) -> None:
        """Stop at once, as a crash would."""
        _run([*self.control, "-m", "immediate", "stop"])

    def start(self) -> None:
        """Start, or start again."""
        _run([*self.control, "start"])


@contextmanager
def server(folder: Path) -> Iterator[Server]:
    """Run a throw-away server on a free port."""
    base = Path(tempfile.mkdtemp(prefix="zkserve-pg-"))
    user: list[str] = []
    if os.getuid() == 0:  # the server refuses to run as root
        shutil.chown(base, "postgres")
        user = ["runuser", "-u", "postgres", "--"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = str(base / "data")
    options = f"-p {port} -k {base} -c listen_addresses=127.0.0.1 -c fsync=off"
    control = [*user, str(folder / "pg_ctl"), "-D", data, "-w", "-o", options]
    running = Server(
        url=f"postgresql://tests@127.0.0.1:{port}/postgres",
        control=[*control, "-l", str(base / "log")],
    )
    try:
        _run([*user, str(folder / "initdb"), "-D", data, "-U", "tests", "-A", "trust", "-N"])
        running.start()
        try:
            yield running
        finally:
            running.stop()
    finally:
        shutil.rmtree(base, ignore_errors=True)


def new_database(maintenance_url: str) -> str:
    """Create an empty database; return its URL."""
    name = f"t{uuid4().hex[:12]}"
    with psycopg.connect(maintenance_url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    return maintenance_url.rsplit("/", 1)[0] + f"/{name}"


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _has_user(name: str) -> bool:
    return any(entry.pw_name == name for entry in pwd.getpwall())
