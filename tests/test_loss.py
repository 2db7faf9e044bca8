"""The loss against an enumeration in float64 NumPy, and what must not move it."""

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest

from pinnerformer_jax.objective import loss as loss_module
from pinnerformer_jax.objective.loss import Rows, chunked_sampled_softmax, sampled_softmax, user_weights
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
        "rows": Rows(
            jnp.asarray(positive_item),
            jnp.asarray(user),
            jnp.asarray(rng.random(ROWS).astype(np.float32)),
            jnp.asarray(log_q[positive_item].astype(np.float32)),
        ),
        "pool": Pool(
            jnp.asarray(item),
            jnp.asarray(np.concatenate([user, np.full(NEGATIVES - ROWS, NO_USER)]).astype(np.int32)),
            jnp.asarray(rng.random(NEGATIVES) < 0.9),
        ),
        "pool_log_q": jnp.asarray(log_q[item].astype(np.float32)),
    }


def enumerate_loss(case: dict) -> float:
    """Term by term, as the paper writes it."""
    user, positive, negative, log_q = (
        np.asarray(case[name], np.float64)
        for name in ("user_embedding", "positive_embedding", "pool_embedding", "pool_log_q")
    )
    temperature, rows, pool = float(case["temperature"]), case["rows"], case["pool"]
    loss = 0.0
    for i in range(ROWS):
        z = np.exp(user[i] @ positive[i] / temperature - float(rows.log_q[i]))
        total = z
        for j in range(NEGATIVES):
            if pool.valid[j] and pool.item[j] != rows.item[i] and pool.user[j] != rows.user[i]:
                total += np.exp(user[i] @ negative[j] / temperature - log_q[j])
        loss -= float(rows.weight[i]) * np.log(z / total)
    return loss


@pytest.fixture(params=[sampled_softmax, chunked_sampled_softmax], ids=["plain", "chunked"])
def loss(request, monkeypatch):
    monkeypatch.setattr(loss_module, "row_chunk", lambda: 5)  # does not divide the 12 rows
    return request.param


@pytest.mark.parametrize("logq", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_equals_enumeration_in_float64(loss, seed, logq):
    c = case(seed, logq=logq)
    np.testing.assert_allclose(loss(**c), enumerate_loss(c), rtol=2e-5)


@pytest.mark.parametrize("chunk", [1, 5, 12, 1000])
def test_chunks_equal_the_plain_twin_in_value_and_gradient(monkeypatch, chunk):
    monkeypatch.setattr(loss_module, "row_chunk", lambda: chunk)
    c = case(4, logq=True)
    got, wanted = (
        jax.value_and_grad(lambda *args, f=f: 3.0 * f(*args), argnums=(0, 1, 2, 3))(*c.values())
        for f in (chunked_sampled_softmax, sampled_softmax)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, wanted)


def test_gradient_of_the_plain_twin_by_finite_differences():
    with jax.enable_x64(True):
        c = jax.tree.map(lambda v: v.astype(jnp.float64) if v.dtype == jnp.float32 else v, case(5, logq=True))
        names = ("user_embedding", "positive_embedding", "pool_embedding", "temperature")

        def f(*args):
            return sampled_softmax(**c | dict(zip(names, map(jnp.asarray, args), strict=True)))

        jax.test_util.check_grads(f, tuple(c[name] for name in names), order=1, modes=["rev"])


def test_masked_negatives_equal_dropped_ones_in_value_and_gradient(loss):
    c = case(0, logq=True)
    keep = np.flatnonzero(c["pool"].valid)
    dropped = c | {
        "pool": Pool(*(part[keep] for part in c["pool"])),
        "pool_embedding": c["pool_embedding"][keep],
        "pool_log_q": c["pool_log_q"][keep],
    }

    def of(embedding, values):
        return loss(**values | {"user_embedding": embedding})

    for got, wanted in zip(
        *(jax.value_and_grad(of)(c["user_embedding"], values) for values in (c, dropped)), strict=True
    ):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    # Garbage where the mask is reaches the loss as little.
    spoilt = c | {"pool_embedding": jnp.where(c["pool"].valid[:, None], c["pool_embedding"], 1e4)}
    np.testing.assert_allclose(loss(**spoilt), loss(**c), rtol=1e-6)


def test_a_constant_logq_cancels(loss):
    c = case(1, logq=False)
    shifted = c | {
        "rows": c["rows"]._replace(log_q=c["rows"].log_q + 3.0),
        "pool_log_q": c["pool_log_q"] + 3.0,
    }
    np.testing.assert_allclose(loss(**shifted), loss(**c), rtol=1e-4)


def test_without_a_negative_the_loss_is_zero_and_its_gradient_finite(loss):
    c = case(2, logq=False)
    c["pool"] = c["pool"]._replace(valid=jnp.zeros(NEGATIVES, bool))
    assert float(loss(**c)) == 0.0
    gradient = jax.grad(lambda e: loss(**c | {"user_embedding": e}))(c["user_embedding"])
    assert np.isfinite(gradient).all()


def test_every_user_weighs_the_same():
    weight = jnp.asarray([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0], [1.0, 1.0, 2.0], [0.0, 0.0, 0.0]])
    got = user_weights(weight, jnp.asarray(3))
    np.testing.assert_allclose(got, [[1 / 9] * 3, [1 / 3, 0, 0], [1 / 12, 1 / 12, 1 / 6], [0, 0, 0]])
    np.testing.assert_array_equal(user_weights(weight * 0.0, jnp.asarray(0)), 0.0)


def test_refined_logq_has_the_gradient_of_its_publication(loss):
    """arXiv 2507.09331: (1 - P), not differentiated, times the positive against the negatives alone; P is the
    estimate of the positive's probability. With log Q of the positive 0, this loss has that gradient."""
    c = case(6, logq=True)
    c["rows"] = c["rows"]._replace(log_q=jnp.zeros(ROWS))

    def published(user, positive, pool_embedding, temperature):
        mask = c["pool"].valid[None, :] & (c["pool"].item[None, :] != c["rows"].item[:, None])
        mask &= c["pool"].user[None, :] != c["rows"].user[:, None]
        logits = user @ pool_embedding.T / temperature - c["pool_log_q"][None, :]
        negative = jax.nn.logsumexp(jnp.where(mask, logits, -jnp.inf), axis=1)
        score = jnp.sum(user * positive, axis=1) / temperature
        weight = jax.lax.stop_gradient(1 - jax.nn.sigmoid(score - negative))
        return jnp.sum(weight * (negative - score) * c["rows"].weight)

    names = ("user_embedding", "positive_embedding", "pool_embedding", "temperature")
    arguments = tuple(c[name] for name in names)
    wanted = jax.grad(published, argnums=(0, 1, 2, 3))(*arguments)
    got = jax.grad(lambda *args: loss(**c | dict(zip(names, args, strict=True))), argnums=(0, 1, 2, 3))(
        *arguments
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, wanted)


def test_refined_logq_tends_to_the_full_softmax_where_the_classical_does_not():
    rng = np.random.default_rng(0)
    c = case(0, logq=False)
    items = rng.normal(size=(ITEMS, DIM)).astype(np.float32)
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    share = np.arange(1, ITEMS + 1) / np.arange(1, ITEMS + 1).sum()
    negatives, temperature, item = 50_000, jnp.asarray(0.5), np.array([ITEMS - 1], np.int32)
    drawn = rng.choice(ITEMS, negatives, p=share).astype(np.int32)
    q = (negatives * share).astype(np.float32)
    pool = Pool(jnp.asarray(drawn), jnp.full(negatives, NO_USER), jnp.ones(negatives, bool))
    user, vectors = c["user_embedding"][:1], jnp.asarray(items)

    def gradient(positive_log_q):
        rows = Rows(jnp.asarray(item), jnp.zeros(1, jnp.int32), jnp.ones(1), jnp.asarray(positive_log_q))
        return jax.grad(sampled_softmax)(
            user, vectors[item], vectors[drawn], temperature, rows, pool, jnp.log(q)[drawn]
        )

    full = jax.grad(lambda u: -jax.nn.log_softmax(u @ items.T / temperature)[0, ITEMS - 1])(user)
    scale = float(jnp.linalg.norm(full))
    assert float(jnp.linalg.norm(gradient(np.zeros(1, np.float32)) - full)) < 0.03 * scale
    assert float(jnp.linalg.norm(gradient(np.log(q[item])) - full)) > 0.1 * scale
