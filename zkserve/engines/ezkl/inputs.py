"""Quantised inputs, salts and openings of the ezkl engine: integers in, canonical bytes out.

An opening is canonical JSON: ``{"input":[76,-77],"salt":[…],"scale":8}``, where an integer stands
for ``integer / 2**scale``. A packed public input is 8 bytes an element, big-endian two's
complement: ``(76, -77)`` is ``000000000000004cffffffffffffffb3``.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from zkserve.encoding import canonical_json, parse_json
from zkserve.engines.base import FloatArray
from zkserve.errors import InputOutOfRange, InvalidInput, ProofInvalid

SALT_TAG = b"zkserve/ezkl/salt/v1"
SALT_BITS_NEEDED = 128
MAX_OPENING_BYTES = 16 << 20
_ELEMENT_BYTES = 8
_INT64 = range(-(1 << 63), 1 << 63)


@dataclass(frozen=True, kw_only=True)
class SaltShape:
    """A salt is ``count`` elements of ``bits`` bits each: the circuit bounds every element."""

    count: int
    bits: int

    @classmethod
    def within(cls, element_bound: int) -> SaltShape:
        """Return the shape that holds at least 128 bits in elements below a quarter the bound."""
        bits = element_bound.bit_length() - 3
        return cls(count=math.ceil(SALT_BITS_NEEDED / bits), bits=bits)

    def elements(self, salt: bytes) -> list[int]:
        """Derive the elements from 32 bytes: the low bits of a tagged SHA-256, lowest first.

        Raises:
            InvalidInput: ``salt`` has another length.

        """
        if self.count == 0:
            return []
        if len(salt) != 32:
            raise InvalidInput(f"A salt has 32 bytes, got {len(salt)}.")
        pool = int.from_bytes(hashlib.sha256(SALT_TAG + salt).digest(), "big")
        mask = (1 << self.bits) - 1
        return [pool >> (number * self.bits) & mask for number in range(self.count)]


NO_SALT = SaltShape(count=0, bits=0)


@dataclass(frozen=True, kw_only=True)
class Opening:
    """The quantised input and the salt behind a claim's input."""

    values: tuple[int, ...]
    salt: tuple[int, ...]
    scale: int

    @property
    def elements(self) -> list[int]:
        """The circuit's input tensor: the input and then the salt."""
        return [*self.values, *self.salt]

    def encode(self) -> bytes:
        """Return the canonical bytes."""
        return canonical_json(
            {"input": list(self.values), "salt": list(self.salt), "scale": self.scale}
        )

    def to_real(self) -> list[float]:
        """Return the dequantised input."""
        return [value / (1 << self.scale) for value in self.values]

    @classmethod
    def decode(cls, data: bytes, *, size: int, scale: int, salt: SaltShape) -> Opening:
        """Read canonical bytes of an opening of this circuit.

        Raises:
            ProofInvalid: they are not one.

        """
        wrong = ProofInvalid(
            f"The opening is not canonical JSON of {size} input and {salt.count} salt integers at "
            f"scale {scale}."
        )
        if len(data) > MAX_OPENING_BYTES:
            raise wrong
        try:
            found = parse_json(data)
            opening = cls(
                values=tuple(found["input"]), salt=tuple(found["salt"]), scale=found["scale"]
            )
            canonical = opening.encode()
        except (ValueError, TypeError, KeyError) as exc:
            raise wrong from exc
        integers = [*opening.values, *opening.salt, opening.scale]
        if (
            canonical != data
            or any(type(integer) is not int for integer in integers)
            or (len(opening.values), len(opening.salt)) != (size, salt.count)
            or opening.scale != scale
            or any(value not in _INT64 for value in opening.values)
            or any(not 0 <= element < 1 << salt.bits for element in opening.salt)
        ):
            raise wrong
        return opening


def quantise(inputs: FloatArray, *, size: int, scale: int, bound: int) -> tuple[int, ...]:
    """Return ``round(x * 2**scale)``, halves away from zero, exact for float32.

    Raises:
        InvalidInput: not ``(size,)`` finite numbers.
        InputOutOfRange: a magnitude reaches ``bound`` after scaling.

    """
    if inputs.shape != (size,):
        raise InvalidInput(f"The input has shape {inputs.shape}; expected ({size},).")
    values = inputs.astype(np.float32).astype(np.float64)
    if not np.isfinite(values).all():
        where = int(np.flatnonzero(~np.isfinite(values))[0])
        raise InvalidInput(f"Element {where} of the input is not a finite float32.")
    scaled = np.trunc(values * 2.0**scale + np.copysign(0.5, values))
    limit = min(bound, _INT64.stop)
    if (np.abs(scaled) >= limit).any():
        where = int(np.flatnonzero(np.abs(scaled) >= limit)[0])
        raise InputOutOfRange(
            f"Element {where} of the input is out of range; magnitudes below "
            f"{limit / 2**scale:g} can be proved.",
            remedy="Scale the input as the model expects.",
        )
    return tuple(int(value) for value in scaled)


def pack(values: Sequence[int]) -> bytes:
    """Return the packed public input, 8 bytes an element."""
    return b"".join(value.to_bytes(_ELEMENT_BYTES, "big", signed=True) for value in values)


def unpack(packed: bytes, *, size: int) -> tuple[int, ...]:
    """Return the integers of a packed public input.

    Raises:
        InvalidInput: the length is wrong.

    """
    if len(packed) != size * _ELEMENT_BYTES:
        raise InvalidInput(
            f"A packed input of {size} elements has {size * _ELEMENT_BYTES} bytes, got "
            f"{len(packed)}."
        )
    starts = range(0, len(packed), _ELEMENT_BYTES)
    return tuple(int.from_bytes(packed[s : s + _ELEMENT_BYTES], "big", signed=True) for s in starts)
