"""What the routes work with, reached from a request."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import anyio
from fastapi import Depends, Request

from zkserve.api.metrics import Metrics
from zkserve.api.places import Places
from zkserve.engines.base import Limits
from zkserve.node import Node
from zkserve.store.queue import JobQueue


@dataclass(frozen=True, kw_only=True)
class PreflightTerms:
    """How much preflights may take: ``limits`` bounds the time of a whole one, from its turn on.

    Its memory is that of each child process. ``uploads`` may arrive or wait for their turn.
    """

    max_body_bytes: int = 64 << 20
    uploads: int = 4
    at_once: int = 1
    limits: Limits = field(default_factory=lambda: Limits(time_s=120.0, memory_bytes=4 << 30))


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
    places: anyio.CapacityLimiter
    """Predictions that run or wait for a thread; taken at once, before anything waits."""
    streams: anyio.CapacityLimiter
    """Event streams open at once: each asks the database twice a second, oftener at first."""
    uploads: Places
    """Bodies of preflights that arrive or wait for their turn: each takes memory."""
    preflights: anyio.CapacityLimiter
    """Preflights at once: each takes a core for some seconds."""
    preflight_terms: PreflightTerms


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(_service)]
