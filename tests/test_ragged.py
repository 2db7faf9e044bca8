"""Ragged arrays."""

import numpy as np

from pinnerformer_jax.data.ragged import flat_ranges, offsets_of, owners


def test_offsets_and_owners():
    offsets = offsets_of(np.array([2, 0, 3], np.int32))
    assert (offsets.tolist(), offsets.dtype) == ([0, 2, 2, 5], np.int64)
    assert owners(offsets).tolist() == [0, 0, 2, 2, 2]
    assert offsets_of(np.array([], int)).tolist() == [0]


def test_flat_ranges():
    owner, number = flat_ranges(np.array([5, 0, 9]), np.array([2, 0, 3]))
    assert owner.tolist() == [0, 0, 2, 2, 2]
    assert number.tolist() == [5, 6, 9, 10, 11]
