"""The ezkl proof system (Halo2 with KZG on BN254) as an engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zkserve.engines.ezkl.engine import EzklEngine

__all__ = ["EzklEngine"]


def __getattr__(name: str) -> Any:
    """Load the engine when it is asked for: a child that runs one step does without."""
    if name != "EzklEngine":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from zkserve.engines.ezkl.engine import EzklEngine

    return EzklEngine
