"""The input key: the powers of an SRS that an input commitment uses, and why to believe them.

Whoever checks an opening recomputes ``C_X`` from it, which takes ``S_i`` for the cells of the
input's tile and ``S_N`` for the blind. The whole SRS is large; the key holds these points alone,
with a proof that they are the right powers: the first ones are consecutive, and ``S_N`` commits to
``X^N``, shown by an evaluation at a point drawn after it. File: ``S_0 … S_{m-1}``, ``S_N``, ``pi``,
64 bytes each.

``pi`` commits to ``(X^N - z^N) / (X - z)``, ``z = H(H("zkserve/native/input-key/v1") || S_N)``.
With ``r = H(H("…") || the whole file) mod p`` it all holds iff ``e(left, [1]_2) = e(right, [s]_2)``
for ``left = sum_i r^i S_{i+1} + r^m (S_N - z^N G + z pi)`` and ``right = sum_i r^i S_i + r^m pi``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from eth_utils.crypto import keccak

from zkserve.encoding import FIELD_MODULUS
from zkserve.errors import BundleMismatch

POINT_BYTES = 64
_TAG = keccak(text="zkserve/native/input-key/v1")
_GENERATOR = (1).to_bytes(32, "big") + (2).to_bytes(32, "big")


class Group(Protocol):
    """Sums in G1 and the check of a pairing; points and scalars as the EVM has them."""

    def sum(self, points: bytes, scalars: Sequence[int]) -> bytes:
        """Return the sum of points (64 bytes each) times scalars."""
        ...

    def equal(self, left: bytes, right: bytes, g2_s: bytes) -> bool:
        """Return whether ``e(left, [1]_2) = e(right, [s]_2)``."""
        ...


@dataclass(frozen=True, kw_only=True)
class InputKey:
    """The points of an input key: ``powers``, ``S_N`` and ``pi``."""

    powers: bytes
    blind: bytes
    proof: bytes

    @classmethod
    def make(cls, srs: bytes, size: int, k: int, group: Group) -> InputKey:
        """Return the key for ``size`` cells of input; ``srs`` holds ``2**k + 1`` points or more."""
        count = 1 << k
        blind = srs[POINT_BYTES * count : POINT_BYTES * (count + 1)]
        z = _challenge(blind)
        quotient = [pow(z, count - 1 - i, FIELD_MODULUS) for i in range(count)]
        return cls(
            powers=srs[: POINT_BYTES * size],
            blind=blind,
            proof=group.sum(srs[: POINT_BYTES * count], quotient),
        )

    def encode(self) -> bytes:
        """Return the bytes of the file."""
        return self.powers + self.blind + self.proof

    @classmethod
    def decode(cls, data: bytes, *, size: int) -> InputKey:
        """Read a file; see :meth:`check`.

        Raises:
            BundleMismatch: it has another length.

        """
        if len(data) != POINT_BYTES * (size + 2):
            raise BundleMismatch("The input key is not of this circuit's inputs.")
        cut = POINT_BYTES * size
        return cls(
            powers=data[:cut], blind=data[cut : cut + POINT_BYTES], proof=data[-POINT_BYTES:]
        )

    def check(self, k: int, g2_s: bytes, group: Group) -> None:
        """Check that the points are the powers they should be.

        Raises:
            BundleMismatch: they are not.

        """
        size = len(self.powers) // POINT_BYTES
        z, r = _challenge(self.blind), _challenge(self.encode())
        weights = [pow(r, i, FIELD_MODULUS) for i in range(size)]
        last = pow(r, size, FIELD_MODULUS)
        shifted = self.powers[POINT_BYTES:] + self.blind + _GENERATOR + self.proof
        left = group.sum(
            shifted,
            [
                *weights[:-1],
                last,
                -last * pow(z, 1 << k, FIELD_MODULUS) % FIELD_MODULUS,
                last * z % FIELD_MODULUS,
            ],
        )
        right = group.sum(self.powers[:-POINT_BYTES] + self.proof, [*weights[:-1], last])
        if self.powers[:POINT_BYTES] != _GENERATOR or not group.equal(left, right, g2_s):
            raise BundleMismatch("The input key is not that of the circuit's SRS.")

    def commit(self, cells: Sequence[int], blind: int, group: Group) -> bytes:
        """Return ``C_X`` of the cells of the input's tile and its blind."""
        return group.sum(self.powers + self.blind, [*cells, blind])


def _challenge(data: bytes) -> int:
    return int.from_bytes(keccak(_TAG + data), "big") % FIELD_MODULUS
