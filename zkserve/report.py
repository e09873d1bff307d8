"""What preflight found out about a model: plain data, shown as a table, as JSON and over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from zkserve.encoding import canonical_json, parse_json
from zkserve.engines.cost import Estimate
from zkserve.types import InputMode, WeightsMode

Verdict = Literal["supported", "refused", "silently wrong"]


@dataclass(frozen=True, kw_only=True)
class Operator:
    """An operator of the model: where it stands, and what each engine makes of it.

    ``engines`` has a verdict for each engine; one that supports an operator may still refuse a use
    of it, which is then a problem of its ways. ``nodes`` names the first nodes of ``count``.
    """

    name: str
    count: int
    nodes: tuple[str, ...]
    engines: Mapping[str, Verdict]
    why: str
    remedy: str


@dataclass(frozen=True, kw_only=True)
class BatchPrice:
    """What ``size`` predictions in one proof would cost; ``reason`` says why that cannot be, or "".

    ``estimate`` is of the whole proof, the rest of each prediction in it; None where it is unknown.
    """

    size: int
    estimate: Estimate | None = None
    prove_cpu_s_per_prediction: float | None = None
    prove_s_per_prediction: float | None = None
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
class Machine:
    """What seconds and memory are foretold for: cores that may be used, and all memory."""

    cores: int
    memory_bytes: int


@dataclass(frozen=True, kw_only=True)
class Report:
    """What preflight found; ``engine`` is "" where none can prove the model.

    ``fits`` says whether publishing would go through, as far as can be foretold: the way that is
    chosen fits. ``tolerance`` is in units of the output. ``verifier_limit_bytes`` is what a chain
    takes (EIP-170). ``unknown`` says what could not be told, a sentence each.
    """

    model: str
    onnx_sha256: str
    fits: bool
    engine: str
    engine_why: str
    input_mode: InputMode
    tolerance: float
    calibration_samples: int
    held_out_samples: int
    operators: tuple[Operator, ...]
    ways: tuple[Way, ...]
    unknown: tuple[str, ...]
    verifier_limit_bytes: int
    machine: Machine

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data: a field for each of this class."""
        plain: dict[str, Any] = parse_json(canonical_json(asdict(self)))
        return plain

    def to_json(self) -> bytes:
        """Return canonical JSON."""
        return canonical_json(self.to_dict())
