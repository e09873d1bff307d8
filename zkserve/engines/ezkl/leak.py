"""What proofs reveal of weights that no randomness hides, and how many proofs that allows.

Halo2 hides what lies in advice columns behind random rows. Constants (weights mode ``fixed``) lie
in fixed columns instead, and ``polycommit`` asks for columns without random rows. Of each such
column a proof shows the value of its polynomial at a random point: a linear equation in its cells,
as good as 254 bits of them.

In ``fixed`` ezkl keeps each distinct constant once and wires all cells of equal value together, so
the permutation polynomials, which describe the wiring, depend on the weights as well. All of them
are counted: which of them do depends on the layout. Selectors and tables depend on shapes alone
(``tests/prover/test_ezkl_leak.py`` compares circuits that differ in weights only).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zkserve.engines.entropy import bits_of
from zkserve.engines.ezkl.settings import Settings, columns_of
from zkserve.errors import EngineFailed
from zkserve.types import LeakBudget, WeightsMode

FIELD_BITS = 254
"""Bits of one evaluation, an element of BN254's scalar field."""
DEFAULT_FRACTION = 0.25
MAX_FRACTION = 0.5
DIGITS_WARNING = (
    "Proofs of ezkl are not zero-knowledge: in every weights mode each tells something of how "
    "often digits occur in what is computed, from which weights can be found where inputs are "
    "known; no budget counts that (docs/weights-leak.md). The native engine hides it."
)
_COUNTED = re.compile(r"rhs := addmod\(rhs, sub\(R, mulmod\(calldataload\(0x\w+\), tmp")
_PERMUTED = re.compile(r"// permutation_comms\[\d+\]\.x$", re.MULTILINE)


def bits_per_proof(settings: Settings, verifier_source: str) -> int:
    """Return the bits that one proof reveals at most of the weights; 0 in a mode that hides them.

    254 for each evaluation of a polynomial made of weights: in ``fixed`` of the columns of
    constants and of all permutation polynomials, in ``polycommit`` of the committed columns. Each
    is opened at one point. ``verifier_source`` is the generated contract.
    """
    if settings.weights_mode is WeightsMode.FIXED:
        permuted = len(_PERMUTED.findall(verifier_source))
        if not permuted:
            raise EngineFailed("The generated verifier names no permutation polynomials.")
        return FIELD_BITS * (columns_of(settings.constants, settings.logrows) + permuted)
    return FIELD_BITS * settings.weights_points


def digit_bits_per_proof(verifier_source: str) -> int:
    """Return the bits that one proof reveals at most of how often digits occur in its witness.

    ezkl blinds those counts in no weights mode. 254 for each lookup argument, whose counts are
    opened at one point. They are about inputs and weights together, so no budget of the weights
    counts them: see ``docs/weights-leak.md``.
    """
    return FIELD_BITS * len(_COUNTED.findall(verifier_source))


def secret_bits(weights: Iterable[NDArray[np.floating[Any]]], scale: int) -> int:
    """Return how many bits quantised weights hold: of each tensor, numbers times entropy of one.

    The weights are rounded to multiples of ``2**-scale``, as the circuit has them, and the entropy
    is that of the values' frequencies in their tensor: an attacker is taken to know those already.
    That is less than the width of a weight, most of all where many are zero or equal. Tensors of
    the same values in any order count once; so do equal rows and columns of one. Rows of zeros do
    not count, nor does a value that more than half of a vector have.
    """
    distinct = {}
    for tensor in weights:
        numbers = np.rint(tensor.astype(np.float64) * 2.0**scale) + 0.0  # which has no -0.0
        kept = _distinct_slices(numbers) if numbers.ndim > 1 else _less_common(numbers)
        distinct[np.sort(kept, axis=None).tobytes()] = kept
    return math.floor(sum(bits_of(kept) for kept in distinct.values()))


def _distinct_slices(tensor: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a tensor without the slices, along any dimension, of zeros or that repeat others."""
    for axis in range(tensor.ndim):
        slices = np.moveaxis(tensor, axis, 0)
        slices = slices[slices.any(axis=tuple(range(1, tensor.ndim)))]
        tensor = np.moveaxis(np.unique(slices, axis=0) if slices.size else slices, 0, axis)
    return tensor


def _less_common(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    values, counts = np.unique(vector, return_counts=True)
    return vector[~np.isin(vector, values[2 * counts > vector.size])]


def budget(*, bits_per_proof: int, secret_bits: int, fraction: float) -> LeakBudget:
    """Return the budget that spends at most a fraction of the secret: whole proofs, rounded down.

    ``fraction`` is at most :data:`MAX_FRACTION`.
    """
    proofs = math.floor(fraction * secret_bits / bits_per_proof)
    return LeakBudget(bits_per_proof=bits_per_proof, secret_bits=secret_bits, proofs=proofs)
