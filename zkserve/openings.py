"""Private inputs: kept while something needs them, then deleted."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy.orm import Session

from zkserve.encoding import sha256_hex, to_hex
from zkserve.engines.base import Prediction
from zkserve.errors import (
    Conflict,
    Unavailable,
)
from zkserve.node import Node
from zkserve.store import inputs, jobs
from zkserve.store.tables import VersionRow, now
from zkserve.types import JobState

_MIN_FREE_BYTES = 256 << 20


def keep_input(
    node: Node, version: VersionRow, prediction: Prediction, *, tenant: str, max_inputs_ahead: int
) -> None:
    """Keep the opening of a committed input for the on-chain request that will name it.

    The same commitment again changes nothing.

    Raises:
        Conflict: the tenant has ``max_inputs_ahead`` inputs here already.
        Unavailable: the disk is nearly full, or the database is down.

    """
    require_disk(node)
    opening = sha256_hex(prediction.opening)
    try:
        with node.database.session() as session:
            if inputs.count(session, tenant) >= max_inputs_ahead:
                raise Conflict(
                    f"{max_inputs_ahead} inputs handed in ahead are kept already.",
                    remedy="Put the requests on chain for them; old ones are deleted in time.",
                )
            # Equal openings share a file: see forget_input.
            node.database.lock(session, opening)
            node.artifacts.seal(prediction.opening)
            inputs.add(
                session,
                version_id=version.id,
                tenant=tenant,
                commitment=to_hex(prediction.claim.input),
                opening=opening,
            )
    except OSError as exc:
        raise Unavailable(
            "The disk refused to store the input.", remedy="Try again later."
        ) from exc


def forget_input(node: Node, job_id: str) -> None:
    """Delete the private input of a job that will not be proved any more.

    FAILED jobs keep theirs for an operator's retry, until they are cancelled.
    """
    with node.database.session() as session:
        job = jobs.get(session, job_id, lock=True)
        over = JobState(job.state).final and JobState(job.state) is not JobState.FAILED
        if job.opening is None or not (over or job.proof is not None):
            return
        opening, job.opening = job.opening, None
        session.flush()
        _drop_unused(node, session, opening)


def forget_inputs_ahead(node: Node, *, kept_s: float) -> int:
    """Delete committed inputs handed in longer than ``kept_s`` ago; return how many.

    One that an open request waits for stays.
    """
    with node.database.session() as session:
        old = inputs.handed_in_before(session, now() - timedelta(seconds=kept_s))
        for row in old:
            session.delete(row)
        session.flush()
        for opening in sorted({row.opening for row in old}):
            _drop_unused(node, session, opening)
    return len(old)


def require_disk(node: Node) -> None:
    """Refuse more while the disk is nearly full.

    Raises:
        Unavailable: it is.

    """
    if node.artifacts.free_bytes() < _MIN_FREE_BYTES:
        raise Unavailable(
            f"Less than {_MIN_FREE_BYTES >> 20} MiB of disk are free, so nothing is accepted.",
            remedy="Try again later.",
        )


def _drop_unused(node: Node, session: Session, opening: str) -> None:
    # Held until the end of the transaction, like in accept: between a look and the deletion no
    # other job can come to refer to the same file.
    node.database.lock(session, opening)
    if not jobs.opening_in_use(session, opening):
        node.artifacts.delete(opening)
