"""Integer programs against a reference that goes cell by cell, and against the float model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import product as every
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.native_graphs import Model
from tests.unit import test_native_lowering as lowered
from zkserve.engines.native.compiler.program import Equation, Product, Program, Scaled, Tensor
from zkserve.engines.native.compiler.quantise import Quantised, exact_scale, quantise
from zkserve.engines.native.compiler.ranges import _outwards
from zkserve.engines.native.options import Options
from zkserve.engines.native.protocol.description import Pool
from zkserve.errors import ModelRejected

Values = Mapping[tuple[int, ...], int]


def slow(program: Program, cells: np.ndarray) -> list[int]:
    """Section 3 of the protocol for one sample, in Python integers, one cell at a time."""
    shapes = [(t.channels, t.height, t.width) for t in program.tensors]
    stored: list[dict[tuple[int, ...], int]] = [{} for _ in program.tensors]
    stored[0] = {at: int(cells[at]) for at in np.ndindex(*shapes[0])}
    result: list[int] = []
    for equation, multipliers in zip(program.equations, program.multipliers, strict=True):
        sums = {
            at: _sum(program, stored, equation, *at)
            for at in np.ndindex(equation.channels, equation.height, equation.width)
        }
        if equation.target is None:
            result = [sums[at] for at in sorted(sums)]
            continue
        target = program.tensors[equation.target]
        for c, y, x in np.ndindex(equation.channels, target.height, target.width):
            inside = _window(equation, y, x) if equation.pool.positions > 1 else [(y, x)]
            largest = max(sums[c, oy, ox] for oy, ox in inside)
            m = multipliers[c if len(multipliers) > 1 else 0]
            u = m * largest + (1 << program.shift - 1) + (target.zero << program.shift)
            u += 1 << 16 * (program.activation_bytes + 1) - 1
            assert 0 <= u < 1 << 16 * (program.activation_bytes + 1)
            high, rest = divmod(u, 1 << 16 * (program.activation_bytes + 1) - 8)
            z = rest >> program.shift if high == 128 else program.top if high > 128 else 0
            if program.functions:
                z = program.functions[target.function][z]
            stored[equation.target][equation.first + c, y, x] = z
        cells_ = stored[equation.target]
        result = [cells_[at] - target.zero for at in sorted(cells_)]
    return result


def _sum(
    program: Program,
    stored: list[dict[tuple[int, ...], int]],
    e: Equation,
    c: int,
    oy: int,
    ox: int,
) -> int:
    total = 0 if e.bias is None else int(e.bias[c])
    group = c // (e.channels // e.groups)
    for p in e.products:
        seen = _seen(program, stored, p)
        per_group = p.channels // e.groups
        for i, ky, kx in np.ndindex(*p.weights.shape[1:]):
            y, x = ky, kx
            if not p.gemm:
                y = p.strides[0] * oy + p.dilations[0] * ky - p.padding[0]
                x = p.strides[1] * ox + p.dilations[1] * kx - p.padding[1]
            channel = p.first + (i if p.gemm else group * per_group + i)
            total += int(p.weights[c, i, ky, kx]) * seen.get((channel, y, x), 0)
    for s in e.scaled:
        total += int(s.factor) * _seen(program, stored, s)[s.first + c, oy, ox]
    return total


def _seen(
    program: Program, stored: list[dict[tuple[int, ...], int]], term: Product | Scaled
) -> dict[tuple[int, ...], int]:
    zero = program.tensors[term.source].zero
    values = {at: cell - zero for at, cell in stored[term.source].items()}
    for v in term.views:
        values = {
            (c, y, x): sum(
                values.get((c, v.sh * y + a - v.ph, v.sw * x + b - v.pw), 0)
                for a, b in every(range(v.kh), range(v.kw))
            )
            for c, y, x in np.ndindex(program.tensors[term.source].channels, v.height, v.width)
        }
    return values


def _window(e: Equation, y: int, x: int) -> list[tuple[int, int]]:
    """Return the positions of the true window, without what stretching repeats."""
    p = e.pool
    rows = [p.sh * y + a - p.ph for a in range(p.kh)]
    columns = [p.sw * x + b - p.pw for b in range(p.kw)]
    return [(oy, ox) for oy in rows for ox in columns if 0 <= oy < e.height and 0 <= ox < e.width]


def quantised(model: Model, **options: Any) -> Quantised:
    return quantise(model.network(), model.samples(), Options(**options))


def cells_of(made: Quantised, samples: np.ndarray) -> np.ndarray:
    entry, tensor = made.input_scale, made.program.tensors[0]
    steps = np.rint(samples / np.array(entry.scales) + np.array(entry.zeros))
    cells = np.clip(steps, 0, 256**entry.bytes - 1).astype(np.int64)
    return cells.reshape(-1, tensor.channels, tensor.height, tensor.width)


TABULATED = {
    "activations",
    "max_pool_after_a_bump",
    "gelu",
    "gelu_tanh",
    "products_of_constants",
} | {f"exported_gelu_{i}" for i in range(3)}


@pytest.mark.parametrize("name", lowered.BUILDS)
def test_run_is_the_protocols_arithmetic(name: str) -> None:
    model = lowered.BUILDS[name]()
    for options in ({}, {"per_channel": True}, {"activations": 16}, {"input_bytes": 2}):
        if name in TABULATED and options.get("activations") == 16:
            continue
        made = quantised(model, **options)
        # twice as far as the samples: both clamps are reached
        cells = cells_of(made, 2 * model.samples(2))
        got = made.program.run(cells)
        for sample, row in zip(cells, got, strict=True):
            assert slow(made.program, sample) == row.tolist()


@pytest.mark.parametrize("name", lowered.BUILDS)
def test_integers_stay_near_the_float_model(name: str) -> None:
    model = lowered.BUILDS[name]()
    samples = model.samples(64)
    expected = model.expected(samples)
    spread = float(np.abs(expected).max())
    allowed = {8: 0.12, 16: 0.001}
    for bits, share in allowed.items():
        if name in TABULATED and bits == 16:
            continue
        options = Options(activations=bits, input_bytes=bits // 8)
        made = quantise(model.network(), samples, options)
        error = np.abs(made.program.run(cells_of(made, samples)) * made.output_scale - expected)
        assert float(error.max()) <= share * spread
        assert float(error.mean()) <= share * spread / 3


def test_raw_outputs_are_finer_than_requantised_ones() -> None:
    model = lowered.residual()
    samples = model.samples(64)
    errors = []
    for output in ("raw", "requantised"):
        made = quantise(model.network(), samples, Options(output=output))
        got = made.program.run(cells_of(made, samples)) * made.output_scale
        errors.append(np.abs(got - model.expected(samples)).mean())
    assert errors[0] < errors[1]


@settings(max_examples=25)
@given(
    seed=st.integers(0, 1 << 30),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    strides=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    pads=st.tuples(*[st.integers(0, 1)] * 4),
    groups=st.sampled_from([1, 2]),
    bits=st.sampled_from([8, 16]),
)
def test_any_convolution_cell_by_cell(
    seed: int,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    pads: tuple[int, ...],
    groups: int,
    bits: int,
) -> None:
    model = Model((1, 2, 4, 5), seed=seed)
    model.conv(2, 2, kernel, strides=strides, pads=pads, group=groups)
    model.add("Relu")
    made = quantised(model, activations=bits)
    cells = cells_of(made, 2 * model.samples(1))
    assert slow(made.program, cells[0]) == made.program.run(cells)[0].tolist()


def identity(**changes: Any) -> Program:
    """Return a program of one cell that multiplies by ``factor`` and requantises."""
    weights = np.array([[[[changes.pop("factor", 1)]]]])
    product = Product(source=0, first=0, channels=1, weights=weights, gemm=True)
    equation = Equation(target=1, first=0, channels=1, height=1, width=1, products=(product,))
    tensors = (
        Tensor(channels=1, height=1, width=1, zero=0),
        Tensor(channels=1, height=1, width=1, zero=changes.pop("zero", 0)),
    )
    program = Program(
        activation_bytes=1,
        input_bytes=1,
        tensors=tensors,
        equations=(equation,),
        multipliers=((changes.pop("multiplier", 1),),),
    )
    return replace(program, **changes)


@pytest.mark.parametrize(
    ("factor", "zero", "cell", "expected"),
    [
        (1 << 15, 0, 1, 1),  # one half rounds up
        (-(1 << 15), 128, 1, 0),  # and so does minus one half
        ((1 << 15) - 1, 0, 1, 0),
        (-(1 << 15) - 1, 128, 1, -1),
        (2 << 16, 0, 200, 255),  # clamped above
        (-(1 << 16), 0, 1, 0),  # clamped below: a rectifier
        (-(1 << 16), 128, 200, -128),
        (1 << 16, 128, 200, 127),
    ],
)
def test_requantisation_rounds_half_up_and_clamps(
    factor: int, zero: int, cell: int, expected: int
) -> None:
    program = identity(factor=factor, zero=zero)
    cells = np.array([[[[cell]]]])
    assert program.run(cells).tolist() == [[expected]]
    assert slow(program, cells[0]) == [expected]


def test_weights_that_could_overflow_are_refused() -> None:
    limit = ((1 << 31) - (1 << 15) - 1) // 255
    identity(factor=limit).check()
    with pytest.raises(ModelRejected, match="can reach"):
        identity(factor=limit + 1).check()
    with pytest.raises(ModelRejected, match="can reach"):
        identity(factor=-limit - 1).run(np.zeros((1, 1, 1, 1), np.int64))
    with pytest.raises(ModelRejected, match="can reach"):
        identity(factor=limit // 2, multiplier=3).check()


@pytest.mark.parametrize("multiplier", [0, 1 << 16, -1])
def test_multipliers_out_of_range_are_refused(multiplier: int) -> None:
    with pytest.raises(ModelRejected, match="Multipliers run from 1"):
        identity(multiplier=multiplier).check()


def test_a_pool_has_its_own_bound() -> None:
    weights = np.full((1, 1, 1, 1), 1 << 16)
    product = Product(source=0, first=0, channels=1, weights=weights)
    equation = Equation(
        target=1,
        first=0,
        channels=1,
        height=1,
        width=2,
        pool=Pool(kw=2, ew=2),
        products=(product,),
    )
    tensors = tuple(Tensor(channels=1, height=1, width=w, zero=0) for w in (2, 1))
    program = Program(
        activation_bytes=1,
        input_bytes=1,
        tensors=tensors,
        equations=(equation,),
        multipliers=((1,),),
    )
    with pytest.raises(ModelRejected, match="at most 8388607"):
        program.check()


def test_inputs_of_another_shape_or_range_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        identity().run(np.zeros((1, 1, 1, 2), np.int64))
    with pytest.raises(ValueError, match="1 bytes"):
        identity().run(np.full((1, 1, 1, 1), 256))


def test_huge_weights_cannot_overflow() -> None:
    model = Model((1, 64))
    model.add("Relu", model.gemm(64, 32))
    model.add("Gemm", model.last, np.full((8, 32), 1e6), np.full(8, 1e9), transB=1)
    for options in ({}, {"activations": 16}, {"output": "raw"}, {"weight_bytes": 1}):
        made = quantised(model, **options)
        made.program.check()
        top = (1 << 8 * (options.get("weight_bytes", 2))) - 1
        for equation in made.program.equations:
            assert max(np.abs(p.weights).max() for p in equation.products) <= top


def test_sums_that_cancel_widen_the_range_instead_of_overflowing() -> None:
    """The samples show outputs of 0; the weights allow outputs of hundreds, which saturate."""
    model = Model((1, 512))
    halves = np.concatenate([np.ones(256), -np.ones(256)])
    model.add("Gemm", "x", np.tile(halves, (2, 1)), transB=1)
    samples = np.tile(np.random.default_rng(0).random((8, 1)), (1, 512)).astype(np.float32)
    made = quantise(model.network(), samples, Options())
    made.program.check()
    top = np.concatenate([np.full(256, 1.0), np.zeros(256)])[None].astype(np.float32)
    outputs = made.program.run(cells_of(made, np.concatenate([top, -top])))
    assert outputs.tolist() == [[127, 127], [-128, -128]]
    assert made.output_scale > 0.01  # coarser than calibration alone would have it


def test_values_that_are_not_finite_are_refused() -> None:
    model = Model((1, 3))
    model.add("Div", model.gemm(3, 2), np.zeros(2))
    with np.errstate(all="ignore"), pytest.raises(ModelRejected, match="finite"):
        quantised(model)


def test_functions_need_bytes() -> None:
    with pytest.raises(ModelRejected, match=r"know no .*sigmoid"):
        quantised(lowered.activations(), activations=16)


def test_raw_output_needs_plain_sums() -> None:
    model = Model((1, 3))
    model.add("Relu", model.gemm(3, 2))
    with pytest.raises(ModelRejected, match="no raw output"):
        quantised(model, output="raw")


def test_a_column_of_a_table_has_its_own_scale() -> None:
    model = Model((1, 3))
    scales = np.array([1e-3, 1.0, 1e4])
    model.add("Gemm", "x", model.normal(4, 3) / scales, model.normal(4), transB=1)
    samples = (model.samples(64) * scales).astype(np.float32)
    made = quantise(model.network(), samples, Options(activations=16))
    got = made.program.run(cells_of(made, samples)) * made.output_scale
    assert made.input_scale.bytes == 2
    assert np.abs(got - model.expected(samples)).max() < 0.005


@pytest.mark.parametrize(
    ("value", "multiplier", "shift"), [(0.5, 1, 1), (3.0, 3, 0), (2.0**-99, 1, 99)]
)
def test_scales_are_exact(value: float, multiplier: int, shift: int) -> None:
    assert exact_scale(value) == (multiplier, shift)


@given(st.floats(2.0**-70, 2.0**50))
def test_every_scale_keeps_its_value(value: float) -> None:
    multiplier, shift = exact_scale(value)
    assert 0 <= shift < 128
    assert 1 <= multiplier < 1 << 64
    assert multiplier / (1 << shift) == pytest.approx(value, rel=1e-12)


def test_a_scale_out_of_range_is_refused() -> None:
    with pytest.raises(ModelRejected, match="unit"):
        exact_scale(1e-40)


@given(st.floats(-1e6, 1e6), st.floats(-1e-13, 1e-13))
def test_ranges_do_not_follow_the_order_of_additions(value: float, noise: float) -> None:
    """A model compiled on another CPU must have the same units to the last bit."""
    kept = _outwards(value)
    assert abs(value) <= abs(kept) * (1 + 1e-9) <= abs(value) * (1 + 2**-10)
    assert _outwards(kept * (1 + noise)) == kept
