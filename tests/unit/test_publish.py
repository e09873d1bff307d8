"""Which engine a model is published with, and why: before anything is built."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from tests import fakes
from tests.models import tiny_onnx
from zkserve import lock, publish
from zkserve.engines import ENGINES, choice, engine
from zkserve.engines.child import no_progress
from zkserve.engines.ezkl import tuning
from zkserve.engines.native import core
from zkserve.errors import ModelRejected, RecipeInvalid
from zkserve.node import Node
from zkserve.recipe import Recipe
from zkserve.types import WeightsMode


class _Engine:
    """Proves nothing; objects to what it was told to object to."""

    weights_mode = WeightsMode.COMMITTED

    def __init__(self, *objections: str) -> None:
        self._objections = objections

    def unsupported(self, model: Path) -> tuple[str, ...]:
        del model
        return self._objections


def _recipe(engine: str | None = None, weights_mode: WeightsMode | None = None) -> Recipe:
    nowhere = Path("nowhere")
    return Recipe(
        name="tiny",
        description="",
        source=nowhere,
        samples_path=nowhere,
        engine=engine,
        weights_mode=weights_mode,
    )


def _decided(
    monkeypatch: pytest.MonkeyPatch, recipe: Recipe, **engines: _Engine
) -> tuple[Recipe, str]:
    monkeypatch.setattr(publish, "engine", engines.__getitem__)
    monkeypatch.setattr(choice, "engine", engines.__getitem__)
    return publish._with_engine(recipe, Path("nowhere"), lambda _: None)


def test_native_is_taken_where_it_supports_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, why = _decided(monkeypatch, _recipe(), native=_Engine(), ezkl=_Engine())
    assert (recipe.engine, recipe.weights_mode) == ("native", WeightsMode.COMMITTED)
    assert why == "it can prove all that the model needs"


def test_ezkl_is_taken_where_native_does_not_and_the_reason_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lacking = _Engine("Operator Exp is not supported.", "Nor is another.")
    ezkl = _Engine()
    ezkl.weights_mode = WeightsMode.HASHED
    recipe, why = _decided(monkeypatch, _recipe(), native=lacking, ezkl=ezkl)
    assert (recipe.engine, recipe.weights_mode) == ("ezkl", WeightsMode.HASHED)
    assert why == "native cannot: Operator Exp is not supported"


def test_a_model_that_no_engine_supports_is_rejected_with_every_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ModelRejected, match=r"native: One\. ezkl: Two\."):
        _decided(monkeypatch, _recipe(), native=_Engine("One."), ezkl=_Engine("Two."))


def test_an_engine_that_is_named_is_taken_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    named = _recipe("native", WeightsMode.HASHED)
    recipe, why = _decided(monkeypatch, named, native=_Engine("It would object."))
    assert recipe == named
    assert why == "the recipe names it"


def test_nothing_is_built_before_an_engine_was_decided_on() -> None:
    with pytest.raises(RecipeInvalid, match="no engine yet"):
        publish._engine_of(_recipe())


@pytest.mark.skipif(not core.available(), reason="the compiled core is not installed")
def test_every_engine_supports_a_small_perceptron(tmp_path: Path) -> None:
    model = tiny_onnx(tmp_path / "tiny.onnx")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    for name in ENGINES:
        assert engine(name).unsupported(model) == (), name
        assert engine(name).unsupported(broken) != (), name


@pytest.fixture
def tuned_recipe(tmp_path: Path) -> Recipe:
    """A recipe that asks for tuning, with samples and a lock of the options found for its model."""
    (tmp_path / "recipe.toml").touch()
    rows = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    np.savez(tmp_path / "samples.npz", calibration=rows, held_out=rows)
    recipe = Recipe(
        name="tuned",
        description="",
        source=tiny_onnx(tmp_path / "model.onnx"),
        samples_path=tmp_path / "samples.npz",
        engine="ezkl",
        weights_mode=WeightsMode.FIXED,
        tune=True,
    )
    digest = lock.tuning_digest(recipe, recipe.source, publish.samples(recipe).calibration)
    path = tmp_path / lock.LOCK_NAME
    path.write_text(json.dumps({"tuned_for": digest, "options": {"scale": 7}}))
    return recipe


@pytest.fixture
def options(
    node: Node, tuned_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, object]]:
    """Return the options that tuning gives; a search finds scale 9."""
    found = tuning.Tuned(options={"scale": 9}, max_abs=0, prove_cpu_s=1, samples=1, searched=1)
    monkeypatch.setattr(tuning, "tune", lambda *_, **__: found)
    data = publish.samples(tuned_recipe)

    def options(**how: bool) -> dict[str, object]:
        recipe, onnx = tuned_recipe, tuned_recipe.source
        return dict(publish.tuned(node, recipe, onnx, data, progress=no_progress, **how).options)

    return options


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_lock_of_other_weights_is_searched_anew_only_where_it_may_be_stale(
    tuned_recipe: Recipe, options: Callable[..., dict[str, object]]
) -> None:
    assert options() == options(stale=True) == {"scale": 7}, "the lock's own options are known"
    assert options(fresh=True) == {"scale": 9}
    tiny_onnx(tuned_recipe.source, seed=1)
    with pytest.raises(RecipeInvalid, match="no options tuned for this model"):
        options()
    assert options(stale=True) == {"scale": 9}
    (tuned_recipe.folder / lock.LOCK_NAME).write_text("cut o")
    with pytest.raises(RecipeInvalid, match="damaged"):
        options()
    assert options(stale=True) == {"scale": 9}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_lock_that_pins_something_else_is_written_anew_only_where_that_is_asked_for(
    node: Node, tuned_recipe: Recipe
) -> None:
    manifest = replace(fakes.manifest(node, "tuned"), engine="ezkl")
    recipe = replace(tuned_recipe, options=MappingProxyType({"scale": 9}), tuned_for="ab")
    path = recipe.folder / lock.LOCK_NAME
    before = path.read_text()
    with pytest.raises(RecipeInvalid):
        publish._check_lock(recipe, manifest, update=False)
    assert path.read_text() == before
    publish._check_lock(recipe, manifest, update=False, renew=True)
    written = path.read_text()
    assert json.loads(written)["options"] == {"scale": 9}
    path.write_text(written + "\n")
    publish._check_lock(recipe, manifest, update=False, renew=True)
    assert path.read_text() == written + "\n", "what holds is left alone"
