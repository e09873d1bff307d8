"""What ezkl's ``settings.json`` decides, checked: circuits with a check off are refused."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zkserve.encoding import FIELD_MODULUS, parse_json
from zkserve.errors import BundleMismatch, InputOutOfRange, ModelRejected
from zkserve.types import InputMode, Scale, WeightsMode

_MAX_BYTES = 16 << 20
_MAX_BASE = 1 << 24
_MAX_DIGITS = 16
_UNUSABLE_ROWS = 6
"""Rows at the end of a column that ezkl keeps clear when it counts the columns it needs."""
HASH_ROWS = 41
"""Rows that ezkl counts for each hashed element, beside two for each hash."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The parts of the settings that claims and their checks depend on."""

    input_mode: InputMode
    weights_mode: WeightsMode
    input_scale: int
    output_scale: Scale
    logrows: int
    rows: int
    element_bound: int
    """Magnitudes of quantised inputs stay below this: the circuit's decompositions cover it."""
    constants: int
    """Distinct constants, which in ``fixed`` the weights are among: public, like all of this."""
    instances: int
    """Field elements that each proof shows."""
    outputs: int
    """How many of them, the last ones, are outputs."""
    weights_points: int
    """Points that begin a proof and commit to the weights: a column each; 0 but in polycommit."""
    lookup_range: tuple[int, int] | None
    """Inclusive range of lookup inputs; ``None`` where the circuit has no lookups."""

    @classmethod
    def read(cls, path: Path) -> Settings:
        """Read and check a settings file.

        Raises:
            BundleMismatch: a check is off, or inputs, weights or outputs are not tied to the proof.

        """
        try:
            if path.stat().st_size > _MAX_BYTES:
                raise ValueError("it is too large")
            return cls._parse(parse_json(path.read_bytes()))
        except (KeyError, TypeError, ValueError, IndexError) as exc:
            raise BundleMismatch(f"The circuit's settings cannot be read: {exc!r}.") from exc

    @classmethod
    def _parse(cls, settings: dict[str, Any]) -> Settings:
        run_args = settings["run_args"]
        mode = _input_mode(run_args["input_visibility"])
        weights_mode = _weights_mode(run_args["param_visibility"])
        for name, sound in (
            ("check_mode is SAFE", settings["check_mode"] == run_args["check_mode"] == "SAFE"),
            ("range checks are on", run_args["ignore_range_check_inputs_outputs"] is False),
            ("weights are bound", weights_mode is not None),
            ("outputs are public", run_args["output_visibility"] == "Public"),
            ("inputs are hashed or public", mode is not None),
        ):
            if not sound:
                raise BundleMismatch(
                    f"The circuit's settings are not safe: it does not hold that {name}."
                )
        assert mode is not None  # noqa: S101 (checked above)
        assert weights_mode is not None  # noqa: S101 (checked above)
        (input_scale,), (output_scale,) = (
            settings["model_input_scales"],
            settings["model_output_scales"],
        )
        if input_scale < 0 or output_scale < 0:
            raise BundleMismatch("The circuit's settings have a negative scale.")
        committed = settings["module_sizes"]["polycommit"]
        if bool(committed) != (weights_mode is WeightsMode.POLYCOMMIT) or any(
            type(cells) is not int or cells < 1 for cells in committed
        ):
            raise BundleMismatch(
                f"The circuit's settings commit to {committed} cells in weights mode "
                f"{str(weights_mode)!r}."
            )
        shown = [math.prod(shape) for shape in settings["model_instance_shapes"]]
        (hashes,) = settings["module_sizes"]["poseidon"][1]
        minimum, maximum = run_args["lookup_range"]
        base, digits = run_args["decomp_base"], run_args["decomp_legs"]
        if not (2 <= base <= _MAX_BASE and 1 <= digits <= _MAX_DIGITS):
            raise BundleMismatch(f"The circuit's settings have {digits} digits of base {base}.")
        if 2 * base**digits >= FIELD_MODULUS:
            raise BundleMismatch(
                f"The circuit's settings have {digits} digits of base {base}: they hold more than "
                "the field, so that a number has several spellings and no certain sign."
            )
        return cls(
            input_mode=mode,
            weights_mode=weights_mode,
            input_scale=input_scale,
            output_scale=Scale(multiplier=1, shift=output_scale),
            logrows=run_args["logrows"],
            rows=settings["num_rows"],
            element_bound=base**digits,
            constants=settings["total_const_size"],
            instances=sum(shown) + hashes,
            outputs=shown[-1],
            weights_points=sum(columns_of(cells, run_args["logrows"]) for cells in committed),
            lookup_range=(minimum, maximum) if settings["required_lookups"] else None,
        )

    def check_lookups(self, minimum: int, maximum: int) -> None:
        """Check a witness's extremes: past the table the prover would hang for ever.

        Raises:
            InputOutOfRange: the tables do not cover them.

        """
        if self.lookup_range is None:
            return
        low, high = self.lookup_range
        if minimum < low or maximum > high:
            raise InputOutOfRange(
                f"This input drives a lookup to [{minimum}, {maximum}]; the circuit covers "
                f"[{low}, {high}].",
                remedy="Scale the input as the model expects, or publish a circuit calibrated on "
                "wider samples.",
            )


def columns_of(cells: int, logrows: int) -> int:
    """Return how many columns ezkl takes for cells of one kind: constants, committed weights."""
    usable = (1 << logrows) - _UNUSABLE_ROWS
    blocks = cells // usable + 1
    return (cells + blocks) // usable + 1


def least_rows(settings: dict[str, Any], more_hashed: int = 0) -> int:
    """Return how many rows of one column a circuit needs, however many columns it has.

    All but hashes and instances goes on in further columns. Each hash takes 40 rows an element, one
    for every two elements that it loads, and two; where there are several, this may be one row too
    many for each two of them, since settings tell only how many elements they hash together.

    Args:
        settings: What ``settings.json`` of ezkl holds.
        more_hashed: Elements that are hashed beyond those that the settings count.

    """
    counted, (hashes,) = settings["module_sizes"]["poseidon"]
    elements = (counted - 2 * hashes) // HASH_ROWS + more_hashed
    hash_rows = 40 * elements + (elements + hashes) // 2 + 2 * hashes
    shown = sum(math.prod(shape) for shape in settings["model_instance_shapes"])
    return int(max(hash_rows, shown + hashes))


def fits(rows: int, logrows: int) -> bool:
    """Whether columns of two to the ``logrows`` rows can hold something in so many of them."""
    return rows <= (1 << logrows) - _UNUSABLE_ROWS


def require_rows(settings: dict[str, Any]) -> None:
    """Return if the circuit of a ``settings.json`` fits in the rows that it states.

    Raises:
        ModelRejected: ezkl could make no keys for it.

    """
    logrows = settings["run_args"]["logrows"]
    if not fits(rows := least_rows(settings), logrows):
        raise ModelRejected(
            f"Hashes or public values take {rows} rows; of 2^{logrows} rows "
            f"{(1 << logrows) - _UNUSABLE_ROWS} can be used.",
            remedy="Raise logrows in [engine.options]; where it was tuned, publish with "
            "--update-lock, which searches anew.",
        )


def _hashed(visibility: Any) -> bool:
    return (
        isinstance(visibility, dict)
        and visibility.keys() == {"Hashed"}
        and visibility["Hashed"]["hash_is_public"] is True
    )


def _weights_mode(visibility: Any) -> WeightsMode | None:
    if _hashed(visibility):
        return WeightsMode.HASHED
    named = {"Fixed": WeightsMode.FIXED, "KZGCommit": WeightsMode.POLYCOMMIT}
    return named.get(visibility) if isinstance(visibility, str) else None


def _input_mode(visibility: Any) -> InputMode | None:
    if visibility == "Public":
        return InputMode.PUBLIC
    return InputMode.COMMITTED if _hashed(visibility) else None
