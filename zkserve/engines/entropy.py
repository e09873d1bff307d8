"""How much numbers tell whoever knows how often each of them occurs."""

from __future__ import annotations

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
