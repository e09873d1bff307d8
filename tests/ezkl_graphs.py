"""Small graphs of one operator: what ezkl proves rightly, and what it proves wrongly.

Each takes one input ``x`` and gives one float output ``y``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnx.helper import make_node as node

SIZE = 6
IMAGE = (1, 2, 5, 5)
THRESHOLDS = np.array([[0.5, -1, 0, 2, -0.25, 1.5]], np.float32)
STEP = 2.0**-8
"""The grid of inputs and weights at ezkl's default scale."""


@dataclass(frozen=True, kw_only=True)
class OneOperator:
    """Nodes from ``x`` to ``y``, and constants by name."""

    nodes: tuple[NodeProto, ...]
    shape: tuple[int, ...]
    constants: dict[str, Any]
    inputs: tuple[int, ...] = (1, SIZE)
    spread: float = 1.0
    """Standard deviation of random inputs."""

    def model(self) -> onnx.ModelProto:
        def value(name: str, shape: tuple[int, ...]) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))

        tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in self.constants.items()]
        graph = helper.make_graph(
            list(self.nodes), "g", [value("x", self.inputs)], [value("y", self.shape)], tensors
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    def rows(self, random: int = 12) -> np.ndarray:
        """Return inputs on ezkl's grid: thresholds, a step beside them, ties, random ones."""
        rng = np.random.default_rng(0)
        if self.inputs == IMAGE:
            drawn = np.rint(rng.normal(scale=self.spread, size=(random, *IMAGE)) / STEP) * STEP
            drawn[0] = -np.abs(drawn[0]) - 0.5
            return drawn.reshape(random, -1).astype(np.float32)
        t = THRESHOLDS[0]
        edges = [t, t + STEP, t - STEP, -t, np.zeros(SIZE), np.full(SIZE, 3), np.full(SIZE, -3)]
        drawn = np.rint(rng.normal(size=(random, SIZE)) / STEP / 2) * STEP * 2
        return np.vstack([*edges, drawn]).astype(np.float32)


def graph(*nodes: NodeProto, shape: tuple[int, ...] = (1, SIZE), **constants: Any) -> OneOperator:
    return OneOperator(nodes=nodes, shape=shape, constants=constants)


def image(
    *nodes: NodeProto, shape: tuple[int, ...], spread: float = 1.0, **constants: Any
) -> OneOperator:
    return OneOperator(nodes=nodes, shape=shape, constants=constants, inputs=IMAGE, spread=spread)


def to_float(name: str) -> NodeProto:
    return node("Cast", [name], ["y"], to=TensorProto.FLOAT)


def compared(kind: str) -> OneOperator:
    return graph(node(kind, ["x", "t"], ["b"]), to_float("b"), t=THRESHOLDS)


def halves(kind: str) -> OneOperator:
    split = node("Split", ["x"], ["p", "q"], axis=1)
    return graph(split, node(kind, ["p", "q"], ["b"]), to_float("b"), shape=(1, SIZE // 2))


def logic(kind: str) -> OneOperator:
    return graph(
        node("Less", ["x", "t"], ["a"]),
        node("Greater", ["x", "u"], ["b"]),
        node(kind, ["a", "b"], ["c"]),
        to_float("c"),
        t=THRESHOLDS,
        u=THRESHOLDS / 2,
    )


LARGEST = node("ArgMax", ["x"], ["i"], axis=-1, keepdims=0)

RIGHT = {
    **{f"{kind}, constant": compared(kind) for kind in ("Less", "Greater")},
    **{f"{kind}, constant": compared(kind) for kind in ("LessOrEqual", "GreaterOrEqual")},
    **{f"{kind}, computed": halves(kind) for kind in ("Less", "Greater")},
    **{f"{kind}, computed": halves(kind) for kind in ("LessOrEqual", "GreaterOrEqual")},
    **{kind: logic(kind) for kind in ("And", "Or", "Xor")},
    "Not": graph(
        node("Less", ["x", "t"], ["b"]), node("Not", ["b"], ["n"]), to_float("n"), t=THRESHOLDS
    ),
    "Where": graph(
        node("Less", ["x", "t"], ["b"]),
        node("Neg", ["x"], ["n"]),
        node("Where", ["b", "n", "x"], ["y"]),
        t=THRESHOLDS,
    ),
    "Where, constants": graph(
        node("Less", ["x", "t"], ["b"]),
        node("Where", ["b", "u", "v"], ["y"]),
        t=THRESHOLDS,
        u=2 * THRESHOLDS,
        v=np.float32(9),
    ),
    "Gather, constant": graph(
        node("Gather", ["x", "i"], ["y"], axis=1), shape=(1, 4), i=np.array([3, 0, -1, 3])
    ),
    "Gather, computed": graph(
        LARGEST, node("Gather", ["k", "i"], ["y"]), shape=(1,), k=THRESHOLDS[0]
    ),
    "GatherElements, constant": graph(
        node("GatherElements", ["x", "i"], ["y"], axis=1),
        shape=(1, 4),
        i=np.array([[3, 0, 5, 3]]),
    ),
    "GatherElements, computed": graph(
        node("ArgMax", ["x"], ["i"], axis=-1, keepdims=1),
        node("GatherElements", ["x", "i"], ["y"], axis=1),
        shape=(1, 1),
    ),
    "GatherElements, looked up": graph(
        node("Less", ["x", "t"], ["b"]),
        node("Cast", ["b"], ["c"], to=TensorProto.INT64),
        node("Add", ["c", "o"], ["a"]),
        node("Gather", ["k", "a"], ["r"]),
        node("Reshape", ["r", "s"], ["i"]),
        node("GatherElements", ["x", "i"], ["y"], axis=1),
        t=THRESHOLDS,
        o=np.array([[0, 1, 2, 0, 1, 2]]),
        k=np.array([5, 2, 0, 1]),
        s=np.array([1, SIZE]),
    ),
    "ArgMax": graph(LARGEST, to_float("i"), shape=(1,)),
    "ArgMax, channels": image(
        node("ArgMax", ["x"], ["i"], axis=1, keepdims=0), to_float("i"), shape=(1, 5, 5)
    ),
    "Abs": graph(node("Abs", ["x"], ["y"])),
    "Split": graph(
        node("Split", ["x"], ["p", "q"], axis=1), node("Sub", ["p", "q"], ["y"]), shape=(1, 3)
    ),
    "Cast, then sums": graph(
        node("Greater", ["x", "t"], ["b"]),
        node("Cast", ["b"], ["f"], to=TensorProto.FLOAT),
        node("MatMul", ["f", "w"], ["s"]),
        node("ReduceSum", ["x"], ["r"], keepdims=1),
        node("Add", ["s", "r"], ["y"]),
        shape=(1, 2),
        t=THRESHOLDS,
        w=np.arange(-6, 6, dtype=np.float32).reshape(SIZE, 2) / 4,
    ),
    "AveragePool, padding counted": image(
        node(
            "AveragePool", ["x"], ["y"],
            kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1,
        ),
        shape=(1, 2, 3, 3),
    ),
    "MaxPool, padded after Relu": image(
        node("Relu", ["x"], ["r"]),
        node("MaxPool", ["r"], ["y"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        shape=(1, 2, 3, 3),
    ),
}  # fmt: skip
"""By name: what the circuit gives is what onnxruntime gives."""

WRONG = {
    "Equal": compared("Equal"),
    "Resize, bilinear": image(
        node(
            "Resize",
            ["x", "", "s"],
            ["y"],
            mode="linear",
            coordinate_transformation_mode="half_pixel",
            nearest_mode="floor",
        ),
        shape=(1, 2, 10, 10),
        s=np.array([1, 1, 2, 2], np.float32),
    ),
    "InstanceNormalization": image(
        node("InstanceNormalization", ["x", "g", "b"], ["y"]),
        shape=IMAGE,
        spread=1 / 8,
        g=np.ones(2, np.float32),
        b=np.zeros(2, np.float32),
    ),
    "Cast to integers": graph(node("Cast", ["x"], ["i"], to=TensorProto.INT64), to_float("i")),
    "Cast to booleans": graph(node("Cast", ["x"], ["i"], to=TensorProto.BOOL), to_float("i")),
    "GatherElements, negative": graph(
        node("GatherElements", ["x", "i"], ["y"], axis=1), shape=(1, 2), i=np.array([[-1, -2]])
    ),
    "GatherElements, negative behind a cast": graph(
        node("Cast", ["i"], ["j"], to=TensorProto.INT64),
        node("GatherElements", ["x", "j"], ["y"], axis=1),
        shape=(1, 2),
        i=np.array([[-1, -2]], np.int32),
    ),
    "ReduceMean of integers": graph(
        node("Less", ["x", "t"], ["b"]),
        node("Cast", ["b"], ["i"], to=TensorProto.INT32),
        node("ReduceMean", ["i"], ["m"], axes=[1], keepdims=1),
        to_float("m"),
        shape=(1, 1),
        t=THRESHOLDS,
    ),
    "MaxPool, dilated": image(
        node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], strides=[4, 4], dilations=[2, 2]),
        shape=(1, 2, 1, 1),
    ),
    "AveragePool, padding left out": image(
        node("AveragePool", ["x"], ["y"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        shape=(1, 2, 3, 3),
    ),
    "MaxPool, padded": image(
        node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        shape=(1, 2, 3, 3),
    ),
}
"""By name: ezkl compiles it, computes something else, and says nothing."""
