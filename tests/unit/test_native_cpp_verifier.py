"""The compiled verifier, reader and gate: what is altered in a proof or its claim is rejected."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from zkserve.engines.native import core
from zkserve.engines.native.protocol import certificate
from zkserve.engines.native.protocol.description import Description, decode
from zkserve.engines.native.protocol.verifier import verify as verify_in_python
from zkserve.engines.native.protocol.wire import DescriptionInvalid
from zkserve.errors import ProofInvalid

P = 21888242871839275222246405745257275088548364400416034343698204186575808495617
Q = 21888242871839275222246405745257275088696311157297823662689037894645226208583
NETWORKS = json.loads((Path(__file__).parents[1] / "vectors/native/networks.json").read_text())
NAMES = list(NETWORKS)
EXAMPLE = NAMES[0]
CONTEXT = bytes(range(32))

pytestmark = pytest.mark.skipif(not core.available(), reason="the compiled core is not installed")


@dataclass(frozen=True, kw_only=True)
class Proven:
    """Arguments of ``verify`` that it accepts."""

    description: bytes
    srs_digest: bytes
    g2_s: bytes
    mode: int
    weights: bytes
    input: bytes
    outputs: list[int]
    proof: bytes
    context: bytes | None = CONTEXT

    def accepted(self, **altered: Any) -> bool:
        arguments = vars(replace(self, **altered))
        return bool(core.load().verify(**arguments))

    def with_proof(self, at: int, new: bytes) -> bool:
        return self.accepted(proof=self.proof[:at] + new + self.proof[at + len(new) :])


def description_of(name: str) -> bytes:
    return bytes.fromhex(NETWORKS[name]["description"])


@pytest.fixture(scope="module")
def module() -> ModuleType:
    return core.load()


@pytest.fixture(scope="module")
def srs(module: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = str(tmp_path_factory.mktemp("srs") / "development.srs")
    module.srs_generate(path, 2**11 + 2**6)
    return module.Srs(path, 0)


@pytest.fixture(scope="module")
def prove(module: ModuleType, srs: Any) -> Any:
    made: dict[tuple[str, int], Proven] = {}

    def make(name: str, mode: int) -> Proven:
        if (name, mode) not in made:
            made[name, mode] = _prove(module, srs, name, mode)
        return made[name, mode]

    return make


def _prove(module: ModuleType, srs: Any, name: str, mode: int) -> Proven:
    """Return a proof of random weights; padding of their blocks is random too: nothing reads it."""
    data, random = description_of(name), np.random.default_rng(7)
    d: Description = decode(data)
    tiles = d.header.weight_tiles
    cells = random.integers(-6, 7, tiles << d.header.k, dtype=np.int32)
    blinds = b"".join(random.bytes(31).rjust(32, b"\0") for _ in range(tiles))
    prover = module.Prover(srs, data, mode, cells, blinds, NETWORKS[name]["multipliers"])
    tensor = d.tensors[0]
    shape = (d.header.batch, tensor.channels, tensor.height, tensor.width)
    values = random.integers(0, 256**d.header.input_bytes, shape, dtype=np.int32)
    blind = random.bytes(31).rjust(32, b"\0") if mode else None
    claimed, outputs, proof = prover.prove(CONTEXT, values, blind, random.bytes(32))
    return Proven(
        description=data,
        srs_digest=srs.digest,
        g2_s=srs.g2_s,
        mode=mode,
        weights=prover.weights,
        input=claimed,
        outputs=outputs,
        proof=proof,
    )


@pytest.mark.parametrize("mode", [0, 1])
@pytest.mark.parametrize("name", NAMES)
def test_honest_proofs_are_accepted(prove: Any, name: str, mode: int) -> None:
    proven = prove(name, mode)
    assert proven.accepted()
    assert proven.accepted(context=None)
    verify_in_python(**vars(proven))


@pytest.mark.parametrize("mode", [0, 1])
def test_every_word_of_a_proof_counts(prove: Any, mode: int) -> None:
    proven = prove("8 bits", mode)
    d = decode(proven.description)
    points = 32 + 64 * (d.header.weight_tiles + mode)
    multipliers = range(points + 3, points + 4 * d.multipliers, 4)
    words = range(31, points, 32), multipliers, range(multipliers.stop + 28, len(proven.proof), 32)
    for at in (at for part in words for at in part):
        assert not proven.with_proof(at, bytes([proven.proof[at] ^ 1])), at
        assert not proven.accepted(
            context=None,
            proof=proven.proof[:at] + bytes([proven.proof[at] ^ 1]) + proven.proof[at + 1 :],
        ), at


@pytest.mark.parametrize("mode", [0, 1])
def test_the_bytes_of_a_proof_are_canonical(prove: Any, mode: int) -> None:
    """A residue plus the modulus is the same number, and must not be the same proof."""
    proven = prove(EXAMPLE, mode)
    d = decode(proven.description)
    first = 32 + 64 * (d.header.weight_tiles + mode) + 4 * d.multipliers
    altered = 0
    for at in range(first, len(proven.proof), 32):
        word = int.from_bytes(proven.proof[at : at + 32])
        for modulus in (P, Q):
            if word + modulus < 2**256:
                altered += 1
                assert not proven.with_proof(at, (word + modulus).to_bytes(32)), at
    assert altered > 200
    for proof in (b"", proven.proof[:-1], proven.proof + b"\0", proven.proof[32:]):
        assert not proven.accepted(proof=proof)


def test_commitments_at_infinity_are_rejected(prove: Any) -> None:
    proven = prove(EXAMPLE, 1)
    for at in range(32, 32 + 64 * 8, 64):
        assert not proven.with_proof(at, bytes(64)), at


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mode", [0, 1])
def test_every_output_counts(prove: Any, name: str, mode: int) -> None:
    proven = prove(name, mode)
    for i in range(len(proven.outputs)):
        for change in (1, -1, P, -P, 2**62, -(2**62), 2**64):
            outputs = list(proven.outputs)
            outputs[i] += change
            assert not proven.accepted(outputs=outputs), (i, change)
    assert not proven.accepted(outputs=proven.outputs[:-1])
    assert not proven.accepted(outputs=[*proven.outputs, 0])
    assert not proven.accepted(outputs=[float(y) for y in proven.outputs])
    assert not proven.accepted(outputs=[])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mode", [0, 1])
def test_every_byte_of_the_input_counts(prove: Any, name: str, mode: int) -> None:
    """Bytes that pad a row of a public input too: one image has one packing."""
    proven = prove(name, mode)
    for at in range(0, len(proven.input), 3):
        byte = bytes([proven.input[at] ^ 0x80])
        assert not proven.accepted(input=proven.input[:at] + byte + proven.input[at + 1 :]), at
    for wrong in (b"", proven.input[:-1], proven.input + b"\0", bytes(32)):
        assert not proven.accepted(input=wrong)


@pytest.mark.parametrize("field", ["srs_digest", "g2_s", "weights", "context"])
def test_every_byte_of_what_is_trusted_counts(prove: Any, field: str) -> None:
    proven = prove(EXAMPLE, 0)
    value = getattr(proven, field)
    for at in range(len(value)):
        changed = value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :]
        assert not proven.accepted(**{field: changed}), at
    for wrong in (value[:-1], value + b"\0", bytes(len(value)), b""):
        assert not proven.accepted(**{field: wrong})


def test_another_secret_is_rejected(prove: Any, module: ModuleType) -> None:
    assert not prove(EXAMPLE, 0).accepted(g2_s=module.g2_generator())


def test_a_proof_is_of_one_mode(prove: Any) -> None:
    public, hidden = prove(EXAMPLE, 0), prove(EXAMPLE, 1)
    assert not public.accepted(mode=1)
    assert not hidden.accepted(mode=0)
    assert not public.accepted(mode=2)
    assert not hidden.accepted(mode=0, input=public.input)


def test_a_proof_is_of_one_description(prove: Any) -> None:
    """Any altered byte of D is either refused or another circuit."""
    proven = prove(EXAMPLE, 0)
    data = proven.description
    for at in range(len(data)):
        changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        assert not proven.accepted(description=changed), at


@pytest.mark.parametrize("name", NAMES)
def test_both_readers_refuse_the_same_bytes(module: ModuleType, name: str) -> None:
    data = description_of(name)
    verdicts = set()
    for at in range(len(data) - 32):
        changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        verdicts.add((at, _reads(module, changed), _reads_in_python(changed)))
    assert [v for v in verdicts if v[1] != v[2]] == []
    assert {v[1] for v in verdicts} == {True, False}


def _reads(module: ModuleType, data: bytes) -> bool:
    try:
        module.check_description(data)
    except ValueError:
        return False
    return True


def _reads_in_python(data: bytes) -> bool:
    try:
        decode(data)
    except DescriptionInvalid:
        return False
    return True


@pytest.mark.parametrize("name", NAMES)
def test_the_gate_passes_what_it_certified(module: ModuleType, name: str) -> None:
    data, multipliers = description_of(name), NETWORKS[name]["multipliers"]
    assert module.certify(data) == data[-32:]
    assert module.certify(data[:-32] + bytes(32), threads=2) == data[-32:]
    assert certificate.certify(decode(data)).certificate == data[-32:]
    module.check_certificate(data)
    module.check_certificate(data, multipliers)
    with pytest.raises(ValueError, match="certificate"):
        module.check_certificate(data[:-1] + bytes([data[-1] ^ 1]))
    for wrong in (
        multipliers[:-1],
        [*multipliers, 1],
        [0] * len(multipliers),
        [2**16] * len(multipliers),
    ):
        with pytest.raises(ValueError, match="multiplier"):
            module.check_certificate(data, wrong)


def test_the_gate_refuses_masks_that_leave_a_relation(module: ModuleType) -> None:
    """Masks side by side obey every rule of the layout, and hide two values too few."""
    d = decode(description_of(EXAMPLE))
    neighbours = replace(
        d,
        helper_mask_cells=(*range(256, 274), *range(1048, 1066)),
        row_mask_cells=tuple(range(1024, 1051)),
    ).encode()
    module.check_description(neighbours)
    with pytest.raises(ValueError, match="rank 32 for 34"):
        module.certify(neighbours)
    with pytest.raises(ValueError, match="rank 32 for 34"):
        module.check_certificate(neighbours)


def test_both_verifiers_reject_another_output(prove: Any) -> None:
    proven = prove(EXAMPLE, 0)
    claim = {**vars(proven), "outputs": [proven.outputs[0] + 1, *proven.outputs[1:]]}
    assert not proven.accepted(outputs=claim["outputs"])
    with pytest.raises(ProofInvalid):
        verify_in_python(**claim)
