"""API keys, and what a tenant may see."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import httpx
import numpy as np
import pytest
from eth_utils.address import to_checksum_address
from fastapi import FastAPI

from tests.bodies import body
from tests.fakes import FakeEngine
from zkserve import prove
from zkserve.api import create_app
from zkserve.encoding import to_hex
from zkserve.engines.base import Limits
from zkserve.errors import InvalidInput, NotFound, ProofInvalid
from zkserve.node import Node
from zkserve.receipt import receipt_from_dict
from zkserve.store import jobs, keys
from zkserve.store.queue import JobQueue
from zkserve.store.tables import RequestRow, VersionRow

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

INFER = "/v2/models/tiny/infer"


def new_key(node: Node, tenant: str) -> str:
    with node.database.session() as session:
        return keys.create(session, tenant)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_a_key_is_kept_as_its_digest_only(node: Node) -> None:
    key = new_key(node, "ada")
    scheme, prefix, secret = key.split("_")
    assert scheme == "zk"
    with node.database.snapshot() as session:
        (row,) = keys.listing(session)
        assert keys.find(session, key) is row
    assert (row.prefix, row.tenant) == (prefix, "ada")
    assert row.sha256 == hashlib.sha256(key.encode()).hexdigest()
    assert secret not in str(vars(row))
    assert len(secret) == 64


def test_keys_differ(node: Node) -> None:
    assert new_key(node, "ada") != new_key(node, "ada")


def test_altered_keys_are_not_found(node: Node) -> None:
    key = new_key(node, "ada")
    other = new_key(node, "bob")
    scheme, prefix, secret = key.split("_")
    last = "0" if secret[-1] != "0" else "1"
    altered = [
        "",
        "zk",
        "zk_",
        f"zk_{prefix}",
        f"zk_{prefix}_",
        f"zk_{prefix}_{secret[:-1]}",
        f"zk_{prefix}_{secret[:-1]}{last}",
        f"zk_{prefix}_{secret}0",
        f"zk_{prefix}_{secret.upper()}",
        f"ZK_{prefix}_{secret}",
        f"zk_{other.split('_')[1]}_{secret}",
        f"zk_%_{secret}",
        key + "\n",
        key.replace("zk", "zк"),
        hashlib.sha256(key.encode()).hexdigest(),
    ]
    with node.database.snapshot() as session:
        assert keys.find(session, key) is not None
        for wrong in altered:
            assert keys.find(session, wrong) is None, wrong
    del scheme


def test_a_revoked_key_is_not_found(node: Node) -> None:
    key, other = new_key(node, "ada"), new_key(node, "ada")
    with node.database.session() as session:
        revoked_at = keys.revoke(session, key.split("_")[1]).revoked_at
    with node.database.session() as session:
        assert keys.revoke(session, key.split("_")[1]).revoked_at == revoked_at
        assert keys.find(session, key) is None
        assert keys.find(session, other) is not None
        with pytest.raises(NotFound):
            keys.revoke(session, "nothing")


@pytest.mark.parametrize("tenant", ["", "x" * 64, "anonymous", "chain", "a\nb"])
def test_unusable_tenants_are_refused(node: Node, tenant: str) -> None:
    with node.database.session() as session, pytest.raises(InvalidInput):
        keys.create(session, tenant)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", INFER),
        ("POST", "/v2/models/tiny/versions/1/infer"),
        ("POST", "/v1/proofs"),
        ("POST", "/v1/inputs"),
        ("GET", "/v1/proofs"),
        ("GET", "/v1/proofs/job_1"),
        ("GET", "/v1/proofs/job_1/events"),
        ("GET", "/v1/proofs/job_1/receipt"),
        ("DELETE", "/v1/proofs/job_1"),
    ],
)
@pytest.mark.parametrize("header", [None, "Bearer zk_0123456789_00", "Basic abc", "Bearer"])
async def test_private_paths_need_a_key(
    locked: httpx.AsyncClient, method: str, path: str, header: str | None
) -> None:
    headers = {"Authorization": header} if header else {}
    content = body(model="tiny") if path.startswith("/v1") else body()
    response = await locked.request(
        method, path, headers=headers, json=content if method == "POST" else None
    )
    assert response.status_code == 401, response.text
    assert response.json()["type"] == "urn:zkserve:error:unauthorized"
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="zkserve"'


@pytest.mark.parametrize(
    "path",
    [
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        "/v1/models",
        "/v2/models/tiny",
        "/v2/models/tiny/ready",
        "/metrics",
        "/openapi.json",
    ],
)
async def test_public_paths_need_none(locked: httpx.AsyncClient, path: str) -> None:
    assert (await locked.get(path)).status_code == 200


async def test_every_path_is_either_public_or_needs_a_key(locked: httpx.AsyncClient) -> None:
    """A route added without a thought about keys fails here."""
    paths = (await locked.get("/openapi.json")).json()["paths"]
    private = {
        path
        for path, methods in paths.items()
        if all("security" in operation for operation in methods.values())
    }
    assert set(paths) - private == {
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        "/v1/models",
        "/v2/models/{model}",
        "/v2/models/{model}/ready",
        "/v2/models/{model}/versions/{version}",
        "/v2/models/{model}/versions/{version}/ready",
        "/v1/circuits/{circuit_id}",
        "/v1/artifacts/{digest}",
        "/v1/requests/{chain_id}/{market}/{request_id}",
        "/metrics",
    }


async def test_production_always_requires_a_key(
    node: Node, queue: JobQueue, version: VersionRow, engine: FakeEngine
) -> None:
    app: FastAPI = create_app(
        replace(node, production=True),
        queue=queue,
        require_api_key=False,
        max_body_bytes=20_000,
        max_open_jobs=20,
        max_inputs_ahead=9,
    )
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://service"
    ) as http:
        assert (await http.get("/v1/proofs")).status_code == 401
        # And a circuit on a development SRS does not work there, whoever asks.
        response = await http.post(INFER, json=body(), headers=bearer(new_key(node, "ada")))
        assert response.json()["type"] == "urn:zkserve:error:development-srs-refused"
        assert (await http.get("/v2/models/tiny/ready")).status_code == 503


async def test_a_wrong_key_is_refused_even_where_none_is_needed(http: httpx.AsyncClient) -> None:
    assert (await http.get("/v1/proofs", headers=bearer("zk_a_b"))).status_code == 401


async def test_a_tenant_sees_own_jobs_only(locked: httpx.AsyncClient, node: Node) -> None:
    ada, bob = bearer(new_key(node, "ada")), bearer(new_key(node, "bob"))
    same = {"Idempotency-Key": "one"}
    mine = (await locked.post(INFER, json=body(), headers=ada | same)).json()["parameters"]
    other = (await locked.post(INFER, json=body(), headers=bob | same)).json()["parameters"]
    assert mine["proof_id"] != other["proof_id"], "keys are a tenant's own"
    assert mine["opening"] != other["opening"]
    path = f"/v1/proofs/{mine['proof_id']}"
    assert (await locked.get(path, headers=ada)).status_code == 200
    for method, suffix in (("GET", ""), ("GET", "/events"), ("GET", "/receipt"), ("DELETE", "")):
        hidden = await locked.request(method, path + suffix, headers=bob)
        unknown = await locked.request(method, f"/v1/proofs/job_{'0' * 32}{suffix}", headers=bob)
        assert hidden.status_code == unknown.status_code == 404
        ids = (mine["proof_id"], f"job_{'0' * 32}")
        shown = [
            {k: v for k, v in answer.json().items() if k != "request_id"}
            for answer in (hidden, unknown)
        ]
        assert str(shown[0]).replace(ids[0], "") == str(shown[1]).replace(ids[1], "")
    for headers, answer in ((ada, mine), (bob, other)):
        listed = (await locked.get("/v1/proofs", headers=headers)).json()["proofs"]
        assert [job["id"] for job in listed] == [answer["proof_id"]]
    assert (await locked.get(path, headers=ada)).json()["state"] == "accepted"


async def test_two_keys_of_one_tenant_see_the_same(locked: httpx.AsyncClient, node: Node) -> None:
    first, second = bearer(new_key(node, "ada")), bearer(new_key(node, "ada"))
    answer = (await locked.post(INFER, json=body(), headers=first)).json()
    path = f"/v1/proofs/{answer['parameters']['proof_id']}"
    assert (await locked.get(path, headers=second)).status_code == 200


async def test_anybody_may_look_at_what_was_requested_on_chain(
    locked: httpx.AsyncClient, node: Node, queue: JobQueue, version: VersionRow
) -> None:
    prediction = prove.predict(node, version, np.array([1, 2, 3, 4], np.float32))
    job = prove.accept(
        node,
        queue,
        version,
        prediction,
        tenant=keys.ON_CHAIN,
        idempotency_key=None,
        request_sha256=None,
        max_open_jobs=9,
    )
    market = "0x" + "aB" * 20
    with node.database.session() as session:
        session.add(
            RequestRow(
                chain_id=31337,
                market=to_checksum_address(market),
                request_id=7,
                job_id=job.id,
                input=to_hex(prediction.claim.input),
                requester=market,
                price_wei="1",
                deadline=1,
                block=1,
                block_hash="0x" + "00" * 32,
            )
        )
    found = (await locked.get(f"/v1/requests/31337/{market.lower()}/7")).json()
    path = found["links"]["self"]
    assert path == f"/v1/proofs/{job.id}"
    prove.prove(node, job.id, limits=Limits(), cancelled=lambda: False)
    ada = bearer(new_key(node, "ada"))
    for headers in ({}, ada):
        assert (await locked.get(path, headers=headers)).json()["state"] == "verified"
        receipt = (await locked.get(f"{path}/receipt", headers=headers)).json()
        assert receipt_from_dict(receipt).claim == prediction.claim
    assert (await locked.delete(path)).status_code == 401
    assert (await locked.delete(path, headers=ada)).status_code == 404, "looking is not touching"
    assert (await locked.get("/v1/proofs", headers=ada)).json() == {"proofs": []}
    with node.database.session() as session:
        jobs.fail(session, jobs.get(session, job.id), ProofInvalid("over."))
    assert "event: failed" in (await locked.get(f"{path}/events")).text


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/requests/1/0x" + "0" * 40 + "/7", 404),
        ("/v1/requests/1/0x0/7", 422),
        ("/v1/requests/x/0x" + "0" * 40 + "/7", 422),
        ("/v1/requests/1/0x" + "0" * 40 + f"/{1 << 64}", 422),
    ],
)
async def test_unknown_requests(locked: httpx.AsyncClient, path: str, status: int) -> None:
    assert (await locked.get(path)).status_code == status
