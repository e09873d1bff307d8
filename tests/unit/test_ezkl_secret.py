"""What no answer depends on is no secret: padding a model does not buy more proofs of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from tests.models import save
from zkserve.engines import onnx_model
from zkserve.engines.ezkl import leak, secret, surgery

SCALE = 8
RNG = np.random.default_rng(11)
SAMPLES = RNG.normal(size=(40, 4)).astype(np.float32)
REAL = (RNG.permutation(np.arange(-40, 40))[:10] * 2.0**-SCALE).astype(np.float32)
"""Two rows of four weights, and two biases: all different, none zero."""
WEIGHTS, BIAS = REAL[:8].reshape(2, 4), REAL[8:]
BITS = 8 * 3 + 2 * 1
Nodes = list[NodeProto]
Tensors = dict[str, np.ndarray]
node = helper.make_node


def model(path: Path, nodes: Nodes, tensors: Tensors) -> onnx.ModelProto:
    """Return a checked model of ``(1, 4)`` to ``(1, n)`` that begins with the real weights."""
    made = helper.make_graph(
        [node("Gemm", ["x", "w", "b"], ["a"], transB=1), *nodes],
        "padded",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, "n"])],
        [
            numpy_helper.from_array(value, name)
            for name, value in ({"w": WEIGHTS, "b": BIAS} | tensors).items()
        ],
    )
    return onnx_model.load(save(made, path))


def counted(path: Path, nodes: Nodes, tensors: Tensors) -> int:
    return secret.bits(model(path / "m.onnx", nodes, tensors), SAMPLES, SCALE)


def random(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


END = [node("Identity", ["a"], ["y"])]


def unused(_: Tensors) -> Nodes:
    return END


def in_a_branch_that_ends(tensors: Tensors) -> Nodes:
    """Multiplied with the input, and then left alone."""
    tensors["more"] = random(2, 900)
    return [node("MatMul", ["a", "more"], ["lost"]), node("Relu", ["lost"], ["loster"]), *END]


def multiplied_by_zero(tensors: Tensors) -> Nodes:
    tensors |= {"more": random(2, 900), "none": np.zeros((900, 2), np.float32)}
    return [
        node("MatMul", ["a", "more"], ["wide"]),
        node("MatMul", ["wide", "none"], ["nothing"]),
        node("Add", ["a", "nothing"], ["y"]),
    ]


def rows_behind_columns_of_zeros(tensors: Tensors) -> Nodes:
    """A layer pruned by units: the first has their weights still, the second has zeros."""
    tensors |= {"w": np.vstack([WEIGHTS, random(500, 4)]), "b": np.append(BIAS, random(500))}
    tensors["end"] = np.vstack([np.eye(2), np.zeros((500, 2))]).astype(np.float32)
    return [node("Relu", ["a"], ["h"]), node("MatMul", ["h", "end"], ["y"])]


def rows_of_zeros(tensors: Tensors) -> Nodes:
    tensors["w"] = np.vstack([WEIGHTS, np.zeros((900, 4), np.float32)])
    tensors["b"] = np.append(BIAS, np.zeros(900)).astype(np.float32)
    return END


def rows_too_small_for_the_scale(tensors: Tensors) -> Nodes:
    tensors["w"] = np.vstack([WEIGHTS, 1e-4 * random(900, 4)])
    tensors["b"] = np.append(BIAS, np.zeros(900)).astype(np.float32)
    return END


def the_same_row_again_and_again(tensors: Tensors) -> Nodes:
    tensors["w"] = np.vstack([WEIGHTS, *[WEIGHTS[0]] * 900])
    tensors["b"] = np.append(BIAS, np.full(900, BIAS[0]))
    return END


def the_same_tensor_twice(tensors: Tensors) -> Nodes:
    tensors |= {"v": WEIGHTS.T.copy(), "c": BIAS.copy()}
    return [
        node("MatMul", ["x", "v"], ["l"]),
        node("Add", ["l", "c"], ["r"]),
        node("Concat", ["a", "r"], ["y"], axis=1),
    ]


def ones(tensors: Tensors) -> Nodes:
    tensors["more"] = np.ones((2, 900), np.float32)
    return [node("MatMul", ["a", "more"], ["y"])]


def double(tensors: Tensors) -> Nodes:
    """The same weights again, of another type."""
    tensors["more"] = WEIGHTS.astype(np.float64)
    return [
        node("Cast", ["more"], ["single"], to=TensorProto.FLOAT),
        node("Gemm", ["x", "single"], ["again"], transB=1),
        node("Concat", ["a", "again"], ["y"], axis=1),
    ]


def unused_double(tensors: Tensors) -> Nodes:
    tensors["more"] = RNG.normal(size=10_000)
    return END


PADDING: list[Callable[[Tensors], Nodes]] = [
    unused, in_a_branch_that_ends, multiplied_by_zero, rows_behind_columns_of_zeros, rows_of_zeros,
    rows_too_small_for_the_scale, the_same_row_again_and_again, the_same_tensor_twice, ones, double,
    unused_double,
]  # fmt: skip


@pytest.mark.parametrize("pad", PADDING, ids=lambda pad: pad.__name__)
def test_padding_makes_no_secret_larger(tmp_path: Path, pad: Callable[[Tensors], Nodes]):
    """Ten real weights, and thousands of numbers that are no secret of theirs."""
    tensors: Tensors = {"never": random(10_000)} if pad is unused else {}
    found = counted(tmp_path, pad(tensors), tensors)
    # One of two biases is no secret where all padding has it; what passes ``a`` on has a few bits.
    assert BITS - 2 <= found <= BITS + 4


def test_what_is_computed_from_few_weights_holds_no_more_bits_than_they(tmp_path: Path):
    column, row = random(2, 1), random(1, 300)
    tensors = {"column": column, "row": row}
    nodes = [node("MatMul", ["column", "row"], ["more"]), node("MatMul", ["a", "more"], ["y"])]
    exact = 300 * np.log2(300) + 2
    assert counted(tmp_path, nodes, tensors) <= BITS + exact
    laid_out = leak.secret_bits([column @ row], SCALE)
    assert laid_out > exact, "600 numbers of which 302 decide"


def test_weights_that_answers_depend_on_count_in_full(tmp_path: Path):
    more = random(2, 500)
    counts = counted(tmp_path, [node("MatMul", ["a", "more"], ["y"])], {"more": more})
    assert counts == int(BITS + leak.secret_bits([more], SCALE)) > 6000


def test_doubles_that_answers_depend_on_count_too(tmp_path: Path):
    more = RNG.normal(size=(2, 500))
    nodes = [
        node("Cast", ["more"], ["single"], to=TensorProto.FLOAT),
        node("MatMul", ["a", "single"], ["y"]),
    ]
    assert counted(tmp_path, nodes, {"more": more}) == BITS + leak.secret_bits([more], SCALE)


def test_a_model_as_it_is_laid_out_is_counted_alike(tmp_path: Path):
    """With its inputs joined, a salt behind them, and several samples at once."""
    original = model(tmp_path / "m.onnx", END, {})
    for salt, batch in ((0, 1), (5, 1), (5, 4)):
        flat, rows = surgery.prepare(original, SAMPLES, salt, batch)
        assert secret.bits(flat, rows, SCALE) == BITS


def test_constants_of_no_weight_are_no_secret(tmp_path: Path):
    tensors = {"zero": np.zeros((), np.float32), "six": np.array(6, np.float32)}
    assert counted(tmp_path, [node("Clip", ["a", "zero", "six"], ["y"])], tensors) == BITS


def test_of_a_large_model_neighbours_are_looked_at_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Which may count dead rows beside live ones, and never more than all."""
    tensors: Tensors = {}
    nodes = rows_behind_columns_of_zeros(tensors)
    fine = counted(tmp_path, nodes, tensors)
    monkeypatch.setattr(secret, "NUMBERS", 20_000)  # six parts of 502 rows
    coarse = counted(tmp_path, nodes, tensors)
    assert fine < coarse < leak.secret_bits(tensors.values(), SCALE) / 4
