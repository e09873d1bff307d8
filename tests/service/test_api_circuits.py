"""Public artifacts are served to anyone; nothing else in the store ever is."""

from __future__ import annotations

import httpx
import pytest

from tests.bodies import body
from tests.fakes import publish
from zkserve import prove
from zkserve.encoding import sha256_hex
from zkserve.engines.base import Limits
from zkserve.node import Node
from zkserve.receipt import manifest_bytes, manifest_from_dict
from zkserve.store.queue import JobQueue
from zkserve.store.tables import JobRow, VersionRow

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


async def test_the_manifest_is_canonical_and_immutable(
    locked: httpx.AsyncClient, version: VersionRow
) -> None:
    response = await locked.get(f"/v1/circuits/{version.circuit_id}")
    manifest = manifest_from_dict(response.json())
    assert response.content == manifest_bytes(manifest)
    assert manifest.circuit_id == version.circuit_id
    assert "immutable" in response.headers["Cache-Control"]


@pytest.mark.parametrize(
    ("circuit_id", "status"),
    [("0x" + "0" * 64, 404), ("0x" + "0" * 63, 422), ("0x" + "G" * 64, 422), ("..", 404)],
)
async def test_unknown_circuits(locked: httpx.AsyncClient, circuit_id: str, status: int) -> None:
    assert (await locked.get(f"/v1/circuits/{circuit_id}")).status_code == status


async def test_public_artifacts(locked: httpx.AsyncClient, version: VersionRow) -> None:
    digest = version.manifest["pins"]["vk"]
    response = await locked.get(f"/v1/artifacts/{digest}")
    assert response.content == b"key tiny"
    assert response.headers["ETag"] == f'"{digest}"'
    assert response.headers["Content-Type"] == "application/octet-stream"
    assert response.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    known = await locked.get(f"/v1/artifacts/{digest}", headers={"If-None-Match": f'"{digest}"'})
    assert (known.status_code, known.content) == (304, b"")
    part = await locked.get(f"/v1/artifacts/{digest}", headers={"Range": "bytes=4-"})
    assert (part.status_code, part.content) == (206, b"tiny")


async def test_artifacts_of_a_deprecated_version_stay(
    locked: httpx.AsyncClient, node: Node, version: VersionRow
) -> None:
    with node.database.session() as session:
        session.get_one(VersionRow, version.id).deprecated_at = version.created_at
    digest = version.manifest["pins"]["vk"]
    assert (await locked.get(f"/v1/artifacts/{digest}")).status_code == 200
    assert (await locked.get(f"/v1/circuits/{version.circuit_id}")).status_code == 200


async def test_the_compiled_model_is_never_served(
    locked: httpx.AsyncClient, node: Node, version: VersionRow
) -> None:
    """The compiled model and the proving key hold the weights."""
    digest = version.manifest["pins"]["model"]
    assert node.artifacts.has(digest)
    known = {"If-None-Match": f'"{digest}"'}
    assert (await locked.get(f"/v1/artifacts/{digest}")).status_code == 404
    assert (await locked.get(f"/v1/artifacts/{digest}", headers=known)).status_code == 404


async def test_openings_and_proofs_are_never_served(
    http: httpx.AsyncClient, node: Node, queue: JobQueue
) -> None:
    answer = (await http.post("/v1/proofs", json=body(model="tiny"))).json()["parameters"]
    committed = (await http.post("/v1/inputs", json=body(model="tiny"))).json()
    for opening in (answer["opening"], committed["opening"]):
        digest = sha256_hex(opening.encode())
        assert node.artifacts.has(digest)
        assert (await http.get(f"/v1/artifacts/{digest}")).status_code == 404
    prove.prove(node, answer["proof_id"], limits=Limits(), cancelled=lambda: False)
    with node.database.snapshot() as session:
        proof = session.get_one(JobRow, answer["proof_id"]).proof
    assert proof
    assert (await http.get(f"/v1/artifacts/{proof}")).status_code == 404


async def test_a_private_pin_looks_like_an_unknown_digest(
    locked: httpx.AsyncClient, version: VersionRow
) -> None:
    answers = []
    for digest in (version.manifest["pins"]["model"], "0" * 64):
        response = await locked.get(f"/v1/artifacts/{digest}")
        shown = {k: v for k, v in response.json().items() if k != "request_id"}
        answers.append((response.status_code, str(shown).replace(digest, "")))
    assert answers[0] == answers[1]


@pytest.mark.parametrize("digest", ["0" * 63, "A" * 64, "%2e%2e%2fzkserve.db", "0" * 64 + "%0a"])
async def test_what_is_no_digest(locked: httpx.AsyncClient, digest: str) -> None:
    assert (await locked.get(f"/v1/artifacts/{digest}")).status_code in {404, 422}


async def test_a_file_that_is_gone_is_not_found(
    locked: httpx.AsyncClient, node: Node, version: VersionRow
) -> None:
    digest = version.manifest["pins"]["vk"]
    node.artifacts.delete(digest)
    assert (await locked.get(f"/v1/artifacts/{digest}")).status_code == 404


async def test_what_one_model_calls_public_says_nothing_of_another(
    locked: httpx.AsyncClient, node: Node, version: VersionRow
) -> None:
    other = publish(node, "other")
    assert (
        await locked.get(f"/v1/artifacts/{other.manifest['pins']['vk']}")
    ).content == b"key other"
    for row in (version, other):
        private = row.manifest["pins"]["model"]
        assert (await locked.get(f"/v1/artifacts/{private}")).status_code == 404
