"""What runs in the child that searches for tuned options: it computes on samples, makes no key."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import ezkl
import numpy as np
import onnx
from numpy.typing import NDArray

from zkserve.engines import onnx_model
from zkserve.engines.answering import report
from zkserve.engines.base import FloatArray
from zkserve.engines.ezkl import cost, faults, relus, surgery, tuning
from zkserve.engines.ezkl.inputs import NO_SALT, SaltShape, quantise
from zkserve.engines.ezkl.seam import from_felt, to_felt, wrapped
from zkserve.engines.ezkl.settings import least_rows
from zkserve.engines.ezkl.tuning import Layout, Numbers, Price
from zkserve.errors import ModelRejected
from zkserve.types import FIELD_MODULUS

_WIDE_BASE, _WIDE_LEGS = 1 << 15, 4
"""Digits that hold whatever a sensible model computes: for looking at answers only."""
_WIDE_LOOKUP = (-(1 << 40), 1 << 40)
_ANSWERS = {"input_visibility": "public", "param_visibility": "fixed"}
"""Hashes change no answer and take long."""
_PROBED_ROWS, _CONFIRMED_ROWS = 300_000, 6_000_000
"""Rows computed to try numbers, and to confirm them: large circuits are tried on fewer samples."""
_PROBED, _CONFIRMED = range(6, 40), range(32, tuning.MAX_SAMPLES)


def search(
    *,
    model: str,
    calibration: str,
    run_args: dict[str, Any],
    batch: int,
    lookup_margin: int,
    max_logrows: int,
    tolerance: float,
) -> dict[str, Any]:
    """Return the fields of :class:`zkserve.engines.ezkl.tuning.Tuned` for an untrusted model.

    Raises:
        ModelRejected: the model is not allowed, or no circuit keeps the tolerance.

    """
    report("tuning: checking the model")
    original = faults.load(Path(model))
    samples = np.load(calibration, allow_pickle=False)
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        circuits = Circuits(original, samples, run_args, batch, lookup_margin, Path(folder))
        return _Search(circuits, tolerance, max_logrows).run()


class Circuits:
    """The circuits that a model can be made into, by numbers and layout."""

    def __init__(
        self,
        original: onnx.ModelProto,
        samples: FloatArray,
        run_args: dict[str, Any],
        batch: int,
        lookup_margin: int,
        folder: Path,
    ) -> None:
        self._original, self._samples, self._batch = original, samples, batch
        self._run_args, self._margin, self._folder = run_args, lookup_margin, folder
        self._salted = run_args["input_visibility"] != "public"
        self._networks: dict[tuple[int, bool], Path] = {}
        self._drawn: dict[tuple[Any, ...], dict[str, Any]] = {}
        self._lookups: dict[Numbers, tuple[int, int]] = {}
        flat, self.rows = surgery.prepare(original, samples, 0, batch)
        self._networks[0, False] = self._save(flat)
        self.ways = (True, False) if relus.halvable(flat) else (False,)
        """Whether to halve before a ``Relu``, where there is a choice."""
        self.floats = onnx_model.run(flat, self.rows).reshape(len(self.rows), -1)
        self.integers = bool((self.rows == np.round(self.rows)).all())

    def drawn(self, numbers: Numbers, legs: int, inner_cols: int) -> dict[str, Any]:
        """Return the settings of a circuit for digits of the base 1024, rows left open."""
        base = 1024
        salt = SaltShape.within(base**legs) if self._salted else NO_SALT
        low, high = self.lookups(numbers)
        return self._settings(
            (salt.count, numbers.halved),
            _run_args(numbers, base, legs)
            | {"num_inner_cols": inner_cols, "lookup_range": (low, high)},
        )

    def needed(self, settings: dict[str, Any], bound: int) -> int:
        """Return the rows that a circuit needs, whatever its columns, for values below ``bound``.

        ``settings`` are those of :meth:`drawn`, for another base. The smaller the bound is, the
        more elements salt the input, and all are hashed.
        """
        if not self._salted:
            return least_rows(settings)
        arguments = settings["run_args"]
        drawn = SaltShape.within(arguments["decomp_base"] ** arguments["decomp_legs"])
        return least_rows(settings, SaltShape.within(bound).count - drawn.count)

    def lookups(self, numbers: Numbers) -> tuple[int, int]:
        """Return the range of the lookup tables, as far as samples were computed."""
        return tuning.widened(*self._lookups.get(numbers, (0, 0)), self._margin)

    def kind(self, numbers: Numbers) -> tuple[Any, ...] | None:
        """Return what tells whether a circuit rounds in the same places as another.

        None: rounded back that late, scales grow past what ezkl can lay out.
        """
        try:
            settings = self.drawn(numbers, 3, 1)
        except ModelRejected:
            if numbers.rebase == tuning.REBASES[0]:
                raise  # no multiplier keeps scales smaller
            return None
        return (settings["total_assignments"], tuple(settings["model_output_scales"]))

    def size(self, numbers: Numbers) -> int:
        """Return about how many cells a circuit has."""
        return int(self.drawn(numbers, 3, 1)["total_assignments"])

    def computer(
        self, numbers: Numbers, base: int = _WIDE_BASE, legs: int = _WIDE_LEGS
    ) -> Callable[[int], NDArray[np.float64] | None]:
        """Return what computes on a row of samples; None where a value has no digits."""
        arguments = _run_args(numbers, base, legs) | _ANSWERS | {"lookup_range": _WIDE_LOOKUP}
        network = (0, numbers.halved)
        settings = self._settings(network, arguments)
        at, compiled = self._folder / "answer.json", self._folder / "answer.compiled"
        at.write_text(json.dumps(settings))
        with wrapped(ModelRejected, "ezkl cannot compile the model"):
            ezkl.compile_circuit(str(self._network(*network)), str(compiled), str(at))
        (shift,) = settings["model_output_scales"]

        def compute(row: int) -> NDArray[np.float64] | None:
            found = self._witness(compiled, self.rows[row], numbers.input_scale)
            if found is None:
                return None
            low, high = self._lookups.get(numbers, (0, 0))
            seen = (found["min_lookup_inputs"], found["max_lookup_inputs"])
            self._lookups[numbers] = (min(low, seen[0]), max(high, seen[1]))
            felts = [felt for column in found["outputs"] for felt in column]
            return np.array([_signed(felt) / 2.0**shift for felt in felts])

        return compute

    def _witness(self, compiled: Path, row: FloatArray, scale: int) -> dict[str, Any] | None:
        data, path = self._folder / "input.json", self._folder / "witness.json"
        values = quantise(row, size=len(row), scale=scale, bound=1 << 62)
        data.write_text(json.dumps({"input_data": [[to_felt(value) for value in values]]}))
        try:
            with wrapped(ModelRejected, "ezkl cannot compute on a sample"):
                ezkl.gen_witness(str(data), str(compiled), str(path), vk_path=None, srs_path=None)
        except ModelRejected:
            return None
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    def _settings(self, network: tuple[int, bool], changed: dict[str, Any]) -> dict[str, Any]:
        values = self._run_args | changed
        name = (network, *sorted((k, str(v)) for k, v in values.items()))
        if name not in self._drawn:
            arguments = ezkl.PyRunArgs()
            for argument, value in values.items():
                setattr(arguments, argument, value)
            out = self._folder / "settings.json"
            with wrapped(ModelRejected, "ezkl cannot lay the model out"):
                ezkl.gen_settings(str(self._network(*network)), str(out), py_run_args=arguments)
            self._drawn[name] = json.loads(out.read_text())
        return self._drawn[name]

    def _network(self, salt_count: int, halved: bool) -> Path:
        if (salt_count, halved) not in self._networks:
            flat, _ = surgery.prepare(
                self._original, self._samples, salt_count, self._batch, halved_relus=halved
            )
            self._networks[salt_count, halved] = self._save(flat)
        return self._networks[salt_count, halved]

    def _save(self, network: onnx.ModelProto) -> Path:
        path = self._folder / f"network-{len(self._networks)}.onnx"
        onnx.save(network, path)
        return path


@dataclass(frozen=True, kw_only=True)
class _Found:
    numbers: Numbers
    layout: Layout
    max_abs: float


class _Search:
    def __init__(self, circuits: Circuits, tolerance: float, max_logrows: int) -> None:
        self._circuits, self._tolerance, self._max_logrows = circuits, tolerance, max_logrows
        self._limit = tuning.KEPT_SHARE * tolerance
        self._searched = 0
        self._closest: tuple[float, Numbers] | None = None
        self._order: list[int] = []
        """Rows to compute on: those that once differed most come first, so that failing is fast."""

    def run(self) -> dict[str, Any]:
        best: _Found | None = None
        top = tuning.SCALES[-1]
        for numbers in self._starts():
            if best is not None and self._bound(numbers) >= best.layout.price.prove_cpu_s:
                continue
            fitting = self._coarsest(numbers)
            if fitting is None:
                continue
            chosen, max_abs = fitting
            report(
                f"tuning: scales {chosen.input_scale} and {chosen.scale}, rounding back at "
                f"{chosen.rebase}{_way(chosen)}: within {max_abs:.3g}; laying out"
            )
            cheaper = [
                layout
                for layout in self._layouts(chosen)
                if best is None or layout.rank < best.layout.rank
            ]
            layout = tuning.cheapest(cheaper, self._holding(chosen))
            if layout is None:
                continue
            report(f"tuning: 2^{layout.logrows} rows, {layout.price.prove_cpu_s:.2f} CPU-s a proof")
            best = _Found(numbers=chosen, layout=layout, max_abs=max_abs)
        if best is None:
            raise self._rejected(top)
        options = best.layout.options(best.numbers)
        if self._circuits.drawn(best.numbers, 3, 1)["required_lookups"]:
            low, high = self._circuits.lookups(best.numbers)
            options |= {"lookup_low": low, "lookup_high": high}
        return {
            "options": options,
            "max_abs": best.max_abs,
            "prove_cpu_s": round(best.layout.price.prove_cpu_s, 4),
            "samples": len(self._circuits.rows),
            "searched": self._searched,
        }

    def _starts(self) -> Iterator[Numbers]:
        """Yield the finest numbers of each kind of circuit."""
        for halved in self._circuits.ways:
            yield from tuning.rebases(partial(self._start, halved), self._circuits.kind)

    def _start(self, halved: bool, rebase: int) -> Numbers:
        top = tuning.SCALES[-1]
        inputs = 0 if self._circuits.integers else top
        return Numbers(input_scale=inputs, scale=top, rebase=rebase, halved=halved)

    def _coarsest(self, finest: Numbers) -> tuple[Numbers, float] | None:
        """Return the coarsest numbers of a kind that keep the tolerance, and how well they do."""
        low, high = tuning.SCALES[0], tuning.SCALES[-1]
        whole = self._circuits.integers

        def both(scale: int) -> Numbers:
            return replace(finest, input_scale=0 if whole else scale, scale=scale)

        rows = self._chosen_rows(_PROBED, _PROBED_ROWS, both(high))
        scale = tuning.least(low, high, lambda s: self._keeps(both(s), rows))
        if scale is None:
            return None
        input_scale = both(scale).input_scale
        if not whole:
            inputs = tuning.least(
                0,
                scale,
                lambda s: self._keeps(replace(finest, input_scale=s, scale=scale), rows),
            )
            assert inputs is not None  # noqa: S101 (the largest was good above)
            input_scale = inputs
        return self._confirmed(replace(finest, input_scale=input_scale, scale=scale))

    def _confirmed(self, numbers: Numbers) -> tuple[Numbers, float] | None:
        """Return the numbers, refined until they keep the tolerance on more samples."""
        rows = self._chosen_rows(_CONFIRMED, _CONFIRMED_ROWS, numbers)
        while numbers.scale <= tuning.SCALES[-1]:
            worst = self._worst(numbers, rows)
            if worst <= self._limit:
                return numbers, worst
            finer = numbers.input_scale + (0 if self._circuits.integers else 1)
            numbers = replace(numbers, input_scale=finer, scale=numbers.scale + 1)
        return None

    def _keeps(self, numbers: Numbers, rows: Sequence[int]) -> bool:
        return self._worst(numbers, rows) <= self._limit

    def _worst(self, numbers: Numbers, rows: Sequence[int]) -> float:
        """Return the largest difference on these rows; past the limit the first one does."""
        self._searched += 1
        report(
            f"tuning: trying scales {numbers.input_scale} and {numbers.scale}, rounding back at "
            f"{numbers.rebase}{_way(numbers)}"
        )
        compute, worst = self._circuits.computer(numbers), 0.0
        wanted = set(rows)
        ordered = [row for row in self._order if row in wanted]
        ordered += [row for row in rows if row not in self._order]
        for row in ordered:
            answer = compute(row)
            if answer is None:
                return math.inf
            worst = max(worst, float(np.abs(answer - self._circuits.floats[row]).max()))
            if worst > self._limit:
                self._order = [row, *(other for other in self._order if other != row)]
                break
        if self._closest is None or worst < self._closest[0]:
            self._closest = (worst, numbers)
        return worst

    def _layouts(self, numbers: Numbers) -> list[Layout]:
        drawn = [
            self._circuits.drawn(numbers, legs, columns)
            for legs in tuning.LEGS
            for columns in tuning.INNER_COLUMNS
        ]
        return tuning.layouts(
            drawn,
            _price,
            self._circuits.needed,
            max_logrows=self._max_logrows,
            unusable_rows=cost.UNUSABLE_ROWS,
        )

    def _bound(self, numbers: Numbers) -> float:
        """Return less than any circuit of such numbers costs: of the fewest digits, in any rows.

        Those that hold most hash least: with more digits fewer rows may do.
        """
        settings = self._circuits.drawn(numbers, tuning.LEGS[0], 1)
        largest = tuning.MAX_BASE ** tuning.LEGS[-1]
        found = tuning.layouts(
            [settings],
            _price,
            lambda drawn, _: self._circuits.needed(drawn, largest),
            max_logrows=self._max_logrows,
            unusable_rows=cost.UNUSABLE_ROWS,
        )
        return min((layout.price.prove_cpu_s for layout in found), default=math.inf)

    def _holding(self, numbers: Numbers) -> Callable[[int, int], bool]:
        rows = self._chosen_rows(_CONFIRMED, _CONFIRMED_ROWS, numbers)
        hard: list[int] = []

        def holds(base: int, legs: int) -> bool:
            compute = self._circuits.computer(numbers, base, legs)
            for row in [*hard, *(row for row in rows if row not in hard)]:
                if compute(row) is None:
                    hard[:] = [row, *(other for other in hard if other != row)]
                    return False
            return True

        return holds

    def _chosen_rows(self, counts: range, budget: int, numbers: Numbers) -> list[int]:
        affordable = budget // self._circuits.size(numbers)
        wanted = min(max(affordable, counts.start), counts.stop)
        return tuning.spread(len(self._circuits.rows), wanted)

    def _rejected(self, top: int) -> ModelRejected:
        if self._closest is not None and self._closest[0] <= self._limit:
            return ModelRejected(
                f"No circuit of at most 2^{self._max_logrows} rows, with a verifier that a chain "
                "takes, holds what the model computes.",
                remedy="Raise max_logrows in [engine.options], or use a smaller model.",
            )
        closest = "none could be computed"
        if self._closest is not None:
            reached, numbers = self._closest
            closest = (
                f"the closest differs by {reached:.4g} or more, with inputs at scale "
                f"{numbers.input_scale} and weights at {numbers.scale}"
            )
        return ModelRejected(
            f"No circuit up to scale {top} stays within {self._limit:.4g} of the float model on "
            f"calibration samples, {tuning.KEPT_SHARE:.0%} of the tolerance {self._tolerance:.4g}: "
            f"{closest}.",
            remedy="Widen the tolerance knowingly, or bring the model's inputs to one magnitude.",
        )


def _run_args(numbers: Numbers, base: int, legs: int) -> dict[str, Any]:
    return {
        "input_scale": numbers.input_scale,
        "param_scale": numbers.scale,
        "scale_rebase_multiplier": numbers.rebase,
        "decomp_base": base,
        "decomp_legs": legs,
    }


def _way(numbers: Numbers) -> str:
    return ", ReLUs of halves" if numbers.halved else ""


def _price(settings: dict[str, Any], logrows: int) -> Price:
    found = cost.estimate(
        settings, yardstick_cpu_s=cost.model().yardstick_cpu_s, threads=1, logrows=logrows
    )
    return Price(prove_cpu_s=found.prove_cpu_s, verifier_bytes=found.verifier_bytes)


def _signed(felt: str) -> int:
    element = from_felt(felt)
    return element - FIELD_MODULUS if element > FIELD_MODULUS // 2 else element
