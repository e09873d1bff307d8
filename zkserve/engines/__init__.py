"""Proof systems behind one protocol; nothing outside this package knows field instances."""

from __future__ import annotations

from functools import cache

from zkserve.engines.base import Engine
from zkserve.errors import NotFound

ENGINES = ("native", "ezkl")
"""Names of the engines there are; the first that can prove a model is chosen for it."""


@cache
def engine(name: str) -> Engine:
    """Return the engine called ``name``, one a process: it keeps warm children for predictions.

    Raises:
        NotFound: there is none of that name.

    """
    if name not in ENGINES:
        raise NotFound(f"There is no engine {name!r}.", remedy=f"Use one of: {', '.join(ENGINES)}.")
    # Late, so that a child process loads only the modules of its own step.
    if name == "native":
        from zkserve.engines.native.engine import NativeEngine

        return NativeEngine()
    from zkserve.engines.ezkl import EzklEngine

    return EzklEngine()
