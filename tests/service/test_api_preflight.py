"""Preflight over HTTP: uploads are looked at in children, bounded, and forgotten."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.fakes import FakeEngine
from tests.models import tiny_onnx
from zkserve.api import create_app, preflights
from zkserve.api.service import PreflightTerms
from zkserve.engines.base import Limits
from zkserve.engines.native import core
from zkserve.node import Node
from zkserve.store.queue import JobQueue
from zkserve.store.tables import VersionRow

MODEL = {"Content-Type": "application/octet-stream"}
TERMS = PreflightTerms(max_body_bytes=50_000, limits=Limits(time_s=60, memory_bytes=3 << 30))


@pytest.fixture
async def client(
    node: Node, queue: JobQueue, version: VersionRow, engine: FakeEngine
) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(
        node,
        queue=queue,
        require_api_key=False,
        max_body_bytes=100,
        max_open_jobs=20,
        max_inputs_ahead=9,
        preflight_terms=TERMS,
    )
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as found:
        yield found


@pytest.fixture
def model(tmp_path: Path) -> bytes:
    return tiny_onnx(tmp_path / "uploaded.onnx", hidden=64).read_bytes()


@pytest.fixture
def private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder in which uploads may lie, for a while."""
    folder = tmp_path / "private"
    folder.mkdir()
    monkeypatch.setenv("ZKSERVE_RUNTIME_DIR", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def empty(folder: Path) -> bool:
    return not any(folder.iterdir())


def samples(elements: int = 4) -> bytes:
    rows = np.random.default_rng(1).normal(size=(9, elements))
    file = io.BytesIO()
    np.savez(file, calibration=rows, held_out=rows)
    return file.getvalue()


@pytest.mark.prover
@pytest.mark.skipif(not core.available(), reason="the compiled core is not installed")
async def test_an_uploaded_model_gets_the_report_and_is_forgotten(
    client: httpx.AsyncClient, node: Node, model: bytes, private: Path
):
    answer = await client.post("/v1/preflight", content=model, headers=MODEL, timeout=120)
    assert answer.status_code == 200, answer.text
    report = answer.json()
    assert (report["engine"], report["fits"]) == ("native", True)
    assert report["calibration_samples"] == 0
    assert empty(private)
    with node.database.snapshot() as session:
        assert session.query(VersionRow).count() == 1  # the one that was there before

    files = {"model": ("m.onnx", model), "samples": ("s.npz", samples())}
    answer = await client.post("/v1/preflight", files=files, timeout=120)
    assert answer.status_code == 200, answer.text
    assert answer.json()["calibration_samples"] == 9
    assert empty(private)


@pytest.mark.parametrize(
    ("content", "detail"),
    [
        (b"", "empty"),
        (b"not a model", "not an ONNX model"),
        (b"\x80\x04pickle", "pickle"),
        (b"PK\x03\x04zip", "zip archive"),
    ],
)
async def test_what_is_no_model_is_refused_and_forgotten(
    client: httpx.AsyncClient, private: Path, content: bytes, detail: str
):
    answer = await client.post("/v1/preflight", content=content, headers=MODEL, timeout=60)
    assert answer.status_code == 422
    assert detail in answer.json()["detail"]
    assert str(private) not in answer.text
    assert empty(private)


async def test_broken_samples_are_refused_by_name(
    client: httpx.AsyncClient, private: Path, model: bytes
):
    files = {"model": ("m.onnx", model), "samples": ("s.npz", b"PK but no archive")}
    answer = await client.post("/v1/preflight", files=files, timeout=60)
    assert answer.status_code == 422
    assert "samples.npz" in answer.json()["detail"]
    assert str(private) not in answer.text


@pytest.mark.parametrize(
    "sent",
    [
        {"content": b"{}", "headers": {"Content-Type": "application/json"}},
        {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}},
        {"content": b"x", "headers": {"Content-Type": "multipart/form-data; boundary=a"}},
        {"files": {"other": ("m.onnx", b"x")}},
        {"files": {"model": ("m", b"x"), "samples": ("s", b"x"), "third": ("t", b"x")}},
        {"files": {"samples": ("s", b"x")}},
    ],
)
async def test_bodies_of_another_form_are_refused(
    client: httpx.AsyncClient, private: Path, sent: dict[str, object]
):
    answer = await client.post("/v1/preflight", **sent)  # type: ignore[arg-type]
    assert answer.status_code == 422, answer.text
    assert answer.json()["remedy"]
    assert empty(private)


async def test_models_have_a_limit_of_their_own(client: httpx.AsyncClient, private: Path):
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(60):
            yield bytes(1000)

    for content in (bytes(50_001), pieces()):
        answer = await client.post("/v1/preflight", content=content, headers=MODEL)
        assert answer.status_code == 413
        assert "ZKSERVE_MAX_MODEL_BYTES" in answer.json()["remedy"]
    answer = await client.post("/v2/models/tiny/infer", content=bytes(101), headers=MODEL)
    assert answer.status_code == 413
    assert "ZKSERVE_MAX_BODY_BYTES" in answer.json()["remedy"]
    assert empty(private)


async def test_it_needs_the_key_that_predictions_need(locked: httpx.AsyncClient):
    answer = await locked.post("/v1/preflight", content=b"x", headers=MODEL)
    assert answer.status_code == 401


async def test_one_too_many_is_told_to_come_back_and_all_else_is_served(
    client: httpx.AsyncClient, private: Path, monkeypatch: pytest.MonkeyPatch
):
    begun, go = threading.Event(), threading.Event()

    def look(*_: object) -> object:
        begun.set()
        assert go.wait(30)
        raise finished

    finished = preflights.InvalidInput("done")
    monkeypatch.setattr(preflights, "_look", look)
    first = asyncio.create_task(client.post("/v1/preflight", content=b"x", headers=MODEL))
    assert await asyncio.to_thread(begun.wait, 30)
    second = await client.post("/v1/preflight", content=b"x", headers=MODEL)
    assert second.status_code == 503
    assert int(second.headers["Retry-After"]) > 0
    assert (await client.get("/v2/health/live")).status_code == 200
    go.set()
    assert (await first).status_code == 422
    third = await client.post("/v1/preflight", content=b"x", headers=MODEL)
    assert third.status_code == 422  # its turn was given back


async def test_a_model_that_takes_too_long_is_cut_short(
    node: Node, queue: JobQueue, version: VersionRow, engine: FakeEngine, model: bytes
):
    app = create_app(
        node,
        queue=queue,
        require_api_key=False,
        max_body_bytes=100,
        max_open_jobs=20,
        max_inputs_ahead=9,
        preflight_terms=replace(TERMS, limits=Limits(time_s=0.01)),
    )
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as found:
        answer = await found.post("/v1/preflight", content=model, headers=MODEL, timeout=60)
    assert answer.status_code == 422
    assert "cut short" in answer.json()["detail"]
