"""Child processes that stay for the next call: starting one costs more than many a proof."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

from zkserve.engines.base import Cancelled, Limits, Progress
from zkserve.engines.child import Answer, Child, never_cancelled, no_progress


class WarmChildren:
    """Idle children by what they are warm for; thread-safe.

    A call takes the idle child of its key, or starts one: calls at the same time have children of
    their own. A child that was killed, timed out or cancelled is not kept.

    Args:
        idle: How many stay when nobody calls; the longest idle goes first.
        niceness: Added to the scheduling niceness of each.

    """

    def __init__(self, *, idle: int, niceness: int = 0) -> None:
        self._idle_bound = idle
        self._niceness = niceness
        self._idle: OrderedDict[Child, tuple[Hashable, Limits]] = OrderedDict()
        self._lock = threading.Lock()

    def call(
        self,
        key: Hashable,
        target: str,
        *,
        limits: Limits,
        progress: Progress = no_progress,
        cancelled: Cancelled = never_cancelled,
        **arguments: Any,
    ) -> Answer:
        """Run ``module:function`` in a child of this key; see :meth:`Child.call` for the errors."""
        child = self._take((key, limits)) or Child(limits=limits, niceness=self._niceness)
        try:
            return child.call(target, progress=progress, cancelled=cancelled, **arguments)
        finally:
            self._give_back(child, (key, limits))

    def close(self) -> None:
        """Stop the idle children; the next call starts another."""
        with self._lock:
            children = list(self._idle)
            self._idle.clear()
        for child in children:
            child.close()

    def _take(self, key: tuple[Hashable, Limits]) -> Child | None:
        with self._lock:
            for child in [child for child, kept in self._idle.items() if kept == key]:
                del self._idle[child]
                if child.alive:
                    return child
                child.close()
        return None

    def _give_back(self, child: Child, key: tuple[Hashable, Limits]) -> None:
        if not child.alive:
            child.close()
            return
        surplus = []
        with self._lock:
            self._idle[child] = key
            while len(self._idle) > self._idle_bound:
                surplus.append(self._idle.popitem(last=False)[0])
        for idle in surplus:
            idle.close()
