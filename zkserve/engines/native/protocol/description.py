"""The description ``D`` of a native circuit: everything that decides what a verifier does.

It holds no weights; function tables and zero points may follow ranges of sums. Layout and meaning:
``docs/native-protocol.md``, sections 4 and 5, whose symbols are named beside the fields.
:func:`decode` is the only way from bytes to a description that may be trusted: it refuses whatever
the document refuses. A description built in Python is trusted only after
:func:`zkserve.engines.native.protocol.rules.check`.

Whoever interprets a description MUST hash the very bytes interpreted: ``digest(data)`` of the bytes
given to :func:`decode`, which are the bytes that :meth:`Description.encode` gives back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any, Final

from eth_utils.crypto import keccak

from zkserve.engines.native.protocol.rules import check
from zkserve.engines.native.protocol.shapes import (
    NO_POOL,
    OUTPUT,
    Columns,
    Equation,
    Header,
    InputPacking,
    Instance,
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
    equation_multipliers,
    viewed_size,
)
from zkserve.engines.native.protocol.wire import (
    FLAG,
    U8,
    U16,
    U32,
    Blob,
    DescriptionInvalid,
    Fixed,
    Form,
    Many,
    Reader,
    Record,
    with_length,
)

__all__ = [
    "HELPER_BLINDS",
    "HELPER_GROUP",
    "NO_POOL",
    "OUTPUT",
    "Columns",
    "Description",
    "Equation",
    "Header",
    "InputPacking",
    "Instance",
    "Offsets",
    "OutputKind",
    "Piece",
    "Pool",
    "Product",
    "ProductKind",
    "Scaled",
    "Tensor",
    "View",
    "clog",
    "decode",
    "digest",
    "equation_multipliers",
    "viewed_size",
]

MAGIC: Final = b"ZKSNATV1"
VERSION: Final = 1
HELPER_GROUP: Final = 3
"""Lookups that share one helper column."""
HELPER_BLINDS: Final = 16
"""Blinds of a tile of family h; tiles of the other families have one."""


def digest(data: bytes) -> bytes:
    """Return ``d``, the Keccak-256 of the bytes of a description."""
    return keccak(data)


@dataclass(frozen=True, kw_only=True)
class Description:
    """A native circuit.

    Properties are sizes that follow from the fields; they need no valid offsets, so that a compiler
    can ask for them before it places anything.
    """

    header: Header
    offsets: Offsets
    functions: tuple[bytes, ...]
    tensors: tuple[Tensor, ...]
    equations: tuple[Equation, ...]
    helper_mask_cells: tuple[int, ...]
    row_mask_cells: tuple[int, ...]
    certificate: bytes = field(default=bytes(32))

    def encode(self) -> bytes:
        """Return the bytes ``D``; says nothing of whether a reader accepts them.

        Raises:
            OverflowError: a number does not fit its field.

        """
        sections = (form.write(getattr(self, name, self)) for name, form in _SECTIONS.items())
        return MAGIC + b"".join(with_length(section) for section in sections)

    @cached_property
    def cells(self) -> int:
        """Cells of one tile, ``N``."""
        return 1 << self.header.k

    @cached_property
    def shift(self) -> int:
        """The requantisation shift ``S`` in bits."""
        return 8 * self.header.remainder_limbs

    @cached_property
    def value_bits(self) -> int:
        """Bits ``U`` of the limbed value."""
        return 8 * (self.header.remainder_limbs + self.header.activation_bytes + 1)

    @cached_property
    def top(self) -> int:
        """The largest activation."""
        return (1 << 8 * self.header.activation_bytes) - 1

    @cached_property
    def columns(self) -> Columns:
        """The columns of the row space."""
        h = self.header
        numbers = iter(range(1 << 20))

        def take(count: int) -> tuple[int, ...]:
            return tuple(next(numbers) for _ in range(count))

        return Columns(
            remainder=take(h.remainder_limbs),
            low=take(h.activation_bytes),
            high=next(numbers),
            selected=next(numbers),
            saturated=next(numbers),
            z=next(numbers) if self.functions else None,
            y=next(numbers),
            input=take(h.input_bytes),
            differences=tuple(take(h.difference_limbs) for _ in range(h.window_positions)),
            count=next(numbers),
        )

    @cached_property
    def lookups(self) -> int:
        """Lookups of one row, ``NF``."""
        return len(self.columns.bytes_looked_up) + 1 + bool(self.functions)

    @cached_property
    def helper_columns(self) -> int:
        """Helper columns ``G3``."""
        return -(-self.lookups // HELPER_GROUP)

    @cached_property
    def instances(self) -> tuple[Instance, ...]:
        """Every product term in order of the description."""
        return tuple(
            self.instance(index, product)
            for index, equation in enumerate(self.equations)
            for product in equation.products
        )

    def instance(self, index: int, product: Product) -> Instance:
        """Return the geometry of a product term of equation ``index``."""
        equation = self.equations[index]
        source = self.tensors[product.source]
        group_channels = product.channels // equation.groups
        if product.kind == ProductKind.CONV:
            sizes: tuple[int, ...] = (group_channels, product.kh, product.kw)
        elif source.flat:
            sizes = (group_channels, source.height * source.width)
        else:
            sizes = (group_channels, *viewed_size(source, product.views))
        bits = [clog(size) for size in sizes]
        group_bits = clog(equation.groups)
        if group_bits + sum(bits) == 0:
            bits[-1] = 1  # kappa >= 1: what is sent of a term without variables has no mask
        output_bits = clog(equation.group_channels)
        if equation.groups > 1:
            lead, rest = equation.groups, output_bits + sum(bits)
        elif product.order == 0:
            lead, rest = equation.channels, sum(bits)
        else:
            lead, rest = group_channels, output_bits + sum(bits[1:])
        return Instance(
            equation=index,
            product=product,
            group_bits=group_bits,
            sizes=sizes,
            bits=tuple(bits),
            lead=lead,
            rest_bits=rest,
        )

    @cached_property
    def rounds(self) -> int:
        """Rounds ``n`` of the main sumcheck."""
        sizes = [self.header.row_bits, self.header.table_bits]
        return max(sizes + [instance.kappa for instance in self.instances])

    @cached_property
    def degrees(self) -> tuple[int, ...]:
        """The degree of each round of the main sumcheck."""
        return (5,) * (self.rounds - 1) + (9,)

    @cached_property
    def libra_coefficients(self) -> int:
        """Coefficients of the Libra polynomial; they take ``2**clog`` cells."""
        return 1 + sum(self.degrees)

    @cached_property
    def evaluations(self) -> int:
        """Private factors of the main sumcheck, ``nE``; their masks take ``2**clog`` cells."""
        return 2 * len(self.instances) + self.columns.count + self.helper_columns + 2

    @cached_property
    def multipliers(self) -> int:
        """Multipliers of a version, ``|M|``."""
        return sum(
            equation_multipliers(equation) + sum(scaled.constant == 0 for scaled in equation.scaled)
            for equation in self.equations
        )

    def split_multipliers(
        self, multipliers: tuple[int, ...]
    ) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Return for each equation its own multipliers, and the factor of each scaled term.

        Raises:
            ValueError: there are too few or too many.

        """
        if len(multipliers) != self.multipliers:
            raise ValueError(f"expected {self.multipliers} multipliers, got {len(multipliers)}")
        values = iter(multipliers)
        return [
            (
                tuple(next(values) for _ in range(equation_multipliers(equation))),
                tuple(scaled.constant or next(values) for scaled in equation.scaled),
            )
            for equation in self.equations
        ]

    @cached_property
    def output_shape(self) -> tuple[int, int, int, int]:
        """The shape (batch, channel, height, width) of the outputs, in row-major order."""
        last = self.equations[-1]
        if last.raw:
            return (self.header.batch, last.channels, last.height, last.width)
        tensor = self.tensors[last.target]
        return (self.header.batch, tensor.channels, tensor.height, tensor.width)

    @cached_property
    def outputs(self) -> int:
        """How many integers a prediction gives."""
        return prod(self.output_shape)

    @cached_property
    def input_packing(self) -> InputPacking:
        """How a public input is packed."""
        tensor, size = self.tensors[0], self.header.input_bytes
        per_word = min(16 // size, 1 << clog(tensor.width))
        return InputPacking(
            value_bytes=size,
            per_word=per_word,
            words_per_row=-(-tensor.width // per_word),
            rows=self.header.batch * tensor.channels * tensor.height,
        )

    @cached_property
    def hidden_input_bits(self) -> int:
        """log2 of the cells of the tile that a hidden input is committed to; at most ``k``."""
        tensor = self.tensors[0]
        sizes = (self.header.input_bytes, tensor.channels)
        return sum(clog(size) for size in sizes) + tensor.rest_bits(self.header.batch)

    def target_size(self, equation: Equation) -> tuple[int, int]:
        """Return ``Hs`` and ``Ws``, the sizes over which an equation is weighted."""
        if not equation.pooled:
            return equation.height, equation.width
        tensor = self.tensors[equation.target]
        return tensor.height * equation.pool.eh, tensor.width * equation.pool.ew

    def equation_challenges(self, equation: Equation) -> tuple[int, ...]:
        """Return the bits of each part of ``r_l``: group, channel in it, batch, y and x."""
        sizes = (equation.groups, equation.group_channels, self.header.batch)
        return tuple(clog(size) for size in (*sizes, *self.target_size(equation)))

    @cached_property
    def output_challenges(self) -> tuple[int, ...]:
        """The bits of each part of ``r_out``; none for raw outputs."""
        if self.header.output_kind == OutputKind.RAW:
            return ()
        tensor = self.tensors[self.equations[-1].target]
        sizes = (tensor.channels, self.header.batch, *tensor.spatial)
        return tuple(clog(size) for size in sizes)

    def proof_bytes(self, *, hidden: bool) -> int:
        """Return the exact length of a proof, section 12."""
        h = self.header
        points = h.weight_tiles + hidden + h.row_tiles + h.helper_tiles
        scalars = 5 * self.rounds + 4 + self.evaluations + 2 * h.k
        return 32 + 64 * points + 4 * self.multipliers + 32 * scalars + 640


def decode(data: bytes) -> Description:
    """Read a description that somebody else wrote.

    Raises:
        DescriptionInvalid: the bytes are not a description, or describe a circuit or a layout that
            sections 4 and 5 of the protocol forbid.

    """
    reader = Reader(data, "The description")
    if reader.take(len(MAGIC)) != MAGIC:
        raise DescriptionInvalid(f"A description begins with {MAGIC!r}; got {data[:8]!r}.")
    fields: dict[str, Any] = {}
    for name, section in _SECTIONS.items():
        value = reader.part(section, f"The section of the {name}")
        fields |= value if isinstance(value, dict) else {name: value}
    reader.end()
    description = Description(**fields)
    check(description)
    return description


_PIECES = Many(Record(Piece, first=U32, log=U8, offset=U32), "A piece")
_WINDOW = {"kh": U8, "kw": U8, "sh": U8, "sw": U8, "ph": U8, "pw": U8}
_VIEWS = Many(Record(View, **_WINDOW, height=U32, width=U32), "A view")
_HEADER = Record(
    Header,
    version=Fixed(1, VERSION, "version"),
    **dict.fromkeys(("k", "row_bits", "table_bits", "activation_bytes", "remainder_limbs"), U8),
    **dict.fromkeys(("input_bytes", "window_positions", "difference_limbs"), U8),
    helper_group=Fixed(1, HELPER_GROUP, "number of lookups in a helper"),
    output_kind=U8,
    helper_blinds=Fixed(1, HELPER_BLINDS, "number of blinds of a tile of h"),
    **dict.fromkeys(("weight_tiles", "row_tiles", "helper_tiles"), U16),
    batch=U32,
)
_OFFSETS = Record(Offsets, masks=U32, libra=U32, table_helpers=U32, helpers=U32, multiplicities=U32)
_TENSOR = Record(
    Tensor,
    flat=FLAG,
    **dict.fromkeys(("channels", "height", "width", "zero_point"), U32),
    function=U16,
    pieces=_PIECES,
)
_PRODUCT = Record(
    Product,
    kind=U8,
    source=U16,
    first_channel=U32,
    channels=U32,
    order=U8,
    **dict.fromkeys(("kh", "kw", "sh", "sw", "dh", "dw", "ph", "pw"), U8),
    views=_VIEWS,
    pieces=_PIECES,
)
_SCALED = Record(Scaled, source=U16, first_channel=U32, constant=U32, views=_VIEWS)
_EQUATION = Record(
    Equation,
    target=U16,
    **dict.fromkeys(("first_channel", "channels", "height", "width"), U32),
    per_channel=FLAG,
    pool=Record(Pool, **_WINDOW, eh=U8, ew=U8),
    groups=U16,
    products=Many(_PRODUCT, "A product term"),
    scaled=Many(_SCALED, "A scaled term"),
    bias=_PIECES,
)
_CELLS = Many(U32, "A mask cell")
_GATE = Record(dict, helper_mask_cells=_CELLS, row_mask_cells=_CELLS, certificate=Blob(32))
_SECTIONS: Final[dict[str, Form]] = {
    "header": _HEADER,
    "offsets": _OFFSETS,
    "functions": Many(Blob(256), "A function"),
    "tensors": Many(_TENSOR, "A tensor"),
    "equations": Many(_EQUATION, "An equation"),
    "gate": _GATE,
}
