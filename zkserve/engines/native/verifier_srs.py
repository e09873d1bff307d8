"""What verifying needs of an SRS: the file of a whole one, cut to two points.

The layout is that of any SRS file of this engine: ``ZKSRS001``, the number of points (u32), the
mark of a development SRS (u8), three zero bytes, ``[s]_2`` as the EVM takes it (128 bytes), then
points of 64 bytes: the generator and ``[s]_1``. 272 bytes in all.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from zkserve.engines.native.protocol.transcript import srs_digest
from zkserve.errors import BundleMismatch, InvalidInput

MAGIC = b"ZKSRS001"
HEAD_BYTES = 144
POINT_BYTES = 64
_GENERATOR = (1).to_bytes(32, "big") + (2).to_bytes(32, "big")


@dataclass(frozen=True, kw_only=True)
class VerifierSrs:
    """``[s]_1``, ``[s]_2`` and whether somebody is known to have had ``s``."""

    g1_s: bytes
    g2_s: bytes
    development: bool

    @property
    def digest(self) -> bytes:
        """The SRS digest of the protocol, section 7: the two points determine all others."""
        return srs_digest(g1_s=self.g1_s, g2_s=self.g2_s)

    def encode(self) -> bytes:
        """Return the bytes of the file."""
        head = MAGIC + (2).to_bytes(4, "big") + bytes([self.development, 0, 0, 0])
        return head + self.g2_s + _GENERATOR + self.g1_s

    @classmethod
    def decode(cls, data: bytes) -> VerifierSrs:
        """Read such a file; that the points lie on their curves is for the verifier to check.

        Raises:
            BundleMismatch: it is none.

        """
        found = cls(
            g1_s=data[HEAD_BYTES + POINT_BYTES :],
            g2_s=data[16:HEAD_BYTES],
            development=data[12:13] == b"\x01",
        )
        if found.encode() != data or len(data) != HEAD_BYTES + 2 * POINT_BYTES:
            raise BundleMismatch("The verifier's SRS is not a file of the native engine.")
        return found

    @classmethod
    def cut(cls, path: Path) -> VerifierSrs:
        """Read the beginning of a whole SRS file.

        Raises:
            InvalidInput: it is not an SRS file of this engine.

        """
        with path.open("rb") as file:
            data = file.read(HEAD_BYTES + 2 * POINT_BYTES)
        if data[:8] != MAGIC or len(data) != HEAD_BYTES + 2 * POINT_BYTES:
            raise InvalidInput(
                f"{path.name} is not an SRS file of the native engine.",
                remedy="Make one from a ceremony's file: `zkserve srs import POWERS.ptau OUT`.",
            )
        return cls.decode(data[:8] + (2).to_bytes(4, "big") + data[12:])
