"""Preflight over HTTP: what publishing an uploaded model would give and cost; nothing is kept."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
from fastapi import APIRouter, Request, Response
from starlette.requests import ClientDisconnect

from zkserve import recipe
from zkserve.api.auth import Tenant
from zkserve.api.examples import REPORT
from zkserve.api.service import Service, ServiceDep
from zkserve.api.uploads import FORM, MODEL, OCTETS, RECIPE, SAMPLES, Upload, received
from zkserve.errors import (
    ChildKilled,
    ChildTimeout,
    ModelRejected,
    RecipeInvalid,
    Unavailable,
    ZkserveError,
)
from zkserve.preflight import preflight
from zkserve.report import Report

router = APIRouter(tags=["models"])

PATH = "/v1/preflight"
_GONE = 499
"""What the log and the metrics say of a caller who did not wait; nobody reads the answer."""
_FILE = {"type": "string", "format": "binary"}
_BODY = {
    "required": True,
    "content": {
        OCTETS: {"schema": {**_FILE, "description": "The ONNX file."}},
        FORM: {
            "schema": {
                "type": "object",
                "properties": {
                    MODEL: {**_FILE, "description": "The ONNX file."},
                    SAMPLES: {
                        **_FILE,
                        "description": "Arrays `calibration` and `held_out`, a row a sample, as "
                        ".npz or .json.",
                    },
                    RECIPE: {
                        **_FILE,
                        "description": "A recipe.toml: engine, weights mode, options, tolerance, "
                        "limits. Without it: the first engine that can prove it, and defaults.",
                    },
                },
                "required": [MODEL],
                "additionalProperties": False,
            }
        },
    },
}
_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The report, as `zkserve publish --dry-run --json` gives it",
        "model": Report,
        "content": {"application/json": {"example": REPORT}},
    }
}


@router.post(PATH, responses=_ANSWER, openapi_extra={"requestBody": _BODY})
async def preflight_model(service: ServiceDep, tenant: Tenant, request: Request) -> Response:
    """Say what publishing an ONNX model would give and cost; nothing of it is kept.

    The body is the ONNX file itself, or a form with the file `model` and, perhaps, `samples` and
    `recipe`. It is read in confined child processes only, once it is there whole, and no more of
    them at once than may be; the work ends with the connection. Where too many uploads are under
    way, the answer is 503 with Retry-After.
    """
    body_bytes = service.preflight_terms.max_body_bytes
    try:
        async with received(request, service.uploads, tenant, body_bytes) as upload:
            report = await _report(service, request, upload)
    except ClientDisconnect:
        report = None
    if report is None:
        return Response(status_code=_GONE)
    return Response(report.to_json(), media_type="application/json")


async def _report(service: Service, request: Request, upload: Upload) -> Report | None:
    """Wait for a turn and look at an upload; None if the caller goes away before that is done."""
    gone = threading.Event()
    found: list[Report | ZkserveError] = []
    async with anyio.create_task_group() as group:

        async def watch() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            gone.set()
            group.cancel_scope.cancel()

        group.start_soon(watch)
        try:
            found.append(await _in_turn(service, upload, gone))
        except ZkserveError as exc:  # from in here it would come in an exception group
            found.append(exc)
        group.cancel_scope.cancel()
    if gone.is_set():
        return None
    (answer,) = found
    if isinstance(answer, ZkserveError):
        raise answer
    return answer


async def _in_turn(service: Service, upload: Upload, gone: threading.Event) -> Report:
    turn = object()
    wait_s = service.preflight_terms.limits.time_s
    try:
        with anyio.fail_after(wait_s):
            await service.preflights.acquire_on_behalf_of(turn)
    except TimeoutError as exc:
        raise Unavailable(
            f"Others were looked at for {wait_s:g} s.", remedy="Try again in a few minutes."
        ) from exc
    try:
        return await anyio.to_thread.run_sync(
            partial(_look, service, upload, gone), limiter=anyio.CapacityLimiter(1)
        )
    finally:
        service.preflights.release_on_behalf_of(turn)


def _look(service: Service, upload: Upload, gone: threading.Event) -> Report:
    try:
        asked = recipe.load(
            upload.recipe.parent if upload.recipe else upload.model,
            samples=upload.samples,
            need_samples=False,
        )
    except RecipeInvalid as exc:
        # Messages name the file, not where it lies.
        folder = str(upload.model.parent.resolve())
        said = exc.message.replace(f"{folder}/", "").replace(folder, "the upload")
        raise RecipeInvalid(said, remedy=exc.remedy) from exc
    limits = service.preflight_terms.limits
    try:
        return preflight(asked, progress=lambda _: None, limits=limits, cancelled=gone.is_set)
    except (ChildKilled, ChildTimeout) as exc:
        raise ModelRejected(
            f"Looking at the model was cut short: {exc.message}",
            remedy="Use a smaller model, or run `zkserve publish --dry-run` on a larger machine.",
        ) from exc
