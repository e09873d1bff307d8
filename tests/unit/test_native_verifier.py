"""The Python verifier of native proofs, and that every verifier decides alike."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest
from eth_utils.crypto import keccak

from tests import native_vectors
from tests.native_circuits import equation, lay_out, product, tensor
from tests.native_vectors import Case, ProofVector
from tests.unit.test_native_description import example_bytes
from zkserve.engines.native import core
from zkserve.engines.native.protocol.curve import (
    FIELD,
    GENERATOR,
    GENERATOR_2,
    ORDER,
    combine,
    g1_from_bytes,
    g1_to_bytes,
    g2_from_bytes,
    g2_to_bytes,
    pairing_is_one,
)
from zkserve.engines.native.protocol.description import OUTPUT, decode
from zkserve.engines.native.protocol.transcript import (
    NO_CONTEXT,
    Transcript,
    context,
    hidden_input_digest,
    outputs_digest,
    statement,
    weights_digest,
)
from zkserve.engines.native.protocol.verifier import verify
from zkserve.errors import ProofInvalid

FILES = native_vectors.files()
VECTORS = {path.stem: native_vectors.read(path) for path in FILES}


def accepts(vector: ProofVector, case: Case | None = None, **changes: Any) -> bool:
    try:
        verify(vector.description, **vector.arguments(case) | changes)
    except ProofInvalid:
        return False
    return True


def test_there_are_vectors_of_every_circuit() -> None:
    assert len(VECTORS) == 6


@pytest.mark.parametrize("name", VECTORS)
def test_an_honest_proof_is_accepted(name: str) -> None:
    vector = VECTORS[name]
    assert accepts(vector)
    assert accepts(vector, context=None)


@pytest.mark.parametrize("name", VECTORS)
def test_a_spread_of_edits_is_rejected(name: str) -> None:
    vector = VECTORS[name]
    for case in vector.cases[::6]:
        assert not accepts(vector, case), case


@pytest.mark.parametrize("name", VECTORS)
def test_every_edit_is_rejected_by_the_compiled_verifier(name: str) -> None:
    if not core.available():
        pytest.skip("the compiled core is not installed")
    vector, check = VECTORS[name], core.load().verify
    assert check(vector.description, **vector.arguments())
    for case in vector.cases:
        assert not check(vector.description, **vector.arguments(case)), case


@pytest.mark.parametrize("name", VECTORS)
def test_files_are_written_as_they_are_read(name: str) -> None:
    vector = VECTORS[name]
    assert native_vectors.write(vector) == (native_vectors.FOLDER / f"{name}.json").read_text()
    where = context(
        chain_id=vector.chain_id, registry=vector.registry, version_id=vector.version_id
    )
    assert where == vector.context


def test_the_parts_of_a_proof_are_all_of_it() -> None:
    for vector in VECTORS.values():
        d = decode(vector.description)
        *_, last = native_vectors.parts(d, hidden=bool(vector.mode))
        assert last.at + last.size == len(vector.proof) == d.proof_bytes(hidden=bool(vector.mode))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": 1}, "bytes; got"),
        ({"mode": 2}, "mode is 0 or 1"),
        ({"mode": -1}, "mode is 0 or 1"),
        ({"context": bytes(31) + b"\1"}, "another registration"),
        ({"srs_digest": bytes(32)}, "pairing equation"),
        ({"g2_s": g2_to_bytes(GENERATOR_2)}, "pairing equation"),
        ({"g2_s": bytes(128)}, "secret zero"),
        ({"g2_s": bytes(127)}, "expected 128 bytes"),
        ({"g2_s": b"\xff" * 128}, "below the field"),
        ({"weights": bytes(32)}, "other weights"),
        ({"weights": bytes(31)}, "are 32 bytes"),
        ({"outputs": ["1", "2", "3"]}, "are integers"),
        ({"outputs": [True, False, True]}, "are integers"),
        ({"outputs": [1.0, 2.0, 3.0]}, "are integers"),
        ({"outputs": None}, "not a native proof"),
        ({"proof": None}, "not a native proof"),
    ],
)
def test_bad_arguments_are_rejections(changes: dict[str, Any], message: str) -> None:
    vector = VECTORS["dense-public"]
    with pytest.raises(ProofInvalid, match=message):
        verify(vector.description, **vector.arguments() | changes)


def test_a_description_that_is_none_is_a_rejection() -> None:
    vector = VECTORS["dense-public"]
    with pytest.raises(ProofInvalid):
        verify(vector.description[:-1], **vector.arguments())


def test_padding_of_a_packed_input_is_zero() -> None:
    vector = VECTORS["convolutions-public"]
    case = next(case for case in vector.cases if case.name == "padding of the input")
    with pytest.raises(ProofInvalid, match="padding behind the rows"):
        verify(vector.description, **vector.arguments(case))


def test_a_proof_is_of_one_description() -> None:
    """The last 32 bytes, the certificate digest, decide nothing but the transcript."""
    vector = VECTORS["dense-public"]
    with pytest.raises(ProofInvalid, match="pairing equation"):
        verify(vector.description[:-32] + bytes(32), **vector.arguments())


def test_public_and_hidden_proofs_are_not_exchanged() -> None:
    public, hidden = VECTORS["dense-public"], VECTORS["dense-hidden"]
    assert not accepts(public, proof=hidden.proof)
    assert not accepts(hidden, proof=public.proof)
    assert not accepts(hidden, input=public.input)


# --- the worked example in section 7 of the protocol


def test_the_worked_example_of_the_transcript() -> None:
    generator = g1_to_bytes(GENERATOR)
    where = context(chain_id=31337, registry="0x1234", version_id=7)
    weights = weights_digest([generator], [300])
    assert where.hex() == "42c66e4d09b582dfae1b0f2ee1c2766a1536f9bbaa7bcd36a3ff8da75770c18c"
    assert weights.hex() == "e0daa367d972490ab7cf002ae49b0166c7aced04d0440ec1f4ad0bf386e83171"
    assert (
        outputs_digest([76, -77]).hex()
        == "e87ce91a51e0c5f3207c91eb4407fb876a360f5780bd8cc385ab453aa345b265"
    )
    assert (
        hidden_input_digest(generator).hex()
        == "2db68e3b6708f03b60cdccf6b9c06a99f1957efedce59dfbe283738774358a03"
    )
    transcript = Transcript()
    transcript.absorb(
        statement(
            context=where,
            hidden=False,
            srs_digest=b"\x33" * 32,
            description_digest=keccak(example_bytes()),
            weights=weights,
            input_digest=keccak(bytes.fromhex("0a141e28")),
            outputs=[76, -77],
        )
    )
    transcript.absorb(3 * generator)
    assert [f"{c:064x}" for c in transcript.challenges(2)] == [
        "2856adac68e29e9662b944742b82eb37411f4d39e222c6a08d7b0b75531747cc",
        "1b37e0a8db8b6f1ddf4b8ee29a0d41dc32984d0d88c608866a2eb8b5d1b2e8b7",
    ]
    assert bytes(32) == NO_CONTEXT


# --- the curve


def test_sums_of_points() -> None:
    double = combine([(2, GENERATOR)])
    assert combine([(ORDER - 1, GENERATOR), (1, GENERATOR)]) is None
    assert combine([(5, GENERATOR), (3, double), (7, None)]) == combine([(11, GENERATOR)])
    assert combine([(1, GENERATOR), (1, GENERATOR)]) == double
    assert combine([(-1, GENERATOR)]) == (1, FIELD - 2)
    assert combine([]) is None
    # EIP-196: twice the generator
    assert double is not None
    assert double[0] == 0x030644E72E131A029B85045B68181585D97816A916871CA8D3C208C16D87CFD3


def test_points_are_read_canonically() -> None:
    assert g1_from_bytes(bytes(64)) is None
    assert g1_to_bytes(None) == bytes(64)
    for x, y in ((1, 3), (FIELD + 1, 2), (1, FIELD + 2), (FIELD, FIELD), (0, FIELD)):
        with pytest.raises(ValueError):
            g1_from_bytes(x.to_bytes(32, "big") + y.to_bytes(32, "big"))
    data = g2_to_bytes(GENERATOR_2)
    assert g2_from_bytes(data) == GENERATOR_2
    assert g2_from_bytes(bytes(128)) is None
    with pytest.raises(ValueError, match="curve"):
        g2_from_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def test_points_of_the_twist_outside_the_group_are_refused() -> None:
    # x = 1 + 0u, y a root of 1 + 3/(9 + u): on the twist, of another order
    x = (1, 0)
    y = _root(tuple(a + b for a, b in zip((1, 0), _twist_constant(), strict=True)))
    with pytest.raises(ValueError, match="group of the pairing"):
        g2_from_bytes(g2_to_bytes((x, y)))


def _twist_constant() -> tuple[int, int]:
    norm = pow(82, -1, FIELD)
    return 27 * norm % FIELD, -3 * norm % FIELD


def _root(a: tuple[int, int]) -> tuple[int, int]:
    """A square root in Fq2, q = 3 mod 4."""
    norm = pow(a[0] * a[0] + a[1] * a[1], (FIELD + 1) // 4, FIELD)
    for sign in (norm, -norm):
        real = pow((a[0] + sign) * pow(2, -1, FIELD), (FIELD + 1) // 4, FIELD)
        imaginary = a[1] * pow(2 * real, -1, FIELD) % FIELD
        if (real * real - imaginary * imaginary - a[0]) % FIELD == 0:
            return real, imaginary
    raise AssertionError("not a square; take another x")


def test_the_pairing_is_bilinear() -> None:
    a, b = 0x1234567, ORDER - 99
    minus = combine([(-a * b, GENERATOR)])
    left, right = combine([(a, GENERATOR)]), combine([(b, GENERATOR)])
    assert pairing_is_one([(left, GENERATOR_2), (combine([(-a, GENERATOR)]), GENERATOR_2)])
    assert pairing_is_one([(right, GENERATOR_2), (combine([(-b, GENERATOR)]), GENERATOR_2)])
    assert not pairing_is_one([(left, GENERATOR_2), (right, GENERATOR_2)])
    assert not pairing_is_one([(GENERATOR, GENERATOR_2)])
    assert pairing_is_one([(None, GENERATOR_2), (GENERATOR, None)])
    assert not pairing_is_one([(minus, GENERATOR_2), (left, GENERATOR_2)])


def test_the_pairing_agrees_with_the_compiled_one() -> None:
    """Bilinear in both arguments, with points of G2 that the other implementation made."""
    if not core.available():
        pytest.skip("the compiled core is not installed")
    b = 987654321987654321
    twice = g2_from_bytes(core.load().g2_multiply(g2_to_bytes(GENERATOR_2), b.to_bytes(32, "big")))
    minus = combine([(-b, GENERATOR)])
    assert pairing_is_one([(GENERATOR, twice), (minus, GENERATOR_2)])
    assert not pairing_is_one([(GENERATOR, twice), (GENERATOR, GENERATOR_2)])


def test_a_hidden_input_larger_than_its_tile_has_no_proof() -> None:
    """Regression: the compiled verifier read past the end of its point."""
    d = lay_out(
        k=9,
        input_bytes=2,
        tensors=[tensor(1, 16, 32)],
        equations=[equation(OUTPUT, 1, products=(product(0, 1),))],
    )
    assert d.hidden_input_bits == 10
    generator = g1_to_bytes(GENERATOR)
    filling = {
        "context": bytes(32),
        "point": generator,
        "multiplier": bytes(3) + b"\1",
        "scalar": bytes(31) + b"\1",
    }
    arguments: dict[str, Any] = {
        "srs_digest": bytes(32),
        "g2_s": g2_to_bytes(GENERATOR_2),
        "context": None,
        "mode": 1,
        "weights": weights_digest([generator] * d.header.weight_tiles, []),
        "input": hidden_input_digest(generator),
        "outputs": [0],
        "proof": b"".join(filling[part.kind] for part in native_vectors.parts(d, hidden=True)),
    }
    with pytest.raises(ProofInvalid, match="does not fit the tile"):
        verify(d.encode(), **arguments)
    if core.available():
        with ProcessPoolExecutor(1, mp_context=get_context("fork")) as child:
            assert child.submit(_compiled_accepts, d.encode(), arguments).result() is False


def _compiled_accepts(description: bytes, arguments: dict[str, Any]) -> bool:
    return bool(core.load().verify(description, **arguments))
