"""What runs in the child that looks at a model before anything is made of it: no key, no tile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from zkserve.engines import onnx_model
from zkserve.engines.answering import report
from zkserve.engines.native import cost, steps
from zkserve.engines.native.compiler import compile as compiler
from zkserve.engines.native.compiler.graph import OPERATORS, OPSETS
from zkserve.engines.native.evm import solidity
from zkserve.engines.native.options import Options

STAND_IN_SAMPLES = 64
"""Rows of drawn numbers where there are no samples: no size of a circuit depends on them."""
_ANY_SRS_DIGEST = bytes(range(1, 33))
_ANY_G2 = 4 * _ANY_SRS_DIGEST


def estimate(
    *, model: str, calibration: str | None, options: dict[str, Any], hidden: bool
) -> dict[str, Any]:
    """Return what the circuit of a model would cost, as :meth:`Estimate.to_dict` gives it.

    It compiles the model, commits to nothing and keeps nothing.

    Raises:
        ModelRejected: the model cannot be compiled.
        DescriptionInvalid: the input mode does not fit the circuit.

    """
    asked = Options(**options)
    if calibration is None:
        loaded = onnx_model.load(Path(model), operators=OPERATORS, opsets=OPSETS)
        shapes = [onnx_model.shape_of(value) for value in onnx_model.inputs_of(loaded)]
        elements = sum(int(np.prod(shape)) for shape in shapes)
        drawn = np.random.default_rng(0).normal(size=(STAND_IN_SAMPLES, elements))
        samples = drawn.astype(np.float32)
    else:
        samples = np.load(calibration, allow_pickle=False)
    compiled = compiler.compile_onnx(Path(model), samples, asked, report)
    report("writing the verifier")
    source = solidity.generate(
        compiled.data, srs_digest=_ANY_SRS_DIGEST, g2_s=_ANY_G2, mode=int(hidden)
    )
    return cost.estimate(
        compiled.description,
        rows=compiled.interface.rows,
        hidden=hidden,
        weight_bytes=asked.weight_bytes,
        source_bytes=len(source),
        yardstick_cpu_s=cost.yardstick(),
        threads=steps.threads(),
    ).to_dict()
