"""What a native prediction costs alone and in a batch of eight.

Run from the repository's root: ``python -m benchmarks.native_batches --out FILE``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import environment, models, onchain, tables
from zkserve.engines.agreement import join_samples
from zkserve.engines.base import CircuitPlan, Limits
from zkserve.engines.native.engine import NativeEngine
from zkserve.types import WeightsMode

BATCHES = (1, 8)
LIMITS = Limits(time_s=1200.0, memory_bytes=12 << 30)


def measure(name: str, batch: int, runs: int, chain: onchain.LocalChain) -> dict[str, Any]:
    """Prove batches of held-out samples, each of others, and verify the last on a chain."""

    def say(what: str) -> None:
        print(f"{name}, {batch} in a proof: {what}", file=sys.stderr, flush=True)

    proof_system = NativeEngine()
    with tempfile.TemporaryDirectory(prefix="zkserve-benchmark-") as scratch:
        folder = Path(scratch)
        subject = models.make(name, folder)
        plan = CircuitPlan(
            input_mode=subject.input_mode,
            weights_mode=WeightsMode.COMMITTED,
            options={**subject.native, "batch": batch},
        )
        say("compiling and setting up")
        log_size = proof_system.compile(
            subject.onnx, plan, subject.data.calibration, folder / "circuit", limits=LIMITS
        )
        srs = proof_system.development_srs(log_size, folder / "made.srs", limits=LIMITS)
        bundle = proof_system.setup(folder / "circuit", srs, limits=LIMITS)
        proofs = []
        for number in range(runs + 1):
            at = np.arange(number * batch, (number + 1) * batch) % len(subject.data.held_out)
            joined = join_samples(bundle.manifest.inputs, subject.data.held_out[at])
            prediction = proof_system.predict(bundle, joined)
            proof = proof_system.prove(
                bundle,
                prediction.claim,
                prediction.opening,
                context=onchain.CONTEXT,
                limits=LIMITS,
            )
            say(f"{proof.prove_s:.2f} s")
            if number:  # the first starts what later ones find ready
                proofs.append({"prove_s": proof.prove_s, "prove_cpu_s": proof.prove_cpu_s})
        gas = chain.verify_registered(
            bundle.manifest, proof_system.export_verifier(bundle), prediction.claim, proof.data
        )
        return {
            "batch": batch,
            "options": dict(plan.options),
            "k": bundle.manifest.facts["k"],
            "proofs": proofs,
            "peak_rss_bytes": proof.peak_rss_bytes,
            "proof_bytes": len(proof.data),
            "gas": gas,
        }


def main() -> None:
    """Measure, or write the README's table anew from what was measured before."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", nargs="+", choices=models.CIRCUITS, default=models.CIRCUITS)
    parser.add_argument("--runs", type=int, default=3, help="proofs of each; medians count")
    parser.add_argument("--out", type=Path, help="add raw results to this file")
    parser.add_argument("--table", action="store_true", help="only rewrite the README's table")
    arguments = parser.parse_args()
    if arguments.table:
        tables.rewrite("native_batches")
        return
    if arguments.runs < 1:
        parser.error("--runs must be at least 1")
    with ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="zkserve-anvil-")))
        chain = stack.enter_context(onchain.running(logs))
        result = {
            "benchmark": "native_batches",
            **environment.describe(),
            "hardfork": chain.hardfork,
            "models": [
                {
                    "model": name,
                    "batches": [measure(name, batch, arguments.runs, chain) for batch in BATCHES],
                }
                for name in arguments.model
            ],
        }
    if arguments.out:
        tables.merge(arguments.out, result)
    print(tables.native_batches(result))


if __name__ == "__main__":
    main()
