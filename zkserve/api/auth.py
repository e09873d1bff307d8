"""Who is asking: an API key's tenant, or "anonymous" where keys are not required."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from zkserve.api.service import ServiceDep
from zkserve.errors import Unauthorized
from zkserve.store import keys

_bearer = HTTPBearer(auto_error=False, description="An API key: zk_<prefix>_<secret>")


def viewer(
    service: ServiceDep,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> str | None:
    """Return the caller's tenant, None without a key where one is required; runs in a thread.

    Raises:
        Unauthorized: the key is wrong or revoked.

    """
    if credentials is None:
        return None if service.require_api_key else keys.ANONYMOUS
    with service.node.database.snapshot() as session:
        row = keys.find(session, credentials.credentials)
    if row is None:
        raise Unauthorized(
            "The API key is not known, or was revoked.", remedy="Ask the operator for another."
        )
    return row.tenant


async def tenant(viewer: Annotated[str | None, Depends(viewer)]) -> str:
    """Return the caller's tenant.

    Raises:
        Unauthorized: no key was given where one is required.

    """
    return require(viewer)


def require(viewer: str | None) -> str:
    """Return ``viewer`` if it is somebody.

    Raises:
        Unauthorized: it is None.

    """
    if viewer is None:
        raise Unauthorized(
            "This service needs an API key.",
            remedy="Send it as `Authorization: Bearer zk_…`; `zkserve keys create` makes one.",
        )
    return viewer


Tenant = Annotated[str, Depends(tenant)]
Viewer = Annotated[str | None, Depends(viewer)]
"""For what includes the public: see :func:`require` for the rest."""
