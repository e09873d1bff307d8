"""One connection to a service: requests repeated when the line breaks, problems as our errors."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx

from zkserve.encoding import parse_json
from zkserve.errors import InvalidInput, NotFound, Unauthorized, Unavailable, ZkserveError

BACK_OFF_S = 0.25
_ATTEMPTS = 4
_URN = "urn:zkserve:error:"
_MAX_TEXT = 2000
_T = TypeVar("_T")


class Connection:
    """A pool of connections to one base URL; ``repr`` shows no key and no password."""

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None,
        timeout_s: float,
        transport: httpx.BaseTransport | None,
    ) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        try:
            self._http = httpx.Client(
                base_url=base_url, headers=headers, timeout=timeout_s, transport=transport
            )
        except httpx.InvalidURL as exc:
            raise InvalidInput(
                "The service's URL is malformed.", remedy="Give one like http://host:8000."
            ) from exc
        self._timeout_s = timeout_s
        self._has_key = bool(api_key)

    def __repr__(self) -> str:
        key = ", api_key='zk_…'" if self._has_key else ""
        return f"{self.shown_url!r}{key}"

    @property
    def shown_url(self) -> str:
        """The base URL without user, password or path."""
        url = self._http.base_url
        return f"{url.scheme}://{url.netloc.decode()}"

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def json(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Send a request, again if need be, and return the JSON object that answers it.

        Raises:
            InvalidInput: ``body`` cannot be written as JSON.
            ZkserveError: whatever the service raised.
            Unavailable: there was no answer.

        """
        try:
            content = json.dumps(body, allow_nan=False).encode() if body is not None else None
        except (TypeError, ValueError) as exc:
            raise InvalidInput(
                "The inputs hold something else than finite numbers.",
                remedy="Give numbers, flat or nested in lists; no NaN and no infinities.",
            ) from exc
        sent = dict(headers or {})
        if content is not None:
            sent["Content-Type"] = "application/json"

        def send() -> dict[str, Any]:
            response = self._http.request(method, path, content=content, headers=sent, params=query)
            _raise_for_status(response)
            return _json_object(response)

        return self.repeated(send)

    def upload(self, path: str, files: Mapping[str, bytes], *, timeout_s: float) -> dict[str, Any]:
        """Send files as a form, again if need be, and return the JSON object that answers it.

        Raises:
            ZkserveError: whatever the service raised.
            Unavailable: there was no answer within ``timeout_s``.

        """

        def send() -> dict[str, Any]:
            try:
                response = self._http.post(path, files=files, timeout=timeout_s)
            except httpx.TimeoutException as exc:
                # Not repeated: the service would only begin anew.
                raise Unavailable(
                    f"{self.shown_url} did not answer within {timeout_s:g} s.",
                    remedy="Allow more time, or try again later.",
                ) from exc
            _raise_for_status(response)
            return _json_object(response)

        return self.repeated(send)

    @contextmanager
    def stream(
        self,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        silence_s: float | None = None,
    ) -> Iterator[httpx.Response]:
        """Open a GET whose body is read bit by bit; not repeated by itself.

        Raises:
            ZkserveError: whatever the service raised.
            httpx.TransportError: the line broke, or was silent for longer than ``silence_s``.

        """
        timeout = httpx.Timeout(self._timeout_s, read=silence_s or self._timeout_s)
        with self._http.stream("GET", path, headers=headers, timeout=timeout) as response:
            if not response.is_success:
                response.read()
                _raise_for_status(response)
            yield response

    def repeated(self, send: Callable[[], _T]) -> _T:
        """Call ``send`` until the line holds, a few times at most.

        Raises:
            Unavailable: it never held.

        """
        failure: httpx.TransportError | None = None
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(BACK_OFF_S * 2**attempt)
            try:
                return send()
            except httpx.TransportError as exc:
                failure = exc
        raise Unavailable(
            f"{self.shown_url} did not answer ({type(failure).__name__}, {_ATTEMPTS} attempts).",
            remedy="Check the URL, and that the service runs: `zkserve serve`.",
        ) from failure


def _json_object(response: httpx.Response) -> dict[str, Any]:
    try:
        data = parse_json(response.content)
    except ValueError as exc:
        raise ZkserveError(f"{response.url.path} did not answer with JSON.") from exc
    if not isinstance(data, dict):
        raise ZkserveError(f"{response.url.path} answered with no JSON object.")
    return data


def _raise_for_status(response: httpx.Response) -> None:
    if response.is_success:
        return
    try:
        problem = parse_json(response.content)
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        problem = {}
    code = str(problem.get("type", "")).removeprefix(_URN)
    kind = {found.code: found for found in _error_classes(ZkserveError)}.get(code)
    if kind is None:
        kind = _of_status(response.status_code)
    detail = problem.get("detail") or f"The service answered {response.status_code}."
    remedy = problem.get("remedy")
    raise kind(str(detail)[:_MAX_TEXT], remedy=str(remedy)[:_MAX_TEXT] if remedy else None)


def _error_classes(base: type[ZkserveError]) -> Iterator[type[ZkserveError]]:
    yield base
    for derived in base.__subclasses__():
        yield from _error_classes(derived)


def _of_status(status: int) -> type[ZkserveError]:
    known = {401: Unauthorized, 404: NotFound, 502: Unavailable, 503: Unavailable, 504: Unavailable}
    return known.get(status, InvalidInput if 400 <= status < 500 else ZkserveError)
