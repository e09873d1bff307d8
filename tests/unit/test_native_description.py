"""Descriptions of native circuits: bytes, sizes, and everything that a reader refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.native_circuits import CIRCUITS, FALLING, convolutions, dense, wide
from zkserve.engines.native import core
from zkserve.engines.native.protocol.description import (
    OUTPUT,
    Description,
    Piece,
    Pool,
    ProductKind,
    Scaled,
    decode,
    digest,
)
from zkserve.engines.native.protocol.wire import DescriptionInvalid

# The worked example in section 5 of docs/native-protocol.md; mask cells are in its comments.
EXAMPLE = (
    "5a4b534e41545631"
    "00000016 01 09 02 09 01 02 01 04 03 03 00 10 0001 0003 0003 00000001"
    "00000014 00000000 00000080 00000200 00000400 00000200"
    "00000004 00000000"
    "00000054 00000002"
    "00000024 00 00000001 00000002 00000002 00000000 0000"
    "00000001 00000009 00000000 00 00000000"
    "00000024 00 00000003 00000001 00000001 00000000 0000"
    "00000001 00000009 00000000 02 00000000"
    "000000d2 00000002"
    "00000063 0001 00000000 00000003 00000001 00000001 00"
    "01 01 01 01 00 00 01 01  0001"
    "00000001 00000029 01 0000 00000000 00000001 00"
    "01 01 01 01 01 01 00 00  00000000"
    "00000001 00000009 00000000 02 00000000"
    "00000000"
    "00000001 00000009 00000000 02 00000018"
    "00000063 ffff 00000000 00000002 00000001 00000001 00"
    "01 01 01 01 00 00 01 01  0001"
    "00000001 00000029 01 0001 00000000 00000003 00"
    "01 01 01 01 01 01 00 00  00000000"
    "00000001 00000009 00000000 01 00000010"
    "00000000"
    "00000001 00000009 00000000 01 0000001c"
    "00000220"
)


def example_bytes() -> bytes:
    def cells(numbers: list[int]) -> bytes:
        items = b"".join(bytes.fromhex("00000004") + n.to_bytes(4, "big") for n in numbers)
        return len(numbers).to_bytes(4, "big") + items

    helpers = [*range(256, 495, 14), *range(1048, 1253, 12)]
    rows = list(range(1024, 1519, 19))
    return bytes.fromhex(EXAMPLE) + cells(helpers) + cells(rows) + bytes(32)


def test_the_worked_example() -> None:
    data = example_bytes()
    d = decode(data)
    assert len(data) == 916
    assert digest(data).hex() == "26ac4b9c9ee2cf96a59e996df060483c0ca4120993f5f30243a8b39216ff2948"
    assert (d.header.row_bits, d.header.table_bits, d.rounds, d.evaluations) == (2, 9, 9, 32)
    assert d.proof_bytes(hidden=False) == 4292
    assert d.multipliers == 1
    assert d.outputs == 2
    assert d.input_packing.size_bytes == 4


@pytest.mark.parametrize("name", CIRCUITS)
def test_bytes_and_back(name: str) -> None:
    d = CIRCUITS[name]()
    data = d.encode()
    assert decode(data) == d
    assert decode(data).encode() == data


def test_derived_sizes() -> None:
    d = convolutions()
    assert d.columns.count == 2 + 1 + 3 + 1 + 1 + 2 + 4 * 3
    assert d.lookups == 2 + 1 + 2 + 12 + 1 + 1
    assert d.helper_columns == 7
    assert d.output_shape == (2, 3, 1, 1)
    # one per tensor, 3 per channel, one and the scaled term's, 5 per channel, one
    assert d.multipliers == 1 + 3 + 2 + 5 + 1
    own = d.split_multipliers(tuple(range(1, 13)))
    assert own[2] == ((5,), (6,))
    assert d.proof_bytes(hidden=True) == d.proof_bytes(hidden=False) + 64
    # rows of five two-byte values: one word of eight
    assert (d.input_packing.per_word, d.input_packing.words_per_row) == (8, 1)
    assert d.input_packing.size_bytes == 2 * 2 * 7 * 16
    assert wide().output_challenges == ()
    assert d.output_challenges == (2, 1, 0, 0)
    # a pooled equation is weighted over window positions, here 2 outputs of 4
    assert d.equation_challenges(d.equations[0]) == (1, 1, 1, 2, 3)
    # a contraction of one input: kappa would be 0
    assert min(i.kappa for i in wide().instances) >= 1


def test_a_pool_reads_what_section_3_says() -> None:
    pool = Pool(kh=1, kw=3, sh=1, sw=2, ph=0, pw=1, eh=1, ew=4)
    assert pool.read(0, 0, 4, 3) == [(0, 0), (0, 0), (0, 1), (0, 1)]
    assert pool.read(1, 1, 4, 3) == [(1, 1), (1, 2), (1, 2), (1, 2)]


# --- refusals: each is one change of a valid description


def header(**changes: int) -> Callable[[Description], Description]:
    return lambda d: replace(d, header=replace(d.header, **changes))


def offsets(**changes: int) -> Callable[[Description], Description]:
    return lambda d: replace(d, offsets=replace(d.offsets, **changes))


def _put(items: tuple[Any, ...], number: int, item: Any) -> tuple[Any, ...]:
    number %= len(items)
    return (*items[:number], item, *items[number + 1 :])


def tensor(number: int, **changes: Any) -> Callable[[Description], Description]:
    return lambda d: replace(
        d, tensors=_put(d.tensors, number, replace(d.tensors[number], **changes))
    )


def equation(number: int, **changes: Any) -> Callable[[Description], Description]:
    return lambda d: replace(
        d, equations=_put(d.equations, number, replace(d.equations[number], **changes))
    )


def pool(number: int, **changes: int) -> Callable[[Description], Description]:
    return lambda d: equation(number, pool=replace(d.equations[number].pool, **changes))(d)


def product(number: int, term: int, **changes: Any) -> Callable[[Description], Description]:
    def change(d: Description) -> Description:
        terms = d.equations[number].products
        return equation(number, products=_put(terms, term, replace(terms[term], **changes)))(d)

    return change


def scaled(number: int, **changes: Any) -> Callable[[Description], Description]:
    def change(d: Description) -> Description:
        terms = d.equations[number].scaled
        return equation(number, scaled=_put(terms, 0, replace(terms[0], **changes)))(d)

    return change


def view(number: int, term: int, **changes: int) -> Callable[[Description], Description]:
    def change(d: Description) -> Description:
        views = d.equations[number].products[term].views
        return product(number, term, views=_put(views, -1, replace(views[-1], **changes)))(d)

    return change


def piece(number: int, **changes: int) -> Callable[[Description], Description]:
    def change(d: Description) -> Description:
        pieces = d.tensors[number].pieces
        return tensor(number, pieces=_put(pieces, 0, replace(pieces[0], **changes)))(d)

    return change


def weights(number: int, **changes: int) -> Callable[[Description], Description]:
    def change(d: Description) -> Description:
        pieces = d.equations[number].products[0].pieces
        return product(number, 0, pieces=_put(pieces, 0, replace(pieces[0], **changes)))(d)

    return change


def masks(**cells: Callable[[tuple[int, ...]], tuple[int, ...]]) -> Callable[..., Description]:
    return lambda d: replace(d, **{name: f(getattr(d, name)) for name, f in cells.items()})


def lower_halves_short(d: Description) -> Description:
    low = [c for c in d.helper_mask_cells if c % d.cells < d.cells // 2]
    return masks(helper_mask_cells=lambda cells: tuple(c for c in cells if c != low[0]))(d)


def upper_halves_short(d: Description) -> Description:
    high = [c for c in d.helper_mask_cells if c % d.cells >= d.cells // 2]
    return masks(helper_mask_cells=lambda cells: tuple(c for c in cells if c != high[0]))(d)


def swapped(d: Description) -> Description:
    return replace(d, equations=(d.equations[1], d.equations[0], *d.equations[2:]))


Change = Callable[[Description], Description]
REFUSED: list[tuple[str, Callable[[], Description], Change, str]] = [
    ("k too small", dense, header(k=8), "k lies between"),
    ("k too large", dense, header(k=25), "k lies between"),
    ("three-byte activations", dense, header(activation_bytes=3), "bytes of an activation"),
    ("no activations", dense, header(activation_bytes=0), "bytes of an activation"),
    ("remainder limbs", dense, header(remainder_limbs=3), "remainder limbs"),
    ("three-byte input", dense, header(input_bytes=3), "bytes of an input"),
    ("window positions", dense, header(window_positions=3), "window positions"),
    ("difference limbs", dense, header(difference_limbs=4), "difference limbs"),
    ("output kind", dense, header(output_kind=2), "output kind"),
    ("no weight tiles", dense, header(weight_tiles=0), "number of weight tiles"),
    ("no row tiles", dense, header(row_tiles=0), "number of row tiles"),
    ("no helper tiles", dense, header(helper_tiles=0), "number of helper tiles"),
    ("no batch", dense, header(batch=0), "batch"),
    ("huge batch", dense, header(batch=1 << 31), "batch"),
    ("more rows than a tile", dense, header(row_bits=10), "fit one tile"),
    ("table larger than needed", wide, header(table_bits=8), "bits of the table"),
    ("a function in 16 bits", wide, lambda d: replace(
        header(table_bits=10, k=10)(d), functions=(bytes(range(256)),)), "one-byte activations"),
    ("function 0 is another", convolutions, lambda d: replace(
        d, functions=(FALLING, FALLING)), "identity"),
    ("a function that is not there", convolutions, tensor(2, function=2), "names function 2"),
    ("a function where there are none", dense, tensor(1, function=1), "names function 1"),
    ("a function of the input", convolutions, tensor(0, function=1), "input tensor has no"),
    ("no tensors", dense, lambda d: replace(d, tensors=()), "input tensor"),
    ("a flat input", dense, tensor(0, flat=True), "not flat"),
    ("no channels", dense, tensor(1, channels=0), "Each size of tensor 1"),
    ("no height", dense, tensor(1, height=0), "Each size of tensor 1"),
    ("no width", dense, tensor(1, width=0), "Each size of tensor 1"),
    ("a width past a tile", dense, tensor(1, width=513), "Each size of tensor 1"),
    ("zero point", dense, tensor(2, zero_point=256), "zero point of tensor 2"),
    ("zero point of the input", dense, tensor(0, zero_point=256), "zero point of tensor 0"),
    ("no equations", dense, lambda d: replace(d, equations=()), "has an equation"),
    ("the input as target", dense, equation(0, target=0), "target of equation 0"),
    ("a target that is not there", dense, equation(0, target=9), "target of equation 0"),
    ("a source that is not there", dense, product(1, 0, source=9), "source of equation 1"),
    ("the output as source", dense, product(1, 0, source=OUTPUT), "source of equation 1"),
    ("reads what comes later", dense, swapped, "before every channel"),
    ("reads itself", dense, product(1, 0, source=2, channels=6), "before every channel"),
    ("a channel is free", convolutions, equation(2, channels=1), "before every channel"),
    ("a channel is free at the end", convolutions, equation(4, channels=2), "exactly one"),
    ("a channel is bound twice", convolutions, equation(2, first_channel=2), "before every"),
    ("a tensor nobody produces", dense, lambda d: replace(
        d, tensors=(*d.tensors, d.tensors[1])), "exactly one"),
    ("no channels of an equation", dense, equation(0, channels=0), "Each size of equation 0"),
    ("no grid", dense, equation(0, height=0), "Each size of equation 0"),
    ("a grid past a tile", dense, equation(0, width=513), "Each size of equation 0"),
    ("no groups", dense, equation(0, groups=0), "groups of equation 0"),
    ("groups do not divide the target", dense, equation(0, groups=5), "divide its 24"),
    ("groups do not divide the source", convolutions, product(0, 0, channels=1),
        "divide the 1 channels"),
    ("past the target", dense, equation(0, first_channel=1), "end past 24"),
    ("past the source", dense, product(0, 0, first_channel=1), "end past 40"),
    ("past the scaled source", dense, scaled(2, first_channel=4), "end past 6"),
    ("outputs from a channel", dense, equation(2, first_channel=1), "from channel 0"),
    ("raw outputs with multipliers", dense, equation(2, per_channel=True), "no multipliers"),
    ("raw outputs with a pool", wide, pool(3, kh=2, eh=2), "cannot pool"),
    ("multipliers per channel with groups", convolutions, equation(0, per_channel=True),
        "one group or one channel"),
    ("a pool without windows", wide, pool(0, kh=0), "at least 1"),
    ("a pool without stride", wide, pool(0, sw=0), "at least 1"),
    ("a pool without positions", wide, pool(0, eh=0), "at least 1"),
    ("pool bytes without a pool", wide, pool(1, sh=2), "1 1 1 1 0 0 1 1"),
    ("a grid other than the target", wide, equation(1, height=2), "height and width of its"),
    ("a window of other positions", wide, pool(0, eh=4), "window positions of equation 0"),
    ("a shrunk window", wide, pool(0, kw=2), "never shrunk"),
    ("padding as large as the window", wide, pool(0, ph=2), "smaller than its window"),
    ("padding to the left as large", wide, pool(0, pw=1), "smaller than its window"),
    ("a window past the end", wide, pool(0, sh=3), "begins inside"),
    ("a column past the end", wide, pool(0, sw=2), "begins inside"),
    ("a product of another type", dense, product(0, 0, kind=2), "type of"),
    ("another order", dense, product(0, 0, order=2), "order of"),
    ("no source channels", dense, product(0, 0, channels=0), "at least 1"),
    ("no kernel", wide, product(0, 0, kh=0), "Kernel, strides"),
    ("no stride", wide, product(0, 0, sw=0), "Kernel, strides"),
    ("no dilation", wide, product(0, 0, dh=0), "Kernel, strides"),
    ("a gemm with a kernel", dense, product(0, 0, kh=2), "a gemm, are"),
    ("a gemm with padding", dense, product(0, 0, pw=1), "a gemm, are"),
    ("a gemm with a grid", wide, product(1, 0, kind=ProductKind.GEMM), "one accumulator"),
    ("a gemm with groups", dense, equation(0, groups=2), "one accumulator"),
    ("a gemm with a pool", convolutions, equation(
        4, pool=Pool(kh=1, kw=1, sh=1, sw=1, ph=0, pw=0, eh=1, ew=4)), "one accumulator"),
    ("a gemm viewing a flat source", convolutions, lambda d: product(
        4, 0, views=d.equations[4].products[1].views)(d), "no view on a flat"),
    ("a view without window", convolutions, view(3, 0, kh=0), "at least 1"),
    ("a view without stride", convolutions, view(3, 0, sw=0), "at least 1"),
    ("a view of nothing", convolutions, view(3, 0, height=0), "size of a view"),
    ("a view past a tile", convolutions, view(3, 0, width=1025), "size of a view"),
    ("a scaled term of another size", convolutions, lambda d: scaled(
        2, views=d.equations[3].products[0].views)(d), "A scaled term has the height"),
    ("a scaled term of another source", wide, scaled(1, source=0), "end past 2"),
    ("a constant of three bytes", dense, scaled(2, constant=1 << 16), "constant of a scaled"),
    ("raw outputs of no equation", dense, lambda d: replace(
        d, equations=d.equations[:2]), "last equation alone"),
    ("raw outputs twice", dense, equation(0, target=OUTPUT), "before every channel"),
    ("raw outputs of kind 1", dense, header(output_kind=1), "no equation gives the output"),
    ("requantised outputs of kind 0", convolutions, header(output_kind=0), "last equation"),
    ("a piece begins elsewhere", dense, piece(1, first=1), "in order without overlap"),
    ("a piece too small", dense, piece(1, log=3), "in order without overlap"),
    ("no pieces", dense, tensor(1, pieces=()), "cover 0 of its"),
    ("a piece without entries", dense, lambda d: tensor(1, pieces=(
        *d.tensors[1].pieces, Piece(first=24, log=0, offset=63)))(d), "in order without"),
    ("a piece of everything", dense, piece(1, log=200), "inside one tile"),
    ("a piece larger than a tile", dense, product(1, 0, pieces=(
        Piece(first=0, log=5, offset=0),)), "do not fit one tile"),
    ("a piece not aligned", dense, piece(1, offset=1), "no multiple"),
    ("overlapping tensors", dense, piece(2, offset=0), "overlap"),
    ("a tensor past the rows", dense, piece(1, offset=64), "past its 64 cells"),
    ("the input past the rows", dense, piece(0, offset=64), "past its 64 cells"),
    ("overlapping weights", dense, weights(1, offset=0), "overlap"),
    ("weights past the tiles", dense, header(weight_tiles=2), "past its 1024 cells"),
    ("a bias past the tiles", dense, equation(2, bias=(Piece(first=0, log=2, offset=1 << 20),)),
        "past its"),
    ("a bias too short", dense, equation(2, bias=(Piece(first=0, log=1, offset=1530),)),
        "cover 2 of its 3"),
    ("masks not aligned", dense, offsets(masks=1), "no multiple"),
    ("masks over Libra", dense, lambda d: offsets(masks=d.offsets.libra)(d), "overlap"),
    ("Libra not aligned", dense, offsets(libra=66), "no multiple"),
    ("table helpers over masks", dense, offsets(table_helpers=0), "overlap"),
    ("helpers not aligned", dense, lambda d: offsets(helpers=d.offsets.helpers + 1)(d),
        "no multiple"),
    ("helpers past the tiles", dense, offsets(helpers=1 << 20), "past its"),
    ("multiplicities over columns", dense, offsets(multiplicities=0), "behind the"),
    ("multiplicities past the tiles", dense, offsets(multiplicities=1 << 20), "past its"),
    ("too few masks in lower halves", dense, lower_halves_short, "got 17 and 18"),
    ("too few masks in upper halves", dense, upper_halves_short, "got 18 and 17"),
    ("too few masks of rows", dense, masks(row_mask_cells=lambda c: c[1:]), "got 26"),
    ("masks of rows in another tile", dense, header(row_tiles=4), "got 0"),
    ("a mask twice", dense, masks(row_mask_cells=lambda c: (c[0], *c)), "ascending"),
    ("masks descend", dense, masks(helper_mask_cells=lambda c: c[::-1]), "ascending"),
    ("a mask inside a column", dense, masks(row_mask_cells=lambda c: (0, *c)), "overlap"),
    ("a mask inside a block", dense, masks(helper_mask_cells=lambda c: (0, *c)), "overlap"),
    ("a mask past the tiles", dense, masks(row_mask_cells=lambda c: (*c, 1 << 30)), "past its"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "change", "message"),
    [pytest.param(*case, id=name) for name, *case in REFUSED],
)
def test_refused(make: Callable[[], Description], change: Change, message: str) -> None:
    data = change(make()).encode()
    with pytest.raises(DescriptionInvalid, match=message):
        decode(data)
    if core.available():
        with pytest.raises(ValueError):
            core.load().check_description(data)


def test_raw_outputs_past_a_tile_are_refused() -> None:
    grown = equation(3, height=512, width=512, products=(), scaled=(), bias=())(wide())
    with pytest.raises(DescriptionInvalid, match="at most 512 outputs"):
        decode(grown.encode())


def test_a_scaled_term_without_views_has_the_grid_of_its_source() -> None:
    d = dense()
    with pytest.raises(DescriptionInvalid, match="A scaled term has the height"):
        decode(
            equation(1, scaled=(Scaled(source=0, first_channel=0, constant=1),))(
                tensor(0, height=2)(d)
            ).encode()
        )


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (0, 0x5B, "begins with"),
        (7, 0x32, "begins with"),
        (11, 0x15, "header ends 1 bytes"),
        (11, 0x17, "header has 1 bytes too many"),
        (12, 2, "version is 1"),
        (21, 2, "lookups in a helper is 3"),
        (23, 1, "blinds of a tile of h is 16"),
        (37, 0x15, "offsets has 1 bytes"),
        (65, 1, "functions ends 4 bytes"),
        (78, 2, "flag is 0 or 1"),
    ],
)
def test_malformed_bytes_are_refused(at: int, value: int, message: str) -> None:
    data = bytearray(example_bytes())
    data[at] = value
    with pytest.raises(DescriptionInvalid, match=message):
        decode(bytes(data))


def test_every_length_but_its_own_is_refused() -> None:
    data = example_bytes()
    for size in range(len(data)):
        with pytest.raises(DescriptionInvalid):
            decode(data[:size])
    with pytest.raises(DescriptionInvalid, match="1 bytes too many"):
        decode(data + b"\0")


@given(st.sampled_from(sorted(CIRCUITS)), st.integers(0, 1 << 16), st.integers(1, 255))
@example("dense", 8, 1)
def test_a_changed_byte_is_refused_or_another_circuit(name: str, at: int, flip: int) -> None:
    data = bytearray(CIRCUITS[name]().encode())
    data[at % len(data)] ^= flip
    changed = bytes(data)
    try:
        d = decode(changed)
    except DescriptionInvalid:
        d = None
    else:
        assert d != CIRCUITS[name]()
        assert d.encode() == changed
    if core.available():
        assert _core_reads(changed) == (d is not None)


def _core_reads(data: bytes) -> bool:
    try:
        core.load().check_description(data)
    except ValueError:
        return False
    return True
