"""Honest proofs of the small native circuits, made by the compiled prover."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.native_vectors import ProofVector
from zkserve.engines.native import core
from zkserve.engines.native.protocol.description import Description
from zkserve.engines.native.protocol.transcript import context

CHAIN_ID, REGISTRY, VERSION_ID = 31337, "0x1234567890123456789012345678901234567890", 7
MULTIPLIERS = {
    "dense": [900, 300],
    "convolutions": [600, 9000, 5000, 7000, 20000, 300, 40000, 9000, 20000, 30000, 60000, 300],
    "wide": [65535, 60000, 50000, 65000, 777, 65535],
}


def development_srs(folder: Path) -> Any:
    """Return an SRS for tiles of up to 2^10 cells."""
    path = str(folder / "srs")
    core.load().srs_generate(path, (1 << 10) + 32)
    return core.load().Srs(path, 0)


class Version:
    """Random weights of a circuit, committed to; padding is random too, since nothing reads it."""

    def __init__(self, srs: Any, name: str, d: Description, mode: int) -> None:
        self._srs, self._name, self._d, self._mode = srs, name, d, mode
        self._rng = np.random.default_rng(len(name))
        cells = self._rng.integers(-7, 8, d.header.weight_tiles << d.header.k, dtype=np.int32)
        blinds = b"".join(self._scalar() for _ in range(d.header.weight_tiles))
        self.prover = core.load().Prover(srs, d.encode(), mode, cells, blinds, MULTIPLIERS[name], 1)

    def _scalar(self) -> bytes:
        return self._rng.bytes(31).rjust(32, b"\0")

    def input(self) -> Any:
        """Return random input values of a batch."""
        h, tensor = self._d.header, self._d.tensors[0]
        shape = (h.batch, tensor.channels, tensor.height, tensor.width)
        return self._rng.integers(0, 256**h.input_bytes, shape, dtype=np.int32)

    def prove(self, values: Any) -> ProofVector:
        """Return a proof of the prediction for some input values."""
        where = context(chain_id=CHAIN_ID, registry=REGISTRY, version_id=VERSION_ID)
        blind = self._scalar() if self._mode else None
        claimed, outputs, proof = self.prover.prove(where, values, blind, self._rng.bytes(32))
        return ProofVector(
            name=f"{self._name}-{'hidden' if self._mode else 'public'}",
            description=self._d.encode(),
            srs_digest=self._srs.digest,
            g2_s=self._srs.g2_s,
            chain_id=CHAIN_ID,
            registry=REGISTRY,
            version_id=VERSION_ID,
            context=where,
            mode=self._mode,
            weights=self.prover.weights,
            input=claimed,
            outputs=tuple(outputs),
            proof=proof,
            cases=(),
        )
