"""Untrusted ONNX models: what is allowed in, and the float answers that circuits are held against.

Runs in a disposable child only (:mod:`zkserve.engines.child`): the parser, the checker and
onnxruntime are not to be trusted with the file in a process that matters.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, shape_inference

from zkserve.engines import onnx_gate
from zkserve.engines.base import FloatArray
from zkserve.engines.onnx_gate import EXPORT_AGAIN, check_elements, first_line
from zkserve.errors import InvalidInput, ModelRejected

MAX_FILE_BYTES = onnx_gate.MAX_FILE_BYTES
MAX_NODES = onnx_gate.MAX_NODES
OPSETS = range(11, 19)
OPERATORS = frozenset(
    # Each was proved and compared with onnxruntime, or is plain arithmetic or a change of shape.
    # What makes a tensor larger than its inputs (ConstantOfShape, Expand, Tile, Range, Resize) is
    # left out: a file of 142 bytes can ask for 16 GiB.
    {
        "Abs",
        "Add",
        "And",
        "ArgMax",
        "AveragePool",
        "BatchNormalization",
        "Cast",
        "Clip",
        "Concat",
        "Constant",
        "Conv",
        "Dropout",
        "Flatten",
        "Gather",
        "GatherElements",
        "Gemm",
        "GlobalAveragePool",
        "Greater",
        "GreaterOrEqual",
        "Identity",
        "LeakyRelu",
        "Less",
        "LessOrEqual",
        "MatMul",
        "MaxPool",
        "Mul",
        "Neg",
        "Not",
        "Or",
        "Relu",
        "ReduceMean",
        "ReduceSum",
        "Reshape",
        "Sigmoid",
        "Slice",
        "Split",
        "Squeeze",
        "Sub",
        "Tanh",
        "Transpose",
        "Unsqueeze",
        "Where",
        "Xor",
    }
)


def load(
    path: Path, *, operators: frozenset[str] = OPERATORS, opsets: range = OPSETS
) -> onnx.ModelProto:
    """Read, check and make static an ONNX model of float32 inputs and one float32 output.

    A free first dimension of an input (the batch) becomes 1; no other may be free. Only the given
    ``operators`` and ``opsets`` are let in.

    Raises:
        ModelRejected: the model is broken, too large, or uses what is not allowed.

    """
    model = onnx_gate.read(path)
    onnx_gate.check(model, operators, opsets)
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as exc:
        raise ModelRejected(
            f"The ONNX checker refuses the model: {first_line(exc)}.", remedy=EXPORT_AGAIN
        ) from exc
    _make_static(model)
    return infer(model)


def infer(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with the shape of every tensor, each fixed and within the element cap."""
    try:
        inferred = shape_inference.infer_shapes(
            model, check_type=True, strict_mode=True, data_prop=True
        )
    except Exception as exc:
        raise ModelRejected(
            f"The model's shapes do not fit: {first_line(exc)}.", remedy=EXPORT_AGAIN
        ) from exc
    graph = inferred.graph
    made = [*graph.value_info, *graph.output]
    for value in made:
        if value.type.tensor_type.elem_type not in onnx_gate.ELEMENT_TYPES:
            raise ModelRejected(
                f"Tensor {value.name!r} is neither float nor integer.", remedy=EXPORT_AGAIN
            )
    shapes = {value.name: shape_of(value) for value in made}
    if (total := sum(map(math.prod, shapes.values()))) > onnx_gate.MAX_TOTAL_ELEMENTS:
        raise ModelRejected(
            f"The model computes {total} numbers; at most {onnx_gate.MAX_TOTAL_ELEMENTS} may come.",
            remedy=EXPORT_AGAIN,
        )
    _check_windows(graph, shapes)
    for node in graph.node:
        for name in filter(None, node.output):
            if name not in shapes:
                raise ModelRejected(
                    f"The shape of tensor {name!r} cannot be told from the model.",
                    remedy=EXPORT_AGAIN,
                )
    for value in [*graph.input, *graph.output]:
        if value.type.tensor_type.elem_type != TensorProto.FLOAT:
            raise ModelRejected(f"Tensor {value.name!r} is not float32.", remedy=EXPORT_AGAIN)
    if len(graph.output) != 1:
        names = [value.name for value in graph.output]
        raise ModelRejected(
            f"The model has {len(names)} outputs {names}; exactly one can be proved.",
            remedy="Export the model with one output tensor, concatenated if need be.",
        )
    return inferred


def inputs_of(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Return the graph's inputs that are not parameters, in graph order."""
    parameters = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in parameters]


def shape_of(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """Return a tensor's shape.

    Raises:
        ModelRejected: a dimension is free or the tensor too large.

    """
    tensor = value.type.tensor_type
    dimensions = [d.dim_value if d.HasField("dim_value") else 0 for d in tensor.shape.dim]
    if not value.type.HasField("tensor_type") or not tensor.HasField("shape"):
        raise ModelRejected(f"{value.name!r} is no tensor of known shape.", remedy=EXPORT_AGAIN)
    if any(dimension < 1 for dimension in dimensions):
        raise ModelRejected(
            f"Tensor {value.name!r} has a free or empty dimension: {dimensions}.",
            remedy="Export the model with fixed shapes; only the batch dimension may be free.",
        )
    check_elements(value.name, dimensions)
    return tuple(dimensions)


def run(model: onnx.ModelProto, samples: FloatArray) -> FloatArray:
    """Return onnxruntime's outputs, shape ``(samples, output elements)``.

    ``samples`` has shape ``(samples, elements)``: the inputs flattened and joined in graph order.

    Raises:
        InvalidInput: the rows have another length.

    """
    specs = [(value.name, shape_of(value)) for value in inputs_of(model)]
    sizes = [math.prod(shape) for _, shape in specs]
    if samples.ndim != 2 or samples.shape[1] != sum(sizes):
        raise InvalidInput(
            f"Samples have shape {samples.shape}; expected (samples, {sum(sizes)}), each row all "
            "inputs of the model flattened and joined."
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        rows = []
        for sample in samples.astype(np.float32):
            parts = np.split(sample, np.cumsum(sizes)[:-1])
            feed = {
                name: part.reshape(shape) for (name, shape), part in zip(specs, parts, strict=True)
            }
            rows.append(session.run(None, feed)[0].reshape(-1))
    except Exception as exc:
        raise ModelRejected(
            f"ONNX Runtime cannot run the model: {first_line(exc)}.", remedy=EXPORT_AGAIN
        ) from exc
    return np.stack(rows)


def float_outputs(model: str, samples: str, outputs: str) -> None:
    """Child step: run the checked model on the ``.npy`` samples and write a ``.npy`` of outputs.

    The model is one that an engine has taken, so what any engine takes is let in.
    """
    from zkserve.engines.native.compiler import graph  # which imports this module

    checked = load(Path(model), operators=OPERATORS | graph.OPERATORS, opsets=graph.OPSETS)
    rows = run(checked, np.load(samples, allow_pickle=False))
    np.save(outputs, rows, allow_pickle=False)


def _make_static(model: onnx.ModelProto) -> None:
    for value in inputs_of(model):
        dimensions = value.type.tensor_type.shape.dim
        if dimensions and dimensions[0].dim_value < 1:
            dimensions[0].dim_value = 1
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")


def _check_windows(graph: onnx.GraphProto, shapes: dict[str, tuple[int, ...]]) -> None:
    """Refuse padding that makes an input much larger: engines may store it."""
    known = {value.name: shape_of(value) for value in graph.input} | shapes
    for node in graph.node:
        pads = next((list(a.ints) for a in node.attribute if a.name == "pads"), [])
        shape = known.get(node.input[0]) if node.input else None
        if shape is not None and len(pads) == 2 * (len(shape) - 2):
            half = len(pads) // 2
            around = [0, 0, *(pads[i] + pads[half + i] for i in range(half))]
            padded = [size + more for size, more in zip(shape, around, strict=True)]
            check_elements(f"{node.input[0]}, padded by {node.op_type}", padded)
