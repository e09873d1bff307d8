"""What a recipe may ask of the ezkl engine, and what it may not."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from zkserve.engines.base import CircuitPlan
from zkserve.errors import RecipeInvalid
from zkserve.types import InputMode, WeightsMode

_REFUSED_WEIGHTS = {
    "private": "private weights are bound by nothing: any weights would verify",
    "fixed": "fixed weights lie in an unblinded column, of which each proof reveals an evaluation",
    "polycommit": "committed weights lie in an unblinded column, of which each proof reveals an "
    "evaluation",
}


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

    @classmethod
    def of(cls, plan: CircuitPlan) -> Options:
        """Read the options of a plan.

        Raises:
            RecipeInvalid: an option or a mode is unknown, refused, or out of its bounds.

        """
        weights = str(plan.weights_mode)
        if weights != WeightsMode.HASHED:
            reason = _REFUSED_WEIGHTS.get(weights, "it is unknown")
            raise RecipeInvalid(
                f"Weights mode {weights!r} is refused: {reason}.",
                remedy='Use weights mode "hashed".',
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
        return cls(**values)

    def run_args(self, input_mode: InputMode) -> dict[str, Any]:
        """Return ezkl's run arguments."""
        return {
            "input_visibility": "public" if input_mode is InputMode.PUBLIC else "hashed",
            "param_visibility": "hashed",
            "output_visibility": "public",
            "check_mode": "SAFE",
            "input_scale": self.scale,
            "param_scale": self.scale,
            "decomp_base": self.decomp_base,
            "decomp_legs": self.decomp_legs,
            "num_inner_cols": self.inner_cols,
        }


_BOUNDS = (
    ("scale", 1, 20),
    ("decomp_base", 16, 1 << 16),
    ("decomp_legs", 2, 10),
    ("inner_cols", 1, 8),
    ("lookup_margin", 1, 64),
    ("max_logrows", 6, 24),
)
