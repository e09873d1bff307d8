"""Preflight: what publishing a model would give and cost, before anything is spent.

Nothing is made or kept: no key, no SRS, no artifact, no version. The model is parsed, surveyed and
laid out in confined children only. Figures are predictions of each engine's cost model, but for
those that an estimate names as exact; whatever is wrong is said here, not in an abort later.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from zkserve import lock, runtime
from zkserve import recipe as recipes
from zkserve.encoding import canonical_json, parse_json, sha256_file
from zkserve.engines import ENGINES, engine
from zkserve.engines.base import CircuitPlan, Limits, Progress
from zkserve.engines.child import run_child
from zkserve.engines.choice import choose, objections_of
from zkserve.engines.cost import Estimate
from zkserve.engines.sandbox import Reach
from zkserve.errors import ModelRejected, RecipeInvalid, ZkserveError
from zkserve.recipe import Recipe
from zkserve.samples import read
from zkserve.types import CODE_LIMIT_BYTES, InputMode, WeightsMode

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


@dataclass(frozen=True, kw_only=True)
class Operator:
    """An operator of the model: where it stands, and what each engine makes of it.

    ``engines`` says ``supported``, ``refused`` or ``silently wrong`` for each. ``nodes`` names the
    first nodes of ``count``.
    """

    name: str
    count: int
    nodes: tuple[str, ...]
    engines: Mapping[str, str]
    why: str
    remedy: str


@dataclass(frozen=True, kw_only=True)
class BatchPrice:
    """What ``size`` predictions in one proof would cost, or why that cannot be."""

    size: int
    prove_cpu_s: float | None = None
    prove_cpu_s_per_prediction: float | None = None
    gas_per_prediction: int | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to prove the model: an engine and a weights mode.

    ``fits`` says whether it would publish and prove within the limits; ``problems`` say what is in
    the way, ``warnings`` what to know, a sentence each. Without an ``estimate`` the first problem
    says why.
    """

    engine: str
    weights_mode: WeightsMode
    chosen: bool
    fits: bool
    estimate: Estimate | None
    batch: BatchPrice | None
    problems: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What preflight found; ``engine`` is "" where none can prove the model.

    ``unknown`` says what could not be told, a sentence each.
    """

    model: str
    onnx_sha256: str
    engine: str
    engine_why: str
    input_mode: InputMode
    tolerance: float
    calibration_samples: int
    held_out_samples: int
    operators: tuple[Operator, ...]
    ways: tuple[Way, ...]
    unknown: tuple[str, ...]
    machine: Mapping[str, int]

    @property
    def fits(self) -> bool:
        """Whether publishing as things stand would go through, as far as can be foretold."""
        return any(way.chosen and way.fits for way in self.ways)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data: a field for each of this class, and ``fits``."""
        plain: dict[str, Any] = parse_json(canonical_json(asdict(self) | {"fits": self.fits}))
        return plain

    def to_json(self) -> bytes:
        """Return canonical JSON."""
        return canonical_json(self.to_dict())


def preflight(
    recipe: Recipe,
    *,
    progress: Progress,
    limits: Limits | None = None,
    on_chain: bool = False,
    update_lock: bool = False,
) -> Report:
    """Return what publishing ``recipe`` would give and cost; leave nothing behind.

    ``limits`` bounds each child; the recipe's own limits where it is None. ``on_chain`` says that
    the version is to be registered, so that a verifier that no chain takes is a problem;
    ``update_lock``, that the recipe's lock is to be written anew, so that it pins nothing.

    Raises:
        RecipeInvalid: the recipe or its samples are wrong.
        ModelRejected: the file is no ONNX model.
        ChildKilled, ChildTimeout: looking at it took more than ``limits``.

    """
    limits = limits or Limits(time_s=recipe.time_s, memory_bytes=recipe.memory_bytes)
    with runtime.private_folder() as folder:
        progress("exporting to ONNX")
        onnx = recipes.export_onnx(recipe, folder / "model.onnx").resolve()
        progress("surveying operators")
        operators = _child(_SURVEY, limits, Reach(readable=(onnx,)), model=str(onnx))
        calibration, held_out = _samples(recipe, folder, limits)
        progress("choosing the engine")
        objections = dict(objections_of(name, onnx, limits=limits) for name in ENGINES)
        name, why = _engine(recipe, objections)
        samples = folder / CALIBRATION if calibration else None
        look = _Look(
            recipe=recipe,
            chosen=name,
            pinned=_pinned(recipe, name, onnx, samples, update_lock),
            onnx=onnx,
            calibration=samples,
            limits=limits,
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
            machine={
                "cores": len(os.sched_getaffinity(0)),
                "memory_bytes": psutil.virtual_memory().total,
            },
        )


def read_samples(*, path: str, out: str, elements: int | None, classes: int | None) -> list[int]:
    """Child step: read samples, write their calibration part; return how many of each there are."""
    os.chdir(Path(path).parent)  # messages name the file, not where it lies
    found = read(Path(Path(path).name), elements=elements, classes=classes)
    np.save(out, found.calibration, allow_pickle=False)
    return [len(found.calibration), len(found.held_out)]


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
    limits: Limits
    on_chain: bool

    def at(self, name: str, mode: WeightsMode, objections: tuple[str, ...]) -> Way:
        """Return one way; an engine with ``objections`` is not asked."""
        asked = self.recipe.weights_mode or engine(name).weights_mode
        chosen = name == self.chosen and mode is asked
        estimate, batch = None, None
        problems = [*objections, *(self.pinned.problems if chosen else ())]
        warnings = [*filter(None, [engine(name).leak_warning])]
        warnings += self.pinned.warnings if chosen else ()
        if not objections:
            try:
                estimate = self._estimate(name, mode, {})
            except ZkserveError as exc:
                problems.append(_sentences(exc))
        if estimate is not None:
            problems += self._misfits(estimate)
            warnings += _leaking(estimate)
            warnings += [_EXTRAPOLATED] if estimate.extrapolated else []
            (problems if self.on_chain else warnings).extend(_oversize(estimate))
            if not problems:
                batch = self._batch(name, mode, estimate)
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
        return engine(name).estimate(self.onnx, plan, self.calibration, limits=self.limits)

    def _batch(self, name: str, mode: WeightsMode, single: Estimate) -> BatchPrice:
        if single.rows * BATCH > _MAX_BATCH_ROWS:
            return BatchPrice(size=BATCH, reason="A batch of this model would be too large.")
        try:
            found = self._estimate(name, mode, {"batch": BATCH})
        except ZkserveError as exc:
            return BatchPrice(size=BATCH, reason=exc.message)
        misfits = self._misfits(found)
        return BatchPrice(
            size=BATCH,
            prove_cpu_s=found.prove_cpu_s,
            prove_cpu_s_per_prediction=round(found.prove_cpu_s / BATCH, 4),
            gas_per_prediction=found.gas // BATCH,
            reason=misfits[0] if misfits else "",
        )

    def _misfits(self, estimate: Estimate) -> list[str]:
        """Return what keeps a circuit from being made and used."""
        said = list(estimate.objections)
        for what, needed in (
            ("Proving", estimate.prove_memory_bytes),
            ("Set-up", estimate.setup_memory_bytes),
        ):
            allowed = min(self.recipe.memory_bytes, psutil.virtual_memory().total)
            if needed > allowed:
                said.append(
                    f"{what} would take about {needed / _GIB:.1f} GiB of memory, and "
                    f"{allowed / _GIB:.1f} GiB are allowed or there. Take a smaller circuit, or "
                    "raise memory_mb under [limits] on a larger machine."
                )
        for what, needed_s in (("Proving", estimate.prove_s), ("Set-up", estimate.setup_s)):
            if needed_s > self.recipe.time_s:
                said.append(
                    f"{what} would take about {needed_s:.0f} s, and {self.recipe.time_s:.0f} s are "
                    "allowed. Raise time_s under [limits], or take a smaller circuit."
                )
        if estimate.leak is not None and estimate.leak.proofs == 0:
            said.append(
                f"Each proof would reveal up to {estimate.leak.bits_per_proof} bits of about "
                f"{estimate.leak.secret_bits} in the weights: the leak budget allows none. "
                'Use weights mode "hashed", or the native engine.'
            )
        return said


def _child(target: str, limits: Limits, reach: Reach, **arguments: Any) -> Any:
    return run_child(target, limits=limits, niceness=NICENESS, reach=reach, **arguments).value


def _samples(recipe: Recipe, folder: Path, limits: Limits) -> tuple[int, int]:
    """Write the calibration samples into ``folder``; return how many samples there are of each."""
    if recipe.samples_path is None:
        return 0, 0
    path = recipe.samples_path.resolve()
    counted = _child(
        _READ,
        limits,
        Reach(readable=(path,), writable=(folder.resolve(),)),
        path=str(path),
        out=str((folder / CALIBRATION).resolve()),
        **recipes.expected_samples(recipe),
    )
    return counted[0], counted[1]


def _engine(recipe: Recipe, objections: Mapping[str, tuple[str, ...]]) -> tuple[str, str]:
    if recipe.engine is not None:
        return recipe.engine, "the recipe names it"
    try:
        choice = choose(objections.items())
    except ModelRejected as exc:
        return "", exc.message
    return choice.engine, choice.why


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
            "There are no samples: lookup tables are those of drawn inputs, and nothing checks "
            "that calibration covers real ones."
        )
    said.append(
        "How far the circuit will be from the float model: publishing measures it on held-out "
        f"samples, and refuses more than {recipe.tolerance:g}."
    )
    return tuple(said)
