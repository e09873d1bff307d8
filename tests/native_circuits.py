"""Small native circuits, laid out by hand, that use every feature a description has."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache
from itertools import count

from zkserve.engines.native.protocol.certificate import certify
from zkserve.engines.native.protocol.description import (
    OUTPUT,
    Description,
    Equation,
    Header,
    Offsets,
    OutputKind,
    Piece,
    Pool,
    Product,
    ProductKind,
    Scaled,
    Tensor,
    View,
    clog,
)

IDENTITY = bytes(range(256))
FALLING = bytes(255 - i // 2 for i in range(256))


def tensor(
    channels: int,
    height: int = 1,
    width: int = 1,
    *,
    zero_point: int = 0,
    function: int = 0,
    flat: bool = False,
) -> Tensor:
    return Tensor(
        flat=flat,
        channels=channels,
        height=height,
        width=width,
        zero_point=zero_point,
        function=function,
        pieces=(),
    )


def equation(
    target: int,
    channels: int,
    grid: tuple[int, int] = (1, 1),
    *,
    first: int = 0,
    pool: Pool | None = None,
    groups: int = 1,
    per_channel: bool = False,
    products: tuple[Product, ...] = (),
    scaled: tuple[Scaled, ...] = (),
    bias: bool = True,
) -> Equation:
    return Equation(
        target=target,
        first_channel=first,
        channels=channels,
        height=grid[0],
        width=grid[1],
        per_channel=per_channel,
        pool=pool or Pool(),
        groups=groups,
        products=products,
        scaled=scaled,
        bias=(Piece(first=0, log=0, offset=0),) if bias else (),
    )


def product(
    source: int,
    channels: int,
    *,
    first: int = 0,
    kind: ProductKind = ProductKind.GEMM,
    order: int = 0,
    kernel: tuple[int, int] = (1, 1),
    stride: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    views: tuple[View, ...] = (),
) -> Product:
    return Product(
        kind=kind,
        source=source,
        first_channel=first,
        channels=channels,
        order=order,
        kh=kernel[0],
        kw=kernel[1],
        sh=stride[0],
        sw=stride[1],
        dh=dilation[0],
        dw=dilation[1],
        ph=padding[0],
        pw=padding[1],
        views=views,
    )


def view(
    kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], *size: int
) -> View:
    return View(
        kh=kernel[0],
        kw=kernel[1],
        sh=stride[0],
        sw=stride[1],
        ph=padding[0],
        pw=padding[1],
        height=size[0],
        width=size[1],
    )


class _Blocks:
    """Blocks of powers of two; the largest are placed first, so that all are aligned."""

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._bits: list[int] = []

    def cut(self, entries: int, rest: int) -> list[tuple[int, int, int]]:
        pieces, first = [], 0
        while first < entries:
            log = min((entries - first).bit_length() - 1, self._largest - rest)
            pieces.append((first, log, len(self._bits)))
            self._bits.append(log + rest)
            first += 1 << log
        return pieces

    def place(self) -> tuple[list[int], int]:
        offsets, at = [0] * len(self._bits), 0
        for i in sorted(range(len(self._bits)), key=lambda i: -self._bits[i]):
            offsets[i], at = at, at + (1 << self._bits[i])
        return offsets, at


def _pieces(cuts: list[tuple[int, int, int]], offsets: list[int]) -> tuple[Piece, ...]:
    return tuple(Piece(first=first, log=log, offset=offsets[i]) for first, log, i in cuts)


def lay_out(
    *,
    k: int,
    tensors: list[Tensor],
    equations: list[Equation],
    functions: tuple[bytes, ...] = (),
    batch: int = 1,
    activation_bytes: int = 1,
    input_bytes: int = 1,
    window_positions: int = 0,
    output_kind: OutputKind = OutputKind.RAW,
    seed: int = 1,
) -> Description:
    """Place everything and scatter the mask cells; the result has no certificate yet."""
    header = Header(
        k=k,
        row_bits=0,
        table_bits=clog(512 + 256 * len(functions)),
        activation_bytes=activation_bytes,
        remainder_limbs=activation_bytes + 1,
        input_bytes=input_bytes,
        window_positions=window_positions,
        difference_limbs=2 * activation_bytes + 1,
        output_kind=output_kind,
        weight_tiles=1,
        row_tiles=1,
        helper_tiles=1,
        batch=batch,
    )
    d = Description(
        header=header,
        offsets=Offsets(masks=0, libra=0, table_helpers=0, helpers=0, multiplicities=0),
        functions=functions,
        tensors=tuple(tensors),
        equations=tuple(equations),
        helper_mask_cells=(),
        row_mask_cells=(),
    )
    inputs, rows = _Blocks(k), _Blocks(k)
    cuts = [
        (rows if i else inputs).cut(t.channels, t.rest_bits(batch)) for i, t in enumerate(tensors)
    ]
    (input_offsets, input_end), (row_offsets, row_end) = inputs.place(), rows.place()
    row_bits = clog(max(input_end, row_end, 4))
    placed = [
        replace(t, pieces=_pieces(cut, row_offsets if i else input_offsets))
        for i, (t, cut) in enumerate(zip(tensors, cuts, strict=True))
    ]
    weights = _Blocks(k)
    instances = iter(d.instances)
    weight_cuts = []
    for e in equations:
        terms = [
            weights.cut(i.lead, i.rest_bits) for _, i in zip(e.products, instances, strict=False)
        ]
        weight_cuts.append((terms, weights.cut(e.channels, 0) if e.bias else []))
    weight_offsets, weight_end = weights.place()
    placed_equations = [
        replace(
            e,
            products=tuple(
                replace(p, pieces=_pieces(cut, weight_offsets))
                for p, cut in zip(e.products, terms, strict=True)
            ),
            bias=_pieces(bias, weight_offsets),
        )
        for e, (terms, bias) in zip(equations, weight_cuts, strict=True)
    ]
    header = replace(header, row_bits=row_bits, weight_tiles=-(-weight_end >> k))
    d = replace(d, header=header, tensors=tuple(placed), equations=tuple(placed_equations))
    return _with_masks(d, random.Random(seed))


def _aligned(at: int, bits: int) -> int:
    return -(-at >> bits) << bits


def _with_masks(d: Description, rng: random.Random) -> Description:
    k, row_bits, table_bits = d.header.k, d.header.row_bits, d.header.table_bits
    libra = _aligned(1 << clog(d.evaluations), clog(d.libra_coefficients))
    libra_end = libra + (1 << clog(d.libra_coefficients))
    table = _aligned(libra_end, table_bits)
    helpers = _aligned(table + (1 << table_bits), row_bits)
    helpers_end = helpers + (d.helper_columns << row_bits)
    rows_end = d.columns.count << row_bits
    multiplicities = _aligned(rows_end, table_bits)
    multiplicities_end = multiplicities + (1 << table_bits)
    free = [*range(libra_end, table), *range(table + (1 << table_bits), helpers)]
    for tiles in count(-(-helpers_end >> k)):
        cells = free + list(range(helpers_end, tiles << k))
        halves = [[c for c in cells if (c >> k - 1) % 2 == half] for half in (0, 1)]
        if min(len(half) for half in halves) >= 2 * k:
            break
    for row_tiles in count(-(-multiplicities_end >> k)):
        last = range(max((row_tiles - 1) << k, multiplicities_end), row_tiles << k)
        if len(last) >= 3 * k:
            break
    return replace(
        d,
        header=replace(d.header, row_tiles=row_tiles, helper_tiles=tiles),
        offsets=Offsets(
            masks=0,
            libra=libra,
            table_helpers=table,
            helpers=helpers,
            multiplicities=multiplicities,
        ),
        helper_mask_cells=tuple(sorted(c for half in halves for c in rng.sample(half, 2 * k))),
        row_mask_cells=tuple(sorted(rng.sample(last, 3 * k))),
    )


@cache
def dense() -> Description:
    """Two dense layers over several weight tiles, one in pieces of its contraction."""
    return certify(
        lay_out(
            k=9,
            tensors=[tensor(40), tensor(24), tensor(6, zero_point=128)],
            equations=[
                equation(1, 24, products=(product(0, 40, order=1),)),
                equation(2, 6, products=(product(1, 24),)),
                equation(
                    OUTPUT,
                    3,
                    products=(product(2, 6),),
                    scaled=(Scaled(source=2, first_channel=3, constant=5),),
                ),
            ],
        )
    )


@cache
def convolutions() -> Description:
    """8 bits with two-byte input: windows, views, groups, functions, concatenation, a batch."""
    return certify(
        lay_out(
            k=10,
            batch=2,
            input_bytes=2,
            window_positions=4,
            functions=(IDENTITY, FALLING),
            output_kind=OutputKind.REQUANTISED,
            tensors=[
                tensor(2, 7, 5, zero_point=300),
                tensor(4, 4, 2),
                tensor(5, 4, 2, zero_point=128, function=1),
                tensor(5, 2, 1, zero_point=9, flat=True),
                tensor(3, zero_point=128),
            ],
            equations=[
                equation(
                    1,
                    4,
                    (4, 3),
                    groups=2,
                    pool=Pool(kh=1, kw=3, sh=1, sw=2, ph=0, pw=1, eh=1, ew=4),
                    products=(
                        product(
                            0,
                            2,
                            kind=ProductKind.CONV,
                            kernel=(3, 2),
                            stride=(2, 2),
                            padding=(1, 1),
                        ),
                    ),
                ),
                equation(
                    2,
                    3,
                    (4, 2),
                    per_channel=True,
                    products=(
                        product(
                            1,
                            3,
                            first=1,
                            kind=ProductKind.CONV,
                            order=1,
                            kernel=(2, 3),
                            dilation=(2, 1),
                            padding=(1, 1),
                        ),
                    ),
                ),
                equation(
                    2,
                    2,
                    (4, 2),
                    first=3,
                    bias=False,
                    scaled=(Scaled(source=1, first_channel=2, constant=0),),
                ),
                equation(
                    3,
                    5,
                    (2, 1),
                    groups=5,
                    per_channel=True,
                    products=(
                        product(
                            2,
                            5,
                            kind=ProductKind.CONV,
                            kernel=(2, 1),
                            padding=(1, 0),
                            views=(view((3, 3), (2, 2), (1, 1), 2, 1),),
                        ),
                    ),
                ),
                equation(
                    4,
                    3,
                    products=(
                        product(3, 5, order=1),
                        product(1, 4, views=(view((2, 2), (2, 2), (0, 0), 2, 1),)),
                    ),
                ),
            ],
        )
    )


@cache
def wide() -> Description:
    """16 bits: pooling of two positions, scaled terms, two views in a row, raw outputs."""
    conv = ProductKind.CONV
    return certify(
        lay_out(
            k=9,
            batch=2,
            activation_bytes=2,
            window_positions=2,
            tensors=[
                tensor(2, 4, 3, zero_point=128),
                tensor(3, 3, 2),
                tensor(3, 3, 2, zero_point=32768),
                tensor(2, 2, 2, zero_point=500),
            ],
            equations=[
                equation(
                    1,
                    3,
                    (4, 2),
                    pool=Pool(kh=2, kw=1, sh=2, sw=1, ph=1, pw=0, eh=2, ew=1),
                    products=(
                        product(0, 2, kind=conv, kernel=(3, 3), stride=(1, 2), padding=(1, 1)),
                    ),
                ),
                equation(
                    2,
                    3,
                    (3, 2),
                    per_channel=True,
                    products=(product(1, 3, kind=conv),),
                    scaled=(
                        Scaled(source=1, first_channel=0, constant=0),
                        Scaled(source=1, first_channel=0, constant=3),
                    ),
                ),
                equation(
                    3,
                    2,
                    (2, 2),
                    products=(
                        product(1, 2, first=1, kind=conv, kernel=(2, 1), stride=(1, 1)),
                        product(
                            2,
                            1,
                            kind=conv,
                            order=1,
                            views=(
                                view((2, 1), (1, 1), (1, 0), 3, 2),
                                view((2, 1), (1, 1), (0, 0), 2, 2),
                            ),
                        ),
                    ),
                ),
                equation(OUTPUT, 2, (2, 1), products=(product(3, 2, kind=conv, kernel=(1, 2)),)),
            ],
        )
    )


CIRCUITS = {"dense": dense, "convolutions": convolutions, "wide": wide}
