"""Quantised inputs and openings of the native engine: integers in, canonical bytes out.

An opening is canonical JSON: ``{"blind":"0x…","input":[10,20,30,40]}``, the cells of tensor 0 in
the order (batch, channel, height, width), and the blind of their commitment as a word; ``null``
where the input is public. A packed public input is laid out as section 6 of the protocol says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zkserve.encoding import FIELD_MODULUS, bytes32, canonical_json, parse_json
from zkserve.engines.native.protocol.description import Description, clog
from zkserve.errors import InvalidInput, ProofInvalid

Cells = NDArray[np.uint16]
"""Quantised inputs, shape ``(batch, channels, height, width)``."""

BLIND_TAG = b"zkserve/native/blind/v1"
_MAX_OPENING_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class Opening:
    """The quantised input behind a claim's input and the blind of its commitment, if it has one."""

    cells: tuple[int, ...]
    blind: int | None

    @property
    def blind_hex(self) -> str | None:
        """The blind as 64 hex digits."""
        return None if self.blind is None else self.blind.to_bytes(32, "big").hex()

    def encode(self) -> bytes:
        """Return the canonical bytes."""
        blind = None if self.blind_hex is None else "0x" + self.blind_hex
        return canonical_json({"blind": blind, "input": list(self.cells)})

    @classmethod
    def decode(cls, data: bytes, description: Description, *, hidden: bool) -> Opening:
        """Read canonical bytes of an opening of this circuit.

        Raises:
            ProofInvalid: they are not one.

        """
        size, bits = input_size(description), 8 * description.header.input_bytes
        wrong = ProofInvalid(
            f"The opening is not canonical JSON of {size} inputs of {bits} bits and "
            f"{'a blind' if hidden else 'no blind'}."
        )
        if len(data) > _MAX_OPENING_BYTES:
            raise wrong
        try:
            found = parse_json(data)
            blind = found["blind"]
            opening = cls(
                cells=tuple(found["input"]),
                blind=None if blind is None else int.from_bytes(bytes32(blind), "big"),
            )
            canonical = opening.encode()
        except (ValueError, TypeError, KeyError, AttributeError, InvalidInput) as exc:
            raise wrong from exc
        if (
            canonical != data
            or len(opening.cells) != size
            or any(type(cell) is not int or not 0 <= cell < 1 << bits for cell in opening.cells)
            or (opening.blind is not None) != hidden
            or (opening.blind is not None and opening.blind >= FIELD_MODULUS)
        ):
            raise wrong
        return opening


def blind_of(salt: bytes) -> int:
    """Derive the blind of a commitment from 32 bytes: 512 bits of a tagged SHA-512, reduced.

    Raises:
        InvalidInput: ``salt`` has another length.

    """
    if len(salt) != 32:
        raise InvalidInput(f"A salt has 32 bytes, got {len(salt)}.")
    return int.from_bytes(hashlib.sha512(BLIND_TAG + salt).digest(), "big") % FIELD_MODULUS


def input_shape(description: Description) -> tuple[int, int, int, int]:
    """Return the shape (batch, channels, height, width) of a circuit's input."""
    tensor = description.tensors[0]
    return description.header.batch, tensor.channels, tensor.height, tensor.width


def input_size(description: Description) -> int:
    """Return the number of values of a circuit's input, the batch included."""
    batch, channels, height, width = input_shape(description)
    return batch * channels * height * width


def pack(description: Description, cells: Sequence[int]) -> bytes:
    """Return the packed public input of cells in the order (batch, channel, height, width)."""
    packing = description.input_packing
    words = np.zeros((packing.rows, packing.words_per_row * packing.per_word), np.uint16)
    width = input_shape(description)[3]
    words[:, :width] = np.asarray(cells, np.uint16).reshape(packing.rows, width)
    return words.astype(_stored(packing.value_bytes)).tobytes()


def unpack(description: Description, packed: bytes) -> tuple[int, ...]:
    """Return the cells of a packed public input.

    Raises:
        InvalidInput: the length is wrong, or padding is not zero.

    """
    packing = description.input_packing
    if len(packed) != packing.size_bytes:
        raise InvalidInput(
            f"A packed input of this circuit has {packing.size_bytes} bytes, got {len(packed)}."
        )
    words = np.frombuffer(packed, _stored(packing.value_bytes)).reshape(packing.rows, -1)
    width = input_shape(description)[3]
    if words[:, width:].any():
        raise InvalidInput("The packed input has padding that is not zero.")
    return tuple(int(cell) for cell in words[:, :width].ravel())


def tile_cells(description: Description, cells: Sequence[int]) -> list[int]:
    """Return the cells of the tile that an input commitment is of, up to the last that is used.

    The dimensions are (byte, channel, batch, height, width), each padded to a power of two.
    """
    value_bytes = description.header.input_bytes
    values = np.asarray(cells, np.uint16).reshape(input_shape(description)).swapaxes(0, 1)
    limbs = np.stack([values >> 8 * byte & 0xFF for byte in range(value_bytes)])
    tile = np.zeros([1 << clog(size) for size in limbs.shape], np.uint16)
    tile[tuple(slice(size) for size in limbs.shape)] = limbs
    return [int(cell) for cell in tile.ravel()]


def tile_size(description: Description) -> int:
    """Return how many cells :func:`tile_cells` gives."""
    batch, channels, height, width = input_shape(description)
    sizes = (description.header.input_bytes, channels, batch, height, width)
    return 1 << sum(clog(size) for size in sizes)


def _stored(value_bytes: int) -> np.dtype[np.unsignedinteger]:
    return np.dtype(np.uint8) if value_bytes == 1 else np.dtype(">u2")
