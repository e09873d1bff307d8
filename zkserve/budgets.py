"""Leak budgets: no proof is promised or released past what may be revealed of the weights.

The secret is the weights, not a circuit of them: all versions that share weights draw on one
budget, each by the bits that a proof of its own circuit reveals. See docs/adr/0013.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.orm import Session

from zkserve.engines.base import Limits
from zkserve.engines.child import run_child
from zkserve.engines.sandbox import Reach
from zkserve.errors import LeakBudgetSpent
from zkserve.receipt import manifest_from_dict
from zkserve.store import leaks
from zkserve.store.database import Database
from zkserve.store.tables import VersionRow

_LOCK = "leak-budget"
_LIMITS = Limits(time_s=300.0, memory_bytes=4 << 30)


def weights_digests(onnx: Path) -> list[str]:
    """Return what tells the weights of an ONNX file in others; it stays in the versions table."""
    path = onnx.resolve()
    found: list[str] = run_child(
        "zkserve.engines.weights:digests",
        limits=_LIMITS,
        reach=Reach(readable=(path,)),
        model=str(path),
    ).value
    return found


def require(
    database: Database,
    session: Session,
    version: VersionRow,
    *,
    besides: str = "",
    made: bool = False,
) -> None:
    """Return if one more proof of a version is within its budget, holding a lock until committed.

    Whoever adds to what is counted calls this in the transaction that adds it. ``besides`` is the
    job that asks, where it has a row already; with ``made`` only proofs that exist count, not those
    that open jobs may come to.

    Raises:
        LeakBudgetSpent: it is not.

    """
    leak = manifest_from_dict(version.manifest).leak
    if leak is None:
        return
    database.lock(session, _LOCK)
    spent = spent_bits(session, version, besides=besides, made=made)
    if spent + leak.bits_per_proof > leak.bits:
        raise LeakBudgetSpent(
            f"Proofs of these weights have revealed, or are promised to reveal, {spent} of the "
            f"{leak.bits} bits that may be; one more reveals {leak.bits_per_proof}.",
            remedy="Ask the model's owner for a version whose weights stay hidden (zkserve rekey).",
        )


def spent_bits(
    session: Session, version: VersionRow, *, besides: str = "", made: bool = False
) -> int:
    """Return how many bits proofs of a version's weights have revealed, in all its versions."""
    rows = {row.id: row for row in leaks.sharing(session, version)}
    counts = leaks.proofs_by_version(session, list(rows), besides=besides, made=made)
    spent = 0
    for version_id, proofs in counts.items():
        leak = manifest_from_dict(rows[version_id].manifest).leak
        spent += proofs * leak.bits_per_proof if leak else 0
    return spent


def proofs_made(session: Session, version: VersionRow) -> int | None:
    """Return how much of a version's budget is used, in proofs of it; None where there is none.

    Open jobs count: their proofs are promised.
    """
    leak = manifest_from_dict(version.manifest).leak
    return -(-spent_bits(session, version) // leak.bits_per_proof) if leak else None
