"""Hostile and broken models, made by code: bytes, and what the refusal must say."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
node = helper.make_node


@dataclass(frozen=True, kw_only=True)
class Hostile:
    """A file and a pattern that the error must match."""

    name: str
    make: Callable[[], bytes]
    says: str


def value(name: str, shape: list[Any], kind: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def tensor(name: str, array: Any, kind: Any = np.float32) -> TensorProto:
    return numpy_helper.from_array(np.array(array, kind), name)


def model(
    nodes: list[NodeProto],
    x: list[Any],
    y: list[Any],
    weights: list[TensorProto] | None = None,
    *,
    opset: int = 17,
    **more: Any,
) -> ModelProto:
    graph = helper.make_graph(nodes, "g", [value("x", x)], [value("y", y)], weights or [])
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, **more)


def good() -> ModelProto:
    """A layer of weights and a Relu: what both engines take."""
    rng = np.random.default_rng(0)
    weights = [tensor("w", rng.normal(size=(3, 4)) / 2), tensor("b", rng.normal(size=3) / 2)]
    nodes = [node("Gemm", ["x", "w", "b"], ["h"], transB=1), node("Relu", ["h"], ["y"])]
    return model(nodes, [1, 4], [1, 3], weights)


def changed(change: Callable[[ModelProto], Any]) -> Callable[[], bytes]:
    def make() -> bytes:
        made = good()
        change(made)
        return bytes(made.SerializeToString())

    return make


def of(*arguments: Any, **more: Any) -> Callable[[], bytes]:
    return lambda: bytes(model(*arguments, **more).SerializeToString())


def convolution(weights: list[int] = (1, 1, 3, 3), **attributes: Any) -> Callable[[], bytes]:  # type: ignore[assignment]
    return of(
        [node("Conv", ["x", "k"], ["y"], **attributes)],
        [1, 1, 8, 8],
        ["a", "b", "c", "d"],
        [tensor("k", np.ones(weights))],
    )


def one(
    kind: str, *weights: TensorProto, opset: int = 17, **attributes: Any
) -> Callable[[], bytes]:
    """A model of a single operator on an input of shape (1, 4)."""
    names = ["x", *(w.name for w in weights)]
    return of(
        [node(kind, names, ["y"], **attributes)], [1, 4], [None, None], list(weights), opset=opset
    )


def whole(name: str, *numbers: int) -> TensorProto:
    return tensor(name, numbers, np.int64)


def _concatenated() -> bytes:
    return 2 * bytes(good().SerializeToString())


def _zip() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"weights": 1}))
    return made.getvalue()


def _numpy() -> bytes:
    made = io.BytesIO()
    np.save(made, np.ones(4))
    return made.getvalue()


def _nested(depth: int) -> bytes:
    graph = helper.make_graph([], "g", [], [])
    for _ in range(depth):
        graph = helper.make_graph(
            [node("If", ["x"], ["y"], then_branch=graph, else_branch=GraphProto())], "g", [], []
        )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    return bytes(made.SerializeToString())


def _field(number: int, payload: bytes) -> bytes:
    """A length-delimited protobuf field."""

    def varint(n: int) -> bytes:
        out = b""
        while n > 127:
            out += bytes([n & 127 | 128])
            n >>= 7
        return out + bytes([n])

    return varint(number << 3 | 2) + varint(len(payload)) + payload


def _deep_bytes(depth: int) -> bytes:
    """Graphs in attributes in nodes in graphs, as no library would write them."""
    inner = b""
    for _ in range(depth):
        inner = _field(1, _field(5, _field(6, inner)))
    return _field(7, inner)


def _external(location: str) -> Callable[[ModelProto], None]:
    def change(made: ModelProto) -> None:
        weights = made.graph.initializer[0]
        weights.ClearField("raw_data")
        weights.data_location = TensorProto.EXTERNAL
        weights.external_data.add(key="location", value=location)

    return change


def _dims(*dims: int) -> Callable[[ModelProto], None]:
    def change(made: ModelProto) -> None:
        made.graph.initializer[0].dims[:] = dims

    return change


def _fill(number: float) -> Callable[[ModelProto], None]:
    def change(made: ModelProto) -> None:
        made.graph.initializer[0].CopyFrom(tensor("w", np.full((3, 4), number)))

    return change


def _rename(name: str) -> Callable[[ModelProto], None]:
    def change(made: ModelProto) -> None:
        made.graph.node[0].output[0] = made.graph.node[1].input[0] = name

    return change


def _bad_utf8(made: bytes) -> bytes:
    return made.replace(b"\x12\x01h", b"\x12\x01\xff").replace(b"\x0a\x01h", b"\x0a\x01\xff")


def _doubling() -> bytes:
    nodes = [node("Concat", ["x", "x"], ["t0"], axis=1)]
    nodes += [node("Concat", [f"t{i}", f"t{i}"], [f"t{i + 1}"], axis=1) for i in range(40)]
    return of([*nodes, node("Identity", ["t40"], ["y"])], [1, 4], [None, None])()


def _chain(length: int, size: int) -> bytes:
    nodes = [node("Relu", ["x"], ["t0"])]
    nodes += [node("Relu", [f"t{i}"], [f"t{i + 1}"]) for i in range(length)]
    return of([*nodes, node("Relu", [f"t{length}"], ["y"])], [1, size], [None, None])()


def _function(made: ModelProto) -> None:
    made.functions.append(
        helper.make_function(
            "evil", "f", ["a"], ["b"], [node("Relu", ["a"], ["b"])], [helper.make_opsetid("", 17)]
        )
    )


def _scan() -> list[NodeProto]:
    body = helper.make_graph(
        [node("Relu", ["a"], ["b"])], "b", [value("a", [4])], [value("b", [4])]
    )
    return [node("Scan", ["x"], ["y"], body=body, num_scan_inputs=1)]


def _loop() -> list[NodeProto]:
    return [node("Loop", ["", "", "x"], ["y"], body=helper.make_graph([], "b", [], []))]


def _many(part: str, count: int, **fields: Any) -> Callable[[ModelProto], None]:
    def change(made: ModelProto) -> None:
        for _ in range(count):
            getattr(made, part).add(**fields)

    return change


BOMB = of(
    [node("ConstantOfShape", ["s"], ["c"]), node("Add", ["x", "c"], ["y"])],
    *([1, 1], [65536, 65536], [whole("s", 65536, 65536)]),
)
"""The small file that passes the ONNX checker and makes ezkl ask for 16 GiB."""

GATE: tuple[Hostile, ...] = tuple(
    Hostile(name=name, make=make, says=says)
    for name, make, says in (
        # What is no ONNX file.
        ("empty", lambda: b"", "opset|operator sets|checker|not an ONNX"),
        ("junk", lambda: b"\x07\x99" * 400, "not an ONNX model"),
        ("truncated", lambda: good().SerializeToString()[:-40], "not an ONNX model|checker|hold"),
        ("half", lambda: good().SerializeToString()[:60], "not an ONNX model|operator sets"),
        ("torch_checkpoint", _zip, "zip archive"),
        ("pickle", lambda: pickle.dumps([1, 2]), "Python pickle"),
        ("numpy_array", _numpy, "NumPy array"),
        ("keras", lambda: b"\x89HDF\r\n\x1a\n" + bytes(99), "HDF5"),
        ("gzip", lambda: gzip.compress(good().SerializeToString()), "gzip"),
        ("program", lambda: b"\x7fELF" + bytes(99), "a program"),
        ("web_page", lambda: b"<html>404</html>", "HTML"),
        ("json", lambda: json.dumps({"a": 1}).encode(), "JSON"),
        ("two_models_in_one", _concatenated, "operator sets|have the name"),
        # What is hidden in one.
        ("nested_graphs", lambda: _nested(30), "If is not supported|structure"),
        ("nested_too_deep_to_parse", lambda: _deep_bytes(5000), "not an ONNX model"),
        ("documentation", changed(lambda m: setattr(m, "doc_string", "x" * (9 << 20))), "beside"),
        ("metadata", changed(_many("metadata_props", 300_000, key="k", value="v" * 30)), "beside"),
        (
            "unknown_fields",
            lambda: good().SerializeToString() + _field(99, bytes(9 << 20)),
            "beside",
        ),
        ("external_data", changed(_external("/etc/passwd")), "outside the model file"),
        ("external_data_above", changed(_external("../../secret")), "outside the model file"),
        ("function", changed(_function), "has functions"),
        ("training", changed(lambda m: m.training_info.add()), "training information"),
        ("sparse", changed(lambda m: m.graph.sparse_initializer.add()), "sparse tensors"),
        ("quantised", changed(lambda m: m.graph.quantization_annotation.add()), "quantisation"),
        ("custom_domain", of([node("Relu", ["x"], ["y"], domain="evil")], [1, 4], [1, 4]), "evil"),
        (
            "domain_import",
            changed(lambda m: m.opset_import.add(domain="evil", version=1)),
            "domains",
        ),
        ("if", of([node("If", ["x"], ["y"], then_branch=GraphProto())], [1], [1]), "If is not"),
        ("loop", of(_loop(), [1, 4], [1, 4]), "Loop is not supported"),
        ("scan", of(_scan(), [1, 4], [1, 4]), "Scan is not supported"),
        ("sequence", one("SequenceConstruct"), "SequenceConstruct is not"),
        ("random", of([node("RandomNormal", [], ["y"], shape=[1])], [1], [1]), "RandomNormal"),
        # Versions and names.
        ("opset_7", of([node("Relu", ["x"], ["y"])], [1, 4], [1, 4], opset=7), "opset 7"),
        ("opset_99", of([node("Relu", ["x"], ["y"])], [1, 4], [1, 4], opset=99), "opset 99"),
        ("two_opsets", changed(lambda m: m.opset_import.add(domain="", version=11)), "2 operator"),
        ("no_opset", changed(lambda m: m.ClearField("opset_import")), "0 operator sets"),
        ("output_twice", of(2 * [node("Relu", ["x"], ["y"])], [1], [1]), "have the name 'y'"),
        ("weight_twice", changed(lambda m: m.graph.initializer.append(tensor("w", [1]))), "'w'"),
        ("input_twice", changed(lambda m: m.graph.input.append(value("x", [1]))), "name 'x'"),
        ("output_over_input", of([node("Relu", ["x"], ["x"])], [1], [1]), "have the name 'x'"),
        (
            "cycle",
            of([node("Add", ["x", "b"], ["y"]), node("Relu", ["y"], ["b"])], [1], [1]),
            "sort",
        ),
        ("self_loop", of([node("Add", ["x", "y"], ["y"])], [1], [1]), "sort|checker"),
        ("from_nowhere", of([node("Relu", ["nowhere"], ["y"])], [1], [1]), "nowhere|checker"),
        ("mirrored_name", changed(_rename("\u202eerutaef")), "cannot be seen"),
        ("invisible_name", changed(_rename("h\u200b")), "cannot be seen"),
        ("null_in_name", changed(_rename("h\x00h")), "cannot be seen"),
        ("escape_in_name", changed(_rename("\x1b[2Jh")), "cannot be seen"),
        ("long_name", changed(_rename("h" * 100_000)), "longer than 256"),
        (
            "name_not_utf8",
            lambda: _bad_utf8(good().SerializeToString()),
            "cannot be seen|not an ONNX",
        ),
        (
            "nameless_weight",
            changed(lambda m: m.graph.initializer.append(tensor("", [1]))),
            "no name",
        ),
        # Numbers.
        ("nan_weights", changed(_fill(float("nan"))), "NaN or infinity"),
        ("infinite_weights", changed(_fill(float("inf"))), "NaN or infinity"),
        ("nan_attribute", one("LeakyRelu", alpha=float("nan")), "not finite"),
        ("half_floats", one("Add", tensor("w", [1], np.float16)), "FLOAT.*may come"),
        (
            "strings",
            one("Add", TensorProto(name="w", dims=[1], data_type=8, string_data=[b"a"])),
            "type 8",
        ),
        ("unknown_type", one("Add", TensorProto(name="w", dims=[1], data_type=99)), "type 99"),
        ("negative_dims", changed(_dims(-3, -4)), "shape \\[-3, -4\\]"),
        ("overflowing_dims", changed(_dims(1 << 32, 1 << 32)), "elements"),
        ("huge_times_zero", changed(_dims(1 << 62, 0)), "elements"),
        ("too_many_dims", changed(_dims(3, 4, *[1] * 7)), "9 dimensions"),
        ("less_data_than_said", changed(_dims(3, 5)), "does not hold"),
        ("more_data_than_said", changed(_dims(3, 3)), "does not hold|fit|checker"),
        ("huge_weights_claimed", changed(_dims(1 << 20, 1 << 10)), "elements"),
        # Windows.
        ("huge_stride", convolution(strides=[1 << 40, 1]), "'strides'"),
        ("zero_stride", convolution(strides=[0, 1]), "'strides'"),
        ("huge_padding", convolution(pads=[1 << 31] * 4), "'pads'"),
        ("large_padding", convolution(pads=[4000] * 4), "elements"),
        ("negative_padding", convolution(pads=[-1, 0, 0, 0]), "'pads'"),
        ("huge_dilation", convolution(dilations=[1 << 30, 1]), "'dilations'"),
        ("dilation_past_the_image", convolution(dilations=[64, 64]), "empty|fit|cannot run"),
        ("huge_kernel", convolution(kernel_shape=[1 << 33, 3]), "'kernel_shape'"),
        (
            "pooling_past_the_image",
            of([node("MaxPool", ["x"], ["y"], kernel_shape=[64, 64])], [1, 1, 8, 8], [None] * 4),
            "empty|fit",
        ),
        ("attribute_list", one("Transpose", perm=[0] * 10_000), "longer than 64"),
        (
            "attribute_twice",
            changed(lambda m: m.graph.node[0].attribute.append(m.graph.node[0].attribute[0])),
            "twice",
        ),
        # Sizes that only show once shapes are inferred.
        ("constant_of_shape", BOMB, "ConstantOfShape"),
        ("expand", one("Expand", whole("s", 1 << 20, 4)), "Expand is not"),
        ("tile", one("Tile", whole("s", 1 << 20, 1)), "Tile is not"),
        (
            "range",
            of(
                [node("Range", ["a", "b", "c"], ["r"]), node("Add", ["x", "r"], ["y"])],
                [1],
                [None],
                [tensor("a", 0.0), tensor("b", 1e9), tensor("c", 1.0)],
            ),
            "Range is not",
        ),
        (
            "outer_product",
            of(
                [node("MatMul", ["x", "w"], ["y"])],
                [1, 65536, 1],
                [None] * 3,
                [tensor("w", np.ones((1, 65536)))],
            ),
            "4294967296 elements",
        ),
        (
            "broadcast",
            of(
                [node("Add", ["x", "w"], ["y"])],
                [1, 65536, 1],
                [None] * 3,
                [tensor("w", np.ones((1, 1, 65536)))],
            ),
            "4294967296 elements",
        ),
        ("doubling", _doubling, "elements"),
        ("many_nodes", lambda: _chain(3000, 4), "3002 nodes"),
        ("many_large_tensors", lambda: _chain(100, 1 << 20), "computes"),
        ("reshape_overflow", one("Reshape", whole("s", 1 << 62, 4, 1 << 2)), "checker.*overflow"),
        ("reshape_of_two_unknowns", one("Reshape", whole("s", -1, -1)), "checker"),
        ("reshape_negative", one("Reshape", whole("s", -4, -1)), "checker"),
        (
            "slice_without_steps",
            one("Slice", whole("a", 0), whole("b", 4), whole("c", 1), whole("d", 0)),
            "fit|cannot|empty|step",
        ),
        ("axis_out_of_range", one("Concat", axis=7), "fit|checker|range"),
        ("transpose_twice_the_axis", one("Transpose", perm=[0, 0]), "fit|checker|perm"),
        ("reduce_out_of_range", one("ReduceMean", axes=[9]), "fit|checker|range"),
        ("gemm_of_other_shape", one("Gemm", tensor("w", np.ones((7, 7)))), "checker"),
        # Inputs and outputs.
        ("free_dimension", of([node("Relu", ["x"], ["y"])], [1, "n"], [1, "n"]), "free or empty"),
        ("no_output", changed(lambda m: m.graph.ClearField("output")), "0 outputs|checker"),
        ("two_outputs", changed(lambda m: m.graph.output.append(value("h", [1, 3]))), "2 outputs"),
        ("no_nodes", changed(lambda m: m.graph.ClearField("node")), "no nodes"),
        (
            "integers",
            changed(lambda m: m.graph.input[0].CopyFrom(value("x", [1, 4], INT64))),
            "fit|float32|checker",
        ),
        (
            "many_inputs",
            changed(lambda m: m.graph.input.extend(value(f"x{i}", [1]) for i in range(500))),
            "inputs",
        ),
        # What ezkl is known to abort on, hang on, or prove wrongly without a word.
        ("resize", one("Resize", tensor("r", []), tensor("s", [1, 2]), mode="linear"), "Resize"),
        (
            "group_norm",
            of(
                [node("GroupNormalization", ["x", "s", "b"], ["y"], num_groups=1)],
                [1, 2, 4],
                [None] * 3,
                [tensor("s", [1.0]), tensor("b", [0.0])],
                opset=18,
            ),
            "GroupNormalization",
        ),
        (
            "instance_norm",
            of(
                [node("InstanceNormalization", ["x", "s", "b"], ["y"])],
                [1, 2, 4],
                [None] * 3,
                [tensor("s", [1.0, 1.0]), tensor("b", [0.0, 0.0])],
            ),
            "InstanceNormalization",
        ),
        ("fmod", one("Mod", tensor("w", [2.0]), fmod=1), "Mod is not"),
        ("top_k", one("TopK", whole("k", 2)), "TopK is not"),
        (
            "trees",
            of([node("TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml")], [1, 4], [1, 1]),
            "TreeEnsemble|domain",
        ),
    )
)
"""What no engine takes."""


def compiled() -> Iterator[tuple[str, bytes]]:
    """Yield models that pass the gate and try the compilers: names and bytes."""
    yield "kernel_unlike_weights", convolution(kernel_shape=[5, 5])()
    yield "dilated_convolution", convolution(dilations=[2, 2])()
    yield "denormal_weights", changed(_fill(1e-42))()
    yield "no_weight_counts", changed(_fill(0.0))()
    yield "large_weights", changed(_fill(1e12))()
    yield "weights_that_overflow", changed(_fill(3e38))()
    yield (
        "constant_output",
        of([node("Mul", ["x", "w"], ["y"])], [1, 4], [1, 4], [tensor("w", np.zeros(4))])(),
    )
    yield (
        "negative_variance",
        of(
            [node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"])],
            *([1, 2, 2, 2], [None] * 4),
            [*(tensor(n, [1.0, 1.0]) for n in "sbm"), tensor("v", [-1.0, -1.0])],
        )(),
    )
    yield "low_above_high", one("Clip", tensor("l", 4.0), tensor("h", -4.0))()
    yield "only_a_copy", one("Identity")()
    yield (
        "constant_graph",
        of([node("Add", ["w", "w"], ["y"])], [1, 4], [1, 4], [tensor("w", [[1.0, 2, 3, 4]])])(),
    )
    yield "one_pixel", convolution(pads=[1, 1, 1, 1], strides=[4096, 4096])()
    yield "long_chain", _chain(400, 4)
    yield (
        "wide",
        of(
            [node("Gemm", ["x", "w"], ["y"])],
            [1, 48],
            [1, 48],
            [tensor("w", np.ones((48, 48)))],
        )(),
    )
