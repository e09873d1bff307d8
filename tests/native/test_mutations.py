"""More than a hundred thousand altered proofs: none is accepted, and both verifiers agree."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import pytest

from tests.native_circuits import CIRCUITS
from tests.native_proofs import Version, development_srs
from tests.native_vectors import Part, ProofVector, parts
from zkserve.engines.native import core
from zkserve.engines.native.protocol.curve import FIELD, GENERATOR, ORDER, combine, g1_to_bytes
from zkserve.engines.native.protocol.description import decode
from zkserve.engines.native.protocol.verifier import verify
from zkserve.errors import ProofInvalid

pytestmark = pytest.mark.prover

STATEMENTS = [(name, mode) for name in CIRCUITS for mode in (0, 1)]
PER_STATEMENT = 17_000
ALSO_IN_PYTHON = 60
POINTS = [g1_to_bytes(combine([(3**i, GENERATOR)])) for i in range(64)]


@pytest.fixture(scope="module")
def srs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return development_srs(tmp_path_factory.mktemp("srs"))


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """Arguments of a verifier that differ from an honest proof's; ``touched`` are its parts."""

    how: str
    arguments: dict[str, Any]
    touched: tuple[str, ...] = field(default=())


class Mutator:
    """Alters proofs of one statement.

    ``again`` is another proof of the same statement, ``other`` one of another input under the same
    weights: what an attacker who watches a service can put together.
    """

    def __init__(self, own: ProofVector, again: ProofVector, other: ProofVector, seed: int) -> None:
        self._own, self._again, self._other = own, again, other
        self._rng = random.Random(seed)
        d = decode(own.description)
        self.parts = list(parts(d, hidden=bool(own.mode)))

    def mutants(self) -> Iterator[Mutant]:
        """Yield forever; each part in turn is what is altered."""
        while True:
            for number, part in enumerate(self.parts):
                make = self._rng.choice(
                    (self._bit, self._byte, self._value, self._near, self._special, self._swap,
                     self._splice, self._run, self._balanced, self._claim)
                )  # fmt: skip
                mutant = make(number, part)
                if mutant is not None and mutant.arguments != self._own.arguments():
                    yield mutant

    def _with(self, how: str, *changes: tuple[Part, bytes]) -> Mutant:
        proof = bytearray(self._own.proof)
        for part, data in changes:
            proof[part.at : part.at + part.size] = data
        return Mutant(
            how=how,
            arguments=self._own.arguments() | {"proof": bytes(proof)},
            touched=tuple(part.name for part, _ in changes),
        )

    def _read(self, part: Part, source: ProofVector | None = None) -> bytes:
        return (source or self._own).proof[part.at : part.at + part.size]

    def _bit(self, _number: int, part: Part) -> Mutant:
        data = bytearray(self._read(part))
        data[self._rng.randrange(part.size)] ^= 1 << self._rng.randrange(8)
        return self._with("a bit", (part, bytes(data)))

    def _byte(self, _number: int, part: Part) -> Mutant:
        data = bytearray(self._read(part))
        data[self._rng.randrange(part.size)] = self._rng.randrange(256)
        return self._with("a byte", (part, bytes(data)))

    def _value(self, _number: int, part: Part) -> Mutant:
        if part.kind == "point":
            return self._with("another point", (part, self._rng.choice(POINTS)))
        limit = {"scalar": ORDER, "multiplier": 1 << 16, "context": 1 << 256}[part.kind]
        data = self._rng.randrange(limit).to_bytes(part.size, "big")
        return self._with("another value", (part, data))

    def _near(self, _number: int, part: Part) -> Mutant:
        data = self._read(part)
        if part.kind == "point":
            own = int.from_bytes(data[:32], "big"), int.from_bytes(data[32:], "big")
            step = self._rng.choice((1, -1, self._rng.randrange(ORDER)))
            moved = combine([(1, own if any(own) else None), (step, GENERATOR)])
            return self._with("a moved point", (part, g1_to_bytes(moved)))
        step = self._rng.choice((1, -1)) << self._rng.randrange(8 * part.size - 4)
        limit = ORDER if part.kind == "scalar" else 1 << 8 * part.size
        moved_value = (int.from_bytes(data, "big") + step) % limit
        return self._with("a near value", (part, moved_value.to_bytes(part.size, "big")))

    def _special(self, _number: int, part: Part) -> Mutant:
        data = self._read(part)
        if part.kind == "point":
            x, y = data[:32], int.from_bytes(data[32:], "big")
            shifted = int.from_bytes(x, "big") + FIELD
            choices = [
                bytes(64),
                x + (-y % FIELD).to_bytes(32, "big"),
                shifted.to_bytes(32, "big") + data[32:],
                data[32:] + x,
            ]
        elif part.kind == "scalar":
            value = int.from_bytes(data, "big")
            numbers = (0, 1, ORDER - 1, -value % ORDER, value + ORDER, 2 * value % ORDER)
            choices = [number.to_bytes(32, "big") for number in numbers]
        else:
            choices = [bytes(part.size), b"\xff" * part.size]
        return self._with("a special value", (part, self._rng.choice(choices)))

    def _swap(self, _number: int, part: Part) -> Mutant:
        second = self._rng.choice([p for p in self.parts if p.kind == part.kind])
        return self._with("swapped", (part, self._read(second)), (second, self._read(part)))

    def _splice(self, _number: int, part: Part) -> Mutant:
        source = self._rng.choice((self._again, self._other))
        return self._with("of another proof", (part, self._read(part, source)))

    def _run(self, number: int, _part: Part) -> Mutant:
        source = self._rng.choice((self._again, self._other))
        end = self._rng.randrange(number + 1, len(self.parts) + 1)
        run = self.parts[number:end]
        if self._rng.random() < 0.5:
            run = self.parts[number:]
        mutant = self._with("a run of another proof", *((p, self._read(p, source)) for p in run))
        if source is self._again and mutant.arguments["proof"] == source.proof:
            return self._bit(number, self.parts[number])  # the other proof itself is valid
        return mutant

    def _balanced(self, number: int, part: Part) -> Mutant:
        """Two scalars that keep their sum, as in rounds whose linear coefficient is implied."""
        if part.kind != "scalar":
            return self._value(number, part)
        second = self._rng.choice([p for p in self.parts if p.kind == "scalar" and p != part])
        step = self._rng.randrange(1, ORDER)
        moved = [
            ((int.from_bytes(self._read(p), "big") + sign * step) % ORDER).to_bytes(32, "big")
            for p, sign in ((part, 1), (second, -1))
        ]
        return self._with("balanced", (part, moved[0]), (second, moved[1]))

    def _claim(self, _number: int, _part: Part) -> Mutant:
        arguments = self._own.arguments()
        choice = self._rng.randrange(5)
        if choice == 0:
            outputs = list(self._own.outputs)
            outputs[self._rng.randrange(len(outputs))] += self._rng.choice((1, -1, 2, -7, 1 << 20))
            return Mutant(how="outputs", arguments=arguments | {"outputs": outputs})
        if choice == 1:
            data = bytearray(self._own.input)
            data[self._rng.randrange(len(data))] ^= 1 << self._rng.randrange(8)
            return Mutant(how="input", arguments=arguments | {"input": bytes(data)})
        if choice == 2:
            proof = {"proof": self._other.proof}
            return Mutant(how="another claim's proof", arguments=arguments | proof)
        if choice == 3:
            name = self._rng.choice(("weights", "context", "srs_digest"))
            data = bytearray(arguments[name])
            data[self._rng.randrange(32)] ^= 1 << self._rng.randrange(8)
            return Mutant(how=name, arguments=arguments | {name: bytes(data)})
        size = self._rng.randrange(2 * len(self._own.proof))
        proof = {"proof": (self._own.proof + bytes(size))[:size]}
        return Mutant(how="length", arguments=arguments | proof)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("name", "mode"), STATEMENTS)
def test_no_altered_proof_is_accepted(srs: Any, name: str, mode: int) -> None:
    version = Version(srs, name, CIRCUITS[name](), mode)
    values = version.input()
    own = version.prove(values)
    again = replace(own, proof=_another_proof(version, values, own))
    mutator = Mutator(own, again, version.prove(version.input()), seed=len(name) * 2 + mode)
    compiled = core.load().verify
    assert compiled(own.description, **own.arguments())

    mutants = list(islice(mutator.mutants(), PER_STATEMENT))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        decisions = list(pool.map(lambda m: compiled(own.description, **m.arguments), mutants))
    assert [m for m, accepted in zip(mutants, decisions, strict=True) if accepted] == []

    touched = Counter(part for mutant in mutants for part in mutant.touched)
    assert set(touched) == {part.name for part in mutator.parts}
    assert min(touched.values()) >= 10
    kinds = {mutant.how for mutant in mutants}
    assert len(kinds) == 18
    for mutant in mutants[:: PER_STATEMENT // ALSO_IN_PYTHON]:
        with pytest.raises(ProofInvalid):
            verify(own.description, **mutant.arguments)


def _another_proof(version: Version, values: Any, own: ProofVector) -> bytes:
    """A proof with other randomness. In hidden mode the input is committed to anew."""
    again = version.prove(values)
    assert again.proof != own.proof
    assert again.outputs == own.outputs
    return again.proof


def test_the_number_of_mutants_is_what_is_promised() -> None:
    assert len(STATEMENTS) * PER_STATEMENT >= 100_000
