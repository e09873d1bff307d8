"""A node and a database of its own for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from anvil_node import Node, running

from zkserve.store.database import Database
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
