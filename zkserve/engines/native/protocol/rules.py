"""What a description must satisfy: sections 3 to 5 of ``docs/native-protocol.md``, as refusals.

A compiler runs :func:`check` before it writes a description, every reader runs it through
:func:`zkserve.engines.native.protocol.description.decode`. What is refused here would let somebody
prove more than the circuit says (a cell that no equation binds), leak weights (a layout without
room for masks), or leave two readers of the same bytes with different circuits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from zkserve.engines.native.protocol.shapes import (
    OUTPUT,
    Equation,
    OutputKind,
    Piece,
    Product,
    ProductKind,
    Tensor,
    View,
    clog,
    viewed_size,
)
from zkserve.engines.native.protocol.wire import DescriptionInvalid

if TYPE_CHECKING:
    from zkserve.engines.native.protocol.description import Description

MIN_K, MAX_K = 9, 24
IDENTITY = bytes(range(256))


def check(description: Description) -> None:
    """Refuse a description that sections 4 and 5 forbid; the certificate is another matter.

    Raises:
        DescriptionInvalid: it names what was found and what is allowed.

    """
    _check_header(description)
    _check_functions(description)
    _check_tensors(description)
    _check_equations(description)
    _check_outputs(description)
    _check_layout(description)


def _need(condition: bool, message: str) -> None:
    if not condition:
        raise DescriptionInvalid(message)


def _one_of(what: str, value: int, allowed: Sequence[int]) -> None:
    _need(value in allowed, f"{what} is one of {list(allowed)}; got {value}.")


def _between(what: str, value: int, low: int, high: int) -> None:
    _need(low <= value <= high, f"{what} lies between {low} and {high}; got {value}.")


def _check_header(d: Description) -> None:
    h = d.header
    _between("k", h.k, MIN_K, MAX_K)
    _one_of("The bytes of an activation", h.activation_bytes, (1, 2))
    _one_of(
        "The remainder limbs for these activations", h.remainder_limbs, (h.activation_bytes + 1,)
    )
    _one_of("The bytes of an input value", h.input_bytes, (1, 2))
    _one_of("The window positions", h.window_positions, (0, 2, 4))
    _one_of(
        "The difference limbs for these activations",
        h.difference_limbs,
        (2 * h.activation_bytes + 1,),
    )
    _one_of("The output kind", h.output_kind, (0, 1))
    for what, count in (
        ("weight tiles", h.weight_tiles),
        ("row tiles", h.row_tiles),
        ("helper tiles", h.helper_tiles),
    ):
        _between(f"The number of {what}", count, 1, 0xFFFF)
    _between("The batch", h.batch, 1, d.cells)
    _need(
        max(h.row_bits, h.table_bits) <= h.k,
        f"Rows and table fit one tile of 2^{h.k} cells; got 2^{h.row_bits} and 2^{h.table_bits}.",
    )
    table_bits = clog(512 + 256 * len(d.functions))
    _one_of("The bits of the table for these functions", h.table_bits, (table_bits,))


def _check_functions(d: Description) -> None:
    if not d.functions:
        return
    _need(d.header.activation_bytes == 1, "Only circuits with one-byte activations have functions.")
    _need(d.functions[0] == IDENTITY, "Function 0 is the identity.")


def _check_tensors(d: Description) -> None:
    _need(bool(d.tensors), "A circuit has an input tensor.")
    _need(len(d.tensors) < OUTPUT, f"A circuit has fewer than {OUTPUT} tensors.")
    _need(not d.tensors[0].flat, "The input tensor is not flat.")
    _need(d.tensors[0].function == 0, "The input tensor has no function.")
    for number, tensor in enumerate(d.tensors):
        name = f"tensor {number}"
        for size in (tensor.channels, tensor.height, tensor.width):
            _between(f"Each size of {name}", size, 1, d.cells)
        largest = d.top if number else (1 << 8 * d.header.input_bytes) - 1
        _between(f"The zero point of {name}", tensor.zero_point, 0, largest)
        _need(
            tensor.function < max(1, len(d.functions)),
            f"{name.capitalize()} names function {tensor.function} of {len(d.functions)}.",
        )


def _check_equations(d: Description) -> None:
    _need(bool(d.equations), "A circuit has an equation.")
    producer: list[list[tuple[int, int]]] = [[] for _ in d.tensors]
    for number, equation in enumerate(d.equations):
        name = f"equation {number}"
        if not equation.raw:
            _between(f"The target of {name}", equation.target, 1, len(d.tensors) - 1)
        sources = [product.source for product in equation.products]
        sources += [scaled.source for scaled in equation.scaled]
        for source in sources:
            _between(f"A source of {name}", source, 0, len(d.tensors) - 1)
            _need(
                source == 0 or _covered(producer[source], d.tensors[source].channels),
                f"{name.capitalize()} reads tensor {source} before every channel is produced.",
            )
        _check_equation(d, name, equation)
        if not equation.raw:
            end = equation.first_channel + equation.channels
            producer[equation.target].append((equation.first_channel, end))
    for number, tensor in enumerate(d.tensors[1:], start=1):
        _need(
            _covered(producer[number], tensor.channels),
            f"Each channel of tensor {number} is the target of exactly one equation.",
        )


def _covered(ranges: list[tuple[int, int]], channels: int) -> bool:
    at = 0
    for start, end in sorted(ranges):
        if start != at:
            return False
        at = end
    return at == channels


def _check_equation(d: Description, name: str, equation: Equation) -> None:
    for size in (equation.channels, equation.height, equation.width):
        _between(f"Each size of {name}", size, 1, d.cells)
    _need(equation.groups >= 1, f"The groups of {name} are at least 1; got 0.")
    _need(
        equation.channels % equation.groups == 0,
        f"The groups of {name}, {equation.groups}, divide its {equation.channels} channels.",
    )
    if equation.raw:
        _need(equation.first_channel == 0, f"{name.capitalize()} gives the output from channel 0.")
        _need(not equation.per_channel, f"{name.capitalize()} gives raw outputs: no multipliers.")
    else:
        _in_channels(d.tensors[equation.target], name, equation.first_channel, equation.channels)
    _need(
        not equation.per_channel or equation.groups in (1, equation.channels),
        f"Multipliers per channel need one group or one channel a group, which {name} has not.",
    )
    _check_pool(d, name, equation)
    for product in equation.products:
        _check_product(d, f"a product term of {name}", equation, product)
    for scaled in equation.scaled:
        source = d.tensors[scaled.source]
        _in_channels(source, f"a scaled term of {name}", scaled.first_channel, equation.channels)
        _between(f"The constant of a scaled term of {name}", scaled.constant, 0, 0xFFFF)
        _check_views(d, f"a scaled term of {name}", scaled.views)
        _need(
            viewed_size(source, scaled.views) == (equation.height, equation.width),
            f"A scaled term has the height and width of {name}.",
        )


def _in_channels(tensor: Tensor, name: str, first: int, count: int) -> None:
    _need(
        first + count <= tensor.channels,
        f"The channels {first} to {first + count} of {name} end past {tensor.channels}.",
    )


def _check_pool(d: Description, name: str, equation: Equation) -> None:
    pool, size = equation.pool, (equation.height, equation.width)
    for value in (pool.kh, pool.kw, pool.sh, pool.sw, pool.eh, pool.ew):
        _need(value >= 1, f"Windows and strides of the pool of {name} are at least 1; got 0.")
    if not equation.pooled:
        plain = (pool.kh, pool.kw, pool.sh, pool.sw, pool.ph, pool.pw) == (1, 1, 1, 1, 0, 0)
        _need(plain, f"Without pool the bytes of the pool of {name} are 1 1 1 1 0 0 1 1.")
        if not equation.raw:
            target = d.tensors[equation.target]
            _need(
                size == (target.height, target.width),
                f"Without pool {name} has the height and width of its target; got {size}.",
            )
        return
    _need(not equation.raw, f"{name.capitalize()} gives raw outputs: it cannot pool.")
    _one_of(f"The window positions of {name}", pool.positions, (d.header.window_positions,))
    _need(
        pool.eh >= pool.kh and pool.ew >= pool.kw,
        f"The window of {name} is stretched, never shrunk.",
    )
    _need(
        pool.ph < pool.kh and pool.pw < pool.kw,
        f"The padding of the pool of {name} is smaller than its window.",
    )
    target = d.tensors[equation.target]
    _need(
        pool.sh * (target.height - 1) - pool.ph < equation.height
        and pool.sw * (target.width - 1) - pool.pw < equation.width,
        f"The last window of {name} begins inside the accumulators.",
    )


def _check_views(d: Description, name: str, views: Iterable[View]) -> None:
    for view in views:
        for value in (view.kh, view.kw, view.sh, view.sw):
            _need(value >= 1, f"Windows and strides of a view of {name} are at least 1; got 0.")
        for size in (view.height, view.width):
            _between(f"Each size of a view of {name}", size, 1, d.cells)


def _check_product(d: Description, name: str, equation: Equation, product: Product) -> None:
    source = d.tensors[product.source]
    _one_of(f"The type of {name}", product.kind, (0, 1))
    _one_of(f"The order of {name}", product.order, (0, 1))
    _need(product.channels >= 1, f"The channels of {name} are at least 1; got 0.")
    _in_channels(source, name, product.first_channel, product.channels)
    _need(
        product.channels % equation.groups == 0,
        f"The groups {equation.groups} divide the {product.channels} channels of {name}.",
    )
    _check_views(d, name, product.views)
    kernel = (product.kh, product.kw, product.sh, product.sw, product.dh, product.dw)
    _need(min(kernel) >= 1, f"Kernel, strides and dilations of {name} are at least 1; got 0.")
    if product.kind == ProductKind.CONV:
        return
    _need(
        kernel == (1, 1, 1, 1, 1, 1) and (product.ph, product.pw) == (0, 0),
        f"The kernel bytes of {name}, a gemm, are 1 1 1 1 1 1 0 0.",
    )
    _need(
        (equation.height, equation.width) == (1, 1)
        and equation.groups == 1
        and not equation.pooled,
        f"A gemm has one accumulator per channel, no groups and no pool; {name} has not.",
    )
    _need(not (source.flat and product.views), f"A gemm has no view on a flat source: {name}.")


def _check_outputs(d: Description) -> None:
    raw = [equation.raw for equation in d.equations]
    if d.header.output_kind == OutputKind.RAW:
        _need(raw[-1] and sum(raw) == 1, "With raw outputs the last equation alone gives them.")
    else:
        _need(not any(raw), "With requantised outputs no equation gives the output itself.")
    _need(d.outputs <= d.cells, f"A proof has at most {d.cells} outputs; got {d.outputs}.")


def _check_layout(d: Description) -> None:
    h, cells = d.header, d.cells
    rows = 1 << h.row_bits
    blocks = [
        block
        for number, tensor in enumerate(d.tensors[1:], start=1)
        for block in _blocks(
            d, f"tensor {number}", tensor.pieces, tensor.channels, tensor.rest_bits(h.batch)
        )
    ]
    _disjoint("the rows of activations", blocks, rows)
    tensor = d.tensors[0]
    blocks = _blocks(d, "the input", tensor.pieces, tensor.channels, tensor.rest_bits(h.batch))
    _disjoint("the rows of the input", blocks, rows)

    blocks = []
    for instance in d.instances:
        name = f"the weights of equation {instance.equation}"
        pieces = instance.product.pieces
        blocks += _blocks(d, name, pieces, instance.lead, instance.rest_bits)
    for number, equation in enumerate(d.equations):
        if equation.bias:
            name = f"the bias of equation {number}"
            blocks += _blocks(d, name, equation.bias, equation.channels, 0)
    _disjoint("family W", blocks, h.weight_tiles * cells)

    columns, helpers = d.columns.count, d.helper_columns
    o = d.offsets
    blocks = [(column << h.row_bits, h.row_bits) for column in range(columns)]
    _need(
        o.multiplicities >= columns << h.row_bits,
        f"The multiplicities at {o.multiplicities} lie behind the {columns} columns.",
    )
    blocks.append(_block(d, "the multiplicities", o.multiplicities, h.table_bits))
    _masks("family w", d.row_mask_cells, blocks, h.row_tiles * cells)

    blocks = [
        _block(d, "the masks of evaluations", o.masks, clog(d.evaluations)),
        _block(d, "the Libra polynomial", o.libra, clog(d.libra_coefficients)),
        _block(d, "the helpers of the table", o.table_helpers, h.table_bits),
    ]
    blocks += [
        _block(d, "a helper column", o.helpers + (column << h.row_bits), h.row_bits)
        for column in range(helpers)
    ]
    _masks("family h", d.helper_mask_cells, blocks, h.helper_tiles * cells)

    low = sum(cell % cells < cells // 2 for cell in d.helper_mask_cells)
    high = len(d.helper_mask_cells) - low
    _need(
        min(low, high) >= 2 * h.k,
        f"At least {2 * h.k} mask cells of h in lower and in upper halves; got {low} and {high}.",
    )
    last = sum(cell >= (h.row_tiles - 1) * cells for cell in d.row_mask_cells)
    _need(last >= 3 * h.k, f"At least {3 * h.k} mask cells in the last tile of w; got {last}.")


def _blocks(
    d: Description, name: str, pieces: Sequence[Piece], entries: int, rest_bits: int
) -> list[tuple[int, int]]:
    """Return (offset, bits) of the pieces of a dimension of ``entries``."""
    at = 0
    for piece in pieces:
        _need(
            piece.first == at and at < entries,
            f"The pieces of {name} cover its {entries} entries in order without overlap.",
        )
        _need(piece.log <= d.header.k, f"A piece of {name} lies inside one tile.")
        at += 1 << piece.log
    _need(at >= entries, f"The pieces of {name} cover {at} of its {entries} entries.")
    return [
        _block(d, f"a piece of {name}", piece.offset, piece.log + rest_bits) for piece in pieces
    ]


def _block(d: Description, name: str, offset: int, bits: int) -> tuple[int, int]:
    _need(bits <= d.header.k, f"2^{bits} cells, {name}, do not fit one tile of 2^{d.header.k}.")
    _need(offset % (1 << bits) == 0, f"Offset {offset} of {name} is no multiple of 2^{bits}.")
    return offset, bits


def _disjoint(name: str, blocks: list[tuple[int, int]], end: int) -> None:
    at = 0
    for offset, bits in sorted(blocks):
        _need(offset >= at, f"Two blocks overlap at cell {offset} of {name}.")
        at = offset + (1 << bits)
    _need(at <= end, f"The blocks of {name} end at {at}, past its {end} cells.")


def _masks(name: str, cells: Sequence[int], blocks: list[tuple[int, int]], end: int) -> None:
    _need(
        all(a < b for a, b in pairwise(cells)),
        f"The mask cells of {name} are in ascending order, none twice.",
    )
    _disjoint(f"{name} with its mask cells", blocks + [(cell, 0) for cell in cells], end)
