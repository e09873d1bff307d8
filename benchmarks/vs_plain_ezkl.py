"""Our ezkl engine beside plain ezkl with default calibration, in turn on the same samples.

Run from the repository's root: ``python -m benchmarks.vs_plain_ezkl --gas --out FILE``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import environment, onchain, steps, tables
from zkserve import recipe
from zkserve.engines import engine
from zkserve.engines.agreement import measure_agreement
from zkserve.engines.base import CircuitPlan, FloatArray, Limits, Progress, Srs
from zkserve.engines.child import Answer, run_child
from zkserve.engines.ezkl import engine as ezkl_engine
from zkserve.engines.ezkl.claims import to_instances
from zkserve.engines.srs import load_srs
from zkserve.recipe import Recipe
from zkserve.samples import Samples
from zkserve.types import Claim, InputMode

ROOT = Path(__file__).resolve().parent.parent
_SMALL = {"decomp_base": 1024, "decomp_legs": 4, "inner_cols": 1}
OPTIONS: dict[str, dict[str, int]] = {
    "breast_cancer": {"scale": 16, **_SMALL},
    "digits_cnn": {"scale": 12, **_SMALL},
}
"""Options of our ezkl engine, found by hand: the models' recipes prove natively."""
STEPS = "benchmarks.steps:"
VERIFY_RUNS = 20
SLOW_S = 60.0
SLOW_RUNS = 3
"""Where one proof takes longer than ``SLOW_S``, this many runs must do."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One proof: witness, proof and its verification in a fresh child process.

    ``cpu_s`` is user and system time of that child and of the process that waits for it.
    """

    prove_s: float
    cpu_s: float
    peak_rss_bytes: int
    load_before: float


@dataclass(kw_only=True)
class Configuration:
    """What is measured of one way to prove one model."""

    settings: dict[str, Any]
    compile_s: float
    setup_s: float
    setup_peak_rss_bytes: int
    pk_bytes: int
    vk_bytes: int
    agreement: dict[str, Any]
    proof_bytes: int = 0
    proofs: list[Cost] = field(default_factory=list)
    verify_ms: list[float] = field(default_factory=list)
    gas: dict[str, int] | None = None


class Ours:
    """A circuit made and proved as ``zkserve publish`` and its worker do."""

    def __init__(
        self, model: Recipe, onnx: Path, data: Samples, folder: Path, say: Progress
    ) -> None:
        self._engine = engine("ezkl")
        self._limits = Limits(time_s=model.time_s, memory_bytes=model.memory_bytes)
        plan = CircuitPlan(
            input_mode=model.input_mode,
            weights_mode=self._engine.weights_mode,
            options=OPTIONS[model.name],
        )
        say("zkserve: compiling")
        started = time.monotonic()
        log_size = self._engine.compile(
            onnx, plan, data.calibration, folder / "circuit", limits=self._limits
        )
        compile_s = time.monotonic() - started
        say("zkserve: setting up")
        srs = development_srs(folder, log_size)
        self._bundle = self._engine.setup(folder / "circuit", srs, limits=self._limits)
        say("zkserve: measuring agreement")
        agreement = measure_agreement(self._engine, self._bundle, onnx, data.held_out, data.labels)
        facts = self._bundle.manifest.facts
        settings = json.loads(self._bundle.files["settings"].read_text())
        self.result = Configuration(
            settings=chosen(settings),
            compile_s=compile_s,
            setup_s=float(facts["setup_s"]),
            setup_peak_rss_bytes=int(facts["setup_peak_rss_bytes"]),
            pk_bytes=int(facts["pk_bytes"]),
            vk_bytes=int(facts["vk_bytes"]),
            agreement=asdict(agreement) | {"failed": 0},
        )
        self._claim: Claim | None = None
        self._proof = b""

    def prove(self, sample: FloatArray) -> Callable[[], int]:
        """Return the work to be timed, which returns the child's peak memory."""
        prediction = self._engine.predict(self._bundle, sample)

        def work() -> int:
            proof = self._engine.prove(
                self._bundle, prediction.claim, prediction.opening, limits=self._limits
            )
            self._claim, self._proof = prediction.claim, proof.data
            return proof.peak_rss_bytes

        return work

    def finish(self, chain: onchain.LocalChain | None) -> None:
        """Measure the verification of the last proof."""
        assert self._claim is not None
        manifest, files = self._bundle.manifest, self._bundle.files
        instances = to_instances(manifest, self._claim)
        self.result.proof_bytes = len(self._proof)
        self.result.verify_ms = run_child(
            STEPS + "time_engine_verify",
            limits=self._limits,
            runs=VERIFY_RUNS,
            settings=str(files["settings"]),
            verifying_key=str(files["verifying_key"]),
            verifier_srs=str(files["verifier_srs"]),
            instances=instances,
            proof=self._proof.hex(),
        ).value
        if chain:
            source = self._engine.export_verifier(self._bundle)
            self.result.gas = chain.verify_through_adapter(
                source, manifest, self._claim, self._proof, instances
            )


class Plain:
    """The same ONNX file and visibilities, everything else left to ezkl's defaults."""

    def __init__(
        self, model: Recipe, onnx: Path, data: Samples, folder: Path, say: Progress
    ) -> None:
        self._limits = Limits(time_s=model.time_s, memory_bytes=max(model.memory_bytes, 16 << 30))
        self._folder = folder / "plain"
        self._folder.mkdir()
        (self._folder / steps.MODEL).write_bytes(onnx.read_bytes())
        say("plain ezkl: calibrating")
        samples = calibration_samples(data.calibration)
        np.save(folder / "calibration.npy", samples)
        committed = model.input_mode is InputMode.COMMITTED
        compiled = self._child(
            "compile_plain",
            calibration=str(folder / "calibration.npy"),
            input_visibility="hashed" if committed else "public",
        )
        logrows = compiled.value["run_args"]["logrows"]
        say(f"plain ezkl: setting up 2^{logrows} rows")
        self._srs = str(development_srs(folder, logrows).path)
        keys = self._child("make_plain_keys", srs=self._srs)
        say("plain ezkl: measuring agreement")
        self.result = Configuration(
            settings=chosen(compiled.value),
            compile_s=compiled.wall_s,
            setup_s=keys.wall_s,
            setup_peak_rss_bytes=keys.peak_rss_bytes,
            pk_bytes=(self._folder / steps.PROVING_KEY).stat().st_size,
            vk_bytes=(self._folder / steps.VERIFYING_KEY).stat().st_size,
            agreement=self._agreement(onnx, data, folder),
        )
        self._proof: dict[str, Any] = {}

    def _agreement(self, onnx: Path, data: Samples, folder: Path) -> dict[str, Any]:
        samples, floats, circuit = (folder / f"{n}.npy" for n in ("samples", "floats", "circuit"))
        np.save(samples, data.held_out)
        run_child(
            "zkserve.engines.onnx_model:float_outputs",
            limits=self._limits,
            model=str(onnx),
            samples=str(samples),
            outputs=str(floats),
        )
        failed = self._child("predict_plain", samples=str(samples), outputs=str(circuit)).value
        return compare(np.load(circuit), np.load(floats), data.labels, failed)

    def prove(self, sample: FloatArray) -> Callable[[], int]:
        """Return the work to be timed, which returns the child's peak memory."""

        def work() -> int:
            answer = self._child("prove_plain", srs=self._srs, sample=sample.tolist())
            self._proof = answer.value
            return answer.peak_rss_bytes

        return work

    def finish(self, chain: onchain.LocalChain | None) -> None:
        """Measure the verification of the last proof."""
        proof = bytes.fromhex(self._proof["proof"])
        self.result.proof_bytes = len(proof)
        self.result.verify_ms = self._child(
            "time_plain_verify", srs=self._srs, runs=VERIFY_RUNS
        ).value
        if chain:
            source = (self._folder / steps.VERIFIER).read_text()
            self.result.gas = chain.verify_raw(source, proof, self._proof["instances"])

    def _child(self, step: str, **arguments: Any) -> Answer:
        return run_child(
            STEPS + step,
            limits=self._limits,
            niceness=ezkl_engine.HEAVY_NICENESS,
            folder=str(self._folder),
            **arguments,
        )


def development_srs(folder: Path, log_size: int) -> Srs:
    """Make an SRS of exactly this size, or load the one made before."""
    path = folder / f"{log_size}.srs"
    if path.exists():
        return load_srs(path, sha256=None, production=False)
    return engine("ezkl").development_srs(log_size, path)


def calibration_samples(samples: FloatArray) -> FloatArray:
    """Return the samples that zkserve's engine would take too."""
    spread = np.linspace(0, len(samples) - 1, ezkl_engine.CALIBRATION_SAMPLES).astype(int)
    return samples[np.unique(spread)]


def chosen(settings: dict[str, Any]) -> dict[str, Any]:
    """Return what tells two circuits apart."""
    arguments = settings["run_args"]
    names = (
        "logrows",
        "num_inner_cols",
        "decomp_base",
        "decomp_legs",
        "input_scale",
        "param_scale",
        "scale_rebase_multiplier",
        "lookup_range",
        "check_mode",
    )
    return {
        "rows": settings["num_rows"],
        "output_scales": settings["model_output_scales"],
        "lookups": len(settings["required_lookups"]),
    } | {name: arguments[name] for name in names}


def compare(
    circuit: np.ndarray, floats: np.ndarray, labels: np.ndarray | None, failed: list[int]
) -> dict[str, Any]:
    """Return the agreement of rows of outputs; a failed row counts as a wrong decision."""
    usable = np.ones(len(floats), dtype=bool)
    usable[failed] = False
    difference = np.abs(circuit[usable] - floats[usable])
    decided, expected = decisions(circuit), decisions(floats)
    decided[~usable] = -1
    return {
        "samples": len(floats),
        "max_abs": float(difference.max()),
        "mean_abs": float(difference.mean()),
        "top1": float((decided == expected).mean()),
        "float_accuracy": None if labels is None else float((expected == labels).mean()),
        "circuit_accuracy": None if labels is None else float((decided == labels).mean()),
        "failed": len(failed),
    }


def decisions(outputs: np.ndarray) -> np.ndarray:
    """Return the class of each row: the largest output, or whether a single one is positive."""
    if outputs.shape[1] == 1:
        return (outputs[:, 0] > 0).astype(int)
    return np.argmax(outputs, axis=1)


def timed(work: Callable[[], int]) -> Cost:
    """Run one proof and return what it cost."""
    load, cpu, started = os.getloadavg()[0], _cpu_s(), time.monotonic()
    peak_rss_bytes = work()
    return Cost(
        prove_s=time.monotonic() - started,
        cpu_s=_cpu_s() - cpu,
        peak_rss_bytes=peak_rss_bytes,
        load_before=load,
    )


def _cpu_s() -> float:
    own, children = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def measure(name: str, runs: int, chain: onchain.LocalChain | None) -> dict[str, Any]:
    """Measure one model of ``circuits/`` both ways."""

    def say(what: str) -> None:
        print(f"{name}: {what}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="zkserve-benchmark-") as scratch:
        folder = Path(scratch)
        model = recipe.load(ROOT / "circuits" / name)
        data = recipe.samples(model)
        onnx = recipe.export_onnx(model, folder / "model.onnx")
        sides: dict[str, Ours | Plain] = {
            "zkserve": Ours(model, onnx, data, folder, say),
            "plain_ezkl": Plain(model, onnx, data, folder, say),
        }
        done = 0
        while done < runs:
            sample = data.held_out[done % len(data.held_out)]
            for side, way in sides.items():
                way.result.proofs.append(timed(way.prove(sample)))
                say(f"{side}: proof {done + 1} of {runs}: {way.result.proofs[-1].prove_s:.2f} s")
            done += 1
            slowest_s = max(way.result.proofs[-1].prove_s for way in sides.values())
            if done >= SLOW_RUNS and slowest_s > SLOW_S:
                say(f"a proof takes over {SLOW_S:g} s: {done} runs must do")
                break
        for side, way in sides.items():
            say(f"{side}: verifying")
            way.finish(chain)
    return {
        "model": name,
        "input_mode": model.input_mode.value,
        "weights_mode": "hashed",
        "runs": done,
        "configurations": {side: asdict(way.result) for side, way in sides.items()},
    }


def main() -> None:
    """Measure, or write the README's table anew from what was measured before."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", nargs="+", choices=OPTIONS, default=list(OPTIONS))
    parser.add_argument("--runs", type=int, default=5, help="proofs of each kind; medians count")
    parser.add_argument("--gas", action="store_true", help="verify on a fresh anvil too")
    parser.add_argument("--json", action="store_true", help="print raw results, not the table")
    parser.add_argument("--out", type=Path, help="write raw results to this file")
    parser.add_argument("--table", action="store_true", help="only rewrite the README's table")
    arguments = parser.parse_args()
    if arguments.table:
        tables.rewrite("vs_plain_ezkl")
        return
    if arguments.runs < 1:
        parser.error("--runs must be at least 1")
    result: dict[str, Any] = {"benchmark": "vs_plain_ezkl", **environment.describe()}
    with ExitStack() as stack:
        chain = None
        if arguments.gas:
            logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="zkserve-anvil-")))
            chain = stack.enter_context(onchain.running(logs))
            result["hardfork"] = chain.hardfork
        result["models"] = [measure(name, arguments.runs, chain) for name in arguments.model]
    raw = json.dumps(result, indent=2) + "\n"
    if arguments.out:
        arguments.out.write_text(raw)
    print(raw if arguments.json else tables.vs_plain_ezkl(result))


if __name__ == "__main__":
    main()
