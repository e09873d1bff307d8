"""Preflight: what publishing a model would give and cost, before anything is spent.

Nothing is made or kept: no key, no SRS, no artifact, no version. The model is parsed, surveyed and
laid out in confined children only. Figures are predictions of each engine's cost model, but for
those that an estimate names as exact; whatever is wrong is said here, not in an abort later.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from zkserve import lock, runtime
from zkserve import recipe as recipes
from zkserve.encoding import sha256_file
from zkserve.engines import ENGINES, engine
from zkserve.engines.base import Cancelled, CircuitPlan, Limits, Progress
from zkserve.engines.child import never_cancelled, run_child
from zkserve.engines.choice import choose
from zkserve.engines.cost import Estimate
from zkserve.engines.sandbox import Reach
from zkserve.errors import ChildTimeout, JobCancelled, ModelRejected, RecipeInvalid, ZkserveError
from zkserve.recipe import Recipe
from zkserve.report import BatchPrice, Machine, Operator, Report, Way
from zkserve.samples import read
from zkserve.types import CODE_LIMIT_BYTES, WeightsMode

BATCH = 8
"""Predictions in one proof that the price is told for, beside one."""
NICENESS = 5
_SURVEY = "zkserve.engines.operators:survey"
_READ = "zkserve.preflight:read_samples"
CALIBRATION = "calibration.npy"
_MAX_BATCH_ROWS = 1 << 20
_EXTRAPOLATED = "No circuit of this kind and size was measured: the figures are extrapolated."
_UNTUNED = (
    "The recipe asks for tuning, and no lock holds its result for these samples: publishing will "
    "search for cheaper options than these."
)
_GIB = 1 << 30


def preflight(
    recipe: Recipe,
    *,
    progress: Progress,
    limits: Limits | None = None,
    cancelled: Cancelled = never_cancelled,
    on_chain: bool = False,
    update_lock: bool = False,
) -> Report:
    """Return what publishing ``recipe`` would give and cost; leave nothing behind.

    ``limits`` bounds the time of all children together and the memory of each; the recipe's own
    where it is None, but no less time than by default. Ways that no time is left for are not
    estimated, and say so. ``on_chain`` says that the version is to be registered, so that a
    verifier that no chain takes is a problem; ``update_lock``, that the recipe's lock is to be
    written anew, so that it pins nothing.

    Raises:
        RecipeInvalid: the recipe or its samples are wrong.
        ModelRejected: the file is no ONNX model.
        ChildKilled, ChildTimeout: looking at it took more than ``limits``.
        JobCancelled: ``cancelled`` returned True.

    """
    # The recipe's time is that of a proof, which may be less than looking at the model takes.
    time_s = max(recipe.time_s, Limits().time_s)
    limits = limits or Limits(time_s=time_s, memory_bytes=recipe.memory_bytes)
    bounds = _Bounds(limits=limits, ends_s=time.monotonic() + limits.time_s, cancelled=cancelled)
    with runtime.private_folder() as folder:
        progress("exporting to ONNX")
        onnx = recipes.export_onnx(recipe, folder / "model.onnx").resolve()
        progress("surveying operators")
        operators = _child(_SURVEY, bounds, Reach(readable=(onnx,)), model=str(onnx))
        calibration, held_out = _samples(recipe, folder, bounds)
        progress("choosing the engine")
        objections = {}
        for one in ENGINES:
            with bounds.of_child() as bound:
                objections[one] = engine(one).unsupported(onnx, **bound)
        name, why = _engine(recipe, objections)
        samples = folder / CALIBRATION if calibration else None
        look = _Look(
            recipe=recipe,
            chosen=name,
            pinned=_pinned(recipe, name, onnx, samples, update_lock),
            onnx=onnx,
            calibration=samples,
            bounds=bounds,
            on_chain=on_chain,
        )
        ways = []
        for one in ENGINES:
            for mode in engine(one).weights_modes:
                progress(f"laying out for {one}, weights {mode.value}")
                ways.append(look.at(one, mode, objections[one]))
        return Report(
            model=recipe.name,
            onnx_sha256=sha256_file(onnx),
            fits=any(way.chosen and way.fits for way in ways),
            engine=name,
            engine_why=why,
            input_mode=recipe.input_mode,
            tolerance=recipe.tolerance,
            calibration_samples=calibration,
            held_out_samples=held_out,
            operators=tuple(
                Operator(**{**entry, "nodes": tuple(entry["nodes"])}) for entry in operators
            ),
            ways=tuple(ways),
            unknown=_unknown(recipe, calibration),
            verifier_limit_bytes=CODE_LIMIT_BYTES,
            machine=Machine(
                cores=len(os.sched_getaffinity(0)), memory_bytes=psutil.virtual_memory().total
            ),
        )


def read_samples(*, path: str, out: str, elements: int | None, classes: int | None) -> list[int]:
    """Child step: read samples, write their calibration part; return how many of each there are."""
    os.chdir(Path(path).parent)  # messages name the file, not where it lies
    found = read(Path(Path(path).name), elements=elements, classes=classes)
    np.save(out, found.calibration, allow_pickle=False)
    return [len(found.calibration), len(found.held_out)]


@dataclass(frozen=True, kw_only=True)
class _Bounds:
    """How long all children may take together, how much memory each, and whether to go on."""

    limits: Limits
    ends_s: float
    cancelled: Cancelled

    @contextmanager
    def of_child(self) -> Iterator[dict[str, Any]]:
        """Give the arguments that bound the next child.

        Raises:
            ChildTimeout: no time is left for it, or it took more.

        """
        late = ChildTimeout(
            f"Preflight took all of the {self.limits.time_s:g} s that it may.",
            remedy="Allow more time, or use a smaller model.",
        )
        left_s = self.ends_s - time.monotonic()
        if left_s <= 0:
            raise late
        try:
            yield {"limits": replace(self.limits, time_s=left_s), "cancelled": self.cancelled}
        except ChildTimeout as exc:
            raise late from exc


@dataclass(frozen=True, kw_only=True)
class _Pinned:
    """What the recipe's lock makes of the chosen way: tuned options, and what is in the way."""

    options: Mapping[str, int] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Look:
    """A model and what is asked of it, to be estimated in several ways."""

    recipe: Recipe
    chosen: str
    pinned: _Pinned
    onnx: Path
    calibration: Path | None
    bounds: _Bounds
    on_chain: bool

    def at(self, name: str, mode: WeightsMode, objections: tuple[str, ...]) -> Way:
        """Return one way; an engine with ``objections`` is not asked."""
        asked = self.recipe.weights_mode or engine(name).weights_mode
        chosen = name == self.chosen and mode is asked
        estimate, batch = None, None
        problems = [*objections, *(self.pinned.problems if chosen else ())]
        warnings = [*(self.pinned.warnings if chosen else ())]
        if not objections:
            warnings = [*filter(None, [engine(name).leak_warning]), *warnings]
            try:
                estimate = self._estimate(name, mode, {})
            except JobCancelled:
                raise
            except ZkserveError as exc:
                problems.append(_sentences(exc))
        if estimate is not None:
            problems += self._misfits(estimate)
            warnings += _leaking(estimate)
            warnings += [_EXTRAPOLATED] if estimate.extrapolated else []
            (problems if self.on_chain else warnings).extend(_oversize(estimate))
            if not problems:
                batch = self._batch(name, mode, estimate)
                if batch.estimate is not None and not (batch.reason or _oversize(estimate)):
                    said = _oversize(batch.estimate)
                    warnings += (f"{BATCH} predictions in one proof: {line}" for line in said)
        return Way(
            engine=name,
            weights_mode=mode,
            chosen=chosen,
            fits=not problems,
            estimate=estimate,
            batch=batch,
            problems=tuple(problems),
            warnings=tuple(warnings),
        )

    def _estimate(self, name: str, mode: WeightsMode, more: dict[str, int]) -> Estimate:
        own = {**self.recipe.options, **self.pinned.options} if name == self.recipe.engine else {}
        options = {**own, **more}
        plan = CircuitPlan(input_mode=self.recipe.input_mode, weights_mode=mode, options=options)
        with self.bounds.of_child() as bound:
            return engine(name).estimate(self.onnx, plan, self.calibration, **bound)

    def _batch(self, name: str, mode: WeightsMode, single: Estimate) -> BatchPrice:
        if single.rows * BATCH > _MAX_BATCH_ROWS:
            return BatchPrice(size=BATCH, reason="A batch of this model would be too large.")
        try:
            found = self._estimate(name, mode, {"batch": BATCH})
        except JobCancelled:
            raise
        except ZkserveError as exc:
            return BatchPrice(size=BATCH, reason=exc.message)
        misfits = [*self._misfits(found), *(_oversize(found) if self.on_chain else ())]
        return BatchPrice(
            size=BATCH,
            estimate=found,
            prove_cpu_s_per_prediction=round(found.prove_cpu_s / BATCH, 4),
            prove_s_per_prediction=round(found.prove_s / BATCH, 4),
            gas_per_prediction=found.gas // BATCH,
            reason=" ".join(misfits[:1]),
        )

    def _misfits(self, estimate: Estimate) -> list[str]:
        """Return what keeps a circuit from being made and used."""
        said = list(estimate.objections)
        allowed = min(self.recipe.memory_bytes, psutil.virtual_memory().total)
        if max(estimate.prove_memory_bytes, estimate.setup_memory_bytes) > allowed:
            said.append(
                f"Proving would take about {estimate.prove_memory_bytes / _GIB:.1f} GiB of memory, "
                f"set-up {estimate.setup_memory_bytes / _GIB:.1f} GiB, and {allowed / _GIB:.1f} "
                "GiB are allowed or there. Take a smaller circuit, or raise memory_mb under "
                "[limits] on a larger machine."
            )
        allowed_s = self.recipe.time_s
        if max(estimate.prove_s, estimate.setup_s) > allowed_s:
            said.append(
                f"Proving would take about {estimate.prove_s:.0f} s, set-up {estimate.setup_s:.0f} "
                f"s, and {allowed_s:.0f} s are allowed. Raise time_s under [limits], or take a "
                "smaller circuit."
            )
        if estimate.leak is not None and estimate.leak.proofs == 0:
            said.append(
                f"Each proof would reveal up to {estimate.leak.bits_per_proof} bits of about "
                f"{estimate.leak.secret_bits} in the weights: the leak budget allows none. "
                'Use weights mode "hashed", or the native engine.'
            )
        return said


def _child(target: str, bounds: _Bounds, reach: Reach, **arguments: Any) -> Any:
    with bounds.of_child() as bound:
        return run_child(target, niceness=NICENESS, reach=reach, **bound, **arguments).value


def _samples(recipe: Recipe, folder: Path, bounds: _Bounds) -> tuple[int, int]:
    """Write the calibration samples into ``folder``; return how many samples there are of each."""
    if recipe.samples_path is None:
        return 0, 0
    path = recipe.samples_path.resolve()
    counted = _child(
        _READ,
        bounds,
        Reach(readable=(path,), writable=(folder.resolve(),)),
        path=str(path),
        out=str((folder / CALIBRATION).resolve()),
        **recipes.expected_samples(recipe),
    )
    return counted[0], counted[1]


def _engine(recipe: Recipe, objections: Mapping[str, tuple[str, ...]]) -> tuple[str, str]:
    """Return the engine that would prove the model, "" where none can, and why."""
    if recipe.engine is not None:
        name, why = recipe.engine, "the recipe names it"
    else:
        try:
            choice = choose(objections.items())
        except ModelRejected as exc:
            return "", exc.message
        name, why = choice.engine, choice.why
    if name not in ENGINES:
        raise RecipeInvalid(
            f"There is no engine {name!r}.", remedy=f"Use one of: {', '.join(ENGINES)}."
        )
    modes = engine(name).weights_modes
    if recipe.weights_mode not in {None, *modes}:
        raise RecipeInvalid(
            f"The engine {name} has no weights mode {str(recipe.weights_mode)!r}.",
            remedy=f"Use one of: {', '.join(modes)}. Or name another engine under [engine].",
        )
    return name, why


def _pinned(
    recipe: Recipe, chosen: str, onnx: Path, calibration: Path | None, update_lock: bool
) -> _Pinned:
    """Return what publishing would make of the recipe's lock."""
    if not chosen:
        return _Pinned()
    mode = recipe.weights_mode or engine(chosen).weights_mode
    recipe = replace(recipe, engine=chosen, weights_mode=mode)
    found: Mapping[str, int] | None = {}
    try:
        if recipe.tune:
            # Without samples no digest is that of a lock's, but all else is checked.
            rows = np.zeros((0, 0), np.float32)
            if calibration is not None:
                rows = np.load(calibration, allow_pickle=False)
            digest = lock.tuning_digest(recipe, onnx, rows)
            known = calibration is not None and not update_lock
            found = lock.tuned_options(recipe, digest) if known else None
        if found is not None and not update_lock:
            tuned = replace(recipe, options={**recipe.options, **found})
            lock.require_same(tuned, lock.foretold(tuned))
    except RecipeInvalid as exc:
        return _Pinned(problems=(_sentences(exc),))
    if found is None:
        return _Pinned(warnings=(_UNTUNED,))
    return _Pinned(options=found)


def _sentences(exc: ZkserveError) -> str:
    return " ".join(filter(None, (exc.message, exc.remedy)))


def _oversize(estimate: Estimate) -> tuple[str, ...]:
    if estimate.verifier_bytes <= CODE_LIMIT_BYTES:
        return ()
    return (
        f"The verifier would have about {estimate.verifier_bytes:,} bytes of code, and a chain "
        f"takes {CODE_LIMIT_BYTES:,} (EIP-170). Take fewer inner_cols or kinds of functions.",
    )


def _leaking(estimate: Estimate) -> tuple[str, ...]:
    leak = estimate.leak
    if leak is None or not leak.proofs:
        return ()
    return (
        f"The weights leak: each proof reveals up to {leak.bits_per_proof} bits of about "
        f"{leak.secret_bits}; the leak budget ends at proof {leak.proofs}, and proving with it.",
    )


def _unknown(recipe: Recipe, calibration: int) -> tuple[str, ...]:
    said = []
    if not calibration:
        said.append(
            "There are no samples, which publishing needs: lookup tables are those of drawn "
            "inputs, and nothing checks that calibration covers real ones."
        )
    said.append(
        "How far the circuit will be from the float model: publishing measures it on held-out "
        f"samples, and refuses more than {recipe.tolerance:g}."
    )
    return tuple(said)
