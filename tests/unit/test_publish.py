"""Which engine a model is published with, and why: before anything is built."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.models import tiny_onnx
from zkserve import publish
from zkserve.engines import ENGINES, choice, engine
from zkserve.engines.native import core
from zkserve.errors import ModelRejected, RecipeInvalid
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
