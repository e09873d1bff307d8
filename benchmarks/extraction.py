"""What public proofs of ezkl tell of a model's weights, by weights mode and number of proofs.

The attacks are those of ``tests/extraction.py``; docs/weights-leak.md says what the figures mean.
Run from the repository's root: ``python -m benchmarks.extraction --out FILE``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import environment, extraction_page, tables
from tests import extraction
from tests.extraction import Inconsistent, Rehearsal, Seen, Verifier
from tests.extraction_proofs import SCALE, Shape, in_child, prove, rehearse, set_up
from zkserve.engines.ezkl import leak
from zkserve.engines.ezkl.settings import Settings

SHAPES = {"4 to 2": Shape(inputs=4, outputs=2), "9 to 5": Shape(inputs=9, outputs=5)}
MODES = ("fixed", "polycommit", "hashed")
SIZE = 32
"""Weights are integers from -32 to 31."""
LATTICE_PROOFS = 3
"""Lattice reduction is tried with as many proofs; more make a lattice too large for Python."""
COUNTS = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500)


def weights_of(shape: Shape, seed: int) -> list[int]:
    """Return weights that all differ and are no constants of such circuits."""
    values = [value for value in range(-SIZE, SIZE) if value not in {0, 1, 16}]
    drawn = np.random.default_rng(seed).choice(values, size=shape.weights, replace=False)
    return [int(value) for value in drawn]


class Attack:
    """One circuit under attack; ``say`` is told how far it is."""

    def __init__(self, mode: str, shape: Shape, folder: Path) -> None:
        self.mode, self.shape, self.folder = mode, shape, folder
        self.weights, own = weights_of(shape, 0), weights_of(shape, 1)
        self.owner = folder / "owner"
        in_child(set_up, self.owner, mode, shape, self.weights)
        in_child(rehearse, folder / "own", self.owner, shape, own)
        self.source = (self.owner / "Verifier.sol").read_text()
        self.verifier = Verifier.of(self.source)
        key = (folder / "own" / "pk.key").read_bytes()
        self.rehearsal = Rehearsal.of(key, (folder / "own" / "vk.key").stat().st_size, own)

    def unknown(self) -> list[int]:
        """Return how many cells of each unblinded column may depend on the weights."""
        if self.mode == "fixed":
            return [len(rows) for rows in self.rehearsal.open_cells(self.verifier) if rows]
        return [self.shape.weights] if self.mode == "polycommit" else []

    def linear(self, seen: list[Seen]) -> int:
        """Return how many weights linear algebra finds."""
        with suppress(Inconsistent):
            if self.mode == "fixed":
                return self._right(extraction.fixed_weights(self.verifier, self.rehearsal, seen))
            if self.mode == "polycommit":
                found = extraction.committed_weights(self.verifier, seen, self.shape.weights)
                return self._right(found)
        return 0

    def lattice(self, seen: list[Seen]) -> int:
        """Return how many weights lattice reduction finds; hashed: in the best of all columns."""
        verifier, weights = self.verifier, self.shape.weights
        if self.mode == "fixed":
            return self._right(extraction.fixed_from_few(verifier, self.rehearsal, seen, SIZE))
        if self.mode == "polycommit":
            return self._right(extraction.committed_from_few(verifier, seen, weights, SIZE))
        blinded = [
            slot
            for column, (slot, _) in enumerate(verifier.columns)
            if slot is not None and slot not in verifier.fixed
        ]
        return max(
            self._right(extraction.few_proofs(verifier, seen, slot, range(weights), {}, SIZE))
            for slot in blinded
        )

    def rank(self, seen: list[Seen]) -> int:
        """Return the rank of all linear equations about cells that may depend on the weights."""
        ranks = 0
        for count in self.unknown():
            points = [one.point for one in seen]
            matrix = [extraction.lagrange(self.verifier.k, x, range(count)) for x in points]
            ranks += extraction.eliminate(matrix, count)[0]
        return ranks

    def _right(self, found: list[int] | None) -> int:
        return sum(a == b for a, b in zip(found or [], self.weights, strict=False))


def measure(mode: str, shape: Shape, folder: Path) -> dict[str, Any]:
    """Attack one circuit with more and more proofs."""
    attack = Attack(mode, shape, folder)
    unknown = attack.unknown()
    needed = max(unknown, default=COUNTS[3])
    inputs = np.random.default_rng(5).uniform(-1, 1, size=(needed, shape.inputs)).tolist()
    started = time.perf_counter()
    proofs = in_child(prove, attack.owner, inputs)
    print(f"{mode}: {needed} proofs, {time.perf_counter() - started:.0f} s", file=sys.stderr)
    seen = [attack.verifier.see(*proof) for proof in proofs]
    points = []
    for count in sorted({count for count in COUNTS if count < needed} | {needed - 1, needed}):
        started = time.process_time()
        lattice = attack.lattice(seen[:count]) if count <= LATTICE_PROOFS else None
        lattice_s = time.process_time() - started
        points.append(
            {
                "proofs": count,
                "rank": attack.rank(seen[:count]),
                "linear": attack.linear(seen[:count]),
                "lattice": lattice,
                "lattice_cpu_s": round(lattice_s, 3) if lattice is not None else None,
            }
        )
        print(points[-1], file=sys.stderr, flush=True)
    settings = Settings.read(attack.owner / "settings.json")
    bits = leak.bits_per_proof(settings, attack.source)
    secret = leak.secret_bits([np.array(attack.weights, np.float32) / (1 << SCALE)], SCALE)
    allowed = leak.budget(
        bits_per_proof=max(bits, 1), secret_bits=secret, fraction=leak.DEFAULT_FRACTION
    )
    return {
        "mode": mode,
        "logrows": attack.verifier.k,
        "unknown_cells": unknown,
        "bits_per_proof": bits,
        "secret_bits": secret,
        "budget_fraction": leak.DEFAULT_FRACTION,
        "budget_proofs": allowed.proofs if bits else None,
        "digit_count_evaluations": len(attack.verifier.multiplicities),
        "points": points,
    }


def main() -> None:
    """Attack, or draw the table and the plot anew from what was found before."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--out", type=Path, help="add raw results to this file")
    parser.add_argument("--table", action="store_true", help="only rewrite the table and the plot")
    arguments = parser.parse_args()
    if arguments.table:
        extraction_page.rewrite()
        return
    models = []
    for name in arguments.model:
        modes = []
        for mode in MODES:
            with tempfile.TemporaryDirectory(prefix="zkserve-benchmark-") as scratch:
                print(f"{name}, {mode}", file=sys.stderr, flush=True)
                modes.append(measure(mode, SHAPES[name], Path(scratch)))
        models.append({"model": name, "weights": SHAPES[name].weights, "modes": modes})
    result = {"benchmark": "extraction", **environment.describe(), "models": models}
    if arguments.out:
        tables.merge(arguments.out, result)
    print(extraction_page.table(result))


if __name__ == "__main__":
    main()
