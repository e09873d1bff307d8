"""Child processes that stay for the next call: starting one costs more than many a proof.

Each is confined to the files it was started for, those of one circuit: one that its circuit took
over has nothing to say about another.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

from zkserve.engines.base import Cancelled, Limits, Progress
from zkserve.engines.child import Answer, Child, never_cancelled, no_progress
from zkserve.engines.sandbox import Reach

_Kind = tuple[Reach, tuple[tuple[int, int], ...], Limits]


class WarmChildren:
    """Idle children by what they reach; thread-safe.

    A call takes the idle child of its reach, or starts one: calls at the same time have children of
    their own, and so has a file that was made anew under its name. A child that was killed, timed
    out or cancelled is not kept.

    Args:
        idle: How many stay when nobody calls; the longest idle goes first.
        niceness: Added to the scheduling niceness of each.

    """

    def __init__(self, *, idle: int, niceness: int = 0) -> None:
        self._idle_bound = idle
        self._niceness = niceness
        self._idle: OrderedDict[Child, _Kind] = OrderedDict()
        self._lock = threading.Lock()

    def call(
        self,
        target: str,
        *,
        reach: Reach,
        limits: Limits,
        progress: Progress = no_progress,
        cancelled: Cancelled = never_cancelled,
        **arguments: Any,
    ) -> Answer:
        """Run ``module:function`` in a child of this reach, which is there to read only.

        See :meth:`Child.call` for the errors.
        """
        kind = reach, tuple(map(_identity, reach.readable)), limits
        child = self._take(kind) or Child(limits=limits, niceness=self._niceness, reach=reach)
        try:
            return child.call(target, progress=progress, cancelled=cancelled, **arguments)
        finally:
            self._give_back(child, kind)

    def close(self) -> None:
        """Stop the idle children; the next call starts another."""
        with self._lock:
            children = list(self._idle)
            self._idle.clear()
        for child in children:
            child.close()

    def _take(self, kind: _Kind) -> Child | None:
        with self._lock:
            for child in [child for child, kept in self._idle.items() if kept == kind]:
                del self._idle[child]
                if child.alive:
                    return child
                child.close()
        return None

    def _give_back(self, child: Child, kind: _Kind) -> None:
        if not child.alive:
            child.close()
            return
        surplus = []
        with self._lock:
            self._idle[child] = kind
            while len(self._idle) > self._idle_bound:
                surplus.append(self._idle.popitem(last=False)[0])
        for idle in surplus:
            idle.close()


def _identity(path: Path) -> tuple[int, int]:
    # A child holds on to the file that bore the name when it started.
    found = path.stat()
    return found.st_dev, found.st_ino
