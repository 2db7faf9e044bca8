"""Ragged arrays."""

import numpy as np

from pinnerformer_jax.data.ragged import flat_ranges


def test_flat_ranges():
    owner, number = flat_ranges(np.array([5, 0, 9]), np.array([2, 0, 3]))
    assert owner.tolist() == [0, 0, 2, 2, 2]
    assert number.tolist() == [5, 6, 9, 10, 11]
