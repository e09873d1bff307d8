# ruff: noqa: T201 (a program: it prints)
"""Fuzz target over the upload path: changed models go through all that publishing does with one.

    python -m tests.fuzz.upload --seconds 1200 --seed 1

Each model is checked for both engines, run in onnxruntime and compiled natively, all in a confined
child that stays for the next model; one in a while is compiled by ezkl in a child of its own, as
when publishing. Whatever happens must be an acceptance or a typed error. What is not is a finding:
the model is kept in ``build/fuzz``, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import random
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.fuzz import mutations
from zkserve import runtime
from zkserve.engines.base import CircuitPlan, Limits
from zkserve.engines.child import Child
from zkserve.engines.ezkl import EzklEngine
from zkserve.engines.sandbox import Reach
from zkserve.errors import InvalidInput, ModelRejected, ZkserveError
from zkserve.types import InputMode, WeightsMode

LIMITS = Limits(time_s=30.0, memory_bytes=2 << 30)
TESTS = Path(__file__).resolve().parents[1]
KEPT = Path("build/fuzz")
POOL = 400
"""Accepted models that further ones are made of."""


@dataclass
class Tally:
    """What became of the models."""

    executions: int = 0
    ezkl_compiles: int = 0
    outcomes: Counter[str] = field(default_factory=collections.Counter)
    findings: dict[str, list[str]] = field(default_factory=dict)
    slowest_s: float = 0.0


class Fuzzer:
    """Makes models and uploads them; use as a context."""

    def __init__(self, seed: int, *, ezkl_every: int = 0) -> None:
        self.tally = Tally()
        self._random = random.Random(seed)
        self.seeds = mutations.seeds()
        self._pool = [*self.seeds]
        self._ezkl_every = ezkl_every
        self._folder = Path(tempfile.mkdtemp(prefix="zkserve-fuzz-"))
        self._child: Child | None = None

    def __enter__(self) -> Fuzzer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._child is not None:
            self._child.close()
        shutil.rmtree(self._folder)

    def step(self) -> None:
        """Make one model and upload it."""
        parent, other = self._random.choice(self._pool), self._random.choice(self._pool)
        self.upload(mutations.mutate(self._random, parent, other))

    def upload(self, data: bytes) -> None:
        """Upload one model, and note what became of it."""
        self.tally.executions += 1
        model, samples = self._folder / "model.onnx", self._folder / "samples.npy"
        model.write_bytes(data)
        started = time.monotonic()
        try:
            taking = (
                self._ready()
                .call(
                    "tests.fuzz.steps:upload",
                    model=str(model),
                    samples=str(samples),
                    out=str(self._folder),
                )
                .value
            )
        except ZkserveError as exc:
            self._note(data, "upload", exc)
        else:
            self.tally.outcomes["accepted by " + (" and ".join(taking) or "none: large")] += 1
            self._keep(data)
            accepted = self.tally.outcomes["accepted by native and ezkl"]
            if self._ezkl_every and "ezkl" in taking and accepted % self._ezkl_every == 0:
                self._compile_with_ezkl(model, samples, data)
        self.tally.slowest_s = max(self.tally.slowest_s, time.monotonic() - started)

    def _compile_with_ezkl(self, model: Path, samples: Path, data: bytes) -> None:
        self.tally.ezkl_compiles += 1
        out = self._folder / "ezkl"
        plan = CircuitPlan(input_mode=InputMode.COMMITTED, weights_mode=WeightsMode.HASHED)
        try:
            EzklEngine().compile(model, plan, np.load(samples), out, limits=LIMITS)
            self.tally.outcomes["compiled by ezkl"] += 1
        except ZkserveError as exc:
            self._note(data, "ezkl", exc)
        finally:
            shutil.rmtree(out, ignore_errors=True)

    def _note(self, data: bytes, where: str, exc: ZkserveError) -> None:
        """A refusal is a sentence for the owner; anything else is a finding."""
        kind = type(exc).__name__
        if (
            isinstance(exc, ModelRejected | InvalidInput)
            and exc.message
            and exc.message.isprintable()
        ):
            self.tally.outcomes[f"{where}: {kind}"] += 1
            return
        name = hashlib.sha256(data).hexdigest()[:16]
        KEPT.mkdir(parents=True, exist_ok=True)
        (KEPT / f"{name}.onnx").write_bytes(data)
        self.tally.outcomes[f"{where}: FINDING {kind}"] += 1
        self.tally.findings.setdefault(f"{where}: {kind}: {exc.message[:160]}", []).append(name)

    def _keep(self, data: bytes) -> None:
        if len(data) > 1 << 16:
            return
        if len(self._pool) < POOL:
            self._pool.append(data)
        else:
            self._pool[self._random.randrange(len(self.seeds), POOL)] = data

    def _ready(self) -> Child:
        if self._child is None or not self._child.alive:
            if self._child is not None:
                self._child.close()
            self._child = Child(
                limits=LIMITS, reach=Reach(readable=(TESTS,), writable=(self._folder,))
            )
        return self._child


def main() -> int:
    """Fuzz for a time, and print what became of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--ezkl-every", type=int, default=25, help="0: never")
    asked = parser.parse_args()
    deadline = time.monotonic() + asked.seconds
    with Fuzzer(asked.seed, ezkl_every=asked.ezkl_every) as fuzzer:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        while time.monotonic() < deadline:
            fuzzer.step()
            if fuzzer.tally.executions % 2000 == 0:
                print(fuzzer.tally.executions, dict(fuzzer.tally.outcomes), flush=True)
    tally = fuzzer.tally
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    left = list(runtime.root().glob(runtime.FOLDER_PREFIX + "*"))
    print(f"seed {asked.seed}: {tally.executions} models, {tally.ezkl_compiles} compiled by ezkl")
    for outcome, count in tally.outcomes.most_common():
        print(f"  {count:7d} {outcome}")
    print(f"  slowest {tally.slowest_s:.1f} s; this process grew by {grown >> 10} MiB")
    print(f"  private folders there are now: {len(left)}")
    for finding, names in tally.findings.items():
        print(f"FINDING {finding} ({len(names)}): {KEPT}/{names[0]}.onnx")
    return bool(tally.findings)


if __name__ == "__main__":
    sys.exit(main())
