"""What the fuzz target does with a model in the confined child: all that an upload goes through."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from zkserve.engines import onnx_model, operators
from zkserve.engines.ezkl import compiling as ezkl_steps
from zkserve.engines.native import building
from zkserve.engines.native.compiler import graph
from zkserve.engines.native.options import Options
from zkserve.errors import ModelRejected

MAX_DRAWN = 1 << 16
"""Input elements; larger samples would take long to draw."""


def upload(*, model: str, samples: str, out: str) -> list[str]:
    """Survey, check and run a model, and compile it natively where native takes it.

    Returns the engines that take it, and writes ``samples`` for them.

    Raises:
        ModelRejected: neither takes it, as an owner would see it.

    """
    json.dumps(operators.survey(model=model))
    taking = []
    objections = building.unsupported(model=model)
    scope = {"operators": graph.OPERATORS, "opsets": graph.OPSETS}
    if not objections:
        taking.append("native")
    try:
        ezkl_steps.check_model(model=model)
        taking.append("ezkl")
        scope = {}
    except ModelRejected:
        if objections:
            raise
    loaded = onnx_model.load(Path(model), **scope)
    size = sum(int(np.prod(onnx_model.shape_of(v))) for v in onnx_model.inputs_of(loaded))
    if size > MAX_DRAWN:
        return []
    drawn = np.random.default_rng(0).normal(size=(4, size)).astype(np.float32)
    np.save(samples, drawn)
    onnx_model.run(loaded, drawn)
    if not objections:
        building.compile_model(model=model, calibration=samples, out=out, options=asdict(Options()))
    return taking
