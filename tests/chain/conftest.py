"""A node and a database of its own for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.chain.anvil_node import Node, running
from tests.chain.world import World, engine
from zkserve import node as service
from zkserve.store.database import Database
from zkserve.store.queue import JobQueue
from zkserve.store.tables import Base


@pytest.fixture
def start_node() -> Iterator[Callable[..., Node]]:
    with ExitStack() as stack:
        yield lambda *options, port=None: stack.enter_context(running(*options, port=port))


@pytest.fixture
def anvil(start_node: Callable[..., Node]) -> Node:
    return start_node()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'zkserve.db'}")
    Base.metadata.create_all(database.engine)
    yield database
    database.close()


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """SQLite alone: what differs on PostgreSQL has tests of its own."""
    return f"sqlite:///{tmp_path / 'zkserve.db'}"


@pytest.fixture
def world(anvil: Node, node: service.Node, queue: JobQueue) -> Iterator[World]:
    with engine():
        yield World(anvil, node, queue)
