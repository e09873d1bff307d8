"""Sums and pairings on BN254 for input keys: by the compiled core, or in plain Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zkserve.engines.native import core
from zkserve.engines.native.input_key import POINT_BYTES, Group
from zkserve.engines.native.protocol import curve


def group(threads: int) -> Group:
    """Return what this installation computes with."""
    return CoreGroup(core.load(), threads) if core.available() else PythonGroup()


class CoreGroup:
    """The compiled core."""

    def __init__(self, module: Any, threads: int) -> None:
        self._module = module
        self._threads = threads

    def sum(self, points: bytes, scalars: Sequence[int]) -> bytes:
        """Return a sum; see :meth:`Group.sum`."""
        words = b"".join(scalar.to_bytes(32, "big") for scalar in scalars)
        return bytes(self._module.Bases(points, self._threads).msm(words))

    def equal(self, left: bytes, right: bytes, g2_s: bytes) -> bool:
        """Check a pairing; see :meth:`Group.equal`."""
        pairs = [(left, self._module.g2_generator()), (_negative(right), g2_s)]
        return bool(self._module.pairing_is_one(pairs))


class PythonGroup:
    """Plain Python."""

    def sum(self, points: bytes, scalars: Sequence[int]) -> bytes:
        """Return a sum; see :meth:`Group.sum`."""
        decoded = (
            curve.g1_from_bytes(points[at : at + POINT_BYTES])
            for at in range(0, len(points), POINT_BYTES)
        )
        return curve.g1_to_bytes(curve.combine(zip(scalars, decoded, strict=True)))

    def equal(self, left: bytes, right: bytes, g2_s: bytes) -> bool:
        """Check a pairing; see :meth:`Group.equal`."""
        pairs = [
            (curve.g1_from_bytes(left), curve.GENERATOR_2),
            (curve.g1_from_bytes(_negative(right)), curve.g2_from_bytes(g2_s)),
        ]
        return curve.pairing_is_one(pairs)


def _negative(point: bytes) -> bytes:
    y = int.from_bytes(point[32:], "big")
    return point[:32] + (-y % curve.FIELD).to_bytes(32, "big")
