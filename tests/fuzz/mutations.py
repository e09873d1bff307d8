"""Valid models, and what becomes of them when bytes or parts of the message are changed."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable

import numpy as np
import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from onnx import TensorProto, helper, numpy_helper

NUMBERS = (
    *(0, 1, 2, 3, 4, 7, 8, 9, 13, 17, 18, 19, 64, 127, 128, 255, 4096, 65536, 1 << 22),
    *((1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 62), (1 << 63) - 1),
    *(-1, -2, -4, -(1 << 31), -(1 << 63)),
)
REALS = (
    0.0,
    -0.0,
    1.0,
    -1.0,
    1e-45,
    1e-30,
    1e30,
    3.4e38,
    float("inf"),
    float("-inf"),
    float("nan"),
)
TEXTS = (
    *("", "x", "y", "w1", "a", "h", "Relu", "Conv", "Gemm", "Constant", "Loop", "Slice", "Reshape"),
    *(
        "evil",
        "ai.onnx",
        "ai.onnx.ml",
        "../../etc/passwd",
        "\u202eyx",
        "x\x00y",
        "\x1b[2J",
        "n" * 9999,
    ),
)


def seeds() -> list[bytes]:
    """Return valid models that between them use most operators that are let in."""
    rng = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> TensorProto:
        return numpy_helper.from_array(rng.normal(size=shape).astype(np.float32) / 2, name)

    def whole(name: str, *values: int) -> TensorProto:
        return numpy_helper.from_array(np.array(values, np.int64), name)

    node = helper.make_node
    return [
        _model(
            [
                node("Gemm", ["x", "w1", "b1"], ["a"], transB=1),
                node("Relu", ["a"], ["h"]),
                node("Gemm", ["h", "w2", "b2"], ["y"], transB=1),
            ],
            [1, 4],
            [1, 3],
            [weight("w1", 8, 4), weight("b1", 8), weight("w2", 3, 8), weight("b2", 3)],
        ),
        _model(
            [
                node("Conv", ["x", "k"], ["c"], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
                node("BatchNormalization", ["c", "s", "o", "m", "v"], ["n"]),
                node("LeakyRelu", ["n"], ["r"], alpha=0.25),
                node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
                node("GlobalAveragePool", ["p"], ["g"]),
                node("Flatten", ["g"], ["f"]),
                node("MatMul", ["f", "w"], ["y"]),
            ],
            [1, 1, 6, 6],
            [1, 2],
            [
                *(weight("k", 2, 1, 3, 3), weight("s", 2), weight("o", 2), weight("m", 2)),
                *(numpy_helper.from_array(np.ones(2, np.float32), "v"), weight("w", 2, 2)),
            ],
        ),
        _model(
            [
                node("Reshape", ["x", "to"], ["a"]),
                node("Transpose", ["a"], ["t"], perm=[0, 2, 1]),
                node("Slice", ["t", "from", "until", "axes"], ["s"]),
                node("Concat", ["s", "s"], ["c"], axis=1),
                node("ReduceMean", ["c"], ["m"], axes=[2], keepdims=0),
                node("Unsqueeze", ["m", "axes"], ["u"]),
                node("Squeeze", ["u", "axes"], ["q"]),
                node("Clip", ["q", "low", "high"], ["k"]),
                node("Mul", ["k", "w"], ["l"]),
                node("Sub", ["l", "w"], ["n"]),
                node("Neg", ["n"], ["y"]),
            ],
            [1, 12],
            [1, 4],
            [
                *(whole("to", 1, 3, 4), whole("from", 0), whole("until", 2), whole("axes", 1)),
                *(numpy_helper.from_array(np.float32(v), n) for n, v in (("low", -4), ("high", 4))),
                weight("w", 4),
            ],
        ),
        _model(
            [
                node("Constant", [], ["k"], value=weight("", 4, 4)),
                node("MatMul", ["x", "k"], ["a"]),
                node("Sigmoid", ["a"], ["s"]),
                node("Tanh", ["a"], ["t"]),
                node("Mul", ["s", "t"], ["g"]),
                node("Add", ["g", "x"], ["z"]),
                node("Identity", ["z"], ["y"]),
            ],
            [1, 4],
            [1, 4],
            [],
        ),
        _model(
            [
                node("AveragePool", ["x"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
                node("Shape", ["p"], ["sh"]),
                node("Gather", ["sh", "zero"], ["n"], axis=0),
                node("Concat", ["n", "rest"], ["to"], axis=0),
                node("Reshape", ["p", "to"], ["f"]),
                node("Gemm", ["f", "w"], ["y"], transB=1),
            ],
            [1, 1, 4, 4],
            [1, 2],
            [whole("zero", 0), whole("rest", -1), weight("w", 2, 4)],
        ),
    ]


def mutate(rng: random.Random, seed: bytes, other: bytes) -> bytes:
    """Return a changed model: of its bytes, or of its message; one to six changes."""
    data = seed
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 6))):
        data = _of_bytes(rng, data, other) if rng.random() < 0.3 else _of_message(rng, data, other)
    return data


def _model(nodes: list[Message], shape: list[int], out: list[int], weights: list[Message]) -> bytes:
    kind = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, out)],
        weights,
    )
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString()
    return data


def _of_bytes(rng: random.Random, data: bytes, other: bytes) -> bytes:
    at, length = rng.randrange(len(data) + 1), rng.choice((1, 1, 2, 4, 8, 64))
    insert = rng.choice((rng.randbytes(length), b"\xff" * length, b"\x80" * length, data[:length]))
    changes: tuple[Callable[[], bytes], ...] = (
        lambda: data[:at] + insert + data[at + length :],
        lambda: data[:at] + insert + data[at:],
        lambda: data[:at] + data[at + length :],
        lambda: data[:at],
        lambda: data[:at] + other[rng.randrange(len(other)) :],
        lambda: data + data,
    )
    return rng.choice(changes)()


def _of_message(rng: random.Random, data: bytes, other: bytes) -> bytes:
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        return _of_bytes(rng, data, other)
    donor = onnx.ModelProto()
    donor.ParseFromString(other)
    places = _messages(model)
    message = rng.choice(places)
    field = rng.choice(message.DESCRIPTOR.fields)
    donors = [m for m in _messages(donor) if m.DESCRIPTOR is message.DESCRIPTOR]
    # What does not fit its field, a number too large for it, stays as it was.
    with contextlib.suppress(ValueError, TypeError):
        _change(rng, message, field, donors)
    return bytes(model.SerializeToString())


def _change(
    rng: random.Random, message: Message, field: FieldDescriptor, donors: list[Message]
) -> None:
    name = field.name
    if field.is_repeated:
        values = getattr(message, name)
        action = rng.randrange(4)
        if action == 0 and len(values):
            del values[rng.randrange(len(values))]
        elif action == 1 and len(values):
            values.extend([values[rng.randrange(len(values))]] * rng.choice((1, 1, 2, 40)))
        elif action == 2 and donors:
            values.extend(getattr(rng.choice(donors), name))
        elif field.message_type is not None:
            values.add()
        elif len(values) and rng.random() < 0.7:
            values[rng.randrange(len(values))] = _scalar(rng, field)
        else:
            values.append(_scalar(rng, field))
    elif field.message_type is not None:
        if rng.random() < 0.4:
            message.ClearField(name)
        elif donors and rng.random() < 0.6:
            getattr(message, name).CopyFrom(getattr(rng.choice(donors), name))
        else:
            getattr(message, name).SetInParent()
    elif rng.random() < 0.15:
        message.ClearField(name)
    else:
        setattr(message, name, _scalar(rng, field))


def _scalar(rng: random.Random, field: FieldDescriptor) -> object:
    if field.type == FieldDescriptor.TYPE_BYTES:
        return rng.choice((b"", rng.randbytes(16), b"\xff" * 64, b"SAME_UPPER", b"NOTSET"))
    if field.type == FieldDescriptor.TYPE_STRING:
        return rng.choice(TEXTS)
    if field.cpp_type in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return rng.choice(REALS)
    if field.type == FieldDescriptor.TYPE_ENUM:
        return rng.randrange(25)
    return rng.choice(NUMBERS) if rng.random() < 0.7 else rng.randrange(-8, 64)


def _messages(message: Message) -> list[Message]:
    found = [message]
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if field.is_repeated else [value]:
                found += _messages(part)
    return found
