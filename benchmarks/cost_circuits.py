"""Networks of drawn weights to measure costs on: dense ones and convolutions, of any size.

Their answers mean nothing. Sizes, operators and ranges of values are those of small real models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from zkserve.engines.base import FloatArray
from zkserve.types import InputMode, WeightsMode

SAMPLES = 32


@dataclass(frozen=True, kw_only=True)
class Network:
    """Dense layers of ``sizes``; with ``side``, behind a 3×3 convolution of a square image.

    ``sizes`` has what goes into each dense layer, and the outputs; the first is ignored behind a
    convolution, whose outputs are as many as they are.
    """

    sizes: tuple[int, ...]
    activation: str = "Relu"
    side: int = 0
    channels: int = 0
    pool: bool = False
    seed: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the input."""
        return (1, 1, self.side, self.side) if self.side else (1, self.sizes[0])

    def samples(self) -> FloatArray:
        """Return inputs, shape ``(samples, elements)``."""
        rng = np.random.default_rng(self.seed + 1)
        return rng.uniform(-1, 1, size=(SAMPLES, math.prod(self.shape))).astype(np.float32)

    def write(self, path: Path) -> Path:
        """Write the model as ONNX; the same each time."""
        rng = np.random.default_rng(self.seed)
        nodes: list[NodeProto] = []
        weights: list[TensorProto] = []

        def draw(name: str, *shape: int) -> str:
            spread = 1 / math.sqrt(math.prod(shape[1:]) or 1)
            drawn = rng.normal(size=shape) * spread
            weights.append(numpy_helper.from_array(drawn.astype(np.float32), name))
            return name

        at, sizes = "x", list(self.sizes)
        if self.side:
            convolved = [at, draw("k", self.channels, 1, 3, 3), draw("c", self.channels)]
            stated = {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [0, 0, 0, 0]}
            nodes.append(helper.make_node("Conv", convolved, ["conv"], **stated))
            nodes.append(helper.make_node(self.activation, ["conv"], ["active"]))
            at, side = "active", self.side - 2
            if self.pool:
                window = {"kernel_shape": [2, 2], "strides": [2, 2]}
                nodes.append(helper.make_node("MaxPool", [at], ["pooled"], **window))
                at, side = "pooled", side // 2
            nodes.append(helper.make_node("Flatten", [at], ["flat"]))
            at, sizes[0] = "flat", self.channels * side * side
        last = len(sizes) - 2
        for number, (entries, outputs) in enumerate(pairwise(sizes)):
            inputs = [at, draw(f"w{number}", outputs, entries), draw(f"b{number}", outputs)]
            at = "y" if number == last else f"h{number}"
            nodes.append(helper.make_node("Gemm", inputs, [at], transB=1))
            if number < last:
                nodes.append(helper.make_node(self.activation, [at], [f"a{number}"]))
                at = f"a{number}"
        graph = helper.make_graph(
            nodes,
            "network",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, sizes[-1]))],
            weights,
        )
        opsets = [helper.make_opsetid("", 17)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
        return path


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A network and how it is to be proved."""

    name: str
    engine: str
    network: Network
    input_mode: InputMode = InputMode.COMMITTED
    weights_mode: WeightsMode
    options: dict[str, int | float | str | bool] = field(default_factory=dict)


def _dense(*sizes: int, activation: str = "Relu", seed: int = 0) -> Network:
    return Network(sizes=sizes, activation=activation, seed=seed)


def _image(side: int, channels: int, *sizes: int, pool: bool = False, seed: int = 0) -> Network:
    return Network(sizes=(0, *sizes), side=side, channels=channels, pool=pool, seed=seed)


def _ezkl(
    name: str, network: Network, weights: WeightsMode, public: bool, base: int, legs: int, cols: int
) -> Subject:
    return Subject(
        name=f"ezkl_{name}",
        engine="ezkl",
        network=network,
        input_mode=InputMode.PUBLIC if public else InputMode.COMMITTED,
        weights_mode=weights,
        options={"scale": 7, "decomp_base": base, "decomp_legs": legs, "inner_cols": cols},
    )


def _native(
    name: str, network: Network, public: bool = False, **options: int | float | str | bool
) -> Subject:
    return Subject(
        name=f"native_{name}",
        engine="native",
        network=network,
        input_mode=InputMode.PUBLIC if public else InputMode.COMMITTED,
        weights_mode=WeightsMode.COMMITTED,
        options=options,
    )


_F, _P, _H = WeightsMode.FIXED, WeightsMode.POLYCOMMIT, WeightsMode.HASHED
EZKL = (
    _ezkl("tiny_1", _dense(4, 8, 3), _F, True, 64, 4, 1),
    _ezkl("tiny_2", _dense(4, 8, 3), _F, True, 64, 4, 2),
    _ezkl("tiny_4", _dense(4, 8, 3), _F, True, 64, 4, 4),
    _ezkl("tiny_3", _dense(4, 8, 3), _F, True, 64, 4, 3),
    _ezkl("tiny_6", _dense(4, 8, 3), _F, True, 64, 4, 6),
    _ezkl("tiny_8", _dense(4, 8, 3), _F, True, 64, 4, 8),
    _ezkl("salted_1", _dense(5, 9, 2), _F, False, 128, 4, 1),
    _ezkl("salted_3", _dense(5, 9, 2), _F, False, 128, 4, 3),
    _ezkl("polycommit_1", _dense(6, 10, 2), _P, True, 128, 4, 1),
    _ezkl("polycommit_2", _dense(6, 10, 2), _P, False, 128, 4, 2),
    _ezkl("sigmoid_1", _dense(5, 7, 2, activation="Sigmoid"), _F, True, 256, 3, 1),
    _ezkl("sigmoid_2", _dense(5, 7, 2, activation="Sigmoid"), _F, True, 256, 3, 2),
    _ezkl("tanh_2", _dense(8, 12, 3, activation="Tanh"), _H, False, 256, 3, 2),
    _ezkl("hashed_1", _dense(6, 10, 2), _H, True, 128, 4, 1),
    _ezkl("hashed_2", _dense(8, 14, 4), _H, False, 256, 3, 2),
    _ezkl("hashed_4", _dense(8, 14, 4), _H, False, 256, 3, 4),
    _ezkl("pooled_1", _image(6, 2, 3, pool=True), _F, True, 64, 4, 1),
    _ezkl("pooled_2", _image(6, 2, 3, pool=True), _F, True, 64, 4, 2),
    _ezkl("dense_k13", _dense(30, 60, 10), _F, True, 1024, 3, 2),
    _ezkl("hashed_k14", _dense(16, 16, 3), _H, False, 1024, 3, 1),
    _ezkl("image_k14", _image(10, 4, 6, pool=True), _F, False, 256, 3, 2),
    _ezkl("image_k15", _image(16, 6, 8), _P, True, 512, 3, 2),
    _ezkl("dense_k15", _dense(64, 96, 32, 10), _F, False, 1024, 3, 1),
    _ezkl("hashed_k16", _dense(40, 28, 4), _H, False, 1024, 3, 2),
    _ezkl("image_k16", _image(20, 8, 10, pool=True), _F, True, 1024, 3, 2),
    _ezkl("dense_k17", _dense(100, 300, 60, 10), _F, True, 1024, 3, 1),
)
NATIVE = (
    _native("tiny", _dense(4, 8, 3)),
    _native("tiny_public", _dense(4, 8, 3), public=True),
    _native("three_layers", _dense(20, 60, 40, 5)),
    _native("sigmoid", _dense(30, 30, 2, activation="Sigmoid"), public=True),
    _native("tanh", _dense(60, 100, 100, 10, activation="Tanh")),
    _native("fine", _dense(30, 50, 4), activations=16),
    _native("raw", _dense(30, 50, 4), public=True, output="raw"),
    _native("per_channel", _dense(40, 80, 10), per_channel=True),
    _native("batch_8", _dense(30, 50, 4), batch=8),
    _native("batch_32", _dense(30, 50, 4), public=True, batch=32),
    _native("dense_40k", _dense(100, 400, 10)),
    _native("dense_200k", _dense(300, 600, 100, 10)),
    _native("dense_1m", _dense(800, 1200, 50, 10)),
    _native("image_8", _image(8, 4, 5)),
    _native("image_12", _image(12, 6, 10, pool=True), public=True),
    _native("image_24", _image(24, 8, 10, pool=True)),
    _native("image_40", _image(40, 12, 20, 10, pool=True)),
    _native("image_64", _image(64, 8, 10, pool=True), public=True),
)
SUBJECTS = {subject.name: subject for subject in (*EZKL, *NATIVE)}
