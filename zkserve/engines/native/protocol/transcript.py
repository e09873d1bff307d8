"""What is hashed: the transcript of a proof and the digests of sections 2, 6 and 7."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from eth_utils.crypto import keccak

from zkserve.engines.native.protocol.curve import ORDER

INFERENCE: Final = "zkserve/native/transcript/v1"
REGISTRATION: Final = "zkserve/native/range/v1"
"""What the transcript of each kind of proof starts from."""
_CONTEXT: Final = keccak(text="zkserve/native/context/v1")
_WEIGHTS: Final = keccak(text="zkserve/native/weights/v1")
_INPUT: Final = keccak(text="zkserve/native/input/v1")
_SRS: Final = keccak(text="zkserve/native/srs/v1")

NO_CONTEXT: Final = bytes(32)
"""The context of a proof for a version that is registered on no chain."""
OUTPUT_BOUND: Final = 1 << 62
"""Outputs lie strictly between minus and plus this."""


class Transcript:
    """Turns what a prover has sent into the challenges that follow."""

    def __init__(self, start: str = INFERENCE) -> None:
        self._state = keccak(text=start)
        self._buffer = b""
        self._count = 0

    def absorb(self, data: bytes) -> None:
        """Append words or points that the caller has checked."""
        self._buffer += data

    def scalars(self, values: Sequence[int]) -> None:
        """Append scalars below ``p``, a word each."""
        self._buffer += b"".join(value.to_bytes(32, "big") for value in values)

    def challenge(self) -> int:
        """Return a challenge that depends on all that was absorbed before."""
        self._state = keccak(self._state + self._buffer + self._count.to_bytes(4, "big"))
        self._buffer = b""
        self._count += 1
        return int.from_bytes(keccak(b"c" + self._state), "big") % ORDER

    def challenges(self, count: int) -> list[int]:
        """Return several challenges in a row."""
        return [self.challenge() for _ in range(count)]


def context(*, chain_id: int, registry: str, version_id: int) -> bytes:
    """Return the 32 bytes that name where a version is registered; ``registry`` is an address."""
    words = (chain_id, int(registry, 16), version_id)
    return keccak(_CONTEXT + b"".join(word.to_bytes(32, "big") for word in words))


def srs_digest(*, g1_s: bytes, g2_s: bytes) -> bytes:
    """Return the digest of an SRS from ``[s]_1`` (64 bytes) and ``[s]_2`` (128 bytes)."""
    return keccak(_SRS + g1_s + g2_s)


def weights_digest(commitments: Sequence[bytes], multipliers: Sequence[int]) -> bytes:
    """Return the claim's ``weights`` from the points of ``C_W`` and the multipliers."""
    points = len(commitments).to_bytes(4, "big") + b"".join(commitments)
    numbers = [len(multipliers), *multipliers]
    return keccak(_WEIGHTS + points + b"".join(number.to_bytes(4, "big") for number in numbers))


def hidden_input_digest(commitment: bytes) -> bytes:
    """Return the claim's ``input`` in hidden mode from the point ``C_X``."""
    return keccak(_INPUT + commitment)


def outputs_digest(outputs: Sequence[int]) -> bytes:
    """Return the digest of the outputs as two's complement words."""
    return keccak(b"".join(value.to_bytes(32, "big", signed=True) for value in outputs))


def statement(
    *,
    context: bytes,
    hidden: bool,
    srs_digest: bytes,
    description_digest: bytes,
    weights: bytes,
    input_digest: bytes,
    outputs: Sequence[int],
) -> bytes:
    """Return the seven words that step 0 absorbs.

    ``input_digest`` is the Keccak-256 of the packed input, or in hidden mode the claim's input.
    """
    mode = int(hidden).to_bytes(32, "big")
    words = (context, mode, srs_digest, description_digest, weights, input_digest)
    return b"".join(words) + outputs_digest(outputs)
