"""The API says how much of a leak budget is used, and refuses proofs past it with its own code."""

from __future__ import annotations

import httpx
import pytest

from tests import fakes
from tests.bodies import body
from zkserve.node import Node
from zkserve.types import LeakBudget

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

BUDGET = LeakBudget(bits_per_proof=3302, secret_bits=16_000, proofs=1)
DIGEST = "ab" * 32


async def test_a_proof_past_the_budget_is_a_problem_of_its_own(
    http: httpx.AsyncClient, node: Node
) -> None:
    fakes.publish(node, "leaking", leak=BUDGET, weights_digests=[DIGEST])
    infer = "/v2/models/leaking/infer"
    headers = {"Idempotency-Key": "one"}
    first = await http.post(infer, json=body(), headers=headers)
    assert first.status_code == 200, first.text
    for path, more in ((infer, {}), ("/v1/proofs", {"model": "leaking"})):
        response = await http.post(path, json=body(**more))
        assert response.status_code == 409
        problem = response.json()
        assert problem["type"] == "urn:zkserve:error:leak-budget-spent"
        assert "rekey" in problem["remedy"]
    again = await http.post(infer, json=body(), headers=headers)
    assert again.json()["parameters"]["proof_id"] == first.json()["parameters"]["proof_id"]
    unproven = await http.post(infer, json=body(parameters={"prove": False}))
    assert unproven.status_code == 200, "a prediction alone reveals none of it"


async def test_models_say_what_is_allowed_and_made(http: httpx.AsyncClient, node: Node) -> None:
    fakes.publish(node, "leaking", leak=BUDGET, weights_digests=[DIGEST])
    expected = {"bits_per_proof": 3302, "secret_bits": 16_000, "proofs": 1, "made": 0}
    for made in (0, 1):
        metadata = await http.get("/v2/models/leaking")
        assert metadata.json()["parameters"]["leak"] == expected | {"made": made}
        listed = (await http.get("/v1/models")).json()["models"]
        leaks = {model["name"]: model["leak"] for model in listed}
        assert leaks == {"leaking": expected | {"made": made}, "tiny": None}
        assert DIGEST not in metadata.text, "what tells the weights is private"
        await http.post("/v2/models/leaking/infer", json=body())
