"""Each hostile model gets a sentence, the next good one is taken, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hostile import models
from tests.hostile.conftest import Owner
from zkserve.engines import engine
from zkserve.engines.child import Child

SOME = pytest.mark.parametrize("hostile", models.GATE[::6], ids=lambda hostile: hostile.name)


def test_the_bomb_is_small():
    assert len(models.BOMB()) < 160


def test_every_hostile_model_is_refused_and_the_next_good_one_is_taken(
    owner: Owner, good: tuple[Path, Path], one_child: Callable[[], Child]
):
    """All in one child: it must live through each, and check a good model afterwards."""
    child = one_child()
    for hostile in models.GATE:
        path = owner.folder / f"{hostile.name}.onnx"
        path.write_bytes(hostile.make())
        owner.is_refused(path, "--samples", good[1], says=hostile.says, codes={"model-rejected"})
        assert one_child() is child, f"{hostile.name} ended the child"
        path.unlink()
    for name in ("native", "ezkl"):
        assert engine(name).unsupported(good[0]) == ()
    assert len(models.GATE) >= 40


@pytest.mark.prover
@SOME
def test_a_hostile_model_is_refused_by_children_of_its_own(
    owner: Owner, good: tuple[Path, Path], hostile: models.Hostile
):
    path = owner.folder / "hostile.onnx"
    path.write_bytes(hostile.make())
    owner.is_refused(path, "--samples", good[1], says=hostile.says, codes={"model-rejected"})
