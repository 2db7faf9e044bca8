"""The loss against an enumeration in float64 NumPy, and what must not move it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pinnerformer_jax.objective.loss import sampled_softmax, user_weights
from pinnerformer_jax.objective.negatives import NO_USER, Pool

ROWS, NEGATIVES, ITEMS, DIM = 12, 30, 9, 8


def case(seed: int, *, logq: bool) -> dict:
    rng = np.random.default_rng(seed)

    def unit(shape):
        vectors = rng.normal(size=shape)
        return jnp.asarray((vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32))

    items = unit((ITEMS, DIM))
    positive_item = rng.integers(0, ITEMS, ROWS).astype(np.int32)
    user = (np.arange(ROWS) // 3).astype(np.int32)
    random = rng.integers(0, ITEMS, NEGATIVES - ROWS).astype(np.int32)
    item = np.concatenate([positive_item, random])
    log_q = rng.normal(size=ITEMS) if logq else np.zeros(ITEMS)
    return {
        "user_embedding": unit((ROWS, DIM)),
        "positive_embedding": items[positive_item],
        "pool_embedding": items[item],
        "temperature": jnp.asarray(0.07),
        "positive_item": jnp.asarray(positive_item),
        "user": jnp.asarray(user),
        "pool": Pool(
            jnp.asarray(item),
            jnp.asarray(np.concatenate([user, np.full(NEGATIVES - ROWS, NO_USER)]).astype(np.int32)),
            jnp.asarray(rng.random(NEGATIVES) < 0.9),
        ),
        "positive_log_q": jnp.asarray(log_q[positive_item].astype(np.float32)),
        "pool_log_q": jnp.asarray(log_q[item].astype(np.float32)),
    }


def enumerate_loss(case: dict) -> np.ndarray:
    """Term by term, as the paper writes it."""
    c = {k: np.asarray(v, np.float64) if k != "pool" else v for k, v in case.items()}
    losses = []
    for i in range(ROWS):
        z = np.exp(
            c["user_embedding"][i] @ c["positive_embedding"][i] / c["temperature"] - c["positive_log_q"][i]
        )
        total = z
        for j in range(NEGATIVES):
            negative = case["pool"].valid[j]
            negative &= case["pool"].item[j] != case["positive_item"][i]
            negative &= case["pool"].user[j] != case["user"][i]
            if negative:
                score = c["user_embedding"][i] @ c["pool_embedding"][j] / c["temperature"]
                total += np.exp(score - c["pool_log_q"][j])
        losses.append(-np.log(z / total))
    return np.array(losses)


@pytest.mark.parametrize("logq", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_equals_enumeration_in_float64(seed, logq):
    c = case(seed, logq=logq)
    np.testing.assert_allclose(sampled_softmax(**c), enumerate_loss(c), rtol=2e-5, atol=1e-5)


def test_masked_negatives_equal_dropped_ones_in_value_and_gradient():
    c = case(0, logq=True)
    keep = np.flatnonzero(c["pool"].valid)
    dropped = c | {
        "pool": Pool(*(part[keep] for part in c["pool"])),
        "pool_embedding": c["pool_embedding"][keep],
        "pool_log_q": c["pool_log_q"][keep],
    }

    def loss(embedding, c):
        return jnp.sum(sampled_softmax(**c | {"user_embedding": embedding}))

    for got, wanted in zip(
        *(jax.value_and_grad(loss)(c["user_embedding"], values) for values in (c, dropped)), strict=True
    ):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    # Garbage where the mask is reaches neither.
    spoilt = c | {"pool_embedding": jnp.where(c["pool"].valid[:, None], c["pool_embedding"], 1e4)}
    np.testing.assert_allclose(sampled_softmax(**spoilt), sampled_softmax(**c), rtol=1e-6)


def test_a_constant_logq_cancels():
    c = case(1, logq=False)
    shifted = c | {"positive_log_q": c["positive_log_q"] + 3.0, "pool_log_q": c["pool_log_q"] + 3.0}
    np.testing.assert_allclose(sampled_softmax(**shifted), sampled_softmax(**c), rtol=1e-4, atol=1e-5)


def test_without_a_negative_the_loss_is_zero_and_its_gradient_finite():
    c = case(2, logq=False)
    c["pool"] = c["pool"]._replace(valid=jnp.zeros(NEGATIVES, bool))
    np.testing.assert_array_equal(sampled_softmax(**c), 0.0)
    gradient = jax.grad(lambda e: jnp.sum(sampled_softmax(**c | {"user_embedding": e})))(c["user_embedding"])
    assert np.isfinite(gradient).all()


def test_every_user_weighs_the_same():
    valid = jnp.asarray([[True, True, True], [True, False, False], [False, False, False]])
    weights = user_weights(valid, jnp.asarray(2))
    np.testing.assert_allclose(weights, [[1 / 6] * 3, [0.5, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(user_weights(valid & False, jnp.asarray(0)), 0.0)
