"""Our own engine beside ezkl: the same model, samples and machine, proved in turn.

Run from the repository's root: ``python -m benchmarks.native_vs_ezkl --model lenet_mnist --json``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from math import ceil, log2
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from benchmarks import environment, models, onchain, steps, tables
from benchmarks.ezkl_sides import (
    STEPS,
    VERIFY_RUNS,
    Cost,
    calibration_samples,
    chosen,
    compare,
    development_srs,
    timed,
)
from zkserve.engines.agreement import measure_agreement
from zkserve.engines.base import Bundle, CircuitPlan, FloatArray, Limits, Progress, Proof
from zkserve.engines.child import Answer, run_child
from zkserve.engines.ezkl.children import HEAVY_NICENESS
from zkserve.engines.native.engine import NativeEngine
from zkserve.errors import ChildKilled, ChildTimeout, EngineFailed
from zkserve.types import Claim, InputMode, WeightsMode

MODELS = (*models.CIRCUITS, "cnn_264k", "dense_4m")
NATIVE, EZKL = "native", "ezkl"
LIMITS = Limits(time_s=1200.0, memory_bytes=12 << 30)
"""What a step of either engine may take before it counts as not feasible."""
MULTIPLICATIONS = {"cnn_264k": 1_948_350, "dense_4m": 4_007_000}
"""Of models that are not tried with ezkl: see :func:`_too_large`."""
AGREEMENT_ROWS = 500
"""Held-out samples that ezkl's agreement is measured on at most: a witness takes long."""
LENET_MULTIPLICATIONS, LENET_ROWS, LENET_GB = 416_520, 249_968, 3.5
"""What ezkl needs for lenet_mnist with the same settings, as measured."""


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How ezkl is to prove a model: the best settings known for it, weights bound where it can."""

    weights: str
    run_args: Mapping[str, int]
    search: Mapping[str, list[int]]


def _small(scale: int) -> Tuning:
    return Tuning(
        weights="hashed",
        run_args={"decomp_base": 1024, "decomp_legs": 4, "num_inner_cols": 1},
        search={"scales": [scale], "scale_rebase_multiplier": [1]},
    )


_LARGE = Tuning(
    weights="private",
    run_args={"num_inner_cols": 3},
    search={"scales": [8], "scale_rebase_multiplier": [2]},
)
TUNED: Mapping[str, Tuning] = MappingProxyType(
    {"breast_cancer": _small(16), "digits_cnn": _small(12)}
    | dict.fromkeys(("lenet_mnist", "cnn_264k", "dense_4m"), _LARGE)
)


@dataclass(kw_only=True)
class Measured:
    """What is measured of one engine on one model; ``reason`` says why it could not finish."""

    weights: str
    settings: dict[str, Any] = field(default_factory=dict)
    compile_s: float | None = None
    setup_s: float | None = None
    agreement: dict[str, Any] | None = None
    proof_bytes: int | None = None
    first: Cost | None = None
    """The first proof of a worker, which starts a child that later ones find ready."""
    proofs: list[Cost] = field(default_factory=list)
    verify_ms: list[float] = field(default_factory=list)
    gas: dict[str, int] | None = None
    reason: str | None = None


class Native:
    """A circuit made and proved as ``zkserve publish`` and its worker do."""

    def __init__(self, subject: models.Subject, folder: Path) -> None:
        self._subject, self._folder = subject, folder
        self._engine = NativeEngine()
        self._bundle: Bundle | None = None
        self._claim: Claim | None = None
        self._proof: Proof | None = None
        self.measured = Measured(weights=WeightsMode.COMMITTED.value)

    def prepare(self, say: Progress) -> None:
        """Compile, set up and measure agreement."""
        subject = self._subject
        plan = CircuitPlan(
            input_mode=subject.input_mode,
            weights_mode=WeightsMode.COMMITTED,
            options=subject.native,
        )
        say("compiling")
        started = time.monotonic()
        log_size = self._engine.compile(
            subject.onnx, plan, subject.data.calibration, self._folder / "circuit", limits=LIMITS
        )
        self.measured.compile_s = time.monotonic() - started
        say("setting up")
        srs = self._engine.development_srs(log_size, self._folder / "native.srs", limits=LIMITS)
        started = time.monotonic()
        self._bundle = self._engine.setup(self._folder / "circuit", srs, limits=LIMITS)
        self.measured.setup_s = time.monotonic() - started
        self.measured.settings = dict(self._bundle.manifest.facts)
        say("measuring agreement")
        data = subject.data
        self.measured.agreement = asdict(
            measure_agreement(self._engine, self._bundle, subject.onnx, data.held_out, data.labels)
        ) | {"failed": 0}

    def prove(self, sample: FloatArray) -> None:
        """Prove once, the very first time in a fresh child and not for the record."""
        if self.measured.first is None:
            self._engine.close()
            self.measured.first = self._cost(sample)
        self.measured.proofs.append(self._cost(sample))
        assert self._proof
        self.measured.proof_bytes = len(self._proof.data)

    def _cost(self, sample: FloatArray) -> Cost:
        assert self._bundle
        bundle, prediction = self._bundle, self._engine.predict(self._bundle, sample)

        def work() -> int:
            self._proof = self._engine.prove(
                bundle,
                prediction.claim,
                prediction.opening,
                context=onchain.CONTEXT,
                limits=LIMITS,
            )
            return self._proof.peak_rss_bytes

        cost = timed(work)
        self._claim = prediction.claim
        # The child lives on, so that the parent's accounts lack its time.
        return replace(cost, cpu_s=cost.cpu_s + self._proof.prove_cpu_s)

    def finish(self, chain: onchain.LocalChain) -> None:
        """Measure the verification of the last proof."""
        assert self._bundle
        assert self._claim
        assert self._proof
        bundle, claim, proof = self._bundle, self._claim, self._proof.data
        self._engine.verify(bundle, claim, proof)  # starts the child that stays
        self.measured.verify_ms = [
            steps.milliseconds(lambda: self._engine.verify(bundle, claim, proof))
            for _ in range(VERIFY_RUNS)
        ]
        source = self._engine.export_verifier(bundle)
        self.measured.gas = chain.verify_registered(bundle.manifest, source, claim, proof)


class Ezkl:
    """The same ONNX file and samples with ezkl itself, set as :data:`TUNED` says."""

    def __init__(self, subject: models.Subject, folder: Path) -> None:
        self._subject = subject
        self._tuning = TUNED[subject.name]
        self._folder = folder / "ezkl"
        self._folder.mkdir()
        self._srs = ""
        self._proof: dict[str, Any] = {}
        self.measured = Measured(weights=self._tuning.weights)

    def prepare(self, say: Progress) -> None:
        """Calibrate, compile, set up and measure agreement."""
        if self._subject.name in MULTIPLICATIONS:
            raise EngineFailed(_too_large(MULTIPLICATIONS[self._subject.name]))
        models.write_in_units(self._subject, self._folder / steps.MODEL)
        committed = self._subject.input_mode is InputMode.COMMITTED
        calibration = self._folder / "calibration.npy"
        np.save(calibration, self._in_units(calibration_samples(self._subject.data.calibration)))
        say("compiling")
        compiled = self._child(
            "compile_plain",
            calibration=str(calibration),
            input_visibility="hashed" if committed else "public",
            weights_visibility=self._tuning.weights,
            run_args=dict(self._tuning.run_args),
            search=dict(self._tuning.search),
        )
        self.measured.compile_s = compiled.wall_s
        self.measured.settings = chosen(compiled.value)
        logrows = compiled.value["run_args"]["logrows"]
        say(f"setting up 2^{logrows} rows")
        self._srs = str(development_srs(self._folder, logrows).path)
        self.measured.setup_s = self._child("make_plain_keys", srs=self._srs).wall_s
        say("measuring agreement")
        self.measured.agreement = self._agreement()

    def _agreement(self) -> dict[str, Any]:
        data = self._subject.data
        samples, floats, circuit = (
            self._folder / f"{name}.npy" for name in ("samples", "floats", "circuit")
        )
        rows = data.held_out[:AGREEMENT_ROWS]
        labels = None if data.labels is None else data.labels[:AGREEMENT_ROWS]
        np.save(samples, rows)
        run_child(
            "zkserve.engines.onnx_model:float_outputs",
            limits=LIMITS,
            model=str(self._subject.onnx),
            samples=str(samples),
            outputs=str(floats),
        )
        np.save(samples, self._in_units(rows))
        failed = self._child("predict_plain", samples=str(samples), outputs=str(circuit)).value
        return compare(np.load(circuit), np.load(floats), labels, failed)

    def prove(self, sample: FloatArray) -> None:
        """Prove once, in a fresh child as ever: with ezkl there is nothing to be kept warm."""
        scaled = self._in_units(sample).tolist()

        def work() -> int:
            answer = self._child("prove_plain", srs=self._srs, sample=scaled)
            self._proof = answer.value
            return answer.peak_rss_bytes

        self.measured.proofs.append(timed(work))

    def finish(self, chain: onchain.LocalChain) -> None:
        """Measure the verification of the last proof."""
        proof = bytes.fromhex(self._proof["proof"])
        self.measured.proof_bytes = len(proof)
        self.measured.verify_ms = self._child(
            "time_plain_verify", srs=self._srs, runs=VERIFY_RUNS
        ).value
        source = (self._folder / steps.VERIFIER).read_text()
        self.measured.gas = chain.verify_raw(source, proof, self._proof["instances"])

    def _in_units(self, values: FloatArray) -> FloatArray:
        return values / np.float32(self._subject.unit)

    def _child(self, step: str, **arguments: Any) -> Answer:
        return run_child(
            STEPS + step,
            limits=LIMITS,
            niceness=HEAVY_NICENESS,
            folder=str(self._folder),
            **arguments,
        )


def _too_large(multiplications: int) -> str:
    logrows = ceil(log2(multiplications * LENET_ROWS / LENET_MULTIPLICATIONS))
    size_gb = LENET_GB * 2 ** (logrows - ceil(log2(LENET_ROWS)))
    return (
        f"Not tried. Estimated from lenet_mnist, whose {LENET_MULTIPLICATIONS:,} multiplications "
        f"take {LENET_ROWS:,} rows and {LENET_GB} GB: {multiplications:,} need 2^{logrows} rows "
        f"and {size_gb:.0f} GB, more than the machine has."
    )


def measure(name: str, runs: int, chain: onchain.LocalChain) -> dict[str, Any]:
    """Measure one model with both engines, in turn."""

    def say(what: str) -> None:
        print(f"{name}: {what}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="zkserve-benchmark-") as scratch:
        folder = Path(scratch)
        say("training or exporting")
        subject = models.make(name, folder)
        ways: dict[str, Native | Ezkl] = {
            NATIVE: Native(subject, folder),
            EZKL: Ezkl(subject, folder),
        }
        for engine_name, way in ways.items():
            _attempt(way, partial(way.prepare, _titled(say, engine_name)))
        for number in range(runs):
            sample = subject.data.held_out[number % len(subject.data.held_out)]
            for engine_name, way in ways.items():
                _attempt(way, partial(_prove, way, sample, _titled(say, engine_name)))
        for engine_name, way in ways.items():
            say(f"{engine_name}: verifying")
            _attempt(way, partial(way.finish, chain))
    return {
        "model": name,
        "data": subject.data_source,
        "trained": subject.trained,
        "input_mode": subject.input_mode.value,
        "engines": {title: asdict(way.measured) for title, way in ways.items()},
    }


def _prove(way: Native | Ezkl, sample: FloatArray, say: Progress) -> None:
    way.prove(sample)
    say(f"proof {len(way.measured.proofs)}: {way.measured.proofs[-1].prove_s:.2f} s")


def _titled(say: Progress, title: str) -> Progress:
    return lambda what: say(f"{title}: {what}")


def _attempt(way: Native | Ezkl, work: Callable[[], None]) -> None:
    """Run one stage of an engine that has not failed; what the machine cannot bear is a result."""
    if way.measured.reason is not None:
        return
    try:
        work()
    except (ChildKilled, ChildTimeout, EngineFailed) as exc:
        if isinstance(way, Native):
            raise
        way.measured.reason = exc.message
        print(f"{EZKL} cannot: {exc.message}", file=sys.stderr, flush=True)


def main() -> None:
    """Measure, or write the README's table anew from what was measured before."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=MODELS, help="the model to measure")
    parser.add_argument("--runs", type=int, default=5, help="proofs of each engine; medians count")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--out", type=Path, help="add raw results to this file")
    parser.add_argument("--table", action="store_true", help="only rewrite the README's table")
    arguments = parser.parse_args()
    if arguments.table:
        tables.rewrite("native_vs_ezkl")
        return
    if arguments.runs < 1 or arguments.model is None:
        parser.error("--model is needed, and --runs of at least 1")
    with ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="zkserve-anvil-")))
        chain = stack.enter_context(onchain.running(logs))
        result = {
            "benchmark": "native_vs_ezkl",
            **environment.describe(),
            "hardfork": chain.hardfork,
            "models": [measure(arguments.model, arguments.runs, chain)],
        }
    if arguments.out:
        tables.merge(arguments.out, result)
    if arguments.json:
        engines = result["models"][0]["engines"]
        print(json.dumps({name: tables.figures(engines[name]) for name in (NATIVE, EZKL)}))
    else:
        print(tables.native_vs_ezkl(result))


if __name__ == "__main__":
    main()
