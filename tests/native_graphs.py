"""Small ONNX graphs for tests of the native compiler, made without torch."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from tests.models import save
from zkserve.engines import onnx_model
from zkserve.engines.native.compiler import graph
from zkserve.engines.native.compiler.lowering import lower
from zkserve.engines.native.compiler.network import Network


class Model:
    """A graph that grows node by node; ``x`` is its input, whatever was added last its output."""

    def __init__(self, *shapes: tuple[int, ...], seed: int = 0, opset: int = 17) -> None:
        self.rng = np.random.default_rng(seed)
        self.opset = opset
        self.shapes = {("x" if i == 0 else f"x{i}"): s for i, s in enumerate(shapes)}
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.last = "x"

    def constant(self, value: Any) -> str:
        array = np.asarray(value)
        name = f"c{len(self.constants)}"
        array = array.astype(np.float32) if array.dtype.kind == "f" else array
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def normal(self, *shape: int, spread: float = 1.0) -> np.ndarray:
        return self.rng.normal(size=shape, scale=spread)

    def add(self, kind: str, *inputs: Any, **attributes: Any) -> str:
        """Add a node; an input is a name or a constant's value, by default what came last."""
        names = [i if isinstance(i, str) else self.constant(i) for i in inputs or (self.last,)]
        self.last = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, names, [self.last], **attributes))
        return self.last

    def gemm(self, inputs: int, outputs: int, source: str = "") -> str:
        weights = self.normal(outputs, inputs, spread=inputs**-0.5)
        return self.add("Gemm", source or self.last, weights, self.normal(outputs), transB=1)

    def conv(
        self, inputs: int, outputs: int, size: int | tuple[int, int], source: str = "", **kw: Any
    ) -> str:
        kernel = (size, size) if isinstance(size, int) else size
        fan = inputs // kw.get("group", 1)
        weights = self.normal(outputs, fan, *kernel, spread=(fan * kernel[0] * kernel[1]) ** -0.5)
        return self.add("Conv", source or self.last, weights, self.normal(outputs), **kw)

    def batch_norm(self, channels: int) -> str:
        rng = self.rng
        return self.add(
            "BatchNormalization",
            self.last,
            rng.uniform(0.5, 2, channels),
            rng.normal(size=channels),
            rng.normal(size=channels),
            rng.uniform(0.5, 2, channels),
        )

    def save(self, path: Path) -> Path:
        values = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in self.shapes.items()
        ]
        output = helper.make_tensor_value_info(self.last, TensorProto.FLOAT, None)
        made = helper.make_graph(self.nodes, "made", values, [output], self.constants)
        opsets = [helper.make_opsetid("", self.opset)]
        model = helper.make_model(made, opset_imports=opsets, ir_version=8)
        inferred = shape_inference.infer_shapes(model, data_prop=True).graph.output[0]
        made.output[0].CopyFrom(inferred)
        if not inferred.type.tensor_type.HasField("shape"):
            made.output[0].type.tensor_type.shape.dim.add().dim_param = "n"
        return save(made, path, self.opset)

    def load(self) -> onnx.ModelProto:
        """Return the checked model, its shapes inferred."""
        with tempfile.TemporaryDirectory() as folder:
            path = self.save(Path(folder, "model.onnx"))
            return onnx_model.load(path, operators=graph.OPERATORS, opsets=graph.OPSETS)

    def network(self) -> Network:
        return lower(graph.simplify(self.load()))

    def samples(self, count: int = 16) -> np.ndarray:
        """Return random inputs, flattened and joined."""
        size = sum(int(np.prod(shape)) for shape in self.shapes.values())
        return np.random.default_rng(1).normal(size=(count, size)).astype(np.float32)

    def expected(self, samples: np.ndarray) -> np.ndarray:
        return onnx_model.run(self.load(), samples)
