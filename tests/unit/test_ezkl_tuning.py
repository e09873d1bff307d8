"""What the tuner decides without ezkl: layouts, searches kept, and options that a lock holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkserve import publish
from zkserve.engines.base import CircuitPlan, Limits
from zkserve.engines.child import Answer
from zkserve.engines.ezkl import tuning
from zkserve.engines.ezkl.options import Options
from zkserve.engines.ezkl.tuning import Layout, Numbers, Price
from zkserve.errors import EngineFailed, JobCancelled, ModelRejected, RecipeInvalid
from zkserve.lock import LOCK_NAME
from zkserve.recipe import Recipe, load
from zkserve.samples import Samples
from zkserve.types import InputMode, WeightsMode

PLAN = CircuitPlan(input_mode=InputMode.COMMITTED, weights_mode=WeightsMode.FIXED)
SAMPLES = np.arange(12, dtype=np.float32).reshape(4, 3)
FOUND = {
    "options": {"scale": 7, "input_scale": 5, "logrows": 9},
    "max_abs": 0.01,
    "prove_cpu_s": 0.2,
    "samples": 4,
    "searched": 11,
}


def _settings(cells: int, legs: int = 3, columns: int = 1, hash_rows: int = 0) -> dict[str, Any]:
    return {
        "run_args": {"decomp_base": 1024, "decomp_legs": legs, "num_inner_cols": columns},
        "required_range_checks": [[-1, 1], [0, 1023]],
        "module_sizes": {"poseidon": [hash_rows, [0]]},
        "total_assignments": cells,
    }


def _price(settings: dict[str, Any], logrows: int) -> Price:
    blocks = -(-settings["total_assignments"] // (1 << logrows))
    return Price(prove_cpu_s=float(blocks << logrows), verifier_bytes=6_000 * blocks)


def _needed(settings: dict[str, Any], _bound: int) -> int:
    return int(settings["module_sizes"]["poseidon"][0])


# Pure parts.


@given(st.integers(4, 1 << 16), st.integers(2, 8))
def test_a_reduced_base_holds_a_headroom_less_and_as_much_as_it_can(base: int, legs: int) -> None:
    lower = tuning.reduced(base, legs)
    assert lower**legs * tuning.HEADROOM <= base**legs
    assert (lower + 1) ** legs * tuning.HEADROOM > base**legs


@given(st.integers(0, 40), st.integers(0, 40), st.integers(-5, 90))
def test_the_least_good_number_is_found(low: int, size: int, threshold: int) -> None:
    high = low + size
    expected = next((n for n in range(low, high + 1) if n >= threshold), None)
    assert tuning.least(low, high, lambda n: n >= threshold) == expected


@given(st.integers(1, 500), st.integers(1, 300))
def test_spread_indices_are_distinct_and_reach_both_ends(count: int, wanted: int) -> None:
    indices = tuning.spread(count, wanted)
    assert indices == sorted(set(indices))
    assert len(indices) <= min(count, wanted)
    assert indices[0] == 0
    assert wanted == 1 or indices[-1] == count - 1


@given(st.integers(-(1 << 30), 1 << 30), st.integers(0, 1 << 30), st.integers(1, 64))
def test_a_lookup_table_holds_what_was_seen_by_the_margin(low: int, size: int, margin: int) -> None:
    start, end = tuning.widened(low, low + size, margin)
    assert start < min(low, 0) * margin <= low
    assert end > max(low + size, 0) * margin >= low + size


@given(
    st.lists(
        st.tuples(st.integers(10, 100_000), st.integers(2, 7), st.integers(0, 5_000)),
        min_size=1,
        max_size=4,
    ),
    st.integers(6, 16),
)
def test_layouts_fit_their_rows_and_come_cheapest_first(
    shapes: list[tuple[int, int, int]], max_logrows: int
) -> None:
    drawn = [_settings(cells, legs, hash_rows=hashed) for cells, legs, hashed in shapes]
    found = tuning.layouts(drawn, _price, _needed, max_logrows=max_logrows, unusable_rows=8)
    assert found == sorted(found, key=lambda layout: layout.rank)
    for layout in found:
        assert layout.logrows <= max_logrows
        assert layout.decomp_base <= min((1 << layout.logrows) - 8, tuning.MAX_BASE)
        assert layout.price.verifier_bytes <= tuning.MAX_VERIFIER_BYTES
        possible = [h for _, legs, h in shapes if legs == layout.decomp_legs]
        assert min(possible) <= (1 << layout.logrows) - 6
        Options.of(replace(PLAN, options=layout.options(Numbers(input_scale=3, scale=5, rebase=2))))


@given(st.lists(st.tuples(st.integers(2, 9), st.integers(2, 5)), max_size=12), st.integers(1, 4000))
def test_the_cheapest_layout_is_the_first_that_holds_and_small_ones_are_not_asked(
    shapes: list[tuple[int, int]], needed: int
) -> None:
    ordered = [
        Layout(
            decomp_base=base,
            decomp_legs=legs,
            inner_cols=1,
            logrows=10,
            cells=1,
            price=Price(prove_cpu_s=float(n), verifier_bytes=1),
        )
        for n, (base, legs) in enumerate(shapes)
    ]
    asked = []

    def holds(base: int, legs: int) -> bool:
        asked.append(base**legs)
        return base**legs >= needed

    lower = [tuning.reduced(a.decomp_base, a.decomp_legs) ** a.decomp_legs for a in ordered]
    expected = next((a for a, held in zip(ordered, lower, strict=True) if held >= needed), None)
    assert tuning.cheapest(ordered, holds) == expected
    assert asked == sorted(set(asked))


def test_layouts_beyond_what_a_chain_takes_are_left_out() -> None:
    found = tuning.layouts([_settings(5_000)], _price, _needed, max_logrows=13, unusable_rows=8)
    assert {layout.logrows for layout in found} == {11, 12, 13}


@given(st.integers(1, 40), st.integers(2, 7))
def test_a_layout_has_room_for_what_the_digits_of_its_own_base_need(share: int, legs: int) -> None:
    """Small bases bound little, so that more elements salt an input, and all are hashed."""

    def needed(settings: dict[str, Any], bound: int) -> int:
        assert settings["run_args"]["decomp_legs"] == legs
        return share * 1_000 // bound.bit_length()

    found = tuning.layouts([_settings(10, legs)], _price, needed, max_logrows=16, unusable_rows=8)
    fitting = {
        logrows
        for logrows in range(6, 17)
        if needed(_settings(10, legs), min(2**logrows - 8, tuning.MAX_BASE) ** legs)
        <= 2**logrows - 6
    }
    assert {layout.logrows for layout in found} == fitting


def test_another_base_changes_the_range_of_a_digit_only() -> None:
    changed = tuning.with_base(_settings(10), 500)
    assert changed["required_range_checks"] == [[-1, 1], [0, 499]]
    assert changed["run_args"]["decomp_base"] == 500
    assert changed["total_assignments"] == 10


def test_multipliers_that_change_nothing_are_tried_once() -> None:
    def numbers(rebase: int) -> Numbers:
        return Numbers(input_scale=0, scale=8, rebase=rebase)

    kept = [n.rebase for n in tuning.rebases(numbers, lambda n: min(n.rebase, 3))]
    assert kept == [1, 2, 3]


def test_multipliers_that_make_no_circuit_are_left_out() -> None:
    def numbers(rebase: int) -> Numbers:
        return Numbers(input_scale=0, scale=8, rebase=rebase)

    kept = tuning.rebases(numbers, lambda n: None if n.rebase in (2, 6) else n.rebase)
    assert [n.rebase for n in kept] == [1, 3, 4, 8]


# Searches and what is kept of them.


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"model")
    return path


class _Searcher:
    """Stands for the child that searches."""

    def __init__(self, found: dict[str, Any] | Exception) -> None:
        self.found, self.calls = found, 0

    def __call__(self, target: str, **arguments: Any) -> Answer:
        assert target == tuning.STEP
        self.calls += 1
        if isinstance(self.found, Exception):
            raise self.found
        return Answer(value=self.found, peak_rss_bytes=1, cpu_s=1.0, wall_s=1.0)


@pytest.fixture
def searching(monkeypatch: pytest.MonkeyPatch) -> Callable[..., _Searcher]:
    def make(found: dict[str, Any] | Exception = FOUND) -> _Searcher:
        searcher = _Searcher(found)
        monkeypatch.setattr(tuning, "run_child", searcher)
        return searcher

    return make


def _tune(model: Path, cache: Path, **changed: Any) -> tuning.Tuned:
    arguments = {"plan": PLAN, "calibration": SAMPLES, "tolerance": 0.1} | changed
    return tuning.tune("23.0.5", model, cache=cache, limits=Limits(), **arguments)


def test_a_search_is_made_once(
    model: Path, tmp_path: Path, searching: Callable[..., _Searcher]
) -> None:
    searcher = searching()
    first = _tune(model, tmp_path / "cache")
    assert first.options == FOUND["options"]
    assert _tune(model, tmp_path / "cache") == first
    assert searcher.calls == 1


def test_a_fresh_search_is_made_anew_and_kept(
    model: Path, tmp_path: Path, searching: Callable[..., _Searcher]
) -> None:
    searching()
    _tune(model, tmp_path)
    searcher = searching(FOUND | {"max_abs": 0.02})
    assert _tune(model, tmp_path, fresh=True).max_abs == 0.02
    assert _tune(model, tmp_path).max_abs == 0.02
    assert searcher.calls == 1


@pytest.mark.parametrize("kept", [b"", b"{", b"[]", b'{"options": {}}'])
def test_a_damaged_result_is_not_used(
    kept: bytes, model: Path, tmp_path: Path, searching: Callable[..., _Searcher]
) -> None:
    searcher = searching()
    cache = tmp_path / "cache"
    _tune(model, cache)
    (file,) = cache.iterdir()
    file.write_bytes(kept)
    assert _tune(model, cache).searched == 11
    assert searcher.calls == 2


FOREIGN: list[dict[str, Any]] = [
    {"options": {"leak_fraction": 0.5}},
    {"options": FOUND["options"] | {"freivalds": True}},
    {"options": {"scale": "8"}},
    {"options": [["scale", 8]]},
    {"max_abs": float("nan")},
    {"surprise": 1},
]


@pytest.mark.parametrize("foreign", FOREIGN)
def test_nothing_is_taken_that_tuning_does_not_decide(
    foreign: dict[str, Any], model: Path, tmp_path: Path, searching: Callable[..., _Searcher]
) -> None:
    """A file in the data folder or a child taken over could else raise a leak budget."""
    searching()
    cache = tmp_path / "cache"
    _tune(model, cache)
    (file,) = cache.iterdir()
    file.write_text(json.dumps(FOUND | foreign))
    searching(FOUND | foreign)
    with pytest.raises(EngineFailed, match="none"):
        _tune(model, cache)


@pytest.mark.parametrize("stop", [JobCancelled("Stopped."), ModelRejected("No circuit.")])
def test_a_search_that_does_not_end_leaves_nothing(
    stop: Exception, model: Path, tmp_path: Path, searching: Callable[..., _Searcher]
) -> None:
    searching(stop)
    with pytest.raises(type(stop)):
        _tune(model, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("option", sorted(tuning.CHOSEN))
def test_options_that_tuning_decides_are_not_stated_beside_it(
    option: str, model: Path, tmp_path: Path, searching: Callable[..., _Searcher]
) -> None:
    searcher = searching()
    with pytest.raises(RecipeInvalid, match=option):
        _tune(model, tmp_path, plan=replace(PLAN, options={option: 4}))
    assert searcher.calls == 0


def test_everything_that_decides_a_result_decides_its_name(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.onnx"
    other.write_bytes(b"other")
    base = ("1", model, PLAN, SAMPLES, 0.1)
    variants = [
        base,
        ("2", *base[1:]),
        ("1", other, *base[2:]),
        ("1", model, replace(PLAN, weights_mode=WeightsMode.HASHED), SAMPLES, 0.1),
        ("1", model, replace(PLAN, input_mode=InputMode.PUBLIC), SAMPLES, 0.1),
        ("1", model, replace(PLAN, options={"batch": 2}), SAMPLES, 0.1),
        ("1", model, PLAN, SAMPLES + 1, 0.1),
        ("1", model, PLAN, SAMPLES.reshape(3, 4), 0.1),
        ("1", model, PLAN, SAMPLES, 0.2),
    ]
    keys = [tuning.key(*variant) for variant in variants]
    monkeypatch.setattr(tuning, "SPACE", tuning.SPACE + 1)
    keys.append(tuning.key(*base))
    assert len(set(keys)) == len(keys)


# Recipes and their locks.

_TOML = """
name = "tiny"
description = "A tiny model."
[[inputs]]
name = "x"
shape = [1, 3]
[output]
name = "y"
shape = [1, 2]
tolerance = 0.1
[engine]
tune = true
"""


def _folder(tmp_path: Path, toml: str) -> Path:
    (tmp_path / "recipe.toml").write_text(toml)
    (tmp_path / "model.onnx").write_bytes(b"model")
    (tmp_path / "samples").mkdir()
    np.savez(tmp_path / "samples/samples.npz", calibration=SAMPLES, held_out=SAMPLES)
    return tmp_path


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return load(_folder(tmp_path, _TOML + 'name = "ezkl"'))


@pytest.fixture
def node(tmp_path: Path) -> Any:
    return SimpleNamespace(artifacts=SimpleNamespace(folder=tmp_path / "data/artifacts"))


def _tuned(node: Any, recipe: Recipe, *, fresh: bool = False) -> Recipe:
    data = Samples(calibration=SAMPLES, held_out=SAMPLES)
    recipe = replace(recipe, weights_mode=WeightsMode.FIXED)
    return publish.tuned(node, recipe, recipe.source, data, progress=lambda _: None, fresh=fresh)


def _write_lock(recipe: Recipe, **fields: Any) -> None:
    (recipe.folder / LOCK_NAME).write_text(json.dumps(fields))


def test_tuning_is_asked_of_an_engine_that_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeInvalid, match="names no engine"):
        load(_folder(tmp_path, _TOML))


def test_the_native_engine_is_not_tuned(node: Any, recipe: Recipe) -> None:
    with pytest.raises(RecipeInvalid, match="native"):
        _tuned(node, replace(recipe, engine="native"))


def test_a_recipe_that_asks_for_none_is_left_alone(node: Any, recipe: Recipe) -> None:
    recipe = replace(recipe, tune=False, weights_mode=WeightsMode.FIXED)
    assert _tuned(node, recipe) is not None
    assert _tuned(node, recipe).options == recipe.options


def test_without_a_lock_options_are_searched_for(
    node: Any, recipe: Recipe, searching: Callable[..., _Searcher]
) -> None:
    searcher = searching()
    found = _tuned(node, replace(recipe, options={"batch": 2}))
    assert found.options == {"batch": 2, **FOUND["options"]}
    assert searcher.calls == 1
    assert len(list(node.artifacts.folder.parent.joinpath(publish.TUNING_FOLDER).iterdir())) == 1


def test_the_options_of_a_lock_are_taken_without_a_search(
    node: Any, recipe: Recipe, searching: Callable[..., _Searcher]
) -> None:
    searcher = searching()
    digest = _tuned(node, recipe).tuned_for
    _write_lock(recipe, tuned_for=digest, options={"scale": 9, "batch": 1})
    node.artifacts.folder = recipe.folder / "elsewhere/artifacts"
    assert _tuned(node, recipe).options == {"scale": 9}
    assert searcher.calls == 1


def test_a_lock_of_another_model_is_not_searched_past(
    node: Any, recipe: Recipe, searching: Callable[..., _Searcher]
) -> None:
    searcher = searching()
    for fields in ({"options": {}}, {"options": {}, "tuned_for": "0" * 64}):
        _write_lock(recipe, **fields)
        with pytest.raises(RecipeInvalid, match="holds no options tuned for this model") as caught:
            _tuned(node, recipe)
        assert "--update-lock" in (caught.value.remedy or "")
    assert searcher.calls == 0
    assert _tuned(node, recipe, fresh=True).options == FOUND["options"]


@pytest.mark.parametrize("lock", ["", "[]", "{}", '{"options": 3}'])
def test_a_damaged_lock_is_said(lock: str, node: Any, recipe: Recipe) -> None:
    (recipe.folder / LOCK_NAME).write_text(lock)
    with pytest.raises(RecipeInvalid, match="damaged"):
        _tuned(node, recipe)
