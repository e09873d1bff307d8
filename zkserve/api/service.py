"""What the routes work with, reached from a request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import anyio
from fastapi import Depends, Request

from zkserve.api.metrics import Metrics
from zkserve.node import Node
from zkserve.store.queue import JobQueue


@dataclass(frozen=True, kw_only=True)
class Service:
    """The node, its queue and the limits of this API process."""

    node: Node
    queue: JobQueue
    metrics: Metrics
    require_api_key: bool
    max_open_jobs: int
    max_inputs_ahead: int
    predictions: anyio.CapacityLimiter
    """Threads that predict; apart from those that serve, so that slow models block no one else."""
    streams: anyio.CapacityLimiter
    """Event streams open at once: each asks the database twice a second."""


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(_service)]
