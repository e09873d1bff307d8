"""Every folder under circuits/ is a recipe that holds what its model card says."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from safetensors.numpy import load_file

from zkserve import recipe
from zkserve.engines.base import CircuitPlan
from zkserve.engines.ezkl import tuning
from zkserve.recipe import Recipe
from zkserve.types import WeightsMode

FOLDERS = sorted(
    path.parent for path in (Path(__file__).parents[2] / "circuits").glob("*/recipe.toml")
)
ALLOWED = {
    "README.md", "circuit.lock", "data.py", "model.onnx", "model.py", "recipe.toml", "samples",
    "train.py", "weights.safetensors",
}  # fmt: skip


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name, scope="module")
def circuit(request: pytest.FixtureRequest) -> Recipe:
    return recipe.load(request.param)


@pytest.fixture(scope="module")
def onnx(circuit: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if circuit.source.suffix == ".py" and importlib.util.find_spec("torch") is None:
        pytest.skip("model.py needs torch")
    return recipe.export_onnx(circuit, tmp_path_factory.mktemp("onnx") / "model.onnx")


@pytest.fixture(scope="module")
def float_outputs(circuit: Recipe, onnx: Path) -> np.ndarray:
    session = onnxruntime.InferenceSession(onnx)
    (spec,) = circuit.inputs
    rows = recipe.samples(circuit).held_out.reshape(-1, *spec.shape)
    return np.stack([session.run(None, {spec.name: row})[0] for row in rows])


def test_all_shown_circuits_are_found() -> None:
    shown = {"breast_cancer", "breast_cancer_boosted", "digits_cnn", "lenet_mnist"}
    shown |= {"penguins_forest", "sunspots_gru"}
    assert shown <= {folder.name for folder in FOLDERS}


def test_folder_is_a_recipe_of_its_own_name_and_holds_nothing_else(circuit: Recipe) -> None:
    assert circuit.name == circuit.folder.name
    found = {path.name for path in circuit.folder.iterdir()} - {"__pycache__"}
    assert found <= ALLOWED
    assert {"README.md", "train.py"} <= found


def test_samples_are_real_rows_never_shared_between_the_parts(circuit: Recipe) -> None:
    samples = recipe.samples(circuit)
    assert len(samples.calibration) >= 64
    assert len(samples.held_out) >= 100
    assert set(samples.labels) == set(range(len(circuit.classes)))
    calibration = {row.tobytes() for row in samples.calibration}
    assert not [row for row in samples.held_out if row.tobytes() in calibration]


def test_exported_graph_has_the_declared_names_and_shapes(circuit: Recipe, onnx: Path) -> None:
    session = onnxruntime.InferenceSession(onnx)
    inputs = [(value.name, tuple(value.shape)) for value in session.get_inputs()]
    outputs = [(value.name, tuple(value.shape)) for value in session.get_outputs()]
    assert inputs == [(spec.name, spec.shape) for spec in circuit.inputs]
    assert outputs == [(circuit.output.name, circuit.output.shape)]


def test_export_gives_the_same_bytes_again(circuit: Recipe, onnx: Path, tmp_path: Path) -> None:
    again = recipe.export_onnx(circuit, tmp_path / "again.onnx")
    assert again.read_bytes() == onnx.read_bytes()


def test_card_states_the_float_accuracy_that_held_out_samples_give(
    circuit: Recipe, float_outputs: np.ndarray
) -> None:
    outputs = float_outputs.reshape(len(float_outputs), -1)
    single = outputs.shape[1] == 1
    decisions = (outputs[:, 0] > 0).astype(int) if single else outputs.argmax(axis=1)
    labels = recipe.samples(circuit).labels
    accuracy = np.mean(decisions == labels)
    majority = np.bincount(labels).max() / len(labels)
    assert accuracy >= 0.9
    assert accuracy >= majority + 0.2
    card = (circuit.folder / "README.md").read_text(encoding="utf-8")
    assert re.search(rf"\| float model \| {accuracy:.1%}".replace("%", " %"), card)
    assert f"{len(labels):,} held-out" in card
    assert re.search(r"\| circuit \| \d+\.\d %", card)


def test_card_states_how_many_weights_there_are(circuit: Recipe) -> None:
    weights = sum(
        tensor.size for tensor in load_file(circuit.folder / "weights.safetensors").values()
    )
    card = (circuit.folder / "README.md").read_text(encoding="utf-8")
    assert f"{weights:,} weights" in card


def test_card_says_what_is_not_proved(circuit: Recipe) -> None:
    card = (circuit.folder / "README.md").read_text(encoding="utf-8")
    for needed in ("Not proved:", f"tolerance of {circuit.tolerance:g}"):
        assert needed in card


def test_card_names_the_licence_of_the_data(circuit: Recipe) -> None:
    card = (circuit.folder / "README.md").read_text(encoding="utf-8")
    assert re.search(r"CC BY(-SA)? \d\.0|CC0 1\.0|public domain", card)


def test_card_and_recipe_are_those_of_the_lock(circuit: Recipe) -> None:
    path = circuit.folder / "circuit.lock"
    if not path.exists():
        pytest.skip("not published yet")
    lock = json.loads(path.read_text(encoding="utf-8"))
    agreement = lock["agreement"]
    assert circuit.options.items() <= lock["options"].items()
    assert circuit.tune or lock["options"].keys() == circuit.options.keys()
    assert agreement["max_abs"] <= circuit.tolerance
    assert agreement["samples"] == len(recipe.samples(circuit).held_out)
    card = (circuit.folder / "README.md").read_text(encoding="utf-8")
    accuracy = f"{agreement['circuit_accuracy']:.1%}".replace("%", " %")
    assert f"| circuit | {accuracy} |" in card


def test_tuned_options_in_a_lock_are_those_of_this_very_model(circuit: Recipe, onnx: Path) -> None:
    if not circuit.tune:
        pytest.skip("not tuned")
    lock = json.loads((circuit.folder / "circuit.lock").read_text(encoding="utf-8"))
    plan = CircuitPlan(
        input_mode=circuit.input_mode,
        weights_mode=WeightsMode(lock["weights_mode"]),
        options=circuit.options,
    )
    calibration = recipe.samples(circuit).calibration
    expected = tuning.key(lock["engine_version"], onnx, plan, calibration, circuit.tolerance)
    assert lock["tuned_for"] == expected
