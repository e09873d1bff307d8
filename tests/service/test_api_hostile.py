"""Hostile bodies: each gets a problem, the next good one an answer, and nothing is left behind."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import psutil
import pytest

from tests.bodies import body, tensor
from tests.fakes import FakeEngine
from tests.hostile import models, samples, sharing
from zkserve import runtime
from zkserve.api import create_app
from zkserve.api.service import PreflightTerms
from zkserve.engines.base import Limits
from zkserve.node import Node
from zkserve.store import jobs
from zkserve.store.queue import JobQueue
from zkserve.store.tables import VersionRow

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

INFER = "/v2/models/tiny/infer"
MODEL = {"Content-Type": "application/octet-stream"}
BODIES: dict[str, bytes | dict[str, object]] = {
    "nothing": {},
    "a_list": b"[]",
    "no_json": b"PK\x03\x04",
    "deep": b'{"inputs":' + b"[" * 9000,
    "not_utf8": b'{"inputs": "\xff"}',
    "key_twice": b'{"inputs": [], "inputs": []}',
    "nan": b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[NaN,1,1,1]}]}',
    "past_reals": b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[1e999,1,1,1]}]}',
    "no_inputs": body() | {"inputs": []},
    "input_twice": body(tensor(), tensor()),
    "unknown_name": body(tensor(name="../../etc/passwd")),
    "long_name": body(tensor(name="x" * 9000)),
    "other_shape": body(tensor(shape=[4, 1])),
    "negative_shape": body(tensor(shape=[-1, -4])),
    "overflowing_shape": body(tensor(shape=[1 << 62, 4])),
    "huge_batch": body(tensor(shape=[1 << 40, 4])),
    "unknown_type": body(tensor(datatype="PICKLE")),
    "bytes": body(tensor(datatype="BYTES", data=["a"] * 4)),
    "too_few": body(tensor((1.0,))),
    "too_many": body(tensor(tuple([1.0] * 2000))),
    "texts": body(tensor(["1", "2", "3", "4"])),
    "booleans": body(tensor([True] * 4)),
    "nulls": body(tensor([None] * 4)),
    "objects": body(tensor([{}] * 4)),
    "ragged": body(tensor([[1.0], [1.0, 2.0], [3.0]])),
    "huge_integers": body(tensor([10**300] * 4)),
    "out_of_range": body(tensor((1e6, 0.0, 0.0, 0.0))),
    "unknown_parameter": body(parameters={"callback": "file:///etc/passwd"}),
}


@pytest.fixture(autouse=True)
def private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(runtime.VARIABLE, str(tmp_path / "runtime"))
    return tmp_path / "runtime"


@pytest.fixture
async def client(
    node: Node, queue: JobQueue, version: VersionRow, engine: FakeEngine
) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(
        node,
        queue=queue,
        require_api_key=False,
        max_body_bytes=20_000,
        max_open_jobs=20,
        max_inputs_ahead=9,
        preflight_terms=PreflightTerms(
            max_body_bytes=32 << 20, limits=Limits(time_s=60, memory_bytes=2 << 30)
        ),
    )
    transport = httpx.ASGITransport(app, raise_app_exceptions=True)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as found:
        yield found


def inside(folder: Path) -> set[Path]:
    return set(folder.iterdir())


def written(path: Path, write: Callable[[Path], object]) -> bytes:
    write(path)
    return path.read_bytes()


def problem(answer: httpx.Response) -> str:
    """Return the sentence of a problem."""
    assert 400 <= answer.status_code < 500, (answer.status_code, answer.text)
    assert answer.headers["Content-Type"] == "application/problem+json"
    found = answer.json()
    assert found["detail"]
    # The fake engine has no advice for an input that is out of its range.
    assert found.get("remedy") or found["type"].endswith(":input-out-of-range"), found
    assert "Traceback" not in answer.text
    assert "panic" not in answer.text.lower()
    detail: str = found["detail"]
    assert len(detail) < 5000
    return detail


async def test_every_hostile_input_gets_a_problem_and_the_next_good_one_is_taken(
    client: httpx.AsyncClient, node: Node
):
    for content in BODIES.values():
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        headers = {"Content-Type": "application/json"}
        problem(await client.post(INFER, content=data, headers=headers))
    with node.database.session() as session:
        assert jobs.open_count(session) == 0
    answer = await client.post(INFER, json=body())
    assert answer.status_code == 200, answer.text


async def test_every_hostile_model_gets_a_problem_or_a_report_that_says_no(
    client: httpx.AsyncClient, private: Path, tmp_path: Path
):
    before = psutil.Process().children(recursive=True)
    with sharing.one_child(private) as ready:
        child = ready()
        held = inside(private)
        for hostile in models.GATE:
            data = hostile.make()
            answer = await client.post("/v1/preflight", content=data, headers=MODEL)
            if answer.status_code == 200:
                report = answer.json()
                assert not report["engine"], hostile.name
                assert re.search(hostile.says, answer.text), (hostile.name, answer.text)
            elif data:
                assert re.search(hostile.says, problem(answer)), (hostile.name, answer.text)
            assert ready() is child, f"{hostile.name} ended the child"
            assert inside(private) == held, hostile.name
        good = await client.post(
            "/v1/preflight", content=models.good().SerializeToString(), headers=MODEL
        )
        assert good.status_code == 200, good.text
    assert not inside(private)
    assert psutil.Process().children(recursive=True) == before


async def test_every_hostile_samples_file_beside_a_good_model_gets_a_problem(
    client: httpx.AsyncClient, private: Path, tmp_path: Path
):
    path, model = tmp_path / "samples.npz", models.good().SerializeToString()
    with sharing.one_child(private) as ready:
        ready()
        held = inside(private)
        for name, write, says in samples.NPZ:
            files = {"model": model, "samples": written(path, write)}
            detail = problem(await client.post("/v1/preflight", files=files))
            if files["samples"].startswith(b"PK"):  # what is no archive is read as JSON
                assert re.search(says, detail), (name, detail)
            assert inside(private) == held, name
    assert not inside(private)
