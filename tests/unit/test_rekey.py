"""Rekeying hides the same weights or takes other ones; a new key of the same weights is no use."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from tests import fakes
from tests.models import tiny_onnx
from zkserve import publish, rekey
from zkserve.engines.weights import digests
from zkserve.errors import Conflict, ModelRejected, NotFound
from zkserve.node import Node
from zkserve.recipe import Recipe
from zkserve.store.tables import VersionRow, now
from zkserve.types import LeakBudget, WeightsMode

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
BUDGET = LeakBudget(bits_per_proof=3302, secret_bits=16_000, proofs=1)


class Publisher:
    """Records what is to be published; refuses the engines and modes it is told to."""

    def __init__(self, node: Node, refused: set[str]) -> None:
        self.node, self.refused = node, refused
        self.asked: list[tuple[Recipe, bool]] = []

    def __call__(self, node: Node, recipe: Recipe, *_: object, **options: Any) -> publish.Published:
        self.asked.append((recipe, options.get("locked", True)))
        if recipe.engine in self.refused:
            raise ModelRejected(f"{recipe.engine} cannot.")
        row = fakes.publish(node, "again")
        return publish.Published(
            model=recipe.name,
            number=row.number,
            manifest=publish.manifest_from_dict(row.manifest),
            repeated=False,
            engine_why="asked",
        )


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    model = tiny_onnx(tmp_path / "leaking.onnx", hidden=16)
    np.savez(tmp_path / "s.npz", calibration=np.zeros((1, 4)), held_out=np.zeros((1, 4)))
    return Recipe(
        name="leaking",
        description="leaks",
        source=model,
        samples_path=tmp_path / "s.npz",
        engine="ezkl",
        weights_mode=WeightsMode.FIXED,
        options=MappingProxyType({"decomp_base": 128, "decomp_legs": 4, "leak_fraction": 0.5}),
    )


@pytest.fixture
def leaking(node: Node, recipe: Recipe) -> VersionRow:
    return fakes.publish(node, "leaking", leak=BUDGET, weights_digests=digests(str(recipe.source)))


@pytest.fixture
def publisher(node: Node, monkeypatch: pytest.MonkeyPatch) -> Publisher:
    made = Publisher(node, set())
    monkeypatch.setattr(publish, "publish", made)
    return made


def run(node: Node, recipe: Recipe) -> rekey.Rekeyed:
    source = publish.SrsSource(development_folder=node.artifacts.folder)
    return rekey.rekey(node, recipe, source, progress=lambda _: None)


@pytest.mark.usefixtures("leaking")
def test_the_same_weights_are_hidden_by_the_native_engine(
    node: Node, recipe: Recipe, publisher: Publisher
) -> None:
    made = run(node, recipe)
    ((asked, locked),) = publisher.asked
    assert (asked.engine, asked.weights_mode) == ("native", WeightsMode.COMMITTED)
    assert dict(asked.options) == {}
    assert not locked, "the lock is of the circuit that leaks"
    assert made.replaced == (1,)
    assert "hides the same weights" in made.why


@pytest.mark.usefixtures("leaking")
def test_what_native_cannot_prove_is_hashed(
    node: Node, recipe: Recipe, publisher: Publisher
) -> None:
    publisher.refused = {"native"}
    run(node, recipe)
    asked, _ = publisher.asked[1]
    assert (asked.engine, asked.weights_mode) == ("ezkl", WeightsMode.HASHED)
    assert dict(asked.options) == {"decomp_base": 128, "decomp_legs": 4}


@pytest.mark.usefixtures("leaking")
def test_what_nothing_hides_needs_other_weights(
    node: Node, recipe: Recipe, publisher: Publisher
) -> None:
    publisher.refused = {"native", "ezkl"}
    with pytest.raises(ModelRejected, match=r"native: native cannot\. ezkl: ezkl") as refused:
        run(node, recipe)
    assert "Retrain" in str(refused.value.remedy)


@pytest.mark.usefixtures("leaking")
def test_retrained_weights_are_published_as_the_recipe_says(
    node: Node, recipe: Recipe, publisher: Publisher
) -> None:
    tiny_onnx(recipe.source, hidden=16, seed=1)
    made = run(node, recipe)
    assert publisher.asked == [(recipe, True)]
    assert "other ones" in made.why


def test_weights_that_cannot_be_told_apart_count_as_the_same(
    node: Node, recipe: Recipe, publisher: Publisher
) -> None:
    fakes.publish(node, "leaking", leak=BUDGET)
    tiny_onnx(recipe.source, hidden=16, seed=1)
    run(node, recipe)
    assert publisher.asked[0][0].engine == "native"


def test_there_is_nothing_to_rekey_where_nothing_leaks(
    node: Node, recipe: Recipe, leaking: VersionRow, publisher: Publisher
) -> None:
    with node.database.session() as session:
        session.get_one(VersionRow, leaking.id).deprecated_at = now()
    with pytest.raises(Conflict, match="reveals"):
        run(node, recipe)
    assert publisher.asked == []


def test_a_model_that_was_never_published_is_not_said_to_hide_its_weights(
    node: Node, recipe: Recipe, publisher: Publisher
) -> None:
    fakes.publish(node, "other", leak=BUDGET)
    with pytest.raises(NotFound, match="No version of a model 'leaking' was published"):
        run(node, recipe)
    assert publisher.asked == []
