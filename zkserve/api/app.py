"""The application and the process that serves it."""

from __future__ import annotations

import anyio
import uvicorn
from fastapi import APIRouter, FastAPI, Response

from zkserve import __version__
from zkserve.api import circuits, inference, models, preflights, problems, proofs, requests
from zkserve.api.metrics import Metrics
from zkserve.api.middleware import Edge
from zkserve.api.places import Places
from zkserve.api.problems import BodyLimit
from zkserve.api.service import PreflightTerms, Service, ServiceDep
from zkserve.engines.base import Limits
from zkserve.node import Node
from zkserve.settings import Settings
from zkserve.store.queue import JobQueue

_PREDICTION_THREADS = 4
_PREDICTIONS = _PREDICTION_THREADS + 64
_STREAMS = 200
_SHUTDOWN_S = 5
_PREFLIGHT_TERMS = PreflightTerms()

_operations = APIRouter(tags=["operations"])


@_operations.get("/metrics", response_class=Response)
def prometheus_metrics(service: ServiceDep) -> Response:
    """Return metrics for Prometheus."""
    return Response(service.metrics.exposition(), media_type="text/plain; version=0.0.4")


def create_app(
    node: Node,
    *,
    queue: JobQueue,
    require_api_key: bool,
    max_body_bytes: int,
    max_open_jobs: int,
    max_inputs_ahead: int,
    preflight_terms: PreflightTerms = _PREFLIGHT_TERMS,
) -> FastAPI:
    """Return the API over a node; production always requires a key."""
    metrics = Metrics(node.database)
    app = FastAPI(
        title="zkserve",
        version=__version__,
        summary="Verifiable inference: predictions that come with a proof.",
        docs_url=None,  # the stock page loads scripts from somebody else's server
        redoc_url=None,
        responses=problems.responses(),
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.service = Service(
        node=node,
        queue=queue,
        metrics=metrics,
        require_api_key=require_api_key or node.production,
        max_open_jobs=max_open_jobs,
        max_inputs_ahead=max_inputs_ahead,
        predictions=anyio.CapacityLimiter(_PREDICTION_THREADS),
        places=anyio.CapacityLimiter(_PREDICTIONS),
        streams=anyio.CapacityLimiter(_STREAMS),
        uploads=Places(preflight_terms.uploads),
        preflights=anyio.CapacityLimiter(preflight_terms.at_once),
        preflight_terms=preflight_terms,
    )
    app.add_middleware(
        Edge,
        metrics=metrics,
        limit=BodyLimit(limit_bytes=max_body_bytes, setting="ZKSERVE_MAX_BODY_BYTES"),
        limits={
            preflights.PATH: BodyLimit(
                limit_bytes=preflight_terms.max_body_bytes, setting="ZKSERVE_MAX_MODEL_BYTES"
            )
        },
    )
    problems.install(app)
    for part in (models, preflights, inference, proofs, requests, circuits):
        app.include_router(part.router)
    app.include_router(_operations)
    return app


def serve(settings: Settings) -> None:
    """Serve until interrupted.

    Raises:
        ZkserveError: the database is not of this version.

    """
    node = Node.open(
        data_dir=settings.data_dir,
        database_url=settings.database,
        production=settings.production,
        storage_key=settings.storage_key.get_secret_value(),
        storage_key_file=settings.storage_key_file,
    )
    node.database.require_current()
    app = create_app(
        node,
        queue=JobQueue(node.database, settings.application_version),
        require_api_key=settings.require_api_key,
        max_body_bytes=settings.max_body_bytes,
        max_open_jobs=settings.max_open_jobs,
        max_inputs_ahead=settings.max_inputs_ahead,
        preflight_terms=PreflightTerms(
            max_body_bytes=settings.max_model_bytes,
            uploads=settings.max_preflight_uploads,
            at_once=settings.max_preflights,
            limits=Limits(
                time_s=settings.preflight_time_s,
                memory_bytes=settings.preflight_memory_mb << 20,
            ),
        ),
    )
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        access_log=False,  # the edge logs each request, without its query or headers
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=_SHUTDOWN_S,  # event streams would otherwise hold it up
    )
