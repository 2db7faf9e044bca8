from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from pinnerformer_jax.objective import frequency
from pinnerformer_jax.objective.negatives import NO_USER, log_q, mixed_pool

CORPUS = 12


def batch(seed: int, size: int = 40):
    """Positives of one step: an uneven distribution over the corpus, some slots empty."""
    rng = np.random.default_rng(seed)
    share = np.arange(1, CORPUS + 1) / np.arange(1, CORPUS + 1).sum()
    item = rng.choice(CORPUS, size, p=share).astype(np.int32)
    return jnp.asarray(item), jnp.arange(size, dtype=jnp.int32) // 4, jnp.asarray(rng.random(size) < 0.9)


def test_pool_is_in_batch_then_random():
    item, user, valid = batch(0)
    pool = mixed_pool(jax.random.key(0), item, user, valid, in_batch=100, random=7, corpus=CORPUS)
    np.testing.assert_array_equal(pool.item[:40], item)
    np.testing.assert_array_equal(pool.user, np.concatenate([user, np.full(7, NO_USER)]))
    np.testing.assert_array_equal(pool.valid, np.concatenate([valid, np.ones(7, bool)]))
    assert (pool.item[40:] < CORPUS).all()


def test_of_too_many_a_random_choice_and_empty_slots_last():
    _, user, valid = batch(1)
    number = jnp.arange(40, dtype=jnp.int32)  # which slot was chosen

    def chosen(seed):
        return mixed_pool(jax.random.key(seed), number, user, valid, in_batch=10, random=0, corpus=CORPUS)

    pools = jax.vmap(chosen)(jnp.arange(2000))
    assert pools.valid.all()
    counts = np.bincount(np.asarray(pools.item).ravel(), minlength=40)
    expected = 2000 * 10 / int(valid.sum())
    assert (counts[~np.asarray(valid)] == 0).all()
    assert abs(counts[np.asarray(valid)] - expected).max() < 6 * np.sqrt(expected)


@pytest.mark.parametrize(("in_batch", "random"), [(100, 0), (0, 9), (100, 9), (15, 9)])
def test_q_is_the_expected_count_in_the_pool(in_batch, random):
    """Simulate many steps, count how often each item stands in the pool, compare with exp(log Q)."""
    steps, size = 4000, 40
    rng = np.random.default_rng(3)
    share = np.arange(1, CORPUS + 1) / np.arange(1, CORPUS + 1).sum()
    items = jnp.asarray(rng.choice(CORPUS, (steps, size), p=share).astype(np.int32))
    user, valid = jnp.arange(size, dtype=jnp.int32), jnp.ones(size, bool)

    def step(sketch, key_and_items):
        key, item = key_and_items
        sketch = frequency.update(sketch, item, valid, decay=1.0)
        pool = mixed_pool(key, item, user, valid, in_batch=in_batch, random=random, corpus=CORPUS)
        return sketch, jnp.sum(pool.item[:, None] == jnp.arange(CORPUS)[None, :], axis=0)

    sketch, counts = jax.jit(partial(jax.lax.scan, step))(
        small.sketch(4, 1 << 10), (jax.random.split(jax.random.key(0), steps), items)
    )
    pool = mixed_pool(
        jax.random.key(9), items[0], user, valid, in_batch=in_batch, random=random, corpus=CORPUS
    )
    q = np.exp(log_q(sketch, jnp.arange(CORPUS), pool, random=random, corpus=CORPUS))
    np.testing.assert_allclose(q, np.asarray(counts).mean(axis=0), rtol=0.06)


def test_random_alone_gives_every_item_the_same_q():
    item, user, valid = batch(0)
    sketch = frequency.update(small.sketch(2, 256), item, valid, decay=1.0)
    pool = mixed_pool(jax.random.key(0), item, user, valid, in_batch=0, random=5, corpus=CORPUS)
    q = log_q(sketch, jnp.arange(CORPUS), pool, random=5, corpus=CORPUS)
    np.testing.assert_allclose(q, np.log(5 / CORPUS), rtol=1e-6)


def test_q_of_a_catalogue_of_hundreds_of_millions_is_not_clipped():
    item, user, valid = batch(0)
    pool = mixed_pool(jax.random.key(0), item, user, valid, in_batch=0, random=4, corpus=2**31 - 1)
    q = log_q(small.sketch(2, 256), item, pool, random=4, corpus=2**31 - 1)
    np.testing.assert_allclose(q, np.log(4 / (2**31 - 1)), rtol=1e-5)
