"""One child for many calls: starting one takes a third of a second."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from zkserve.engines.base import Limits
from zkserve.engines.child import Answer, Child
from zkserve.engines.sandbox import Reach

LIMITS = Limits(time_s=60, memory_bytes=1 << 30)
MODULES = (
    *("engines.native.engine", "engines.ezkl.engine", "engines.agreement"),
    *("preflight", "budgets"),
)


@contextmanager
def one_child(folder: Path) -> Iterator[Callable[[], Child]]:
    """Let all that starts a child use one and the same, confined to a folder.

    Yields what returns that child, or the next one where it died. The slow tests start children as
    the product does.
    """
    held: list[Child] = []

    def ready() -> Child:
        if not held or not held[-1].alive:
            held.append(Child(limits=LIMITS, reach=Reach(readable=(folder,))))
            held[-1].call("zkserve.engines.native.core:available")  # it stands once it answers
        return held[-1]

    def run_child(
        target: str, *, limits: Limits, reach: Reach | None = None, niceness: int = 0, **rest: Any
    ) -> Answer:
        assert reach is not None, f"{target} reads what is untrusted, and is not confined"
        return ready().call(target, **rest)

    try:
        with pytest.MonkeyPatch.context() as patch:
            for module in MODULES:
                patch.setattr(f"zkserve.{module}.run_child", run_child)
            ready()
            yield ready
    finally:
        for child in held:
            child.close()
