"""Places for large uploads: how many may arrive or wait at once, and whether there is room."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from zkserve import log, runtime
from zkserve.errors import Unavailable

_logger = log.get("api")


@dataclass(kw_only=True)
class Place:
    """What one upload holds; ``promised_bytes`` of the runtime folder are not yet written to."""

    tenant: str
    promised_bytes: int


class Places:
    """As many uploads as may arrive or wait at once; the last place is kept for a newcomer.

    So nobody who sends slowly keeps all others out alone.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._held: list[Place] = []

    @contextmanager
    def hold(self, tenant: str, size_bytes: int) -> Iterator[Place]:
        """Hold a place for an upload of at most ``size_bytes``.

        Raises:
            Unavailable: all are held, or there is no room in the runtime folder.

        """
        free = self._count - len(self._held)
        if not free or (free == 1 and any(place.tenant == tenant for place in self._held)):
            raise Unavailable(
                "As many uploads arrive or wait as may.", remedy="Try again in a few seconds."
            )
        promised_bytes = sum(place.promised_bytes for place in self._held)
        try:
            runtime.require_room(promised_bytes + size_bytes, "an upload")
        except Unavailable as exc:
            raise without_room(exc) from exc
        place = Place(tenant=tenant, promised_bytes=size_bytes)
        self._held.append(place)
        try:
            yield place
        finally:
            self._held.remove(place)


def without_room(found: Exception) -> Unavailable:
    """Log what the operator must know, and return what the caller may."""
    _logger.warning("no room for an upload", action="upload_refused", reason=str(found))
    return Unavailable(
        "The service has no room for an upload of this size now.",
        remedy="Try again later, or tell its operator, whose log says what is missing.",
    )
