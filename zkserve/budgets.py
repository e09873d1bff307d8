"""Leak budgets: no proof is promised past what may be revealed of the weights.

The secret is the weights, not a circuit of them: all versions that share weights draw on one
budget, each by the bits that a proof of its own circuit reveals. A job takes its share once, when
its proof is promised, and nothing that is promised or proved later takes it back: who has all the
proofs does not learn more from the order in which they were finished. See docs/adr/0013.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.orm import Session

from zkserve.engines.base import Limits
from zkserve.engines.child import run_child
from zkserve.engines.sandbox import Reach
from zkserve.errors import LeakBudgetSpent, NotFound, VersionDeprecated
from zkserve.receipt import manifest_from_dict
from zkserve.store import leaks, versions
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


def require(database: Database, session: Session, version: VersionRow) -> None:
    """Return if one more proof of a version is within its budget, holding a lock until committed.

    Whoever promises a proof calls this in the transaction that does; the job holds no share yet.

    Raises:
        LeakBudgetSpent: it is not.

    """
    leak = manifest_from_dict(version.manifest).leak
    if leak is None:
        return
    database.lock(session, _LOCK)
    spent = spent_bits(session, version)
    if spent + leak.bits_per_proof > leak.bits:
        raise LeakBudgetSpent(
            f"Proofs of these weights have revealed, or are promised to reveal, {spent} of the "
            f"{leak.bits} bits that may be; one more reveals {leak.bits_per_proof}.",
            remedy="Ask the model's owner for a version whose weights stay hidden (zkserve rekey).",
        )


def require_offered(session: Session, version: VersionRow) -> None:
    """Return unless a version reveals its weights and is deprecated: it promises no more proofs.

    What was promised before, here or by a request on chain, is not asked about.

    Raises:
        VersionDeprecated: it does and is.

    """
    model, row = versions.get(session, version.id)
    if row.deprecated_at is None or manifest_from_dict(row.manifest).leak is None:
        return
    try:
        remedy = f"Ask for version {versions.find(session, model.name)[1].number}"
    except NotFound:
        remedy = "No other version is in use: ask the model's owner"
    raise VersionDeprecated(
        f"Version {row.number} of {model.name} is deprecated, and proofs of it reveal its weights: "
        "it gives no new ones.",
        remedy=f"{remedy}, or predict without a proof (`prove`: false).",
    )


def spent_bits(session: Session, version: VersionRow) -> int:
    """Return how many bits of a version's weights all versions have revealed or promised to."""
    rows = {row.id: row for row in leaks.sharing(session, version)}
    counts = leaks.proofs_by_version(session, list(rows))
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
