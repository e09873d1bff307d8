"""What every operator becomes, against onnxruntime, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import helper

from tests.native_graphs import Model
from zkserve.engines.native.compiler import graph
from zkserve.engines.native.compiler.lowering import lower
from zkserve.engines.native.compiler.network import Kind
from zkserve.errors import ModelRejected

Build = Callable[[], Model]


def gemm_variants() -> Model:
    m = Model((1, 6))
    m.add("Gemm", "x", m.normal(6, 5), m.normal(5), alpha=0.5, beta=2.0)
    m.add("Gemm", m.last, m.normal(4, 5), m.normal(1, 4), transB=1)
    return m


def matmul_right() -> Model:
    m = Model((1, 6))
    m.add("MatMul", "x", m.normal(6, 4))
    m.add("Add", m.last, m.normal(4))
    return m


def matmul_left_of_a_vector() -> Model:
    m = Model((6,))
    m.add("MatMul", m.normal(4, 6), "x")
    return m


def no_batch_axis() -> Model:
    m = Model((6,))
    m.add("MatMul", "x", m.normal(6, 4))
    m.add("Relu")
    m.add("MatMul", m.last, m.normal(4, 2))
    return m


def convolutions() -> Model:
    m = Model((1, 3, 9, 8))
    m.conv(3, 6, (3, 2), strides=[2, 1], pads=[1, 0, 2, 1])
    m.add("Relu")
    m.conv(6, 6, 3, group=6, dilations=[1, 2], pads=[1, 2, 1, 2])
    m.conv(6, 4, 1, group=2)
    return m


def automatic_padding() -> Model:
    m = Model((1, 2, 7, 8))
    m.conv(2, 3, 3, auto_pad="SAME_UPPER", strides=[2, 2])
    m.conv(3, 2, (2, 3), auto_pad="SAME_LOWER")
    m.conv(2, 2, 2, auto_pad="VALID")
    return m


def one_dimension() -> Model:
    m = Model((1, 2, 12))
    m.add("Conv", "x", m.normal(4, 2, 3), m.normal(4), pads=[1, 1], strides=[2])
    m.add("Relu")
    m.add("MaxPool", kernel_shape=[2], strides=[2])
    m.add("Conv", m.last, m.normal(3, 4, 2))
    return m


def batch_norms() -> Model:
    m = Model((1, 2, 5, 5))
    m.conv(2, 4, 3)
    m.batch_norm(4)
    m.add("Relu")
    m.batch_norm(4)  # alone: nothing before it to fold into
    m.add("Relu")
    return m


def batch_norm_before_padding() -> Model:
    m = Model((1, 2, 5, 5))
    m.conv(2, 4, 3)
    m.add("Relu")
    m.batch_norm(4)
    m.conv(4, 3, 3, pads=[1, 1, 1, 1])
    return m


def residual() -> Model:
    m = Model((1, 3, 6, 6))
    first = m.conv(3, 4, 3, pads=[1, 1, 1, 1])
    m.conv(4, 4, 3, pads=[1, 1, 1, 1])
    m.add("Add", m.last, first)
    shared = m.add("Relu")
    left = m.conv(4, 6, 3, strides=[2, 2], pads=[1, 1, 1, 1])
    right = m.conv(4, 6, 1, shared, strides=[2, 2])
    m.add("Add", left, right)
    m.add("Relu")
    m.add("GlobalAveragePool")
    m.add("Flatten")
    m.gemm(6, 3)
    return m


def differences() -> Model:
    m = Model((1, 2, 4, 4))
    a = m.conv(2, 4, 3, "x")
    b = m.add("Relu", m.conv(2, 4, 3, "x", group=2))
    m.add("Sub", a, b)
    m.add("Relu")
    m.add("Sub", np.float32(2.0), m.last)
    return m


def sums_of_different_groups() -> Model:
    m = Model((1, 4, 4, 4))
    m.add("Add", m.conv(4, 4, 3, "x", group=4), m.conv(4, 4, 3, "x"))
    m.add("Relu")
    return m


def constants_by_channel() -> Model:
    m = Model((1, 3, 4, 4))
    m.add("Relu", m.conv(3, 3, 1))
    m.add("Mul", m.last, m.normal(3, 1, 1))
    m.add("Add", m.last, m.normal(1, 3, 1, 1))
    m.add("Neg")
    m.add("Div", m.last, np.float32(3.0))
    m.conv(3, 2, 2)
    return m


def constants_by_element() -> Model:
    m = Model((1, 2, 2, 3))
    m.add("Relu", m.conv(2, 2, 1))
    m.add("Mul", m.last, m.normal(1, 2, 2, 3))
    m.add("Flatten")
    m.gemm(12, 3)
    return m


def normalised_image() -> Model:
    m = Model((1, 3, 5, 5))
    m.add("Sub", "x", m.normal(1, 3, 1, 1))
    shared = m.add("Div", m.last, m.rng.uniform(0.5, 2, (1, 3, 1, 1)))
    m.add("Add", m.conv(3, 4, 3, shared, pads=[1, 1, 1, 1]), m.conv(3, 4, 1, shared))
    return m


def concatenations() -> Model:
    m = Model((1, 2, 5, 5))
    a = m.add("Relu", m.conv(2, 3, 3, "x", pads=[1, 1, 1, 1]))
    b = m.add("Relu", m.conv(2, 2, 1, "x"))
    c = m.add("AveragePool", a, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)
    m.add("Concat", a, b, c, axis=1)
    m.conv(8, 3, 2)
    return m


def concatenated_vectors() -> Model:
    m = Model((1, 5), (1, 3))
    hidden = m.add("Relu", m.gemm(5, 4, "x"))
    m.add("Concat", hidden, "x1", axis=1)
    m.gemm(7, 2)
    return m


def concatenated_inputs() -> Model:
    m = Model((1, 5), (1, 3))
    m.add("Concat", "x1", "x", axis=1)
    m.gemm(8, 2)
    return m


def clips() -> Model:
    m = Model((1, 4))
    m.gemm(4, 5)
    m.add("Clip", m.last, np.float32(0), np.float32(0.7))
    m.gemm(5, 5)
    m.add("Clip", m.last, np.float32(-0.3), np.float32(0.5))
    m.gemm(5, 5)
    m.add("Relu")
    m.add("Clip", m.last, np.float32(-1), np.float32(0.6))
    m.gemm(5, 2)
    return m


def max_pools() -> Model:
    m = Model((1, 2, 11, 11))
    m.conv(2, 3, 1)
    m.add("MaxPool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)
    m.add("Relu")
    m.add("MaxPool", kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1])
    m.add("MaxPool", kernel_shape=[1, 2], strides=[1, 2])
    m.conv(3, 2, 2)
    return m


def max_pool_after_a_bump() -> Model:
    m = Model((1, 2, 6, 6))
    m.conv(2, 3, 1)
    m.add("Mul", m.last, m.add("Sigmoid"))
    m.add("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
    m.add("MaxPool", kernel_shape=[3, 2], strides=[1, 1])
    return m


def max_pool_of_a_dense_layer() -> Model:
    m = Model((1, 4))
    m.gemm(4, 3)
    m.add("Reshape", m.last, np.array([1, 3, 1, 1]))
    m.add("MaxPool", kernel_shape=[2, 2], pads=[1, 1, 0, 0])
    return m


def max_pool_of_the_input() -> Model:
    m = Model((1, 2, 6, 6))
    m.add("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
    m.conv(2, 2, 2)
    return m


def average_pools() -> Model:
    m = Model((1, 2, 8, 8))
    m.add("Relu", m.conv(2, 3, 1))
    m.add("AveragePool", kernel_shape=[2, 2], strides=[2, 2])
    m.add("AveragePool", kernel_shape=[3, 3], strides=[1, 1])
    m.add("Flatten")
    m.gemm(12, 3)
    return m


def mean_of_an_image() -> Model:
    m = Model((1, 2, 4, 4), opset=13)
    m.add("Relu", m.conv(2, 3, 1))
    m.add("ReduceMean", axes=[2, 3], keepdims=0)
    m.gemm(3, 2)
    return m


def output_is_an_average() -> Model:
    m = Model((1, 2, 4, 4))
    m.add("Relu", m.conv(2, 3, 1))
    m.add("AveragePool", kernel_shape=[2, 2], strides=[2, 2])
    return m


def moved() -> Model:
    m = Model((1, 2, 4, 4))
    m.add("Relu", m.conv(2, 3, 1))
    m.add("Transpose", perm=[0, 2, 3, 1])
    m.add("Slice", m.last, np.array([1]), np.array([4]), np.array([1]))
    m.add("Reshape", m.last, np.array([1, -1]))
    m.add("Gather", m.last, np.array([5, 0, 17, 3]), axis=1)
    m.add("Unsqueeze", m.last, np.array([0]))
    m.add("Squeeze", m.last, np.array([0]))
    m.gemm(4, 2)
    return m


def moved_output() -> Model:
    m = Model((1, 2, 3, 3))
    m.conv(2, 3, 2)
    m.add("Transpose", perm=[0, 2, 3, 1])
    return m


def image_from_a_vector() -> Model:
    m = Model((1, 32))
    m.add("Reshape", m.last, np.array([1, 2, 4, 4]))
    m.conv(2, 3, 3, pads=[1, 1, 1, 1])
    m.add("Identity")
    m.add("Dropout")
    return m


def channels_of_the_input() -> Model:
    m = Model((1, 4, 3, 3))
    m.add("Slice", "x", np.array([1]), np.array([3]), np.array([1]))
    m.conv(2, 2, 2)
    return m


def slices_to_the_end() -> Model:
    m = Model((1, 6))
    end = np.array([np.iinfo(np.int64).max])
    m.add("Slice", m.gemm(6, 5), np.array([2]), end, np.array([1]))
    m.gemm(3, 2)
    return m


def products_of_constants() -> Model:
    m = Model((1, 3))
    state = m.normal(1, 4)
    old = m.add("Gemm", state, m.normal(6, 4), m.normal(6), transB=1, alpha=0.5, beta=2.0)
    tall = m.add("Gemm", m.normal(4, 1), m.normal(4, 3), transA=1)
    part = m.add("Slice", old, np.array([-1]), np.array([-4]), np.array([1]), np.array([-1]))
    gain = m.add("Add", part, m.add("MatMul", tall, m.normal(3, 3)))
    m.add("Mul", m.add("Sigmoid", "x"), gain)
    m.gemm(3, 2)
    return m


def computed_shape() -> Model:
    m = Model((1, 2, 3, 3))
    m.add("Relu", m.conv(2, 3, 2))
    value = m.last
    m.add("Shape")
    m.add("Gather", m.last, np.array(0))
    m.add("Unsqueeze", m.last, np.array([0]))
    m.add("Concat", m.last, np.array([-1]), axis=0)
    m.add("Reshape", value, m.last)
    m.gemm(12, 2)
    return m


def activations() -> Model:
    m = Model((1, 6))
    m.add("Sigmoid", m.gemm(6, 5))
    m.add("Tanh", m.gemm(5, 5))
    m.add("LeakyRelu", m.gemm(5, 5), alpha=0.2)
    m.gemm(5, 4)
    m.add("Mul", m.add("Sigmoid"), m.nodes[-1].input[0])
    return m


def exported_gelu(variant: int) -> Build:
    def build() -> Model:
        m = Model((1, 6))
        x = m.gemm(6, 5)
        m.add("Add", m.add("Erf", m.add("Div", x, np.float32(2**0.5))), np.float32(1))
        if variant == 0:
            m.add("Mul", m.add("Mul", x, m.last), np.float32(0.5))
        elif variant == 1:
            half = m.last
            m.add("Mul", m.add("Mul", x, np.float32(0.5)), half)
        else:
            m.add("Mul", m.add("Mul", m.last, np.float32(0.5)), x)
        return m

    return build


def gelu_operator(approximate: str) -> Build:
    def build() -> Model:
        m = Model((1, 6), opset=20)
        m.gemm(6, 5)
        m.add("Gelu", approximate=approximate)
        return m

    return build


BUILDS: dict[str, Build] = {
    build.__name__: build
    for build in (
        gemm_variants,
        matmul_right,
        matmul_left_of_a_vector,
        no_batch_axis,
        convolutions,
        automatic_padding,
        one_dimension,
        batch_norms,
        batch_norm_before_padding,
        residual,
        differences,
        sums_of_different_groups,
        constants_by_channel,
        constants_by_element,
        normalised_image,
        concatenations,
        concatenated_vectors,
        concatenated_inputs,
        clips,
        max_pools,
        max_pool_after_a_bump,
        max_pool_of_a_dense_layer,
        max_pool_of_the_input,
        average_pools,
        mean_of_an_image,
        output_is_an_average,
        moved,
        moved_output,
        image_from_a_vector,
        channels_of_the_input,
        slices_to_the_end,
        products_of_constants,
        computed_shape,
        activations,
    )
} | {
    "exported_gelu_0": exported_gelu(0),
    "exported_gelu_1": exported_gelu(1),
    "exported_gelu_2": exported_gelu(2),
    "gelu": gelu_operator("none"),
    "gelu_tanh": gelu_operator("tanh"),
}


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_network_computes_what_onnxruntime_does(build: Build) -> None:
    model = build()
    samples = model.samples()
    got, expected = model.network().run(samples), model.expected(samples)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@settings(max_examples=60)
@given(
    height=st.integers(3, 9),
    width=st.integers(3, 9),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilations=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    pads=st.tuples(*[st.integers(0, 2)] * 4),
    groups=st.sampled_from([1, 2, 4]),
)
def test_any_convolution(
    height: int,
    width: int,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    dilations: tuple[int, int],
    pads: tuple[int, ...],
    groups: int,
) -> None:
    for axis, size in enumerate((height, width)):
        assume(dilations[axis] * (kernel[axis] - 1) < size + pads[axis] + pads[axis + 2])
    model = Model((1, 4, height, width))
    model.conv(
        4,
        4,
        kernel,
        strides=strides,
        dilations=dilations,
        pads=pads,
        group=groups,
    )
    samples = model.samples(3)
    np.testing.assert_allclose(
        model.network().run(samples), model.expected(samples), rtol=1e-4, atol=1e-5
    )


@settings(max_examples=40)
@given(
    size=st.tuples(st.integers(4, 9), st.integers(4, 9)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    pads=st.tuples(*[st.integers(0, 3)] * 4),
    ceil=st.booleans(),
)
def test_any_max_pool(
    size: tuple[int, int],
    kernel: tuple[int, int],
    strides: tuple[int, int],
    pads: tuple[int, ...],
    ceil: bool,
) -> None:
    assume(kernel != (1, 1))
    pads = tuple(pads[i] % kernel[i % 2] for i in range(4))
    model = Model((1, 2, *size))
    model.conv(2, 2, 1)
    model.add("MaxPool", kernel_shape=kernel, strides=strides, pads=pads, ceil_mode=int(ceil))
    samples = model.samples(3)
    try:
        network = model.network()
    except ModelRejected as reason:
        assert ceil  # rounding up may leave a window nothing but padding
        assert "padding alone" in str(reason)  # noqa: PT017
        return
    np.testing.assert_allclose(network.run(samples), model.expected(samples), rtol=1e-4, atol=1e-5)


def test_batch_norm_folds_into_the_layer_before_it() -> None:
    model = Model((1, 2, 5, 5))
    model.conv(2, 4, 3)
    model.batch_norm(4)
    model.add("Relu")
    network = model.network()
    assert len(network.equations) == 1
    assert [t.activation.kind for t in network.tensors] == [Kind.IDENTITY, Kind.RELU]


def test_residual_joins_the_layer_before_it() -> None:
    network = residual().network()
    joined = network.equations[1]
    assert (len(joined.products), len(joined.scaled)) == (1, 1)


def test_equal_architectures_lower_alike_whatever_their_weights() -> None:
    def shape(seed: int) -> list[object]:
        model = residual()
        model.rng = np.random.default_rng(seed)
        network = model.network()
        return [
            (e.target, e.channels, e.groups, len(e.products), len(e.scaled), e.bias is None)
            for e in network.equations
        ]

    assert shape(1) == shape(2)


def refused(model: Model) -> str:
    with pytest.raises(ModelRejected) as caught:
        lower(graph.simplify(model.load()))
    return str(caught.value)


def test_every_unknown_operator_is_named_at_once() -> None:
    model = Model((1, 4))
    model.add("Softmax", model.add("Exp"))
    with pytest.raises(ModelRejected, match=r"onnx\.Exp, onnx\.Softmax"):
        model.load()


def test_what_no_equation_computes_is_refused_by_name() -> None:
    def two_rows() -> Model:
        m = Model((2, 4))
        m.gemm(4, 3)
        return m

    def product() -> Model:
        m = Model((1, 4))
        m.add("Mul", m.gemm(4, 3, "x"), m.gemm(4, 3, "x"))
        return m

    def broadcast() -> Model:
        m = Model((1, 2, 3, 3))
        m.add("Add", m.conv(2, 2, 1, "x"), m.add("GlobalAveragePool", "x"))
        return m

    def wide_pool() -> Model:
        m = Model((1, 1, 9, 9))
        m.add("MaxPool", m.conv(1, 1, 1), kernel_shape=[5, 5])
        return m

    def dilated_pool() -> Model:
        m = Model((1, 1, 9, 9))
        m.add("MaxPool", m.conv(1, 1, 1), kernel_shape=[2, 2], dilations=[2, 2])
        return m

    def uneven_average() -> Model:
        m = Model((1, 1, 4, 4))
        m.add("AveragePool", m.conv(1, 1, 1), kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        return m

    def clip_above_zero() -> Model:
        m = Model((1, 4))
        m.add("Clip", m.gemm(4, 3), np.float32(1), np.float32(2))
        return m

    def clip_at_one_end() -> Model:
        m = Model((1, 4))
        m.add("Clip", m.gemm(4, 3), np.float32(-1))
        return m

    def mixed_image() -> Model:
        m = Model((1, 2, 4, 4))
        m.add("Relu", m.conv(2, 2, 1))
        m.add("Transpose", perm=[0, 1, 3, 2])
        m.conv(2, 2, 2)
        return m

    def transposed_operand() -> Model:
        m = Model((4, 1))
        m.add("Gemm", "x", m.normal(4, 3), transA=1)
        return m

    def computed_weights() -> Model:
        m = Model((1, 4), (4, 3))
        m.add("MatMul", "x", "x1")
        return m

    def computed_gemm() -> Model:
        m = Model((1, 4), (4, 3))
        m.add("Gemm", "x", "x1")
        return m

    def constant_on_the_left() -> Model:
        m = Model((4, 1))
        m.add("Gemm", m.normal(3, 4), "x")
        return m

    def computed_divisor() -> Model:
        m = Model((1, 4))
        m.add("Div", m.gemm(4, 3, "x"), m.add("Sigmoid", m.gemm(4, 3, "x")))
        return m

    def constant_over_computed() -> Model:
        m = Model((1, 4))
        m.add("Div", np.float32(1), m.add("Sigmoid", m.gemm(4, 3)))
        return m

    def activated_constant() -> Model:
        m = Model((1, 4))
        m.add("Add", "x", m.add("Sigmoid", m.normal(1, 4)))
        return m

    def constant_joined() -> Model:
        m = Model((1, 4))
        m.add("Concat", m.gemm(4, 3), m.normal(1, 2), axis=1)
        return m

    def recurrence() -> Model:
        m = Model((1, 2))
        state = np.zeros((1, 3))
        weights, past = m.normal(3, 2), m.normal(3, 3)
        for _ in range(2):
            old = m.add("Gemm", state, past, transB=1)
            gate = m.add("Sigmoid", m.add("Add", m.add("Gemm", "x", weights, transB=1), old))
            state = m.add("Add", old, m.add("Mul", gate, m.add("Sub", state, old)))
        return m

    def mean_over_channels() -> Model:
        m = Model((1, 2, 4, 4), opset=13)
        m.add("ReduceMean", m.conv(2, 3, 1), axes=[1])
        return m

    for build, reason in (
        (two_rows, "one can be proved at a time"),
        (product, "Mul .* multiplies two computed values"),
        (broadcast, "Add .* by broadcasting"),
        (wide_pool, r"MaxPool .* window \[5, 5\]; an axis has at most 4"),
        (dilated_pool, "MaxPool .* has dilations"),
        (uneven_average, "AveragePool .* its divisor leaves out"),
        (clip_above_zero, "Clip .* leaves out 0"),
        (clip_at_one_end, "Clip .* at one end only"),
        (mixed_image, "Conv .* mixed by a reshape"),
        (transposed_operand, "Gemm .* transposes its first operand"),
        (computed_weights, "MatMul .* multiplies two computed values"),
        (computed_gemm, "Gemm .* multiplies two computed values"),
        (constant_on_the_left, "Gemm .* a constant on the left .* write it as MatMul"),
        (computed_divisor, "Div .* divides by a computed value"),
        (constant_over_computed, "Div .* divides by a computed value"),
        (activated_constant, "Sigmoid .* has a constant where it needs a computed value"),
        (constant_joined, "Concat .* has a constant where it needs a computed value"),
        (recurrence, "Mul .* multiplies two computed values"),
        (mean_over_channels, "ReduceMean .* other axes"),
    ):
        with pytest.raises(ModelRejected, match=reason):
            build().network()


def test_a_model_that_computes_nothing_is_refused() -> None:
    model = Model((1, 4))
    model.add("Identity")
    assert "computes nothing" in refused(model)


def test_a_second_output_that_is_read_is_refused() -> None:
    model = Model((1, 1, 4, 4))
    model.add("Relu", model.conv(1, 1, 1))
    pooled = helper.make_node("MaxPool", [model.last], ["most", "where"], kernel_shape=[2, 2])
    model.nodes.append(pooled)
    model.add("Cast", "where", to=1)
    assert "more than its first output" in refused(model)


def test_constants_that_cannot_be_computed_are_refused() -> None:
    model = Model((1, 4))
    model.add("Gather", np.zeros(2), np.array([7]))
    model.add("Add", "x", model.last)
    assert "cannot be computed from its constants" in refused(model)
