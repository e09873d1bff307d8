"""Around every request: an id, a body limit, a log line, a metric, and no error left bare."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Mapping

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from zkserve import log
from zkserve.api import problems
from zkserve.api.metrics import Metrics
from zkserve.api.problems import BodyLimit

_logger = log.get("api")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_UNMATCHED = "unmatched"


class Edge:
    """The outermost layer of the application."""

    def __init__(
        self, app: ASGIApp, *, metrics: Metrics, limit: BodyLimit, limits: Mapping[str, BodyLimit]
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._limit = limit
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        limit = self._limits.get(scope["path"], self._limit)
        status, read_bytes = 0, 0
        started_s = time.perf_counter()

        async def limited_receive() -> Message:
            nonlocal read_bytes
            message = await receive()
            read_bytes += len(message.get("body", b""))
            if read_bytes > limit.limit_bytes:
                raise problems.BodyTooLarge(limit)
            return message

        async def marked_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                answer = MutableHeaders(scope=message)
                answer["X-Request-Id"] = request_id
                answer["X-Content-Type-Options"] = "nosniff"
                answer.setdefault("Cache-Control", "no-store")
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                length = headers.get("content-length", "")
                if length.isdecimal() and int(length) > limit.limit_bytes:
                    refusal = problems.body_too_large(request_id, limit)
                    await refusal(scope, receive, marked_send)
                else:
                    await self._app(scope, limited_receive, marked_send)
            except Exception:
                # Nothing may leave here: the server would log it with less and answer in text.
                _logger.exception("request failed", action="request_failed")
                if status:
                    raise  # mid-answer: only cutting the connection tells the caller
                await problems.internal_error(request_id)(scope, receive, marked_send)
            finally:
                self._record(scope, status, time.perf_counter() - started_s)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        # The template, not the path: paths have no end, and labels must.
        route = getattr(scope.get("route"), "path", _UNMATCHED)
        method = scope["method"] if route != _UNMATCHED else "any"
        self._metrics.http.labels(method, route, str(status)).observe(seconds)
        _logger.info(
            "request",
            action="request",
            method=method,
            route=route,
            status=status,
            seconds=round(seconds, 4),
        )
