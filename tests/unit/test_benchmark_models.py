from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

pytest.importorskip("torch")

from benchmarks import models


def outputs(onnx: Path, rows: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(onnx)
    (spec,) = session.get_inputs()
    return np.stack([session.run(None, {spec.name: row.reshape(spec.shape)})[0] for row in rows])


def test_models_have_the_sizes_that_others_publish_figures_for() -> None:
    assert models.weights_of(models.cnn_264k()) == 264_031
    assert models.weights_of(models.dense_4m()) == 4_012_003


@pytest.mark.parametrize("name", [*models.BY_WEIGHTS, *models.BY_ACTIVATIONS])
def test_families_are_named_by_what_grows(name: str) -> None:
    family, _, size = name.partition("_")
    weights, activations = models.size_of(name)
    assert int(size) == {"weights": weights, "activations": activations}[family]


def test_untrained_models_are_drawn_the_same_again(tmp_path: Path) -> None:
    name = next(iter(models.BY_ACTIVATIONS))
    (tmp_path / "again").mkdir()
    first, again = models.make(name, tmp_path), models.make(name, tmp_path / "again")
    assert not first.trained
    assert first.onnx.read_bytes() == again.onnx.read_bytes()
    assert np.array_equal(first.data.held_out, again.data.held_out)


def test_model_in_other_units_is_the_same_function(tmp_path: Path) -> None:
    subject = replace(models.make(next(iter(models.BY_ACTIVATIONS)), tmp_path), unit=255.0)
    rows = subject.data.held_out
    expected = outputs(subject.onnx, rows)
    models.write_in_units(subject, tmp_path / "units.onnx")
    assert np.allclose(outputs(tmp_path / "units.onnx", rows / 255), expected, rtol=1e-4)
    assert not np.allclose(outputs(tmp_path / "units.onnx", rows), expected, rtol=1e-4)
