"""How the time to prove grows with the number of weights and with the number of activations.

Run from the repository's root: ``python -m benchmarks.native_scaling --out FILE``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import environment, models, plot, tables
from benchmarks.native_vs_ezkl import Native

FAMILIES = {"weights": models.BY_WEIGHTS, "activations": models.BY_ACTIVATIONS}


def measure(family: str, name: str, runs: int) -> dict[str, Any]:
    """Measure one member of a family."""

    def say(what: str) -> None:
        print(f"{name}: {what}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="zkserve-benchmark-") as scratch:
        folder = Path(scratch)
        subject = models.make(name, folder)
        way = Native(subject, folder)
        way.prepare(say)
        for number in range(runs):
            sample = subject.data.held_out[number % len(subject.data.held_out)]
            way.prove(sample)
            say(f"proof {number + 1} of {runs}: {way.measured.proofs[-1].prove_s:.2f} s")
    weights, activations = models.size_of(name)
    return {
        "model": name,
        "family": family,
        "weights": weights,
        "activations": activations,
        "settings": way.measured.settings,
        "proof_bytes": way.measured.proof_bytes,
        "proofs": [asdict(proof) for proof in way.measured.proofs],
    }


def main() -> None:
    """Measure, or draw the table and the plot anew from what was measured before."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = [name for family in FAMILIES.values() for name in family]
    parser.add_argument("--model", nargs="+", choices=names, default=names)
    parser.add_argument("--runs", type=int, default=3, help="proofs of each; medians count")
    parser.add_argument("--out", type=Path, help="add raw results to this file")
    parser.add_argument("--table", action="store_true", help="only rewrite the table and the plot")
    arguments = parser.parse_args()
    if arguments.table:
        tables.rewrite("native_scaling")
        plot.PLOT.write_text(plot.native_scaling(tables.read("native_scaling")))
        return
    if arguments.runs < 1:
        parser.error("--runs must be at least 1")
    result = {
        "benchmark": "native_scaling",
        **environment.describe(),
        "models": [
            measure(family, name, arguments.runs)
            for family, members in FAMILIES.items()
            for name in members
            if name in arguments.model
        ],
    }
    if arguments.out:
        tables.merge(arguments.out, result)
    print(tables.native_scaling(result))


if __name__ == "__main__":
    main()
