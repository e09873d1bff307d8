"""Children that stay for the next call."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from zkserve.engines.base import Limits
from zkserve.engines.warm import WarmChildren
from zkserve.errors import ChildKilled, EngineFailed

LIMITS = Limits(time_s=20, memory_bytes=1 << 30)
PID = "os:getpid"


@pytest.fixture
def children() -> Iterator[WarmChildren]:
    children = WarmChildren(idle=2)
    yield children
    children.close()


def pid(children: WarmChildren, key: str, limits: Limits = LIMITS) -> int:
    return int(children.call(key, PID, limits=limits).value)


def test_the_next_call_of_a_key_finds_its_child_warm(children: WarmChildren) -> None:
    first = pid(children, "a")
    assert pid(children, "a") == first
    assert pid(children, "b") != first
    assert pid(children, "a", Limits(time_s=19, memory_bytes=1 << 30)) != first


def test_an_error_of_the_work_keeps_the_child(children: WarmChildren) -> None:
    first = pid(children, "a")
    with pytest.raises(EngineFailed):
        children.call("a", "os:no_such_function", limits=LIMITS)
    assert pid(children, "a") == first


def test_calls_at_once_have_children_of_their_own(children: WarmChildren) -> None:
    meanwhile: list[int] = []

    def call_another(_: str) -> None:
        meanwhile.append(pid(children, "a"))

    first = pid(children, "a")
    children.call("a", "tests.child_steps:add", limits=LIMITS, progress=call_another, a=1, b=2)
    assert meanwhile
    assert first not in meanwhile


def test_the_longest_idle_goes_first(children: WarmChildren) -> None:
    first, second = pid(children, "a"), pid(children, "b")
    pid(children, "c")
    assert pid(children, "b") == second
    assert pid(children, "a") != first


def test_a_child_that_died_is_not_kept(children: WarmChildren) -> None:
    first = pid(children, "a")
    with pytest.raises(ChildKilled):
        children.call("a", "os:abort", limits=LIMITS)
    assert pid(children, "a") != first
