"""Children that stay for the next call."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from zkserve.engines import sandbox
from zkserve.engines.base import Limits
from zkserve.engines.sandbox import Reach
from zkserve.engines.warm import WarmChildren
from zkserve.errors import ChildKilled, EngineFailed

LIMITS = Limits(time_s=20, memory_bytes=1 << 30)
TESTS = Path(__file__).resolve().parents[1]
WHICH = "os:getcwd"
"""Each child works in a folder of its own; under bubblewrap all have the same process id."""


@pytest.fixture
def children() -> Iterator[WarmChildren]:
    children = WarmChildren(idle=2)
    yield children
    children.close()


@pytest.fixture
def circuits(tmp_path: Path) -> list[Path]:
    files = [tmp_path / name for name in "abc"]
    for file in files:
        file.write_text(f"of {file.name}")
    return files


def reaching(circuit: Path) -> Reach:
    return Reach(readable=(TESTS, circuit))


def which(children: WarmChildren, circuit: Path, limits: Limits = LIMITS) -> str:
    return str(children.call(WHICH, reach=reaching(circuit), limits=limits).value)


def test_the_next_call_for_a_circuit_finds_its_child_warm(
    children: WarmChildren, circuits: list[Path]
) -> None:
    first = which(children, circuits[0])
    assert which(children, circuits[0]) == first
    assert which(children, circuits[1]) != first
    assert which(children, circuits[0], Limits(time_s=19, memory_bytes=1 << 30)) != first


def test_the_child_of_a_circuit_reads_no_other(
    children: WarmChildren, circuits: list[Path]
) -> None:
    if not (sandbox.walls().bubblewrap or sandbox.walls().landlock):
        pytest.skip("nothing holds files on this machine")

    def read(file: Path) -> str:
        reach = reaching(circuits[0])
        step = "tests.child_steps:read"
        return str(children.call(step, reach=reach, limits=LIMITS, path=str(file)).value)

    assert read(circuits[0]) == "of a"
    with pytest.raises(EngineFailed, match=r"PermissionError|FileNotFoundError"):
        read(circuits[1])


def test_a_file_made_anew_is_read_by_a_child_of_its_own(
    children: WarmChildren, circuits: list[Path], tmp_path: Path
) -> None:
    def read() -> str:
        step, path = "tests.child_steps:read", circuits[0]
        return str(children.call(step, reach=reaching(path), limits=LIMITS, path=str(path)).value)

    assert read() == "of a"
    (tmp_path / "part").write_text("made anew")
    (tmp_path / "part").rename(circuits[0])
    assert read() == "made anew"


def test_an_error_of_the_work_keeps_the_child(children: WarmChildren, circuits: list[Path]) -> None:
    first = which(children, circuits[0])
    with pytest.raises(EngineFailed):
        children.call("os:no_such_function", reach=reaching(circuits[0]), limits=LIMITS)
    assert which(children, circuits[0]) == first


def test_calls_at_once_have_children_of_their_own(
    children: WarmChildren, circuits: list[Path]
) -> None:
    meanwhile: list[str] = []

    def call_another(_: str) -> None:
        meanwhile.append(which(children, circuits[0]))

    first = which(children, circuits[0])
    add = "tests.child_steps:add"
    reach = reaching(circuits[0])
    children.call(add, reach=reach, limits=LIMITS, progress=call_another, a=1, b=2)
    assert meanwhile
    assert first not in meanwhile


def test_the_longest_idle_goes_first(children: WarmChildren, circuits: list[Path]) -> None:
    first, second = which(children, circuits[0]), which(children, circuits[1])
    which(children, circuits[2])
    assert which(children, circuits[1]) == second
    assert which(children, circuits[0]) != first


def test_a_child_that_died_is_not_kept(children: WarmChildren, circuits: list[Path]) -> None:
    first = which(children, circuits[0])
    with pytest.raises(ChildKilled):
        children.call("os:abort", reach=reaching(circuits[0]), limits=LIMITS)
    assert which(children, circuits[0]) != first
