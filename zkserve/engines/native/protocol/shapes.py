"""The parts of a description: tensors, terms, equations and the numbers of a circuit.

They are the records of section 5 of ``docs/native-protocol.md``, whose symbols are named beside the
fields, and the sizes that follow from a few of them. Nothing here is checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from math import prod
from typing import Final

OUTPUT: Final = 0xFFFF
"""The target of an equation that gives the public output."""


def clog(size: int) -> int:
    """Return the number of bits of ``size - 1``: the variables that index ``size`` entries."""
    return (size - 1).bit_length()


class OutputKind(IntEnum):
    """What the public output is."""

    RAW = 0
    """The accumulators of the last equation."""
    REQUANTISED = 1
    """The cells of the last equation's target, less its zero point."""


class ProductKind(IntEnum):
    """How a product term reads its source."""

    CONV = 0
    GEMM = 1


@dataclass(frozen=True, kw_only=True)
class Header:
    """The numbers of a circuit.

    Tiles have ``2**k`` cells, the row space has ``2**row_bits`` rows and the lookup table
    ``2**table_bits`` entries.
    """

    k: int
    row_bits: int  # nr
    table_bits: int  # kt
    activation_bytes: int  # A
    remainder_limbs: int  # RL
    input_bytes: int  # AX
    window_positions: int  # PW
    difference_limbs: int  # NL
    output_kind: int
    weight_tiles: int  # nW
    row_tiles: int  # nw
    helper_tiles: int  # nh
    batch: int


@dataclass(frozen=True, kw_only=True)
class Offsets:
    """Cell addresses of the blocks that every circuit has; rows are family w, the others h."""

    masks: int  # roff
    libra: int  # goff
    table_helpers: int  # hT
    helpers: int  # hoff
    multiplicities: int  # moff, family w


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Entries ``first … first + 2**log - 1`` of a first dimension, stored at ``offset``."""

    first: int
    log: int
    offset: int


@dataclass(frozen=True, kw_only=True)
class View:
    """Sums over windows of a tensor; ``height`` and ``width`` are those of the result."""

    kh: int
    kw: int
    sh: int
    sw: int
    ph: int
    pw: int
    height: int
    width: int


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """A stored tensor of one circuit; tensor 0 is the input.

    Its dimensions are (channel, batch, height, width), or (channel, batch, height·width) if flat.
    """

    flat: bool
    channels: int
    height: int
    width: int
    zero_point: int
    function: int
    pieces: tuple[Piece, ...]

    def rest_bits(self, batch: int) -> int:
        """Return the bits of a cell's index within one channel."""
        return clog(batch) + sum(clog(size) for size in self.spatial)

    @property
    def spatial(self) -> tuple[int, ...]:
        """The sizes of the stored dimensions after channel and batch."""
        size = (self.height, self.width)
        return (prod(size),) if self.flat else size


@dataclass(frozen=True, kw_only=True)
class Product:
    """Weights times a source: a convolution, or a contraction over everything."""

    kind: int
    source: int
    first_channel: int  # s0
    channels: int  # sn
    order: int
    kh: int = 1
    kw: int = 1
    sh: int = 1
    sw: int = 1
    dh: int = 1
    dw: int = 1
    ph: int = 0
    pw: int = 0
    views: tuple[View, ...] = ()
    pieces: tuple[Piece, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Scaled:
    """An integer times a source; ``constant`` 0 takes the integer from the multipliers."""

    source: int
    first_channel: int  # s0
    constant: int
    views: tuple[View, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Pool:
    """A window of max pooling, stretched to ``eh × ew``; the default does not pool."""

    kh: int = 1
    kw: int = 1
    sh: int = 1
    sw: int = 1
    ph: int = 0
    pw: int = 0
    eh: int = 1
    ew: int = 1

    @property
    def positions(self) -> int:
        """Positions of the stretched window; 1 where nothing is pooled."""
        return self.eh * self.ew

    def read(self, y: int, x: int, height: int, width: int) -> list[tuple[int, int]]:
        """Return the accumulators that output (y, x) reads, in the order of window positions."""
        return [
            (
                min(max(self.sh * y + min(a, self.kh - 1) - self.ph, 0), height - 1),
                min(max(self.sw * x + min(b, self.kw - 1) - self.pw, 0), width - 1),
            )
            for a in range(self.eh)
            for b in range(self.ew)
        ]


NO_POOL: Final = Pool()


@dataclass(frozen=True, kw_only=True)
class Equation:
    """One accumulator per (batch, channel, y, x), and where its value goes."""

    target: int
    first_channel: int  # c0
    channels: int  # cn
    height: int  # oh
    width: int  # ow
    per_channel: bool
    pool: Pool = NO_POOL
    groups: int = 1
    products: tuple[Product, ...] = ()
    scaled: tuple[Scaled, ...] = ()
    bias: tuple[Piece, ...] = ()

    @property
    def raw(self) -> bool:
        """Whether the accumulators are the public output."""
        return self.target == OUTPUT

    @property
    def pooled(self) -> bool:
        """Whether the target holds maxima."""
        return self.pool.positions > 1

    @property
    def group_channels(self) -> int:
        """Output channels of one group, ``cog``."""
        return self.channels // self.groups


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The numbers of the columns of the row space, in the order of section 4."""

    remainder: tuple[int, ...]
    low: tuple[int, ...]
    high: int
    selected: int
    saturated: int
    z: int | None
    y: int
    input: tuple[int, ...]
    differences: tuple[tuple[int, ...], ...]
    count: int  # NCOL

    @property
    def limbs(self) -> tuple[int, ...]:
        """The columns of ``u``, least significant byte first."""
        return (*self.remainder, *self.low, self.high)

    @property
    def bytes_looked_up(self) -> tuple[int, ...]:
        """The columns with a lookup of kind 0, in the order of the lookups."""
        return (*self.remainder, *self.low, *self.input, *sum(self.differences, ()))


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One product term as a part of the main sumcheck.

    ``sizes`` and ``bits`` are those of the contraction dimensions of one group. The block of
    weights has a first dimension of ``lead`` entries, each of ``2**rest_bits`` cells.
    """

    equation: int
    product: Product
    group_bits: int
    sizes: tuple[int, ...]
    bits: tuple[int, ...]
    lead: int
    rest_bits: int

    @property
    def kappa(self) -> int:
        """Number of variables, at least one."""
        return self.group_bits + sum(self.bits)


@dataclass(frozen=True, kw_only=True)
class InputPacking:
    """How public inputs are packed, section 6: big-endian words of ``per_word`` values each."""

    value_bytes: int  # AX
    per_word: int  # vpw
    words_per_row: int  # per
    rows: int

    @property
    def word_bytes(self) -> int:
        """Bytes of one packed word, at most 16."""
        return self.per_word * self.value_bytes

    @property
    def size_bytes(self) -> int:
        """Bytes of the whole packed input."""
        return self.rows * self.words_per_row * self.word_bytes


def equation_multipliers(equation: Equation) -> int:
    """Return how many multipliers requantise an equation: none for raw outputs."""
    if equation.raw:
        return 0
    return equation.channels if equation.per_channel else 1


def viewed_size(source: Tensor, views: tuple[View, ...]) -> tuple[int, int]:
    """Return the height and width of a source seen through views."""
    if views:
        return views[-1].height, views[-1].width
    return source.height, source.width
