"""Deprecating: nothing new is taken on, here or on chain, and what was taken on is served."""

from __future__ import annotations

import pytest

from tests.chain.world import World
from zkserve.chain.contracts import RequestStatus
from zkserve.errors import ChainError, NotFound
from zkserve.register import Place, deprecate
from zkserve.store import versions

pytestmark = pytest.mark.chain


def place(world: World, **changes: str) -> Place:
    addresses = {"registry": world.registry.address, "market": world.market.address}
    return Place(chain=world.chain, solc="", **(addresses | changes))


def test_a_deprecated_version_is_offered_no_longer(world: World) -> None:
    request_id, job_id = world.proven()
    deprecate(world.node, place(world), "tiny", 1)
    deprecate(world.node, place(world), "tiny", 1)

    assert world.registry.get_version(world.version_id).deprecated
    assert not world.market.price_of(world.version_id)[1]
    with world.node.database.snapshot() as session, pytest.raises(NotFound, match="in use"):
        versions.find(session, "tiny")
    assert world.settle(job_id), "what was requested before is still served"
    assert world.market.request_of(request_id).status is RequestStatus.FULFILLED


def test_a_registered_version_is_not_deprecated_behind_its_chains_back(world: World) -> None:
    for elsewhere in (None, place(world, registry=world.market.address)):
        with pytest.raises(ChainError, match=world.registry.address):
            deprecate(world.node, elsewhere, "tiny", 1)
    with world.node.database.snapshot() as session:
        assert versions.find(session, "tiny")[1].deprecated_at is None
    assert not world.registry.get_version(world.version_id).deprecated


def test_what_was_never_published_cannot_be_deprecated(world: World) -> None:
    with pytest.raises(NotFound):
        deprecate(world.node, place(world), "tiny", 2)
