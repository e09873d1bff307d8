"""A prover that lies consistently: both verifiers reject every lie about a cell that counts.

The cheating prover is an extension of its own, built with the option ``ZKSERVE_TEST_CORE``. After
a lie it recomputes lookups, multiplicities, helpers, tables and sums, so that nothing is wrong but
the lie itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.native_circuits import CIRCUITS
from zkserve.engines.native import core
from zkserve.engines.native.protocol.description import Description
from zkserve.engines.native.protocol.verifier import verify
from zkserve.errors import ProofInvalid

BUILT = sorted((Path(__file__).parents[2] / "build/cheat").glob("_core_test*.so"))
if not BUILT:
    pytest.skip("the cheating prover is not built: make cheat", allow_module_level=True)
_spec = spec_from_file_location("_core_test", BUILT[0])
assert _spec
assert _spec.loader
cheating: Any = module_from_spec(_spec)
_spec.loader.exec_module(cheating)
pytestmark = [
    pytest.mark.prover,
    pytest.mark.skipif(not core.available(), reason="the compiled core is not installed"),
]

CONTEXT = bytes(range(32))
BLIND = (77).to_bytes(32, "big")
MULTIPLIERS = {
    "dense": [900, 300],
    "convolutions": [600, 9000, 5000, 7000, 20000, 300, 40000, 9000, 20000, 30000, 60000, 9000],
    "wide": [30000, 40, 50, 60, 777, 20],
}
POOLED = {"convolutions": 1, "wide": 1}
"""The tensor with a maximum, by circuit."""
Lie = Callable[["Case", Any], None]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A circuit, its weights and the prover that lies about it."""

    name: str
    description: Description
    mode: int
    cells: NDArray[np.int32]
    srs: Any
    prover: Any

    @property
    def inputs(self) -> NDArray[np.int32]:
        header, first = self.description.header, self.description.tensors[0]
        shape = (header.batch, first.channels, first.height, first.width)
        rng = np.random.default_rng(3)
        return rng.integers(0, 256**header.input_bytes, shape, dtype=np.int32)

    def at(self, column: int, tensor: int) -> int:
        """Return the cell of the first row of a tensor."""
        first = self.description.tensors[tensor].pieces[0].offset
        return (column << self.description.header.row_bits) + first

    def accepted(
        self, lie: Lie | None = None, *, inputs: NDArray[np.int32] | None = None, **how: Any
    ) -> bool:
        """Return whether both verifiers accept; they must agree."""
        witness = self.prover.witness(self.inputs)
        if lie:
            lie(self, witness)
        stated = self.inputs if inputs is None else inputs
        blind = BLIND if self.mode else None
        claimed, outputs, proof = self.prover.cheat(CONTEXT, witness, stated, blind, **how)
        arguments: dict[str, Any] = {
            "description": self.description.encode(),
            "srs_digest": self.srs.digest,
            "g2_s": self.srs.g2_s,
            "context": CONTEXT,
            "mode": self.mode,
            "weights": self.prover.weights,
            "input": claimed,
            "outputs": list(outputs),
            "proof": proof,
        }
        by_core = bool(core.load().verify(**arguments))
        try:
            verify(**arguments)
        except ProofInvalid:
            assert not by_core
        else:
            assert by_core
        return by_core


@cache
def make(name: str, mode: int, folder: Path) -> Case:
    path, description = str(folder / "srs"), CIRCUITS[name]()
    if not Path(path).exists():
        cheating.srs_generate(path, (1 << 10) + 32)
    header, rng, srs = description.header, np.random.default_rng(5), cheating.Srs(path, 0)
    cells = rng.integers(-7, 8, header.weight_tiles << header.k, dtype=np.int32)
    blinds = b"".join(rng.bytes(31).rjust(32, b"\0") for _ in range(header.weight_tiles))
    prover = cheating.CheatingProver(
        srs, description.encode(), mode, cells, blinds, MULTIPLIERS[name], 2
    )
    return Case(name=name, description=description, mode=mode, cells=cells, srs=srs, prover=prover)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cheats")


@pytest.fixture(params=[(name, mode) for name in CIRCUITS for mode in (0, 1)], ids=str)
def case(request: pytest.FixtureRequest, folder: Path) -> Case:
    return make(*request.param, folder)


# -- what must be accepted: otherwise no rejection below means anything


def test_the_truth_is_accepted(case: Case) -> None:
    assert case.accepted()


def test_soundness_does_not_rest_on_masks(case: Case) -> None:
    assert case.accepted(mask=bytes(32))


def test_a_cell_that_nothing_reads_is_free(case: Case) -> None:
    d = case.description
    column = d.columns.differences[-1][0] if d.columns.differences else d.columns.input[0]
    last = len(d.tensors) - 1  # neither pooled nor the input
    row = d.tensors[last].pieces[0].offset
    inputs = d.tensors[0].pieces
    end = inputs[-1].offset + (1 << inputs[-1].log + d.tensors[0].rest_bits(d.header.batch))
    if not d.columns.differences and row < end:
        pytest.skip("every row holds an input")

    def lie(case: Case, witness: Any) -> None:
        witness.cells[case.at(column, last)] += 7

    assert case.accepted(lie)


# -- lies about one cell


def _columns(d: Description) -> list[tuple[str, int]]:
    c = d.columns
    numbered = [(f"limb {i}", column) for i, column in enumerate(c.limbs)]
    named = [("sel", c.selected), ("sat", c.saturated), ("y", c.y)]
    return [*numbered, *named, *([("z", c.z)] if c.z is not None else [])]


@pytest.mark.parametrize("number", range(10))
@pytest.mark.parametrize("by", [1, -1, 256])
def test_no_cell_of_an_activation_can_be_changed(case: Case, number: int, by: int) -> None:
    columns = _columns(case.description)
    if number >= len(columns):
        pytest.skip("this circuit has fewer columns")

    def lie(case: Case, witness: Any) -> None:
        witness.cells[case.at(columns[number][1], 1)] += by

    assert not case.accepted(lie)


def test_no_input_byte_can_be_changed(case: Case) -> None:
    for column in case.description.columns.input:

        def lie(case: Case, witness: Any, column: int = column) -> None:
            witness.cells[case.at(column, 0)] ^= 1

        assert not case.accepted(lie)


def test_no_pooling_difference_can_be_changed(case: Case) -> None:
    if case.name not in POOLED:
        pytest.skip("nothing pools")
    for position in case.description.columns.differences:

        def lie(case: Case, witness: Any, column: int = position[0]) -> None:
            witness.cells[case.at(column, POOLED[case.name])] ^= 1

        assert not case.accepted(lie)


def test_limbs_cannot_leave_their_range(case: Case) -> None:
    low, high = case.description.columns.limbs[:2]

    def lie(case: Case, witness: Any) -> None:
        witness.cells[case.at(low, 1)] += 256
        witness.cells[case.at(high, 1)] -= 1  # u is the same

    assert not case.accepted(lie)


# -- lies that satisfy all constraints of their row


def _set_value(case: Case, witness: Any, tensor: int, value: int) -> None:
    """Make ``value`` the limbed value u of a tensor's first row, and all that follows from it."""
    d = case.description
    c, function = d.columns, d.functions
    for i, column in enumerate(c.limbs):
        witness.cells[case.at(column, tensor)] = value >> 8 * i & 255
    high = value >> d.value_bits - 8
    witness.cells[case.at(c.selected, tensor)] = high == 128
    witness.cells[case.at(c.saturated, tensor)] = high > 128
    z = (value >> d.shift & d.top) if high == 128 else d.top * (high > 128)
    if c.z is not None:
        witness.cells[case.at(c.z, tensor)] = z
    y = function[d.tensors[tensor].function][z] if function else z
    witness.cells[case.at(c.y, tensor)] = y


def _value(case: Case, witness: Any, tensor: int) -> int:
    limbs = case.description.columns.limbs
    return sum(int(witness.cells[case.at(c, tensor)]) << 8 * i for i, c in enumerate(limbs))


@pytest.mark.parametrize("tensor", [1, 2])
@pytest.mark.parametrize("by", [1, -1, 1 << 16])
def test_an_accumulator_cannot_be_another(case: Case, tensor: int, by: int) -> None:
    def lie(case: Case, witness: Any) -> None:
        _set_value(case, witness, tensor, _value(case, witness, tensor) + by)

    assert not case.accepted(lie)


def test_a_maximum_must_be_attained_in_the_window(case: Case) -> None:
    if case.name not in POOLED:
        pytest.skip("nothing pools")
    tensor, d = POOLED[case.name], case.description
    surplus = 40

    def lie(case: Case, witness: Any) -> None:
        # All differences grow with the maximum, save the last position's, which claims it.
        for limbs in d.columns.differences:
            at = [case.at(column, tensor) for column in limbs]
            difference = sum(int(witness.cells[a]) << 8 * i for i, a in enumerate(at)) + surplus
            if limbs == d.columns.differences[-1]:
                difference = 0
            for i, a in enumerate(at):
                witness.cells[a] = difference >> 8 * i & 255
        more = surplus * MULTIPLIERS[case.name][0]
        _set_value(case, witness, tensor, _value(case, witness, tensor) + more)

    assert not case.accepted(lie)


def test_a_value_of_another_function_is_no_value(case: Case) -> None:
    d = case.description
    if not d.functions:
        pytest.skip("there are no functions")
    tensor = next(i for i, t in enumerate(d.tensors) if t.function)

    def lie(case: Case, witness: Any) -> None:
        z = int(witness.cells[case.at(d.columns.z or 0, tensor)])
        assert d.functions[0][z] != d.functions[1][z]
        witness.cells[case.at(d.columns.y, tensor)] = d.functions[0][z]

    assert not case.accepted(lie)


def test_an_activation_read_differently_than_committed(case: Case) -> None:
    def lie(case: Case, witness: Any) -> None:
        witness.values(1).flat[0] += 1

    assert not case.accepted(lie)


# -- lies about the statement


@pytest.mark.parametrize("by", [1, -1, 1 << 61])
def test_outputs_cannot_be_changed(case: Case, by: int) -> None:
    def lie(_: Case, witness: Any) -> None:
        first, *others = witness.outputs
        witness.outputs = [first + by if abs(first + by) < 1 << 62 else first - by, *others]

    assert not case.accepted(lie)


def test_outputs_cannot_be_swapped(case: Case) -> None:
    def lie(_: Case, witness: Any) -> None:
        outputs = witness.outputs
        assert outputs != outputs[::-1]
        witness.outputs = outputs[::-1]

    assert not case.accepted(lie)


def test_another_input_cannot_be_claimed(case: Case) -> None:
    for index in (0, -1):
        inputs = case.inputs
        inputs.flat[index] ^= 1
        assert not case.accepted(inputs=inputs)


def _first_weight(case: Case) -> int:
    return case.description.equations[0].products[0].pieces[0].offset


def test_other_weights_do_not_open_the_commitment(case: Case) -> None:
    for change in (1, -1):
        cells = case.cells.copy()
        cells[_first_weight(case)] += change
        assert not case.accepted(cells=cells)
    first = _first_weight(case)
    swapped = case.cells.copy()
    swapped[[first, first + 1]] = case.cells[[first + 1, first]]
    assert (swapped != case.cells).any()
    assert not case.accepted(cells=swapped)
    assert not case.accepted(cells=np.zeros_like(case.cells))


# -- lies about lookups


def test_multiplicities_cannot_be_moved(case: Case) -> None:
    at = case.description.offsets.multiplicities

    def lie(_: Case, witness: Any) -> None:
        witness.cells[at + 5] += 1
        witness.cells[at + 6] -= 1

    assert not case.accepted(lie, recount=False)


def test_a_changed_cell_needs_its_multiplicity(case: Case) -> None:
    d = case.description
    column, last = d.columns.limbs[0], len(d.tensors) - 1

    def lie(case: Case, witness: Any) -> None:
        witness.cells[case.at(column, last)] ^= 1

    assert not case.accepted(lie, recount=False)
