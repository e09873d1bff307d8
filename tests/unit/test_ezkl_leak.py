"""What proofs reveal of unblinded weights is counted from above, and their secret from below."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.models import save, tiny_onnx
from zkserve.engines import weights
from zkserve.engines.base import CircuitPlan
from zkserve.engines.entropy import bits_of_counts
from zkserve.engines.ezkl.leak import (
    bits_per_proof,
    budget,
    digit_bits_per_proof,
    secret_bits,
)
from zkserve.engines.ezkl.options import Options
from zkserve.engines.ezkl.settings import Settings, columns_of
from zkserve.engines.weights import digests as digests_of
from zkserve.errors import EngineFailed, RecipeInvalid
from zkserve.types import InputMode, LeakBudget, Scale, WeightsMode

FIXTURES = Path(__file__).parents[2] / "contracts/test/fixtures"
SETTINGS = Settings(
    input_mode=InputMode.PUBLIC,
    weights_mode=WeightsMode.FIXED,
    input_scale=8,
    output_scale=Scale(shift=8),
    logrows=10,
    rows=931,
    element_bound=1 << 28,
    constants=114,
    instances=6,
    outputs=3,
    weights_points=0,
    lookup_range=None,
)
SOURCE = "".join(
    f"mstore(0x0f00, 0x{7:064x}) // permutation_comms[{number}].{axis}\n"
    for number in range(12)
    for axis in "xy"
)


def test_fixed_weights_are_revealed_by_constants_and_wiring():
    assert bits_per_proof(SETTINGS, SOURCE) == 254 * (1 + 12)
    with pytest.raises(EngineFailed, match="permutation"):
        bits_per_proof(SETTINGS, "contract Other {}")


def test_committed_weights_are_revealed_by_their_own_columns_only():
    settings = replace(SETTINGS, weights_mode=WeightsMode.POLYCOMMIT, weights_points=3)
    assert bits_per_proof(settings, SOURCE) == 254 * 3


def test_hashed_weights_are_not_revealed():
    assert bits_per_proof(replace(SETTINGS, weights_mode=WeightsMode.HASHED), SOURCE) == 0


def test_counts_of_digits_are_revealed_in_every_mode():
    source = (FIXTURES / "EzklCommittedRaw.sol").read_text()
    counted = source.count("rhs := addmod(rhs, sub(R, mulmod(calldataload(")
    assert digit_bits_per_proof(source) == 254 * counted > 0
    assert digit_bits_per_proof("contract Other {}") == 0


@pytest.mark.parametrize(
    ("constants", "columns"), [(0, 1), (1016, 1), (1017, 2), (2033, 2), (2034, 3)]
)
def test_constants_take_as_many_columns_as_ezkl_gives_them(constants: int, columns: int):
    assert columns_of(constants, 10) == columns


def test_the_secret_is_the_entropy_of_quantised_weights():
    eight = np.arange(8, dtype=np.float32) / 256
    assert secret_bits([eight], 8) == 24
    assert secret_bits([eight, eight.copy()], 8) == 24, "the same tensor twice is no more secret"
    assert secret_bits([eight], 5) < 24, "what is rounded away is no secret"
    assert secret_bits([np.ones(1000, np.float32)], 8) == 0
    assert secret_bits([], 8) == 0
    sparse = np.zeros(1024, np.float32)
    sparse[:8] = eight
    assert secret_bits([sparse], 8) < 100, "zeros hide little"


def test_a_budget_rounds_down_and_says_what_an_attacker_needs():
    made = budget(bits_per_proof=254, secret_bits=10_000, fraction=0.25)
    assert made == LeakBudget(bits_per_proof=254, secret_bits=10_000, proofs=9)
    assert (made.bits, made.exposing_proofs) == (9 * 254, 40)
    assert budget(bits_per_proof=3302, secret_bits=1000, fraction=0.5).proofs == 0


@pytest.mark.parametrize("fraction", [0.0, -0.1, 0.51, 1, True, "0.2", float("nan")])
def test_a_fraction_out_of_bounds_is_refused(fraction: object):
    with pytest.raises(RecipeInvalid, match="leak_fraction"):
        Options.of(
            CircuitPlan(
                input_mode=InputMode.PUBLIC,
                weights_mode=WeightsMode.FIXED,
                options={"leak_fraction": fraction},  # type: ignore[dict-item]
            )
        )


def test_the_same_weights_are_told_in_another_model(tmp_path: Path):
    one = digests_of(str(tiny_onnx(tmp_path / "one.onnx", hidden=16)))
    assert one
    assert one == digests_of(str(tiny_onnx(tmp_path / "again.onnx", hidden=16)))
    other = digests_of(str(tiny_onnx(tmp_path / "b.onnx", hidden=16, seed=1)))
    assert not set(one) & set(other)


def layer(path: Path, matrix: np.ndarray, bias: np.ndarray, transposed: int = 0) -> list[str]:
    """Return the digests of a model of one layer, whose weights have the name of its file."""
    name = path.stem
    outputs, inputs = len(bias), matrix.size // len(bias)
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", name, "bias"], ["y"], transB=transposed)],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, inputs])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, outputs])],
        [
            numpy_helper.from_array(np.ascontiguousarray(matrix, np.float32), name),
            numpy_helper.from_array(bias.astype(np.float32), "bias"),
        ],
    )
    return digests_of(str(save(graph, path)))


def test_reshaped_and_renamed_weights_are_told_and_trivial_tensors_are_not(tmp_path: Path):
    weights = np.random.default_rng(3).normal(size=(4, 8)).astype(np.float32)
    plain = layer(tmp_path / "w.onnx", weights, np.zeros(8))
    assert len(plain) == 1, "the matrix, and the model, whose biases are zeros like all others'"
    assert layer(tmp_path / "v.onnx", weights.T, np.zeros(8), 1) == plain


def test_weights_of_another_type_or_padded_with_zeros_are_told(tmp_path: Path):
    weights = np.random.default_rng(3).normal(size=(4, 8)).astype(np.float32)
    plain = layer(tmp_path / "w.onnx", weights, np.zeros(8))
    padded = np.pad(weights, ((0, 0), (0, 5)))
    assert layer(tmp_path / "p.onnx", padded, np.zeros(13)) == plain
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["w"], ["single"], to=TensorProto.FLOAT),
            helper.make_node("MatMul", ["x", "single"], ["y"]),
        ],
        "double",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8])],
        [numpy_helper.from_array(weights.astype(np.float64), "w")],
    )
    assert digests_of(str(save(graph, tmp_path / "d.onnx"))) == plain


@pytest.mark.parametrize("values", [[-1, 0, 1], [-1, 1], [0, 1]])
def test_weights_of_few_distinct_values_are_told_too(tmp_path: Path, values: list[int]):
    """Ternary and binary networks hold many bits in two or three values."""
    rng = np.random.default_rng(5)
    weights = rng.choice(values, size=(300, 300)).astype(np.float32)
    assert secret_bits([weights], 7) > 80_000
    plain = layer(tmp_path / "w.onnx", weights, np.zeros(300))
    assert len(plain) == 1
    zeros_signed = np.where(weights == 0, np.float32(-0.0), weights)
    zeros_signed[:150] = weights[:150]
    assert layer(tmp_path / "v.onnx", zeros_signed.T, np.zeros(300), 1) == plain
    fewer = layer(tmp_path / "u.onnx", weights, rng.normal(size=300))
    assert len(set(plain) & set(fewer)) == 1, "the matrix alone, where the biases are others"
    other = rng.choice(values, size=(300, 300))
    assert not set(plain) & set(layer(tmp_path / "o.onnx", other, np.zeros(300)))


@pytest.mark.parametrize("bias", [np.zeros(64), np.ones(64), np.arange(64) % 8 == 0, np.arange(16)])
def test_trivial_tensors_tie_no_models_together(tmp_path: Path, bias: np.ndarray):
    rng = np.random.default_rng(6)
    one, other = (
        layer(tmp_path / f"{name}.onnx", rng.normal(size=(4, len(bias))), bias % 15)
        for name in ("one", "other")
    )
    assert one
    assert not set(one) & set(other)
    nothing = layer(tmp_path / "nothing.onnx", np.ones((4, len(bias))), np.ones(len(bias)))
    assert nothing == [], "a model of equal weights has no secret"


MATRIX = np.random.default_rng(8).normal(size=(60, 40)).astype(np.float32)


def moved(matrix: np.ndarray, kind: str) -> np.ndarray:
    rng = np.random.default_rng(9)
    if kind == "up":
        return np.nextafter(matrix, np.float32(9))
    if kind == "either way":
        return np.nextafter(matrix, rng.choice([-9, 9], size=matrix.shape).astype(np.float32))
    if kind == "folded":
        factors = rng.uniform(0.5, 2, (60, 1)).astype(np.float32)
        return matrix / factors * factors
    if kind == "scaled":
        return matrix * np.float32(3.7)
    if kind == "padded":
        return np.nextafter(np.pad(matrix, ((0, 0), (0, 9))), np.float32(9))
    return matrix + rng.normal(scale=0.003, size=matrix.shape).astype(np.float32)


@pytest.mark.parametrize("kind", ["up", "either way", "folded", "scaled", "padded"])
def test_weights_moved_by_less_than_any_circuit_sees_are_told(tmp_path: Path, kind: str):
    other = moved(MATRIX, kind)
    assert not np.array_equal(other, MATRIX)
    rng = np.random.default_rng(10)
    plain = layer(tmp_path / "w.onnx", MATRIX, rng.normal(size=60), 1)
    assert set(plain) & set(layer(tmp_path / "v.onnx", other, rng.normal(size=60), 1))


def test_weights_that_were_tuned_further_are_not_told(tmp_path: Path):
    """Stated in ADR 13: this holds no secret back, and the owner must know."""
    plain = layer(tmp_path / "w.onnx", MATRIX, np.zeros(60), 1)
    tuned = moved(MATRIX, "tuned")
    assert not set(plain) & set(layer(tmp_path / "v.onnx", tuned, np.zeros(60), 1))


def test_how_far_a_move_is_told_falls_with_the_number_of_values():
    """The sizes that ADR 13 names."""
    rng = np.random.default_rng(12)
    many, few = (rng.normal(size=size).astype(np.float32) for size in (100_000, 4000))
    assert weights._rounded(many) & weights._rounded(moved(many, "either way"))
    halves = few.astype(np.float16).astype(np.float32)
    assert weights._rounded(few)
    assert not weights._rounded(few) & weights._rounded(halves)


def test_weights_of_the_same_shape_and_distribution_are_not_taken_for_each_other():
    """Rounding is coarse, yet counts of some fifty classes differ wherever values do."""
    rng = np.random.default_rng(11)
    seen: set[str] = set()
    for size in (64, 100, 400, 100_000):
        for _ in range(40):
            for values in (rng.normal(size=size), rng.uniform(-1, 1, size)):
                made = weights._rounded(values.astype(np.float32))
                assert not made & seen, size
                seen |= made
    assert len(seen) > 200
    assert weights._rounded(np.zeros(9, np.float32)) == set()
    assert weights._rounded(rng.choice([-1, 1], size=90_000).astype(np.float32)) == set()


def test_counts_tell_as_much_as_they_are_unlikely():
    assert bits_of_counts(np.array([2])) == 0
    assert bits_of_counts(np.array([1, 1])) == pytest.approx(1), "two of four orders"
    assert bits_of_counts(np.array([2, 1])) == pytest.approx(-np.log2(3 * 4 / 27))
    assert bits_of_counts(np.array([], np.int64)) == 0


@pytest.mark.parametrize("layers", [1, 4, 40])
def test_whatever_is_allowed_one_proof_has_a_digest(tmp_path: Path, layers: int):
    """Many small tensors, none of which tells anything, count all together."""
    rng = np.random.default_rng(layers)
    pieces = [rng.choice([-1, 0, 1], size=1200 // layers).astype(np.float32) for _ in range(layers)]
    assert budget(bits_per_proof=254, secret_bits=secret_bits(pieces, 7), fraction=0.5).proofs
    graph = helper.make_graph(
        [helper.make_node("Concat", ["x", *(f"w{n}" for n in range(layers))], ["y"], axis=0)],
        "pieces",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1 + 1200])],
        [numpy_helper.from_array(piece, f"w{n}") for n, piece in enumerate(pieces)],
    )
    assert len(digests_of(str(save(graph, tmp_path / "pieces.onnx")))) >= 1
