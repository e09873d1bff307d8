from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.bodies import body
from tests.fakes import FakeEngine, publish
from zkserve import __version__, prove, register
from zkserve.api import create_app
from zkserve.engines.base import Limits
from zkserve.node import Node
from zkserve.store.queue import JobQueue
from zkserve.store.tables import VersionRow

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


async def test_server_metadata(http: httpx.AsyncClient) -> None:
    assert (await http.get("/v2")).json() == {
        "name": "zkserve",
        "version": __version__,
        "extensions": ["proofs"],
    }


async def test_health(http: httpx.AsyncClient) -> None:
    assert (await http.get("/v2/health/live")).json() == {"live": True}
    assert (await http.get("/v2/health/ready")).json() == {"ready": True}


async def test_not_ready_before_the_tables_are_made(
    tmp_path: Path, database_url: str, engine: FakeEngine
) -> None:
    node = Node.open(data_dir=tmp_path, database_url=database_url)
    app = create_app(
        node,
        queue=JobQueue(node.database, "1"),
        require_api_key=False,
        max_body_bytes=1000,
        max_open_jobs=1,
        max_inputs_ahead=9,
    )
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as http:
        response = await http.get("/v2/health/ready")
        assert response.status_code == 503
        assert response.json()["remedy"] == "Run `zkserve db upgrade`."
        assert (await http.get("/v2/health/live")).status_code == 200


async def test_model_metadata(http: httpx.AsyncClient, version: VersionRow) -> None:
    newest = (await http.get("/v2/models/tiny")).json()
    assert newest == (await http.get("/v2/models/tiny/versions/1")).json()
    assert (newest["name"], newest["versions"]) == ("tiny", ["1"])
    assert newest["platform"] == "zkserve_fake"
    assert newest["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [1, 4]}]
    assert newest["outputs"] == [
        {"name": "y", "datatype": "FP64", "shape": [1, 2]},
        {"name": "y_quantised", "datatype": "INT64", "shape": [1, 2]},
    ]
    parameters = newest["parameters"]
    assert parameters["circuit_id"] == version.circuit_id
    assert parameters["input_mode"] == "committed"
    assert parameters["weights_mode"] == "hashed"
    assert parameters["development_srs"] is True
    assert parameters["output_scale"] == {"multiplier": 1, "shift": 8}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v2/models/none", 404),
        ("/v2/models/none/ready", 404),
        ("/v2/models/tiny/versions/2", 404),
        ("/v2/models/tiny/versions/2/ready", 404),
        ("/v2/models/tiny/versions/0", 422),
        ("/v2/models/tiny/versions/x", 422),
        (f"/v2/models/tiny/versions/{10**30}", 422),
        ("/v2/models/a%00b", 422),
        (f"/v2/models/{'x' * 64}", 422),
    ],
)
async def test_unknown_models(http: httpx.AsyncClient, path: str, status: int) -> None:
    assert (await http.get(path)).status_code == status


async def test_a_model_whose_files_are_gone_is_not_ready(
    http: httpx.AsyncClient, node: Node, version: VersionRow
) -> None:
    assert (await http.get("/v2/models/tiny/ready")).json() == {
        "name": "tiny",
        "version": "1",
        "ready": True,
    }
    node.artifacts.delete(version.manifest["pins"]["model"])
    for path in ("/v2/models/tiny/ready", "/v2/models/tiny/versions/1/ready"):
        response = await http.get(path)
        assert response.status_code == 503
        assert response.json()["type"] == "urn:zkserve:error:unavailable"


async def test_models_are_listed_by_name(http: httpx.AsyncClient, node: Node) -> None:
    publish(node, "another")
    models = (await http.get("/v1/models")).json()["models"]
    assert [(model["name"], model["version"]) for model in models] == [("another", 1), ("tiny", 1)]
    assert models[0]["deprecated"] is False
    assert models[0]["replaced_by"] is None


async def test_users_of_a_replaced_version_are_pointed_to_the_one_that_took_its_place(
    http: httpx.AsyncClient, node: Node
) -> None:
    register.deprecate(node, None, "tiny", 1, replaced_by=2)
    register.deprecate(node, None, "tiny", 1)  # again, by hand: the pointer stays
    (listed,) = (await http.get("/v1/models")).json()["models"]
    assert (listed["deprecated"], listed["replaced_by"]) == (True, 2)
    metadata = (await http.get("/v2/models/tiny/versions/1")).json()
    assert metadata["parameters"]["replaced_by"] == 2


async def test_metrics_count_jobs_proofs_and_requests(
    http: httpx.AsyncClient, node: Node, queue: JobQueue
) -> None:
    first, _ = [
        (await http.post("/v1/proofs", json=body(model="tiny"))).json()["parameters"]["proof_id"]
        for _ in range(2)
    ]
    prove.prove(node, first, limits=Limits(), cancelled=lambda: False)
    prove.deliver(node, queue, first)
    await http.get(f"/v1/proofs/{first}")
    await http.get("/no/such/path")
    text = (await http.get("/metrics")).text
    found = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["zkserve_jobs", ("state", "accepted")] == 1
    assert found["zkserve_jobs", ("state", "done")] == 1
    assert found["zkserve_jobs", ("state", "failed")] == 0
    assert found[("zkserve_proofs_total",)] == 1
    assert found[("zkserve_prove_seconds_count",)] == 1
    count = "zkserve_http_request_seconds_count"
    assert found[count, ("method", "POST"), ("route", "/v1/proofs"), ("status", "202")] == 2
    assert found[count, ("method", "GET"), ("route", "/v1/proofs/{proof_id}"), ("status", "200")]
    assert found[count, ("method", "any"), ("route", "unmatched"), ("status", "404")] == 1
    assert first not in text, "labels must have an end"
