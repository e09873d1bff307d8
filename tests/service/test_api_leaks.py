"""The API says how much of a leak budget is used, and refuses proofs past it with its own code.

It refuses new proofs of deprecated versions that leak, too.
"""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests import fakes
from tests.bodies import body
from zkserve import prove, register
from zkserve.engines.base import Limits, Prediction
from zkserve.node import Node
from zkserve.store.queue import JobQueue
from zkserve.types import InputMode, LeakBudget

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

BUDGET = LeakBudget(bits_per_proof=3302, secret_bits=16_000, proofs=1)
MORE = LeakBudget(bits_per_proof=100, secret_bits=16_000, proofs=40)
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


NAMED = "/v2/models/leaking/versions/1/infer"


async def test_a_deprecated_version_that_leaks_promises_no_more_proofs(
    http: httpx.AsyncClient, node: Node, queue: JobQueue
) -> None:
    fakes.publish(node, "leaking", leak=MORE, weights_digests=[DIGEST])
    headers = {"Idempotency-Key": "one"}
    before = (await http.post(NAMED, json=body(), headers=headers)).json()
    register.deprecate(node, None, "leaking", 1)
    for path, more in ((NAMED, {}), ("/v1/proofs", {"model": "leaking", "version": 1})):
        response = await http.post(path, json=body(**more))
        assert response.status_code == 409, response.text
        problem = response.json()
        assert problem["type"] == "urn:zkserve:error:version-deprecated"
        assert problem["detail"].startswith("Version 1 of leaking is deprecated")
        assert "No other version is in use" in problem["remedy"]
    metadata = await http.get("/v2/models/leaking/versions/1")
    assert metadata.json()["parameters"]["leak"]["made"] == 1
    unproven = await http.post(NAMED, json=body(parameters={"prove": False}))
    assert unproven.status_code == 200
    assert "proof_id" not in unproven.json()["parameters"]
    again = await http.post(NAMED, json=body(), headers=headers)
    assert again.json()["parameters"] == before["parameters"], "the same job as before"
    job_id = before["parameters"]["proof_id"]
    prove.prove(node, job_id, limits=Limits(), cancelled=lambda: False)
    prove.deliver(node, queue, job_id)
    assert (await http.get(f"/v1/proofs/{job_id}")).json()["state"] == "done"


async def test_the_version_to_ask_for_instead_is_named(http: httpx.AsyncClient, node: Node) -> None:
    fakes.publish(node, "leaking", leak=MORE, weights_digests=[DIGEST])
    fakes.publish(node, "leaking", input_mode=InputMode.PUBLIC)
    register.deprecate(node, None, "leaking", 1)
    refused = await http.post(NAMED, json=body())
    assert refused.status_code == 409
    assert "version 2" in refused.json()["remedy"]
    assert (await http.post("/v2/models/leaking/infer", json=body())).status_code == 200


async def test_a_deprecated_version_that_hides_its_weights_is_proved_as_ever(
    http: httpx.AsyncClient, node: Node
) -> None:
    register.deprecate(node, None, "tiny", 1)
    response = await http.post("/v2/models/tiny/versions/1/infer", json=body())
    assert response.status_code == 200
    assert response.json()["parameters"]["proof_id"]


async def test_a_version_deprecated_while_a_request_is_predicted_promises_nothing(
    http: httpx.AsyncClient, node: Node, engine: fakes.FakeEngine
) -> None:
    fakes.publish(node, "leaking", leak=MORE, weights_digests=[DIGEST])
    real = engine.predict

    def meanwhile(*arguments: Any, **options: Any) -> Prediction:
        register.deprecate(node, None, "leaking", 1)
        return real(*arguments, **options)

    engine.predict = meanwhile  # type: ignore[method-assign]
    response = await http.post("/v2/models/leaking/infer", json=body())
    assert response.json()["type"] == "urn:zkserve:error:version-deprecated"
