"""Preflight over HTTP: what publishing an uploaded model would give and cost; nothing is kept."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from fastapi import APIRouter, Request, Response
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from zkserve import recipe, runtime
from zkserve.api.auth import Tenant
from zkserve.api.service import PreflightTerms, Service, ServiceDep
from zkserve.errors import ChildKilled, ChildTimeout, InvalidInput, ModelRejected, Unavailable
from zkserve.preflight import preflight
from zkserve.report import Report

router = APIRouter(tags=["models"])

PATH = "/v1/preflight"
MODEL, SAMPLES = "model", "samples"
_UPLOAD_S = 120
_CHUNK_BYTES = 1 << 20
_ARCHIVE = b"PK"
_PARTS = f"Send the files {MODEL!r} and, perhaps, {SAMPLES!r}, and nothing else."
_BYTES = {"type": "string", "format": "binary"}
_BODY = {
    "required": True,
    "content": {
        "application/octet-stream": {"schema": _BYTES},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {
                    MODEL: {**_BYTES, "description": "The ONNX file."},
                    SAMPLES: {**_BYTES, "description": "Samples as .npz or .json; optional."},
                },
                "required": [MODEL],
            }
        },
    },
}
_REPORT: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The report, as `zkserve publish --dry-run --json` gives it",
        "content": {"application/json": {"schema": {"type": "object"}}},
    }
}


@router.post(PATH, responses=_REPORT, openapi_extra={"requestBody": _BODY})
async def preflight_model(service: ServiceDep, tenant: Tenant, request: Request) -> Response:
    """Say what publishing an ONNX model would give and cost; the model is not kept.

    The body is the ONNX file itself, or a form with the file `model` and, perhaps, `samples`. It
    is read in confined child processes only. Where as many run as may, the answer is 503 with
    Retry-After.
    """
    del tenant
    turn = object()
    try:
        service.preflights.acquire_on_behalf_of_nowait(turn)
    except anyio.WouldBlock as exc:
        raise Unavailable(
            "Another preflight is running.", remedy="Try again in a few seconds."
        ) from exc
    try:
        async with _received(request, service.preflight_terms) as (model, samples):
            report = await anyio.to_thread.run_sync(
                _look, service, model, samples, limiter=anyio.CapacityLimiter(1)
            )
    finally:
        service.preflights.release_on_behalf_of(turn)
    return Response(report.to_json(), media_type="application/json")


def _look(service: Service, model: Path, samples: Path | None) -> Report:
    asked = recipe.load(model, samples=samples, need_samples=False)
    limits = service.preflight_terms.limits
    try:
        return preflight(asked, progress=lambda _: None, limits=limits)
    except (ChildKilled, ChildTimeout) as exc:
        raise ModelRejected(
            f"Looking at the model was cut short: {exc.message}",
            remedy="Use a smaller model, or run `zkserve publish --dry-run` on a larger machine.",
        ) from exc


@asynccontextmanager
async def _received(
    request: Request, terms: PreflightTerms
) -> AsyncIterator[tuple[Path, Path | None]]:
    """Write the body into files of a private folder, for as long as they are needed."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    with runtime.private_folder() as folder:
        model = folder / "model.onnx"
        samples = None
        with anyio.move_on_after(_UPLOAD_S) as scope:
            if kind == "application/octet-stream":
                with model.open("wb") as file:
                    async for chunk in request.stream():
                        file.write(chunk)
            elif kind == "multipart/form-data":
                samples = await _form(request, model, terms)
            else:
                raise InvalidInput(
                    f"A body of type {kind[:80]!r} is no model.",
                    remedy="Send the ONNX file as application/octet-stream, or as the file "
                    f"{MODEL!r} of multipart/form-data with {SAMPLES!r} beside it.",
                )
        if scope.cancelled_caught:
            raise InvalidInput(
                f"The body did not arrive within {_UPLOAD_S} s.", remedy="Send it again."
            )
        if not model.stat().st_size:
            raise InvalidInput("The body is empty.", remedy="Send the ONNX file.")
        yield model, samples


async def _form(request: Request, model: Path, terms: PreflightTerms) -> Path | None:
    parser = MultiPartParser(request.headers, request.stream(), max_files=2, max_fields=0)
    parser.spool_max_size = terms.max_body_bytes  # in memory: models never lie on a disk in clear
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError) as exc:
        raise InvalidInput(
            "The form cannot be read, or has more than two files.", remedy=_PARTS
        ) from exc
    try:
        parts = dict(form.multi_items())
        sent, given = parts.pop(MODEL, None), parts.pop(SAMPLES, None)
        if not isinstance(sent, UploadFile) or parts:
            raise InvalidInput(f"The form lacks the file {MODEL!r}, or has more.", remedy=_PARTS)
        await _write(sent, model)
        if not isinstance(given, UploadFile):
            return None
        archive = await given.read(len(_ARCHIVE)) == _ARCHIVE
        await given.seek(0)
        samples = model.with_name("samples.npz" if archive else "samples.json")
        await _write(given, samples)
        return samples
    finally:
        await form.close()


async def _write(sent: UploadFile, path: Path) -> None:
    with path.open("wb") as file:
        while chunk := await sent.read(_CHUNK_BYTES):
            file.write(chunk)
