"""The pool of negatives: other users' positives and uniformly random items, merged (paper, "loss")."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pinnerformer_jax.objective.frequency import Sketch, frequency

NO_USER = -1


class Pool(NamedTuple):
    """N candidates that every pair is compared with, the same on every device."""

    item: jax.Array  # int32 [N]
    user: jax.Array  # int32 [N], the user whose positive it is; NO_USER for a random item
    valid: jax.Array  # bool [N]


def mixed_pool(
    key: jax.Array,
    item: Int[Array, " m"],
    user: Int[Array, " m"],
    valid: Bool[Array, " m"],
    *,
    in_batch: int,
    random: int,
    corpus: int,
) -> Pool:
    """Up to `in_batch` of the global batch's positives, and `random` items uniform over the corpus.

    Args:
        key: of the step, the same on every device.
        item: the positives of all devices.
        user: theirs.
        valid: which of them are pairs.
        in_batch: how many positives at most; of more, a random choice.
        random: how many random items, drawn with replacement.
        corpus: random items are rows 0 : corpus of the catalogue.
    """
    choice_key, item_key = jax.random.split(key)
    if in_batch < item.shape[0]:
        priority = jnp.where(valid, jax.random.uniform(choice_key, item.shape), -1.0)
        _, chosen = jax.lax.top_k(priority, in_batch)
        item, user, valid = item[chosen], user[chosen], valid[chosen]
    uniform = jax.random.randint(item_key, (random,), 0, corpus, jnp.int32)
    return Pool(
        jnp.concatenate([item, uniform]),
        jnp.concatenate([user, jnp.full((random,), NO_USER, jnp.int32)]),
        jnp.concatenate([valid, jnp.ones((random,), jnp.bool_)]),
    )


def log_q(
    sketch: Sketch, items: Int[Array, " n"], pool: Pool, *, random: int, corpus: int
) -> Float[Array, " n"]:
    """log Q(v), Q(v) = N_in_batch f(v) + N_random / |corpus|: how many times v is expected in the pool.

    The paper does not give Q of a merged pool; this is our choice. With random negatives alone, Q is the same
    for all items and cancels. With in-batch negatives alone, it is the classical correction of sampled
    softmax. Q has no floor: one such as 1e-6 would be wrong for a catalogue of millions.
    """
    in_batch = jnp.sum(pool.valid & (pool.user != NO_USER)).astype(jnp.float32)
    expected = in_batch * frequency(sketch, items) + random / corpus
    # Only an item that was never counted, with no random negatives, gets 0: it cannot be in the pool.
    return jnp.log(jnp.maximum(expected, jnp.finfo(jnp.float32).tiny))
