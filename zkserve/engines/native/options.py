"""What a recipe may ask of the native compiler, under ``[engine.options]``."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from zkserve.errors import RecipeInvalid

_ALLOWED: dict[str, tuple[Any, ...]] = {
    "activations": (8, 16),
    "output": ("requantised", "raw"),
    "per_channel": (False, True),
    "weight_bytes": (1, 2),
    "input_bytes": (0, 1, 2),
    "calibration": ("minmax", "percentile"),
    "batch": (1, 1 << 16),
    "k": (0, *range(9, 25)),
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a model becomes a circuit; the defaults fit a classifier.

    Args:
        activations: Bits of an activation. 16 costs more proving time and gas, allows no function
            tables, and brings regressions within small tolerances.
        output: ``requantised`` activations, or ``raw`` accumulators, which are finer and leak more
            of the weights.
        per_channel: One multiplier an output channel instead of one an equation; each is public and
            costs 4 bytes a proof.
        weight_bytes: Bytes of a weight's magnitude; they cost time at registration only.
        input_bytes: Bytes of an input value; 0 takes 1 for images and 2 for tables.
        calibration: Ranges from the extremes seen, or without the outermost 0.01 %.
        batch: Predictions in one proof.
        k: log2 of the cells of a tile; 0 weighs proving time against gas.

    """

    activations: int = 8
    output: str = "requantised"
    per_channel: bool = False
    weight_bytes: int = 2
    input_bytes: int = 0
    calibration: str = "minmax"
    batch: int = 1
    k: int = 0

    @classmethod
    def read(cls, options: Mapping[str, int | float | str | bool]) -> Options:
        """Check the options of a recipe.

        Raises:
            RecipeInvalid: a key is unknown or its value not allowed.

        """
        known = [field.name for field in fields(cls)]
        for key, value in options.items():
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                raise RecipeInvalid(
                    f"The native engine has no option {key!r}.",
                    remedy=f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(known)}.",
                )
            _check(key, value)
        return cls(**options)  # type: ignore[arg-type]

    @property
    def activation_bytes(self) -> int:
        """Bytes of an activation."""
        return self.activations // 8


def _check(key: str, value: object) -> None:
    allowed = _ALLOWED[key]
    right_kind = type(value) is type(allowed[0])
    if key == "batch":
        low, high = allowed
        if not isinstance(value, int) or not right_kind or not low <= value <= high:
            raise RecipeInvalid(f"The option batch runs from {low} to {high}; got {value!r}.")
    elif not right_kind or value not in allowed:
        raise RecipeInvalid(f"The option {key} is one of {list(allowed)}; got {value!r}.")
