"""The compiled core of the native engine: the one place that loads it."""

from __future__ import annotations

import functools
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from zkserve.errors import EngineFailed

VARIANTS = ("_core", "_core_adx", "_core_ifma")
"""The extensions that may be installed: the whole core, compiled for ever newer CPUs."""
_PACKAGE = "zkserve.engines.native."


@functools.cache
def load(variant: str | None = None) -> ModuleType:
    """Return the core: the fastest variant that this CPU runs, or the given one.

    ``variant`` is one of :data:`VARIANTS`, for tests and benchmarks; one that the CPU does not run
    ends the process on the first instruction it lacks.

    Raises:
        EngineFailed: zkserve was installed without it.

    """
    if variant is not None:
        return _import(variant)
    generic = _import("_core")
    fastest = str(generic.supported_variant())
    return _import(fastest) if find_spec(_PACKAGE + fastest) else generic


def available() -> bool:
    """Return whether this installation can make native proofs."""
    try:
        load()
    except EngineFailed:
        return False
    return True


def _import(variant: str) -> ModuleType:
    try:
        return import_module(_PACKAGE + variant)
    except ImportError as exc:
        raise EngineFailed(
            f"The native engine's compiled core is not installed ({variant}: {exc}); without it "
            "native proofs can be verified but not made.",
            remedy="Install a C++17 compiler (g++ or clang++), then run ./setup.sh, or pip install "
            "zkserve again.",
        ) from exc
