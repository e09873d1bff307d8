"""Weights as cells, and back: the blocks of family W."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zkserve.engines.native.compiler import program as p
from zkserve.engines.native.protocol import description as d
from zkserve.engines.native.protocol.description import Description, Instance, Piece, clog

Cells = NDArray[np.int32]


def multipliers_of(program: p.Program) -> tuple[int, ...]:
    """Return the multipliers in the order of the description."""
    return tuple(
        value
        for equation, multipliers in zip(program.equations, program.multipliers, strict=True)
        for value in (*multipliers, *(int(t.factor) for t in equation.scaled if not t.fixed))
    )


def weight_cells(program: p.Program, description: Description) -> Cells:
    """Return the cells of the weight tiles, shape ``(tiles * 2**k,)``."""
    cells = np.zeros(description.header.weight_tiles * description.cells, np.int32)
    for number, (equation, placed) in enumerate(
        zip(program.equations, description.equations, strict=True)
    ):
        for product, where in zip(equation.products, placed.products, strict=True):
            instance = description.instance(number, where)
            block = _to_block(product.weights, instance, placed)
            _write(cells, block, where.pieces)
        if placed.bias and equation.bias is not None:
            _write(cells, equation.bias[:, None], placed.bias)
    return cells


def read_program(
    description: Description, cells: NDArray[np.integer], multipliers: Sequence[int]
) -> p.Program:
    """Return the program behind a description, weight cells and multipliers.

    Raises:
        ValueError: there are too few or too many of them.

    """
    if cells.shape != (description.header.weight_tiles * description.cells,):
        raise ValueError(f"expected {description.header.weight_tiles} tiles of weights")
    equations, split = [], description.split_multipliers(tuple(multipliers))
    for number, (placed, (_, factors)) in enumerate(zip(description.equations, split, strict=True)):
        products = []
        for where in placed.products:
            instance = description.instance(number, where)
            block = _read(cells, where.pieces, instance.lead, 1 << instance.rest_bits)
            gemm = where.kind == d.ProductKind.GEMM
            products.append(
                p.Product(
                    source=where.source,
                    first=where.first_channel,
                    channels=where.channels,
                    weights=_shaped(_from_block(block, instance, placed), where, description),
                    gemm=gemm,
                    strides=(where.sh, where.sw),
                    dilations=(where.dh, where.dw),
                    padding=(where.ph, where.pw),
                    views=where.views,
                )
            )
        scaled = tuple(
            p.Scaled(
                source=term.source,
                first=term.first_channel,
                factor=factor,
                fixed=term.constant != 0,
                views=term.views,
            )
            for term, factor in zip(placed.scaled, factors, strict=True)
        )
        bias = _read(cells, placed.bias, placed.channels, 1)[:, 0] if placed.bias else None
        equations.append(
            p.Equation(
                target=None if placed.raw else placed.target,
                first=placed.first_channel,
                channels=placed.channels,
                height=placed.height,
                width=placed.width,
                pool=placed.pool,
                groups=placed.groups,
                products=tuple(products),
                scaled=scaled,
                bias=bias,
            )
        )
    return p.Program(
        activation_bytes=description.header.activation_bytes,
        input_bytes=description.header.input_bytes,
        tensors=tuple(
            p.Tensor(
                channels=t.channels,
                height=t.height,
                width=t.width,
                zero=t.zero_point,
                function=t.function,
            )
            for t in description.tensors
        ),
        equations=tuple(equations),
        multipliers=tuple(own for own, _ in split),
        functions=description.functions,
    )


def _dimensions(instance: Instance, equation: d.Equation) -> tuple[list[int], list[int]]:
    """Return the axes of a block of shape (g, c', contraction...) in stored order, and their bits.

    The first of them takes no bits: it is cut in pieces.
    """
    sizes = [equation.groups, equation.group_channels, *instance.sizes]
    bits = [clog(equation.groups), clog(equation.group_channels), *instance.bits]
    axes = list(range(len(sizes)))
    if instance.product.order == 1:
        axes[1], axes[2] = 2, 1
    if equation.groups == 1:
        axes = axes[1:]
    return axes, [bits[axis] for axis in axes[1:]]


def _to_block(weights: NDArray[Any], instance: Instance, equation: d.Equation) -> NDArray[Any]:
    """Return the weights of a product, shape ``(lead, 2**rest_bits)``."""
    axes, bits = _dimensions(instance, equation)
    full = weights.reshape(equation.groups, equation.group_channels, *instance.sizes)
    block = full.transpose(_leading(axes)).reshape([full.shape[axis] for axis in axes])
    padding = [(0, (1 << b) - n) for b, n in zip(bits, block.shape[1:], strict=True)]
    return np.pad(block, [(0, 0), *padding]).reshape(instance.lead, -1)


def _from_block(block: NDArray[Any], instance: Instance, equation: d.Equation) -> NDArray[Any]:
    """Return the weights of a block, shape ``(channels, contraction...)``."""
    axes, bits = _dimensions(instance, equation)
    sizes = [equation.groups, equation.group_channels, *instance.sizes]
    full = block.reshape(instance.lead, *[1 << b for b in bits])
    full = full[tuple(slice(sizes[axis]) for axis in axes)]
    order = _leading(axes)
    full = full.reshape([sizes[axis] for axis in order])
    return full.transpose(np.argsort(order)).reshape(equation.channels, *instance.sizes)


def _leading(axes: Sequence[int]) -> list[int]:
    """Put the axis of a single group back in front, if it was left out."""
    return list(axes) if 0 in axes else [0, *axes]


def _write(cells: Cells, block: NDArray[Any], pieces: Sequence[Piece]) -> None:
    width = block.shape[1]
    for piece in pieces:
        part = block[piece.first : piece.first + (1 << piece.log)].reshape(-1)
        cells[piece.offset : piece.offset + len(part)] = part
    if width * len(block) and np.abs(block).max() >= 1 << 31:
        raise OverflowError("a weight does not fit 32 bits")


def _read(cells: NDArray[Any], pieces: Sequence[Piece], lead: int, width: int) -> NDArray[np.int64]:
    parts = [
        cells[piece.offset : piece.offset + (width << piece.log)].reshape(-1, width)
        for piece in pieces
    ]
    return np.concatenate(parts)[:lead].astype(np.int64)


def _shaped(weights: NDArray[Any], product: d.Product, description: Description) -> NDArray[Any]:
    """Give the weights of a gemm on a flat source its height and width."""
    source = description.tensors[product.source]
    if product.kind == d.ProductKind.GEMM and source.flat:
        return weights.reshape(*weights.shape[:2], source.height, source.width)
    return weights
