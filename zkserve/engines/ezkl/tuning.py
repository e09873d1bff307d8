"""Find the options of ezkl's cheapest circuit that keeps a tolerance.

What a circuit answers follows from its numbers alone: the scales of inputs and weights, and how far
scales may grow before values are rounded back. What it costs follows from how it is laid out:
digits and their base, columns, rows. So numbers are sought first, the coarsest that keep the
tolerance; then the cheapest layout whose digits hold all values with room to spare. Costs are
predicted (:mod:`zkserve.engines.ezkl.cost`), answers are those of ezkl itself, in a child.

All is chosen on calibration samples: held-out ones stay unseen for the agreement that is published.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zkserve import runtime
from zkserve.encoding import canonical_json, parse_json, sha256_file, sha256_hex
from zkserve.engines.base import Cancelled, CircuitPlan, FloatArray, Limits, Progress
from zkserve.engines.child import never_cancelled, no_progress, run_child
from zkserve.engines.ezkl.options import Options
from zkserve.engines.ezkl.settings import fits
from zkserve.engines.sandbox import Reach
from zkserve.errors import EngineFailed, InvalidInput, RecipeInvalid

SPACE = 2
"""Version of what is searched and how: a cached result of another is not used."""
STEP = "zkserve.engines.ezkl.search:search"
CHOSEN = frozenset(
    {
        *("scale", "input_scale", "rebase_multiplier"),
        *("decomp_base", "decomp_legs", "inner_cols", "logrows"),
        *("lookup_low", "lookup_high"),
        "halved_relus",
    }
)
"""The options that tuning decides; a recipe that is tuned states none of them."""
KEPT_SHARE = 0.5
"""Of the tolerance, what calibration samples may use: held-out ones err further at times."""
HEADROOM = 2
"""Digits hold values of this many times the magnitude of any that calibration samples give."""
MAX_SAMPLES = 200
SCALES = range(2, 19)
REBASES = (1, 2, 3, 4, 6, 8)
LEGS = range(2, 8)
INNER_COLUMNS = (1, 2, 3, 4)
MAX_BASE = 1 << 16
MAX_VERIFIER_BYTES = 21_000
"""Predicted, up to a sixth too low for many blocks of one column; a chain takes 24,576."""


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """What decides a circuit's answers.

    ``rebase`` and ``halved`` are ``rebase_multiplier`` and ``halved_relus`` of the options.
    """

    input_scale: int
    scale: int
    rebase: int
    halved: bool = False


@dataclass(frozen=True, kw_only=True)
class Price:
    """What a layout is predicted to cost."""

    prove_cpu_s: float
    verifier_bytes: int


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One way to lay a circuit out, and its price."""

    decomp_base: int
    decomp_legs: int
    inner_cols: int
    logrows: int
    cells: int
    """Cells that hold something: an empty one is proved faster."""
    price: Price

    @property
    def rank(self) -> tuple[float, int, int, int]:
        """What sorts the cheapest first: time, then code, then fewer blocks, then cells.

        As many columns cost less in one block, which needs one set of selectors.
        """
        return (
            self.price.prove_cpu_s,
            self.price.verifier_bytes,
            -self.inner_cols,
            self.cells,
        )

    def options(self, numbers: Numbers) -> dict[str, int]:
        """Return the engine's options."""
        found = {
            "scale": numbers.scale,
            "input_scale": numbers.input_scale,
            "rebase_multiplier": numbers.rebase,
            "decomp_base": self.decomp_base,
            "decomp_legs": self.decomp_legs,
            "inner_cols": self.inner_cols,
            "logrows": self.logrows,
        }
        return found | {"halved_relus": True} if numbers.halved else found


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """The options found, and what was seen on the way.

    ``max_abs`` is the largest difference from the float model on calibration samples, in units of
    the output; ``prove_cpu_s`` is predicted. ``searched`` counts the numbers that were tried.
    """

    options: Mapping[str, int]
    max_abs: float
    prove_cpu_s: float
    samples: int
    searched: int

    def __post_init__(self) -> None:
        """Refuse what tuning does not decide: what is read comes from a file or from a child.

        Raises:
            ValueError: an option is not one of ``CHOSEN`` or no integer, or a figure no number.

        """
        for name, value in self.options.items():
            if name not in CHOSEN or not isinstance(value, int):
                raise ValueError(f"tuning does not decide {name!r}: {value!r}")
        if not (math.isfinite(self.max_abs) and math.isfinite(self.prove_cpu_s)):
            raise ValueError("a figure is not finite")


def tune(
    version: str,
    model: Path,
    plan: CircuitPlan,
    calibration: FloatArray,
    tolerance: float,
    cache: Path,
    *,
    fresh: bool = False,
    limits: Limits,
    progress: Progress = no_progress,
    cancelled: Cancelled = never_cancelled,
) -> Tuned:
    """Return the tuned options for an untrusted ONNX file; a search made before is not repeated.

    Args:
        version: Of ezkl: another one lays circuits out otherwise.
        model: The ONNX file.
        plan: The modes, and options that tuning leaves alone.
        calibration: Samples of shape ``(samples, elements)``.
        tolerance: Largest difference from the float model, in units of the output.
        cache: The folder that results are kept in.
        fresh: Search even if the result is known.
        limits: Bounds on the child that searches.
        progress: Told what is tried.
        cancelled: Asked whether to stop; nothing is kept then.

    Raises:
        RecipeInvalid: the plan states options that tuning decides.
        ModelRejected: no circuit keeps the tolerance.

    """
    require_undecided(plan)
    kept = cache / f"{key(version, model, plan, calibration, tolerance)}.json"
    if not fresh and (found := _read(kept)) is not None:
        progress("using the circuit that was found before")
        return found
    answer = _search(model, plan, calibration, tolerance, limits, progress, cancelled)
    _write(kept, answer)
    return answer


def require_undecided(plan: CircuitPlan) -> None:
    """Return if a plan leaves to tuning what tuning decides.

    Raises:
        RecipeInvalid: it states such an option.

    """
    if stated := sorted(CHOSEN & plan.options.keys()):
        raise RecipeInvalid(
            f"The recipe asks for tuning and states {', '.join(stated)}, which tuning decides.",
            remedy="Drop these options, or tune = true.",
        )


def key(
    version: str, model: Path, plan: CircuitPlan, calibration: FloatArray, tolerance: float
) -> str:
    """Return the digest of all that decides what a search finds."""
    return sha256_hex(
        canonical_json(
            {
                "onnx": sha256_file(model),
                "calibration": sha256_hex(calibration.tobytes()),
                "shape": list(calibration.shape),
                "modes": [str(plan.input_mode), str(plan.weights_mode)],
                "options": dict(plan.options),
                "tolerance": repr(tolerance),
                "ezkl": version,
                "space": SPACE,
            }
        )
    ).removeprefix("0x")


def spread(count: int, wanted: int) -> list[int]:
    """Return at most ``wanted`` indices below ``count``, ascending and evenly spread."""
    return [int(i) for i in np.unique(np.linspace(0, count - 1, min(wanted, count)).astype(int))]


def least(low: int, high: int, good: Callable[[int], bool]) -> int | None:
    """Return the least of ``low`` to ``high`` that is good, if all after it are; None: none is."""
    if not good(high):
        return None
    while low < high:
        middle = (low + high) // 2
        if good(middle):
            high = middle
        else:
            low = middle + 1
    return high


def layouts(
    drawn: Sequence[dict[str, Any]],
    price: Callable[[dict[str, Any], int], Price],
    needed: Callable[[dict[str, Any], int], int],
    *,
    max_logrows: int,
    unusable_rows: int,
) -> list[Layout]:
    """Return the layouts that fit, the cheapest first.

    Args:
        drawn: Settings of the circuit for each number of digits and of columns, for some base: the
            range of a digit depends on it, and how many elements salt an input.
        price: What settings cost at a log2 of rows.
        needed: The rows that settings need, whatever their columns, if values are below a bound.
        max_logrows: Rows are at most two to this.
        unusable_rows: Rows of each column that no digit's table takes.

    """
    found = []
    for settings in drawn:
        arguments = settings["run_args"]
        for logrows in range(6, max_logrows + 1):
            usable = (1 << logrows) - unusable_rows
            base = min(usable, MAX_BASE)
            if not fits(needed(settings, base ** arguments["decomp_legs"]), logrows):
                continue
            cost = price(with_base(settings, base), logrows)
            if cost.verifier_bytes > MAX_VERIFIER_BYTES:
                continue
            found.append(
                Layout(
                    decomp_base=base,
                    decomp_legs=arguments["decomp_legs"],
                    inner_cols=arguments["num_inner_cols"],
                    logrows=logrows,
                    cells=settings["total_assignments"],
                    price=cost,
                )
            )
    return sorted(found, key=lambda layout: layout.rank)


def cheapest(ordered: Sequence[Layout], holds: Callable[[int, int], bool]) -> Layout | None:
    """Return the first layout whose digits hold all values; None: none does.

    ``holds`` is asked of a base and a number of digits that hold :data:`HEADROOM` times less than
    the layout's own, and not of what holds less than others that failed.
    """
    failed = 0
    for layout in ordered:
        base = reduced(layout.decomp_base, layout.decomp_legs)
        held = base**layout.decomp_legs
        if held <= failed:
            continue
        if holds(base, layout.decomp_legs):
            return layout
        failed = held
    return None


def reduced(base: int, legs: int) -> int:
    """Return the largest base whose digits hold at most ``1 / HEADROOM`` of what ``base``'s do."""
    bound = base**legs // HEADROOM
    lower = base
    while lower**legs > bound:
        lower -= 1
    return lower


def with_base(settings: dict[str, Any], base: int) -> dict[str, Any]:
    """Return settings of the same circuit with digits of another base."""
    old = [0, settings["run_args"]["decomp_base"] - 1]
    checks = [[0, base - 1] if c == old else c for c in settings["required_range_checks"]]
    arguments = settings["run_args"] | {"decomp_base": base}
    return settings | {"run_args": arguments, "required_range_checks": checks}


def widened(low: int, high: int, margin: int) -> tuple[int, int]:
    """Return the range of a lookup table for inputs seen from ``low`` to ``high``."""
    return min(low, 0) * margin - 1, max(high, 0) * margin + 1


def rebases(numbers: Callable[[int], Numbers], kind: Callable[[Numbers], Any]) -> Iterator[Numbers]:
    """Yield numbers for each multiplier that makes another circuit than those before.

    ``kind`` gives None for what makes no circuit.
    """
    seen = {None}
    for multiplier in REBASES:
        candidate = numbers(multiplier)
        if (found := kind(candidate)) not in seen:
            seen.add(found)
            yield candidate


def _search(
    model: Path,
    plan: CircuitPlan,
    calibration: FloatArray,
    tolerance: float,
    limits: Limits,
    progress: Progress,
    cancelled: Cancelled,
) -> Tuned:
    if calibration.ndim != 2 or not len(calibration) or not np.isfinite(calibration).all():
        raise InvalidInput(
            f"Calibration samples have shape {calibration.shape}; expected finite numbers of shape "
            "(samples, elements), at least one sample."
        )
    options = Options.of(plan)
    with runtime.private_folder() as folder:
        samples = folder / "calibration.npy"
        np.save(samples, calibration[spread(len(calibration), MAX_SAMPLES)].astype(np.float32))
        answer = run_child(
            STEP,
            limits=limits,
            niceness=5,
            reach=Reach(readable=(model.resolve(), samples.resolve())),
            progress=progress,
            cancelled=cancelled,
            model=str(model.resolve()),
            calibration=str(samples.resolve()),
            run_args=options.run_args(plan.input_mode, plan.weights_mode),
            batch=options.batch,
            lookup_margin=options.lookup_margin,
            max_logrows=options.max_logrows,
            tolerance=tolerance,
        )
    try:
        return Tuned(**answer.value)
    except (AttributeError, TypeError, ValueError) as exc:
        raise EngineFailed(f"The search gave an answer that is none: {exc}.") from exc


def _read(path: Path) -> Tuned | None:
    """Return the result that was kept; None if there is none, or none that can be used."""
    try:
        return Tuned(**parse_json(path.read_bytes()))
    except (OSError, AttributeError, TypeError, ValueError):
        return None


def _write(path: Path, tuned: Tuned) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_text(json.dumps(asdict(tuned), indent=2, sort_keys=True) + "\n")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
