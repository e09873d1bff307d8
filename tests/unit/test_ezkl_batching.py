"""Models widened to a batch: the answers of single samples, or a refusal that says why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.models import save, tiny_onnx
from zkserve.engines import onnx_model
from zkserve.engines.agreement import join_samples
from zkserve.engines.base import CircuitPlan
from zkserve.engines.ezkl import surgery
from zkserve.engines.ezkl.batching import stack, widen
from zkserve.engines.ezkl.claims import check_batch
from zkserve.engines.ezkl.options import Options
from zkserve.errors import BundleMismatch, ModelRejected, RecipeInvalid
from zkserve.types import CircuitManifest, InputMode, Scale, TensorSpec, WeightsMode

BATCH = 3
RNG = np.random.default_rng(5)


def value(name: str, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))


def integers(name: str, *values: int) -> TensorProto:
    return numpy_helper.from_array(np.array(values, dtype=np.int64), name)


def floats(name: str, *shape: int) -> TensorProto:
    return numpy_helper.from_array(RNG.normal(size=shape).astype(np.float32), name)


def image_model(path: Path, flat: tuple[int, ...] = (1, 48)) -> Path:
    """Convolve, flatten by a stated shape, and add a constant that is reshaped too."""
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "kernel"], ["c"], kernel_shape=[2, 2]),
            helper.make_node("Reshape", ["bias", "f_shape"], ["b"]),
            helper.make_node("Add", ["c", "b"], ["s"]),
            helper.make_node("Relu", ["s"], ["r"]),
            helper.make_node("Constant", [], ["shape"], value=integers("v", *flat)),
            helper.make_node("Reshape", ["r", "shape"], ["f"]),
            helper.make_node("MatMul", ["f", "w"], ["y"]),
        ],
        "image",
        [value("x", [1, 1, 5, 5])],
        [value("y", [1, 2])],
        [
            floats("kernel", 3, 1, 2, 2),
            floats("bias", 3),
            integers("f_shape", 1, 3, 1, 1),
            floats("w", 48, 2),
        ],
    )
    return save(graph, path)


def two_inputs(path: Path) -> Path:
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["image"], ["f"]),
            helper.make_node("Concat", ["f", "extra"], ["y"], axis=1),
        ],
        "two",
        [value("image", ["N", 2, 3]), value("extra", [1, 2])],
        [value("y", ["N", 8])],
    )
    return save(graph, path)


def inferred_flat(path: Path) -> Path:
    return image_model(path, flat=(1, -1))


@pytest.mark.parametrize("salt_count", [0, 4])
@pytest.mark.parametrize("make", [tiny_onnx, image_model, inferred_flat, two_inputs])
def test_a_batch_answers_as_its_samples_do(
    tmp_path: Path, make: Callable[[Path], Path], salt_count: int
):
    original = onnx_model.load(make(tmp_path / "m.onnx"))
    specs = [
        TensorSpec(name=v.name, shape=onnx_model.shape_of(v))
        for v in onnx_model.inputs_of(original)
    ]
    samples = RNG.normal(size=(7, sum(spec.size for spec in specs))).astype(np.float32)
    flat, batches = surgery.prepare(original, samples, salt_count, BATCH)
    assert onnx_model.shape_of(flat.graph.output[0])[0] == BATCH
    assert batches.shape == (3, BATCH * samples.shape[1])
    whole = join_samples([spec.batched(BATCH) for spec in specs], samples[3:6])
    np.testing.assert_array_equal(batches[1], whole)
    np.testing.assert_array_equal(batches[2], stack(original, samples[[6, 0, 1]], BATCH)[0])
    salt = np.full((3, salt_count), 9, dtype=np.float32)
    np.testing.assert_allclose(
        onnx_model.run(flat, np.hstack([batches, salt])).reshape(9, -1)[:7],
        onnx_model.run(original, samples),
        rtol=1e-5,
        atol=1e-6,
    )


def test_a_batch_of_one_changes_nothing(tmp_path: Path):
    original = onnx_model.load(image_model(tmp_path / "m.onnx"))
    assert widen(original, 1) is original


def mixing(path: Path) -> Path:
    """Subtract the mean of all samples, which for a single one is the sample itself."""
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1),
            helper.make_node("Sub", ["x", "m"], ["y"]),
        ],
        "mixing",
        [value("x", [1, 4])],
        [value("y", [1, 4])],
    )
    return save(graph, path)


def one_by_shape(path: Path) -> Path:
    """Lose the batch in a shape: rows are joined, and only the first comes out."""
    graph = helper.make_graph(
        [
            helper.make_node("Slice", ["x", "start", "end", "axis"], ["y"]),
        ],
        "sliced",
        [value("x", [1, 4])],
        [value("y", [1, 4])],
        [integers("start", 0), integers("end", 1), integers("axis", 0)],
    )
    return save(graph, path)


def squeezed(path: Path) -> Path:
    graph = helper.make_graph(
        [
            helper.make_node("Squeeze", ["x", "axis"], ["s"]),
            helper.make_node("Unsqueeze", ["s", "axis"], ["y"]),
        ],
        "squeezed",
        [value("x", [1, 4])],
        [value("y", [1, 4])],
        [integers("axis", 0)],
    )
    return save(graph, path)


def joined_with_a_constant(path: Path) -> Path:
    graph = helper.make_graph(
        [helper.make_node("Concat", ["x", "c"], ["y"], axis=1)],
        "joined",
        [value("x", [1, 4])],
        [value("y", [1, 6])],
        [floats("c", 1, 2)],
    )
    return save(graph, path)


def no_batch_dimension(path: Path) -> Path:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])], "flat", [value("x", [4])], [value("y", [4])]
    )
    return save(graph, path)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (mixing, "3 samples into one batch"),
        (one_by_shape, r"output would have shape \[1, 4\], expected \[3, 4\]"),
        (squeezed, "cannot take 3 samples at once"),
        (joined_with_a_constant, "cannot take 3 samples at once"),
        (no_batch_dimension, "has no batch dimension"),
    ],
)
def test_a_model_that_cannot_take_a_batch_is_refused(
    tmp_path: Path, make: Callable[[Path], Path], reason: str
):
    original = onnx_model.load(make(tmp_path / "m.onnx"))
    samples = np.ones((1, 4), dtype=np.float32)
    surgery.prepare(original, samples, 2)
    with pytest.raises(ModelRejected, match=reason) as caught:
        surgery.prepare(original, samples, 2, BATCH)
    assert "batch" in (caught.value.remedy or "")


@pytest.mark.parametrize(
    "options", [{"batch": 0}, {"batch": 8.0}, {"batch": True}, {"freivalds": 1}]
)
def test_absurd_options_are_refused(options: dict[str, int | float | bool]):
    plan = CircuitPlan(
        input_mode=InputMode.PUBLIC, weights_mode=WeightsMode.HASHED, options=options
    )
    with pytest.raises(RecipeInvalid):
        Options.of(plan)


def manifest(shape: tuple[int, ...], batch: int) -> CircuitManifest:
    spec = TensorSpec(name="x", shape=shape)
    return CircuitManifest(
        circuit_id="0x" + "00" * 32,
        engine="ezkl",
        engine_version="0",
        input_mode=InputMode.PUBLIC,
        weights_mode=WeightsMode.HASHED,
        weights="0x" + "00" * 32,
        inputs=(spec,),
        output=spec,
        output_scale=Scale(),
        pins={},
        public=frozenset(),
        development_srs=True,
        rows=1,
        parameters={"batch": batch},
    )


def test_a_batch_that_the_shapes_do_not_have_is_refused():
    check_batch(manifest((4, 2), 4))
    check_batch(manifest((4, 2), 1))
    for batch in (0, 2, 8):
        with pytest.raises(BundleMismatch, match="batch"):
            check_batch(manifest((4, 2), batch))
