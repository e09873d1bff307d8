"""Versions that prove several predictions at once: the rows that come are answered, all bound."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from tests.bodies import body, tensor
from tests.fakes import publish
from zkserve.node import Node
from zkserve.receipt import claim_from_dict
from zkserve.types import InputMode

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

INFER = "/v2/models/many/infer"
BATCH = 3
ROWS = [[1.0, 2.0, 3.0, 4.0], [5.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.5]]
SUMS = [10.0, 5.0, 0.5]


@pytest.fixture(autouse=True)
def many(node: Node, app: FastAPI) -> None:
    publish(node, "many", batch=BATCH, input_mode=InputMode.PUBLIC)
    publish(node, "hidden", batch=BATCH)


def answered(answer: dict[str, Any]) -> tuple[list[int], list[float]]:
    (real, quantised) = answer["outputs"]
    assert quantised["data"] == [round(value * 256) for value in real["data"]]
    assert quantised["shape"] == real["shape"]
    return real["shape"], real["data"][::2]


async def test_metadata_says_how_many_rows_a_proof_is_about(http: httpx.AsyncClient) -> None:
    metadata = (await http.get("/v2/models/many")).json()
    assert metadata["parameters"]["batch"] == BATCH
    assert metadata["inputs"][0]["shape"] == [BATCH, 4]
    assert (await http.get("/v2/models/tiny")).json()["parameters"]["batch"] == 1


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("nested", [True, False])
async def test_fewer_rows_are_answered_and_the_last_fills_the_claim(
    http: httpx.AsyncClient, count: int, nested: bool
) -> None:
    rows = ROWS[:count]
    data = rows if nested else [number for row in rows for number in row]
    response = await http.post(INFER, json=body(tensor(data, shape=[count, 4])))
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answered(answer) == ([count, 2], SUMS[:count])
    assert (answer["parameters"]["batch"], answer["parameters"]["rows"]) == (BATCH, count)
    claim = claim_from_dict(json.loads(answer["parameters"]["claim"]))
    filled = [*SUMS[:count], *[SUMS[count - 1]] * (BATCH - count)]
    assert claim.outputs[::2] == tuple(round(total * 256) for total in filled)
    shown = [int.from_bytes(claim.input[at : at + 8], "big") for at in range(0, 8 * 12, 8)]
    assert shown[-4:] == [round(number * 256) for number in rows[-1]]


async def test_the_opening_holds_all_rows(http: httpx.AsyncClient) -> None:
    answer = (await http.post("/v2/models/hidden/infer", json=body(tensor([ROWS[0]])))).json()
    assert len(json.loads(answer["parameters"]["opening"])["input"]) == 4 * BATCH


async def test_a_row_without_a_batch_dimension_is_one_row(http: httpx.AsyncClient) -> None:
    answer = (await http.post(INFER, json=body(tensor(ROWS[1], shape=[4])))).json()
    assert answered(answer) == ([1, 2], [5.0])


async def test_repeating_a_request_repeats_its_rows(http: httpx.AsyncClient) -> None:
    sent = body(tensor(ROWS[:2], shape=[2, 4]))
    answers = [
        (await http.post(INFER, json=sent, headers={"Idempotency-Key": "k"})).json()
        for _ in range(2)
    ]
    assert answers[0] == answers[1]
    assert answers[1]["parameters"]["rows"] == 2


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (tensor([ROWS[0]] * 4, shape=[4, 4]), "at most 3"),
        (tensor([ROWS[0]] * 1000, shape=[1000, 4]), "Split the rows into requests of at most 3"),
        (tensor([[1.0, 2.0]], shape=[1, 2]), "Send 1 to 3 rows"),
        (tensor(ROWS, shape=[3, 1, 4]), "Send 1 to 3 rows"),
        (tensor([1.0] * 8, shape=[8]), "Send 1 to 3 rows"),
        (tensor(ROWS, shape=[2, 4]), "needs 2 elements"),
    ],
)
async def test_other_numbers_of_rows_are_refused(
    http: httpx.AsyncClient, given: dict[str, Any], says: str
) -> None:
    response = await http.post(INFER, json=body(given))
    assert response.status_code == 422
    assert says in response.text


async def test_inputs_handed_in_ahead_are_filled_too(http: httpx.AsyncClient) -> None:
    sent = {"model": "many", "inputs": [tensor(ROWS[:2], shape=[2, 4])]}
    answer = (await http.post("/v1/inputs", json=sent)).json()
    assert (answer["batch"], answer["rows"]) == (BATCH, 2)
    assert len(answer["input"]) == 2 + 2 * 8 * 4 * BATCH


async def test_single_versions_take_one_sample_as_ever(http: httpx.AsyncClient) -> None:
    response = await http.post("/v2/models/tiny/infer", json=body(tensor(ROWS, shape=[3, 4])))
    assert response.status_code == 422
    assert "one sample a request" in response.text
    answer = (await http.post("/v2/models/tiny/infer", json=body())).json()
    assert (answer["parameters"]["batch"], answer["parameters"]["rows"]) == (1, 1)
