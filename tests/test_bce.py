import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from pinnerformer_jax.data.contracts import DAY
from pinnerformer_jax.objective.bce import binary_cross_entropy, random_negatives
from pinnerformer_jax.objective.targets import sasrec, user_keys


def test_equals_the_published_form_in_float64():
    rng = np.random.default_rng(0)
    user, positive, negative = (rng.normal(size=(9, 5)).astype(np.float32) for _ in range(3))
    weight, counts = rng.random(9).astype(np.float32), np.arange(9) % 4 != 0
    wanted = 0.0
    for i in range(9):
        sigmoid = [1 / (1 + np.exp(-float(user[i] @ v[i]) / 0.2)) for v in (positive, negative)]
        wanted -= float(weight[i]) * (np.log(sigmoid[0]) + (np.log(1 - sigmoid[1]) if counts[i] else 0.0))
    got = binary_cross_entropy(
        *map(jnp.asarray, (user, positive, negative)),
        jnp.asarray(0.2),
        jnp.asarray(weight),
        jnp.asarray(counts),
    )
    np.testing.assert_allclose(got, wanted, rtol=1e-5)


def test_extreme_scores_stay_finite_in_value_and_gradient():
    def loss(user):
        ones = jnp.ones((2, 1))
        return binary_cross_entropy(
            user, ones, ones, jnp.asarray(0.01), jnp.ones(2), jnp.asarray([True, False])
        )

    value, gradient = jax.value_and_grad(loss)(jnp.asarray([[50.0], [-50.0]]))
    np.testing.assert_allclose(value, 2 * 5000.0)
    np.testing.assert_allclose(gradient, [[100.0], [-100.0]])


def negatives(corpus: int, seed: int = 0):
    batch = small.batch()
    keys = jax.random.split(jax.random.key(0), len(batch.length))
    targets = sasrec(keys, batch, small.tables().positive_table, horizon=28 * DAY, newest_weighs_half=True)
    drawn = random_negatives(user_keys(jax.random.key(seed), jnp.arange(16)), batch, targets, corpus=corpus)
    return batch, targets, *map(np.asarray, drawn)


@pytest.mark.slow
def test_negatives_are_of_the_corpus_and_never_the_users_own():
    batch, targets, item, counts = negatives(small.ITEMS)
    assert item.shape == targets.item.shape
    assert item.max() < small.ITEMS
    for row, length in enumerate(batch.length.tolist()):
        own = {*batch.history.item[row, :length].tolist()}
        own |= {*targets.item[row][targets.valid[row]].tolist()}
        assert counts[row].tolist() == [i not in own for i in item[row].tolist()]
    assert 0.3 < counts.mean() < 1.0


def test_negatives_are_uniform():
    item = np.concatenate([negatives(7, seed)[2].ravel() for seed in range(30)])
    share = np.bincount(item, minlength=7) / len(item)
    np.testing.assert_allclose(share, 1 / 7, atol=0.015)
