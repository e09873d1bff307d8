"""The gate for untrusted ONNX files: what no model may hold, whatever engine is to prove it.

Everything here looks at the parsed message only, before the checker, shape inference or a runtime
see it; what shapes come out is checked after inference by :mod:`zkserve.engines.onnx_model`. Runs
in a disposable, confined child only.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, numpy_helper

from zkserve.errors import ModelRejected

MAX_FILE_BYTES = 256 << 20
MAX_GRAPH_BYTES = 8 << 20
"""The message without its tensors: nodes, names, and texts that compute nothing."""
MAX_TENSOR_ELEMENTS = 1 << 22
MAX_TOTAL_ELEMENTS = 1 << 26
"""Of all intermediate tensors together."""
MAX_PARAMETERS = 1 << 24
MAX_NODES = 2048
MAX_TENSORS = 8192
MAX_ENDS = 64
"""Inputs or outputs of a graph."""
MAX_RANK = 8
MAX_NAME = 256
MAX_NUMBERS = 64
"""Numbers in one attribute that is a list; larger constants come as tensors."""
MAX_WINDOW = 4096
"""Kernels, strides, dilations."""
ELEMENT_TYPES = frozenset(
    {
        *(TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.BOOL),
        *(TensorProto.INT32, TensorProto.INT64),
    }
)
"""What tensors inside of a model may hold; its inputs and its output are float32."""
EXPORT_AGAIN = "Correct the model, and export it again; docs/engines.md says what engines take."
_OTHER_FILES = {
    b"PK\x03\x04": "a zip archive (a torch checkpoint, .npz or .docx)",
    b"\x80": "a Python pickle",
    b"\x89HDF": "an HDF5 file (Keras)",
    b"\x93NUMPY": "a NumPy array",
    b"\x1f\x8b": "a gzip archive",
    b"\x7fELF": "a program",
    b"<": "a page of HTML or XML",
    b"{": "JSON",
}
_PLAIN = frozenset(
    getattr(AttributeProto, kind) for kind in ("FLOAT", "INT", "STRING", "TENSOR", "FLOATS", "INTS")
)


def read(path: Path) -> onnx.ModelProto:
    """Parse a file, whose tensors outside of it are not looked for.

    Raises:
        ModelRejected: it is too large, or no ONNX model, or one that computes nothing.

    """
    size = path.stat().st_size
    if not size:
        raise ModelRejected(
            "The model file is empty: it is not an ONNX model.",
            remedy="Export it again, and check that the file is whole.",
        )
    if size > MAX_FILE_BYTES:
        raise ModelRejected(
            f"The model file has {size} bytes; at most {MAX_FILE_BYTES} may come.",
            remedy=EXPORT_AGAIN,
        )
    with path.open("rb") as file:
        start = file.read(8)
    for magic, what in _OTHER_FILES.items():
        if start.startswith(magic):
            raise ModelRejected(
                f"The file is {what}, not an ONNX model.",
                remedy="Export the model to ONNX (torch.onnx.export); nothing pickled is read.",
            )
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as exc:
        raise ModelRejected(
            f"The file is not an ONNX model: {first_line(exc)}.",
            remedy="Export it again, and check that the file is whole.",
        ) from exc
    if not model.graph.node:
        raise ModelRejected("The model has no nodes: it computes nothing.", remedy=EXPORT_AGAIN)
    return model


def check(model: onnx.ModelProto, operators: frozenset[str], opsets: range) -> None:
    """Return if nothing in a parsed model is forbidden.

    Raises:
        ModelRejected: something is.

    """
    graph = model.graph
    _check_parts(model)
    _check_opset(model, opsets)
    _check_counts(graph)
    check_names(graph)
    unknown = {
        f"{node.domain or 'onnx'}.{node.op_type}"
        for node in graph.node
        if node.domain not in {"", "ai.onnx"} or node.op_type not in operators
    }
    if unknown:
        said = "Operator {} is" if len(unknown) == 1 else "Operators {} are"
        raise ModelRejected(
            said.format(", ".join(sorted(unknown))) + " not supported.",
            remedy="Use only " + ", ".join(sorted(operators)) + ".",
        )
    tensors = [*graph.initializer, *attribute_tensors(graph.node)]
    _check_tensors(tensors)
    rest = model.ByteSize() - sum(tensor.ByteSize() for tensor in tensors)
    if rest > MAX_GRAPH_BYTES:
        raise ModelRejected(
            f"The model has {rest} bytes beside its weights; at most {MAX_GRAPH_BYTES} may come.",
            remedy="Strip documentation and metadata: they compute nothing.",
        )


def check_elements(name: str, dimensions: Iterable[int]) -> int:
    """Return how many elements a tensor has.

    Raises:
        ModelRejected: too many, in too many dimensions, or a negative number of them.

    """
    shape = list(dimensions)
    if len(shape) > MAX_RANK:
        raise ModelRejected(
            f"Tensor {name!r} has {len(shape)} dimensions; at most {MAX_RANK} may come.",
            remedy=EXPORT_AGAIN,
        )
    elements = math.prod(shape)
    if any(not 0 <= size <= MAX_TENSOR_ELEMENTS for size in shape) or (
        elements > MAX_TENSOR_ELEMENTS
    ):
        raise ModelRejected(
            f"Tensor {name!r} of shape {shape} has {elements} elements; 0 to "
            f"{MAX_TENSOR_ELEMENTS} may come.",
            remedy=EXPORT_AGAIN,
        )
    return elements


def first_line(exc: Any) -> str:
    """Return how a third party's error begins, fit for a sentence."""
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0][:200].rstrip(".")


def _check_parts(model: onnx.ModelProto) -> None:
    graph = model.graph
    forbidden = {
        "functions": model.functions,
        "training information": model.training_info,
        "device configurations": getattr(model, "configuration", ()),
        "sparse tensors": graph.sparse_initializer,
        "quantisation annotations": graph.quantization_annotation,
    }
    if found := [name for name, parts in forbidden.items() if len(parts)]:
        raise ModelRejected(
            f"The model has {', '.join(found)}.",
            remedy="Export a plain graph of float32 tensors, functions inlined.",
        )


def _check_opset(model: onnx.ModelProto, opsets: range) -> None:
    domains = [opset.domain for opset in model.opset_import]
    if set(domains) - {"", "ai.onnx"}:
        raise ModelRejected(
            f"The model imports operator domains {sorted(set(domains))}.", remedy=EXPORT_AGAIN
        )
    if len(domains) != 1:
        raise ModelRejected(
            f"The model imports {len(domains)} operator sets; expected one.", remedy=EXPORT_AGAIN
        )
    version = model.opset_import[0].version
    if version not in opsets:
        raise ModelRejected(
            f"The model uses opset {version}; {opsets[0]} to {opsets[-1]} are supported.",
            remedy="Export it with opset 17.",
        )


def _check_counts(graph: onnx.GraphProto) -> None:
    bounds = {
        "nodes": (graph.node, MAX_NODES),
        "weight tensors": (graph.initializer, MAX_TENSORS),
        "inputs": (graph.input, MAX_ENDS + len(graph.initializer)),
        "outputs": (graph.output, MAX_ENDS),
    }
    for what, (parts, most) in bounds.items():
        if len(parts) > most:
            raise ModelRejected(
                f"The model has {len(parts)} {what}; at most {most} may come.", remedy=EXPORT_AGAIN
            )


def check_names(graph: onnx.GraphProto) -> None:
    """Return if all names are fit to be shown, and those of tensors are unique.

    Raises:
        ModelRejected: one is not.

    """
    inputs = [value.name for value in graph.input]
    weights = [tensor.name for tensor in graph.initializer]
    made = [name for node in graph.node for name in node.output if name]
    read = [name for node in graph.node for name in node.input if name]
    ends = [value.name for value in [*graph.output, *graph.value_info]]
    kinds = [text for node in graph.node for text in (node.op_type, node.domain, node.name)]
    keys = [attribute.name for node in graph.node for attribute in node.attribute]
    for name in {*inputs, *weights, *made, *read, *ends, *kinds, *keys}:
        # What is no UTF-8 comes as bytes.
        if not isinstance(name, str) or len(name) > MAX_NAME or not name.isprintable():
            raise ModelRejected(
                f"The name {name[:40]!r} is longer than {MAX_NAME} characters, or holds some that "
                "cannot be seen.",
                remedy="Name tensors and nodes with plain, visible characters.",
            )
    if "" in inputs or "" in weights:
        raise ModelRejected(
            "An input or a weight tensor of the model has no name.", remedy=EXPORT_AGAIN
        )
    # A weight may also be declared as an input: its default value.
    twice = [*_doubled(inputs), *_doubled(weights), *_doubled(made)]
    twice += {*made} & {*inputs, *weights}
    if twice:
        raise ModelRejected(
            f"Several tensors of the model have the name {twice[0]!r}.", remedy=EXPORT_AGAIN
        )


def _doubled(names: list[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def attribute_tensors(nodes: Iterable[onnx.NodeProto]) -> Iterator[TensorProto]:
    """Yield the tensors that nodes hold as attributes, of which all are checked.

    Raises:
        ModelRejected: an attribute holds something else than plain numbers, or too many.

    """
    for node in nodes:
        if _doubled([attribute.name for attribute in node.attribute]):
            raise ModelRejected(
                f"A node {node.op_type} has an attribute twice.", remedy=EXPORT_AGAIN
            )
        for attribute in node.attribute:
            if attribute.type not in _PLAIN or attribute.ref_attr_name:
                raise ModelRejected(
                    f"Attribute {attribute.name!r} of {node.op_type} holds a graph or other "
                    "structure; plain numbers and tensors may come.",
                    remedy=EXPORT_AGAIN,
                )
            _check_attribute(node, attribute)
            if attribute.type == AttributeProto.TENSOR:
                yield attribute.t


def _check_attribute(node: onnx.NodeProto, attribute: AttributeProto) -> None:
    name = f"Attribute {attribute.name!r} of {node.op_type}"
    if max(len(attribute.ints), len(attribute.floats), len(attribute.s)) > MAX_NUMBERS:
        raise ModelRejected(
            f"{name} is longer than {MAX_NUMBERS}.", remedy="Store larger constants as tensors."
        )
    if not all(math.isfinite(value) for value in [attribute.f, *attribute.floats]):
        raise ModelRejected(f"{name} is not finite.", remedy=EXPORT_AGAIN)
    bounds = {
        "kernel_shape": (1, MAX_WINDOW),
        "strides": (1, MAX_WINDOW),
        "dilations": (1, MAX_WINDOW),
        "pads": (0, MAX_WINDOW),
        "group": (1, MAX_TENSOR_ELEMENTS),
    }
    low, high = bounds.get(attribute.name, (-MAX_TENSOR_ELEMENTS, MAX_TENSOR_ELEMENTS))
    values = attribute.ints if attribute.type == AttributeProto.INTS else [attribute.i]
    if attribute.type in (AttributeProto.INT, AttributeProto.INTS) and not all(
        low <= value <= high for value in values
    ):
        raise ModelRejected(
            f"{name} is {list(values)}; {low} to {high} may come.", remedy=EXPORT_AGAIN
        )


def _check_tensors(tensors: Iterable[TensorProto]) -> None:
    parameters = 0
    for tensor in tensors:
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            raise ModelRejected(
                f"Tensor {tensor.name!r} lies outside the model file.",
                remedy="Save the model as one file.",
            )
        if tensor.data_type not in ELEMENT_TYPES:
            names = sorted(TensorProto.DataType.Name(kind) for kind in ELEMENT_TYPES)
            raise ModelRejected(
                f"Tensor {tensor.name!r} has elements of type {tensor.data_type}; "
                f"{', '.join(names)} may come.",
                remedy="Export the model in float32, not quantised.",
            )
        parameters += check_elements(tensor.name, tensor.dims)
        if parameters > MAX_PARAMETERS:
            raise ModelRejected(
                f"The model has more than {MAX_PARAMETERS} parameters; that many may come.",
                remedy=EXPORT_AGAIN,
            )
        _check_content(tensor)


def _check_content(tensor: TensorProto) -> None:
    if tensor.HasField("segment"):
        raise ModelRejected(f"Tensor {tensor.name!r} comes in segments.", remedy=EXPORT_AGAIN)
    try:
        array = numpy_helper.to_array(tensor)
    except Exception as exc:
        raise ModelRejected(
            f"Tensor {tensor.name!r} of shape {list(tensor.dims)} does not hold that many "
            f"elements: {first_line(exc)}.",
            remedy="Export the model again, and check that the file is whole.",
        ) from exc
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ModelRejected(
            f"Tensor {tensor.name!r} holds NaN or infinity.",
            remedy="Train the model again, or repair its weights: such a model has no answers.",
        )
