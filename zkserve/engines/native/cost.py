"""What a native circuit costs, read from its description alone: nothing is committed to.

A proof sums points over tiles of ``2**k`` cells, runs sumchecks over the rows and over each product
term, and opens all tiles at once; see ``benchmarks/cost_model.py`` for the circuits that the
coefficients were fitted on.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path

from zkserve.engines.cost import CostModel, Estimate, Terms
from zkserve.engines.native import core, steps
from zkserve.engines.native.protocol.curve import ORDER
from zkserve.engines.native.protocol.description import Description

MODEL_FILE = Path(__file__).with_name("cost.json")
MEASURED_K = 18
_YARDSTICK_POINTS = 2048
_YARDSTICK_RUNS = 5
_GENERATOR = (1).to_bytes(32, "big") + (2).to_bytes(32, "big")
_CELL_BYTES = 4
_POINT_BYTES = 64
_SCALAR_BYTES = 32


def terms(description: Description, *, hidden: bool, weight_bytes: int, source_bytes: int) -> Terms:
    """Return what a circuit's costs are sums of; ``source_bytes`` is its verifier's source."""
    d, h = description, description.header
    cells = 1 << h.k
    tiles = h.weight_tiles + hidden + h.row_tiles + h.helper_tiles
    pieces = sum(len(tensor.pieces) for tensor in d.tensors) + sum(
        len(equation.bias) + sum(len(product.pieces) for product in equation.products)
        for equation in d.equations
    )
    return {
        "one": 1,
        "cells": cells,
        "weight_cells": cells * h.weight_tiles,
        "row_cells": cells * h.row_tiles,
        "helper_cells": cells * h.helper_tiles,
        "column_rows": (d.columns.count + d.helper_columns) << h.row_bits,
        "product_cells": sum(1 << instance.kappa for instance in d.instances),
        "range_cells": cells * h.weight_tiles * weight_bytes,
        "hidden_cells": hidden << d.hidden_input_bits,
        "tiles": tiles,
        "rounds": d.rounds,
        "variables": h.k,
        "pieces": pieces,
        "multipliers": d.multipliers,
        "outputs": d.outputs,
        "proof_bytes": d.proof_bytes(hidden=hidden),
        "public_words": 0 if hidden else d.input_packing.rows * d.input_packing.words_per_row,
        "source_bytes": source_bytes,
    }


@functools.cache
def model() -> CostModel:
    """Return the measured coefficients."""
    return CostModel.read(MODEL_FILE)


def estimate(
    description: Description,
    *,
    rows: int,
    hidden: bool,
    weight_bytes: int,
    source_bytes: int,
    yardstick_cpu_s: float,
    threads: int,
) -> Estimate:
    """Return what the circuit of a description costs.

    ``rows`` is the number of activations; ``yardstick_cpu_s`` what :func:`yardstick` found.
    """
    cost, h = model(), description.header
    found = terms(description, hidden=hidden, weight_bytes=weight_bytes, source_bytes=source_bytes)
    prove = cost.seconds("prove_cpu_s", found, yardstick_cpu_s=yardstick_cpu_s, threads=threads)
    setup = cost.seconds("setup_cpu_s", found, yardstick_cpu_s=yardstick_cpu_s, threads=threads)
    return Estimate(
        rows=rows,
        k=h.k,
        batch=h.batch,
        prove_cpu_s=prove[0],
        prove_s=prove[1],
        prove_memory_bytes=cost.size("prove_memory_bytes", found),
        setup_cpu_s=setup[0],
        setup_s=setup[1],
        setup_memory_bytes=cost.size("setup_memory_bytes", found),
        proving_key_bytes=(_CELL_BYTES << h.k) * h.weight_tiles
        + _CELL_BYTES * description.multipliers
        + _SCALAR_BYTES * h.weight_tiles,
        verifying_key_bytes=len(description.encode()),
        srs_bytes=_POINT_BYTES * steps.srs_points(h.k),
        proof_bytes=description.proof_bytes(hidden=hidden),
        gas=cost.size("gas", found),
        verifier_bytes=cost.size("verifier_bytes", found),
        extrapolated=h.k > MEASURED_K,
        exact=("rows", "k", "verifying_key_bytes", "srs_bytes", "proof_bytes"),
        facts={
            "weight_tiles": h.weight_tiles,
            "row_tiles": h.row_tiles,
            "helper_tiles": h.helper_tiles,
            "rounds": description.rounds,
        },
    )


def yardstick() -> float:
    """Return the CPU seconds of a small piece of the core's own work here; in a child only.

    It is a sum of 2048 points, on one thread.
    """
    module = core.load()
    points = [_GENERATOR]
    while len(points) < _YARDSTICK_POINTS:
        points.append(bytes(module.g1_add(points[-1], _GENERATOR)))
    bases = module.Bases(b"".join(points), 1)
    scalars = b"".join(
        pow(3, number + 1 << 10, ORDER).to_bytes(32, "big") for number in range(_YARDSTICK_POINTS)
    )
    return min(_timed(lambda: bases.msm(scalars)) for _ in range(_YARDSTICK_RUNS))


def _timed(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started
