"""ezkl as zkserve tunes it beside ezkl with default calibration, in turn, in one weights mode.

Run from the repository's root: ``python -m benchmarks.ezkl_tuned --model digits_cnn --weights fixed
--runs 5 --json``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import environment, figures, models, onchain, tables
from benchmarks.ezkl_sides import Default, Tuned, spent
from zkserve import recipe
from zkserve.engines.base import Progress
from zkserve.engines.ezkl import tuning
from zkserve.types import WeightsMode


def asked(stated: float, default_within: float) -> float:
    """Return the tolerance that the tuner is asked to keep.

    That of the recipe, or one of which the tuner lets calibration samples use as much as the
    default differs by on them: its margin for held-out samples is not asked of one side alone.
    Which of the two is closer on those is measured, and counts.
    """
    return min(stated, default_within / tuning.KEPT_SHARE)


def measure(
    name: str, weights: WeightsMode, runs: int, batch: int | None, chain: onchain.LocalChain
) -> dict[str, Any]:
    """Measure one model of ``circuits/`` in one weights mode."""

    def titled(side: str) -> Progress:
        return lambda what: print(f"{name}, {side}: {what}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="zkserve-benchmark-") as scratch:
        folder = Path(scratch)
        subject = models.make(name, folder)
        default = Default(subject, weights, folder, titled("default"))
        stated = recipe.load(models.ROOT / "circuits" / name).tolerance
        tolerance = asked(stated, default.calibrated_within)
        sides: dict[str, Tuned | Default] = {
            "tuned": Tuned(subject, weights, tolerance, 1, folder, titled("tuned")),
            "default": default,
        }
        if batch is not None:
            sides["batch"] = Tuned(subject, weights, tolerance, batch, folder, titled("batch"))
        held_out = subject.data.held_out
        for number in range(runs):
            samples = np.roll(held_out, -number, axis=0)
            for side, way in sides.items():
                way.result.proofs.append(spent(way.result, way.prove(samples)))
                seconds = way.result.proofs[-1].prove_s
                titled(side)(f"proof {number + 1} of {runs}: {seconds:.2f} s")
        for side, way in sides.items():
            titled(side)("verifying on chain")
            way.finish(chain)
    return {
        "model": name,
        "weights": weights.value,
        "input_mode": subject.input_mode.value,
        "sides": {side: asdict(way.result) for side, way in sides.items()},
    }


def main() -> None:
    """Measure, or write the README's table anew from what was measured before."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=models.CIRCUITS, help="the model to measure")
    parser.add_argument("--weights", choices=("fixed", "hashed"), help="how both bind weights")
    parser.add_argument("--runs", type=int, default=5, help="proofs of each; medians count")
    parser.add_argument("--batch", type=int, help="also a tuned circuit of this many predictions")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--out", type=Path, help="add raw results to this file")
    parser.add_argument("--table", action="store_true", help="only rewrite the README's table")
    arguments = parser.parse_args()
    if arguments.table:
        tables.rewrite("ezkl_tuned")
        return
    if arguments.runs < 1 or arguments.model is None or arguments.weights is None:
        parser.error("--model and --weights are needed, and --runs of at least 1")
    if arguments.batch is not None and arguments.batch < 2:
        parser.error("--batch must be at least 2")
    weights = WeightsMode(arguments.weights)
    with ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="zkserve-anvil-")))
        chain = stack.enter_context(onchain.running(logs))
        result = {
            "benchmark": "ezkl_tuned",
            **environment.describe(),
            "hardfork": chain.hardfork,
            "models": [measure(arguments.model, weights, arguments.runs, arguments.batch, chain)],
        }
    if arguments.out:
        tables.merge(arguments.out, result)
    if arguments.json:
        sides = result["models"][0]["sides"]
        print(json.dumps({name: figures.side_figures(side) for name, side in sides.items()}))
    else:
        print(tables.ezkl_tuned(result))


if __name__ == "__main__":
    main()
