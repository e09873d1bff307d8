"""The compiled prover: what it proves is what plain integers give, and both verifiers agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.native_circuits import CIRCUITS
from tests.native_random import WEIGHT, random_circuit
from zkserve.engines.native import core
from zkserve.engines.native.compiler.packing import read_program
from zkserve.engines.native.protocol.curve import ORDER
from zkserve.engines.native.protocol.description import Description, digest
from zkserve.engines.native.protocol.verifier import verify as verify_in_python

pytestmark = pytest.mark.skipif(not core.available(), reason="the compiled core is not installed")

CONTEXT = bytes(range(32))
KEY = b"a key of the owner"
BLIND = (77).to_bytes(32, "big")
MULTIPLIERS = {
    "dense": [900, 300],
    "convolutions": [600, 9000, 5000, 7000, 20000, 300, 40000, 9000, 20000, 30000, 60000, 9000],
    "wide": [30000, 40, 50, 60, 777, 20],
}
PHASES = [
    "inference",
    "witness commitment",
    "helper commitment",
    "main sumcheck",
    "final sumcheck",
    "opening",
    "quotient commitment",
    "opening commitment",
    "verification",
]


@dataclass(frozen=True, kw_only=True)
class Version:
    """A circuit with random weights, and what its prover is made of."""

    name: str
    description: Description
    cells: NDArray[np.int32]
    blinds: bytes
    srs: Any

    def prover(self, mode: int = 0, **altered: Any) -> Any:
        arguments = {
            "srs": self.srs,
            "description": self.description.encode(),
            "mode": mode,
            "cells": self.cells,
            "blinds": self.blinds,
            "multipliers": MULTIPLIERS.get(self.name),
            "threads": 2,
        }
        return core.load().Prover(**{**arguments, **altered})

    def inputs(self, seed: int = 0) -> NDArray[np.int32]:
        header, first = self.description.header, self.description.tensors[0]
        shape = (header.batch, first.channels, first.height, first.width)
        rng = np.random.default_rng(seed)
        return rng.integers(0, 256**header.input_bytes, shape, dtype=np.int32)


@cache
def make(name: str, folder: Path) -> Version:
    module, description = core.load(), CIRCUITS[name]()
    h, rng = description.header, np.random.default_rng(5)
    path = folder / "srs"
    if not path.exists():
        module.srs_generate(str(path), (1 << 10) + 32)
    return Version(
        name=name,
        description=description,
        cells=rng.integers(-7, 8, h.weight_tiles << h.k, dtype=np.int32),
        blinds=b"".join(rng.bytes(31).rjust(32, b"\0") for _ in range(h.weight_tiles)),
        srs=module.Srs(str(path), 0),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prover")


@pytest.fixture(params=CIRCUITS)
def version(request: pytest.FixtureRequest, folder: Path) -> Version:
    return make(request.param, folder)


@pytest.fixture
def dense(folder: Path) -> Version:
    return make("dense", folder)


def blind_of(mode: int) -> bytes | None:
    return BLIND if mode else None


def accepted(
    version: Version, prover: Any, mode: int, made: tuple[bytes, list[int], bytes]
) -> bool:
    claimed, outputs, proof = made
    return bool(
        core.load().verify(
            description=version.description.encode(),
            srs_digest=version.srs.digest,
            g2_s=version.srs.g2_s,
            context=CONTEXT,
            mode=mode,
            weights=prover.weights,
            input=claimed,
            outputs=outputs,
            proof=proof,
        )
    )


# -- integers


@pytest.mark.parametrize("seed", range(5))
def test_outputs_are_those_of_plain_integers(version: Version, seed: int) -> None:
    program = read_program(version.description, version.cells, MULTIPLIERS[version.name])
    inputs = version.inputs(seed)
    outputs = version.prover().predict(inputs)
    assert outputs == program.run(inputs).ravel().tolist()
    assert len(set(outputs)) > 1  # something was computed


def test_extreme_inputs_saturate_as_plain_integers_do(version: Version) -> None:
    program = read_program(version.description, version.cells, MULTIPLIERS[version.name])
    prover, shape = version.prover(), version.inputs().shape
    for value in (0, 256**version.description.header.input_bytes - 1):
        inputs = np.full(shape, value, np.int32)
        assert prover.predict(inputs) == program.run(inputs).ravel().tolist()


@pytest.mark.parametrize("threads", [1, 3])
def test_outputs_do_not_depend_on_threads(version: Version, threads: int) -> None:
    inputs = version.inputs()
    assert version.prover(threads=threads).predict(inputs) == version.prover().predict(inputs)


# -- proofs


@pytest.mark.parametrize("mode", [0, 1])
@pytest.mark.parametrize("threads", [1, 2])
def test_proofs_are_accepted(version: Version, mode: int, threads: int) -> None:
    prover, inputs = version.prover(mode, threads=threads), version.inputs(threads)
    made = prover.prove(CONTEXT, inputs, blind_of(mode), KEY)
    claimed, outputs, proof = made
    assert outputs == prover.predict(inputs)
    assert len(proof) == version.description.proof_bytes(hidden=bool(mode))
    assert proof[32 : 32 + len(prover.commitments)] == prover.commitments
    assert accepted(version, prover, mode, made)
    if threads == 1:
        verify_in_python(
            version.description.encode(),
            srs_digest=version.srs.digest,
            g2_s=version.srs.g2_s,
            context=CONTEXT,
            mode=mode,
            weights=prover.weights,
            input=claimed,
            outputs=outputs,
            proof=proof,
        )
    assert not accepted(version, prover, mode, (claimed, [outputs[0] + 1, *outputs[1:]], proof))


@pytest.mark.parametrize("seed", range(200, 208))
def test_random_circuits_compute_what_plain_integers_do(seed: int, folder: Path) -> None:
    circuit = random_circuit(seed)
    d, rng = circuit.description, np.random.default_rng(seed)
    version = Version(
        name="random",
        description=d,
        cells=rng.integers(-WEIGHT, WEIGHT + 1, d.header.weight_tiles << d.header.k, np.int32),
        blinds=BLIND * d.header.weight_tiles,
        srs=make("dense", folder).srs,
    )
    multipliers, inputs = list(circuit.multipliers), version.inputs(seed)
    prover = version.prover(multipliers=multipliers)
    made = prover.prove(CONTEXT, inputs, None, KEY)
    program = read_program(d, version.cells, multipliers)
    assert made[1] == program.run(inputs).ravel().tolist()
    assert accepted(version, prover, 0, made)


def test_a_hidden_input_is_the_digest_of_its_commitment(version: Version) -> None:
    prover, inputs = version.prover(1), version.inputs()
    commitment = prover.commit_input(inputs, BLIND)
    claimed, _, proof = prover.prove(CONTEXT, inputs, BLIND, KEY)
    assert claimed == digest(digest(b"zkserve/native/input/v1") + commitment)
    assert commitment in proof
    assert prover.commit_input(inputs, KEY.rjust(32, b"\0")) != commitment


def test_two_proofs_of_one_statement_share_nothing_random(version: Version) -> None:
    prover, inputs = version.prover(), version.inputs()
    first, second = (prover.prove(CONTEXT, inputs, None, KEY)[2] for _ in range(2))
    prefix = 32 + len(prover.commitments) + 4 * len(MULTIPLIERS[version.name])
    assert first[:prefix] == second[:prefix]
    words = [
        proof[at : at + 32] for proof in (first, second) for at in range(prefix, len(proof), 32)
    ]
    assert len(set(words)) == len(words)


def test_weights_are_committed_to_with_their_blinds(version: Version) -> None:
    module, description = core.load(), version.description.encode()
    committed = module.commit_weights(version.srs, description, version.cells, version.blinds, 1)
    assert committed == version.prover().commitments
    other = version.cells.copy()
    other[-1] += 1
    size = 64 * (version.description.header.weight_tiles - 1)
    altered = module.commit_weights(version.srs, description, other, version.blinds, 1)
    assert altered[:size] == committed[:size]
    assert altered[size:] != committed[size:]


def test_progress_names_every_phase(dense: Version) -> None:
    phases: list[str] = []
    dense.prover().prove(CONTEXT, dense.inputs(), None, KEY, phases.append)
    assert phases == PHASES


class Stop:
    """Says that a proof is cancelled from its ``after``-th question on."""

    def __init__(self, after: float) -> None:
        self.after, self.asked = after, 0

    def __call__(self) -> bool:
        self.asked += 1
        return self.asked >= self.after


def test_a_proof_stops_when_it_is_cancelled(dense: Version) -> None:
    module, prover = core.load(), dense.prover()
    never = Stop(float("inf"))
    prover.prove(CONTEXT, dense.inputs(), None, KEY, None, never)
    assert never.asked > 2 * len(PHASES)  # within phases too
    for after in range(1, never.asked + 1, 7):
        stop = Stop(after)
        with pytest.raises(module.Cancelled):
            prover.prove(CONTEXT, dense.inputs(), None, KEY, None, stop)
        assert stop.asked == after
    assert accepted(dense, prover, 0, prover.prove(CONTEXT, dense.inputs(), None, KEY))


def test_an_error_in_a_callback_comes_through(dense: Version) -> None:
    def fail(phase: str) -> None:
        raise KeyError(phase)

    with pytest.raises(KeyError, match="inference"):
        dense.prover().prove(CONTEXT, dense.inputs(), None, KEY, fail)


# -- refusals


def test_inputs_of_another_size_or_range_are_refused(version: Version) -> None:
    prover, inputs = version.prover(), version.inputs()
    high = inputs.copy()
    high.flat[-1] = 256**version.description.header.input_bytes
    for wrong in (inputs.ravel()[:-1], high, inputs - (1 << 16)):
        with pytest.raises(ValueError, match="input"):
            prover.prove(CONTEXT, np.ascontiguousarray(wrong), None, KEY)


@pytest.mark.parametrize(("mode", "blind"), [(0, BLIND), (1, None)])
def test_a_blind_belongs_to_a_hidden_input(dense: Version, mode: int, blind: bytes | None) -> None:
    with pytest.raises(ValueError, match="blind"):
        dense.prover(mode).prove(CONTEXT, dense.inputs(), blind, KEY)


def test_a_blind_is_canonical(dense: Version) -> None:
    large = ORDER.to_bytes(32, "big")
    with pytest.raises(ValueError, match="canonical"):
        dense.prover(1).commit_input(dense.inputs(), large)
    with pytest.raises(ValueError, match="canonical"):
        dense.prover(blinds=large * (len(dense.blinds) // 32))


@pytest.mark.parametrize(
    ("name", "alter", "message"),
    [
        ("cells", lambda v: v.cells[:-1], "weight cells"),
        ("blinds", lambda v: v.blinds + BLIND, "blinds"),
        ("multipliers", lambda _: [900], "multipliers"),
        ("multipliers", lambda _: [900, 1 << 16], "multiplier"),
        ("multipliers", lambda _: [0, 300], "multiplier"),
        ("cells", lambda v: np.full_like(v.cells, 1 << 24), "range of its limbs"),
        ("description", lambda v: v.description.encode()[:-1], "description"),
        ("description", lambda v: v.description.encode()[:-32] + bytes(32), "certificate"),
        ("mode", lambda _: 2, "mode"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    dense: Version, name: str, alter: Callable[[Version], Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        dense.prover(**{name: alter(dense)})


def test_an_srs_that_would_drop_blinds_is_refused(dense: Version, folder: Path) -> None:
    module: ModuleType = core.load()
    k = dense.description.header.k
    with pytest.raises(ValueError, match="SRS"):
        dense.prover(srs=module.Srs(str(folder / "srs"), (1 << k) + 15))
