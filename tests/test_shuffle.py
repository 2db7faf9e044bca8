import numpy as np
import pytest

from pinnerformer_jax.data.shuffle import shuffled


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000, 4097])
def test_every_epoch_holds_everything_once(size):
    epochs = shuffled(np.arange(3 * size), size, seed=5).reshape(3, size)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(size), (3, 1)))


def test_epochs_and_seeds_differ_and_a_seek_changes_nothing():
    stream = shuffled(np.arange(2000), 1000, seed=1)
    assert (stream[:1000] != stream[1000:]).mean() > 0.99
    assert (stream != shuffled(np.arange(2000), 1000, seed=2)).mean() > 0.99
    np.testing.assert_array_equal(shuffled(np.arange(1500, 1600), 1000, seed=1), stream[1500:1600])


def test_places_are_uniform():
    # Where element 0 lands, over many epochs: each tenth of the epoch about equally often.
    size, epochs = 50, 4000
    places = np.argmax(shuffled(np.arange(size * epochs), size, seed=3).reshape(epochs, size) == 0, axis=1)
    counts = np.bincount(places // 5, minlength=10)
    assert abs(counts - epochs / 10).max() < 5 * np.sqrt(epochs / 10)
