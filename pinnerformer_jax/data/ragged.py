"""Ragged arrays: rows of unlike length that lie end to end."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int


def flat_ranges(
    start: Int[np.ndarray, " rows"], count: Int[np.ndarray, " rows"]
) -> tuple[Int[np.ndarray, " total"], Int[np.ndarray, " total"]]:
    """The numbers start[i] .. start[i] + count[i] - 1 of every i, end to end.

    Returns:
        the i of each number, and the number.
    """
    owner = np.repeat(np.arange(len(count)), count)
    first = np.cumsum(count) - count
    return owner, np.arange(len(owner)) + (start - first)[owner]
