"""Untrusted ONNX models: what is allowed in, and the float answers that circuits are held against.

Runs in a disposable child only (:mod:`zkserve.engines.child`): the parser, the checker and
onnxruntime are not to be trusted with the file in a process that matters.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, shape_inference

from zkserve.engines.base import FloatArray
from zkserve.errors import InvalidInput, ModelRejected

MAX_FILE_BYTES = 256 << 20
MAX_TENSOR_ELEMENTS = 1 << 22
MAX_PARAMETERS = 1 << 24
MAX_NODES = 2048
OPSETS = range(11, 19)
OPERATORS = frozenset(
    # Each was proved and compared with onnxruntime, or is plain arithmetic or a change of shape.
    # What makes a tensor larger than its inputs (ConstantOfShape, Expand, Tile, Range, Resize) is
    # left out: a file of 142 bytes can ask for 16 GiB.
    {
        "Add",
        "AveragePool",
        "BatchNormalization",
        "Clip",
        "Concat",
        "Constant",
        "Conv",
        "Dropout",
        "Flatten",
        "Gemm",
        "GlobalAveragePool",
        "Identity",
        "LeakyRelu",
        "MatMul",
        "MaxPool",
        "Mul",
        "Neg",
        "Relu",
        "ReduceMean",
        "ReduceSum",
        "Reshape",
        "Sigmoid",
        "Slice",
        "Squeeze",
        "Sub",
        "Tanh",
        "Transpose",
        "Unsqueeze",
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
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise ModelRejected(f"The model file has {size} bytes; at most {MAX_FILE_BYTES} may come.")
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as exc:
        raise ModelRejected(f"The file is not an ONNX model: {_first_line(exc)}.") from exc
    _check_allowed(model, operators, opsets)
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as exc:
        raise ModelRejected(f"The ONNX checker refuses the model: {_first_line(exc)}.") from exc
    _make_static(model)
    return infer(model)


def infer(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with the shape of every tensor, each fixed and within the element cap."""
    try:
        inferred = shape_inference.infer_shapes(
            model, check_type=True, strict_mode=True, data_prop=True
        )
    except Exception as exc:
        raise ModelRejected(f"The model's shapes do not fit: {_first_line(exc)}.") from exc
    graph = inferred.graph
    shapes = {value.name: shape_of(value) for value in [*graph.value_info, *graph.output]}
    for node in graph.node:
        for name in filter(None, node.output):
            if name not in shapes:
                raise ModelRejected(f"The shape of tensor {name!r} cannot be told from the model.")
    for value in [*graph.input, *graph.output]:
        if value.type.tensor_type.elem_type != TensorProto.FLOAT:
            raise ModelRejected(f"Tensor {value.name!r} is not float32.")
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
        raise ModelRejected(f"{value.name!r} is no tensor of known shape.")
    if any(dimension < 1 for dimension in dimensions):
        raise ModelRejected(
            f"Tensor {value.name!r} has a free or empty dimension: {dimensions}.",
            remedy="Export the model with fixed shapes; only the batch dimension may be free.",
        )
    _check_elements(value.name, dimensions)
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
        raise ModelRejected(f"ONNX Runtime cannot run the model: {_first_line(exc)}.") from exc
    return np.stack(rows)


def float_outputs(model: str, samples: str, outputs: str) -> None:
    """Child step: run the checked model on the ``.npy`` samples and write a ``.npy`` of outputs."""
    rows = run(load(Path(model)), np.load(samples, allow_pickle=False))
    np.save(outputs, rows, allow_pickle=False)


def _check_allowed(model: onnx.ModelProto, operators: frozenset[str], opsets: range) -> None:
    graph = model.graph
    if model.functions or model.training_info or graph.sparse_initializer:
        raise ModelRejected("The model has functions, training information or sparse tensors.")
    versions = {opset.domain: opset.version for opset in model.opset_import}
    if set(versions) - {"", "ai.onnx"}:
        raise ModelRejected(f"The model imports operator domains {sorted(versions)}.")
    version = versions.get("", versions.get("ai.onnx", 0))
    if version not in opsets:
        raise ModelRejected(
            f"The model uses opset {version}; {opsets[0]} to {opsets[-1]} are supported.",
            remedy=f"Export it with opset {OPSETS[-2]}.",
        )
    if len(graph.node) > MAX_NODES:
        raise ModelRejected(f"The model has {len(graph.node)} nodes; at most {MAX_NODES} may come.")
    unknown = {
        f"{node.domain or 'onnx'}.{node.op_type}"
        for node in graph.node
        if node.domain not in {"", "ai.onnx"} or node.op_type not in operators
    }
    if len(unknown) == 1:
        raise ModelRejected(
            f"Operator {unknown.pop()} is not supported.",
            remedy="Use only " + ", ".join(sorted(operators)) + ".",
        )
    if unknown:
        raise ModelRejected(
            f"Operators {', '.join(sorted(unknown))} are not supported.",
            remedy="Use only " + ", ".join(sorted(operators)) + ".",
        )
    _check_tensors([*graph.initializer, *_attribute_tensors(graph.node)])


def _attribute_tensors(nodes: Iterable[onnx.NodeProto]) -> Iterable[TensorProto]:
    plain = {
        getattr(onnx.AttributeProto, kind)
        for kind in ("FLOAT", "INT", "STRING", "TENSOR", "FLOATS", "INTS")
    }
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type not in plain:
                raise ModelRejected(
                    f"Attribute {attribute.name!r} of {node.op_type} holds a graph or other "
                    "structure; plain numbers and tensors may come."
                )
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t


def _check_tensors(tensors: Iterable[TensorProto]) -> None:
    parameters = 0
    for tensor in tensors:
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            raise ModelRejected(
                f"Tensor {tensor.name!r} lies outside the model file.",
                remedy="Save the model as one file.",
            )
        parameters += _check_elements(tensor.name, tensor.dims)
    if parameters > MAX_PARAMETERS:
        raise ModelRejected(
            f"The model has {parameters} parameters; at most {MAX_PARAMETERS} may come."
        )


def _check_elements(name: str, dimensions: Iterable[int]) -> int:
    elements = math.prod(dimensions)
    if not 0 <= elements <= MAX_TENSOR_ELEMENTS:
        raise ModelRejected(
            f"Tensor {name!r} has {elements} elements; at most {MAX_TENSOR_ELEMENTS} may come."
        )
    return elements


def _make_static(model: onnx.ModelProto) -> None:
    for value in inputs_of(model):
        dimensions = value.type.tensor_type.shape.dim
        if dimensions and dimensions[0].dim_value < 1:
            dimensions[0].dim_value = 1
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")


def _first_line(exc: Any) -> str:
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0][:200].rstrip(".")
