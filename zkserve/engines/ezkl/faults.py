"""What ezkl compiles and proves without a word, and wrongly: refused before it is asked.

Each was found by comparing circuits with onnxruntime, and has a test that shows the wheel to be
wrong still. ``OPERATORS`` has those that are refused in any form, and so are on no list of those
let in; what :func:`find` yields is wrong in some forms only. Runs in a disposable child only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from zkserve.engines import onnx_model
from zkserve.errors import ModelRejected

OPERATORS: Mapping[str, str] = MappingProxyType(
    {
        "Equal": "gives 2^-scale for true instead of 1",
        "InstanceNormalization": "is as much as 0.5 away where inputs vary little (a group "
        "normalisation is exported as it)",
        "Resize": "gives the nearest value where the model asks for a bilinear one",
    }
)
"""What it makes of each operator that is refused in any form, said of ezkl."""
_NEVER_NEGATIVE = frozenset(
    {"Abs", "And", "ArgMax", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "Or"}
    | {"Relu", "Sigmoid", "Xor"}
)
_AS_FIRST_INPUT = frozenset(
    {"Cast", "Flatten", "Gather", "GatherElements", "Identity", "Reshape", "Slice", "Squeeze"}
    | {"Transpose", "Unsqueeze"}
)
_AS_ALL_INPUTS = frozenset({"Add", "Concat", "Mul"})
_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE})


@dataclass(frozen=True, eq=False)
class Fault:
    """A node that is proved wrongly: ``how``, said of ezkl, and what to do."""

    node: NodeProto
    how: str
    remedy: str


def load(path: Path) -> onnx.ModelProto:
    """Read a model as :func:`.onnx_model.load` does, and refuse what ezkl gets wrong.

    Raises:
        ModelRejected: the model is not allowed.

    """
    model = onnx_model.load(path)
    check(model)
    return model


def check(model: onnx.ModelProto) -> None:
    """Return if no node of a checked and inferred model is known to be proved wrongly.

    Raises:
        ModelRejected: it names the first node that is.

    """
    for fault in find(model):
        raise ModelRejected(
            f"ezkl proves {fault.node.op_type} ({fault.node.output[0]!r}) without a word and "
            f"wrongly: it {fault.how}.",
            remedy=fault.remedy,
        )


def find(model: onnx.ModelProto) -> Iterator[Fault]:
    """Yield the nodes of a checked and inferred model that ezkl is known to prove wrongly."""
    graph = model.graph
    kinds = {
        value.name: value.type.tensor_type.elem_type for value in [*graph.value_info, *graph.input]
    }
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    not_negative = {name for name, array in constants.items() if not np.any(array < 0)}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            array = constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
            if not np.any(array < 0):
                not_negative.add(node.output[0])
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        match node.op_type:
            case "AveragePool":
                if _padded(attributes) and not attributes.get("count_include_pad", 0):
                    yield Fault(
                        node,
                        "counts the padding into averages that leave it out",
                        "Set count_include_pad=True, or do not pad.",
                    )
            case "Cast":
                floats = kinds.get(node.input[0]) in _FLOATS and node.input[0] not in constants
                if floats and attributes["to"] not in _FLOATS:
                    yield Fault(
                        node,
                        "rounds negative numbers down, or keeps numbers as they are, where a cast "
                        "from float drops what is behind the point",
                        "Compare with a constant (Less, Greater) instead of casting.",
                    )
            case "GatherElements":
                if node.input[1] not in not_negative:
                    yield Fault(
                        node,
                        "reads other elements at negative indices",
                        "Make it of what cannot be negative: constants, ArgMax, comparisons, sums.",
                    )
            case "ReduceMean":
                if kinds.get(node.input[0]) not in _FLOATS:
                    yield Fault(
                        node,
                        "keeps the fractions that means of integers drop",
                        "Cast to float before the mean.",
                    )
            case "MaxPool":
                if any(step != 1 for step in attributes.get("dilations", [])):
                    yield Fault(
                        node,
                        "takes neighbours where the window is dilated",
                        "Do not dilate; or pool a Slice with steps.",
                    )
                if _padded(attributes) and node.input[0] not in not_negative:
                    yield Fault(
                        node,
                        "pads with zeros, which are larger than negative numbers",
                        "Put the Relu before the pooling, or do not pad.",
                    )
        if _keeps_from_zero(node, not_negative):
            not_negative.update(node.output)


def _keeps_from_zero(node: NodeProto, not_negative: Set[str]) -> bool:
    """Return whether all that a node puts out is 0 or more, as far as its operators show it."""
    if node.op_type in _AS_FIRST_INPUT:
        return node.input[0] in not_negative
    if node.op_type in _AS_ALL_INPUTS:
        return set(node.input) <= not_negative
    return node.op_type in _NEVER_NEGATIVE


def _padded(attributes: dict[str, Any]) -> bool:
    automatic = attributes.get("auto_pad", b"NOTSET") not in {b"NOTSET", b"VALID"}
    return automatic or any(attributes.get("pads", []))
