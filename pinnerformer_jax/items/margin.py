"""The max-margin loss of the PinSage paper, with hard negatives by a curriculum.

Hard negatives of a query are items that its walks visit less often than its neighbours. They are similar to
the query and not relevant to it (Ying et al., section 3.3; the paper takes ranks 2,000 to 5,000 by
personalised PageRank).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def max_margin(
    query: Float[Array, "b d"],
    positive: Float[Array, "b d"],
    shared: Float[Array, "r d"],
    shared_valid: Bool[Array, "b r"],
    hard: Float[Array, "b k d"],
    hard_valid: Bool[Array, "b k"],
    margin: float,
) -> Float[Array, ""]:
    """Mean over pairs of max(0, <q, n> - <q, p> + margin), averaged over the shared negatives, plus the same
    over the pair's hard ones, so that the few weigh as much as the many. (Our choice.)

    Args:
        query, positive: the pairs, unit rows.
        shared: negatives of all pairs.
        shared_valid: which of them are no positive of the pair.
        hard: the pair's own negatives.
        hard_valid: which of them count.
        margin: Delta.
    """
    aim = jnp.sum(query * positive, axis=1)[:, None] - margin
    of_shared = jax.nn.relu(query @ shared.T - aim)
    of_hard = jax.nn.relu(jnp.einsum("bd,bkd->bk", query, hard) - aim)
    return jnp.mean(_mean(of_shared, shared_valid) + _mean(of_hard, hard_valid))


def draw_hard(
    key: Array, progress: Float[Array, ""], ranked: Int[Array, "b c"], visited: Bool[Array, "b c"], count: int
) -> tuple[Int[Array, "b k"], Bool[Array, "b k"]]:
    """A pair's hard negatives, and which of them count yet.

    Args:
        key: of the draw.
        progress: share of the training that is done; so large a share of the `count` counts.
        ranked: candidates of each query.
        visited: which of them exist.
        count: K.
    """
    column = jax.random.randint(key, (len(ranked), count), 0, ranked.shape[1])
    begun = jnp.arange(1.0, count + 1) <= jnp.floor(progress * (count + 1))
    return (
        jnp.take_along_axis(ranked, column, axis=1),
        jnp.take_along_axis(visited, column, axis=1) & begun[None, :],
    )


def _mean(values: Float[Array, "b n"], valid: Bool[Array, "b n"]) -> Float[Array, " b"]:
    count = jnp.sum(valid, axis=1, dtype=jnp.float32)
    return jnp.sum(values, axis=1, where=valid) / jnp.maximum(count, 1)
