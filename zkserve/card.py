"""What a model card says of the weights, written from the lock of its circuit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zkserve.encoding import parse_json
from zkserve.errors import NotFound, RecipeInvalid
from zkserve.lock import LOCK_NAME
from zkserve.types import LeakBudget, WeightsMode

_BOUND = {
    WeightsMode.COMMITTED: "behind a blinded commitment. Proofs are built to reveal nothing of "
    "them (not audited), and no budget bounds how many are made.",
    WeightsMode.HASHED: "bound by a hash without salt, which confirms a guess of all of them. No "
    "budget bounds how many proofs are made; yet each proof of ezkl reveals something of how often "
    "digits occur in what the circuit computes.",
    WeightsMode.FIXED: "constants of the verifying key, which nothing blinds.",
    WeightsMode.POLYCOMMIT: "in columns that nothing blinds, committed to in each proof.",
}


def weights(folder: Path) -> str:
    """Return the paragraph for the card of a recipe: how its weights are bound, and their budget.

    Raises:
        NotFound: the recipe has no lock, because it was not published yet.
        RecipeInvalid: the lock is damaged.

    """
    path = folder / LOCK_NAME
    if not path.is_file():
        raise NotFound(f"{path} is not there.", remedy="Publish the recipe first.")
    try:
        return paragraph(parse_json(path.read_bytes()))
    except (ValueError, KeyError, TypeError) as exc:
        raise RecipeInvalid(
            f"{path} is damaged.", remedy="Publish with --update-lock to write it anew."
        ) from exc


def paragraph(lock: Mapping[str, Any]) -> str:
    """Return the paragraph that a lock's contents give, on one line."""
    mode = WeightsMode(lock["weights_mode"])
    said = f"**Weights:** mode `{mode}` of the engine {lock['engine']}: {_BOUND[mode]}"
    if not mode.leaks:
        return said
    leak = LeakBudget(**lock["leak"])
    return (
        f"{said} **Leak budget:** each proof reveals up to {leak.bits_per_proof:,} bits of about "
        f"{leak.secret_bits:,} that the weights hold, so that {leak.exposing_proofs:,} proofs may "
        f"give them all away; the service makes at most {leak.proofs:,}."
    )
