"""On-chain requests: from what names one on chain to the proof that serves it."""

from __future__ import annotations

from typing import Annotated

from eth_utils.address import to_checksum_address
from fastapi import APIRouter, Path

from zkserve.api import schemas
from zkserve.api.proofs import proof_resource
from zkserve.api.service import ServiceDep
from zkserve.errors import NotFound
from zkserve.store import jobs, requests

router = APIRouter(tags=["proofs"])


@router.get("/v1/requests/{chain_id}/{market}/{request_id}")
def get_request(
    service: ServiceDep,
    chain_id: Annotated[int, Path(ge=0, lt=1 << 63)],
    market: Annotated[str, Path(pattern="^0x[0-9a-fA-F]{40}$")],
    request_id: Annotated[int, Path(ge=0, lt=1 << 63)],
) -> schemas.ProofJob:
    """Return the proof job of an on-chain request; public, like the request."""
    with service.node.database.snapshot() as session:
        request = requests.find(session, chain_id, to_checksum_address(market), request_id)
        if request is None:
            raise NotFound(
                f"Request {request_id} of market {market} on chain {chain_id} is not known here.",
                remedy="The worker may not have seen it yet: ask again, or check who serves it.",
            )
        return proof_resource(session, jobs.get(session, request.job_id))
