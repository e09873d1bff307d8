"""Which engine proves a model where nobody said: the first that can."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from zkserve.engines import engine
from zkserve.errors import ModelRejected


@dataclass(frozen=True, kw_only=True)
class Choice:
    """An engine, why it is that one, and what those before it object to, a sentence each."""

    engine: str
    why: str
    objections: Mapping[str, tuple[str, ...]]


def objections_of(name: str, model: Path) -> tuple[str, tuple[str, ...]]:
    """Return an engine's name and why it cannot prove an untrusted ONNX file; nothing if it can."""
    return name, engine(name).unsupported(model)


def choose(found: Iterable[tuple[str, tuple[str, ...]]]) -> Choice:
    """Return the first engine without objections; what comes after it is not asked for.

    Raises:
        ModelRejected: there is none.

    """
    objections: dict[str, tuple[str, ...]] = {}
    for name, said in found:
        if not said:
            passed = (f"{other} cannot: {first}" for other, (first, *_) in objections.items())
            why = "; ".join(passed).rstrip(".") or "it can prove all that the model needs"
            return Choice(engine=name, why=why, objections=objections)
        objections[name] = said
    reasons = {first for first, *_ in objections.values()}
    if len(reasons) == 1:
        raise ModelRejected(
            f"No engine can prove this model: {reasons.pop()}",
            remedy="Correct it and export it again; docs/engines.md says what engines take.",
        )
    raise ModelRejected(
        "No engine can prove this model: "
        + " ".join(f"{name}: {first}" for name, (first, *_) in objections.items()),
        remedy="Export it with operators that one of them supports.",
    )
