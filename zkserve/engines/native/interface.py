"""What callers of a native circuit need to know: names, shapes and scales, all of it public."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zkserve.errors import InvalidInput
from zkserve.types import Scale, TensorSpec

Cells = NDArray[np.uint16]
Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Interface:
    """How real values become cells of the input tensor, and integers become outputs.

    Input ``i`` of the model, counted through all its inputs in graph order, stands in cell ``i`` of
    the tensor's ``shape`` (channels, height, width) as ``round(x / scale + zero)``, rounded half to
    even in double precision and clamped; ``scales`` and ``zeros`` hold one number, or one for each.
    Raises nothing on values out of range: see :meth:`outside`.
    """

    inputs: tuple[TensorSpec, ...]
    output: TensorSpec
    output_scale: Scale
    rows: int
    shape: tuple[int, int, int]
    input_bytes: int
    scales: tuple[float, ...]
    zeros: tuple[float, ...]

    @property
    def elements(self) -> int:
        """Values of one input."""
        return math.prod(self.shape)

    @cached_property
    def _scales(self) -> NDArray[np.float64]:
        return np.array(self.scales)

    @cached_property
    def _zeros(self) -> NDArray[np.float64]:
        return np.array(self.zeros)

    @property
    def largest(self) -> int:
        """The largest input cell."""
        return (1 << 8 * self.input_bytes) - 1

    def quantise(self, values: Floats) -> Cells:
        """Return cells, shape ``(n, channels, height, width)``, of values ``(n, elements)``.

        Raises:
            InvalidInput: the values have another shape or are not finite.

        """
        cells = np.clip(self._steps(values), 0, self.largest)
        return cells.astype(np.uint16).reshape(-1, *self.shape)

    def outside(self, values: Floats) -> NDArray[np.bool_]:
        """Return for each row whether a value lies more than half a step past the range."""
        steps = self._steps(values)
        return np.asarray(((steps < 0) | (steps > self.largest)).any(axis=1))

    def dequantise(self, cells: NDArray[Any]) -> Floats:
        """Return values, shape ``(n, elements)``, that quantise to these very cells."""
        flat = cells.reshape(-1, self.elements).astype(np.float64)
        return ((flat - self._zeros) * self._scales).astype(np.float32)

    def to_json(self) -> str:
        """Return the interface as canonical JSON."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Interface:
        """Read what :meth:`to_json` wrote."""
        table = json.loads(text)

        def spec(entry: dict[str, Any]) -> TensorSpec:
            return TensorSpec(name=entry["name"], shape=tuple(entry["shape"]), dtype=entry["dtype"])

        return cls(
            inputs=tuple(spec(entry) for entry in table["inputs"]),
            output=spec(table["output"]),
            output_scale=Scale(**table["output_scale"]),
            rows=table["rows"],
            shape=tuple(table["shape"]),
            input_bytes=table["input_bytes"],
            scales=tuple(table["scales"]),
            zeros=tuple(table["zeros"]),
        )

    def _steps(self, values: Floats) -> NDArray[np.float64]:
        if values.ndim != 2 or values.shape[1] != self.elements:
            raise InvalidInput(
                f"Inputs have shape {values.shape}; expected (samples, {self.elements})."
            )
        if not np.isfinite(values).all():
            raise InvalidInput("An input value is not finite.", remedy="Send finite numbers.")
        return np.rint(values.astype(np.float64) / self._scales + self._zeros)
