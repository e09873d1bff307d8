"""The worker's queues and its watcher on a real node, with the job engine."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from dbos import DBOS

from tests.chain.world import PRICE_WEI, REQUESTER, World
from zkserve import worker
from zkserve.engines.base import Limits
from zkserve.store import jobs
from zkserve.types import JobState
from zkserve.worker import Worker

pytestmark = pytest.mark.chain

_PATIENCE_S = 300.0
_WINDOW_S = 3600


@contextmanager
def working(world: World) -> Iterator[None]:
    """Run a worker in this process, where the engine of the tests is found."""
    running = Worker(
        world.node,
        executor_id="worker-1",
        application_version="1",
        threads=1,
        limits=Limits(),
        attempts=1,
        chain=world.chain,
        market=world.market.address,
        poll_s=0.1,
    )
    running._register()
    DBOS.launch()
    try:
        running._listen()
        yield
    finally:
        running._stopping.set()
        DBOS.destroy(workflow_completion_timeout_sec=5)


def junk(world: World) -> None:
    """Request a prediction for an input that nobody will hand in."""
    data = world.market.request_calldata(
        world.version_id,
        secrets.token_bytes(32),
        callback_gas=0,
        deadline=world.chain.head().timestamp + _WINDOW_S,
    )
    world.send_as(REQUESTER, data, value_wei=PRICE_WEI)


def until(what: str, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not holds():
        if time.monotonic() > deadline:
            pytest.fail(f"waited too long until {what}")
        time.sleep(0.05)


def number_in(world: World, state: JobState) -> int:
    with world.node.database.snapshot() as session:
        return jobs.count_by_state(session)[state]


def test_requests_without_inputs_do_not_keep_others_from_being_served(world: World) -> None:
    many = 3 * worker._PREPARED_AT_ONCE
    for _ in range(many):
        junk(world)
    with working(world):
        until("all await", lambda: number_in(world, JobState.AWAITING_INPUT) == many)
        world.request(window_s=_WINDOW_S)
        until("it awaits, too", lambda: number_in(world, JobState.AWAITING_INPUT) == many + 1)
        world.hand_in()
        until("it is served", lambda: number_in(world, JobState.DONE) == 1)
        assert number_in(world, JobState.AWAITING_INPUT) == many

        world.anvil.rpc("evm_increaseTime", _WINDOW_S + 1)
        world.anvil.mine()
        until("the others expired", lambda: number_in(world, JobState.EXPIRED) == many)
