"""The zoo's models and larger ones of their kinds in preflight: what fits, and what does not."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from zkserve import recipe
from zkserve.engines.native import core
from zkserve.preflight import preflight
from zkserve.report import Report

pytestmark = [
    pytest.mark.prover,
    pytest.mark.skipif(not core.available(), reason="the compiled core is not installed"),
]
ZOO = Path(__file__).parents[2] / "circuits"
TREES = 1_000
"""Eleven thousand weights: hashing them takes more memory than the recipe allows."""


def look(folder: Path, **changed: object) -> Report:
    pytest.importorskip("torch")
    return preflight(replace(recipe.load(folder), **changed), progress=lambda _: None)


@pytest.mark.parametrize("name", ["breast_cancer_boosted", "penguins_forest", "sunspots_gru"])
def test_a_circuit_of_the_zoo_fits_the_way_its_recipe_asks(name: str):
    report = look(ZOO / name)
    assert report.fits
    (chosen,) = (way for way in report.ways if way.chosen)
    assert chosen.fits
    assert chosen.engine == recipe.load(ZOO / name).engine


def test_trees_too_many_to_hash_are_said_not_to_fit(tmp_path: Path):
    folder = Path(shutil.copytree(ZOO / "breast_cancer_boosted", tmp_path / "forest"))
    tensors = load_file(folder / "weights.safetensors")
    copies = TREES // len(tensors["root_biases"])
    grown = {
        name: tensor if name == "base_prediction" else np.concatenate([tensor] * copies)
        for name, tensor in tensors.items()
    }
    grown["tree_indices"] = 2 * np.arange(TREES)
    save_file(grown, folder / "weights.safetensors")
    report = look(folder)
    assert not report.fits
    (chosen,) = (way for way in report.ways if way.chosen)
    assert any("rows" in problem or "memory" in problem for problem in chosen.problems)


def test_a_recurrence_is_said_not_to_fit_the_native_engine(tmp_path: Path):
    folder = Path(shutil.copytree(ZOO / "sunspots_gru", tmp_path / "gru"))
    (folder / "circuit.lock").unlink()  # it is ezkl's, which would be a problem of its own
    report = look(folder, engine="native", weights_mode=None, options={})
    assert not report.fits
    (chosen,) = (way for way in report.ways if way.chosen)
    assert chosen.engine == "native"
    (problem,) = chosen.problems
    assert re.fullmatch(r"Mul \('.*'\) multiplies two computed values\.", problem)
