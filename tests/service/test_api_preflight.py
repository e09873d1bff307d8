"""Preflight over HTTP: uploads are looked at in children, bounded, and forgotten."""

from __future__ import annotations

import asyncio
import io
import os
import re
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from fastapi import FastAPI
from pydantic import TypeAdapter

from tests.fakes import FakeEngine
from tests.models import tiny_onnx
from tests.serving import running
from zkserve import runtime
from zkserve.api import create_app, preflights, uploads
from zkserve.api.examples import REPORT
from zkserve.api.service import PreflightTerms
from zkserve.client import Client
from zkserve.engines.base import Limits
from zkserve.engines.native import core
from zkserve.errors import InvalidInput
from zkserve.node import Node
from zkserve.recipe import Recipe
from zkserve.report import Report
from zkserve.store import keys
from zkserve.store.queue import JobQueue
from zkserve.store.tables import VersionRow
from zkserve.types import InputMode, WeightsMode

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

MODEL = {"Content-Type": "application/octet-stream"}
UPLOADS = 3
TERMS = PreflightTerms(
    max_body_bytes=50_000, uploads=UPLOADS, limits=Limits(time_s=60, memory_bytes=3 << 30)
)


@pytest.fixture
def make_app(
    node: Node, queue: JobQueue, version: VersionRow, engine: FakeEngine
) -> Callable[[PreflightTerms], FastAPI]:
    def make(terms: PreflightTerms) -> FastAPI:
        return create_app(
            node,
            queue=queue,
            require_api_key=False,
            max_body_bytes=100,
            max_open_jobs=20,
            max_inputs_ahead=9,
            preflight_terms=terms,
        )

    return make


@pytest.fixture
def app(make_app: Callable[[PreflightTerms], FastAPI]) -> FastAPI:
    return make_app(TERMS)


def talking_to(app: FastAPI) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app)
    return httpx.AsyncClient(transport=transport, base_url="http://service")


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with talking_to(app) as found:
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


EXACT = TypeAdapter(Report)
"""What the OpenAPI document says of an answer."""


def fields(plain: Any) -> Any:
    """Return the names in plain data, those of all members of a list together."""
    if isinstance(plain, dict):
        return {name: fields(value) for name, value in plain.items() if name != "facts"}
    found: Any = None
    for member in plain if isinstance(plain, list) else ():
        found = joined(found, fields(member))
    return found


def joined(one: Any, other: Any) -> Any:
    if isinstance(one, dict) and isinstance(other, dict):
        return {name: joined(one.get(name), other.get(name)) for name in one | other}
    return one or other


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
    assert fields(report) == fields(REPORT)
    assert EXACT.validate_python(report)
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


async def test_models_have_a_limit_of_their_own_and_no_more_is_read(
    client: httpx.AsyncClient, private: Path
):
    sent: list[int] = []

    async def pieces() -> AsyncIterator[bytes]:
        for number in range(1000):
            sent.append(number)
            yield bytes(1000)

    for declared in ({}, {"Content-Length": "1000000"}):
        sent.clear()
        answer = await client.post("/v1/preflight", content=pieces(), headers=MODEL | declared)
        assert answer.status_code == 413
        assert "ZKSERVE_MAX_MODEL_BYTES" in answer.json()["remedy"]
        assert len(sent) < 3 if declared else 50 <= len(sent) < 53
    answer = await client.post("/v2/models/tiny/infer", content=bytes(101), headers=MODEL)
    assert answer.status_code == 413
    assert "ZKSERVE_MAX_BODY_BYTES" in answer.json()["remedy"]
    assert empty(private)


async def test_it_needs_the_key_that_predictions_need(locked: httpx.AsyncClient):
    answer = await locked.post("/v1/preflight", content=b"x", headers=MODEL)
    assert answer.status_code == 401


class Slow:
    """A body that stops half-way until it is told to go on."""

    def __init__(self) -> None:
        self.begun, self.go = asyncio.Event(), asyncio.Event()

    async def __call__(self) -> AsyncIterator[bytes]:
        yield b"half"
        self.begun.set()
        await self.go.wait()
        yield b"all"


async def slowly(
    client: httpx.AsyncClient, **options: Any
) -> tuple[Slow, asyncio.Task[httpx.Response]]:
    """Begin an upload that stays where it is."""
    body = Slow()
    headers = MODEL | options.pop("headers", {})
    post = client.post("/v1/preflight", content=body(), headers=headers, **options)
    task = asyncio.create_task(post)
    await asyncio.wait_for(body.begun.wait(), 30)
    return body, task


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What was looked at, in turn; every look ends in an error."""
    found: list[bytes] = []

    def look(service: object, upload: uploads.Upload, gone: threading.Event) -> Report:
        found.append(upload.model.read_bytes())
        raise InvalidInput("seen")

    monkeypatch.setattr(preflights, "_look", look)
    return found


async def test_who_sends_slowly_has_no_turn_yet(
    client: httpx.AsyncClient, private: Path, seen: list[bytes]
):
    body, slow = await slowly(client)
    for content in (b"second", b"third"):
        answer = await client.post("/v1/preflight", content=content, headers=MODEL)
        assert answer.json()["detail"] == "seen"
    assert not slow.done()
    body.go.set()
    assert (await slow).json()["detail"] == "seen"
    assert seen == [b"second", b"third", b"halfall"]
    assert empty(private)


async def test_what_is_there_waits_for_its_turn_and_all_else_is_served(
    app: FastAPI, client: httpx.AsyncClient, private: Path, monkeypatch: pytest.MonkeyPatch
):
    begun, go = threading.Event(), threading.Event()
    at_once: list[int] = []

    def look(*_: object) -> Report:
        at_once.append(app.state.service.preflights.borrowed_tokens)
        begun.set()
        assert go.wait(30)
        raise InvalidInput("seen")

    monkeypatch.setattr(preflights, "_look", look)
    first = asyncio.create_task(client.post("/v1/preflight", content=b"x", headers=MODEL))
    assert await asyncio.to_thread(begun.wait, 30)
    second = asyncio.create_task(client.post("/v1/preflight", content=b"x", headers=MODEL))
    waiting = app.state.service.preflights.statistics
    await asyncio.to_thread(until, lambda: waiting().tasks_waiting)
    # The last place is not for who holds two.
    third = await client.post("/v1/preflight", content=b"x", headers=MODEL)
    assert third.status_code == 503
    assert int(third.headers["Retry-After"]) > 0
    assert (await client.get("/v2/health/live")).status_code == 200
    go.set()
    for task in (first, second):
        assert (await task).json()["detail"] == "seen"
    assert at_once == [1, 1]
    fourth = await client.post("/v1/preflight", content=b"x", headers=MODEL)
    assert fourth.json()["detail"] == "seen"  # turns and places were given back


async def test_nobody_waits_for_ever(
    make_app: Callable[[PreflightTerms], FastAPI], monkeypatch: pytest.MonkeyPatch
):
    begun, go = threading.Event(), threading.Event()

    def look(*_: object) -> Report:
        begun.set()
        assert go.wait(30)
        raise InvalidInput("seen")

    monkeypatch.setattr(preflights, "_look", look)
    async with talking_to(make_app(replace(TERMS, limits=Limits(time_s=0.05)))) as client:
        first = asyncio.create_task(client.post("/v1/preflight", content=b"x", headers=MODEL))
        assert await asyncio.to_thread(begun.wait, 30)
        second = await client.post("/v1/preflight", content=b"x", headers=MODEL)
        assert second.status_code == 503
        assert "Others were looked at" in second.json()["detail"]
        go.set()
        assert (await first).json()["detail"] == "seen"


async def test_one_caller_cannot_hold_all_places(
    client: httpx.AsyncClient, node: Node, seen: list[bytes], private: Path
):
    held = [await slowly(client) for _ in range(UPLOADS - 1)]
    refused = await client.post("/v1/preflight", content=b"more", headers=MODEL)
    assert refused.status_code == 503
    with node.database.session() as session:
        key = {"Authorization": f"Bearer {keys.create(session, 'another')}"}
    answer = await client.post("/v1/preflight", content=b"another", headers=MODEL | key)
    assert answer.json()["detail"] == "seen"
    held.append(await slowly(client, headers=key))
    with node.database.session() as session:
        late = {"Authorization": f"Bearer {keys.create(session, 'late')}"}
    refused = await client.post("/v1/preflight", content=b"more", headers=MODEL | late)
    assert refused.status_code == 503
    assert refused.json()["detail"].startswith("As many uploads")
    for body, task in held:
        body.go.set()
        assert (await task).json()["detail"] == "seen"
    assert seen[0] == b"another"
    assert empty(private)


async def test_there_must_be_room_before_anything_is_read(
    client: httpx.AsyncClient, private: Path, seen: list[bytes], monkeypatch: pytest.MonkeyPatch
):
    read: list[bytes] = []

    async def body() -> AsyncIterator[bytes]:
        read.append(b"x")
        yield b"x"

    def free(size_bytes: int) -> None:
        monkeypatch.setattr(runtime, "free_bytes", lambda *_: runtime.MARGIN_BYTES + size_bytes)

    for declared in ({"Content-Length": "30000"}, {}):
        free(29_999 if declared else TERMS.max_body_bytes - 1)
        answer = await client.post("/v1/preflight", content=body(), headers=MODEL | declared)
        assert answer.status_code == 503
        assert "no room" in answer.json()["detail"]
        assert str(private) not in answer.text
        assert read == []
        free(30_000 if declared else TERMS.max_body_bytes)
        answer = await client.post("/v1/preflight", content=body(), headers=MODEL | declared)
        assert answer.json()["detail"] == "seen"
        read.clear()


async def test_room_that_is_promised_to_one_is_not_given_to_another(
    client: httpx.AsyncClient, seen: list[bytes], monkeypatch: pytest.MonkeyPatch
):
    free_bytes = runtime.MARGIN_BYTES + TERMS.max_body_bytes + 4
    monkeypatch.setattr(runtime, "free_bytes", lambda *_: free_bytes)
    body, slow = await slowly(client)
    refused = await client.post("/v1/preflight", content=b"fives", headers=MODEL)
    assert refused.status_code == 503
    answer = await client.post("/v1/preflight", content=b"four", headers=MODEL)
    assert answer.json()["detail"] == "seen"
    body.go.set()
    await slow


async def test_a_folder_that_fills_up_meanwhile_is_said(
    client: httpx.AsyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "model.onnx").symlink_to("/dev/full")

    @contextmanager
    def full() -> Iterator[Path]:
        yield tmp_path / "full"

    monkeypatch.setattr(runtime, "private_folder", full)
    for sent in ({"content": b"x", "headers": MODEL}, {"files": {"model": ("m.onnx", b"x")}}):
        answer = await client.post("/v1/preflight", **sent)  # type: ignore[arg-type]
        assert answer.status_code == 503
        assert "no room" in answer.json()["detail"]


async def test_a_body_has_so_long_to_arrive(
    client: httpx.AsyncClient, private: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(uploads, "TIME_S", 0.05)
    _, slow = await slowly(client)
    answer = await slow
    assert answer.status_code == 422
    assert "did not arrive" in answer.json()["detail"]
    assert empty(private)


async def test_a_model_that_takes_too_long_is_cut_short(
    make_app: Callable[[PreflightTerms], FastAPI], model: bytes, private: Path
):
    async with talking_to(make_app(replace(TERMS, limits=Limits(time_s=0.01)))) as found:
        answer = await found.post("/v1/preflight", content=model, headers=MODEL, timeout=60)
    assert answer.status_code == 422
    assert "cut short" in answer.json()["detail"]
    assert empty(private)


RECIPE = b"""
name = "mine"
description = "A model."
[[inputs]]
name = "x"
shape = [1, 4]
[output]
name = "y"
shape = [1, 2]
tolerance = 0.5
[visibility]
input = "public"
weights = "fixed"
[engine]
name = "ezkl"
options = { scale = 9 }
"""


async def test_a_recipe_says_what_is_asked(
    client: httpx.AsyncClient, private: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: list[Recipe] = []

    def look(recipe: Recipe, **_: object) -> Report:
        asked.append(recipe)
        assert recipe.source.read_bytes() == b"model"
        assert recipe.samples_path
        assert recipe.samples_path.read_bytes() == b"{}"
        raise InvalidInput("seen")

    monkeypatch.setattr(preflights, "preflight", look)
    files = {"model": b"model", "samples": b"{}", "recipe": RECIPE}
    answer = await client.post("/v1/preflight", files=files)
    assert answer.json()["detail"] == "seen"
    (found,) = asked
    assert (found.engine, found.weights_mode) == ("ezkl", WeightsMode.FIXED)
    assert (found.input_mode, found.tolerance) == (InputMode.PUBLIC, 0.5)
    assert dict(found.options) == {"scale": 9}
    assert found.name == "mine"


@pytest.mark.parametrize(
    ("recipe", "detail"),
    [
        (b"", "recipe.toml lacks"),
        (b"= nothing", "recipe.toml is not TOML"),
        (RECIPE + b"colour = 1", "unknown key 'engine.colour'"),
        (RECIPE.replace(b"[[inputs]]", b'samples = "../../secret"\n[[inputs]]'), "leads out of"),
        (RECIPE.replace(b'"ezkl"', b'"native"'), "only ezkl has it"),
        (b"#" * 40_000, "at most 32768"),
    ],
)
async def test_a_broken_recipe_is_refused_and_no_path_is_told(
    client: httpx.AsyncClient, private: Path, model: bytes, recipe: bytes, detail: str
):
    answer = await client.post("/v1/preflight", files={"model": model, "recipe": recipe})
    assert answer.status_code == 422
    assert detail in answer.json()["detail"]
    assert str(private) not in answer.text
    assert empty(private)


async def test_the_answer_is_described_and_its_example_is_one(client: httpx.AsyncClient):
    document = (await client.get("/openapi.json")).json()
    operation = document["paths"]["/v1/preflight"]["post"]
    content = operation["responses"]["200"]["content"]["application/json"]
    assert content["schema"] == {"$ref": "#/components/schemas/Report"}
    assert EXACT.validate_python(content["example"])
    # FastAPI leaves out of an example what is null in it; the leaking way has nothing so.
    assert fields(content["example"]) == fields(REPORT)
    way = content["example"]["ways"][1]
    described = document["components"]["schemas"]
    for name, example in (
        ("Report", content["example"]),
        ("Machine", content["example"]["machine"]),
        ("Operator", content["example"]["operators"][0]),
        ("Way", way),
        ("Estimate", way["estimate"]),
        ("BatchPrice", way["batch"]),
        ("LeakBudget", way["estimate"]["leak"]),
    ):
        assert described[name]["properties"].keys() == example.keys(), name
        assert described[name]["description"]
    form = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["properties"].keys() == {"model", "samples", "recipe"}
    assert form["required"] == ["model"]


SERVE = """
import threading
import zkserve.preflight as preflight
from zkserve.api import serve
from zkserve.errors import JobCancelled
from zkserve.settings import Settings
run_child = preflight.run_child
def never_ending(target, *, model, **bounds):
    try:
        run_child("signal:pause", **bounds)
    except JobCancelled:
        raise
    except Exception:
        pass
    threading.Event().wait()  # it ended by itself
preflight.run_child = never_ending
serve(Settings())
"""


@pytest.fixture
def process(tmp_path: Path, node: Node, private: Path) -> Iterator[tuple[psutil.Process, int]]:
    """The API as a process of its own whose children never end by themselves, and its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    child = subprocess.Popen(
        [sys.executable, "-c", SERVE],
        env=os.environ
        | {
            "ZKSERVE_DATA_DIR": str(tmp_path / "data"),
            "ZKSERVE_DATABASE_URL": str(node.database.engine.url),
            "ZKSERVE_PORT": str(port),
            "ZKSERVE_PREFLIGHT_TIME_S": "100000",
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with Client(f"http://127.0.0.1:{port}") as client:
        while not client.ready():
            assert child.poll() is None, "the API did not start"
    yield psutil.Process(child.pid), port
    child.kill()
    child.wait()


def until(true: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline_s, "it never came to pass"
        time.sleep(0.02)


def at_work(server: psutil.Process, private: Path) -> list[psutil.Process]:
    """Return the children in their folders: others show a moment long what sandboxes there are."""
    found = []
    for child in server.children():
        with suppress(psutil.Error):
            if Path(child.cwd()).is_relative_to(private):
                found.append(child)
    return found


def test_the_work_ends_with_the_connection(
    process: tuple[psutil.Process, int], private: Path, model: bytes
):
    server, port = process

    def uploads_there(count: int) -> bool:
        return len(list(private.glob("*/model.onnx"))) == count

    for _ in range(2):  # the turn was given back
        connection = HTTPConnection("127.0.0.1", port)
        connection.request("POST", "/v1/preflight", body=model, headers=MODEL)
        until(lambda: at_work(server, private))
        (child,) = at_work(server, private)
        waiting = HTTPConnection("127.0.0.1", port)
        waiting.request("POST", "/v1/preflight", body=model, headers=MODEL)
        until(lambda: uploads_there(2))
        waiting.close()
        until(lambda: uploads_there(1))
        # The first one is still looked at.
        assert at_work(server, private) == [child]
        assert not select.select([connection.sock], [], [], 0)[0]
        connection.close()
        until(lambda: not server.children(recursive=True) and empty(private))


def test_half_an_upload_is_gone_with_the_connection(
    process: tuple[psutil.Process, int], private: Path
):
    server, port = process
    head = b"POST /v1/preflight HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\n"
    for _ in range(9):  # places are given back
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(head + b"Content-Length: 1000\r\n\r\nhalf")
            until(lambda: list(private.glob("*/model.onnx")))
        until(lambda: empty(private))
    assert not server.children(recursive=True)
    # Who goes away is no fault of the service.
    metrics = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    statuses = set(re.findall(r'route="/v1/preflight",status="(\d+)"', metrics))
    assert statuses == {"499"}


def test_the_sdk_is_told_that_a_model_is_too_large_while_it_still_sends(
    process: tuple[psutil.Process, int], tmp_path: Path
):
    large = tmp_path / "large.onnx"
    with large.open("wb") as file:
        file.truncate(70 << 20)
    with (
        Client(f"http://127.0.0.1:{process[1]}") as client,
        pytest.raises(InvalidInput, match="more than the 67108864 bytes"),
    ):
        client.preflight(large)


@pytest.mark.prover
@pytest.mark.skipif(not core.available(), reason="the compiled core is not installed")
def test_the_sdk_gets_the_report(app: FastAPI, tmp_path: Path, model: bytes, private: Path):
    (tmp_path / "samples.npz").write_bytes(samples())
    recipe = RECIPE.replace(b'"fixed"', b'"hashed"').replace(b"0.5", b"0.125")
    (tmp_path / "recipe.toml").write_bytes(recipe)
    with running(app) as url, Client(url) as client:
        report = client.preflight(
            tmp_path / "uploaded.onnx", tmp_path / "samples.npz", tmp_path / "recipe.toml"
        )
    assert EXACT.validate_python(report)
    assert (report["model"], report["engine"], report["tolerance"]) == ("mine", "ezkl", 0.125)
    assert report["calibration_samples"] == 9
    (chosen,) = (way for way in report["ways"] if way["chosen"])
    assert chosen["weights_mode"] == "hashed"
    assert empty(private)
