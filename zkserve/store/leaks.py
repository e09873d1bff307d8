"""What proofs have revealed of a version's weights: read off the jobs, with no counter beside them.

A job holds its share from when it can be proved until it ends without a proof; with a proof stored
it holds it for good. A worker's death changes neither, and a repeated attempt is the same job.
Storing a proof changes no sum: what was promised is then made.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from zkserve.store.tables import JobRow, VersionRow
from zkserve.types import JobState


def proofs_by_version(session: Session, version_ids: Sequence[int]) -> dict[int, int]:
    """Return how many proofs of each version were made or are promised."""
    over = [state for state in JobState if state.final]
    proven = JobRow.proof.is_not(None)
    promised = JobRow.opening.is_not(None) & JobRow.state.not_in(over)
    query = (
        select(JobRow.version_id, func.count())
        .where(JobRow.version_id.in_(version_ids), proven | promised)
        .group_by(JobRow.version_id)
    )
    return {row[0]: row[1] for row in session.execute(query)}


def sharing(session: Session, version: VersionRow) -> list[VersionRow]:
    """Return the versions that share weights with one, itself included, whatever their model."""
    own = set(version.weights_digests)
    query = select(VersionRow).where(VersionRow.id != version.id)
    others = [row for row in session.scalars(query) if own & set(row.weights_digests)]
    return [version, *others]
