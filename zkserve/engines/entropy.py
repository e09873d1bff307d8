"""How much numbers tell whoever knows how often each of them occurs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray


def bits_of(values: NDArray[np.floating[Any]]) -> float:
    """Return how many bits numbers hold: how many there are, times the entropy of one.

    The entropy is that of their frequencies, as if these were known.
    """
    counts = np.unique(values, return_counts=True)[1]
    shares = counts / max(1, values.size)
    return max(0.0, values.size * float(-(shares * np.log2(shares)).sum()))


def bits_of_counts(counts: NDArray[np.integer[Any]]) -> float:
    """Return how many bits it tells that values fall into classes just so often, in any order.

    As many values, drawn with the frequencies that were seen, do so with a chance of two to the
    minus this.
    """
    size = int(counts.sum())
    shares = counts[counts > 0] / max(1, size)
    orders = math.lgamma(size + 1) - sum(math.lgamma(count + 1) for count in counts.tolist())
    return max(0.0, size * float(-(shares * np.log2(shares)).sum()) - orders / math.log(2))
