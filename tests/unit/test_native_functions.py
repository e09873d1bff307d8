"""Function tables, and networks put together at random."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.native_graphs import Model
from tests.unit.test_native_program import cells_of, slow
from zkserve.engines.native.compiler.functions import tabulate
from zkserve.engines.native.compiler.network import Activation, Kind
from zkserve.engines.native.compiler.quantise import quantise
from zkserve.engines.native.options import Options
from zkserve.errors import ModelRejected

TABLES = [
    Activation(kind=Kind.SIGMOID),
    Activation(kind=Kind.TANH),
    Activation(kind=Kind.GELU),
    Activation(kind=Kind.GELU_TANH),
    Activation(kind=Kind.SILU),
    Activation(kind=Kind.LEAKY_RELU, slope=0.1),
    Activation(kind=Kind.LEAKY_RELU, slope=-0.5),
]


@pytest.mark.parametrize("slope", [1e30, 1e5, 300.0])
def test_a_slope_too_steep_for_bytes_is_refused(slope: float) -> None:
    activation = Activation(kind=Kind.LEAKY_RELU, slope=slope)
    with pytest.raises(ModelRejected, match="do not fit"):
        tabulate(activation, -1.0, 1.0)


@pytest.mark.parametrize("activation", TABLES, ids=lambda a: f"{a.kind}{a.slope}")
@given(low=st.floats(-30, 1), high=st.floats(0, 30))
def test_a_table_follows_its_function(activation: Activation, low: float, high: float) -> None:
    table = tabulate(activation, low, high)
    assert len(table.data) == 256
    assert math.frexp(table.before_scale)[0] == 0.5  # a power of two
    x = np.linspace(min(low, 0), max(high, 0), 200)
    before = np.clip(np.rint(x / table.before_scale) + table.centre, 0, 255).astype(int)
    cells = np.frombuffer(table.data, np.uint8)[before].astype(float)
    error = np.abs(table.after_scale * (cells - table.zero) - activation(x))
    slope = 1.13 * table.before_scale / 2  # no function here is steeper
    assert error.max() <= slope + table.after_scale / 2 + 0.02


@pytest.mark.parametrize("activation", TABLES, ids=lambda a: f"{a.kind}{a.slope}")
def test_a_table_changes_only_where_a_power_of_two_is_crossed(activation: Activation) -> None:
    tables = {tabulate(activation, -3.0, high).data for high in np.linspace(2.6, 2.9, 9)}
    assert len(tables) == 1


def test_a_table_can_be_made_coarser() -> None:
    gelu = Activation(kind=Kind.GELU)
    fine, coarse = tabulate(gelu, -2, 2), tabulate(gelu, -2, 2, at_least=0.3)
    assert fine.before_scale < 0.3 <= coarse.before_scale


OPERATIONS = (
    *("conv", "depthwise", "relu", "tanh", "silu", "clip", "norm", "max", "average"),
    *("scale", "shift", "residual", "concat", "difference"),
)


def grow(model: Model, operation: str, channels: int, size: int) -> tuple[int, int]:
    """Add an operation to an image of ``channels`` and ``size``; return what they became."""
    rng, before = model.rng, model.last
    match operation:
        case "conv":
            outputs = int(rng.integers(1, 5))
            model.conv(channels, outputs, 3, pads=[1, 1, 1, 1])
            return outputs, size
        case "depthwise":
            model.conv(channels, channels, 2, group=channels, pads=[1, 0, 0, 1])
        case "relu" | "tanh":
            model.add(operation.capitalize())
        case "silu":
            model.add("Mul", before, model.add("Sigmoid", before))
        case "clip":
            model.add("Clip", before, np.float32(0), np.float32(2))
        case "norm":
            model.batch_norm(channels)
        case "max":
            model.add("MaxPool", kernel_shape=[2, 2], strides=[1, 1], pads=[0, 0, 1, 1])
        case "average":
            model.add(
                "AveragePool",
                kernel_shape=[3, 3],
                pads=[1, 1, 1, 1],
                count_include_pad=1,
            )
        case "scale":
            model.add("Mul", before, rng.uniform(-2, 2, (channels, 1, 1)))
        case "shift":
            model.add("Add", before, rng.normal(size=(1, channels, 1, 1)))
        case "residual":
            model.add("Add", before, model.conv(channels, channels, 1, before))
        case "difference":
            model.add("Sub", model.conv(channels, channels, 1, before), before)
        case "concat" if channels < 5:
            model.add("Concat", before, model.conv(channels, 2, 1, before), axis=1)
            return channels + 2, size
    return channels, size


@settings(max_examples=40)
@given(
    operations=st.lists(st.sampled_from(OPERATIONS), min_size=1, max_size=6),
    seed=st.integers(0, 1000),
    bits=st.sampled_from([8, 16]),
)
def test_any_network(operations: list[str], seed: int, bits: int) -> None:
    model = Model((1, 2, 4, 4), seed=seed)
    channels, size = 2, 4
    for operation in operations:
        channels, size = grow(model, operation, channels, size)
    if len(set(operations) - {"concat"}) == 0 or seed % 2:
        model.add("Flatten")
        model.gemm(channels * size * size, 3)
    samples = model.samples(6)
    network = model.network()
    np.testing.assert_allclose(network.run(samples), model.expected(samples), rtol=1e-3, atol=1e-4)
    if bits == 16 and any(t.activation.tabulated for t in network.tensors):
        bits = 8
    made = quantise(network, samples, Options(activations=bits, input_bytes=bits // 8))
    cells = cells_of(made, 2 * samples[:1])
    assert slow(made.program, cells[0]) == made.program.run(cells)[0].tolist()
