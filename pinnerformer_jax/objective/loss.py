"""Sampled softmax with logQ correction (paper, "loss").

s(u, p) = <u, p> / tau
L_i = -log( z_i(p_i) / (z_i(p_i) + sum_j z_i(n_j)) ),   z_i(v) = exp(s(u_i, v) - log Q(v))
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pinnerformer_jax.objective.negatives import Pool


def row_chunk() -> int:
    """Rows whose logits are in memory at a time: 54 MB for 1,024 rows and the paper's negatives. A GPU takes
    more rows at a time, for fewer rounds of the loop."""
    return 4096 if jax.default_backend() == "gpu" else 1024


class Rows(NamedTuple):
    """The R = B * P pairs of a step, without their embeddings."""

    item: jax.Array  # int32 [R], the positive
    user: jax.Array  # int32 [R], the user's number, as in the pool
    weight: jax.Array  # float32 [R], 0 where there is no pair
    log_q: jax.Array  # float32 [R], log Q of the positive
    moment: jax.Array | None = None  # int32 [R], which of M; None: log Q does not depend on the time


def sampled_softmax(
    user_embedding: Float[Array, "r d"],
    positive_embedding: Float[Array, "r d"],
    pool_embedding: Float[Array, "n d"],
    temperature: Float[Array, ""],
    rows: Rows,
    pool: Pool,
    pool_log_q: Float[Array, "*m n"],
) -> Float[Array, ""]:
    """Weighted sum of the rows' losses, float32. All logits [R, N] are in memory at once.

    An item of the pool is not a negative of a row if it is the row's positive or a positive of the row's
    user.

    Args:
        user_embedding: unit rows, float32, like the next two.
        positive_embedding: of each row's positive.
        pool_embedding: of the negatives.
        temperature: tau.
        rows: the pairs.
        pool: the negatives.
        pool_log_q: log Q of the negatives, [N], or [M, N] if the rows have a moment; zeros (like rows.log_q)
            for no correction.
    """
    scaled = user_embedding / temperature  # divides R x D numbers; dividing the logits would be R x N
    positive = jnp.sum(scaled * positive_embedding, axis=-1) - rows.log_q
    correction = pool_log_q[None, :] if rows.moment is None else pool_log_q[rows.moment]
    logits = scaled @ pool_embedding.T - correction  # [R, N]
    logits = jnp.where(_negative(rows, pool), logits, -jnp.inf)
    # log-sum-exp over the positive and the logits, without a copy of the logits beside the positive
    largest = jax.lax.stop_gradient(jnp.maximum(jnp.max(logits, axis=1), positive))
    total = jnp.exp(positive - largest) + jnp.sum(jnp.exp(logits - largest[:, None]), axis=1)
    return jnp.sum((largest + jnp.log(total) - positive) * rows.weight)


@jax.custom_vjp
def chunked_sampled_softmax(
    user_embedding: Float[Array, "r d"],
    positive_embedding: Float[Array, "r d"],
    pool_embedding: Float[Array, "n d"],
    temperature: Float[Array, ""],
    rows: Rows,
    pool: Pool,
    pool_log_q: Float[Array, "*m n"],
) -> Float[Array, ""]:
    """`sampled_softmax`, by chunks of rows: memory grows with row_chunk() x N, not with R x N.

    The forward pass of a chunk also computes the chunk's gradient while its logits are in memory. Nothing is
    computed twice, and the backward pass is a multiplication.
    """

    def add(total: jax.Array, chunk: tuple) -> tuple[jax.Array, None]:
        user, positive, part = chunk
        return total + sampled_softmax(
            user, positive, pool_embedding, temperature, part, pool, pool_log_q
        ), None

    return jax.lax.scan(add, jnp.zeros(()), _chunks((user_embedding, positive_embedding, rows)))[0]


def _forward(
    user_embedding: jax.Array,
    positive_embedding: jax.Array,
    pool_embedding: jax.Array,
    temperature: jax.Array,
    rows: Rows,
    pool: Pool,
    pool_log_q: jax.Array,
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    gradient = jax.value_and_grad(sampled_softmax, argnums=(0, 1, 2, 3))

    def add(sums: tuple, chunk: tuple) -> tuple[tuple, tuple]:
        user, positive, part = chunk
        loss, (to_user, to_positive, *to_shared) = gradient(
            user, positive, pool_embedding, temperature, part, pool, pool_log_q
        )
        return jax.tree.map(jnp.add, sums, (loss, *to_shared)), (to_user, to_positive)

    zeros = (jnp.zeros(()), jnp.zeros_like(pool_embedding), jnp.zeros_like(temperature))
    chunks = _chunks((user_embedding, positive_embedding, rows))
    (loss, to_pool, to_temperature), by_row = jax.lax.scan(add, zeros, chunks)
    to_user, to_positive = (part.reshape(-1, part.shape[-1])[: rows.item.shape[0]] for part in by_row)
    return loss, (to_user, to_positive, to_pool, to_temperature)


def _backward(gradients: tuple[jax.Array, ...], scale: jax.Array) -> tuple[jax.Array | None, ...]:
    return (*(scale * gradient for gradient in gradients), None, None, None)


chunked_sampled_softmax.defvjp(_forward, _backward)


def _chunks(by_row: tuple) -> tuple:
    """Leading axis R -> [chunks, row_chunk()]; the rows added as padding have weight 0."""
    count = jax.tree.leaves(by_row)[0].shape[0]
    size = min(row_chunk(), count)

    def split(values: jax.Array) -> jax.Array:
        padding = [(0, -count % size)] + [(0, 0)] * (values.ndim - 1)
        return jnp.pad(values, padding).reshape(-1, size, *values.shape[1:])

    return jax.tree.map(split, by_row)


def user_weights(weight: Float[Array, "b p"], users: Int[Array, ""]) -> Float[Array, "b p"]:
    """Weights under which every user counts the same and which sum to one over all devices: a pair's share of
    its user's weight, divided by the number of users with a pair.

    Args:
        weight: of this device's pairs, see `targets.Targets`; a user's sum is 0 or at least 1.
        users: users with a pair, over all devices.
    """
    of_user = jnp.maximum(jnp.sum(weight, axis=1, keepdims=True), 1.0)
    return weight / of_user / jnp.maximum(users, 1).astype(jnp.float32)


def _negative(rows: Rows, pool: Pool) -> Bool[Array, "r n"]:
    other_item = rows.item[:, None] != pool.item[None, :]
    other_user = rows.user[:, None] != pool.user[None, :]
    return pool.valid[None, :] & other_item & other_user
