"""The two sides of ``ezkl_tuned``: circuits tuned and proved by zkserve, and by plain ezkl."""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import models, onchain, steps
from zkserve.chain import evm
from zkserve.engines import engine
from zkserve.engines.agreement import join_samples
from zkserve.engines.base import CircuitPlan, FloatArray, Limits, Progress, Srs
from zkserve.engines.child import Answer, run_child
from zkserve.engines.ezkl import building, children, tuning
from zkserve.engines.ezkl.claims import to_instances
from zkserve.engines.sandbox import Reach
from zkserve.engines.srs import load_srs
from zkserve.types import Claim, InputMode, WeightsMode

STEPS = "benchmarks.steps:"
VERIFY_RUNS = 20
STARTS = 5
LIMITS = Limits(time_s=3600.0, memory_bytes=16 << 30)
AGREEMENT_ROWS = 500
"""Held-out samples that agreement is measured on at most."""
SLOW = {"lenet_mnist": 200}
"""The same for models of which one sample takes long."""
SLOW_CALIBRATION = 8
"""Calibration samples of the default for these; they decide no cost where nothing is looked up."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One proof: witness, proof and its verification in a fresh child process.

    ``cpu_s`` is user and system time of that child, its start included, and of the process that
    waits for it.
    """

    prove_s: float
    cpu_s: float
    peak_rss_bytes: int
    load_before: float


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What a child spent on a call, its start apart."""

    cpu_s: float
    peak_rss_bytes: int


@dataclass(kw_only=True)
class Side:
    """What is measured of one way to prove one model; ``batch`` predictions are in a proof."""

    settings: dict[str, Any]
    weights_mode: str
    compile_s: float
    setup_s: float
    setup_peak_rss_bytes: int
    pk_bytes: int
    vk_bytes: int
    agreement: dict[str, Any]
    start_cpu_s: float
    """User and system time that a child takes to start, counted in each proof."""
    batch: int = 1
    search: dict[str, Any] | None = None
    proof_bytes: int = 0
    proofs: list[Cost] = field(default_factory=list)
    gas: dict[str, int] | None = None


class Tuned:
    """A circuit tuned, made and proved as ``zkserve publish`` and its worker do."""

    def __init__(
        self,
        subject: models.Subject,
        weights: WeightsMode,
        tolerance: float,
        batch: int,
        folder: Path,
        say: Progress,
    ) -> None:
        self._engine = engine("ezkl")
        circuit = folder / f"tuned-{batch}"
        calibration = subject.data.calibration
        kept = {"batch": batch} if batch > 1 else {}
        plan = CircuitPlan(input_mode=subject.input_mode, weights_mode=weights, options=kept)
        started = time.monotonic()
        found = tuning.tune(
            self._engine.version,
            subject.onnx,
            plan,
            calibration,
            tolerance,
            folder / "tuning",
            limits=LIMITS,
            progress=say,
        )
        search_s = time.monotonic() - started
        plan = CircuitPlan(
            input_mode=subject.input_mode, weights_mode=weights, options=kept | dict(found.options)
        )
        started = time.monotonic()
        log_size = self._engine.compile(subject.onnx, plan, calibration, circuit, limits=LIMITS)
        compile_s = time.monotonic() - started
        say(f"setting up 2^{log_size} rows")
        srs = development_srs(folder, log_size)
        self._bundle = self._engine.setup(circuit, srs, limits=LIMITS)
        evm.compile_verifier(self._engine.export_verifier(self._bundle), onchain.SOLC)  # it fits
        say("measuring agreement")
        facts, manifest = self._bundle.manifest.facts, self._bundle.manifest
        self.result = Side(
            settings=chosen(json.loads(self._bundle.files["settings"].read_text())),
            weights_mode=manifest.weights_mode.value,
            compile_s=compile_s,
            setup_s=float(facts["setup_s"]),
            setup_peak_rss_bytes=int(facts["setup_peak_rss_bytes"]),
            pk_bytes=int(facts["pk_bytes"]),
            vk_bytes=int(facts["vk_bytes"]),
            agreement=self._agreement(subject, folder),
            start_cpu_s=start_cpu_s(Reach()),
            batch=batch,
            search=asdict(found) | {"search_s": search_s, "tolerance": tolerance},
        )
        self._claim: Claim | None = None
        self._proof = b""

    def _agreement(self, subject: models.Subject, folder: Path) -> dict[str, Any]:
        manifest, rows = self._bundle.manifest, agreement_rows(subject)
        outputs = []
        for start in range(0, len(rows), manifest.batch):
            taken = rows[start : start + manifest.batch]
            filled = taken[np.resize(np.arange(len(taken)), manifest.batch)]
            claim = self._engine.predict(self._bundle, join_samples(manifest.inputs, filled)).claim
            reals = np.array([manifest.output_scale.to_real(y) for y in claim.outputs])
            outputs += reals.reshape(manifest.batch, -1)[: len(taken)].tolist()
        return compare(np.array(outputs), floats_of(subject, rows, folder), labels_of(subject), [])

    def prove(self, samples: FloatArray) -> Callable[[], Spent]:
        """Return the work to be timed."""
        manifest = self._bundle.manifest
        joined = join_samples(manifest.inputs, samples[: manifest.batch])
        prediction = self._engine.predict(self._bundle, joined)

        def work() -> Spent:
            proof = self._engine.prove(
                self._bundle, prediction.claim, prediction.opening, limits=LIMITS
            )
            self._claim, self._proof = prediction.claim, proof.data
            return Spent(cpu_s=proof.prove_cpu_s, peak_rss_bytes=proof.peak_rss_bytes)

        return work

    def finish(self, chain: onchain.LocalChain) -> None:
        """Verify the last proof on chain."""
        assert self._claim is not None
        self.result.proof_bytes = len(self._proof)
        instances = to_instances(self._bundle.manifest, self._claim)
        source = self._engine.export_verifier(self._bundle)
        self.result.gas = chain.verify_raw(source, self._proof, instances)


class Default:
    """The same model and visibilities, everything else left to ezkl's defaults."""

    def __init__(
        self, subject: models.Subject, weights: WeightsMode, folder: Path, say: Progress
    ) -> None:
        self._subject = subject
        self._folder = folder / "default"
        self._folder.mkdir()
        models.write_in_units(subject, self._folder / steps.MODEL)
        say("calibrating")
        samples = calibration_samples(subject.data.calibration)
        if subject.name in SLOW:
            samples = samples[:SLOW_CALIBRATION]
        np.save(folder / "calibration.npy", self._in_units(samples))
        committed = subject.input_mode is InputMode.COMMITTED
        compiled = self._child(
            "compile_plain",
            calibration=str(folder / "calibration.npy"),
            input_visibility="hashed" if committed else "public",
            weights_visibility=weights.value,
        )
        logrows = compiled.value["run_args"]["logrows"]
        say(f"setting up 2^{logrows} rows")
        self._srs = str(development_srs(folder, logrows).path)
        keys = self._child("make_plain_keys", srs=self._srs)
        say("measuring agreement")
        self.result = Side(
            settings=chosen(compiled.value),
            weights_mode=weights.value,
            compile_s=compiled.wall_s,
            setup_s=keys.wall_s,
            setup_peak_rss_bytes=keys.peak_rss_bytes,
            pk_bytes=(self._folder / steps.PROVING_KEY).stat().st_size,
            vk_bytes=(self._folder / steps.VERIFYING_KEY).stat().st_size,
            agreement=self._agreement(agreement_rows(subject), labels_of(subject), folder),
            start_cpu_s=start_cpu_s(None),
        )
        self.calibrated_within = self._agreement(samples, None, folder)["max_abs"]
        """How far calibration samples are from the float model."""
        self._proof: dict[str, Any] = {}

    def _agreement(
        self, rows: FloatArray, labels: np.ndarray | None, folder: Path
    ) -> dict[str, Any]:
        samples, circuit = folder / "samples.npy", folder / "circuit.npy"
        floats = floats_of(self._subject, rows, folder)
        np.save(samples, self._in_units(rows))
        failed = self._child("predict_plain", samples=str(samples), outputs=str(circuit)).value
        return compare(np.load(circuit), floats, labels, failed)

    def prove(self, samples: FloatArray) -> Callable[[], Spent]:
        """Return the work to be timed."""
        sample = self._in_units(samples[0]).tolist()

        def work() -> Spent:
            answer = self._child("prove_plain", srs=self._srs, sample=sample)
            self._proof = answer.value
            return Spent(cpu_s=answer.cpu_s, peak_rss_bytes=answer.peak_rss_bytes)

        return work

    def finish(self, chain: onchain.LocalChain) -> None:
        """Verify the last proof on chain."""
        proof = bytes.fromhex(self._proof["proof"])
        self.result.proof_bytes = len(proof)
        source = (self._folder / steps.VERIFIER).read_text()
        self.result.gas = chain.verify_raw(source, proof, self._proof["instances"])

    def _in_units(self, values: FloatArray) -> FloatArray:
        return values / np.float32(self._subject.unit)

    def _child(self, step: str, **arguments: Any) -> Answer:
        return run_child(
            STEPS + step,
            limits=LIMITS,
            niceness=children.HEAVY_NICENESS,
            folder=str(self._folder),
            **arguments,
        )


def agreement_rows(subject: models.Subject) -> FloatArray:
    """Return the held-out samples that agreement is measured on."""
    return subject.data.held_out[: SLOW.get(subject.name, AGREEMENT_ROWS)]


def labels_of(subject: models.Subject) -> np.ndarray | None:
    """Return their labels."""
    labels = subject.data.labels
    return None if labels is None else labels[: len(agreement_rows(subject))]


def floats_of(subject: models.Subject, rows: FloatArray, folder: Path) -> np.ndarray:
    """Return the float model's answers."""
    samples, outputs = folder / "floats-in.npy", folder / "floats.npy"
    np.save(samples, rows)
    run_child(
        "zkserve.engines.onnx_model:float_outputs",
        limits=LIMITS,
        model=str(subject.onnx),
        samples=str(samples),
        outputs=str(outputs),
    )
    found: np.ndarray = np.load(outputs)
    return found


def development_srs(folder: Path, log_size: int) -> Srs:
    """Make an SRS of exactly this size, or load the one made before."""
    path = folder / f"{log_size}.srs"
    if path.exists():
        return load_srs(path, sha256=None, production=False)
    return engine("ezkl").development_srs(log_size, path)


def calibration_samples(samples: FloatArray) -> FloatArray:
    """Return the samples that zkserve's engine would take too."""
    return samples[tuning.spread(len(samples), building.CALIBRATION_SAMPLES)]


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
        "cells": settings["total_assignments"],
        "hash_rows": settings["module_sizes"]["poseidon"][0],
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


def start_cpu_s(reach: Reach | None) -> float:
    """Return the CPU seconds that a child takes to start, confined to a reach or not."""
    first = "time:process_time"
    return median(run_child(first, limits=LIMITS, reach=reach).value for _ in range(STARTS))


def spent(side: Side, work: Callable[[], Spent]) -> Cost:
    """Run one proof in a fresh child of its own and return what it cost.

    The child's seconds are its own count: those of a confined one do not reach its parent.
    """
    load, cpu, started = os.getloadavg()[0], time.process_time(), time.monotonic()
    child = work()
    return Cost(
        prove_s=time.monotonic() - started,
        cpu_s=time.process_time() - cpu + child.cpu_s + side.start_cpu_s,
        peak_rss_bytes=child.peak_rss_bytes,
        load_before=load,
    )


def timed(work: Callable[[], int]) -> Cost:
    """Run one proof in children that are not confined and return what it cost."""
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
