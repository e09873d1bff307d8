"""Where the range proof of a registration keeps its bytes, section 16 of the protocol."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from zkserve.engines.native.protocol.description import HELPER_GROUP, Description, Piece, clog
from zkserve.errors import ProofInvalid

WEIGHT_BYTES: Final = range(1, 5)
"""How many bytes a weight may have."""
INTEGER_BYTES: Final = 8
"""Bytes of a bias, and of what is left below a bound."""
TABLE_BITS: Final = 8
SIGNS: Final = (1, -1)


@dataclass(frozen=True, kw_only=True)
class ByteCell:
    """One byte of integers that lie side by side from ``address`` on, in family w."""

    sign: int  # 1 or -1
    byte: int  # its number, the least significant being 0
    address: int


@dataclass(frozen=True, kw_only=True)
class Integers:
    """A block of ``2**piece.log`` integers, of which some bytes lie in the auxiliary tiles."""

    piece: Piece
    auxiliary: tuple[ByteCell, ...]


@dataclass(frozen=True, kw_only=True)
class RangeLayout:
    """The sizes and addresses that follow from a description and the bytes of a weight.

    ``tiles`` are counted from 0 in each family; a column is a tile of family w.
    """

    d: Description
    weight_bytes: int

    @cached_property
    def byte_columns(self) -> int:
        """Columns that hold bytes of the cells of family W."""
        return 2 * self.weight_bytes * self.d.header.weight_tiles

    @cached_property
    def _blocks(self) -> tuple[list[list[Integers]], list[list[Integers]], int]:
        """Biases and slacks of every equation, and how many auxiliary cells they take."""
        k = self.d.header.k
        kinds: tuple[list[list[Piece]], list[list[Piece]]] = ([], [])
        blocks: list[tuple[int, tuple[int, int, int, int, int]]] = []  # log, and what it is
        for number, equation in enumerate(self.d.equations):
            log = min(k, clog(equation.channels))
            starts = range(0, equation.channels, 1 << log)
            slack = [Piece(first=first, log=log, offset=0) for first in starts]
            for kind, pieces in enumerate((list(equation.bias), slack)):
                kinds[kind].append(pieces)
                first_byte = 0 if kind else self.weight_bytes
                blocks += [
                    (piece.log, (kind, number, index, sign, byte))
                    for index, piece in enumerate(pieces)
                    for sign in (SIGNS[:1] if kind else SIGNS)
                    for byte in range(first_byte, INTEGER_BYTES)
                ]
        blocks.sort(key=lambda block: -block[0])
        found: dict[tuple[int, int, int], list[ByteCell]] = {}
        base, at = self.byte_columns << k, 0
        for log, (kind, number, index, sign, byte) in blocks:
            cell = ByteCell(sign=sign, byte=byte, address=base + at)
            found.setdefault((kind, number, index), []).append(cell)
            at += 1 << log
        bias, slack_blocks = (
            [
                [
                    Integers(piece=piece, auxiliary=tuple(found.get((kind, number, index), ())))
                    for index, piece in enumerate(pieces)
                ]
                for number, pieces in enumerate(equations)
            ]
            for kind, equations in enumerate(kinds)
        )
        return bias, slack_blocks, at

    def biases(self, equation: int) -> list[Integers]:
        """Return the pieces of an equation's bias and where their higher bytes lie."""
        return self._blocks[0][equation]

    def slacks(self, equation: int) -> list[Integers]:
        """Return where what each channel leaves below its bound lies; it is never negative."""
        return self._blocks[1][equation]

    def low_bytes(self, address: int) -> Iterator[ByteCell]:
        """Yield the bytes of the cells of family W at an address."""
        step = self.d.header.weight_tiles << self.d.header.k
        for sign in SIGNS:
            for byte in range(self.weight_bytes):
                column = byte if sign == 1 else self.weight_bytes + byte
                yield ByteCell(sign=sign, byte=byte, address=column * step + address)

    @cached_property
    def columns(self) -> int:
        """Columns of bytes, ``NCOL``; the last tile of family w follows."""
        return self.byte_columns + -(-self._blocks[2] // self.d.cells)

    @cached_property
    def row_tiles(self) -> int:
        """Tiles of family w; the last one has the multiplicities at its start."""
        return self.columns + 1

    @cached_property
    def helper_columns(self) -> int:
        """Tiles of helpers, ``G3``."""
        return -(-self.columns // HELPER_GROUP)

    @cached_property
    def helper_tiles(self) -> int:
        """Tiles of family h: helpers, those of the table, and the scalars with masks."""
        return self.helper_columns + 2

    @cached_property
    def evaluations(self) -> int:
        """Private factors of the main sumcheck, ``nE``."""
        return self.columns + self.helper_columns + 2

    @cached_property
    def degrees(self) -> tuple[int, ...]:
        """The degree of each round of the main sumcheck."""
        return (5,) * (self.d.header.k - 1) + (9,)

    @cached_property
    def libra(self) -> int:
        """The cell of the last tile of h at which the Libra coefficients begin."""
        return 1 << max(clog(self.evaluations), clog(1 + sum(self.degrees)))

    def check(self) -> None:
        """Check that this proof has a layout; which cells hold masks is the prover's business.

        Raises:
            ProofInvalid: weights have too many bytes, or the tiles no room for scalars and masks.

        """
        if self.weight_bytes not in WEIGHT_BYTES:
            raise ProofInvalid(f"A weight has 1 to 4 bytes; got {self.weight_bytes}.")
        k, half = self.d.header.k, self.d.cells // 2
        lower = half - self.libra - (1 << clog(1 + sum(self.degrees)))
        if lower < 3 * k or half < 3 * k or self.d.cells - (1 << TABLE_BITS) < 4 * k:
            raise ProofInvalid("The tiles of this circuit are too small for a range proof.")

    @cached_property
    def proof_bytes(self) -> int:
        """The exact length of a range proof."""
        k = self.d.header.k
        points = self.d.header.weight_tiles + self.row_tiles + self.helper_tiles
        scalars = 5 * k + 4 + self.evaluations + 2 * k
        return 64 * points + 4 * self.d.multipliers + 32 * scalars + 640
