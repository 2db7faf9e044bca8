"""A permutation that needs no memory: position i of epoch e is a function of (seed, e, i)."""

from __future__ import annotations

from typing import Any

import numpy as np

_ROUNDS = 4


def shuffled(index: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Element of an endless shuffled stream over `size` elements: each epoch of `size` holds each element
    once.

    A Feistel network over the smallest even number of bits that holds `size`, walked until it lands inside
    (Black and Rogaway 2002), so that resuming at any index costs nothing.

    Args:
        index: int64, any shape, positions in the stream.
        size: number of elements.
        seed: of the shuffle.

    Returns:
        int64, the same shape, in [0, size).
    """
    epoch, position = np.divmod(index.astype(np.uint64), np.uint64(size))
    half = np.uint64(max((size - 1).bit_length() + 1, 2) // 2)
    key = _mix(_mix(np.uint64(seed % 2**64)) ^ epoch)
    position = _feistel(position, half, key)
    while (outside := position >= size).any():
        position[outside] = _feistel(position[outside], half, key[outside])
    return position.astype(np.int64)


def _feistel(value: np.ndarray, half: np.uint64, key: np.ndarray) -> np.ndarray:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = value >> half, value & mask
    for number in range(_ROUNDS):
        left, right = right, left ^ (_mix(right ^ _mix(key + np.uint64(number))) & mask)
    return (left << half) | right


def _mix(value: np.ndarray | np.uint64) -> Any:
    """SplitMix64's finaliser, of the same shape: every input bit moves every output bit."""
    with np.errstate(over="ignore"):  # the products wrap on purpose
        value = np.asarray(value, np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return value ^ (value >> np.uint64(31))
