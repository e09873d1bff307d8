"""Circuits of random geometry: both verifiers accept the prover's proofs, and no other outputs.

The prover works on integers and tables, the verifiers on succinct functionals: they agree only
where both mean the same circuit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.native_proofs import development_srs
from tests.native_random import WEIGHT, random_circuit
from zkserve.engines.native import core
from zkserve.engines.native.protocol.verifier import verify
from zkserve.errors import ProofInvalid

pytestmark = pytest.mark.prover


@pytest.fixture(scope="module")
def srs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return development_srs(tmp_path_factory.mktemp("srs"))


@pytest.mark.parametrize("seed", range(150))
def test_a_random_circuit_is_proved(srs: Any, seed: int) -> None:
    try:
        circuit = random_circuit(seed)
    except ValueError as exc:
        pytest.skip(str(exc))
    d, rng, mode = circuit.description, np.random.default_rng(seed), seed % 2
    cells = rng.integers(-WEIGHT, WEIGHT + 1, d.header.weight_tiles << d.header.k, dtype=np.int32)
    blinds = b"".join(rng.bytes(31).rjust(32, b"\0") for _ in range(d.header.weight_tiles))
    multipliers = list(circuit.multipliers)
    prover = core.load().Prover(srs, d.encode(), mode, cells, blinds, multipliers, 1)
    shape = (d.header.batch, d.tensors[0].channels, d.tensors[0].height, d.tensors[0].width)
    values = rng.integers(0, 256**d.header.input_bytes, shape, dtype=np.int32)
    blind = bytes(31) + b"\7" if mode else None
    claimed, outputs, proof = prover.prove(bytes(32), values, blind, rng.bytes(32))
    claim = {
        "srs_digest": srs.digest,
        "g2_s": srs.g2_s,
        "context": bytes(32),
        "mode": mode,
        "weights": prover.weights,
        "input": claimed,
        "outputs": outputs,
        "proof": proof,
    }
    verify(d.encode(), **claim)
    assert core.load().verify(d.encode(), **claim)

    wrong = claim | {"outputs": [*outputs[:-1], outputs[-1] + 1]}
    assert not core.load().verify(d.encode(), **wrong)
    with pytest.raises(ProofInvalid):
        verify(d.encode(), **wrong)
