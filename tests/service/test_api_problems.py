"""Every error is an RFC 9457 problem, and none says more than it should."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from structlog.testing import capture_logs

from tests.bodies import body, tensor
from tests.fakes import FakeEngine
from zkserve.api import create_app
from zkserve.node import Node
from zkserve.store.database import Database
from zkserve.store.queue import JobQueue

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

INFER = "/v2/models/tiny/infer"
JSON = {"Content-Type": "application/json"}


def check(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert problem["type"] == f"urn:zkserve:error:{code}"
    assert problem["status"] == status
    assert problem["title"]
    assert problem["detail"]
    assert problem["remedy"]
    assert problem["request_id"] == response.headers["X-Request-Id"]
    return problem


async def test_unknown_path(http: httpx.AsyncClient) -> None:
    check(await http.get("/nothing"), 404, "not-found")


async def test_unknown_method_names_the_known_ones(http: httpx.AsyncClient) -> None:
    response = await http.put(INFER, json={})
    check(response, 405, "method-not-allowed")
    assert response.headers["Allow"] == "POST"


@pytest.mark.parametrize("content", ["{", "", "{'a': 1}", '{"inputs": [1,]}', '"\\ud8', "\x00"])
async def test_malformed_json(http: httpx.AsyncClient, content: str) -> None:
    response = await http.post(INFER, content=content, headers=JSON)
    if content:
        check(response, 400, "malformed-json")
    else:
        check(response, 422, "invalid-input")


@pytest.mark.parametrize("content", [b"[" * 15_000, b'{"a":' * 3_000, b"\xff\xfe{", b"9" * 5_000])
async def test_json_that_breaks_parsers(http: httpx.AsyncClient, content: bytes) -> None:
    response = await http.post(INFER, content=content, headers=JSON)
    assert response.status_code == 400
    check(response, 400, response.json()["type"].removeprefix("urn:zkserve:error:"))


async def test_another_content_type(http: httpx.AsyncClient) -> None:
    response = await http.post(INFER, content=b"x=1", headers={"Content-Type": "text/plain"})
    check(response, 422, "invalid-input")


async def test_a_body_that_says_it_is_too_large(http: httpx.AsyncClient) -> None:
    response = await http.post(INFER, content=b" " * 20_001, headers=JSON)
    assert "20000" in check(response, 413, "body-too-large")["detail"]


async def test_a_body_that_grows_too_large(http: httpx.AsyncClient) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 10_000_000:
            sent += 1000
            yield b" " * 1000

    response = await http.post(INFER, content=endless(), headers=JSON)
    check(response, 413, "body-too-large")
    assert sent < 100_000, "it must stop reading, not read and then complain"


async def test_a_body_at_the_limit_is_read(http: httpx.AsyncClient) -> None:
    response = await http.post(INFER, content=b" " * 19_999 + b"{", headers=JSON)
    check(response, 400, "malformed-json")


async def test_validation_errors_say_where_and_not_what(http: httpx.AsyncClient) -> None:
    response = await http.post(INFER, json=body(tensor(shape="secret-4711")))
    problem = check(response, 422, "invalid-input")
    assert [error["location"] for error in problem["errors"]] == ["body.inputs.0.shape"]
    assert "secret-4711" not in response.text


async def test_the_unforeseen_shows_no_insides(
    app: FastAPI, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_args: Any, **_kwargs: Any) -> None:
        raise RuntimeError("insides: /etc/passwd")

    monkeypatch.setattr(engine, "predict", broken)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as http:
        with capture_logs() as logs:
            response = await http.post(INFER, json=body())
    check(response, 500, "internal")
    assert "insides" not in response.text
    assert "RuntimeError" not in response.text
    assert [entry["action"] for entry in logs] == ["request_failed", "request"]


async def test_a_database_that_is_down(node: Node, queue: JobQueue, engine: FakeEngine) -> None:
    down = replace(node, database=Database("postgresql://nobody@127.0.0.1:1/none"))
    app = create_app(
        down,
        queue=queue,
        require_api_key=False,
        max_body_bytes=20_000,
        max_open_jobs=20,
        max_inputs_ahead=9,
    )
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as http:
        for path in ("/v2/health/ready", "/v1/models", "/v1/proofs"):
            response = await http.get(path)
            check(response, 503, "unavailable")
            assert int(response.headers["Retry-After"]) > 0
        check(await http.post(INFER, json=body()), 503, "unavailable")
        assert (await http.get("/v2/health/live")).json() == {"live": True}


async def test_request_ids_are_kept_or_made(http: httpx.AsyncClient) -> None:
    kept = await http.get("/v2", headers={"X-Request-Id": "abc-1"})
    assert kept.headers["X-Request-Id"] == "abc-1"
    for bad in ("a b", "x" * 65, "<script>"):
        made = await http.get("/v2", headers={"X-Request-Id": bad})
        assert len(made.headers["X-Request-Id"]) == 32
        assert made.headers["X-Request-Id"] != bad


async def test_logs_hold_no_inputs_and_no_keys(http: httpx.AsyncClient) -> None:
    with capture_logs() as logs:
        await http.post(
            INFER,
            json=body(tensor((47.11, 1.0, 2.0, 3.0))),
            headers={"Authorization": "Bearer zk_prefix_secret"},
        )
        await http.post(INFER, json=body(tensor((47.11, 1.0, 2.0, 3.0))))
        await http.post(INFER, json=body(tensor((4711.0, "47.11", 2.0, 3.0))))
        await http.get("/v1/proofs?secret=4711")
    assert len([entry for entry in logs if entry["action"] == "request"]) == 4
    assert "47" not in str([{**entry, "seconds": 0, "request_id": ""} for entry in logs])
    assert "secret" not in str(logs)


async def test_private_answers_are_not_cached(http: httpx.AsyncClient) -> None:
    for response in (await http.post(INFER, json=body()), await http.get("/v1/proofs")):
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
