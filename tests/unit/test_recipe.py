"""Recipes are read strictly: what is wrong is named, with a way out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkserve import recipe
from zkserve.errors import RecipeInvalid
from zkserve.types import InputMode, TensorSpec, WeightsMode

TOML = """
name = "tiny"
description = "A tiny model."
classes = ["no", "yes"]

[[inputs]]
name = "x"
shape = [1, 3]

[output]
name = "y"
shape = [1, 1]
tolerance = 0.05

[engine]
name = "ezkl"
options = { scale = 8, bounded = true }
"""
ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)
LABELS = np.array([0, 1, 0, 1])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    (folder / "samples").mkdir(parents=True)
    (folder / "recipe.toml").write_text(TOML)
    (folder / "model.onnx").write_bytes(b"never parsed here")
    np.savez(folder / "samples/samples.npz", calibration=ROWS, held_out=ROWS + 1, labels=LABELS)
    return folder


def rewrite(folder: Path, old: str, new: str) -> Path:
    assert old in TOML
    (folder / "recipe.toml").write_text(TOML.replace(old, new))
    return folder


def with_module(folder: Path, source: str) -> Path:
    (folder / "model.onnx").unlink()
    (folder / "model.py").write_text(source)
    (folder / "weights.safetensors").write_bytes(b"weights")
    return folder


def test_a_folder_gives_every_field(folder: Path) -> None:
    loaded = recipe.load(folder)
    assert loaded == recipe.Recipe(
        name="tiny",
        description="A tiny model.",
        source=folder / "model.onnx",
        samples_path=folder / "samples/samples.npz",
        engine="ezkl",
        input_mode=InputMode.COMMITTED,
        options={"scale": 8, "bounded": True},
        inputs=(TensorSpec(name="x", shape=(1, 3)),),
        output=TensorSpec(name="y", shape=(1, 1)),
        classes=("no", "yes"),
        tolerance=0.05,
        time_s=900,
        memory_bytes=16 << 30,
    )
    assert loaded.options["bounded"] is True
    assert loaded.folder == folder


def test_visibility_and_limits_are_read(folder: Path) -> None:
    more = '[visibility]\ninput = "public"\n[limits]\ntime_s = 5\nmemory_mb = 64\n[engine]'
    loaded = recipe.load(rewrite(folder, "[engine]", more))
    assert loaded.input_mode is InputMode.PUBLIC
    assert (loaded.time_s, loaded.memory_bytes) == (5, 64 << 20)


def test_engine_and_weights_mode_are_left_open_or_named(folder: Path) -> None:
    loaded = recipe.load(rewrite(folder, TOML[TOML.index("[engine]") :], ""))
    assert (loaded.engine, loaded.weights_mode, loaded.options) == (None, None, {})
    visibility = '[visibility]\nweights = "committed"\n[engine]'
    loaded = recipe.load(rewrite(folder, "[engine]", visibility))
    assert (loaded.engine, loaded.weights_mode) == ("ezkl", WeightsMode.COMMITTED)
    with pytest.raises(RecipeInvalid, match="names no engine"):
        recipe.load(rewrite(folder, 'name = "ezkl"\n', ""))


@pytest.mark.parametrize("mode", ["fixed", "polycommit"])
def test_weights_modes_that_leak_are_for_ezkl_by_name_only(folder: Path, mode: str) -> None:
    asked = f'[visibility]\nweights = "{mode}"\n[engine]'
    toml = TOML.replace("[engine]", asked)
    (folder / "recipe.toml").write_text(toml)
    assert recipe.load(folder).weights_mode == mode
    for other in ('name = "native"', ""):
        (folder / "recipe.toml").write_text(
            toml.replace('name = "ezkl"', other).split("options")[0]
        )
        with pytest.raises(RecipeInvalid, match="bit by bit"):
            recipe.load(folder)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "tiny"', 'nmae = "tiny"', r"unknown key 'nmae'.*'name'"),
        ("tolerance = 0.05", "tolerence = 0.05", r"'output.tolerence'.*'tolerance'"),
        ('[[inputs]]\nname = "x"', '[[inputs]]\nnam = "x"', r"'inputs.0.nam'.*'name'"),
        ("shape = [1, 3]", "shape = [1, 3]\nzzz = 1", r"'inputs.0.zzz'.*Known here: name, shape"),
        ("[engine]", "[limit]\ntime_s = 1\n[engine]", r"'limit'.*'limits'"),
        ("[engine]", '[visibility]\ninput = "private"\n[engine]', r"visibility.input is 'private'"),
        ("[engine]", '[visibility]\nweights = "private"\n[engine]', r"bound by nothing"),
        ("[engine]", '[visibility]\nweights = "open"\n[engine]', r"visibility.weights is 'open'"),
        ("[engine]", "[limits]\ntime_s = inf\n[engine]", r"limits.time_s is inf"),
        ('name = "tiny"', 'name = "Tiny"', r"name is 'Tiny'"),
        ('name = "tiny"', 'name = "tiny\\n"', r"name is 'tiny\\n'"),
        ('name = "tiny"', 'name = "../tiny"', r"name is"),
        ('name = "tiny"', "name = 3", r"name is 3; .*string"),
        ('name = "tiny"', "name = 'tiny", r"not TOML"),
        ('description = "A tiny model."\n', "", r"lacks description"),
        ("[output]", "[outputs]", r"unknown key 'outputs'.*'output'"),
        ("shape = [1, 3]", "shape = [1, 0]", r"inputs.0.shape.1 is 0"),
        ("shape = [1, 3]", "shape = [1, true]", r"inputs.0.shape.1 is True"),
        ("shape = [1, 3]", "shape = []", r"inputs.0.shape is \[\]"),
        ("tolerance = 0.05", "tolerance = 0", r"output.tolerance is 0"),
        ("tolerance = 0.05", "tolerance = nan", r"output.tolerance is nan"),
        ("scale = 8", "scale = [8]", r"engine.options.scale"),
        ('["no", "yes"]', '["no"]', r"names 1 classes.*among 2"),
        ("shape = [1, 1]", "shape = [1, 4]", r"names 2 classes.*among 4"),
        ("[[inputs]]", 'samples = "../else.npz"\n[[inputs]]', r"leads out of"),
        ("[[inputs]]", 'samples = "gone.npz"\n[[inputs]]', r"no file .*gone.npz"),
    ],
)
def test_what_is_wrong_in_the_file_is_named(folder: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(RecipeInvalid, match=message):
        recipe.load(rewrite(folder, old, new))


@pytest.mark.parametrize("gone", ["recipe.toml", "samples/samples.npz"])
def test_a_missing_file_is_named(folder: Path, gone: str) -> None:
    (folder / gone).unlink()
    with pytest.raises(RecipeInvalid, match=f"no file .*{gone}"):
        recipe.load(folder)


def test_a_folder_needs_one_model(folder: Path) -> None:
    (folder / "model.py").write_text("")
    with pytest.raises(RecipeInvalid, match=r"both model\.onnx and model\.py"):
        recipe.load(folder)
    (folder / "model.onnx").unlink()
    with pytest.raises(RecipeInvalid, match=r"weights\.safetensors"):
        recipe.load(folder)
    (folder / "model.py").unlink()
    with pytest.raises(RecipeInvalid, match="has no model"):
        recipe.load(folder)


def test_a_path_that_is_no_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeInvalid, match="neither a folder nor"):
        recipe.load(tmp_path / "nowhere")


def test_a_bare_model_takes_its_name_and_leaves_its_shapes_to_the_engine(folder: Path) -> None:
    bare = (folder / "model.onnx").rename(folder / "My-Net.onnx")
    loaded = recipe.load(bare, samples=folder / "samples/samples.npz")
    assert (loaded.name, loaded.inputs, loaded.output) == ("my-net", (), None)
    assert (loaded.input_mode, loaded.engine, loaded.weights_mode) == (
        InputMode.COMMITTED,
        None,
        None,
    )
    assert recipe.export_onnx(loaded, folder / "unused.onnx") == bare
    assert recipe.samples(loaded).calibration.shape == (4, 3)


def test_a_bare_model_needs_samples_and_a_fit_name(folder: Path) -> None:
    with pytest.raises(RecipeInvalid, match="--samples"):
        recipe.load(folder / "model.onnx")
    odd = (folder / "model.onnx").rename(folder / "1st model.onnx")
    with pytest.raises(RecipeInvalid, match="Rename the file"):
        recipe.load(odd, samples=folder / "samples/samples.npz")
    with pytest.raises(RecipeInvalid, match="no file"):
        recipe.load(folder / "gone.onnx", samples=folder / "samples/samples.npz")


def test_export_runs_the_owners_code_in_another_process(folder: Path, tmp_path: Path) -> None:
    source = (
        "import os\n"
        "def export(weights, out):\n"
        "    out.write_text(f'{os.getpid()} {weights.read_text()}')\n"
    )
    loaded = recipe.load(with_module(folder, source))
    out = recipe.export_onnx(loaded, tmp_path / "made.onnx")
    pid, weights = out.read_text().split()
    assert weights == "weights"
    assert int(pid) != os.getpid()
    assert not (folder / "__pycache__").exists()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import no_such_module", "imports no_such_module.*Install no_such_module"),
        ("raise ModuleNotFoundError(name='torch')", r"imports torch.*zkserve\[torch\]"),
        ("x = 1", r"failed to export .*export.*must define export"),
        ("def export(weights, out): raise ValueError('odd weights')", "ValueError: odd weights"),
        ("def export(weights, out): pass", "exported nothing"),
        ("import os\ndef export(weights, out): os.abort()", r"failed to export \(status -6\)"),
    ],
)
def test_a_failing_export_says_why_and_leaves_nothing(
    folder: Path, tmp_path: Path, source: str, message: str
) -> None:
    loaded = recipe.load(with_module(folder, source))
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(RecipeInvalid, match=message):
        recipe.export_onnx(loaded, out / "model.onnx")
    assert not list(out.iterdir())


def test_an_endless_export_is_stopped(folder: Path, tmp_path: Path) -> None:
    rewrite(folder, "[engine]", "[limits]\ntime_s = 0.3\n[engine]")
    loaded = recipe.load(
        with_module(folder, "import time\ndef export(weights, out): time.sleep(600)")
    )
    with pytest.raises(RecipeInvalid, match=r"did not export within 0\.3 s.*time_s"):
        recipe.export_onnx(loaded, tmp_path / "model.onnx")


def test_samples_are_flat_float32_whatever_they_came_as(folder: Path) -> None:
    np.savez(
        folder / "samples/samples.npz",
        calibration=ROWS.reshape(4, 1, 3).astype(np.float64),
        held_out=ROWS.astype(np.int64),
    )
    samples = recipe.samples(recipe.load(folder))
    np.testing.assert_array_equal(samples.calibration, ROWS)
    np.testing.assert_array_equal(samples.held_out, ROWS)
    assert samples.calibration.dtype == samples.held_out.dtype == np.float32
    assert samples.labels is None


def test_json_samples_say_the_same(folder: Path) -> None:
    table = {"calibration": ROWS.tolist(), "held_out": ROWS.tolist(), "labels": LABELS.tolist()}
    path = folder / "samples.json"
    path.write_text(json.dumps(table))
    samples = recipe.samples(recipe.load(folder, samples=path))
    np.testing.assert_array_equal(samples.held_out, ROWS)
    np.testing.assert_array_equal(samples.labels, LABELS)


GOOD = {"calibration": ROWS, "held_out": ROWS, "labels": LABELS}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"calibration": None}, "no array 'calibration'"),
        ({"heldout": ROWS}, "unknown array 'heldout'.*held_out"),
        ({"held_out": np.where(ROWS == 7, np.nan, ROWS)}, "held_out row 2 is not finite"),
        ({"calibration": np.full((2, 3), 1e300)}, "calibration row 0 is not finite in float32"),
        ({"held_out": np.zeros((4, 2))}, r"held_out has 2 elements.*take 3"),
        ({"calibration": np.zeros(3)}, r"calibration has shape \(3,\)"),
        ({"calibration": np.zeros((0, 3))}, r"calibration has shape \(0, 3\)"),
        ({"calibration": np.array([["a", "b", "c"]])}, "expected numbers"),
        ({"calibration": np.array([[None, 1, 2]])}, "cannot be read"),
        ({"labels": np.array([0, 1])}, r"labels is int64 of shape \(2,\)"),
        ({"labels": np.array([0.0, 1, 0, 1])}, "labels is float64"),
        ({"labels": np.array([0, 1, 2, 1])}, "labels run from 0 to 2; expected 0 to 1"),
        ({"labels": np.array([0, 1, -1, 1])}, "labels run from -1"),
    ],
)
def test_bad_samples_are_refused(folder: Path, changed: dict, message: str) -> None:
    arrays = {name: rows for name, rows in (GOOD | changed).items() if rows is not None}
    np.savez(folder / "samples/samples.npz", **arrays)
    with pytest.raises(RecipeInvalid, match=message):
        recipe.samples(recipe.load(folder))


@given(junk=st.binary(max_size=200), suffix=st.sampled_from([".npz", ".json", ".csv"]))
def test_junk_for_samples_is_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, junk: bytes, suffix: str
) -> None:
    folder = tmp_path_factory.mktemp("junk")
    (folder / "net.onnx").write_bytes(b"")
    path = folder / f"junk{suffix}"
    path.write_bytes(junk)
    with pytest.raises(RecipeInvalid):
        recipe.samples(recipe.load(folder / "net.onnx", samples=path))


@given(data=st.data())
def test_a_damaged_archive_is_a_clear_error_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "net.onnx").write_bytes(b"")
    path = folder / "samples.npz"
    np.savez_compressed(path, **GOOD)
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        samples = recipe.samples(recipe.load(folder / "net.onnx", samples=path))
    except RecipeInvalid:
        return
    np.testing.assert_array_equal(samples.held_out, ROWS)


def test_a_ragged_json_is_a_clear_error(folder: Path) -> None:
    path = folder / "samples.json"
    path.write_text('{"calibration": [[1, 2, 3], [1]], "held_out": [[1, 2, 3]]}')
    with pytest.raises(RecipeInvalid, match="cannot be read as samples"):
        recipe.samples(recipe.load(folder, samples=path))


def test_reading_recipes_loads_neither_torch_nor_onnx() -> None:
    code = (
        "import sys, zkserve.recipe;"
        "sys.exit(bool({'torch', 'onnx', 'onnxruntime', 'ezkl'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
