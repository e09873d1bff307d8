"""Health and metadata of the Open Inference Protocol, and the listing of models."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from zkserve import __version__, budgets
from zkserve.api import schemas
from zkserve.api.schemas import ModelName, VersionNumber
from zkserve.api.service import Service, ServiceDep
from zkserve.errors import Unavailable, ZkserveError
from zkserve.receipt import manifest_from_dict
from zkserve.store import versions
from zkserve.store.tables import VersionRow
from zkserve.types import CircuitManifest, TensorSpec

router = APIRouter(tags=["models"])


def quantised_name(output: TensorSpec) -> str:
    """Return the name of the tensor of integers that is proved."""
    return f"{output.name}_quantised"


@router.get("/v2")
async def server_metadata() -> schemas.ServerMetadata:
    """Return name and version of this server."""
    return schemas.ServerMetadata(name="zkserve", version=__version__, extensions=["proofs"])


@router.get("/v2/health/live", response_model_exclude_none=True)
async def server_live() -> schemas.Health:
    """Say whether the process answers; ask nothing else."""
    return schemas.Health(live=True)


@router.get("/v2/health/ready", response_model_exclude_none=True)
def server_ready(service: ServiceDep) -> schemas.Health:
    """Say whether the database answers and its tables are of this version."""
    try:
        service.node.database.require_current()
    except SQLAlchemyError as exc:
        raise Unavailable("The database did not answer.", remedy="Try again.") from exc
    except ZkserveError as exc:
        raise Unavailable(exc.message, remedy=exc.remedy) from exc
    return schemas.Health(ready=True)


@router.get("/v1/models")
def list_models(service: ServiceDep) -> schemas.ModelList:
    """List all models and their versions."""
    with service.node.database.snapshot() as session:
        found = versions.listing(session)
        leaks = {version.id: _leak(session, version) for _, version in found}
    return schemas.ModelList(
        models=[
            schemas.ModelVersion(
                name=model.name,
                version=version.number,
                description=model.description,
                circuit_id=version.circuit_id,
                created_at=version.created_at,
                deprecated=version.deprecated_at is not None,
                replaced_by=version.replaced_by,
                leak=leaks[version.id],
            )
            for model, version in found
        ]
    )


@router.get("/v2/models/{model}")
def model_metadata(service: ServiceDep, model: ModelName) -> schemas.ModelMetadata:
    """Return metadata of the newest version that is not deprecated."""
    return _metadata(service, model, None)


@router.get("/v2/models/{model}/versions/{version}")
def model_version_metadata(
    service: ServiceDep, model: ModelName, version: VersionNumber
) -> schemas.ModelMetadata:
    """Return metadata of one version."""
    return _metadata(service, model, version)


@router.get("/v2/models/{model}/ready")
def model_ready(service: ServiceDep, model: ModelName) -> schemas.ModelReady:
    """Say whether the newest version can predict and be proved here."""
    return _ready(service, model, None)


@router.get("/v2/models/{model}/versions/{version}/ready")
def model_version_ready(
    service: ServiceDep, model: ModelName, version: VersionNumber
) -> schemas.ModelReady:
    """Say whether one version can predict and be proved here."""
    return _ready(service, model, version)


def _ready(service: Service, model: str, number: int | None) -> schemas.ModelReady:
    with service.node.database.snapshot() as session:
        _, row = versions.find(session, model, number)
    manifest = manifest_from_dict(row.manifest)
    try:
        service.node.engine(manifest)
        service.node.bundle(manifest)
    except ZkserveError as exc:
        raise Unavailable(
            f"{model} version {row.number} is not ready: {exc.message}", remedy=exc.remedy
        ) from exc
    return schemas.ModelReady(name=model, version=str(row.number), ready=True)


def _metadata(service: Service, model: str, number: int | None) -> schemas.ModelMetadata:
    with service.node.database.snapshot() as session:
        _, row = versions.find(session, model, number)
        numbers = [
            version.number for found, version in versions.listing(session) if found.name == model
        ]
        leak = _leak(session, row)
    manifest = manifest_from_dict(row.manifest)
    shape = list(manifest.output.shape)
    return schemas.ModelMetadata(
        name=model,
        versions=[str(number) for number in sorted(numbers)],
        platform=f"zkserve_{manifest.engine}",
        inputs=[
            schemas.TensorMetadata(name=spec.name, datatype=spec.dtype, shape=list(spec.shape))
            for spec in manifest.inputs
        ],
        outputs=[
            schemas.TensorMetadata(name=manifest.output.name, datatype="FP64", shape=shape),
            schemas.TensorMetadata(
                name=quantised_name(manifest.output), datatype="INT64", shape=shape
            ),
        ],
        parameters=_parameters(row, manifest) | {"leak": leak.model_dump() if leak else None},
    )


def _leak(session: Session, row: VersionRow) -> schemas.Leak | None:
    """Return what proofs reveal of the weights, how many may be made, and how many are used up.

    Proofs of other versions of the same weights count, each by what it reveals; so do open jobs.
    """
    budget, made = manifest_from_dict(row.manifest).leak, budgets.proofs_made(session, row)
    if budget is None or made is None:
        return None
    return schemas.Leak(
        bits_per_proof=budget.bits_per_proof,
        secret_bits=budget.secret_bits,
        proofs=budget.proofs,
        made=made,
    )


def _parameters(row: VersionRow, manifest: CircuitManifest) -> dict[str, Any]:
    return {
        "version": row.number,
        "deprecated": row.deprecated_at is not None,
        "replaced_by": row.replaced_by,
        "circuit_id": manifest.circuit_id,
        "engine": manifest.engine,
        "engine_version": manifest.engine_version,
        "input_mode": manifest.input_mode.value,
        "weights_mode": manifest.weights_mode.value,
        "weights": manifest.weights,
        "output_scale": asdict(manifest.output_scale),
        "development_srs": manifest.development_srs,
        "batch": manifest.batch,
        "rows": manifest.rows,
        "classes": row.classes,
        "agreement": asdict(manifest.agreement) if manifest.agreement else None,
        "chain_id": row.chain_id,
        "registry": row.registry_address,
        "verifier": row.verifier_address,
        "chain_version_id": row.chain_version_id,
    }
