from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from sqlalchemy import func, select

from tests.bodies import body, tensor
from tests.fakes import FakeEngine, publish
from zkserve import prove, storage
from zkserve.api import create_app, inference
from zkserve.encoding import claim_digest, sha256_hex, to_hex
from zkserve.engines.base import Bundle, Limits, Prediction
from zkserve.errors import Unavailable
from zkserve.node import KEY_NAME, Node
from zkserve.receipt import claim_from_dict, manifest_from_dict
from zkserve.sealing import new_key
from zkserve.store import inputs, versions
from zkserve.store.queue import JobQueue
from zkserve.store.tables import InputRow, JobRow, VersionRow
from zkserve.types import InputMode

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

INFER = "/v2/models/tiny/infer"


def rows(node: Node, table: type) -> int:
    with node.database.snapshot() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def outputs(answer: dict[str, Any]) -> dict[str, Any]:
    return {output["name"]: (output["datatype"], output["data"]) for output in answer["outputs"]}


async def test_answers_with_the_integers_that_will_be_proved(
    http: httpx.AsyncClient, node: Node, version: VersionRow, engine: FakeEngine
) -> None:
    # 0.001 is below the quantisation step: a float model's sum would show it.
    response = await http.post(INFER, json=body(tensor((1.0, 2.0, 3.0, 0.001)), id="mine"))
    assert response.status_code == 200, response.text
    answer = response.json()
    assert outputs(answer) == {
        "y": ("FP64", [6.0, -6.0]),
        "y_quantised": ("INT64", [1536, -1536]),
    }
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("tiny", "1", "mine")
    parameters = answer["parameters"]
    claim = claim_from_dict(json.loads(parameters["claim"]))
    assert claim.outputs == (1536, -1536)
    assert parameters["claim_digest"] == claim_digest(claim)
    assert parameters["circuit_id"] == version.circuit_id
    assert parameters["proof_status"] == "not yet proven"
    assert parameters["development_srs"] is True
    assert (parameters["output_multiplier"], parameters["output_shift"]) == (1, 8)
    bundle = Bundle(manifest=manifest_from_dict(version.manifest), files={})
    engine.check_opening(bundle, claim, parameters["opening"].encode())
    with node.database.snapshot() as session:
        job = session.get_one(JobRow, parameters["proof_id"])
    assert job.claim == json.loads(parameters["claim"])


@pytest.mark.parametrize(
    "given",
    [
        tensor([[1, 2, 3, 4.5]]),
        tensor([1, 2, 3, 4.5], shape=[4]),
        tensor([[[1, 2, 3, 4.5]]], shape=[1, 1, 4]),
        tensor(datatype="FP64"),
    ],
)
async def test_takes_flat_and_nested_data(http: httpx.AsyncClient, given: dict[str, Any]) -> None:
    answer = (await http.post(INFER, json=body(given))).json()
    assert outputs(answer)["y"] == ("FP64", [10.5, -10.5])


@pytest.mark.parametrize("datatype", ["INT8", "INT64", "UINT8", "UINT64"])
async def test_takes_integers(http: httpx.AsyncClient, datatype: str) -> None:
    answer = (await http.post(INFER, json=body(tensor((1, 2, 3, 4), datatype=datatype)))).json()
    assert outputs(answer)["y"] == ("FP64", [10.0, -10.0])


DEEP = '{"inputs": ' + "[" * 9000 + "]" * 9000 + "}"
RAW = '{"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, %s]}]}'


@pytest.mark.parametrize(
    "bad",
    [
        body(tensor(name="z")),
        body(tensor(), tensor()),
        body(tensor(), tensor(name="z")),
        {"inputs": []},
        body(tensor(shape=[4, 1])),
        body(tensor(shape=[2, 2])),
        body(tensor(shape=[1, 5])),
        body(tensor(shape=[])),
        body(tensor(shape=[1, -4])),
        body(tensor(shape=[1] * 9)),
        body(tensor((1.0, 2.0, 3.0))),
        body(tensor((1.0, 2.0, 3.0, 4.0, 5.0))),
        body(tensor(())),
        body(tensor([[1, 2], [3, 4]])),
        body(tensor([[1, 2, 3]])),
        body(tensor([[1, 2, 3, 4], [1, 2, 3, 4]])),
        body(tensor([[1], 2, 3, 4])),
        body(tensor([1, [2], 3, 4])),
        body(tensor((1, 2, 3, "4"))),
        body(tensor((1, 2, 3, None))),
        body(tensor((1, 2, 3, True))),
        body(tensor((1, 2, 3, {}))),
        body(tensor((1, 2, 3, 128), datatype="INT8")),
        body(tensor((1, 2, 3, -129), datatype="INT8")),
        body(tensor((1, 2, 3, -1), datatype="UINT8")),
        body(tensor((1, 2, 3, 4.0), datatype="INT32")),
        body(tensor((1, 2, 3, True), datatype="INT32")),
        body(tensor((1, 2, 3, 1e39))),
        body(tensor((1, 2, 3, 10**400))),
        body(tensor(datatype="BYTES")),
        body(tensor(datatype="FP16")),
        body(tensor(binary=True)),
        body(surprise=1),
        body(parameters={"prove": "yes"}),
        body(parameters={"classification": 3}),
        body(outputs=[{"name": "z"}]),
        body(outputs=[]),
        RAW % "NaN",
        RAW % "Infinity",
        RAW % "1e400",
        "[]",
        "null",
        "7",
    ],
)
async def test_refuses_what_is_no_input_and_says_what_to_do(
    http: httpx.AsyncClient, node: Node, bad: dict[str, Any] | str
) -> None:
    content = bad if isinstance(bad, str) else json.dumps(bad)
    response = await http.post(INFER, content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == 422, response.text
    problem = response.json()
    assert problem["type"] == "urn:zkserve:error:invalid-input"
    assert problem["detail"]
    assert problem["remedy"]
    assert rows(node, JobRow) == 0


async def test_an_input_that_cannot_be_proved_is_refused_at_once(http: httpx.AsyncClient) -> None:
    response = await http.post(INFER, json=body(tensor((1000.0, 0, 0, 0))))
    assert response.status_code == 422
    assert response.json()["type"] == "urn:zkserve:error:input-out-of-range"


async def test_prove_false_promises_nothing(http: httpx.AsyncClient, node: Node) -> None:
    response = await http.post(INFER, json=body(parameters={"prove": False}))
    parameters = response.json()["parameters"]
    assert "proof_id" not in parameters
    assert "proof_status" not in parameters
    assert parameters["claim"]
    assert rows(node, JobRow) == 0


async def test_answers_with_the_outputs_asked_for(http: httpx.AsyncClient) -> None:
    answer = (await http.post(INFER, json=body(outputs=[{"name": "y_quantised"}]))).json()
    assert list(outputs(answer)) == ["y_quantised"]


async def test_integers_over_64_bits_keep_all_their_digits(
    http: httpx.AsyncClient, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = engine.predict

    def huge(*args: Any, **kwargs: Any) -> Prediction:
        prediction = predict(*args, **kwargs)
        claim = replace(prediction.claim, outputs=(1 << 100, -(1 << 63)))
        return replace(prediction, claim=claim)

    monkeypatch.setattr(engine, "predict", huge)
    answer = (await http.post(INFER, json=body())).json()
    assert outputs(answer)["y_quantised"] == ("BYTES", [str(1 << 100), str(-(1 << 63))])
    assert outputs(answer)["y"] == ("FP64", [float(1 << 92), float(-(1 << 55))])


async def test_a_public_input_has_no_opening(http: httpx.AsyncClient, node: Node) -> None:
    publish(node, "open", input_mode=InputMode.PUBLIC)
    answer = (await http.post("/v2/models/open/infer", json=body())).json()
    assert "opening" not in answer["parameters"]


async def test_the_same_key_gives_the_same_answer(http: httpx.AsyncClient, node: Node) -> None:
    headers = {"Idempotency-Key": "one"}
    first = await http.post(INFER, json=body(), headers=headers)
    again = await http.post(INFER, json=body(), headers=headers)
    assert first.json() == again.json()
    assert first.json()["parameters"]["opening"]
    created = await http.post("/v1/proofs", json=body(model="tiny"), headers=headers)
    assert created.json() == first.json()
    assert rows(node, JobRow) == 1
    without = await http.post(INFER, json=body())
    assert without.json()["parameters"]["proof_id"] != first.json()["parameters"]["proof_id"]


async def test_what_is_kept_of_a_body_confirms_no_guess_of_it(node: Node, tmp_path: Path) -> None:
    """Whoever has the database alone must not be able to try inputs out."""
    other = Node.open(data_dir=tmp_path / "other", database_url=node.database.url)
    kept = {inference._fingerprints(at, "tiny", 1, [])[0] for at in (node, other)}
    assert len(kept | {sha256_hex(b'["tiny", 1, []]')}) == 3


async def test_a_request_of_before_a_change_of_keys_is_recognised(
    http: httpx.AsyncClient, node: Node, queue: JobQueue
) -> None:
    headers = {"Idempotency-Key": "one"}
    first = await http.post(INFER, json=body(), headers=headers)
    data_dir = node.artifacts.folder.parent
    changed = Node.open(
        data_dir=data_dir,
        database_url=node.database.url,
        storage_key=new_key() + (data_dir / KEY_NAME).read_text(),
    )
    storage.seal_all(changed)
    app = create_app(
        changed,
        queue=queue,
        require_api_key=False,
        max_body_bytes=20_000,
        max_open_jobs=20,
        max_inputs_ahead=9,
    )
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as later:
        again = await later.post(INFER, json=body(), headers=headers)
        other = await later.post(INFER, json=body(tensor((1.0,) * 4)), headers=headers)
    assert again.json() == first.json()
    assert other.json()["type"] == "urn:zkserve:error:idempotency-conflict"
    assert rows(node, JobRow) == 1


async def test_the_same_key_at_the_same_time_gives_one_job(
    http: httpx.AsyncClient, node: Node
) -> None:
    answers = await asyncio.gather(
        *(http.post(INFER, json=body(), headers={"Idempotency-Key": "one"}) for _ in range(6))
    )
    assert len({answer.text for answer in answers}) == 1
    assert rows(node, JobRow) == 1


@pytest.mark.parametrize(
    "other",
    [
        ("/v2/models/tiny/infer", body(tensor((1.0, 2.0, 3.0, 4.0)))),
        ("/v2/models/tiny/versions/1/infer", body()),
        ("/v2/models/other/infer", body()),
    ],
)
async def test_the_same_key_with_another_request_is_a_conflict(
    http: httpx.AsyncClient, node: Node, other: tuple[str, dict[str, Any]]
) -> None:
    publish(node, "other")
    headers = {"Idempotency-Key": "one"}
    await http.post(INFER, json=body(), headers=headers)
    response = await http.post(other[0], json=other[1], headers=headers)
    assert response.status_code == 422
    assert response.json()["type"] == "urn:zkserve:error:idempotency-conflict"
    assert rows(node, JobRow) == 1


@pytest.mark.parametrize("key", ["", " ", "a b", "k" * 256])
async def test_an_unusable_key_is_refused(http: httpx.AsyncClient, node: Node, key: str) -> None:
    response = await http.post(INFER, json=body(), headers={"Idempotency-Key": key})
    assert response.status_code == 422
    assert rows(node, JobRow) == 0


async def test_repeating_a_proven_request_says_so_and_its_opening_is_gone(
    http: httpx.AsyncClient, node: Node, queue: JobQueue
) -> None:
    headers = {"Idempotency-Key": "one"}
    first = (await http.post(INFER, json=body(), headers=headers)).json()
    job_id = first["parameters"]["proof_id"]
    prove.prove(node, job_id, limits=Limits(), cancelled=lambda: False)
    prove.deliver(node, queue, job_id)
    again = (await http.post(INFER, json=body(), headers=headers)).json()
    assert first["parameters"].pop("opening")
    first["parameters"]["proof_status"] = "proven"
    assert again == first


async def test_repeating_works_after_the_version_was_replaced(
    http: httpx.AsyncClient, node: Node
) -> None:
    headers = {"Idempotency-Key": "one"}
    first = (await http.post(INFER, json=body(), headers=headers)).json()
    with node.database.session() as session:
        _, row = versions.find(session, "tiny")
        row.deprecated_at = row.created_at
    assert (await http.post(INFER, json=body(), headers=headers)).json() == first
    assert (await http.post(INFER, json=body())).status_code == 404
    named = await http.post("/v2/models/tiny/versions/1/infer", json=body())
    assert named.status_code == 200


async def test_proofs_are_accepted_with_a_place_to_follow_them(http: httpx.AsyncClient) -> None:
    response = await http.post("/v1/proofs", json=body(model="tiny", version=1))
    assert response.status_code == 202
    location = response.headers["Location"]
    assert location == "/v1/proofs/" + response.json()["parameters"]["proof_id"]
    assert int(response.headers["Retry-After"]) > 0
    assert (await http.get(location)).json()["state"] == "accepted"


async def test_too_many_open_jobs_are_refused_at_the_door(
    http: httpx.AsyncClient, app: FastAPI, node: Node
) -> None:
    app.state.service = replace(app.state.service, max_open_jobs=1)
    assert (await http.post(INFER, json=body())).status_code == 200
    response = await http.post(INFER, json=body())
    assert response.status_code == 503
    assert response.json()["type"] == "urn:zkserve:error:unavailable"
    assert int(response.headers["Retry-After"]) > 0
    assert rows(node, JobRow) == 1


@pytest.mark.parametrize(
    "path",
    ["/v2/models/none/infer", "/v2/models/tiny/versions/2/infer"],
)
async def test_unknown_models_and_versions_are_not_found(
    http: httpx.AsyncClient, path: str
) -> None:
    response = await http.post(path, json=body())
    assert response.status_code == 404
    assert response.json()["type"] == "urn:zkserve:error:not-found"


async def test_committing_an_input_keeps_what_the_watcher_needs(
    http: httpx.AsyncClient, node: Node, version: VersionRow, engine: FakeEngine
) -> None:
    response = await http.post("/v1/inputs", json=body(model="tiny"))
    assert response.status_code == 201
    answer = response.json()
    assert (answer["model"], answer["version"]) == ("tiny", 1)
    assert answer["circuit_id"] == version.circuit_id
    with node.database.snapshot() as session:
        row = inputs.find(session, version.id, answer["input"])
    assert row is not None
    assert node.artifacts.get(row.opening).decode() == answer["opening"]
    # What the worker will do with it.
    salt = bytes.fromhex(json.loads(answer["opening"])["salt"])
    manifest = manifest_from_dict(version.manifest)
    values = np.array([1.0, 2.0, 3.0, 4.5], np.float32)
    prediction = engine.predict(node.bundle(manifest), values, salt=salt)
    assert to_hex(prediction.claim.input) == answer["input"]
    other = (await http.post("/v1/inputs", json=body(model="tiny"))).json()
    assert other["input"] != answer["input"], "equal inputs must not have equal commitments"


async def test_inputs_are_not_kept_without_end(
    http: httpx.AsyncClient, app: FastAPI, node: Node
) -> None:
    app.state.service = replace(app.state.service, max_inputs_ahead=1)
    assert (await http.post("/v1/inputs", json=body(model="tiny"))).status_code == 201
    response = await http.post("/v1/inputs", json=body(model="tiny"))
    assert response.status_code == 409
    assert response.json()["remedy"]
    assert rows(node, InputRow) == 1


async def test_a_public_input_needs_no_keeping(http: httpx.AsyncClient, node: Node) -> None:
    publish(node, "open", input_mode=InputMode.PUBLIC)
    answer = (await http.post("/v1/inputs", json=body(model="open"))).json()
    assert answer["opening"] is None
    assert answer["input"].startswith("0x0000")
    assert rows(node, InputRow) == 0


class Slow:
    """Holds predictions until told to go on."""

    def __init__(self, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = threading.Event()
        predict = engine.predict

        def slow(*args: Any, **kwargs: Any) -> Prediction:
            assert self.go.wait(30)
            return predict(*args, **kwargs)

        monkeypatch.setattr(engine, "predict", slow)


async def test_everything_else_answers_while_predictions_are_slow(
    http: httpx.AsyncClient, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(engine, monkeypatch)
    # More than there are threads, those of FastAPI (40) included.
    pending = [asyncio.create_task(http.post(INFER, json=body())) for _ in range(50)]
    try:
        await asyncio.sleep(0.1)
        for path in ("/v2/health/live", "/v2/health/ready", "/v1/models", "/v1/proofs"):
            assert (await asyncio.wait_for(http.get(path), 10)).status_code == 200
        assert not any(task.done() for task in pending)
    finally:
        slow.go.set()
    statuses = {answer.status_code for answer in await asyncio.gather(*pending)}
    assert statuses == {200, 503}, "20 open jobs are allowed, the rest is refused"


async def test_predictions_that_come_in_one_turn_of_the_loop_are_counted(app: FastAPI) -> None:
    service = app.state.service
    go = threading.Event()
    work = [inference._in_thread(service, lambda: go.wait(30)) for _ in range(80)]
    pending = [asyncio.create_task(each) for each in work]
    try:
        await asyncio.sleep(0)
        refused = [task for task in pending if task.done()]
        assert len(refused) == 12, "four run and sixty-four wait"
    finally:
        go.set()
    answers = await asyncio.gather(*pending, return_exceptions=True)
    assert sum(isinstance(answer, Unavailable) for answer in answers) == 12
    assert (
        await inference._in_thread(service, lambda: "places are given back")
        == "places are given back"
    )


async def test_predictions_do_not_pile_up_without_end(
    http: httpx.AsyncClient, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(engine, monkeypatch)
    once = body(parameters={"prove": False})
    pending = [asyncio.create_task(http.post(INFER, json=once)) for _ in range(80)]
    try:
        done, _ = await asyncio.wait(pending, timeout=60, return_when=asyncio.FIRST_COMPLETED)
        assert {task.result().status_code for task in done} == {503}
    finally:
        slow.go.set()
    statuses = [answer.status_code for answer in await asyncio.gather(*pending)]
    assert statuses.count(200) >= 64
    assert statuses.count(503) >= 1
