"""ONNX graphs made plain: constants computed, what does nothing left out, patterns named.

Runs in a disposable child only, like all that touches an untrusted model.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from zkserve.engines import onnx_model
from zkserve.engines.native.compiler.program import Array
from zkserve.errors import ModelRejected

OPERATORS = frozenset(
    {
        *("Add", "AveragePool", "BatchNormalization", "Cast", "Clip", "Concat", "Constant", "Conv"),
        *("Div", "Dropout", "Erf", "Flatten", "Gather", "Gelu", "Gemm", "GlobalAveragePool"),
        *("Identity", "LeakyRelu", "MatMul", "MaxPool", "Mul", "Neg", "ReduceMean", "Relu"),
        *("Reshape", "Shape", "Sigmoid", "Slice", "Sqrt", "Squeeze", "Sub", "Tanh", "Transpose"),
        "Unsqueeze",
    }
)
OPSETS = range(11, 22)
_COPIES = frozenset({"Identity", "Dropout"})


@dataclass(frozen=True, kw_only=True)
class Node:
    """One operator: names of its inputs ("" for one left out) and of its only output."""

    kind: str
    inputs: tuple[str, ...]
    output: str
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def given(self, index: int) -> bool:
        """Whether the input at ``index`` is there."""
        return index < len(self.inputs) and bool(self.inputs[index])


@dataclass(frozen=True, kw_only=True, eq=False)
class Graph:
    """A model with static shapes; ``nodes`` in topological order, all of them needed."""

    nodes: tuple[Node, ...]
    constants: Mapping[str, Array]
    shapes: Mapping[str, tuple[int, ...]]
    inputs: tuple[tuple[str, tuple[int, ...]], ...]
    output: tuple[str, tuple[int, ...]]
    output_name: str
    """What the model calls its output, which may be a copy of the value."""

    @property
    def uses(self) -> Counter[str]:
        """How many readers each value has; the output counts as one."""
        counted = Counter(name for node in self.nodes for name in node.inputs if name)
        counted[self.output[0]] += 1
        return counted


def load(path: Path) -> Graph:
    """Read an untrusted model.

    Raises:
        ModelRejected: it is broken, too large, or has operators that no circuit of ours computes:
            all of them are named.

    """
    return simplify(onnx_model.load(path, operators=OPERATORS, opsets=OPSETS))


def simplify(model: onnx.ModelProto) -> Graph:
    """Make a checked and inferred model plain."""
    graph = model.graph
    inputs = tuple((v.name, onnx_model.shape_of(v)) for v in onnx_model.inputs_of(model))
    output = graph.output[0]
    shapes = {
        value.name: tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
        for value in [*graph.value_info, *graph.output, *graph.input]
    }
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    names: dict[str, str] = {}
    nodes: list[Node] = []
    for proto in graph.node:
        used = [name for name in proto.output if name]
        node = Node(
            kind=proto.op_type,
            inputs=tuple(names.get(name, name) for name in proto.input),
            output=proto.output[0],
            attributes={a.name: helper.get_attribute_value(a) for a in proto.attribute},
        )
        if len(used) > 1 and _read(graph, used[1:]):
            raise ModelRejected(f"{node.kind} is used for more than its first output.")
        if node.kind in _COPIES:
            names[node.output] = node.inputs[0]
        elif (value := _evaluated(node, constants, shapes)) is not None:
            constants[node.output] = value
        else:
            nodes.append(node)
    last = names.get(output.name, output.name)
    if last in constants or last in dict(inputs):
        raise ModelRejected("The model computes nothing: its output is a constant or its input.")
    plain = _fuse(_needed(nodes, last), constants, last)
    return Graph(
        nodes=tuple(_needed(plain, last)),
        constants=constants,
        shapes=shapes,
        inputs=inputs,
        output=(last, onnx_model.shape_of(output)),
        output_name=output.name,
    )


def _read(graph: onnx.GraphProto, names: list[str]) -> bool:
    read = {name for node in graph.node for name in node.input}
    return any(name in read for name in names) or any(o.name in names for o in graph.output)


def _needed(nodes: list[Node], output: str) -> list[Node]:
    wanted, kept = {output}, []
    for node in reversed(nodes):
        if node.output in wanted:
            wanted.update(node.inputs)
            kept.append(node)
    return kept[::-1]


def _evaluated(
    node: Node, constants: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]]
) -> Array | None:
    try:
        with np.errstate(all="ignore"):  # what is not finite is refused at calibration
            return _constant(node, constants, shapes)
    except (ArithmeticError, LookupError, TypeError, ValueError) as exc:
        raise ModelRejected(
            f"{node.kind} ({node.output!r}) cannot be computed from its constants."
        ) from exc


def _constant(
    node: Node, constants: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]]
) -> Array | None:
    """Return what a node of constants gives; None if it depends on the model's input."""
    attributes = node.attributes
    if node.kind == "Shape" and node.inputs[0] in shapes:
        start, end = attributes.get("start", 0), attributes.get("end")
        return np.array(shapes[node.inputs[0]][start:end], np.int64)
    if not all(name in constants for name in node.inputs if name):
        return None
    given = [constants[name] for name in node.inputs if name]
    axes = given[1] if len(given) > 1 else np.array(attributes.get("axes", []), np.int64)
    match node.kind:
        case "Constant":
            value = next(iter(attributes.values()))
            if isinstance(value, onnx.TensorProto):
                return np.asarray(numpy_helper.to_array(value))
            is_int = isinstance(value, int) or (
                isinstance(value, list) and value and isinstance(value[0], int)
            )
            return np.array(value, np.int64 if is_int else np.float32)
        case "Add":
            return np.asarray(given[0] + given[1])
        case "Sub":
            return np.asarray(given[0] - given[1])
        case "Mul":
            return np.asarray(given[0] * given[1])
        case "Div":
            whole = np.issubdtype(given[0].dtype, np.integer)
            return np.asarray(given[0] // given[1] if whole else given[0] / given[1])
        case "Neg":
            return np.asarray(-given[0])
        case "Sqrt":
            return np.asarray(np.sqrt(given[0]))
        case "Cast":
            return np.asarray(given[0], helper.tensor_dtype_to_np_dtype(attributes["to"]))
        case "Concat":
            return np.concatenate(given, axis=attributes["axis"])
        case "Gather":
            return np.asarray(np.take(given[0], given[1], axis=attributes.get("axis", 0)))
        case "Transpose":
            return np.transpose(given[0], attributes.get("perm"))
        case "Unsqueeze":
            return np.expand_dims(given[0], tuple(axes.tolist()))
        case "Squeeze":
            return np.squeeze(given[0], tuple(axes.tolist()) or None)
        case "MatMul":
            return np.asarray(given[0] @ given[1])
        case "Gemm":
            left, right = (
                operand.T if attributes.get(flag, 0) else operand
                for operand, flag in zip(given, ("transA", "transB"), strict=False)
            )
            product = np.asarray(left @ right) * attributes.get("alpha", 1.0)
            if node.given(2):
                product = product + given[2] * attributes.get("beta", 1.0)
            return np.asarray(product, given[0].dtype)
        case "Slice":
            return cut(given[0], node, constants)
        case "Reshape":
            return reshape(given[0], given[1], allow_zero=bool(attributes.get("allowzero", 0)))
    return None


def reshape(array: Array, shape: Array, *, allow_zero: bool) -> Array:
    """Reshape as ONNX does: 0 keeps a dimension, unless ``allow_zero``."""
    wanted = [
        array.shape[i] if size == 0 and not allow_zero else int(size)
        for i, size in enumerate(shape.tolist())
    ]
    return array.reshape(wanted)


def cut(array: Array, node: Node, constants: Mapping[str, Array]) -> Array:
    """Slice as a node does whose bounds are constants."""
    if node.given(1):
        # As integers: no float holds the largest, which exporters write for "to the end".
        given = [constants[name].tolist() if name else None for name in node.inputs[1:]]
    else:
        given = [node.attributes.get(name) for name in ("starts", "ends", "axes")]
    starts, ends, axes, steps = (part or [] for part in (*given, None, None)[:4])
    axes = axes or list(range(len(starts)))
    steps = steps or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        # ONNX asks for the whole axis backwards with an end before -size, which Python wraps.
        stop = None if step < 0 and end < -array.shape[axis] else end
        chosen = [slice(None)] * array.ndim
        chosen[axis] = slice(start, stop, step)
        array = array[tuple(chosen)]
    return array


def _fuse(nodes: list[Node], constants: Mapping[str, Array], output: str) -> list[Node]:
    """Name the patterns that exporters write for Gelu and SiLU."""
    readers: dict[str, list[Node]] = {}
    for node in nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)

    def only_reader(name: str) -> Node | None:
        found = readers.get(name, [])
        return found[0] if len(found) == 1 and name != output else None

    def scalar(name: str) -> float:
        value = constants.get(name)
        return float(value.reshape(())) if value is not None and value.size == 1 else math.nan

    def other(node: Node | None, kind: str, name: str) -> str:
        """Return the other operand of a binary node; "" if there is no such node."""
        if node is None or node.kind != kind or len(node.inputs) != 2:
            return ""
        return node.inputs[1] if node.inputs[0] == name else node.inputs[0]

    made = {node.output: node for node in nodes}
    replaced: dict[str, Node] = {}
    for node in nodes:
        if node.kind == "Sigmoid":
            product = only_reader(node.output)
            if other(product, "Mul", node.output) == node.inputs[0] and product is not None:
                replaced[product.output] = Node(
                    kind="Silu", inputs=node.inputs[:1], output=product.output
                )
        if node.kind == "Erf" and (source := made.get(node.inputs[0])) is not None:
            last = _gelu(node, source, only_reader, scalar, other, made)
            if last is not None:
                replaced[last.output] = Node(
                    kind="Gelu", inputs=source.inputs[:1], output=last.output
                )
    return [replaced.get(node.output, node) for node in nodes]


def _gelu(
    erf: Node, source: Node, only_reader: Any, scalar: Any, other: Any, made: Mapping[str, Node]
) -> Node | None:
    """Return the last node of ``x * 0.5 * (1 + erf(x / sqrt(2)))`` in any order, or None."""
    x = source.inputs[0]
    by = scalar(source.inputs[1]) if len(source.inputs) == 2 else math.nan
    factor = {"Div": 1 / by if by else math.nan, "Mul": by}.get(source.kind, math.nan)
    if not math.isclose(factor, math.sqrt(0.5), rel_tol=1e-3):
        return None
    add = only_reader(erf.output)
    if scalar(other(add, "Add", erf.output)) != 1:
        return None
    at, left = add, {"x", "half"}
    while left:
        following = only_reader(at.output)
        operand = other(following, "Mul", at.output)
        if not operand:
            return None
        product = made.get(operand)
        if operand == x and "x" in left:
            left.remove("x")
        elif scalar(operand) == 0.5 and "half" in left:
            left.remove("half")
        elif (
            product is not None
            and product.kind == "Mul"
            and left == {"x", "half"}
            and {x} < set(product.inputs)
            and 0.5 in {scalar(name) for name in product.inputs}
        ):
            left.clear()
        else:
            return None
        at = following
    return at  # type: ignore[no-any-return]
