from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import databases, fakes
from zkserve import log, runtime
from zkserve.node import Node
from zkserve.store.database import Database
from zkserve.store.queue import JobQueue
from zkserve.store.tables import VersionRow

# Started in a shell's background, a process ignores Ctrl-C and so do its children; tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No test asserts a duration, so none may fail for hypothesis' own: a busy machine passes them too.
settings.register_profile(
    "tests", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("tests")


@pytest.fixture(scope="session", autouse=True)
def _runtime_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests and the processes that they kill leave in clear goes with the tests' folders."""
    folder = tmp_path_factory.mktemp("runtime")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(runtime.VARIABLE, str(folder))
        yield


@pytest.fixture(autouse=True)
def _logs_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands run here would leave loggers that write to what was standard error in one test."""
    monkeypatch.setattr(log, "configure", lambda _: None)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """URL of the maintenance database of a PostgreSQL server that lives as long as the tests."""
    folder = databases.binaries()
    if folder is None:
        pytest.skip("no PostgreSQL server on this machine")
    with databases.server(folder) as server:
        yield server.url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database; each test that asks for it runs on both kinds."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'zkserve.db'}"
    return databases.new_database(request.getfixturevalue("postgresql"))


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with all tables: copying it is much faster than making them."""
    path = tmp_path_factory.mktemp("migrated") / "zkserve.db"
    database = Database(f"sqlite:///{path}")
    database.upgrade()
    database.close()
    return path


@pytest.fixture
def node(tmp_path: Path, database_url: str, migrated: Path) -> Iterator[Node]:
    """A node with its tables made."""
    if database_url.startswith("sqlite"):
        shutil.copy(migrated, database_url.removeprefix("sqlite:///"))
    node = Node.open(data_dir=tmp_path / "data", database_url=database_url)
    if not node.database.sqlite:
        node.database.upgrade()
    yield node
    node.database.close()


@pytest.fixture
def queue(node: Node) -> JobQueue:
    return JobQueue(node.database, "1")


@pytest.fixture
def version(node: Node) -> VersionRow:
    """A version that the fake engine proves."""
    return fakes.publish(node)


@pytest.fixture
def engine() -> Iterator[fakes.FakeEngine]:
    """The fake engine, found by every node of this process."""
    with fakes.use(fakes.FakeEngine()) as engine:
        yield engine
