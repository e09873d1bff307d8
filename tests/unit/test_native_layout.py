"""Descriptions of programs: readable, the same for the same architecture, and reversible."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.native_graphs import Model
from tests.unit import test_native_lowering as lowered
from zkserve.engines.native.compiler import layout
from zkserve.engines.native.compiler.compile import (
    Compiled,
    compile_onnx,
    load_weights,
    unsupported,
)
from zkserve.engines.native.compiler.packing import multipliers_of, read_program, weight_cells
from zkserve.engines.native.compiler.program import Program
from zkserve.engines.native.compiler.quantise import quantise
from zkserve.engines.native.interface import Interface
from zkserve.engines.native.options import Options
from zkserve.engines.native.protocol.certificate import certify
from zkserve.engines.native.protocol.description import Description, decode
from zkserve.engines.native.protocol.rules import check
from zkserve.engines.native.protocol.wire import DescriptionInvalid
from zkserve.errors import InvalidInput, ModelRejected, RecipeInvalid


def program_of(model: Model, **options: Any) -> Program:
    return quantise(model.network(), model.samples(), Options(**options)).program


@pytest.fixture
def uncertified(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the rank certificate, which has tests of its own and takes seconds."""

    def same(description: Description) -> Description:
        return description

    monkeypatch.setattr(layout, "certify", same)


def mlp(seed: int = 0) -> Model:
    model = Model((1, 5), seed=seed)
    model.add("Relu", model.gemm(5, 6))
    model.gemm(6, 3)
    return model


def compiled(model: Model, folder: Path, **options: Any) -> Compiled:
    path = model.save(folder / "model.onnx")
    return compile_onnx(path, model.samples(), Options(**options))


@pytest.mark.usefixtures("uncertified")
@pytest.mark.parametrize("name", lowered.BUILDS)
@pytest.mark.parametrize("batch", [1, 3])
def test_a_layout_is_accepted_and_can_be_read_back(name: str, batch: int) -> None:
    program = program_of(lowered.BUILDS[name]())
    description = layout.lay_out(program, batch=batch)
    check(description)
    assert decode(description.encode()) == description
    cells, multipliers = weight_cells(program, description), multipliers_of(program)
    back = read_program(description, cells, multipliers)
    first = program.tensors[0]
    rng = np.random.default_rng(0)
    shape = (3, first.channels, first.height, first.width)
    inputs = rng.integers(0, 256**program.input_bytes, shape)
    assert back.run(inputs).tolist() == program.run(inputs).tolist()
    assert description.outputs == batch * program.run(inputs).shape[1]
    assert back.multipliers == program.multipliers


@pytest.mark.usefixtures("uncertified")
@pytest.mark.parametrize("k", [11, 12, 15])
@pytest.mark.parametrize("build", [lowered.residual, lowered.convolutions, lowered.concatenations])
def test_any_tile_size_keeps_the_weights(k: int, build: Callable[[], Model]) -> None:
    program = program_of(build(), per_channel=True)
    description = layout.lay_out(program, k=k)
    assert description.header.k == k
    cells = weight_cells(program, description)
    back = read_program(description, cells, multipliers_of(program))
    for made, read in zip(program.equations, back.equations, strict=True):
        for a, b in zip(made.products, read.products, strict=True):
            assert np.array_equal(a.weights, b.weights)
        if made.bias is not None:
            assert read.bias is not None
            assert np.array_equal(made.bias, read.bias)


@pytest.mark.usefixtures("uncertified")
@pytest.mark.parametrize("build", [lowered.residual, lowered.concatenations, lowered.max_pools])
def test_retrained_weights_keep_the_description(build: Callable[[], Model]) -> None:
    original = build()
    retrained = build()
    rng = np.random.default_rng(7)
    for tensor in retrained.constants:
        if tensor.data_type == 1:
            size = len(tensor.raw_data) // 4
            tensor.raw_data = rng.uniform(0.1, 3, size).astype(np.float32).tobytes()
    pair = [program_of(model) for model in (original, retrained)]
    first, second = (layout.lay_out(program) for program in pair)
    assert first.encode() == second.encode()
    assert not np.array_equal(weight_cells(pair[0], first), weight_cells(pair[1], second))


@pytest.mark.usefixtures("uncertified")
def test_another_architecture_has_another_description() -> None:
    descriptions = {
        layout.lay_out(program_of(build())).encode()
        for build in (lowered.residual, lowered.convolutions, lowered.concatenations)
    }
    assert len(descriptions) == 3


def test_weights_cells_hold_nothing_but_weights() -> None:
    program = program_of(mlp())
    description = layout.lay_out(program)
    cells = weight_cells(program, description)
    values = [p.weights for e in program.equations for p in e.products]
    values += [e.bias for e in program.equations if e.bias is not None]
    written = sorted(int(v) for array in values for v in array.ravel() if v)
    assert sorted(int(v) for v in cells if v) == written


def test_a_weight_past_32_bits_is_refused() -> None:
    program = program_of(mlp())
    first = program.equations[0]
    bias = np.full(first.channels, 1 << 31)
    equations = (replace(first, bias=bias), *program.equations[1:])
    with pytest.raises(OverflowError):
        weight_cells(replace(program, equations=equations), layout.lay_out(program))


@pytest.mark.usefixtures("uncertified")
def test_a_circuit_that_fits_no_tile_is_refused() -> None:
    program = program_of(lowered.residual())
    with pytest.raises(ModelRejected, match=r"tiles of 2\^9 cells"):
        layout.lay_out(program, k=9, batch=64)


@pytest.mark.parametrize(
    ("entries", "limit", "expected"),
    [
        (8, 5, [(3,)]),
        (6, 5, [(2, 1), (3,)]),
        (7, 5, [(2, 1, 0), (3,)]),
        (84, 9, [(6, 4, 2), (6, 5), (7,)]),
        (120, 9, [(6, 5, 4, 3), (7,)]),
        (10, 2, [(2, 2, 1)]),
        (1, 0, [(0,)]),
        (3, 0, [(0, 0, 0)]),
    ],
)
def test_pieces_are_aligned_and_cover(
    entries: int, limit: int, expected: list[tuple[int, ...]]
) -> None:
    covers = layout._covers(entries, limit)
    assert covers == expected
    for cover in covers:
        first = 0
        for log in cover:
            assert first % (1 << log) == 0
            assert first < entries
            first += 1 << log
        assert first >= entries


def test_compiling_certifies_and_saves(tmp_path: Path) -> None:
    model = mlp()
    made = compiled(model, tmp_path)
    assert made.description.certificate != bytes(32)
    assert decode(made.data) == made.description
    assert compiled(mlp(seed=3), tmp_path).data == made.data
    made.save(tmp_path)
    assert (tmp_path / "description.bin").read_bytes() == made.data
    cells, multipliers = load_weights(tmp_path / "weights.npz")
    assert np.array_equal(cells, made.cells)
    assert cells.dtype == np.int32
    assert multipliers == made.multipliers
    read = Interface.from_json((tmp_path / "interface.json").read_text())
    assert read == made.interface
    assert read.inputs[0].shape == (1, 5)
    assert read.output.shape == (1, 3)
    samples = model.samples()
    outputs = made.program.run(read.quantise(samples))
    real = np.vectorize(read.output_scale.to_real)(outputs)
    assert np.abs(real - model.expected(samples)).max() < 0.1


def test_an_input_stays_what_it_is_on_the_grid() -> None:
    for model in (mlp(), lowered.normalised_image(), lowered.moved()):
        for size in (1, 2):
            entry = quantise(
                model.network(), model.samples(), Options(input_bytes=size)
            ).input_scale
            interface = Interface.from_json(
                '{"inputs":[],"output":{"name":"y","shape":[1],"dtype":"FP32"},'
                '"output_scale":{"multiplier":1,"shift":0},"rows":1,'
                f'"shape":[1,1,{model.samples().shape[1]}],"input_bytes":{size},'
                f'"scales":{list(entry.scales)},"zeros":{list(entry.zeros)}}}'
            )
            rng = np.random.default_rng(0)
            cells = rng.integers(0, 256**size, (50, *interface.shape)).astype(np.uint16)
            values = interface.dequantise(cells)
            assert values.dtype == np.float32
            assert np.array_equal(interface.quantise(values), cells)
            assert not interface.outside(values).any()
            assert interface.outside(values + np.float32(1e6)).all()
            assert interface.quantise(values + np.float32(1e30)).max() == 256**size - 1


def test_inputs_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    interface = compiled(mlp(), tmp_path).interface
    with pytest.raises(InvalidInput, match="not finite"):
        interface.quantise(np.full((1, 5), np.nan, np.float32))
    with pytest.raises(InvalidInput, match="shape"):
        interface.quantise(np.zeros((1, 6), np.float32))


def test_pixels_of_a_grid_are_exact() -> None:
    model = Model((1, 1, 4, 4))
    model.conv(1, 2, 3, pads=[1, 1, 1, 1])
    for levels, unit in ((255, 1 / 255), (16, 1 / 16), (255, 1.0)):
        pixels = np.random.default_rng(0).integers(0, levels + 1, (32, 16))
        samples = (pixels * unit).astype(np.float32)
        entry = quantise(model.network(), samples, Options()).input_scale
        steps = samples / np.array(entry.scales) + np.array(entry.zeros)
        assert np.abs(steps - np.rint(steps)).max() < 0.01
        assert 0 <= steps.min() < steps.max() < 255.5


def test_normalised_pixels_of_a_grid_are_exact_and_the_range_is_not_told() -> None:
    model = Model((1, 1, 4, 4))
    model.conv(1, 2, 3)
    rng = np.random.default_rng(0)
    for step, lowest in ((1.0, 17), (0.5, -30), (1 / 255, 3)):
        whole = rng.integers(lowest, lowest + 80, (32, 16))
        whole[:, 0], whole[:, 1] = lowest, lowest + 79
        entries = [
            quantise(model.network(), (w * step).astype(np.float32), Options()).input_scale
            for w in (whole, np.maximum(whole, lowest + 1))
        ]
        for entry in entries:
            steps = whole * step / np.array(entry.scales) + np.array(entry.zeros)
            assert np.abs(steps - np.rint(steps)).max() < 0.01
            assert 0 <= steps.min() < steps.max() < 255.5
        assert np.allclose(
            -np.array(entries[0].zeros) * entries[0].scales,
            -np.array(entries[1].zeros) * entries[1].scales,
        )


def convolution_of_normalised(kind: str, seed: int) -> Model:
    """Return a model that differs in the constants of its normalisation only."""
    model = Model((1, 2, 6, 6))
    rng = np.random.default_rng(seed)
    if kind == "batch norm":
        names = [rng.uniform(0.2, 3, 2), rng.normal(size=2), rng.normal(size=2)]
        model.add("BatchNormalization", "x", *names, rng.uniform(0.5, 2, 2))
    elif kind == "channels":
        model.add("Mul", "x", rng.uniform(0.2, 3, (1, 2, 1, 1)))
        model.add("Add", model.last, rng.normal(size=(1, 2, 1, 1)))
    else:
        model.add("Mul", "x", rng.uniform(0.2, 3, (1,)))
        model.add("Add", model.last, rng.normal(size=(1,)))
    model.add("Relu", model.conv(2, 3, 3, pads=[1, 1, 1, 1]))
    model.add("Flatten")
    model.gemm(108, 2)
    return model


@pytest.mark.usefixtures("uncertified")
@pytest.mark.parametrize("options", [{}, {"per_channel": True}, {"activations": 16}])
@pytest.mark.parametrize("kind", ["batch norm", "channels", "number"])
def test_constants_that_normalise_the_input_are_not_published(
    kind: str, options: dict[str, Any], tmp_path: Path
) -> None:
    one, *others = (
        compiled(convolution_of_normalised(kind, seed), tmp_path, **options) for seed in range(4)
    )
    for made in others:
        assert made.data == one.data
        assert made.interface == replace(one.interface, output_scale=made.interface.output_scale)
    for made in (one, *others):
        # What is left of the constants is one multiplier, of two significant bits.
        (multiplier,) = made.program.multipliers[0]
        assert (
            multiplier >> max(0, multiplier.bit_length() - 2) << max(0, multiplier.bit_length() - 2)
            == multiplier
        )
        assert not made.program.equations[0].scaled
    cells = [made.program.equations[0].products[0].weights for made in (one, *others)]
    assert any((cells[0] != other).any() for other in cells[1:])


def test_a_constant_for_each_pixel_before_padding_is_refused(tmp_path: Path) -> None:
    model = Model((1, 2, 6, 6))
    model.add("Add", "x", model.normal(1, 2, 6, 6))
    model.conv(2, 3, 3, pads=[1, 1, 1, 1])
    with pytest.raises(ModelRejected, match="differs within a channel"):
        compiled(model, tmp_path)


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("padded", [False, True])
def test_extreme_values_of_samples_do_not_show_in_the_scales(size: int, padded: bool) -> None:
    model = Model((1, 1, 4, 4))
    if padded:
        model.conv(1, 2, 3, pads=[1, 1, 1, 1])
    else:
        model.add("Flatten")
        model.gemm(16, 3)
    rng = np.random.default_rng(5)
    alike = 0
    for _ in range(20):
        samples = (rng.normal(size=(40, 16)) * rng.uniform(0.1, 9)).astype(np.float32)
        entries = []
        for factor in (1.0, 1.01):
            moved = samples.copy()
            at = moved.argmax(axis=0), np.arange(16)
            moved[at] *= np.float32(factor)
            entries.append(quantise(model.network(), moved, Options(input_bytes=size)).input_scale)
        for entry in entries:
            steps = samples / np.array(entry.scales) + np.array(entry.zeros)
            assert -0.5 <= steps.min() <= steps.max() <= 256**size - 0.5
        first, second = (np.broadcast_to(e.scales, 16) for e in entries)
        alike += int((first == second).sum())
        # The whole range is some sixteenths to eighths: few numbers besides a power of two.
        parts = np.array(entries[0].scales) * (256**size - 1)
        if not padded:
            assert (np.ldexp(np.frexp(parts)[0], 5) % 1 < 1e-9).all()
    assert alike > 0.8 * 20 * 16


def test_samples_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = mlp().save(tmp_path / "model.onnx")
    for samples, reason in (
        (np.zeros((3, 4), np.float32), r"expected \(samples, 5\)"),
        (np.zeros((0, 5), np.float32), "expected"),
        (np.full((3, 5), np.inf, np.float32), "not finite"),
    ):
        with pytest.raises(InvalidInput, match=reason):
            compile_onnx(path, samples, Options())


def test_preflight_names_what_is_missing(tmp_path: Path) -> None:
    assert unsupported(mlp().save(tmp_path / "good.onnx")) == []
    model = Model((1, 4))
    model.add("Softmax", model.add("Exp"))
    (reason,) = unsupported(model.save(tmp_path / "bad.onnx"))
    assert "Exp" in reason
    assert "Softmax" in reason


def test_options_are_read_strictly() -> None:
    assert Options.read({}) == Options()
    assert Options.read({"activations": 16, "output": "raw"}).activation_bytes == 2
    for options, reason in (
        ({"activation": 16}, "Did you mean 'activations'"),
        ({"scale": 7}, "no option 'scale'"),
        ({"activations": 12}, "activations is one of"),
        ({"activations": "8"}, "activations is one of"),
        ({"per_channel": 1}, "per_channel is one of"),
        ({"k": True}, "k is one of"),
        ({"batch": 0}, "batch runs from 1"),
        ({"batch": True}, "batch runs from 1"),
        ({"output": "argmax"}, "output is one of"),
    ):
        with pytest.raises(RecipeInvalid, match=reason):
            Options.read(options)  # type: ignore[arg-type]


def test_masks_crowded_into_a_corner_get_another_place() -> None:
    """The certificate refused this layout while its row masks all lay in one quarter of a tile."""
    model = Model((1, 2, 4, 4))
    model.conv(2, 4, 3, pads=[1, 1, 1, 1])
    model.add("Relu")
    program = program_of(model, activations=16, input_bytes=2)
    plain = layout._place(program, 3, frozenset(), 11)
    assert plain is not None
    crowded = layout._masked(plain, 0)
    assert min(cell % crowded.cells for cell in crowded.row_mask_cells) >= 3 * crowded.cells // 4
    with pytest.raises(DescriptionInvalid, match="would leak"):
        certify(crowded)
    made = layout.lay_out(program, batch=3, k=11)
    check(made)
    assert made.offsets.multiplicities != crowded.offsets.multiplicities
    assert made.certificate != bytes(32)
