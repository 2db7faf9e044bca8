"""SASRec's first loss (Kang and McAuley, ICDM 2018): a pair's positive against one random item, as two
binary decisions.

L = -log sigmoid(s(u, p)) - log(1 - sigmoid(s(u, n))),   s(u, v) = <u, v> / tau

SASRec's s is a plain inner product. Unit vectors need the temperature (our choice).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pinnerformer_jax.data.contracts import Batch
from pinnerformer_jax.objective.targets import Targets


def random_negatives(
    keys: jax.Array, batch: Batch, targets: Targets, *, corpus: int
) -> tuple[jax.Array, jax.Array]:
    """One uniformly random item for each pair.

    SASRec draws again until the item is not one of the user's. Here a negative that is in the user's history
    or among the user's targets is left out of the loss.

    Args:
        keys: a random key for each user, [B], see `targets.user_keys`.
        batch: the histories.
        targets: the pairs.
        corpus: items are rows 0 : corpus of the catalogue.

    Returns:
        The items, int32 [B, P], and whether each counts, bool [B, P].
    """
    pairs = targets.item.shape[1]
    item = jax.vmap(lambda key: jax.random.randint(key, (pairs,), 0, corpus, jnp.int32))(keys)
    real = jnp.arange(batch.history.item.shape[1])[None, :] < batch.length[:, None]
    own = jnp.concatenate(
        [jnp.where(real, batch.history.item, -1), jnp.where(targets.valid, targets.item, -1)], axis=1
    )  # [B, T + P]
    return item, ~jnp.any(item[:, :, None] == own[:, None, :], axis=2)


def binary_cross_entropy(
    user_embedding: Float[Array, "r d"],
    positive_embedding: Float[Array, "r d"],
    negative_embedding: Float[Array, "r d"],
    temperature: Float[Array, ""],
    weight: Float[Array, " r"],
    counts: Bool[Array, " r"],
) -> Float[Array, ""]:
    """Weighted sum of the pairs' losses, float32.

    Args:
        user_embedding: unit rows, float32, like the next two.
        positive_embedding: of each pair's positive.
        negative_embedding: of each pair's negative.
        temperature: tau.
        weight: of each pair; 0 where there is none.
        counts: whether a pair's negative is in the loss.
    """
    positive = jnp.sum(user_embedding * positive_embedding, axis=-1) / temperature
    negative = jnp.sum(user_embedding * negative_embedding, axis=-1) / temperature
    loss = jax.nn.softplus(-positive) + jnp.where(counts, jax.nn.softplus(negative), 0.0)
    return jnp.sum(loss * weight)
