"""What a child answers, as its parent reads it: the child may have been taken over.

Lines of JSON, matched against their form, bounded in size and depth, with texts that are harmless
to a terminal. See :mod:`zkserve.engines.child` for the protocol.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Any

from zkserve import errors

MAX_REPLY_BYTES = 16 << 20
"""A line; the longest that honest work sends is a verifier's source of a few hundred KiB."""
MAX_PROGRESS = 10_000
"""Phrases in one call."""
MAX_TEXT = 2000
# What became of a child is its parent's to say.
_VERDICTS = (errors.ChildKilled, errors.ChildTimeout, errors.JobCancelled)


class Replies:
    """The lines that come from a pipe."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._begun: list[bytes] = []
        self._begun_bytes = 0

    @property
    def pending(self) -> bool:
        """Whether part of a line came already."""
        return self._begun_bytes > 0

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield what came; wait for something.

        Raises:
            EngineFailed: it is no answer, or too long.
            EOFError: nothing more will come.

        """
        data = os.read(self._pipe, 1 << 20)
        if not data:
            raise EOFError
        *ends, begun = data.split(b"\n")
        for end in ends:
            self._bound(len(end))
            line = b"".join((*self._begun, end))
            self._begun, self._begun_bytes = [], 0
            yield _parse(line)
        self._bound(len(begun))
        self._begun.append(begun)
        self._begun_bytes += len(begun)

    def _bound(self, more_bytes: int) -> None:
        if self._begun_bytes + more_bytes > MAX_REPLY_BYTES:
            raise too_long()


def too_long() -> errors.EngineFailed:
    """Return the error for an answer of more than it may have."""
    return errors.EngineFailed(
        f"The child process answered more than the {MAX_REPLY_BYTES >> 20} MiB it may.",
        remedy="Use a model of smaller inputs and outputs, or a smaller batch.",
    )


def error(kind: str, message: str, remedy: str | None) -> errors.ZkserveError:
    """Return the error that a child names: ours where it is one that a child may raise."""
    message, remedy = printable(message), remedy and printable(remedy)
    known = getattr(errors, kind, None)
    if (
        isinstance(known, type)
        and issubclass(known, errors.ZkserveError)
        and not issubclass(known, _VERDICTS)
    ):
        return known(message, remedy=remedy)
    return errors.EngineFailed(f"The child process failed with {kind}: {message}.")


def printable(text: str) -> str:
    """Return text that may hold names out of a model, harmless to a terminal and short."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:MAX_TEXT])
    return shown if len(text) <= MAX_TEXT else shown + "..."


def _parse(line: bytes) -> dict[str, Any]:
    # Of the parent alone: what a child imports counts as its work. Unlike the standard library's,
    # this parser bounds nesting whatever the recursion limit is.
    from pydantic_core import from_json

    try:
        reply = from_json(line)
        match reply:
            case {"progress": str(phrase), **rest} if not rest:
                return {"progress": printable(phrase)}
            case {"error": {"kind": str(), "message": str(), "remedy": str() | None, **rest}} if (
                not rest and len(reply) == 1
            ):
                return {"error": reply["error"]}
            case {
                "value": _,
                "peak_rss_bytes": int(peak),
                "cpu_s": int() | float() as cpu_s,
                **rest,
            } if not rest and 0 <= peak < 1 << 63 and 0 <= cpu_s < math.inf:
                return dict(reply)
    except ValueError:
        pass
    raise errors.EngineFailed("The child process answered what is no answer.")
