"""Circuits of the zoo, from recipe to verified proof: what their locks say is what comes out."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from zkserve import publish, recipe
from zkserve.engines.onnx_model import load, run
from zkserve.node import Node

pytestmark = pytest.mark.prover

ZOO = Path(__file__).parents[2] / "circuits"
PROVED = 2
"""Held-out samples proved of each circuit."""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    opened = Node.open(data_dir=tmp_path / "data", database_url=f"sqlite:///{tmp_path / 'z.db'}")
    opened.database.upgrade()
    yield opened
    opened.database.close()


@pytest.mark.parametrize("name", ["breast_cancer_boosted", "penguins_forest", "sunspots_gru"])
def test_a_circuit_is_published_as_locked_and_proves_what_its_model_says(
    name: str, node: Node, tmp_path: Path
):
    source = recipe.load(shutil.copytree(ZOO / name, tmp_path / name))
    srs = publish.SrsSource(development_folder=tmp_path / "srs")
    manifest = publish.publish(node, source, srs, progress=lambda _: None).manifest
    bundle, engine = node.bundle(manifest), node.engine(manifest)
    assert manifest.engine == source.engine

    samples = recipe.samples(source).held_out[:PROVED]
    model = load(recipe.export_onnx(source, tmp_path / "model.onnx"))
    for sample, expected in zip(samples, run(model, samples), strict=True):
        prediction = engine.predict(bundle, sample)
        proof = engine.prove(bundle, prediction.claim, prediction.opening)
        engine.verify(bundle, prediction.claim, proof.data)
        outputs = [manifest.output_scale.to_real(output) for output in prediction.claim.outputs]
        np.testing.assert_allclose(outputs, expected, atol=source.tolerance)
