"""Generated verifiers, without a chain: their arithmetic against the Python verifier's."""

from __future__ import annotations

import json
import random
import re
import runpy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.native_circuits import equation, lay_out, product, tensor
from tests.native_random import random_circuit
from zkserve.engines.native.evm.claim import ClaimValue
from zkserve.engines.native.evm.equations import Equations
from zkserve.engines.native.evm.opening import opening
from zkserve.engines.native.evm.solidity import generate
from zkserve.engines.native.evm.tiles import TileWeights
from zkserve.engines.native.evm.words import Words
from zkserve.engines.native.evm.yul import Graph, P, Root, Value
from zkserve.engines.native.protocol.certificate import certify
from zkserve.engines.native.protocol.constraints import bracket
from zkserve.engines.native.protocol.description import OUTPUT, Description, OutputKind, decode
from zkserve.engines.native.protocol.equations import equation_weights
from zkserve.engines.native.protocol.functionals import Challenges, Messages, claims
from zkserve.engines.native.protocol.vectors import Family, evaluate
from zkserve.engines.native.protocol.wire import DescriptionInvalid

ROOT = Path(__file__).parents[2]
NETWORKS = json.loads((ROOT / "tests/vectors/native/networks.json").read_text())
SPILL = 1 << 20
RANDOM_SEEDS = (2, 7, 19, 25, 33, 41, 57, 138)
MANY_TILES_SEED = 10


class Machine:
    """As much of the EVM as straight-line code needs; words are read only where one was written."""

    def __init__(self, memory: dict[int, int]) -> None:
        self.memory = dict(memory)

    def run(self, text: str) -> None:
        tokens = iter(re.findall(r"[a-z]\w*|0x[0-9a-f]+|\d+|[(),]", text))
        for token in tokens:
            assert token == "mstore"
            self._call(token, tokens)

    def _call(self, name: str, tokens: Iterator[str]) -> int:
        assert next(tokens) == "("
        values: list[int] = []
        for token in tokens:
            if token == ")":
                break
            if token != ",":
                values.append(self._value(token, tokens))
        return self._apply(name, values)

    def _value(self, token: str, tokens: Iterator[str]) -> int:
        if token in {"p", "p1"}:
            return P + (token == "p1")
        if token[0].isdigit():
            return int(token, 0)
        return self._call(token, tokens)

    def _apply(self, name: str, values: list[int]) -> int:
        word = 1 << 256
        match name, values:
            case "mstore", [address, value]:
                self.memory[address] = value
                return 0
            case "mload", [address]:
                return self.memory[address]
            case "add", [a, b]:
                return (a + b) % word
            case "sub", [a, b]:
                return (a - b) % word
            case "mod", [a, b]:
                return a % b
            case "addmod", [a, b, m]:
                return (a + b) % m
            case "mulmod", [a, b, m]:
                return a * b % m
        raise AssertionError(f"{name} of {len(values)}")


@dataclass
class Run:
    """A graph whose leaves are random words."""

    graph: Graph
    memory: dict[int, int]
    random: random.Random

    def word(self, value: int | None = None) -> Value:
        address = 32 * len(self.memory)
        self.memory[address] = self.random.randrange(P) if value is None else value
        return self.graph.load(address)

    def words(self, count: int) -> list[Value]:
        return [self.word() for _ in range(count)]

    def signed(self, value: int) -> Value:
        address = 32 * len(self.memory)
        self.memory[address] = value % (1 << 256)
        return self.graph.signed(address)

    def of(self, value: Value) -> int:
        return self.memory[value.literal]

    def results(self, *stages: list[Value]) -> list[int]:
        """Emit, execute, and return what the roots of all stages are."""
        flat = [value for stage in stages for value in stage]
        addresses = iter(range(SPILL // 2, SPILL // 2 + 32 * len(flat), 32))
        roots = [[Root(address=next(addresses), value=value) for value in s] for s in stages]
        texts, _ = self.graph.emit(roots, SPILL)
        machine = Machine(self.memory)
        for text in texts:
            machine.run(text)
        found = [machine.memory[root.address] for stage in roots for root in stage]
        assert all(value < P for value in found)
        return found


def new_run(seed: int) -> Run:
    return Run(Graph(), {}, random.Random(seed))


OPERATIONS = st.lists(
    st.tuples(st.sampled_from("+-*c"), st.integers(0, 1 << 16), st.integers(0, 1 << 16)),
    min_size=1,
    max_size=120,
)


@given(OPERATIONS, st.integers(0, 1 << 30))
def test_emitted_code_computes_the_expression(
    operations: list[tuple[str, int, int]], seed: int
) -> None:
    run = new_run(seed)
    values = [*run.words(3), run.word(0), run.word(P - 1), run.signed(-(1 << 62) + 1)]
    numbers = [run.of(value) for value in values[:5]] + [P - (1 << 62) + 1]
    for operation, i, j in operations:
        a, b, x, y = values[i % len(values)], values[j % len(values)], *_pick(numbers, i, j)
        value, number = {
            "+": (a + b, x + y),
            "-": (a - b, x - y),
            "*": (a * b, x * y),
            "c": (a + (j - 1000) * b, x + (j - 1000) * y),
        }[operation]
        values.append(value)
        numbers.append(number % P)
    half = len(values) // 2
    assert run.results(values[half:], values[:half]) == numbers[half:] + numbers[:half]


def _pick(numbers: list[int], i: int, j: int) -> tuple[int, int]:
    return numbers[i % len(numbers)], numbers[j % len(numbers)]


def test_a_long_sum_does_not_overflow() -> None:
    run = new_run(1)
    largest = [run.word(P - 1) for _ in range(100)]
    total = run.graph.sum(value * value for value in largest)
    assert run.results([total, total - largest[0]]) == [100, 101]


def _split(values: list[Value], bits: tuple[int, ...]) -> list[list[Value]]:
    parts = []
    for count in bits:
        parts.append(values[:count])
        values = values[count:]
    return parts


def _words(run: Run, d: Description, *, hidden: bool, multipliers: tuple[int, ...]) -> Words:
    single = ("alpha", "lam", "eta", "chi_x", "theta", "gamma", "zeta", "nu", "omega")
    k = d.header.k
    beta, factors = run.word(), run.words(d.evaluations)
    powers = [pow(run.of(beta), 5 + i, P) for i in range(d.evaluations + 1)]
    weighted = sum(x * run.of(y) for x, y in zip(powers, factors, strict=False)) % P
    return Words(
        graph=run.graph,
        hidden=hidden,
        tau=run.words(d.rounds),
        equations=[
            _split(run.words(sum(d.equation_challenges(e))), d.equation_challenges(e))
            for e in d.equations
        ],
        output=_split(run.words(sum(d.output_challenges)), d.output_challenges),
        r=run.words(d.rounds),
        chi=run.words(k),
        rho=run.words(k),
        multipliers=tuple(run.word(m) for m in multipliers),
        outputs=[run.signed(run.random.randrange(-(1 << 61), 1 << 61)) for _ in range(d.outputs)],
        input_sum=run.word(),
        first=run.word(),
        main=run.word(),
        beta=beta,
        factors=factors,
        powers=[run.word(power) for power in powers],
        power_sum=run.word(weighted),
        mask=run.word(),
        final=run.word(),
        openings=run.words(6),
        **{name: run.word() for name in single},
    )


@pytest.mark.parametrize("hidden", [False, True], ids=["public", "hidden"])
@pytest.mark.parametrize("name", NETWORKS)
def test_claims_and_tiles_are_those_of_the_python_verifier(name: str, hidden: bool) -> None:
    _compare(decode(bytes.fromhex(NETWORKS[name]["description"])), hidden=hidden)


@pytest.mark.parametrize("seed", RANDOM_SEEDS)
def test_claims_and_tiles_of_random_circuits(seed: int) -> None:
    d = random_circuit(seed).description
    for hidden in (False, True):
        _compare(d, hidden=hidden)


def test_inputs_that_fit_no_tile_cannot_be_hidden() -> None:
    d = certify(
        lay_out(
            k=9,
            input_bytes=2,
            tensors=[tensor(1, 16, 32)],
            equations=[equation(OUTPUT, 1, products=(product(0, 1),))],
        )
    )
    common = {"srs_digest": bytes(32), "g2_s": bytes(128)}
    generate(d.encode(), **common, mode=0)
    with pytest.raises(DescriptionInvalid, match="hidden input"):
        generate(d.encode(), **common, mode=1)


def _compare(d: Description, *, hidden: bool) -> None:
    run = new_run(7)
    multipliers = tuple(run.random.randrange(1, 1 << 16) for _ in range(d.multipliers))
    w = _words(run, d, hidden=hidden, multipliers=multipliers)
    packed = run.random.randbytes(d.input_packing.size_bytes)
    width = d.input_packing.word_bytes
    chi_x = run.of(w.chi_x)
    run.memory[w.input_sum.literal] = (
        sum(
            int.from_bytes(packed[i : i + width], "big") * pow(chi_x, i // width, P)
            for i in range(0, len(packed), width)
        )
        % P
    )

    def numbers(values: list[Value]) -> list[int]:
        return [run.of(value) for value in values]

    points = [[run.of(u) for part in parts for u in part] for parts in w.equations]
    split = d.split_multipliers(multipliers)
    weights = [
        equation_weights(d, equation, own, point)
        for equation, (own, _), point in zip(d.equations, split, points, strict=True)
    ]
    common = {"alpha": run.of(w.alpha), "lambda_": run.of(w.lam), "eta": run.of(w.eta)}
    known = bracket(
        d,
        **common,
        tau=numbers(w.tau),
        r=numbers(w.r),
        multipliers=[own.multiplier for own in weights],
        evaluations=numbers(w.factors),
    )
    outputs = [v - (1 << 256) if v >> 255 else v for v in numbers(w.outputs)]
    terms, value = claims(
        d,
        Challenges(
            **common,
            tau=numbers(w.tau),
            equations=points,
            output=[run.of(u) for part in w.output for u in part],
            r=numbers(w.r),
            chi_x=chi_x,
            chi=numbers(w.chi),
            beta=run.of(w.beta),
        ),
        weights,
        [factors for _, factors in split],
        Messages(
            total=run.of(w.first),
            libra=(run.of(w.main) - known) % P,
            evaluations=numbers(w.factors),
            masked=run.of(w.mask),
        ),
        packed_input=None if hidden else packed,
        outputs=outputs,
    )
    weight_of = evaluate(terms, numbers(w.rho), d.cells)
    h = d.header
    families = [(Family.WEIGHTS, h.weight_tiles), (Family.INPUT, int(hidden))]
    families += [(Family.ROWS, h.row_tiles), (Family.HELPERS, h.helper_tiles)]
    expected = [weight_of.get((family, t), 0) for family, count in families for t in range(count)]

    equations = Equations(d, w)
    found = run.results([ClaimValue(equations).value()], TileWeights(equations).values())
    assert found == [value, *expected]


@pytest.mark.parametrize("k", [9, 10, 15])
def test_the_opening_is_section_10_to_the_letter(k: int) -> None:
    run = new_run(k)
    d = decode(bytes.fromhex(NETWORKS["worked example"]["description"]))
    w = _words(run, d, hidden=False, multipliers=(1,) * d.multipliers)
    rho = run.words(k)
    w = Words(**{**vars(w), "rho": rho})
    zeta = run.of(w.zeta)
    inverse = pow(zeta, -1, P)
    run.memory[w.openings[5].literal] = inverse
    factors, conditions = opening(k, w)
    found = run.results([*factors, *conditions])

    low, u = k // 2, [run.of(value) for value in rho]
    theta, gamma, nu, omega = (run.of(v) for v in (w.theta, w.gamma, w.nu, w.omega))
    g_z, g_i, h_z, h_i, s_z = (run.of(value) for value in w.openings[:5])

    def weights(point: list[int]) -> list[int]:
        entries = [1]
        for c in point:
            entries = [e * f % P for e in entries for f in (1 - c, c)]
        return entries

    def at(coefficients: list[int], x: int) -> int:
        return sum(c * pow(x, i, P) for i, c in enumerate(coefficients)) % P

    p_hi, p_lo = weights(u[: k - low]), weights(u[k - low :])
    q = [gamma * c for c in p_hi] + [0]
    q = [c - pow(theta, j, P) for j, c in enumerate(q)]
    s_i = zeta * (
        g_z * at(p_lo, inverse)
        + g_i * at(p_lo, zeta)
        + h_z * at(q, inverse)
        + h_i * at(q, zeta)
        - 2 * gamma * run.of(w.final)
        - zeta * s_z
    )
    b = 1 << low
    moved = pow(zeta, b, P) - theta
    y1 = g_z - moved * pow(zeta, b - 1, P) * g_i + nu * g_z + nu**2 * h_z + nu**3 * s_z
    y2 = g_i + nu * h_i + nu**2 * s_i
    expected = [
        nu**2 + omega * nu,
        -moved,
        nu + omega,
        nu**3 + omega * nu**2,
        zeta,
        omega * inverse,
        -(y1 + omega * y2),
        0,
        theta,
    ]
    assert found == [value % P for value in expected]


def source_of(name: str, mode: int = 0) -> str:
    data = bytes.fromhex(NETWORKS[name]["description"])
    return generate(data, srs_digest=bytes([1] * 32), g2_s=bytes([2] * 128), mode=mode)


def test_the_same_description_gives_the_same_source() -> None:
    source = source_of("8 bits")
    assert source == source_of("8 bits")
    assert source != source_of("8 bits", mode=1)
    assert "«" not in source
    assert "import" not in source


def test_source_names_what_it_is_pinned_to() -> None:
    source = source_of("worked example")
    d = "df92f97b6f30dcf990ae2ab3666cc746fb07253191bf508c74289378c4dda360"
    assert d not in source  # the digest in the protocol is of a description without certificate
    assert "0x" + "01" * 32 in source
    assert source.count("0x" + "02" * 32) == 4


def test_the_first_message_does_not_reach_what_lies_behind_it() -> None:
    d = random_circuit(MANY_TILES_SEED).description
    assert 7 * 32 + 64 * d.header.row_tiles > 32 * d.evaluations
    source = generate(d.encode(), srs_digest=bytes(32), g2_s=bytes(128), mode=0)
    size = int(re.search(r"draw\(224 \+ (\d+), 0\)", source)[1])  # type: ignore[index]
    first = int(re.search(r"multiplierWords\([^,]+, \d+, (0x\w+)\)", source)[1], 16)  # type: ignore[index]
    counter = 32
    assert 0xC0 + 224 + size + counter <= first


def test_refused_descriptions_get_no_contract() -> None:
    data = bytearray.fromhex(NETWORKS["worked example"]["description"])
    data[-1] ^= 1
    with pytest.raises(DescriptionInvalid, match="certificate"):
        generate(bytes(data), srs_digest=bytes(32), g2_s=bytes(128), mode=0)
    with pytest.raises(DescriptionInvalid):
        generate(bytes(data[:-1]), srs_digest=bytes(32), g2_s=bytes(128), mode=0)
    with pytest.raises(ValueError, match="mode"):
        generate(bytes(data), srs_digest=bytes(32), g2_s=bytes(128), mode=2)


@pytest.mark.parametrize("name", ["native/NativeProof.sol", "interfaces/IProofVerifier.sol"])
def test_packaged_sources_are_those_of_the_contracts(name: str) -> None:
    packaged = ROOT / "zkserve/engines/native/evm/contract" / Path(name).name
    assert packaged.read_text() == (ROOT / "contracts/src" / name).read_text()


def test_fixtures_of_the_solidity_tests_are_what_the_engine_generates() -> None:
    script = runpy.run_path(str(ROOT / "contracts/test/fixtures/make_native.py"))
    for name, path in script["FIXTURES"].items():
        assert path.read_text() == script["source"](name), "run the script again"


def test_networks_cover_both_kinds_of_output() -> None:
    kinds = {
        decode(bytes.fromhex(network["description"])).header.output_kind
        for network in NETWORKS.values()
    }
    assert kinds == set(OutputKind)
