"""ReLUs computed from halves: the same answers, and only where nothing else is changed by it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.models import save
from zkserve.engines import onnx_model
from zkserve.engines.base import CircuitPlan
from zkserve.engines.ezkl import relus, surgery
from zkserve.engines.ezkl.options import Options
from zkserve.engines.ezkl.tuning import CHOSEN
from zkserve.errors import RecipeInvalid
from zkserve.types import InputMode, WeightsMode

RNG = np.random.default_rng(11)
SAMPLES = RNG.normal(size=(20, 16)).astype(np.float32)
IMAGE = [1, 1, 4, 4]


def floats(name: str, *shape: int) -> TensorProto:
    return numpy_helper.from_array(RNG.normal(size=shape).astype(np.float32), name)


def network(
    path: Path, *nodes: onnx.NodeProto, constants: tuple[TensorProto, ...] = ()
) -> onnx.ModelProto:
    """Convolve (``c``), do what is given, from ``r`` on flatten, and add a dense layer."""
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "kernel", "bias"], ["c"], kernel_shape=[2, 2]),
            *nodes,
            helper.make_node("Flatten", ["r"], ["f"]),
            helper.make_node("Gemm", ["f", "w", "v"], ["g"], alpha=0.7, beta=0.3, transB=1),
            helper.make_node("Relu", ["g"], ["y"]),
        ],
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, IMAGE)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])],
        [
            floats("kernel", 3, 1, 2, 2),
            floats("bias", 3),
            floats("w", 2, 27),
            floats("v", 2),
            *constants,
        ],
    )
    return onnx_model.load(save(graph, path))


RELU = helper.make_node("Relu", ["c"], ["r"])


def test_answers_stay_the_same_to_the_bit(tmp_path: Path) -> None:
    model = network(tmp_path / "m.onnx", RELU)
    assert len(relus.halvable(model)) == 2
    halved = relus.halve(model)
    assert "Relu" not in {node.op_type for node in halved.graph.node}
    expected = onnx_model.run(model, SAMPLES)
    assert (expected == 0).any()
    assert (expected > 0).any()
    np.testing.assert_array_equal(onnx_model.run(halved, SAMPLES), expected)


@pytest.mark.parametrize("batch", [1, 4])
def test_surgery_halves_only_when_asked(batch: int, tmp_path: Path) -> None:
    model = network(tmp_path / "m.onnx", RELU)
    plain, _ = surgery.prepare(model, SAMPLES, 2, batch)
    halved, rows = surgery.prepare(model, SAMPLES, 2, batch, halved_relus=True)
    assert [node.op_type for node in plain.graph.node].count("Relu") == 2
    assert [node.op_type for node in halved.graph.node].count("Abs") == 2
    salted = np.hstack([rows, np.ones((len(rows), 2), np.float32)])
    np.testing.assert_array_equal(onnx_model.run(halved, salted), onnx_model.run(plain, salted))


@pytest.mark.parametrize(
    "nodes",
    [
        # Somebody else takes what the layer gives.
        (RELU, helper.make_node("Abs", ["c"], ["unused"])),
        # Another layer has the same weights.
        (RELU, helper.make_node("Conv", ["x", "kernel"], ["unused"], kernel_shape=[2, 2])),
        # It is no layer.
        (helper.make_node("Neg", ["c"], ["n"]), helper.make_node("Relu", ["n"], ["r"])),
        # The bias is computed.
        (
            helper.make_node("Abs", ["offset"], ["computed"]),
            helper.make_node("Conv", ["x", "other", "computed"], ["d"], kernel_shape=[2, 2]),
            helper.make_node("Relu", ["d"], ["r"]),
        ),
    ],
    ids=["output used twice", "weights used twice", "no layer", "computed bias"],
)
def test_nothing_else_is_touched(nodes: tuple[onnx.NodeProto, ...], tmp_path: Path) -> None:
    constants = (floats("other", 3, 1, 2, 2), floats("offset", 3))
    model = network(tmp_path / "m.onnx", *nodes, constants=constants)
    (last,) = relus.halvable(model)
    assert model.graph.node[last].output[0] == "y"
    halved = relus.halve(model)
    assert [node.op_type for node in halved.graph.node].count("Relu") == 1
    np.testing.assert_array_equal(onnx_model.run(halved, SAMPLES), onnx_model.run(model, SAMPLES))


def test_weights_that_are_an_input_are_left_alone(tmp_path: Path) -> None:
    model = network(tmp_path / "m.onnx", RELU)
    for name, shape in (("kernel", [3, 1, 2, 2]), ("v", [2])):
        model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    assert relus.halvable(model) == []


def test_whole_numbered_weights_are_not_halved(tmp_path: Path) -> None:
    model = network(tmp_path / "m.onnx", RELU)
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "bias")
    bias.CopyFrom(numpy_helper.from_array(np.array([1, 2, 3], dtype=np.int32), "bias"))
    (last,) = relus.halvable(model)
    assert model.graph.node[last].output[0] == "y"


def test_a_layer_whose_answer_is_the_models_own_is_left_alone(tmp_path: Path) -> None:
    model = network(tmp_path / "m.onnx", RELU)
    model.graph.output.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, [1, 3, 3, 3]))
    (last,) = relus.halvable(model)
    assert model.graph.node[last].output[0] == "y"


def test_the_option_is_a_boolean_that_tuning_decides() -> None:
    plan = CircuitPlan(
        input_mode=InputMode.PUBLIC, weights_mode=WeightsMode.FIXED, options={"halved_relus": True}
    )
    assert Options.of(plan).halved_relus is True
    assert "halved_relus" in CHOSEN
    for value in (1, 0.0, "true"):
        absurd = CircuitPlan(
            input_mode=plan.input_mode,
            weights_mode=plan.weights_mode,
            options={"halved_relus": value},
        )
        with pytest.raises(RecipeInvalid, match="halved_relus"):
            Options.of(absurd)
