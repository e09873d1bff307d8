"""The calls into children that several parts of the engine make; ezkl itself runs there only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zkserve.engines.base import Cancelled, Limits, Progress
from zkserve.engines.child import Answer, run_child
from zkserve.engines.ezkl.claims import POINT_BYTES
from zkserve.engines.sandbox import Reach
from zkserve.errors import EngineFailed

STEPS = "zkserve.engines.ezkl.steps:"
COMPILING = "zkserve.engines.ezkl.compiling:"
ESTIMATING = "zkserve.engines.ezkl.estimating:"
HEAVY_NICENESS = 5


def prove(
    files: Mapping[str, Path],
    elements: list[int],
    instances: list[int] | None,
    *,
    limits: Limits,
    progress: Progress,
    cancelled: Cancelled,
) -> Answer:
    """Prove and verify in a child; ``instances`` is None where there is no claim yet."""
    names = ("settings", "compiled", "proving_key", "verifying_key", "srs", "verifier_srs")
    paths: dict[str, Any] = {name: str(files[name].resolve()) for name in names}
    return run_child(
        STEPS + "prove",
        limits=limits,
        niceness=HEAVY_NICENESS,
        reach=reading(files),
        progress=progress,
        cancelled=cancelled,
        elements=elements,
        instances=instances,
        **paths,
    )


def check_commitments(
    files: Mapping[str, Path], elements: list[int], proof: bytes, *, points: int, limits: Limits
) -> None:
    """Check that a proof begins with as many points as ezkl commits to the weights with, and those.

    ``points`` is what the settings say.

    Raises:
        EngineFailed: it does not.

    """
    paths: dict[str, Any] = {
        name: str(files[name].resolve()) for name in ("compiled", "verifying_key", "srs")
    }
    expected: list[int] = run_child(
        STEPS + "weights_commitments",
        limits=limits,
        reach=reading(files),
        elements=elements,
        **paths,
    ).value
    starts = range(0, points * POINT_BYTES, POINT_BYTES)
    found = [int.from_bytes(proof[start : start + 32], "big") for start in starts]
    if not points or found != expected:
        raise EngineFailed(
            f"ezkl commits to the weights with {len(expected)} points, its settings call for "
            f"{points}, and proofs do not begin with just those.",
            remedy='Use weights mode "hashed" or "fixed", or another logrows.',
        )


def reading(files: Mapping[str, Path]) -> Reach:
    """Let a child read these files."""
    return Reach(readable=tuple(path.resolve() for path in files.values()))
