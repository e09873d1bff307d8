"""Models that pass the gate and try the compilers: a circuit or a sentence, never a crash."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.hostile import models
from zkserve import runtime
from zkserve.engines import engine
from zkserve.engines.base import CircuitPlan, Limits
from zkserve.errors import InvalidInput
from zkserve.types import InputMode

LIMITS = Limits(time_s=90, memory_bytes=2 << 30)
REFUSED = {
    "native": {
        "kernel_unlike_weights": "inputs or attributes",
        "weights_that_overflow": "out of range",
        "negative_variance": "variance",
        "low_above_high": "leaves out 0",
        "only_a_copy": "computes nothing",
        "constant_graph": "computes nothing",
        "one_pixel": "past 255",
    },
    "ezkl": {
        "kernel_unlike_weights": "not compatible",
        "dilated_convolution": "dilations",
        "large_weights": "calibrat",
        "weights_that_overflow": "not finite",
        "negative_variance": "not finite",
    },
}
MODELS = dict(models.compiled())


@pytest.mark.prover
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("proof_system", ["native", "ezkl"])
def test_compiling_ends_in_a_circuit_or_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proof_system: str, name: str
):
    monkeypatch.setenv(runtime.VARIABLE, str(tmp_path / "runtime"))
    before = psutil.Process().children(recursive=True)
    model, out = tmp_path / "model.onnx", tmp_path / "out"
    model.write_bytes(MODELS[name])
    shape = [d.dim_value for d in models.onnx.load(model).graph.input[0].type.tensor_type.shape.dim]
    rows = np.random.default_rng(0).normal(size=(8, int(np.prod(shape)))).astype(np.float32)
    chosen = engine(proof_system)
    plan = CircuitPlan(input_mode=InputMode.COMMITTED, weights_mode=chosen.weights_mode)
    if (says := REFUSED[proof_system].get(name)) is None:
        chosen.compile(model, plan, rows, out, limits=LIMITS)
    else:
        with pytest.raises(InvalidInput, match=says) as caught:
            chosen.compile(model, plan, rows, out, limits=LIMITS)
        assert caught.value.message.isprintable()
    assert psutil.Process().children(recursive=True) == before
    assert not list(runtime.root().iterdir())
