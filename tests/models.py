"""Small ONNX models for tests, made without torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def tiny_onnx(
    path: Path,
    inputs: int = 4,
    hidden: int = 8,
    outputs: int = 3,
    seed: int = 0,
    activation: str = "Relu",
) -> Path:
    """Write an MLP of one hidden layer, shape ``(1, inputs)`` to ``(1, outputs)``."""
    rng = np.random.default_rng(seed)
    shapes = {"w1": (hidden, inputs), "b1": (hidden,), "w2": (outputs, hidden), "b2": (outputs,)}
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "w1", "b1"], ["a"], transB=1),
            helper.make_node(activation, ["a"], ["h"]),
            helper.make_node("Gemm", ["h", "w2", "b2"], ["y"], transB=1),
        ],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", inputs])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", outputs])],
        [
            numpy_helper.from_array(rng.normal(size=shape).astype(np.float32) / 2, name)
            for name, shape in shapes.items()
        ],
    )
    return save(graph, path)


def save(graph: onnx.GraphProto, path: Path, opset: int = 17) -> Path:
    """Write a graph as a model of one opset."""
    opsets = [helper.make_opsetid("", opset)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path
