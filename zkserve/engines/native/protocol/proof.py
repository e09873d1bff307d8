"""Reading proofs: parts in order, rounds of sumchecks, and what is sent for the opening."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zkserve.engines.native.protocol.curve import G1, ORDER, g1_from_bytes
from zkserve.engines.native.protocol.opening import Opening
from zkserve.engines.native.protocol.transcript import Transcript, weights_digest
from zkserve.errors import ProofInvalid


@dataclass(frozen=True, kw_only=True)
class Part:
    """Scalars or points as they came, and as read."""

    data: bytes
    values: list[int]
    points: list[G1]


@dataclass(frozen=True, kw_only=True)
class OpeningParts:
    """What the prover sends for the opening, in the order of section 12."""

    folded: Part  # [h]
    others: Part  # [q*], [g], [S]
    values: Part
    witnesses: Part

    def challenged(self, transcript: Transcript) -> Opening:
        """Draw the challenges of steps 8 to 11."""
        transcript.absorb(self.folded.data)
        theta, gamma = transcript.challenges(2)
        transcript.absorb(self.others.data)
        zeta = transcript.challenge()
        transcript.absorb(self.values.data)
        nu = transcript.challenge()
        transcript.absorb(self.witnesses.data)
        omega = transcript.challenge()
        quotient, g, s = self.others.points
        w1, w2 = self.witnesses.points
        g_zeta, g_inverse, h_zeta, h_inverse, s_zeta, inverse = self.values.values
        return Opening(
            h=self.folded.points[0],
            quotient=quotient,
            g=g,
            s=s,
            g_zeta=g_zeta,
            g_inverse=g_inverse,
            h_zeta=h_zeta,
            h_inverse=h_inverse,
            s_zeta=s_zeta,
            inverse=inverse,
            w1=w1,
            w2=w2,
            theta=theta,
            gamma=gamma,
            zeta=zeta,
            nu=nu,
            omega=omega,
        )


class ProofReader:
    """Reads the parts of a proof in order; every scalar and point is checked before use."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        """Return the next bytes; the length of the whole is checked before."""
        data = self._data[self._at : self._at + size]
        self._at += size
        return data

    def scalars(self, count: int) -> Part:
        """Return words, each below ``p``."""
        data = self.take(32 * count)
        values = [int.from_bytes(data[i : i + 32], "big") for i in range(0, len(data), 32)]
        if len(values) != count or any(value >= ORDER for value in values):
            raise ProofInvalid("A scalar of the proof is not below the order of the group.")
        return Part(data=data, values=values, points=[])

    def points(self, count: int) -> Part:
        """Return points of the curve."""
        data = self.take(64 * count)
        points = [g1_from_bytes(data[i : i + 64]) for i in range(0, len(data), 64)]
        return Part(data=data, values=[], points=points)

    def multipliers(self, count: int) -> tuple[int, ...]:
        """Return ``M``, of four bytes each."""
        return tuple(int.from_bytes(self.take(4), "big") for _ in range(count))

    def opening(self) -> OpeningParts:
        """Return what a proof ends with."""
        return OpeningParts(
            folded=self.points(1),
            others=self.points(3),
            values=self.scalars(6),
            witnesses=self.points(2),
        )


def check_weights(commitment: Part, multipliers: Sequence[int], weights: bytes) -> None:
    """Check that ``C_W`` and ``M`` are in their ranges and those of the claim's digest.

    Raises:
        ProofInvalid: they are not.

    """
    if None in commitment.points:
        raise ProofInvalid("A commitment to weights or input is the point at infinity.")
    if any(not 1 <= multiplier < 1 << 16 for multiplier in multipliers):
        raise ProofInvalid("A multiplier is not between 1 and 65535.")
    data = commitment.data
    points = [data[i : i + 64] for i in range(0, len(data), 64)]
    if weights_digest(points, multipliers) != weights:
        raise ProofInvalid("The proof is about other weights.")


def run_rounds(transcript: Transcript, rounds: Sequence[Part], claim: int) -> tuple[list[int], int]:
    """Run sumcheck rounds whose linear coefficient is implied by the claim before.

    Return the point and the claim about it.
    """
    point = []
    for sent in rounds:
        transcript.absorb(sent.data)
        constant, *others = sent.values
        linear = claim - 2 * constant - sum(others)
        r = transcript.challenge()
        claim = 0
        for coefficient in reversed((constant, linear, *others)):
            claim = (claim * r + coefficient) % ORDER
        point.append(r)
    return point, claim
