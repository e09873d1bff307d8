"""Operators that slide a window over an image: convolutions and pools."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from zkserve.engines.native.compiler.builder import (
    MAX_WINDOW,
    Builder,
    Handlers,
    Open,
    Pair,
    Stored,
    Unsupported,
    Value,
)
from zkserve.engines.native.compiler.graph import Node
from zkserve.engines.native.compiler.network import (
    FloatTensor,
)
from zkserve.engines.native.compiler.program import Array, Equation, Product, Scaled
from zkserve.engines.native.protocol.description import Pool, View

MAX_BYTE = 255
"""Kernels, strides, dilations and paddings are bytes of a description."""


def _conv(low: Builder, node: Node) -> Value:
    value = low.stored(node.inputs[0])
    first, channels, height, width = low.image(value)
    weights = low.constant(node.inputs[1])
    if weights.ndim == 3:
        weights = weights[:, :, None]
    groups = node.attributes.get("group", 1)
    one = value.index.ndim == 3
    kernel, strides, dilations, padding, size = _window(
        node, (height, width), one=one, kernel=weights.shape[2:]
    )
    bias = low.constant(node.inputs[2]) if node.given(2) else None
    padded = _pads(padding, kernel, strides, dilations, size, (height, width))
    value = _without_offset(low, value, padded=padded)
    scale, offset = low.affine_of(value, low.grid(value)[0])
    if isinstance(scale, np.ndarray):
        scale = scale[first : first + channels].reshape(groups, 1, -1, 1, 1)
    outputs = len(weights)
    scaled = weights.reshape(groups, outputs // groups, *weights.shape[1:]) * scale
    scaled = scaled.reshape(weights.shape)
    if offset is not None:
        inner = offset[first : first + channels].reshape(groups, 1, -1, 1, 1)
        grouped = weights.reshape(groups, outputs // groups, *weights.shape[1:])
        shift = (grouped * inner).sum(axis=(2, 3, 4)).reshape(-1)
        bias = shift + (0 if bias is None else bias)
    equation = Equation(
        target=None,
        first=0,
        channels=outputs,
        height=size[0],
        width=size[1],
        groups=groups,
        products=(
            Product(
                source=value.tensor,
                first=first,
                channels=channels,
                weights=scaled,
                strides=strides,
                dilations=dilations,
                padding=padding,
                views=value.views,
            ),
        ),
        bias=bias,
    )
    index = np.arange(outputs * size[0] * size[1]).reshape(low.graph.shapes[node.output])
    return Open(equation=equation, index=index, size=size)


def _without_offset(low: Builder, value: Stored, *, padded: bool) -> Stored:
    """Return a value whose padding is really 0: an offset inside would not hold outside."""
    if not padded or not np.any(value.offset):
        return value
    return low.store(low.opened(value))


def _window(
    node: Node, have: Pair, *, one: bool, kernel: tuple[int, ...] | None = None
) -> tuple[Pair, Pair, Pair, Pair, Pair]:
    """Return kernel, strides, dilations, padding before, and the size of the result.

    With ``one`` spatial axis the height is 1.
    """
    attributes = node.attributes
    shape = tuple(attributes["kernel_shape"]) if kernel is None else kernel

    def pair(name: str, default: int) -> Pair:
        given = attributes.get(name, [default] * (1 if one else 2))
        before, after = (default, *given)[-2:]
        return before, after

    height, width = (1, *shape)[-2:]
    window = (height, width)
    strides, dilations = pair("strides", 1), pair("dilations", 1)
    pads = attributes.get("pads", [0, 0] if one else [0, 0, 0, 0])
    if one:
        pads = [0, pads[0], 0, pads[1]]
    reach = [d * (k - 1) + 1 for d, k in zip(dilations, window, strict=True)]
    automatic = attributes.get("auto_pad", b"NOTSET").decode()
    size, before = [], []
    for axis in range(2):
        if automatic in {"SAME_UPPER", "SAME_LOWER"}:
            out = -(-have[axis] // strides[axis])
            total = max(0, (out - 1) * strides[axis] + reach[axis] - have[axis])
            before.append((total + (automatic == "SAME_LOWER")) // 2)
            size.append(out)
            continue
        start, end = (0, 0) if automatic == "VALID" else (pads[axis], pads[axis + 2])
        if start < 0 or end < 0:
            raise Unsupported("has negative padding")
        room = have[axis] + start + end - reach[axis]
        out = room // strides[axis] + 1
        if attributes.get("ceil_mode", 0) and room % strides[axis]:
            if node.kind == "AveragePool":
                raise Unsupported("rounds its size up, so that its windows differ in size")
            out += out * strides[axis] < have[axis] + start
        before.append(start)
        size.append(out)
    numbers = [*window, *strides, *dilations, *before]
    if max(numbers) > MAX_BYTE:
        raise Unsupported(f"has a kernel, stride, dilation or padding past {MAX_BYTE}")
    return (
        window,
        strides,
        dilations,
        (before[0], before[1]),
        (size[0], size[1]),
    )


def _pads(
    padding: Pair,
    kernel: Pair,
    strides: Pair,
    dilations: Pair,
    size: Pair,
    have: Pair,
) -> bool:
    """Return whether some window reaches outside."""
    return any(padding) or any(
        s * (out - 1) + d * (k - 1) >= end
        for s, out, d, k, end in zip(strides, size, dilations, kernel, have, strict=True)
    )


def _max_pool(low: Builder, node: Node) -> Value:
    if any(d != 1 for d in node.attributes.get("dilations", [1])):
        raise Unsupported("has dilations")
    value = low.free(node.inputs[0])
    if isinstance(value, Open) and not (
        value.equation.pool.positions == 1
        and value.activation.monotone
        and _straight(value)
        and not any(product.gemm for product in value.equation.products)
    ):
        value = low.store(value)
    have = value.size if isinstance(value, Open) else low.image(value)[2:]
    one = value.index.ndim == 3
    window, strides, _, padding, size = _window(node, have, one=one)
    pool = Pool(
        kh=window[0], kw=window[1], sh=strides[0], sw=strides[1], ph=padding[0], pw=padding[1]
    )
    shape = low.graph.shapes[node.output]
    if math.prod(shape[2:]) != math.prod(size):
        raise Unsupported("has windows that lie in its padding alone")
    if window == (1, 1):
        raise Unsupported("has a window of one position")
    if padding[0] >= window[0] or padding[1] >= window[1]:
        raise Unsupported("has padding as large as its window")
    steps = [(pool, size)]
    if math.prod(window) > MAX_WINDOW:
        if max(window) > MAX_WINDOW:
            raise Unsupported(
                f"has the window {list(window)}; an axis has at most {MAX_WINDOW} positions"
            )
        steps = [
            (replace(pool, kh=1, sh=1, ph=0), (have[0], size[1])),
            (replace(pool, kw=1, sw=1, pw=0), size),
        ]
    for step, made in steps:
        value = _pooled(low, value, step, made)
    return replace(value, index=value.index.reshape(shape))


def _straight(value: Open) -> bool:
    channels, (height, width) = value.equation.channels, value.size
    grid = {(1, channels, height, width), (1, channels, width) if height == 1 else ()}
    plain = np.arange(value.index.size).reshape(value.index.shape)
    return value.index.shape in grid and bool((value.index == plain).all())


def _pooled(low: Builder, value: Value, pool: Pool, size: Pair) -> Value:
    stretched = replace(pool, eh=pool.kh, ew=pool.kw)  # to the circuit's window later
    if isinstance(value, Open) and value.plain:
        # A pool may join whatever activation follows or precedes it, as long as that is monotone.
        return _with_pool(value, stretched, size)
    if isinstance(value, Open) and value.equation.pool.positions == 1:
        return _with_pool(value, stretched, size)
    stored = low.store(value) if isinstance(value, Open) else value
    uniform = isinstance(stored.scale, float) and stored.scale > 0
    if not uniform or stored.views or stored.tensor == 0:
        return _with_pool(low.opened(stored), stretched, size)
    tensor = low.tensors[stored.tensor]
    first, channels, _, _ = low.image(stored)
    equation = Equation(
        target=None,
        first=0,
        channels=channels,
        height=tensor.height,
        width=tensor.width,
        scaled=(Scaled(source=stored.tensor, first=first, factor=1.0, fixed=True),),
        pool=stretched,
    )
    target = low.emit(
        equation,
        FloatTensor(channels=channels, height=size[0], width=size[1], same_as=stored.tensor),
    )
    index = np.arange(channels * math.prod(size)).reshape(1, channels, *size)
    offset = stored.offset
    if isinstance(offset, np.ndarray):
        by_channel = low.by_channel(offset, stored.index, tensor.channels, low.grid(stored), 0.0)[
            first : first + channels
        ]
        offset = np.broadcast_to(by_channel.reshape(1, -1, 1, 1), index.shape)
    return replace(stored, tensor=target, index=index, offset=offset)


def _with_pool(value: Open, pool: Pool, size: Pair) -> Open:
    channels = value.equation.channels
    index = np.arange(channels * math.prod(size)).reshape(1, channels, *size)
    return replace(value, equation=replace(value.equation, pool=pool), size=size, index=index)


def _average_pool(low: Builder, node: Node) -> Value:
    if any(d != 1 for d in node.attributes.get("dilations", [1])):
        raise Unsupported("has dilations")
    value = low.stored(node.inputs[0])
    _, _, height, width = low.image(value)
    one = value.index.ndim == 3
    window, strides, dilations, padding, size = _window(node, (height, width), one=one)
    padded = _pads(padding, window, strides, dilations, size, (height, width))
    if padded and not node.attributes.get("count_include_pad", 0):
        raise Unsupported("has padding that its divisor leaves out (count_include_pad = 0)")
    value = _without_offset(low, value, padded=padded)
    view = View(
        kh=window[0],
        kw=window[1],
        sh=strides[0],
        sw=strides[1],
        ph=padding[0],
        pw=padding[1],
        height=size[0],
        width=size[1],
    )
    return _viewed(low, value, view, low.graph.shapes[node.output])


def _global_average_pool(low: Builder, node: Node) -> Value:
    value = low.stored(node.inputs[0])
    _, _, height, width = low.image(value)
    if max(height, width) > MAX_BYTE:
        raise Unsupported(f"has a window past {MAX_BYTE}")
    view = View(kh=height, kw=width, sh=1, sw=1, ph=0, pw=0, height=1, width=1)
    return _viewed(low, value, view, low.graph.shapes[node.output])


def _reduce_mean(low: Builder, node: Node) -> Value:
    shape = low.graph.shapes[node.inputs[0]]
    axes = node.attributes.get("axes")
    if axes is None and node.given(1):
        axes = low.constant(node.inputs[1]).astype(int).tolist()
    wanted = list(range(2, len(shape)))
    if axes is None or sorted(axis % len(shape) for axis in axes) != wanted or not wanted:
        raise Unsupported("averages over other axes than those of an image")
    return _global_average_pool(low, node)


def _viewed(low: Builder, value: Stored, view: View, shape: tuple[int, ...]) -> Stored:
    first, channels, _, _ = low.image(value)
    scale, offset = low.affine_of(value, low.grid(value)[0])
    area = view.height * view.width
    full = (1, channels, view.height, view.width)
    index = (first * area + np.arange(channels * area)).reshape(full)
    if isinstance(scale, np.ndarray):
        scale = np.broadcast_to(scale[first : first + channels].reshape(1, -1, 1, 1), full)
        scale = scale.reshape(shape)
    made: Array | float = 0.0
    if offset is not None:
        by_channel = offset[first : first + channels].reshape(1, -1, 1, 1)
        made = np.broadcast_to(by_channel, full).reshape(shape)
    return Stored(
        tensor=value.tensor,
        index=index.reshape(shape),
        views=(*value.views, view),
        scale=scale / (view.kh * view.kw),
        offset=made,
    )


HANDLERS: Handlers = {
    "AveragePool": _average_pool,
    "Conv": _conv,
    "GlobalAveragePool": _global_average_pool,
    "MaxPool": _max_pool,
    "ReduceMean": _reduce_mean,
}
