"""Who is asking: an API key's tenant, or "anonymous" where keys are not required."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from zkserve.api.service import ServiceDep
from zkserve.errors import Unauthorized
from zkserve.store import keys

_bearer = HTTPBearer(auto_error=False, description="An API key: zk_<prefix>_<secret>")


def tenant(
    service: ServiceDep,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> str:
    """Return the caller's tenant; runs in a thread.

    Raises:
        Unauthorized: the key is wrong or revoked, or none was given where one is required.

    """
    if credentials is None:
        if service.require_api_key:
            raise Unauthorized(
                "This service needs an API key.",
                remedy="Send it as `Authorization: Bearer zk_…`; `zkserve keys create` makes one.",
            )
        return keys.ANONYMOUS
    with service.node.database.snapshot() as session:
        row = keys.find(session, credentials.credentials)
    if row is None:
        raise Unauthorized(
            "The API key is not known, or was revoked.", remedy="Ask the operator for another."
        )
    return row.tenant


Tenant = Annotated[str, Depends(tenant)]
