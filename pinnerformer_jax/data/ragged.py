"""Ragged arrays: rows of different lengths, stored one after the other."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int


def offsets_of(count: Int[np.ndarray, " rows"]) -> Int[np.ndarray, " rows_1"]:
    """int64 [rows + 1]: row i of `count[i]` numbers is stored at offsets[i] : offsets[i + 1]."""
    return np.concatenate([[0], np.cumsum(count, dtype=np.int64)])


def owners(offsets: Int[np.ndarray, " rows_1"]) -> Int[np.ndarray, " total"]:
    """The row of each stored number: i, once for each of offsets[i] : offsets[i + 1]."""
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def flat_ranges(
    start: Int[np.ndarray, " rows"], count: Int[np.ndarray, " rows"]
) -> tuple[Int[np.ndarray, " total"], Int[np.ndarray, " total"]]:
    """The numbers start[i] .. start[i] + count[i] - 1 for every i, one range after the other.

    Returns:
        the i of each number, and the number.
    """
    offsets = offsets_of(count)
    owner = owners(offsets)
    return owner, np.arange(len(owner)) + (start - offsets[:-1])[owner]
