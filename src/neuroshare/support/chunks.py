"""Trials in pieces, where their counts may be more than memory holds."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

CHUNK = 2**22
"""Counts that are worked on at a time."""


def in_chunks(trials: NDArray[np.int64], counts_each: int) -> Iterator[NDArray[np.int64]]:
    """Give positions of trials in pieces of at most `CHUNK` counts, or one by one."""
    n = max(CHUNK // max(counts_each, 1), 1)
    for first in range(0, len(trials), n):
        yield trials[first : first + n]
