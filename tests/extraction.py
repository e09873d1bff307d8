"""The attack on weights that ezkl leaves unblinded: from public proofs back to the weights.

What the attacker has: the generated verifier's source, proof bytes and public instances, and the
public settings of the circuit, with which they compile the same architecture with weights of their
own (a :class:`Rehearsal`) to learn which cell of the circuit holds what. No key, no compiled model
and no witness of the owner.

A circuit is a table of ``2**k`` rows; each column is the polynomial f that takes its cells as
values at the powers of a root of unity w. A proof shows f(x) for every column at a point x that
the transcript decides, so anybody can compute it. With the Lagrange polynomials L_j that is
``f(x) = sum(cell[j] * L_j(x))``: one linear equation in the column's cells. Columns that are the
witness's have random cells at their end, fresh in each proof, which mask the evaluation. *Fixed*
columns, the wiring (*sigma*: which cells are copies of each other) and *polycommit* columns have
none: each further proof is a further equation about the same few unknown cells.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from eth_utils.crypto import keccak

from tests.lattice import small_solution

ORDER = 21888242871839275222246405745257275088548364400416034343698204186575808495617
"""Of the field that circuits are over (BN254's scalars)."""
DELTA = 4131629893567559867359510883348571134090853742863529169391034518566172092834
"""Row j of the permutation's column c is spelled ``DELTA**c * w**j``."""
GENERATOR, TWO_ADICITY = 7, 28
FIRST_BYTE = 0x64
"""Where in the calldata a proof begins."""

Cell = tuple[int, int]
"""Column of the permutation, row."""


class Inconsistent(Exception):
    """No cells give these evaluations: they are not of one polynomial, or of other rows."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What one proof shows: all its evaluations, and the point that they are at."""

    point: int
    values: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Verifier:
    """What the source of a generated verifier says of its circuit.

    ``columns`` are the permutation's, in order: the positions of the evaluations of the column and
    of its sigma; the column's is None for the public instances, which a proof need not show.
    """

    digest: bytes
    k: int
    blinded_rows: int
    """How many rows at the end of a witness's column hold random numbers."""
    phases: tuple[tuple[int, int], ...]
    """Bytes of commitments, and the number of challenges drawn after them."""
    evaluations: int
    columns: tuple[tuple[int | None, int], ...]
    fixed: tuple[int, ...]
    """Positions of the evaluations of fixed columns: constants, selectors, lookup tables."""
    constants: tuple[int, ...]
    """Which columns of the permutation hold the circuit's constants."""
    multiplicities: tuple[int, ...]
    """Positions of the evaluations of multiplicities: how often a table's values are looked up."""
    committed: tuple[int, ...]
    """Which hold weights in mode polycommit (witness columns that no gate reads)."""

    @classmethod
    def of(cls, source: str) -> Verifier:
        """Read a verifier's source."""
        reading, evaluating = source.split("// Read evaluations")
        reading = reading.split("// Phase 1")[1]
        phases = tuple(
            (
                int(_only(r"let proof_cptr_end := add\(proof_cptr, (0x\w+)\)", phase), 16),
                len(re.findall(r":= squeeze_challenge\w*\(", phase)),
            )
            for phase in re.split(r"// Phase \d+", reading)
        )
        evaluated = re.search(r"let proof_cptr_end := add\(proof_cptr, (0x\w+)\)", evaluating)
        assert evaluated
        first = FIRST_BYTE + sum(size for size, _ in phases)
        named = {
            int(at, 16): name
            for name, at in re.findall(r"let ([af])_\w+ := calldataload\((0x\w+)\)", source)
        }
        last_advice = max(at for at, name in named.items() if name == "a")
        terms = re.findall(
            r"addmod\(addmod\((?:calldataload\((0x\w+)\)|mload\(INSTANCE_EVAL_MPTR\)), "
            r"mulmod\(beta, calldataload\((0x\w+)\)",
            source,
        )
        columns = [int(column, 16) if column else None for column, _ in terms]
        k, last_row = _constant(source, "k"), _constant(source, "omega_inv_to_l")
        return cls(
            digest=_constant(source, "vk_digest").to_bytes(32),
            k=k,
            blinded_rows=next(
                count for count in range(1 << k) if pow(root(k), -count, ORDER) == last_row
            ),
            phases=phases,
            evaluations=int(evaluated[1], 16) // 32,
            columns=tuple(
                (None if column is None else (column - first) // 32, (int(sigma, 16) - first) // 32)
                for column, (_, sigma) in zip(columns, terms, strict=True)
            ),
            fixed=tuple(
                sorted(
                    (at - first) // 32
                    for at in {at for at, name in named.items() if name == "f"}
                    | {at for at in columns if at and at not in named and at > last_advice}
                )
            ),
            multiplicities=tuple(
                (int(at, 16) - first) // 32
                for at in re.findall(
                    r"rhs := addmod\(rhs, sub\(R, mulmod\(calldataload\((0x\w+)\), tmp", source
                )
            ),
            constants=tuple(
                c for c, at in enumerate(columns) if at and at not in named and at > last_advice
            ),
            committed=tuple(
                c for c, at in enumerate(columns) if at and at not in named and at < last_advice
            ),
        )

    @property
    def rows(self) -> int:
        """Rows of the circuit."""
        return 1 << self.k

    def see(self, proof: bytes, instances: Sequence[int]) -> Seen:
        """Run the transcript of a proof up to the point x, and read what is evaluated there."""
        hashed = self.digest + b"".join(value.to_bytes(32) for value in instances)
        at = 0
        for size, challenges in self.phases:
            hashed = keccak(hashed + proof[at : at + size])
            for _ in range(challenges - 1):
                hashed = keccak(hashed + b"\x01")
            at += size
        values = [
            int.from_bytes(proof[i : i + 32]) for i in range(at, at + 32 * self.evaluations, 32)
        ]
        return Seen(point=int.from_bytes(hashed) % ORDER, values=tuple(values))

    def commitments(self, proof: bytes) -> list[bytes]:
        """Return the commitments to the witness's columns, which a proof begins with."""
        return [proof[at : at + 64] for at in range(0, self.phases[0][0], 64)]

    def count_commitments(self, proof: bytes) -> bytes:
        """Return the commitments to the counts of what is looked up, which come after those."""
        start, size = self.phases[0][0], self.phases[1][0]
        assert size == 64 * len(self.multiplicities)
        return proof[start : start + size]


def _constant(source: str, name: str) -> int:
    return int(_only(rf"(0x\w+)\) // {name}\n", source), 16)


def _only(pattern: str, text: str) -> str:
    return re.findall(pattern, text)[0]


def root(k: int) -> int:
    """Return the root of unity whose powers are the rows of a circuit of ``2**k`` rows."""
    full = pow(GENERATOR, (ORDER - 1) >> TWO_ADICITY, ORDER)
    return pow(full, 1 << (TWO_ADICITY - k), ORDER)


def lagrange(k: int, point: int, rows: Iterable[int]) -> list[int]:
    """Return ``L_j(point)`` for some rows j: the coefficients of one equation about their cells."""
    w, n = root(k), 1 << k
    vanishing = (pow(point, n, ORDER) - 1) * pow(n, -1, ORDER)
    powers = [pow(w, row, ORDER) for row in rows]
    return [vanishing * p * pow(point - p, -1, ORDER) % ORDER for p in powers]


def eliminate(matrix: list[list[int]], unknowns: int) -> tuple[int, list[list[int]]]:
    """Bring equations (rows; right-hand sides after the unknowns) to reduced echelon form.

    Return the rank of the unknowns' part, and the rows.
    """
    rows = [row[:] for row in matrix]
    rank = 0
    for column in range(unknowns):
        pivot = next((i for i in range(rank, len(rows)) if rows[i][column]), None)
        if pivot is None:
            continue
        rows[rank], rows[pivot] = rows[pivot], rows[rank]
        inverse = pow(rows[rank][column], -1, ORDER)
        chosen = rows[rank] = [value * inverse % ORDER for value in rows[rank]]
        for i, row in enumerate(rows):
            factor = row[column]
            if i != rank and factor:
                rows[i] = [(a - factor * b) % ORDER for a, b in zip(row, chosen, strict=True)]
        rank += 1
    return rank, rows


def solve(k: int, seen: Sequence[Seen], rows: Sequence[int], values: Sequence[int]) -> list[int]:
    """Return a column's cells in ``rows``, all others being zero, from its evaluations.

    More evaluations than cells are wanted: the spare ones confirm that it is so.

    Raises:
        Inconsistent: no such cells give these evaluations, or more evaluations are needed.

    """
    equations = [
        [*lagrange(k, one.point, rows), value] for one, value in zip(seen, values, strict=True)
    ]
    rank, reduced = eliminate(equations, len(rows))
    if rank < len(rows) or any(row[-1] for row in reduced[rank:]):
        raise Inconsistent
    return [row[-1] for row in reduced[: len(rows)]]


def unblinded(verifier: Verifier, seen: Sequence[Seen]) -> list[bool]:
    """Tell which evaluations are of one polynomial that is the same in all proofs.

    Nothing is supposed of the columns: all ``2**k`` cells of each are unknown, so it takes more
    proofs than rows. Blinded columns have no solution.
    """
    if len(seen) <= verifier.rows:
        raise ValueError("Each polynomial fits that few evaluations.")
    rows = range(verifier.rows)
    equations = [[*lagrange(verifier.k, one.point, rows), *one.values] for one in seen]
    rank, reduced = eliminate(equations, verifier.rows)
    assert rank == verifier.rows
    spare = [row[verifier.rows :] for row in reduced[rank:]]
    return [not any(row[slot] for row in spare) for slot in range(verifier.evaluations)]


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """The attacker's own circuit of the same architecture, of which they know all cells.

    ``constants`` is its column of constants, ``sigmas`` its wiring; ``weights`` are the attacker's,
    quantised, all different and none a constant that the architecture has anyway.
    """

    constants: tuple[int, ...]
    sigmas: tuple[tuple[int, ...], ...]
    weights: tuple[int, ...]

    @classmethod
    def of(cls, proving_key: bytes, key_size: int, weights: Sequence[int]) -> Rehearsal:
        """Read the attacker's own proving key, which starts with the ``key_size`` of the other."""
        at = key_size
        for _ in range(3):  # the Lagrange polynomials of first, last and active rows
            at += 4 + 32 * int.from_bytes(proving_key[at : at + 4])
        vectors = []
        for _ in range(4):  # fixed columns three times over, then sigmas
            count = int.from_bytes(proving_key[at : at + 4])
            at += 4 + 4 * count
            columns = []
            for _ in range(count):
                size = 32 * int.from_bytes(proving_key[at : at + 4])
                columns.append(proving_key[at + 4 : at + 4 + size])
                at += 4 + size
            vectors.append(columns)
        fixed, _, _, sigmas = vectors
        return cls(
            constants=tuple(signed(value) for value in _elements(fixed[0])),
            sigmas=tuple(_elements(sigma) for sigma in sigmas),
            weights=tuple(weights),
        )

    @property
    def used(self) -> tuple[int, ...]:
        """The constants, without the empty rows after them."""
        return self.constants[: max(row for row, value in enumerate(self.constants) if value) + 1]

    def cells(self, verifier: Verifier) -> list[frozenset[Cell]]:
        """Return the cells that each weight is copied to, in the order of the weights."""
        (column,) = verifier.constants
        groups = cycles(verifier, self.sigmas)
        return [
            groups[column, self.constants.index(weight)] - {(column, self.constants.index(weight))}
            for weight in self.weights
        ]

    def open_cells(self, verifier: Verifier) -> list[list[int]]:
        """Return, for each column, the rows whose wiring may depend on the weights.

        Constants of equal value share one cell. So whatever the weights are, only cells that are
        copies of constants are wired otherwise than here.
        """
        (column,) = verifier.constants
        groups = cycles(verifier, self.sigmas)
        found: list[set[int]] = [set() for _ in self.sigmas]
        for row in range(len(self.used)):
            for c, j in groups[column, row]:
                found[c].add(j)
        return [sorted(rows) for rows in found]


def _elements(data: bytes) -> tuple[int, ...]:
    montgomery = pow(1 << 256, -1, ORDER)
    return tuple(
        int.from_bytes(data[at : at + 32], "little") * montgomery % ORDER
        for at in range(0, len(data), 32)
    )


def signed(value: int) -> int:
    """Return the integer that a field element stands for."""
    return value if value <= ORDER // 2 else value - ORDER


def cycles(verifier: Verifier, sigmas: Sequence[Sequence[int]]) -> dict[Cell, frozenset[Cell]]:
    """Return the cells that each cell is wired to, itself among them: sigma's cycles."""
    w = root(verifier.k)
    names: dict[int, Cell] = {}
    for c in range(len(sigmas)):
        name = pow(DELTA, c, ORDER)
        for row in range(verifier.rows):
            names[name] = (c, row)
            name = name * w % ORDER
    groups: dict[Cell, frozenset[Cell]] = {}
    for start in names.values():
        if start in groups:
            continue
        cycle, cell = [start], names[sigmas[start[0]][start[1]]]
        while cell != start:
            cycle.append(cell)
            cell = names[sigmas[cell[0]][cell[1]]]
        group = frozenset(cycle)
        groups.update(dict.fromkeys(cycle, group))
    return groups


def proofs_needed(verifier: Verifier, rehearsal: Rehearsal, spare: int = 3) -> int:
    """Return how many proofs :func:`fixed_weights` takes: the unknown cells of one column."""
    return max(len(rows) for rows in rehearsal.open_cells(verifier)) + spare


def fixed_weights(verifier: Verifier, rehearsal: Rehearsal, seen: Sequence[Seen]) -> list[int]:
    """Return the quantised weights of a circuit in mode ``fixed``, by linear algebra alone.

    1. The column of constants: its distinct values, in order of first appearance.
    2. The wiring: which cells are copies of which constant. Outside of copies of constants it is
       that of the rehearsal, which is moved to the right-hand side.
    3. The cells that hold the weights, known from the rehearsal, and the constants that they are
       copies of.

    Raises:
        Inconsistent: the proofs are not of such a circuit, or too few.

    """
    (constants,) = verifier.constants
    open_cells = rehearsal.open_cells(verifier)
    slot, _ = verifier.columns[constants]
    assert slot is not None
    found = solve(verifier.k, seen, open_cells[constants], [one.values[slot] for one in seen])
    values = dict(zip(open_cells[constants], found, strict=True))
    coefficients = [lagrange(verifier.k, one.point, range(verifier.rows)) for one in seen]
    sigmas = []
    for (_, slot), rows, own in zip(verifier.columns, open_cells, rehearsal.sigmas, strict=True):
        known = [0 if row in set(rows) else value for row, value in enumerate(own)]
        shown = [
            (one.values[slot] - sum(a * b for a, b in zip(known, row, strict=True))) % ORDER
            for one, row in zip(seen, coefficients, strict=True)
        ]
        for row, value in zip(rows, solve(verifier.k, seen, rows, shown), strict=True):
            known[row] = value
        sigmas.append(known)
    groups = cycles(verifier, sigmas)
    weights = []
    for cells in rehearsal.cells(verifier):
        wired = {cell for cell in groups[min(cells)] if cell[0] == constants}
        (weight,) = {signed(values[row]) for _, row in wired}
        weights.append(weight)
    return weights


def committed_weights(verifier: Verifier, seen: Sequence[Seen], count: int) -> list[int]:
    """Return the quantised weights of a circuit in mode ``polycommit``: they lie row by row.

    The rows that blind other columns hold the constant 1 here, which moves to the right-hand side.

    Raises:
        Inconsistent: the proofs are not of such a circuit, or too few.

    """
    (column,) = verifier.committed
    slot, _ = verifier.columns[column]
    assert slot is not None
    ends = range(verifier.rows - verifier.blinded_rows, verifier.rows)
    shown = [
        (one.values[slot] - sum(lagrange(verifier.k, one.point, ends))) % ORDER for one in seen
    ]
    return [signed(value) for value in solve(verifier.k, seen, range(count), shown)]


def few_proofs(
    verifier: Verifier,
    seen: Sequence[Seen],
    slot: int,
    rows: Sequence[int],
    known: Mapping[int, int],
    size: int,
) -> list[int] | None:
    """Return a column's cells in ``rows`` from fewer proofs than cells, as they are small integers.

    ``known`` are its other cells, by row; ``size`` is about how large the unknown are. Each proof
    gives 254 bits; a few more are needed than the secret has. None or other numbers come back if
    these are too few, or if the evaluations, those at ``slot``, are blinded.
    """
    shown = []
    for one in seen:
        coefficients = lagrange(verifier.k, one.point, known)
        others = sum(a * b for a, b in zip(coefficients, known.values(), strict=True))
        shown.append((one.values[slot] - others) % ORDER)
    equations = [lagrange(verifier.k, one.point, rows) for one in seen]
    return small_solution(equations, shown, ORDER, size)


def fixed_from_few(
    verifier: Verifier, rehearsal: Rehearsal, seen: Sequence[Seen], size: int
) -> list[int] | None:
    """Return the weights of mode ``fixed`` from few proofs, see :func:`few_proofs`.

    All of them must differ from each other and from the architecture's constants, so that their
    cells are those of the rehearsal; the number of constants in the settings tells.
    """
    (column,) = verifier.constants
    slot, _ = verifier.columns[column]
    assert slot is not None
    rows = [rehearsal.used.index(weight) for weight in rehearsal.weights]
    known = {row: value for row, value in enumerate(rehearsal.used) if row not in rows}
    return few_proofs(verifier, seen, slot, rows, known, size)


def committed_from_few(
    verifier: Verifier, seen: Sequence[Seen], count: int, size: int
) -> list[int] | None:
    """Return the weights of mode ``polycommit`` from few proofs, see :func:`few_proofs`."""
    (column,) = verifier.committed
    slot, _ = verifier.columns[column]
    assert slot is not None
    ends = dict.fromkeys(range(verifier.rows - verifier.blinded_rows, verifier.rows), 1)
    return few_proofs(verifier, seen, slot, range(count), ends, size)


def digit_counts(
    verifier: Verifier, one: Seen, slot: int, base: int, size: int = 8
) -> Counter[int] | None:
    """Return how often a proof's witness looked each digit but 0 up.

    ezkl splits each number that it compares or divides into digits, which it looks up in a table,
    and it blinds the column that counts them in no mode. The counts are small, so one proof often
    tells them all. The last row that is no blinding row counts what is not looked up, and zeros.
    """
    rows = [*range(base), verifier.rows - verifier.blinded_rows - 1]
    equation = lagrange(verifier.k, one.point, rows)
    found = small_solution([equation], [one.values[slot]], ORDER, size)
    if found is None or min(found) < 0 or sum(found) != rows[-1] + 1:
        return None
    return +Counter(dict(enumerate(found[1:base], 1)))
