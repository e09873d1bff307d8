"""Inputs, openings and claims of the native engine, without a prover."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.native_circuits import convolutions
from zkserve.encoding import FIELD_MODULUS, context
from zkserve.engines.native.claims import (
    check_claim,
    check_length,
    claim_of,
    decode_multipliers,
    encode_multipliers,
    weights_digest,
)
from zkserve.engines.native.groups import PythonGroup
from zkserve.engines.native.input_key import POINT_BYTES, InputKey
from zkserve.engines.native.inputs import (
    Opening,
    blind_of,
    input_shape,
    input_size,
    pack,
    tile_cells,
    tile_size,
    unpack,
)
from zkserve.engines.native.protocol import curve, transcript
from zkserve.engines.native.verifier_srs import VerifierSrs
from zkserve.errors import BundleMismatch, InvalidInput, ProofInvalid
from zkserve.types import CircuitManifest, Claim, InputMode, Scale, TensorSpec, WeightsMode

D = convolutions()
SIZE = input_size(D)
CELLS = tuple(range(1000, 1000 + SIZE))
OPENING = Opening(cells=CELLS, blind=5)


def manifest(input_mode: InputMode) -> CircuitManifest:
    return CircuitManifest(
        circuit_id="0x" + "11" * 32,
        engine="native",
        engine_version="1",
        input_mode=input_mode,
        weights_mode=WeightsMode.COMMITTED,
        weights="0x" + "22" * 32,
        inputs=(TensorSpec(name="x", shape=(SIZE,)),),
        output=TensorSpec(name="y", shape=(D.outputs,)),
        output_scale=Scale(),
        pins={},
        public=frozenset(),
        development_srs=True,
        rows=1,
        parameters={"proof_bytes": D.proof_bytes(hidden=input_mode is InputMode.COMMITTED)},
    )


def claim(input_mode: InputMode) -> Claim:
    outputs = tuple(range(D.outputs))
    return claim_of(manifest(input_mode), D, OPENING, outputs, bytes(64))


def test_a_batch_stands_in_the_first_dimension() -> None:
    assert TensorSpec(name="x", shape=(1, 30)).batched(8).shape == (8, 30)
    assert TensorSpec(name="x", shape=(30,)).batched(8).shape == (8, 30)
    assert TensorSpec(name="x", shape=(30,)).batched(1).shape == (30,)
    assert manifest(InputMode.PUBLIC).batch == 1
    assert replace(manifest(InputMode.PUBLIC), parameters={"batch": 3}).batch == 3


def test_a_packed_input_is_big_endian_words_a_row_each() -> None:
    packed = pack(D, CELLS)
    rows = np.frombuffer(packed, ">u2").reshape(-1, 8)
    width = input_shape(D)[3]
    assert len(packed) == D.input_packing.size_bytes
    assert rows[:, :width].ravel().tolist() == list(CELLS)
    assert not rows[:, width:].any()
    assert unpack(D, packed) == CELLS


@given(st.lists(st.integers(0, 65535), min_size=SIZE, max_size=SIZE))
def test_packing_and_back(cells: list[int]) -> None:
    assert unpack(D, pack(D, cells)) == tuple(cells)


def test_padding_and_other_lengths_are_refused() -> None:
    packed = pack(D, CELLS)
    width = input_shape(D)[3]
    for bad in (packed[:-1], packed + b"\0", b""):
        with pytest.raises(InvalidInput, match="bytes"):
            unpack(D, bad)
    padded = bytearray(packed)
    padded[2 * width + 1] = 1
    with pytest.raises(InvalidInput, match="padding"):
        unpack(D, bytes(padded))


def test_cells_of_the_committed_tile_lie_as_section_6_says() -> None:
    batch, channels, height, width = input_shape(D)
    tile = tile_cells(D, CELLS)
    assert len(tile) == tile_size(D)
    wide, tall, many = (1 << (size - 1).bit_length() for size in (width, height, batch))
    for byte in range(2):
        for c in range(channels):
            index = ((((byte * channels + c) * many + 1) * tall) + 1) * wide + 2
            cell = CELLS[((1 * channels + c) * height + 1) * width + 2]
            assert tile[index] == cell >> 8 * byte & 0xFF
    assert sum(tile) == sum(cell % 256 + cell // 256 for cell in CELLS)


def test_an_opening_is_canonical_json() -> None:
    data = OPENING.encode()
    assert Opening.decode(data, D, hidden=True) == OPENING
    assert json.loads(data)["blind"] == "0x" + "00" * 31 + "05"
    public = replace(OPENING, blind=None)
    assert Opening.decode(public.encode(), D, hidden=False) == public


@pytest.mark.parametrize(
    "changes",
    [
        {"input": list(CELLS[:-1])},
        {"input": [*CELLS[:-1], 65536]},
        {"input": [*CELLS[:-1], -1]},
        {"input": [*CELLS[:-1], True]},
        {"input": [*CELLS[:-1], 1.0]},
        {"input": None},
        {"blind": None},
        {"blind": 5},
        {"blind": "0x05"},
        {"blind": f"0x{FIELD_MODULUS:064x}"},
        {"salt": 1},
    ],
)
def test_what_is_no_opening_is_refused(changes: dict[str, object]) -> None:
    content = json.loads(OPENING.encode()) | changes
    data = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(ProofInvalid):
        Opening.decode(data, D, hidden=True)


@pytest.mark.parametrize("data", [b"", b"{}", b"null", b"[" * 100_000, OPENING.encode() + b"\n"])
def test_junk_is_no_opening(data: bytes) -> None:
    with pytest.raises(ProofInvalid):
        Opening.decode(data, D, hidden=True)


def test_blinds_are_scalars_that_the_salt_decides() -> None:
    assert blind_of(bytes(32)) == blind_of(bytes(32)) != blind_of(b"\1" * 32)
    assert 0 < blind_of(bytes(32)) < FIELD_MODULUS
    with pytest.raises(InvalidInput):
        blind_of(bytes(31))


@pytest.mark.parametrize("mode", list(InputMode))
def test_a_claim_of_the_circuit_is_accepted_and_no_other(mode: InputMode) -> None:
    good = claim(mode)
    check_claim(manifest(mode), D, good)
    for bad in (
        replace(good, circuit_id="0x" + "12" * 32),
        replace(good, weights="0x" + "23" * 32),
        replace(good, outputs=good.outputs[:-1]),
        replace(good, outputs=(*good.outputs, 0)),
        replace(good, outputs=(1 << 62, *good.outputs[1:])),
        replace(good, outputs=(-(1 << 62), *good.outputs[1:])),
        replace(good, input=good.input[:-1]),
        replace(good, input=good.input + b"\0"),
    ):
        with pytest.raises(ProofInvalid):
            check_claim(manifest(mode), D, bad)
    check_claim(manifest(mode), D, replace(good, outputs=((1 << 62) - 1, *good.outputs[1:])))


def test_a_proof_has_the_length_that_manifest_and_description_say() -> None:
    stated = manifest(InputMode.PUBLIC)
    size = D.proof_bytes(hidden=False)
    check_length(stated, D, bytes(size))
    for other in (size - 1, size + 1, 0):
        with pytest.raises(ProofInvalid):
            check_length(stated, D, bytes(other))
    with pytest.raises(BundleMismatch):
        check_length(replace(stated, parameters={"proof_bytes": size + 1}), D, bytes(size + 1))


def test_the_weights_digest_is_the_worked_example_of_the_protocol() -> None:
    point = (1).to_bytes(32, "big") + (2).to_bytes(32, "big")
    expected = "e0daa367d972490ab7cf002ae49b0166c7aced04d0440ec1f4ad0bf386e83171"
    assert weights_digest(point, (300,)) == "0x" + expected
    assert decode_multipliers(encode_multipliers((300, 65535))) == (300, 65535)


def test_the_context_is_the_worked_example_of_the_protocol() -> None:
    registry = f"0x{0x1234:040x}"
    expected = "42c66e4d09b582dfae1b0f2ee1c2766a1536f9bbaa7bcd36a3ff8da75770c18c"
    assert context(31337, registry, 7).hex() == expected
    assert transcript.context(chain_id=31337, registry=registry, version_id=7).hex() == expected
    others = {context(1, registry, 7), context(31337, "0x" + "12" * 20, 7)}
    assert len({*others, context(31337, registry, 8), context(31337, registry, 7)}) == 4


# the input key, with a secret that the test knows

SECRET = 987654321
K, CELLS_KEPT = 3, 4


def _powers(count: int) -> bytes:
    return b"".join(
        curve.g1_to_bytes(curve.combine([(pow(SECRET, i, FIELD_MODULUS), curve.GENERATOR)]))
        for i in range(count)
    )


class _Known(PythonGroup):
    """Compares without a pairing: the secret is known here."""

    def equal(self, left: bytes, right: bytes, g2_s: bytes) -> bool:
        return left == self.sum(right, [SECRET])


GROUP = _Known()
KEY = InputKey.make(_powers((1 << K) + 1), CELLS_KEPT, K, GROUP)


def test_an_input_key_shows_its_powers_and_commits_as_the_srs_does() -> None:
    KEY.check(K, b"", GROUP)
    assert InputKey.decode(KEY.encode(), size=CELLS_KEPT) == KEY
    cells, blind = [7, 0, 3, 9], 12345
    value = sum(cell * SECRET**i for i, cell in enumerate(cells)) + blind * SECRET ** (1 << K)
    expected = curve.combine([(value % FIELD_MODULUS, curve.GENERATOR)])
    assert KEY.commit(cells, blind, GROUP) == curve.g1_to_bytes(expected)


@pytest.mark.parametrize("at", range(CELLS_KEPT + 2))
def test_no_point_of_an_input_key_can_be_another(at: int) -> None:
    points = [KEY.encode()[i : i + POINT_BYTES] for i in range(0, 64 * (CELLS_KEPT + 2), 64)]
    points[at] = GROUP.sum(points[at], [2])
    forged = InputKey.decode(b"".join(points), size=CELLS_KEPT)
    with pytest.raises(BundleMismatch, match="input key"):
        forged.check(K, b"", GROUP)


def test_an_input_key_is_for_one_size_of_tile() -> None:
    with pytest.raises(BundleMismatch):
        KEY.check(K + 1, b"", GROUP)
    with pytest.raises(BundleMismatch):
        InputKey.decode(KEY.encode(), size=CELLS_KEPT + 1)


def test_plain_python_pairs_too() -> None:
    group = PythonGroup()
    g2_s = curve.g2_to_bytes(curve.GENERATOR_2)  # the secret 1
    generator = curve.g1_to_bytes(curve.GENERATOR)
    assert group.equal(generator, generator, g2_s)
    assert not group.equal(group.sum(generator, [2]), generator, g2_s)


# the verifier's part of an SRS


def test_the_verifiers_srs_is_a_file_of_two_points() -> None:
    g1_s, g2_s = b"\1" * 64, b"\2" * 128
    srs = VerifierSrs(g1_s=g1_s, g2_s=g2_s, development=True)
    data = srs.encode()
    assert len(data) == 272
    assert VerifierSrs.decode(data) == srs
    assert srs.digest == transcript.srs_digest(g1_s=g1_s, g2_s=g2_s)
    for bad in _altered(data):
        with pytest.raises(BundleMismatch):
            VerifierSrs.decode(bad)


def _altered(data: bytes) -> Sequence[bytes]:
    generator = data[:145] + b"\1" + data[146:]
    return [b"", data[:-1], data + b"\0", b"X" + data[1:], data[:13] + b"\1" + data[14:], generator]
