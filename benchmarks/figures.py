"""Headline figures of raw results: what tables show and targets are held to."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any


def side_figures(side: dict[str, Any]) -> dict[str, Any]:
    """Return the headline figures of one way to prove: medians, of a whole proof."""
    proofs = side["proofs"]
    return {
        "prove_s": median(proof["prove_s"] for proof in proofs),
        "prove_cpu_s": median(proof["cpu_s"] for proof in proofs),
        "peak_rss_mb": median(proof["peak_rss_bytes"] for proof in proofs) / 1e6,
        "pk_bytes": side["pk_bytes"],
        "gas": side["gas"]["verify_raw_gas"],
        "weights_mode": side["weights_mode"],
        "agreement_max_abs": side["agreement"]["max_abs"],
        "accuracy": side["agreement"]["circuit_accuracy"],
    }


def percentile(values: Sequence[float], percent: int) -> float:
    """Return the smallest value that ``percent`` of all do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]
