import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from pinnerformer_jax.config import ObjectiveConfig
from pinnerformer_jax.objective import frequency


def test_few_items_are_counted_exactly_and_padding_is_not():
    sketch = small.sketch(4, 1 << 12)
    items = jnp.asarray([5, 5, 7, 5, 2**30])
    sketch = frequency.update(sketch, items, jnp.asarray([True, True, True, False, True]), decay=1.0)
    got = frequency.frequency(sketch, jnp.asarray([5, 7, 2**30, 6]))
    np.testing.assert_allclose(got, [0.5, 0.25, 0.25, 0.0])


@pytest.mark.parametrize("exact", [True, False])
def test_a_catalogue_that_fits_has_a_counter_an_item(exact):
    items = 50_000
    config = ObjectiveConfig(exact_counts=items if exact else items - 1, sketch_width=1 << 10)
    sketch = frequency.empty_sketch(config, items)
    assert sketch.counts.shape == ((items,) if exact else (4, 1 << 10))
    rng = np.random.default_rng(0)
    drawn = [(rng.zipf(1.3, 20_000) % items).astype(np.int32) for _ in range(2)]
    valid = rng.random(20_000) < 0.7
    for part in drawn:
        sketch = frequency.update(sketch, jnp.asarray(part), jnp.asarray(valid), decay=0.5)
    older, newer = (np.bincount(part[valid], minlength=items) for part in drawn)
    true = (older / 2 + newer) / (older / 2 + newer).sum()
    found = np.asarray(frequency.frequency(sketch, jnp.arange(items)))
    if exact:
        np.testing.assert_allclose(found, true, rtol=1e-6)
    else:
        assert (found >= true * (1 - 1e-6)).all()
        assert found.sum() > 1.5


def test_of_more_items_the_sketch_is_as_wide_as_they_need():
    shapes = [
        jax.eval_shape(lambda n=n: frequency.empty_sketch(ObjectiveConfig(), n)).counts.shape
        for n in (0, 1 << 26, (1 << 26) + 1, 10**9)
    ]
    assert shapes == [(4, 1 << 18), (1 << 26,), (4, 1 << 23), (4, 1 << 26)]


def test_never_below_the_truth_and_within_the_bound_above():
    rng = np.random.default_rng(0)
    items = (rng.zipf(1.3, 20_000) % 50_000).astype(np.int32)
    width, depth = 1 << 12, 4
    sketch = frequency.update(
        small.sketch(depth, width), jnp.asarray(items), jnp.ones(len(items), bool), decay=1.0
    )
    names, counts = np.unique(items, return_counts=True)
    estimate = np.asarray(frequency.frequency(sketch, jnp.asarray(names))) * len(items)
    assert (estimate >= counts - 1e-2).all()
    # Cormode and Muthukrishnan 2005: over by more than e / width of all with probability e^-depth.
    assert (estimate - counts > np.e / width * len(items)).mean() < np.exp(-depth)


def test_counts_follow_a_change_of_the_data_and_cannot_overflow():
    sketch = small.sketch(2, 1 << 8)
    one = jnp.ones(1000, bool)
    step = jax.jit(lambda s, item: frequency.update(s, jnp.full(1000, item), one, decay=0.9))
    for _ in range(100):
        sketch = step(sketch, 3)
    assert float(sketch.total) == pytest.approx(10_000, rel=1e-3)
    for _ in range(30):
        sketch = step(sketch, 4)
    got = frequency.frequency(sketch, jnp.asarray([3, 4]))
    np.testing.assert_allclose(got, [0.9**30, 1 - 0.9**30], atol=1e-3)


def test_an_empty_sketch_says_zero():
    assert frequency.frequency(small.sketch(2, 16), jnp.asarray([1, 2])).tolist() == [0.0, 0.0]


def test_a_counter_above_two_to_the_24_still_grows():
    many = jnp.full((1, 16), 2.0**24, jnp.float32)
    sketch = frequency.Sketch(many, jnp.float32(2.0**24))
    sketch = frequency.update(sketch, jnp.full(1000, 3), jnp.ones(1000, bool), decay=1.0)
    assert float(sketch.counts.max()) == float(sketch.total) == 2**24 + 1000
