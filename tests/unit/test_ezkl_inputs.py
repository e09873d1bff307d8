"""Quantised inputs, salts and openings."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zkserve.engines.ezkl.inputs import NO_SALT, Opening, SaltShape, pack, quantise, unpack
from zkserve.errors import InputOutOfRange, InvalidInput, ProofInvalid

SALT = SaltShape.within(1024**3)
OPENING = Opening(values=(76, -77), salt=tuple(SALT.elements(bytes(32))), scale=8)


def floats(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def test_quantising_rounds_halves_away_from_zero():
    inputs = floats(0.5, -0.5, 0.499, 1.5, -1.5, 0.0)
    assert quantise(inputs, size=6, scale=0, bound=100) == (1, -1, 0, 2, -2, 0)
    assert quantise(floats(0.296875, -0.3), size=2, scale=8, bound=1000) == (76, -77)


@given(st.floats(width=32, min_value=-1e6, max_value=1e6), st.integers(0, 20))
def test_quantising_is_the_nearest_integer(value: float, scale: int):
    (found,) = quantise(floats(value), size=1, scale=scale, bound=1 << 62)
    assert abs(found - value * 2**scale) <= 0.5


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite_is_refused(bad: float):
    with pytest.raises(InvalidInput, match="Element 1 of the input is not a finite"):
        quantise(floats(0, bad), size=2, scale=8, bound=1000)


@pytest.mark.parametrize("inputs", [floats(1), floats(1, 2, 3), floats(1, 2).reshape(1, 2)])
def test_another_shape_is_refused(inputs: np.ndarray):
    with pytest.raises(InvalidInput, match=r"expected \(2,\)"):
        quantise(inputs, size=2, scale=8, bound=1000)


def test_the_bound_itself_is_out_of_range():
    assert quantise(floats(9), size=1, scale=0, bound=10) == (9,)
    with pytest.raises(InputOutOfRange, match="Element 0"):
        quantise(floats(-10), size=1, scale=0, bound=10)


def test_an_input_out_of_range_is_not_repeated_in_the_error():
    with pytest.raises(InputOutOfRange) as refused:
        quantise(floats(1, 7777.5), size=2, scale=0, bound=10)
    assert str(refused.value) == (
        "Element 1 of the input is out of range; magnitudes below 10 can be proved. "
        "Scale the input as the model expects."
    )


def test_a_bound_beyond_64_bits_is_none():
    with pytest.raises(InputOutOfRange):
        quantise(floats(1e30), size=1, scale=8, bound=1 << 200)


@given(st.lists(st.integers(-(1 << 63), (1 << 63) - 1), min_size=1, max_size=9))
def test_packing_is_reversible(values: list[int]):
    assert unpack(pack(values), size=len(values)) == tuple(values)


def test_packing_worked_example():
    assert pack((76, -77)).hex() == "000000000000004cffffffffffffffb3"
    with pytest.raises(InvalidInput):
        unpack(bytes(17), size=2)


@pytest.mark.parametrize("bound", [128**4, 1024**3, 16384**2, 256**2])
def test_salts_have_at_least_128_bits_below_the_bound(bound: int):
    shape = SaltShape.within(bound)
    assert shape.count * shape.bits >= 128
    assert 4 << shape.bits <= bound
    elements = shape.elements(b"\xff" * 32)
    assert len(elements) == shape.count
    assert all(0 <= element < 1 << shape.bits for element in elements)
    assert elements != shape.elements(b"\xfe" * 32)
    with pytest.raises(InvalidInput):
        shape.elements(b"short")


def test_openings_are_reversible():
    data = OPENING.encode()
    assert Opening.decode(data, size=2, scale=8, salt=SALT) == OPENING
    assert OPENING.to_real() == [0.296875, -0.30078125]


def opening_with(**changes: object) -> bytes:
    return json.dumps(
        json.loads(OPENING.encode()) | changes, separators=(",", ":"), sort_keys=True
    ).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b"[" * 100_000,
        OPENING.encode() + b" ",
        OPENING.encode().replace(b",", b", "),
        opening_with(input=[76]),
        opening_with(input=[76, -77, 0]),
        opening_with(input=[76, -77.0]),
        opening_with(input=[True, -77]),
        opening_with(input=[76, 1 << 63]),
        opening_with(input="76"),
        opening_with(salt=[]),
        opening_with(salt=[*OPENING.salt[:-1], 1 << SALT.bits]),
        opening_with(salt=[*OPENING.salt[:-1], -1]),
        opening_with(scale=9),
        opening_with(more=1),
    ],
)
def test_other_openings_are_refused(data: bytes):
    with pytest.raises(ProofInvalid, match="canonical"):
        Opening.decode(data, size=2, scale=8, salt=SALT)


def test_public_inputs_have_no_salt():
    assert NO_SALT.elements(bytes(32)) == []
