"""What a recipe may ask of the ezkl engine, and what it may not."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from zkserve.engines.base import CircuitPlan
from zkserve.engines.ezkl.leak import DEFAULT_FRACTION, MAX_FRACTION
from zkserve.errors import RecipeInvalid
from zkserve.types import InputMode, WeightsMode

_REFUSED_WEIGHTS = {
    "private": "private weights are bound by nothing: any weights would verify",
    "committed": "commitments with fresh randomness are the native engine's",
}
WEIGHTS_MODES = (WeightsMode.HASHED, WeightsMode.FIXED, WeightsMode.POLYCOMMIT)


@dataclass(frozen=True, kw_only=True)
class Options:
    """The engine's options in a recipe, with sound defaults.

    Values are decomposed into ``decomp_legs`` digits of base ``decomp_base``: magnitudes up to
    ``decomp_base ** decomp_legs`` are provable, and a circuit has at least ``decomp_base`` rows.
    """

    scale: int = 8
    """Inputs and weights are multiples of ``2**-scale``."""
    decomp_base: int = 1024
    decomp_legs: int = 3
    inner_cols: int = 2
    """Columns that work is spread over: more columns, fewer rows."""
    lookup_margin: int = 2
    """Lookup tables cover this many times the range that calibration saw."""
    max_logrows: int = 20
    """Refuse circuits of more than ``2**max_logrows`` rows."""
    rebase_multiplier: int = 1
    """Values are rounded back once their scale passes this many times the larger of the two."""
    logrows: int | None = None
    """Log2 of the rows; nothing is calibrated then, and what is too much for one block of columns
    goes into further ones. None: calibration decides."""
    input_scale: int | None = None
    """Inputs are multiples of ``2**-input_scale``; None: of ``2**-scale``. Needs ``logrows``."""
    lookup_low: int = 0
    lookup_high: int = 0
    """Lookup tables cover this range, where ``logrows`` is given."""
    batch: int = 1
    """Predictions in one proof."""
    leak_fraction: float = DEFAULT_FRACTION
    """The share of the weights' bits that proofs may reveal, in weights modes that leak."""
    freivalds: bool = False
    """Check products of matrices by Freivalds' algorithm: fewer rows where matrices are large, for
    more columns and a verifier that may not fit on a chain. It came after ezkl's audit."""
    halved_relus: bool = False
    """Compute ``Relu`` from half its input, halved in the weights before: fewer cells, for weights
    that are as exact with a scale of one more."""

    @classmethod
    def of(cls, plan: CircuitPlan) -> Options:
        """Read the options of a plan.

        Raises:
            RecipeInvalid: an option or a mode is unknown, refused, or out of its bounds.

        """
        weights = str(plan.weights_mode)
        if weights not in WEIGHTS_MODES:
            reason = _REFUSED_WEIGHTS.get(weights, "it is unknown")
            raise RecipeInvalid(
                f"Weights mode {weights!r} is refused: {reason}.",
                remedy='Use weights mode "hashed"; or "fixed" or "polycommit", which leak.',
            )
        if plan.input_mode not in set(InputMode):
            raise RecipeInvalid(f"Input mode {plan.input_mode!r} is unknown.")
        unknown = plan.options.keys() - {field.name for field in fields(cls)}
        if unknown:
            raise RecipeInvalid(
                f"The ezkl engine knows no option {', '.join(sorted(unknown))}.",
                remedy="Use only " + ", ".join(field.name for field in fields(cls)) + ".",
            )
        values: dict[str, Any] = dict(plan.options)
        for name, low, high in _BOUNDS:
            value = values.get(name, low)
            if type(value) is not int or not low <= value <= high:
                raise RecipeInvalid(f"Option {name} is {value!r}; expected {low} to {high}.")
        for name in ("freivalds", "halved_relus"):
            if type(values.get(name, False)) is not bool:
                raise RecipeInvalid(f"Option {name} is true or false.")
        fraction = values.get("leak_fraction", DEFAULT_FRACTION)
        if type(fraction) is not float or not 0 < fraction <= MAX_FRACTION:
            raise RecipeInvalid(
                f"Option leak_fraction is {fraction!r}; expected more than 0.0, at most "
                f"{MAX_FRACTION}."
            )
        options = cls(**values)
        if options.logrows is None and values.keys() & _UNCALIBRATED:
            raise RecipeInvalid(
                f"Options {', '.join(sorted(_UNCALIBRATED))} are for circuits that state logrows.",
                remedy="Have zkserve find them all: tune = true under [engine].",
            )
        return options

    @property
    def input_shift(self) -> int:
        """The scale of inputs."""
        return self.scale if self.input_scale is None else self.input_scale

    def run_args(self, input_mode: InputMode, weights_mode: WeightsMode) -> dict[str, Any]:
        """Return ezkl's run arguments."""
        return {
            "input_visibility": "public" if input_mode is InputMode.PUBLIC else "hashed",
            "param_visibility": weights_mode.value,
            "output_visibility": "public",
            "check_mode": "SAFE",
            "input_scale": self.input_shift,
            "param_scale": self.scale,
            "scale_rebase_multiplier": self.rebase_multiplier,
            "decomp_base": self.decomp_base,
            "decomp_legs": self.decomp_legs,
            "num_inner_cols": self.inner_cols,
            "disable_freivalds": not self.freivalds,
        }


_UNCALIBRATED = frozenset({"input_scale", "lookup_low", "lookup_high"})
_BOUNDS = (
    ("scale", 1, 20),
    ("decomp_base", 16, 1 << 16),
    ("decomp_legs", 2, 10),
    ("inner_cols", 1, 8),
    ("lookup_margin", 1, 64),
    ("max_logrows", 6, 24),
    ("rebase_multiplier", 1, 64),
    ("logrows", 6, 24),
    ("input_scale", 0, 20),
    ("lookup_low", -(1 << 40), 0),
    ("lookup_high", 0, 1 << 40),
    ("batch", 1, 1 << 10),
)
