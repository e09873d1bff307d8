"""Public artifacts: manifests, and the files they call public; no key needed, cached for good."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Response
from fastapi.responses import FileResponse
from sqlalchemy import select

from zkserve.api.schemas import CircuitId, Digest
from zkserve.api.service import Service, ServiceDep
from zkserve.errors import NotFound
from zkserve.receipt import manifest_bytes, manifest_from_dict
from zkserve.store import versions
from zkserve.store.tables import VersionRow

router = APIRouter(tags=["circuits"])

_IMMUTABLE = "public, max-age=31536000, immutable"
_BINARY: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The file",
        "content": {"application/octet-stream": {"schema": {"type": "string"}}},
    },
    304: {"description": "Not changed: it never does"},
}


@router.get("/v1/circuits/{circuit_id}")
def circuit_manifest(service: ServiceDep, circuit_id: CircuitId) -> Response:
    """Return the public manifest of a circuit, as canonical JSON."""
    with service.node.database.snapshot() as session:
        _, row = versions.by_circuit(session, circuit_id)
    return Response(
        manifest_bytes(manifest_from_dict(row.manifest)),
        media_type="application/json",
        headers={"Cache-Control": _IMMUTABLE, "ETag": f'"{circuit_id}"'},
    )


@router.get("/v1/artifacts/{digest}", response_class=FileResponse, responses=_BINARY)
def artifact(
    service: ServiceDep,
    digest: Digest,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """Return a file that a manifest calls public; whoever downloads it checks the digest."""
    if not _public(service, digest):
        raise NotFound(
            f"There is no public artifact {digest}.",
            remedy="GET /v1/circuits/<circuit id> lists a circuit's pins and which are public.",
        )
    headers = {"Cache-Control": _IMMUTABLE, "ETag": f'"{digest}"'}
    if if_none_match is not None and f'"{digest}"' in if_none_match:
        return Response(status_code=304, headers=headers)
    path = service.node.artifacts.path(digest)
    return FileResponse(path, media_type="application/octet-stream", headers=headers)


def _public(service: Service, digest: str) -> bool:
    # The store also holds weights, openings and proofs: a digest is served because a manifest
    # calls it public, never because the file exists.
    with service.node.database.snapshot() as session:
        manifests = session.scalars(select(VersionRow.manifest)).all()
    return any(
        manifest["pins"][name] == digest for manifest in manifests for name in manifest["public"]
    )
