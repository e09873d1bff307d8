from __future__ import annotations

import asyncio
import json
from typing import Any

import anyio
import httpx
import pytest
from fastapi import FastAPI

from tests.bodies import body, tensor
from tests.fakes import FakeEngine, proof_of
from zkserve import prove
from zkserve.api import proofs
from zkserve.engines.base import Limits
from zkserve.errors import ProofInvalid
from zkserve.node import Node
from zkserve.receipt import receipt_from_dict
from zkserve.store import jobs
from zkserve.store.queue import JobQueue
from zkserve.types import JobState

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

STATES = ["accepted", "proving", "verified", "stored", "done"]


async def create(http: httpx.AsyncClient, *values: float) -> str:
    """Ask for a proof; return the path of its job."""
    given = tensor(values) if values else tensor()
    return (await http.post("/v1/proofs", json=body(given, model="tiny"))).headers["Location"]


def work(node: Node, queue: JobQueue, path: str) -> None:
    """Do what the worker does."""
    job_id = path.rpartition("/")[2]
    prove.prove(node, job_id, limits=Limits(), cancelled=lambda: False)
    prove.deliver(node, queue, job_id)


def parse(stream: str) -> list[tuple[int, str, dict[str, Any]]]:
    """Read server-sent events by the letter: comments dropped, blank lines dispatch."""
    events, fields = [], {}
    for line in stream.split("\n"):
        if line.startswith(":"):
            continue
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            events.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
            fields = {}
    return events


async def test_a_job_from_accepted_to_done(
    http: httpx.AsyncClient, node: Node, queue: JobQueue
) -> None:
    path = await create(http)
    response = await http.get(path)
    assert int(response.headers["Retry-After"]) > 0
    job = response.json()
    assert (job["state"], job["final"], job["attempts"]) == ("accepted", False, 0)
    assert (job["model"], job["version"]) == ("tiny", 1)
    assert job["links"] == {"self": path, "events": f"{path}/events", "receipt": None}
    assert job["metrics"]["prove_s"] is None
    assert job["error"] is None
    work(node, queue, path)
    response = await http.get(path)
    assert "Retry-After" not in response.headers
    job = response.json()
    assert (job["state"], job["final"]) == ("done", True)
    assert job["metrics"] == {"prove_s": 0.0, "prove_cpu_s": 0.0, "peak_rss_bytes": 1 << 20}
    assert job["links"]["receipt"] == f"{path}/receipt"


async def test_a_job_never_shows_its_opening(http: httpx.AsyncClient) -> None:
    response = await http.get(await create(http))
    assert "opening" not in response.text
    assert "salt" not in response.text


async def followed(streams: anyio.CapacityLimiter) -> None:
    """Wait until somebody follows."""
    while not streams.borrowed_tokens:  # noqa: ASYNC110 (a limiter tells nobody)
        await asyncio.sleep(0.01)


async def test_event_streams_are_not_opened_without_end(
    http: httpx.AsyncClient, app: FastAPI, node: Node, queue: JobQueue
) -> None:
    streams = app.state.service.streams
    assert streams.total_tokens == 200
    streams.total_tokens = 1
    path = await create(http)
    following = asyncio.create_task(http.get(f"{path}/events"))
    await followed(streams)
    for _ in range(2):  # a refusal takes no place either
        response = await http.get(f"{path}/events")
        assert response.status_code == 503
        assert response.json()["type"] == "urn:zkserve:error:unavailable"
        assert response.json()["remedy"]
        assert int(response.headers["Retry-After"]) > 0
    work(node, queue, path)
    assert parse((await following).text)[-1][1] == "done"
    assert streams.borrowed_tokens == 0
    assert (await http.get(f"{path}/events")).status_code == 200


async def test_a_follower_that_leaves_gives_its_place_back(
    http: httpx.AsyncClient, app: FastAPI
) -> None:
    streams = app.state.service.streams
    path = await create(http)
    following = asyncio.create_task(http.get(f"{path}/events"))
    await followed(streams)
    following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await following
    assert streams.borrowed_tokens == 0


async def test_a_failure_says_why(http: httpx.AsyncClient, node: Node) -> None:
    path = await create(http)
    with node.database.session() as session:
        job = jobs.get(session, path.rpartition("/")[2])
        jobs.fail(session, job, ProofInvalid("it came out wrong."))
    job = (await http.get(path)).json()
    assert job["state"] == "failed"
    assert job["error"] == {"code": "proof-invalid", "message": "it came out wrong."}
    response = await http.get(f"{path}/receipt")
    assert response.status_code == 409
    assert "there will be none" in response.json()["detail"]


async def test_jobs_are_listed_newest_first_and_by_state(
    http: httpx.AsyncClient, node: Node, queue: JobQueue
) -> None:
    paths = [await create(http) for _ in range(3)]
    work(node, queue, paths[1])

    async def listed(query: str) -> list[str]:
        found = (await http.get(f"/v1/proofs{query}")).json()["proofs"]
        return [job["links"]["self"] for job in found]

    assert await listed("") == paths[::-1]
    assert await listed("?limit=1") == paths[2:]
    assert await listed("?state=done") == [paths[1]]
    for bad in ("?limit=0", "?limit=1001", "?state=lost"):
        assert (await http.get(f"/v1/proofs{bad}")).status_code == 422


@pytest.mark.parametrize("suffix", ["", "/events", "/receipt"])
@pytest.mark.parametrize("proof_id", ["job_0", "0", "x" * 40])
async def test_unknown_jobs(http: httpx.AsyncClient, proof_id: str, suffix: str) -> None:
    response = await http.get(f"/v1/proofs/{proof_id}{suffix}")
    assert response.status_code == 404
    assert response.json()["type"] == "urn:zkserve:error:not-found"


@pytest.mark.parametrize("proof_id", ["x" * 41, "a%00b", "a%20b", "a%27--"])
async def test_what_cannot_be_an_id(http: httpx.AsyncClient, proof_id: str) -> None:
    assert (await http.get(f"/v1/proofs/{proof_id}")).status_code == 422


async def test_cancelling(http: httpx.AsyncClient, node: Node) -> None:
    path = await create(http)
    response = await http.delete(path)
    assert response.status_code == 200
    assert response.json()["state"] == "cancelled"
    assert (await http.delete(path)).json()["state"] == "cancelled"
    with node.database.snapshot() as session:
        assert jobs.get(session, path.rpartition("/")[2]).opening is None


async def test_what_is_done_cannot_be_cancelled(
    http: httpx.AsyncClient, node: Node, queue: JobQueue
) -> None:
    path = await create(http)
    work(node, queue, path)
    response = await http.delete(path)
    assert response.status_code == 409
    assert response.json()["type"] == "urn:zkserve:error:conflict"
    assert (await http.get(path)).json()["state"] == "done"


async def test_the_receipt_comes_when_the_proof_does(
    http: httpx.AsyncClient, node: Node, queue: JobQueue, engine: FakeEngine
) -> None:
    path = await create(http)
    early = await http.get(f"{path}/receipt")
    assert early.status_code == 409
    assert early.json()["type"] == "urn:zkserve:error:conflict"
    assert "yet" in early.json()["detail"]
    work(node, queue, path)
    receipt = receipt_from_dict((await http.get(f"{path}/receipt")).json())
    assert receipt.proof == proof_of(receipt.claim)
    assert receipt.claim.outputs == (2688, -2688)
    assert (receipt.model, receipt.version, receipt.settlement) == ("tiny", 1, None)


async def test_events_from_the_first_to_the_last(
    http: httpx.AsyncClient, node: Node, queue: JobQueue
) -> None:
    path = await create(http)
    work(node, queue, path)
    response = await http.get(f"{path}/events")
    assert response.headers["Content-Type"].startswith("text/event-stream")
    events = parse(response.text)
    assert [state for _, state, data in events if "phase" not in data["detail"]] == STATES
    ids = [event_id for event_id, _, _ in events]
    assert ids == sorted(set(ids))
    assert all(state == data["state"] for _, state, data in events)
    for number, last in enumerate(ids[:-1]):
        rest = await http.get(f"{path}/events", headers={"Last-Event-ID": str(last)})
        assert parse(rest.text) == events[number + 1 :]
    seen = await http.get(f"{path}/events", headers={"Last-Event-ID": str(ids[-1])})
    assert seen.status_code == 204, "so that browsers stop reconnecting"


async def test_events_of_other_jobs_stay_out(
    http: httpx.AsyncClient, node: Node, queue: JobQueue
) -> None:
    path, other = await create(http), await create(http)
    work(node, queue, other)
    work(node, queue, path)
    events = parse((await http.get(f"{path}/events")).text)
    with node.database.snapshot() as session:
        own = [row.id for row in jobs.events_after(session, path.rpartition("/")[2])]
    assert [event_id for event_id, _, _ in events] == own


@pytest.mark.parametrize("last", ["x", "-1", "1" * 19, "", "1.5"])
async def test_an_unusable_last_event_id(http: httpx.AsyncClient, last: str) -> None:
    path = await create(http)
    response = await http.get(f"{path}/events", headers={"Last-Event-ID": last})
    assert response.status_code == 422


async def test_a_failed_job_that_goes_on_is_followed_further(
    http: httpx.AsyncClient, node: Node, queue: JobQueue
) -> None:
    path = await create(http)
    job_id = path.rpartition("/")[2]
    with node.database.session() as session:
        jobs.fail(session, jobs.get(session, job_id), ProofInvalid("no."))
    prove.retry(node, queue, job_id)
    work(node, queue, path)
    states = [state for _, state, _ in parse((await http.get(f"{path}/events")).text)]
    assert states[:3] == ["accepted", "failed", "retry"]
    assert JobState(states[-1]) is JobState.DONE


async def test_silence_is_filled_with_heartbeats(
    app: FastAPI, node: Node, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proofs, "_POLL_S", 0.01)
    monkeypatch.setattr(proofs, "_HEARTBEAT_S", 0.02)
    path = await create(http)
    job_id = path.rpartition("/")[2]
    chunks = []
    async for chunk in proofs._stream(app.state.service, job_id, 0):
        chunks.append(chunk)
        if len(chunks) == 4:
            with node.database.session() as session:
                jobs.fail(session, jobs.get(session, job_id), ProofInvalid("no."))
    assert chunks[0].startswith("id: ")
    assert all(chunk.startswith(":") for chunk in chunks[1:4])
    assert "event: failed" in chunks[-1]
