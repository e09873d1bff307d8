"""What is uploaded for a preflight: received whole, into a private folder, before all else."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from zkserve import runtime
from zkserve.api.places import Places, without_room
from zkserve.errors import InvalidInput

MODEL, SAMPLES, RECIPE = "model", "samples", "recipe"
OCTETS, FORM = "application/octet-stream", "multipart/form-data"
TIME_S = 120
"""How long a body may take to arrive."""
_CHUNK_BYTES = 1 << 20
_ARCHIVE = b"PK"
_PARTS = (
    f"Send the file {MODEL!r} and, perhaps, the files {SAMPLES!r} and {RECIPE!r}, and nothing else."
)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM)


@dataclass(frozen=True, kw_only=True)
class Upload:
    """Files as they were sent: ``model.onnx``, ``samples.npz`` or ``.json``, ``recipe.toml``."""

    model: Path
    samples: Path | None = None
    recipe: Path | None = None


@asynccontextmanager
async def received(
    request: Request, places: Places, tenant: str, max_body_bytes: int
) -> AsyncIterator[Upload]:
    """Give the files of a body, once it is there whole, for as long as they are needed.

    Raises:
        Unavailable: too many uploads are under way, or there is no room for one of this size.
        InvalidInput: the body is empty, of another form, or took too long.
        ClientDisconnect: the caller went away.

    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    length = request.headers.get("content-length", "")
    size_bytes = int(length) if length.isdecimal() else max_body_bytes
    with places.hold(tenant, size_bytes) as place, runtime.private_folder() as folder:
        with anyio.move_on_after(TIME_S) as scope, _room():
            if kind == OCTETS:
                upload = await _octets(request, folder)
            elif kind == FORM:
                upload = await _form(request, folder, max_body_bytes)
            else:
                raise InvalidInput(
                    f"A body of type {kind[:80]!r} is no model.",
                    remedy=f"Send the ONNX file as {OCTETS}, or as the file {MODEL!r} of {FORM} "
                    f"with {SAMPLES!r} and {RECIPE!r} beside it.",
                )
        if scope.cancelled_caught:
            raise InvalidInput(
                f"The body did not arrive within {TIME_S} s.", remedy="Send it again."
            )
        if not upload.model.stat().st_size:
            raise InvalidInput("The body is empty.", remedy="Send the ONNX file.")
        place.promised_bytes = 0
        yield upload


@contextmanager
def _room() -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        if exc.errno in _FULL:
            raise without_room(exc) from exc
        raise


async def _octets(request: Request, folder: Path) -> Upload:
    model = folder / "model.onnx"
    with model.open("wb") as file:
        async for chunk in request.stream():
            file.write(chunk)
    return Upload(model=model)


async def _form(request: Request, folder: Path, max_body_bytes: int) -> Upload:
    parser = MultiPartParser(request.headers, request.stream(), max_files=3, max_fields=0)
    parser.spool_max_size = max_body_bytes  # in memory: models never lie on a disk in clear
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError) as exc:
        raise InvalidInput(
            "The form cannot be read, or has more than three files.", remedy=_PARTS
        ) from exc
    try:
        parts = {name: sent for name, sent in form.multi_items() if isinstance(sent, UploadFile)}
        if MODEL not in parts or not parts.keys() <= {MODEL, SAMPLES, RECIPE}:
            raise InvalidInput(f"The form lacks the file {MODEL!r}, or has others.", remedy=_PARTS)
        return Upload(
            model=await _write(parts[MODEL], folder / "model.onnx"),
            samples=await _samples(parts[SAMPLES], folder) if SAMPLES in parts else None,
            recipe=await _write(parts[RECIPE], folder / "recipe.toml") if RECIPE in parts else None,
        )
    finally:
        await form.close()


async def _samples(sent: UploadFile, folder: Path) -> Path:
    archive = await sent.read(len(_ARCHIVE)) == _ARCHIVE
    await sent.seek(0)
    return await _write(sent, folder / ("samples.npz" if archive else "samples.json"))


async def _write(sent: UploadFile, path: Path) -> Path:
    with path.open("wb") as file:
        while chunk := await sent.read(_CHUNK_BYTES):
            file.write(chunk)
    return path
