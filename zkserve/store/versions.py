"""Models and their immutable versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from zkserve.errors import NotFound
from zkserve.store.tables import ModelRow, VersionRow


def add(
    session: Session,
    *,
    name: str,
    description: str,
    circuit_id: str,
    publication: str,
    onnx_sha256: str,
    manifest: dict[str, Any],
    classes: Sequence[str] = (),
    limits: Mapping[str, Any] | None = None,
    weights_digests: Sequence[str] = (),
) -> VersionRow:
    """Add the next version of a model, and the model itself if it is new."""
    model = session.scalar(select(ModelRow).where(ModelRow.name == name).with_for_update())
    if model is None:
        model = ModelRow(name=name)
        session.add(model)
    model.description = description
    session.flush()
    newest = session.scalar(
        select(func.max(VersionRow.number)).where(VersionRow.model_id == model.id)
    )
    version = VersionRow(
        model_id=model.id,
        number=(newest or 0) + 1,
        circuit_id=circuit_id,
        publication=publication,
        onnx_sha256=onnx_sha256,
        manifest=manifest,
        classes=list(classes),
        limits=dict(limits or {}),
        weights_digests=list(weights_digests),
    )
    session.add(version)
    session.flush()
    return version


def find(session: Session, name: str, number: int | None = None) -> tuple[ModelRow, VersionRow]:
    """Return a version of a model; without a number the newest that is not deprecated.

    Raises:
        NotFound: there is no such model or version.

    """
    query = select(ModelRow, VersionRow).join(VersionRow, VersionRow.model_id == ModelRow.id)
    query = query.where(ModelRow.name == name)
    if number is None:
        query = query.where(VersionRow.deprecated_at.is_(None)).order_by(VersionRow.number.desc())
    else:
        query = query.where(VersionRow.number == number)
    found = session.execute(query.limit(1)).first()
    if found is None:
        what = "version in use" if number is None else f"version {number}"
        raise NotFound(
            f"There is no {what} of a model {name[:63]!r}.",
            remedy="GET /v1/models lists what is served.",
        )
    return found[0], found[1]


def get(session: Session, version_id: int) -> tuple[ModelRow, VersionRow]:
    """Return a version by the id of its row.

    Raises:
        NotFound: there is none.

    """
    return _only(session, VersionRow.id == version_id, f"row {version_id}")


def by_circuit(session: Session, circuit_id: str) -> tuple[ModelRow, VersionRow]:
    """Return the version that a circuit belongs to.

    Raises:
        NotFound: no version has this circuit.

    """
    return _only(session, VersionRow.circuit_id == circuit_id, f"circuit {circuit_id[:66]}")


def by_publication(session: Session, publication: str) -> VersionRow | None:
    """Return the version that this publication gave, if it was made before."""
    return session.scalar(select(VersionRow).where(VersionRow.publication == publication))


def listing(session: Session) -> list[tuple[ModelRow, VersionRow]]:
    """Return all versions by model name, newest first."""
    query = select(ModelRow, VersionRow).join(VersionRow, VersionRow.model_id == ModelRow.id)
    rows = session.execute(query.order_by(ModelRow.name, VersionRow.number.desc()))
    return [(row[0], row[1]) for row in rows]


def _only(session: Session, condition: Any, what: str) -> tuple[ModelRow, VersionRow]:
    query = select(ModelRow, VersionRow).join(VersionRow, VersionRow.model_id == ModelRow.id)
    found = session.execute(query.where(condition)).first()
    if found is None:
        raise NotFound(f"There is no version with {what}.")
    return found[0], found[1]
