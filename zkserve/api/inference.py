"""Predict: at once the outputs that will be proved, and a durable job that proves them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from anyio import WouldBlock, to_thread
from fastapi import APIRouter, Response

from zkserve import openings, prove
from zkserve.api import tensors
from zkserve.api.auth import Tenant
from zkserve.api.models import quantised_name
from zkserve.api.schemas import (
    CommittedInput,
    IdempotencyKey,
    InferRequest,
    InferResponse,
    InferTensor,
    InputRequest,
    ModelName,
    OutputTensor,
    RequestedOutput,
    Scalar,
    VersionNumber,
)
from zkserve.api.service import Service, ServiceDep
from zkserve.encoding import canonical_json, claim_digest, to_hex
from zkserve.errors import InvalidInput, NotFound, Unavailable
from zkserve.node import Node
from zkserve.receipt import claim_from_dict, claim_to_dict, manifest_from_dict
from zkserve.store import versions
from zkserve.store.tables import JobRow, VersionRow
from zkserve.types import CircuitManifest, Claim, InputMode

router = APIRouter(tags=["inference"])

RETRY_AFTER_S = 2
_INT64 = 1 << 63
_T = TypeVar("_T")


@router.post("/v2/models/{model}/infer", response_model_exclude_none=True)
async def infer(
    service: ServiceDep,
    tenant: Tenant,
    model: ModelName,
    request: InferRequest,
    idempotency_key: IdempotencyKey = None,
) -> InferResponse:
    """Predict with the newest version and, unless ``prove`` is false, have it proved."""
    return await _in_thread(
        service, lambda: _infer(service, tenant, model, None, request, idempotency_key)
    )


@router.post("/v2/models/{model}/versions/{version}/infer", response_model_exclude_none=True)
async def infer_version(
    service: ServiceDep,
    tenant: Tenant,
    model: ModelName,
    version: VersionNumber,
    request: InferRequest,
    idempotency_key: IdempotencyKey = None,
) -> InferResponse:
    """Predict with one version and, unless ``prove`` is false, have it proved."""
    return await _in_thread(
        service, lambda: _infer(service, tenant, model, version, request, idempotency_key)
    )


@router.post("/v1/proofs", status_code=202, response_model_exclude_none=True, tags=["proofs"])
async def create_proof(
    service: ServiceDep,
    tenant: Tenant,
    request: InputRequest,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> InferResponse:
    """Predict and have it proved; ``Location`` is where the proof can be followed."""
    body = InferRequest(inputs=request.inputs)
    answer = await _in_thread(
        service,
        lambda: _infer(service, tenant, request.model, request.version, body, idempotency_key),
    )
    response.headers["Location"] = f"/v1/proofs/{answer.parameters['proof_id']}"
    response.headers["Retry-After"] = str(RETRY_AFTER_S)
    return answer


@router.post("/v1/inputs", status_code=201)
async def commit_input(
    service: ServiceDep, tenant: Tenant, request: InputRequest
) -> CommittedInput:
    """Turn inputs into what an on-chain request carries; keeps the opening for when it comes."""
    return await _in_thread(service, lambda: _commit(service, tenant, request))


async def _in_thread(service: Service, work: Callable[[], _T]) -> _T:
    place = object()
    try:
        # Who waits is counted by the limiter of threads a turn of the loop later: too late for many
        # that come at once.
        service.places.acquire_on_behalf_of_nowait(place)
    except WouldBlock as exc:
        raise Unavailable(
            "Too many predictions are already waiting.", remedy="Try again shortly."
        ) from exc
    try:
        return await to_thread.run_sync(work, limiter=service.predictions)
    finally:
        service.places.release_on_behalf_of(place)


def _infer(
    service: Service,
    tenant: str,
    model: str,
    number: int | None,
    request: InferRequest,
    idempotency_key: str | None,
) -> InferResponse:
    fingerprints: tuple[str, ...] = ()
    if idempotency_key is not None and request.parameters.prove:
        fingerprints = _fingerprints(service.node, model, number, request.inputs)
        # Before anything is looked up or predicted: the version asked for then may be gone by
        # now, and a new prediction would draw another salt.
        known = prove.replay(
            service.node,
            tenant=tenant,
            idempotency_key=idempotency_key,
            fingerprints=fingerprints,
        )
        if known is not None:
            return _of_job(service, known, request)
    with service.node.database.snapshot() as session:
        _, row = versions.find(session, model, number)
    manifest = manifest_from_dict(row.manifest)
    values = tensors.join(manifest.inputs, request.inputs, manifest.batch)
    _outputs(manifest, (), request.outputs, rows=manifest.batch)
    prediction = prove.predict(service.node, row, values)
    if not request.parameters.prove:
        return _answer(model, row, request, prediction.claim, prediction.opening, {})
    job = prove.accept(
        service.node,
        service.queue,
        row,
        prediction,
        tenant=tenant,
        idempotency_key=idempotency_key,
        request_sha256=fingerprints[0] if fingerprints else None,
        max_open_jobs=service.max_open_jobs,
    )
    return _of_job(service, job, request)


def _fingerprints(
    node: Node, model: str, number: int | None, given: Sequence[InferTensor]
) -> tuple[str, ...]:
    # Under keys: by a plain digest whoever has the database could confirm a guess of the inputs.
    body = [model, number, [tensor.model_dump() for tensor in given]]
    return node.artifacts.key.macs(json.dumps(body, sort_keys=True).encode())


def _of_job(service: Service, job: JobRow, request: InferRequest) -> InferResponse:
    with service.node.database.snapshot() as session:
        model, row = versions.get(session, job.version_id)
    opening = None
    if job.opening is not None:
        # Gone once it is proved: whoever repeats a request later has kept it from the first time.
        with suppress(NotFound):
            opening = service.node.artifacts.get(job.opening)
    status = "not yet proven" if job.proof is None else "proven"
    parameters: dict[str, Scalar] = {"proof_id": job.id, "proof_status": status}
    return _answer(model.name, row, request, claim_from_dict(job.claim or {}), opening, parameters)


def _answer(
    model: str,
    row: VersionRow,
    request: InferRequest,
    claim: Claim,
    opening: bytes | None,
    parameters: dict[str, Scalar],
) -> InferResponse:
    manifest = manifest_from_dict(row.manifest)
    rows = tensors.rows_of(manifest.inputs, request.inputs, manifest.batch)
    # Scalars only, as the protocol has it: what is nested travels as canonical JSON text.
    parameters = {
        **parameters,
        "circuit_id": claim.circuit_id,
        "claim_digest": claim_digest(claim),
        "claim": canonical_json(claim_to_dict(claim)).decode(),
        "output_multiplier": manifest.output_scale.multiplier,
        "output_shift": manifest.output_scale.shift,
        "development_srs": manifest.development_srs,
        "batch": manifest.batch,
        "rows": rows,
    }
    if opening is not None and manifest.input_mode is InputMode.COMMITTED:
        parameters["opening"] = opening.decode()
    return InferResponse(
        model_name=model,
        model_version=str(row.number),
        id=request.id,
        parameters=parameters,
        outputs=_outputs(manifest, claim.outputs, request.outputs, rows=rows),
    )


def _outputs(
    manifest: CircuitManifest,
    integers: Sequence[int],
    requested: Sequence[RequestedOutput] | None,
    *,
    rows: int,
) -> list[OutputTensor]:
    """Return the outputs of the first ``rows`` samples of a claim."""
    shape, name = list(manifest.output.shape), manifest.output.name
    if manifest.batch > 1:
        integers = integers[: len(integers) // manifest.batch * rows]
        shape[0] = rows
    reals = [manifest.output_scale.to_real(integer) for integer in integers]
    quantised = OutputTensor(
        name=quantised_name(manifest.output), shape=shape, datatype="INT64", data=list(integers)
    )
    if any(not -_INT64 <= integer < _INT64 for integer in integers):
        quantised.datatype = "BYTES"
        quantised.data = [str(integer) for integer in integers]
    outputs = {
        name: OutputTensor(name=name, shape=shape, datatype="FP64", data=reals),
        quantised.name: quantised,
    }
    if requested is None:
        return list(outputs.values())
    unknown = [output.name for output in requested if output.name not in outputs]
    if unknown:
        raise InvalidInput(
            f"The model has the outputs {list(outputs)}, not {unknown[0][:80]!r}.",
            remedy="Ask for those, or leave `outputs` out for all.",
        )
    return [outputs[output.name] for output in requested]


def _commit(service: Service, tenant: str, request: InputRequest) -> CommittedInput:
    with service.node.database.snapshot() as session:
        _, row = versions.find(session, request.model, request.version)
    manifest = manifest_from_dict(row.manifest)
    values = tensors.join(manifest.inputs, request.inputs, manifest.batch)
    prediction = prove.predict(service.node, row, values)
    committed = manifest.input_mode is InputMode.COMMITTED
    if committed:
        openings.keep_input(
            service.node,
            row,
            prediction,
            tenant=tenant,
            max_inputs_ahead=service.max_inputs_ahead,
        )
    return CommittedInput(
        model=request.model,
        version=row.number,
        circuit_id=row.circuit_id,
        chain_id=row.chain_id,
        chain_version_id=row.chain_version_id,
        input=to_hex(prediction.claim.input),
        opening=prediction.opening.decode() if committed else None,
        batch=manifest.batch,
        rows=tensors.rows_of(manifest.inputs, request.inputs, manifest.batch),
    )
