"""What ONNX models come in, and the rewriting of their inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.models import save, tiny_onnx
from zkserve.engines import onnx_model
from zkserve.engines.base import CircuitPlan, Limits
from zkserve.engines.child import run_child
from zkserve.engines.ezkl import surgery
from zkserve.engines.ezkl.options import Options
from zkserve.errors import InvalidInput, ModelRejected, RecipeInvalid
from zkserve.types import InputMode, WeightsMode


def value(name: str, shape: list, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def constant(name: str, array: object, kind: type = np.int64) -> TensorProto:
    return numpy_helper.from_array(np.array(array, dtype=kind), name)


def graph(nodes, inputs, outputs, constants=()) -> onnx.GraphProto:
    return helper.make_graph(nodes, "g", inputs, outputs, list(constants))


def two_inputs(path: Path) -> Path:
    return save(
        graph(
            [
                helper.make_node("Reshape", ["image", "flat"], ["f"]),
                helper.make_node("Concat", ["f", "extra"], ["y"], axis=1),
            ],
            [value("image", ["batch", 2, 3]), value("extra", [1, 2])],
            [value("y", ["batch", 8])],
            [constant("flat", [1, 6])],
        ),
        path,
    )


def test_a_free_batch_becomes_one(tmp_path: Path):
    model = onnx_model.load(tiny_onnx(tmp_path / "m.onnx", inputs=5, outputs=2))
    assert [onnx_model.shape_of(v) for v in onnx_model.inputs_of(model)] == [(1, 5)]
    assert onnx_model.shape_of(model.graph.output[0]) == (1, 2)


@pytest.mark.parametrize("salt_count", [0, 5])
@pytest.mark.parametrize("make", [tiny_onnx, two_inputs])
def test_the_rewritten_model_answers_the_same_whatever_the_salt(
    tmp_path: Path, make, salt_count: int
):
    original = onnx_model.load(make(tmp_path / "m.onnx"))
    flat = surgery.flatten(original, salt_count)
    (only,) = onnx_model.inputs_of(flat)
    size = sum(np.prod(onnx_model.shape_of(v)) for v in onnx_model.inputs_of(original))
    assert onnx_model.shape_of(only) == (1, size + salt_count)
    onnx.checker.check_model(flat, full_check=True)
    samples = np.random.default_rng(0).normal(size=(5, size)).astype(np.float32)
    surgery.check_same(original, flat, samples, salt_count)
    salt = np.full((5, salt_count), 7, dtype=np.float32)
    np.testing.assert_allclose(
        onnx_model.run(original, samples),
        onnx_model.run(flat, np.hstack([samples, salt])),
        rtol=1e-6,
    )


def test_inputs_are_joined_in_graph_order(tmp_path: Path):
    flat = surgery.flatten(onnx_model.load(two_inputs(tmp_path / "m.onnx")), 3)
    row = np.arange(11, dtype=np.float32)[None]
    assert onnx_model.run(flat, row).tolist() == [list(range(8))]


def test_a_rewriting_that_changes_answers_is_noticed(tmp_path: Path):
    original = onnx_model.load(tiny_onnx(tmp_path / "m.onnx"))
    other = onnx_model.load(tiny_onnx(tmp_path / "o.onnx", seed=1))
    samples = np.ones((2, 4), dtype=np.float32)
    with pytest.raises(ModelRejected, match="change"):
        surgery.check_same(original, surgery.flatten(other, 2), samples, 2)


def test_samples_of_another_length_are_refused(tmp_path: Path):
    model = onnx_model.load(tiny_onnx(tmp_path / "m.onnx"))
    with pytest.raises(InvalidInput, match=r"\(samples, 4\)"):
        onnx_model.run(model, np.ones((2, 5), dtype=np.float32))


def bomb(path: Path) -> Path:
    return save(
        graph(
            [
                helper.make_node("ConstantOfShape", ["s"], ["c"]),
                helper.make_node("Add", ["x", "c"], ["y"]),
            ],
            [value("x", [1, 1])],
            [value("y", [65536, 65536])],
            [constant("s", [65536, 65536])],
        ),
        path,
    )


def broadcast_bomb(path: Path) -> Path:
    return save(
        graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            [value("x", [1, 65536, 1])],
            [value("y", [1, 65536, 65536])],
            [constant("w", np.ones((1, 65536)), np.float32)],
        ),
        path,
    )


def custom_domain(path: Path) -> Path:
    node = helper.make_node("Relu", ["x"], ["y"], domain="evil")
    model = helper.make_model(
        graph([node], [value("x", [1, 1])], [value("y", [1, 1])]),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("evil", 1)],
    )
    onnx.save(model, path)
    return path


def external_data(path: Path) -> Path:
    model = onnx.load(tiny_onnx(path))
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    path.write_bytes(model.SerializeToString())
    return path


def loop(path: Path) -> Path:
    body = graph([], [], [])
    node = helper.make_node("If", ["x"], ["y"], then_branch=body, else_branch=body)
    return save(graph([node], [value("x", [1])], [value("y", [1])]), path)


def free_dimension(path: Path) -> Path:
    return save(
        graph(
            [helper.make_node("Relu", ["x"], ["y"])],
            [value("x", [1, "length"])],
            [value("y", [1, "length"])],
        ),
        path,
    )


def two_outputs(path: Path) -> Path:
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Neg", ["x"], ["z"])]
    return save(graph(nodes, [value("x", [1, 2])], [value("y", [1, 2]), value("z", [1, 2])]), path)


def integer_input(path: Path) -> Path:
    kind = TensorProto.INT64
    node = helper.make_node("Neg", ["x"], ["y"])
    return save(graph([node], [value("x", [1, 2], kind)], [value("y", [1, 2], kind)]), path)


def old_opset(path: Path) -> Path:
    node = helper.make_node("Relu", ["x"], ["y"])
    return save(graph([node], [value("x", [1, 2])], [value("y", [1, 2])]), path, opset=7)


def broken_graph(path: Path) -> Path:
    node = helper.make_node("Relu", ["nowhere"], ["y"])
    return save(graph([node], [value("x", [1, 2])], [value("y", [1, 2])]), path)


def truncated(path: Path) -> Path:
    data = tiny_onnx(path).read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


def junk(path: Path) -> Path:
    path.write_bytes(b"\x80\x04not a model")
    return path


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (bomb, "ConstantOfShape is not supported"),
        (broadcast_bomb, "4294967296 elements"),
        (custom_domain, "domains"),
        (external_data, "outside the model file"),
        (loop, "If is not supported"),
        (free_dimension, "free or empty dimension"),
        (two_outputs, "2 outputs"),
        (integer_input, "not float32"),
        (old_opset, "opset 7"),
        (broken_graph, "checker refuses"),
        (truncated, "not an ONNX model|checker refuses"),
        (junk, "not an ONNX model|checker refuses|opset"),
    ],
)
def test_bad_models_are_refused_with_a_reason(tmp_path: Path, make, reason: str):
    with pytest.raises(ModelRejected, match=reason):
        onnx_model.load(make(tmp_path / "m.onnx"))


def test_a_file_over_the_cap_is_not_read(tmp_path: Path):
    path = tmp_path / "m.onnx"
    with path.open("wb") as file:
        file.truncate(onnx_model.MAX_FILE_BYTES + 1)
    with pytest.raises(ModelRejected, match="at most"):
        onnx_model.load(path)


def test_a_refusal_crosses_from_the_child(tmp_path: Path):
    samples = tmp_path / "s.npy"
    np.save(samples, np.ones((1, 1), dtype=np.float32))
    with pytest.raises(ModelRejected, match="ConstantOfShape"):
        run_child(
            "zkserve.engines.onnx_model:float_outputs",
            limits=Limits(time_s=60, memory_bytes=1 << 30),
            model=str(bomb(tmp_path / "m.onnx")),
            samples=str(samples),
            outputs=str(tmp_path / "o.npy"),
        )


def test_a_model_that_only_the_native_engine_proves_has_float_answers(tmp_path: Path):
    nodes = [helper.make_node("Gelu", ["x"], ["h"]), helper.make_node("Div", ["h", "two"], ["y"])]
    model = save(
        graph(nodes, [value("x", [1, 2])], [value("y", [1, 2])], [constant("two", 2, np.float32)]),
        tmp_path / "m.onnx",
        opset=20,
    )
    samples, outputs = tmp_path / "s.npy", tmp_path / "o.npy"
    np.save(samples, np.array([[0, 10]], dtype=np.float32))
    run_child(
        "zkserve.engines.onnx_model:float_outputs",
        limits=Limits(time_s=60, memory_bytes=1 << 30),
        model=str(model),
        samples=str(samples),
        outputs=str(outputs),
    )
    np.testing.assert_allclose(np.load(outputs), [[0, 5]], atol=1e-6)


def plan(**options: object) -> CircuitPlan:
    return CircuitPlan(
        input_mode=InputMode.COMMITTED, weights_mode=WeightsMode.HASHED, options=options
    )


def test_options_have_defaults_and_are_taken():
    assert Options.of(plan()) == Options()
    assert Options.of(plan(scale=6, decomp_base=128, decomp_legs=4)).decomp_base == 128
    for mode, visibility in ((InputMode.PUBLIC, "public"), (InputMode.COMMITTED, "hashed")):
        made = Options().run_args(mode, WeightsMode.HASHED)
        assert made["input_visibility"] == visibility


@pytest.mark.parametrize("mode", ["hashed", "fixed", "polycommit"])
def test_weights_are_bound_as_the_plan_says(mode: str):
    weights_mode = WeightsMode(mode)
    Options.of(CircuitPlan(input_mode=InputMode.PUBLIC, weights_mode=weights_mode))
    assert Options().run_args(InputMode.PUBLIC, weights_mode)["param_visibility"] == mode


@pytest.mark.parametrize(
    "options", [{"check_mode": "UNSAFE"}, {"scale": 0}, {"scale": 8.0}, {"scale": True}]
)
def test_unknown_and_absurd_options_are_refused(options: dict):
    with pytest.raises(RecipeInvalid):
        Options.of(plan(**options))


@pytest.mark.parametrize("mode", ["private", "committed", "whatever"])
def test_weights_modes_that_bind_nothing_here_are_refused(mode: str):
    asked = CircuitPlan(input_mode=InputMode.PUBLIC, weights_mode=mode)  # type: ignore[arg-type]
    with pytest.raises(RecipeInvalid, match="refused"):
        Options.of(asked)
