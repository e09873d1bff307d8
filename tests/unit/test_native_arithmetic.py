"""The compiled core's arithmetic against plain integers, in every variant that this CPU runs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from types import ModuleType

import numpy as np
import pytest
from eth_utils.crypto import keccak
from hypothesis import given, settings
from hypothesis import strategies as st

from zkserve.engines.native import core
from zkserve.engines.native.protocol import curve
from zkserve.errors import EngineFailed

P, Q = curve.ORDER, curve.FIELD
INFINITY = bytes(64)
GENERATOR = curve.g1_to_bytes((1, 2))

pytestmark = pytest.mark.skipif(not core.available(), reason="the core is not compiled here")


@cache
def _variants() -> tuple[str, ...]:
    fastest = core.load("_core").supported_variant()
    return core.VARIANTS[: core.VARIANTS.index(fastest) + 1]


@pytest.fixture(params=core.VARIANTS)
def module(request: pytest.FixtureRequest) -> ModuleType:
    if request.param not in _variants():
        pytest.skip("this CPU does not run it")
    return core.load(request.param)


def word(value: int) -> bytes:
    return value.to_bytes(32, "big")


def integer(data: bytes) -> int:
    return int.from_bytes(data, "big")


@cache
def multiple(scalar: int) -> bytes:
    """The multiple of the generator, by plain Python."""
    return curve.g1_to_bytes(curve.combine([(scalar % P, (1, 2))]))


def minus(point: bytes) -> bytes:
    return point[:32] + word(-integer(point[32:]) % Q)


def edges(modulus: int) -> list[int]:
    limbs = [2**64 - 1, 2**64, 2**128 - 1, 2**192, 2**253, 2**52, 2**104 - 1, 2**208]
    return [0, 1, 2, 3, modulus - 1, modulus - 2, (modulus + 1) // 2, *limbs]


FIELDS = [("fr", P), ("fq", Q)]


@pytest.mark.parametrize(("field", "modulus"), FIELDS)
def test_fields_compute_as_integers_do(module: ModuleType, field: str, modulus: int) -> None:
    compute = getattr(module, field)
    for a in edges(modulus):
        for b in edges(modulus):
            _check_field(compute, modulus, a, b)


@pytest.mark.parametrize(("field", "modulus"), FIELDS)
@given(data=st.data())
@settings(max_examples=200)
def test_fields_compute_as_integers_do_anywhere(
    field: str, modulus: int, data: st.DataObject
) -> None:
    numbers = st.integers(0, modulus - 1)
    a, b = data.draw(numbers), data.draw(numbers)
    for variant in _variants():
        _check_field(getattr(core.load(variant), field), modulus, a, b)


def _check_field(compute, modulus: int, a: int, b: int) -> None:
    x, y = word(a), word(b)
    assert integer(compute("add", x, y)) == (a + b) % modulus
    assert integer(compute("sub", x, y)) == (a - b) % modulus
    assert integer(compute("mul", x, y)) == a * b % modulus
    assert integer(compute("square", x, y)) == a * a % modulus
    assert integer(compute("negate", x, y)) == -a % modulus
    assert integer(compute("inverse", x, y)) == (pow(a, -1, modulus) if a else 0)


@pytest.mark.parametrize(("field", "modulus"), FIELDS)
def test_words_that_are_not_canonical_are_refused(
    module: ModuleType, field: str, modulus: int
) -> None:
    compute = getattr(module, field)
    for value in (modulus, modulus + 1, 2**255, 2**256 - 1):
        with pytest.raises(ValueError, match="canonical"):
            compute("add", word(value), word(0))
    with pytest.raises(ValueError, match="31 bytes"):
        compute("add", bytes(31), word(0))


def test_integers_become_scalars(module: ModuleType) -> None:
    for value in (0, 1, P - 1, P, P + 1, 2 * P, 5 * P + 7, 2**256 - 1):
        assert integer(module.fr_reduce(word(value))) == value % P
    for value in (0, 1, -1, 2**63 - 1, -(2**63)):
        assert integer(module.fr_from_integer(value)) == value % P


def test_batches_of_inverses_leave_zeros_alone(module: ModuleType) -> None:
    values = [0, 1, 5, 0, P - 1, 12345, 0]
    inverses = module.fr_batch_inverse([word(value) for value in values])
    assert [integer(i) for i in inverses] == [pow(v, -1, P) if v else 0 for v in values]
    assert module.fr_batch_inverse([]) == []


def test_keccak_is_the_evms(module: ModuleType) -> None:
    for length in (0, 1, 31, 32, 135, 136, 137, 271, 272, 1000):
        data = bytes(i % 251 for i in range(length))
        assert module.keccak256(data) == keccak(data)


# Points


def test_additions_are_right_where_the_formula_is_not(module: ModuleType) -> None:
    for a in (0, 1, 2, 7, P - 1, P - 2):
        for b in (0, 1, 2, 7, P - 1, P - 2):
            assert module.g1_add(multiple(a), multiple(b)) == multiple(a + b)


@pytest.mark.parametrize("scalar", [0, 1, 2, 15, 16, 17, P - 1, P - 2, 2**253, 2**128 - 1])
def test_multiples(module: ModuleType, scalar: int) -> None:
    assert module.g1_multiply(GENERATOR, word(scalar)) == multiple(scalar)
    assert module.g1_multiply(INFINITY, word(scalar)) == INFINITY


@pytest.mark.parametrize(
    "point",
    [word(1) + word(3), word(1) + word(Q + 2), word(Q) + word(0), word(0) + word(1), bytes(63)],
    ids=["off the curve", "y too large", "x too large", "almost infinity", "short"],
)
def test_points_that_are_none_are_refused(module: ModuleType, point: bytes) -> None:
    with pytest.raises(ValueError, match=r"point|bytes"):
        module.g1_multiply(point, word(1))


def test_the_second_group_is_refused_outside_its_subgroup(module: ModuleType) -> None:
    generator = module.g2_generator()
    assert generator == curve.g2_to_bytes(curve.GENERATOR_2)
    outside = _g2_outside_the_subgroup()
    for bad in (outside, word(Q) + generator[32:], generator[:96] + word(5), generator[:127]):
        with pytest.raises(ValueError, match=r"G2|bytes"):
            module.g2_multiply(bad, word(1))
    assert module.g2_multiply(generator, word(0)) == bytes(128)


def _g2_outside_the_subgroup() -> bytes:
    """A point of the twist's curve; nearly all of them lie outside the subgroup."""

    def times(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
        return (a[0] * b[0] - a[1] * b[1]) % Q, (a[0] * b[1] + a[1] * b[0]) % Q

    norm = pow(82, -1, Q)
    b = (27 * norm % Q, -3 * norm % Q)
    for x0 in range(1, 1000):
        x = (x0, 1)
        cube = times(times(x, x), x)
        y2 = ((cube[0] + b[0]) % Q, (cube[1] + b[1]) % Q)
        length = pow(y2[0] * y2[0] + y2[1] * y2[1], (Q + 1) // 4, Q)
        for root in (length, Q - length):
            half = (y2[0] + root) * (Q + 1) // 2 % Q
            y0 = pow(half, (Q + 1) // 4, Q)
            if y0 == 0 or y0 * y0 % Q != half:
                continue
            y = (y0, y2[1] * pow(2 * y0, -1, Q) % Q)
            if times(y, y) == y2:
                return word(x[1]) + word(x[0]) + word(y[1]) + word(y[0])
    raise AssertionError("half of all abscissae have a point")


def test_the_pairing_is_bilinear_and_not_constant(module: ModuleType) -> None:
    a, b = 0x1234567890ABCDEF1234567890ABCDEF, P - 987654321
    g2 = module.g2_generator()
    left = (multiple(a), module.g2_multiply(g2, word(b)))
    assert module.pairing_is_one([left, (minus(multiple(a * b)), g2)])
    assert not module.pairing_is_one([left, (minus(multiple(a * b + 1)), g2)])
    assert not module.pairing_is_one([left])
    assert not module.pairing_is_one([(GENERATOR, g2)])
    three = [(multiple(3), g2), (multiple(4), g2), (minus(multiple(7)), g2)]
    assert module.pairing_is_one(three)


def test_pairs_with_infinity_count_as_one(module: ModuleType) -> None:
    g2 = module.g2_generator()
    assert module.pairing_is_one([])
    assert module.pairing_is_one([(INFINITY, g2), (GENERATOR, bytes(128))])
    assert not module.pairing_is_one([(INFINITY, g2), (GENERATOR, g2)])


def test_the_pairing_agrees_with_the_one_in_python(module: ModuleType) -> None:
    g2 = curve.GENERATOR_2
    for scalar in (5, 6):
        pairs = [(multiple(5), g2), (minus(multiple(scalar)), g2)]
        decoded = [(curve.g1_from_bytes(point), other) for point, other in pairs]
        encoded = [(point, curve.g2_to_bytes(other)) for point, other in pairs]
        assert module.pairing_is_one(encoded) == curve.pairing_is_one(decoded) == (scalar == 5)


# Sums of multiples


@cache
def _bases(n: int) -> tuple[bytes, tuple[int, ...]]:
    """Points with known discrete logarithms: i * i + 1 for the i-th."""
    logs = tuple(i * i + 1 for i in range(n))
    module = core.load()
    return b"".join(module.g1_multiply(GENERATOR, word(log)) for log in logs), logs


def _expected(logs: Sequence[int], scalars: Sequence[int]) -> bytes:
    total = sum(log * int(scalar) for log, scalar in zip(logs, scalars, strict=False))
    return core.load().g1_multiply(GENERATOR, word(total % P))


def _random_scalars(n: int, seed: int = 1) -> list[int]:
    data = np.random.default_rng(seed).bytes(40 * n)
    return [int.from_bytes(data[40 * i : 40 * i + 40], "big") % P for i in range(n)]


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("n", [0, 1, 2, 3, 7, 8, 9, 100, 3000])
def test_sums(module: ModuleType, n: int, threads: int) -> None:
    points, logs = _bases(n)
    bases = module.Bases(points, threads)
    scalars = _random_scalars(n)
    assert bases.msm(b"".join(map(word, scalars))) == _expected(logs, scalars)
    small = np.random.default_rng(2).integers(-(2**31) + 1, 2**31, n).astype(np.int32)
    assert bases.msm_small(small) == _expected(logs, small)


def test_sums_over_more_points_than_one_batch(module: ModuleType) -> None:
    n = 40000
    points, logs = _many_points(n)
    bases = module.Bases(points, 2)
    scalars = _random_scalars(n, seed=3)
    assert bases.msm(b"".join(map(word, scalars))) == _expected(logs, scalars)
    for small in (np.zeros(n), np.arange(n) % 256, np.arange(n) % 3 - 1, np.arange(n) - 20000):
        assert bases.msm_small(small.astype(np.int32)) == _expected(logs, small)


@cache
def _many_points(n: int) -> tuple[bytes, list[int]]:
    """Products of 200 and n / 200 logarithms, by additions."""
    module = core.load()
    rows = [module.g1_multiply(GENERATOR, word(1000 * row)) for row in range(1, n // 200 + 1)]
    columns = [module.g1_multiply(GENERATOR, word(column)) for column in range(1, 201)]
    points = b"".join(module.g1_add(row, column) for row in rows for column in columns)
    logs = [1000 * row + column for row in range(1, n // 200 + 1) for column in range(1, 201)]
    return points, logs


@pytest.mark.parametrize("n", [1, 9, 600])
def test_sums_at_the_borders_of_digits(module: ModuleType, n: int) -> None:
    points, logs = _bases(n)
    bases = module.Bases(points, 2)
    borders = [0, 1, P - 1, 2**253, P - 2**200]
    borders += [2**c * k + d for c in range(1, 250, 31) for k in (1, 3) for d in (-1, 0, 1)]
    borders += [sum(2 ** (c * w + c - 1) for w in range(250 // c)) for c in range(4, 17)]
    for value in borders:
        for scalars in ([value % P] * n, [value % P if i % 2 else 1 for i in range(n)]):
            assert bases.msm(b"".join(map(word, scalars))) == _expected(logs, scalars)


@pytest.mark.parametrize("edge", [0, 1, 127, 128, 255, 256, 32767, 65535, 65536, 2**31 - 1])
def test_small_sums_at_the_borders_of_widths(module: ModuleType, edge: int) -> None:
    points, logs = _bases(600)
    bases = module.Bases(points, 2)
    for scalars in (
        np.full(600, edge),
        np.full(600, -edge),
        np.where(np.arange(600) % 2, edge, -1),
    ):
        assert bases.msm_small(scalars.astype(np.int32)) == _expected(logs, scalars)


def test_sums_of_equal_opposite_and_infinite_points(module: ModuleType) -> None:
    one, two = GENERATOR, multiple(2)
    kinds: list[tuple[list[bytes], list[int]]] = [
        ([one] * 64, [1] * 64),
        ([one, minus(one)] * 32, [1, -1] * 32),
        ([INFINITY] * 64, [0] * 64),
        ([one, INFINITY, minus(one), two] * 16, [1, 0, -1, 2] * 16),
        ([one, one, minus(two), two] * 16, [1, 1, -2, 2] * 16),
    ]
    for points, logs in kinds:
        bases = module.Bases(b"".join(points), 2)
        for scalars in ([1] * 64, [5] * 64, [P - 1] * 64, _random_scalars(64), [*range(64)]):
            expected = _expected(logs, scalars)
            assert bases.msm(b"".join(map(word, scalars))) == expected
            if max(scalars) < 2**31:
                assert bases.msm_small(np.array(scalars, np.int32)) == expected


@given(
    st.lists(st.tuples(st.integers(-3, 3), st.integers(0, P - 1) | st.integers(0, 3)), max_size=40)
)
@settings(max_examples=60)
def test_sums_are_the_same_in_every_variant(terms: list[tuple[int, int]]) -> None:
    points = b"".join(multiple(log) for log, _ in terms)
    scalars = b"".join(word(scalar) for _, scalar in terms)
    expected = multiple(sum(log * scalar for log, scalar in terms))
    for variant in _variants():
        assert core.load(variant).Bases(points, 2).msm(scalars) == expected


def test_sums_refuse_more_scalars_than_points(module: ModuleType) -> None:
    bases = module.Bases(GENERATOR, 1)
    with pytest.raises(ValueError, match="as many scalars"):
        bases.msm(bytes(64))
    with pytest.raises(ValueError, match="as many scalars"):
        bases.msm_small(np.zeros(2, np.int32))
    with pytest.raises(ValueError, match="canonical"):
        bases.msm(word(P))
    with pytest.raises(ValueError, match="G1"):
        module.Bases(word(1) + word(1), 1)


# Randomness


def test_random_scalars_never_come_twice(module: ModuleType) -> None:
    drawn = [module.random_scalars(b"key", b"statement", 0, 50) for _ in range(2)]
    scalars = [integer(scalar) for draw in drawn for scalar in draw]
    assert len(set(scalars)) == 100
    assert all(0 < scalar < P for scalar in scalars)


def test_random_scalars_are_spread_over_the_field(module: ModuleType) -> None:
    """A thousand draws into sixteen parts; each count is within seven standard deviations."""
    counts = [0] * 16
    for scalar in module.random_scalars(b"", b"", 0, 4096):
        counts[16 * integer(scalar) // P] += 1
    assert all(abs(count - 256) < 7 * 16 for count in counts)


def test_a_missing_core_says_how_to_get_one() -> None:
    with pytest.raises(EngineFailed, match="not installed") as failure:
        core.load("_core_of_another_cpu")
    assert "compiler" in str(failure.value.remedy)
