"""Sampled softmax with logQ correction (paper, "loss").

s(u, p) = <u, p> / tau
L_i = -log( z_i(p_i) / (z_i(p_i) + sum_j z_i(n_j)) ),   z_i(v) = exp(s(u_i, v) - log Q(v))
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pinnerformer_jax.objective.negatives import Pool


def sampled_softmax(
    user_embedding: Float[Array, "r d"],
    positive_embedding: Float[Array, "r d"],
    pool_embedding: Float[Array, "n d"],
    temperature: Float[Array, ""],
    *,
    positive_item: Int[Array, " r"],
    user: Int[Array, " r"],
    pool: Pool,
    positive_log_q: Float[Array, " r"],
    pool_log_q: Float[Array, " n"],
) -> Float[Array, " r"]:
    """Loss of each row, float32 [R].

    A pool item is no negative of a row if it is the row's positive, or a positive of the row's own user.

    Args:
        user_embedding, positive_embedding, pool_embedding: unit rows, float32.
        temperature: tau.
        positive_item: item of each row's positive.
        user: each row's user, as a row of the global batch (the pool's numbering).
        pool: the negatives.
        positive_log_q, pool_log_q: log Q of the positives and of the pool; zeros for no correction.
    """
    positive = jnp.sum(user_embedding * positive_embedding, axis=-1) / temperature - positive_log_q
    logits = user_embedding @ pool_embedding.T / temperature - pool_log_q[None, :]  # [R, N]
    logits = jnp.where(_negative(positive_item, user, pool), logits, -jnp.inf)
    everything = jnp.concatenate([positive[:, None], logits], axis=1)
    return jax.nn.logsumexp(everything, axis=1) - positive


def user_weights(valid: Bool[Array, "b p"], users: Int[Array, ""]) -> Float[Array, "b p"]:
    """Weights of a batch's pairs under which every user counts the same and, summed over all devices, they
    are one: 1 / (the user's valid pairs) / (users with any).

    Args:
        valid: pairs of this device.
        users: users with a valid pair, over all devices.
    """
    each = valid.astype(jnp.float32)
    pairs = jnp.maximum(jnp.sum(each, axis=1, keepdims=True), 1.0)
    return each / pairs / jnp.maximum(users, 1).astype(jnp.float32)


def _negative(positive_item: jax.Array, user: jax.Array, pool: Pool) -> Bool[Array, "r n"]:
    other_item = positive_item[:, None] != pool.item[None, :]
    other_user = user[:, None] != pool.user[None, :]
    return pool.valid[None, :] & other_item & other_user
