"""Operators in ezkl beside onnxruntime: those let in are right, those refused are wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.ezkl_graphs import RIGHT, WRONG, OneOperator
from zkserve.engines import onnx_model
from zkserve.engines.base import Limits
from zkserve.engines.child import run_child

pytestmark = pytest.mark.prover

LIMITS = Limits(time_s=120, memory_bytes=4 << 30)
ROUNDING = 0.005
"""What multiplying and dividing on a grid of 1/256 may round."""


def both(one: OneOperator, folder: Path, *, prove: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the outputs of the circuit and of onnxruntime, a row for each row of inputs."""
    model, samples = folder / "m.onnx", folder / "rows.npy"
    onnx.save(one.model(), model)
    np.save(samples, one.rows())
    operators = frozenset(node.op_type for node in one.nodes)
    expected = onnx_model.run(onnx_model.load(model, operators=operators), one.rows())
    step = {"model": str(model), "samples": str(samples), "prove": prove}
    found = run_child("tests.raw_ezkl:outputs", limits=LIMITS, **step).value
    return np.array(found), expected


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_let_in_computes_and_proves_what_the_model_says(name: str, tmp_path: Path):
    found, expected = both(RIGHT[name], tmp_path, prove=True)
    np.testing.assert_allclose(found, expected, atol=ROUNDING, rtol=0)


@pytest.mark.parametrize("name", WRONG)
def test_what_is_refused_compiles_and_computes_something_else(name: str, tmp_path: Path):
    """Once this fails, ezkl does it right, and the refusal may go."""
    found, expected = both(WRONG[name], tmp_path, prove=False)
    assert np.abs(found - expected).max() > 0.1
