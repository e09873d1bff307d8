"""What a circuit of ezkl costs, read from its settings alone: no key is made.

The costs of Halo2 follow from the number of rows and of columns, lookups, commitments and openings
of the constraint system, which ezkl derives from the settings; see ``benchmarks/cost_model.py`` for
the circuits that the coefficients were fitted on.
"""

from __future__ import annotations

import functools
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zkserve.engines.cost import CostModel, Estimate, Terms
from zkserve.engines.ezkl import leak
from zkserve.engines.ezkl.settings import columns_of
from zkserve.types import LeakBudget, WeightsMode

MODEL_FILE = Path(__file__).with_name("cost.json")
MEASURED_LOGROWS = 17
UNUSABLE_ROWS = 8
"""Rows at the end of each column that blind it."""
_SRS_POINT_BYTES = 128
_LEAST_DEGREE = 4
_HIGH_DEGREE = 8
"""Of circuits that hash, shuffle or look up what they computed."""
_WIRED, _POSEIDON_WIRED, _SHUFFLE_WIRED = 3, 4, 3
_YARDSTICK_ELEMENTS = 500
_YARDSTICK_RUNS = 3


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The sizes of a circuit that decide what it costs."""

    rows: int
    logrows: int
    columns: int
    """Advice columns of one operand: inner columns times the blocks they are laid out in."""
    tables: int
    """Columns of lookup and range tables, beyond the two range checks that every circuit has."""
    poseidon: bool
    committed_columns: int
    """Unblinded columns that ``polycommit`` commits to."""
    constants: int
    """Columns of constants, of ``fixed`` weights among others."""
    shuffles: int
    """Columns of shuffles, by which largest values are found (max pooling)."""
    dynamic: int
    """Dynamic lookups, those of gathers."""
    einsum: bool
    """Whether sums of products are checked by challenges, as those of batches are."""
    instances: int

    @classmethod
    def of(cls, settings: dict[str, Any], logrows: int | None = None) -> Shape:
        """Read the ``settings.json`` of ezkl; ``logrows`` overrides what stands there."""
        run_args, sizes = settings["run_args"], settings["module_sizes"]
        k = logrows if logrows is not None else run_args["logrows"]
        usable = (1 << k) - UNUSABLE_ROWS
        inner = run_args["num_inner_cols"]
        low, high = run_args["lookup_range"]
        ranges = [end - start + 1 for start, end in settings["required_range_checks"]]
        lookups = [high - low + 1] * len(settings["required_lookups"])
        poseidon_rows, hashed = sizes["poseidon"]
        return cls(
            rows=settings["num_rows"],
            logrows=k,
            columns=inner * max(1, -(-settings["total_assignments"] // (inner * usable))),
            tables=max(0, sum(-(-size // usable) for size in (*ranges, *lookups)) - 2),
            poseidon=poseidon_rows > 0,
            committed_columns=sum(columns_of(size, k) for size in sizes["polycommit"]),
            constants=columns_of(settings["total_const_size"], k),
            shuffles=-(-settings["total_shuffle_col_size"] // usable),
            dynamic=settings["num_dynamic_lookups"],
            einsum=settings.get("einsum_params", {}).get("total_einsum_col_size", 0) > 0,
            instances=sum(math.prod(shape) for shape in settings["model_instance_shapes"])
            + sum(hashed),
        )

    @property
    def permuted(self) -> int:
        """Columns whose cells are wired to others: each has a polynomial in the verifying key."""
        shuffled = max(self.shuffles, min(self.dynamic, 1))
        plain = _WIRED * self.columns + self.constants + 1
        return plain + _POSEIDON_WIRED * self.poseidon + _SHUFFLE_WIRED * shuffled

    @property
    def extension(self) -> int:
        """How many times larger the domain is in which the prover divides by all constraints.

        Each column of work adds an input to the lookups' one constraint and so raises its degree.
        """
        high = self.poseidon or self.shuffles or self.dynamic
        degree = max(self.columns + 1, _HIGH_DEGREE if high else _LEAST_DEGREE)
        return 1 << (degree - 1).bit_length()

    @property
    def terms(self) -> Terms:
        """What the sizes of keys, proofs and contracts are sums of."""
        columns, poseidon, extension = self.columns, int(self.poseidon), self.extension
        return {
            "extension": extension,
            "columns*extension": columns * extension,
            "poseidon*extension": poseidon * extension,
            "tables*extension": self.tables * extension,
            "columns*tables*extension": columns * self.tables * extension,
            "committed*extension": self.committed_columns * extension,
            "one": 1,
            "columns": columns,
            "tables": self.tables,
            "columns*tables": columns * self.tables,
            "poseidon": poseidon,
            "columns*poseidon": columns * poseidon,
            "committed": self.committed_columns,
            "constants": self.constants,
            "shuffles": self.shuffles,
            "shuffles*extension": self.shuffles * extension,
            "dynamic": self.dynamic,
            "einsum": int(self.einsum),
            "columns*einsum": columns * self.einsum,
            "instances": self.instances,
        }


def logrows_of(settings: dict[str, Any]) -> int:
    """Return the log2 of the rows that ezkl chooses for a circuit where none is stated.

    One block of columns holds all, and one column each table.
    """
    run_args = settings["run_args"]
    low, high = run_args["lookup_range"]
    table = high - low + 1 if settings["required_lookups"] else 0
    held: int = max(settings["num_rows"], run_args["decomp_base"], table) + UNUSABLE_ROWS
    constants: int = -(-settings["total_const_size"] // run_args["num_inner_cols"])
    return max(held - 1, constants - 1, Shape.of(settings).instances - 1).bit_length()


@functools.cache
def model() -> CostModel:
    """Return the measured coefficients."""
    return CostModel.read(MODEL_FILE)


def work_terms(shape: Shape, *, key_bytes: float, proof_bytes: float) -> Terms:
    """Return what seconds and memory are sums of.

    Mostly that is loading the key, and work on all rows for each commitment that a proof holds.
    """
    n = 1 << shape.logrows
    return {
        "one": 1,
        "rows": n,
        "key_bytes": key_bytes,
        "rows*proof_bytes": n * proof_bytes,
        "rows*logrows*proof_bytes": n * shape.logrows * proof_bytes,
    }


def estimate(
    settings: dict[str, Any],
    *,
    yardstick_cpu_s: float,
    threads: int,
    logrows: int | None = None,
    batch: int = 1,
    budget: LeakBudget | None = None,
) -> Estimate:
    """Return what the circuit of a ``settings.json`` costs.

    ``yardstick_cpu_s`` is what :func:`yardstick` found on this machine; ``budget`` is passed on.
    """
    shape, cost = Shape.of(settings, logrows), model()
    n, terms = 1 << shape.logrows, shape.terms
    key_bytes = cost("proving_key_bytes_a_row", terms) * n
    proof_bytes = cost("proof_bytes", terms)
    work = work_terms(shape, key_bytes=key_bytes, proof_bytes=proof_bytes)
    prove = cost.seconds("prove_cpu_s", work, yardstick_cpu_s=yardstick_cpu_s, threads=threads)
    setup = cost.seconds("setup_cpu_s", work, yardstick_cpu_s=yardstick_cpu_s, threads=threads)
    return Estimate(
        rows=shape.rows,
        k=shape.logrows,
        batch=batch,
        prove_cpu_s=prove[0],
        prove_s=prove[1],
        prove_memory_bytes=cost.size("prove_memory_bytes", work),
        setup_cpu_s=setup[0],
        setup_s=setup[1],
        setup_memory_bytes=cost.size("setup_memory_bytes", work),
        proving_key_bytes=round(key_bytes),
        verifying_key_bytes=round(
            cost("verifying_key_bits_a_row", terms) * n / 8 + cost("verifying_key_bytes", terms)
        ),
        srs_bytes=_SRS_POINT_BYTES * n,
        proof_bytes=round(proof_bytes / 32) * 32,
        gas=cost.size("raw_gas", terms) + cost.size("adapter_gas", terms),
        verifier_bytes=cost.size("verifier_bytes", terms),
        leak=budget,
        extrapolated=bool(shape.dynamic or shape.einsum or shape.logrows > MEASURED_LOGROWS),
        exact=("rows", "k", "srs_bytes"),
        facts={
            "columns": shape.columns,
            "tables": shape.tables,
            "constants": shape.constants,
            "committed_columns": shape.committed_columns,
        },
    )


def leak_bits(mode: WeightsMode, settings: dict[str, Any]) -> int:
    """Return the bits that a proof will reveal at most; see :func:`leak.bits_per_proof`."""
    shape = Shape.of(settings)
    if mode is WeightsMode.FIXED:
        columns = columns_of(settings["total_const_size"], shape.logrows)
        return leak.FIELD_BITS * (columns + shape.permuted)
    return leak.FIELD_BITS * shape.committed_columns if mode is WeightsMode.POLYCOMMIT else 0


def yardstick() -> float:
    """Return the CPU seconds of a small piece of ezkl's own work here; in a child only.

    It hashes with Poseidon, which is arithmetic in the field of its proofs, on one thread.
    """
    import ezkl

    elements = [f"{number % 256:02x}" + 31 * "00" for number in range(_YARDSTICK_ELEMENTS)]
    return min(_timed(lambda: ezkl.poseidon_hash(elements)) for _ in range(_YARDSTICK_RUNS))


def threads() -> int:
    """Return how many threads a proof takes: as set, or one for each CPU."""
    return int(os.environ.get("RAYON_NUM_THREADS") or 0) or len(os.sched_getaffinity(0))


def _timed(work: Any) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started
