"""What a circuit would cost, told before anything is made: sums of measured terms.

Each engine names the sizes of a circuit that cost something (its *terms*) and keeps, in a
``cost.json`` beside its code, what one of each costs. ``benchmarks/cost_model.py`` measures
circuits, fits these coefficients and writes the files; they were taken on one machine, so seconds
are scaled by how fast this one does the same small work.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from zkserve.types import LeakBudget

Coefficients = Mapping[str, Mapping[str, float]]
"""For each quantity, what one of each term adds to it."""
Terms = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a circuit would take; seconds on this machine, of one proof of ``batch`` predictions.

    ``k`` is log2 of the circuit's length, rows and padding. ``prove_cpu_s`` is the time of all
    threads together. Memory is what a child holds at its peak.
    ``gas`` is that of a whole transaction which only verifies. ``verifier_bytes`` is the deployed
    code. ``exact`` names what follows from the circuit's form; the rest comes from measured
    circuits. ``facts`` are the engine's own sizes.
    """

    rows: int
    k: int
    batch: int
    prove_cpu_s: float
    prove_s: float
    prove_memory_bytes: int
    setup_cpu_s: float
    setup_s: float
    setup_memory_bytes: int
    proving_key_bytes: int
    verifying_key_bytes: int
    srs_bytes: int
    proof_bytes: int
    gas: int
    verifier_bytes: int
    exact: tuple[str, ...]
    extrapolated: bool
    """Whether no circuit of this kind and size was measured."""
    objections: tuple[str, ...] = ()
    """Why the engine would refuse to make it all the same, a sentence each."""
    leak: LeakBudget | None = None
    """Where the weights mode leaks; how many proofs it allows."""
    facts: Mapping[str, int | float] = field(default_factory=lambda: MappingProxyType({}))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        lists = {"exact": list(self.exact), "objections": list(self.objections)}
        plain = {**lists, "facts": dict(self.facts)}
        return {**asdict(replace(self, facts={})), **plain}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Estimate:
        """Return what :meth:`to_dict` gave."""
        leak = LeakBudget(**data["leak"]) if data["leak"] else None
        lists = {name: tuple(data[name]) for name in ("exact", "objections")}
        return cls(**{**data, **lists, "leak": leak})


@dataclass(frozen=True, kw_only=True)
class CostModel:
    """Measured coefficients of one engine, and the speed of the machine they are from.

    ``yardstick_cpu_s`` is what the engine's small piece of work took there. ``serial`` is the
    share of CPU seconds that one thread alone has to spend, in proofs; set-ups are taken to be
    like them.
    """

    coefficients: Coefficients
    yardstick_cpu_s: float
    serial: float

    @classmethod
    def read(cls, path: Path) -> CostModel:
        """Read a ``cost.json``."""
        data = json.loads(path.read_bytes())
        return cls(
            coefficients=data["coefficients"],
            yardstick_cpu_s=data["yardstick_cpu_s"],
            serial=data["serial"],
        )

    def __call__(self, quantity: str, terms: Terms) -> float:
        """Return a quantity of a circuit of these terms."""
        return sum(each * terms[name] for name, each in self.coefficients[quantity].items())

    def size(self, quantity: str, terms: Terms) -> int:
        """Return a quantity that is a whole number."""
        return round(self(quantity, terms))

    def seconds(
        self, quantity: str, terms: Terms, *, yardstick_cpu_s: float, threads: int
    ) -> tuple[float, float]:
        """Return CPU seconds and wall seconds here, where the yardstick takes so long."""
        cpu_s = self(quantity, terms) * yardstick_cpu_s / self.yardstick_cpu_s
        wall_s = cpu_s * (self.serial + (1 - self.serial) / threads)
        return round(cpu_s, 3), round(wall_s, 3)
