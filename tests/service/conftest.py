from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI

from tests.fakes import FakeEngine
from zkserve.api import create_app
from zkserve.node import Node
from zkserve.store.queue import JobQueue
from zkserve.store.tables import VersionRow


@pytest.fixture
def app(node: Node, queue: JobQueue, version: VersionRow, engine: FakeEngine) -> FastAPI:
    """The API over one model, "tiny", that the fake engine proves."""
    return create_app(
        node,
        queue=queue,
        require_api_key=False,
        max_body_bytes=20_000,
        max_open_jobs=20,
        max_inputs_ahead=9,
    )


@pytest.fixture
async def http(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://service"
    ) as client:
        yield client


@pytest.fixture
async def locked(
    node: Node, queue: JobQueue, version: VersionRow, engine: FakeEngine
) -> AsyncIterator[httpx.AsyncClient]:
    """Somebody without a key at an API that requires keys."""
    app = create_app(
        node,
        queue=queue,
        require_api_key=True,
        max_body_bytes=20_000,
        max_open_jobs=20,
        max_inputs_ahead=9,
    )
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://service"
    ) as client:
        yield client
