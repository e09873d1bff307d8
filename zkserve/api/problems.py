"""Every error as an RFC 9457 problem: ``application/problem+json``, also what FastAPI raises."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from zkserve.errors import InvalidInput, Unauthorized, Unavailable, ZkserveError

MEDIA_TYPE = "application/problem+json"
URN = "urn:zkserve:error:"
_RETRY_AFTER_S = 5


class FieldError(BaseModel):
    """One thing wrong in a request body, header or parameter; never the value itself."""

    location: str
    message: str


class Problem(BaseModel):
    """What went wrong (RFC 9457), with what to do about it."""

    type: str = Field(description="urn:zkserve:error:<code>", examples=[URN + "invalid-input"])
    title: str
    status: int
    detail: str
    remedy: str | None = Field(default=None, description="What to do next.")
    request_id: str = Field(description="Quote this to whoever runs the service.")
    errors: list[FieldError] | None = None


def responses() -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI entry that says: any error is a problem."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        "default": {
            "description": "A problem (RFC 9457)",
            "content": {MEDIA_TYPE: {"schema": schema}},
        }
    }


def problem(
    request_id: str,
    *,
    status: int,
    code: str,
    title: str,
    detail: str,
    remedy: str | None = None,
    errors: list[FieldError] | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    """Return the response for one problem."""
    body = Problem(
        type=URN + code,
        title=title,
        status=int(status),
        detail=detail,
        remedy=remedy,
        request_id=request_id,
        errors=errors,
    )
    return JSONResponse(
        jsonable_encoder(body, exclude_none=True),
        status_code=int(status),  # a plain number also where logs and metrics print it
        media_type=MEDIA_TYPE,
        headers=headers,
    )


@dataclass(frozen=True, kw_only=True)
class BodyLimit:
    """The most bytes of a body, and the setting that says so."""

    limit_bytes: int
    setting: str


def body_too_large(request_id: str, limit: BodyLimit) -> JSONResponse:
    """Return the 413 for a body over the limit."""
    return problem(
        request_id,
        status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        code="body-too-large",
        title="The request body is too large",
        detail=f"The body has more than the {limit.limit_bytes} bytes that are accepted.",
        remedy=f"Send a smaller body, or ask the operator to raise {limit.setting}.",
    )


def internal_error(request_id: str) -> JSONResponse:
    """Return the 500 for what nobody foresaw; the log has the rest under the request id."""
    return problem(
        request_id,
        status=HTTPStatus.INTERNAL_SERVER_ERROR,
        code="internal",
        title="An unexpected error",
        detail="The service met an error it did not expect. It was logged.",
        remedy="Try again; if it stays, tell the operator the request id.",
    )


class BodyTooLarge(HTTPException):
    """A streamed body grew over the limit while it was read."""

    def __init__(self, limit: BodyLimit) -> None:
        super().__init__(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        self.limit = limit


def install(app: FastAPI) -> None:
    """Make ``app`` answer every error it raises or FastAPI raises for it as a problem."""
    app.add_exception_handler(ZkserveError, _of_zkserve_error)
    app.add_exception_handler(RequestValidationError, _of_validation_error)
    app.add_exception_handler(HTTPException, _of_http_exception)
    app.openapi = partial(_openapi, app)  # type: ignore[method-assign]  # FastAPI's documented way


def _openapi(app: FastAPI) -> dict[str, Any]:
    # Schemas of other media types than a route's own have to be added by hand.
    document = FastAPI.openapi(app)
    schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    found = document["components"]["schemas"]
    found.update({**schema.pop("$defs", {}), "Problem": schema})
    return document


def _of_zkserve_error(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, ZkserveError)  # noqa: S101 - narrows what Starlette dispatches by type
    headers = {}
    if isinstance(exc, Unauthorized):
        headers["WWW-Authenticate"] = 'Bearer realm="zkserve"'
    if isinstance(exc, Unavailable):
        headers["Retry-After"] = str(_RETRY_AFTER_S)
    return problem(
        request.state.request_id,
        status=exc.status,
        code=exc.code,
        title=(type(exc).__doc__ or exc.code).splitlines()[0].removesuffix("."),
        detail=exc.message,
        remedy=exc.remedy,
        headers=headers,
    )


def _of_validation_error(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, RequestValidationError)  # noqa: S101 - as above
    found = exc.errors()
    if any(error["type"] == "json_invalid" for error in found):
        return problem(
            request.state.request_id,
            status=HTTPStatus.BAD_REQUEST,
            code="malformed-json",
            title="The body is not JSON",
            detail=f"The body is not JSON at character {found[0]['loc'][-1]}.",
            remedy="Send JSON with Content-Type: application/json.",
        )
    errors = [
        FieldError(
            location=".".join(str(part) for part in error["loc"])[:200], message=error["msg"]
        )
        for error in found[:20]
    ]
    return problem(
        request.state.request_id,
        status=HTTPStatus.UNPROCESSABLE_ENTITY,
        code=InvalidInput.code,
        title="The request is not of the expected form",
        detail=f"{errors[0].location}: {errors[0].message}.",
        remedy="Compare with /openapi.json; bodies are JSON with Content-Type: application/json.",
        errors=errors,
    )


def _of_http_exception(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, HTTPException)  # noqa: S101 - as above
    if isinstance(exc, BodyTooLarge):
        return body_too_large(request.state.request_id, exc.limit)
    phrase = HTTPStatus(exc.status_code).phrase
    detail = {
        HTTPStatus.NOT_FOUND: f"There is nothing at {request.url.path[:200]!r}.",
        HTTPStatus.METHOD_NOT_ALLOWED: f"{request.method[:20]} is not offered here.",
        HTTPStatus.BAD_REQUEST: "The body cannot be read as JSON.",
    }.get(HTTPStatus(exc.status_code), phrase)
    return problem(
        request.state.request_id,
        status=exc.status_code,
        code=phrase.lower().replace(" ", "-"),
        title=phrase,
        detail=detail,
        remedy="/openapi.json lists what there is.",
        headers=dict(exc.headers) if exc.headers else None,
    )
