"""Which (user embedding, item) pairs are trained: dense all action (paper, "objectives").

A random set of positions {s_i}; each e_{s_i} is trained on ONE positive drawn uniformly from those
in (t_s, t_s + K]. Everything here runs inside the jitted step. B users, T actions, F events after
the window, P positions.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pinnerformer_jax.data.contracts import Batch, Events


class Targets(NamedTuple):
    """The pairs of a step, [B, P] each."""

    position: jax.Array  # int32, index into the history; 0 where not valid
    item: jax.Array  # int32, the positive; 0 where not valid
    valid: jax.Array  # bool, there is such a pair


def user_keys(key: jax.Array, first_user: Int[Array, ""] | int, users: int) -> jax.Array:
    """A key a user [B], by the user's row in the GLOBAL batch, so that what is drawn for a user does not
    depend on how many devices share the batch."""
    return jax.vmap(lambda row: jax.random.fold_in(key, row))(first_user + jnp.arange(users))


def is_positive(
    events: Events, real: Bool[Array, "b t"], positive_table: Float[Array, "a s"]
) -> Bool[Array, "b t"]:
    """Which events are positive engagements: long enough for their action and surface."""
    wanted = positive_table[events.action.astype(jnp.int32), events.surface.astype(jnp.int32)]
    return real & (events.duration >= wanted)


def dense_all_action(
    keys: jax.Array, batch: Batch, positive_table: Float[Array, "a s"], *, horizon: int, positions: int
) -> Targets:
    """Pairs of the dense all-action objective.

    Positions are drawn without replacement among those that have a positive; the newest of them, the
    one that serving resembles most, always is one (our choice; the paper says random). An event counts
    for a position if it is strictly later, by at most the horizon: what shares a timestamp with the
    position (one basket) is not predicted from it.

    Args:
        keys: [B], see `user_keys`.
        batch: histories and the events after them. Where only F of `future_count` were shipped, each
            stands for future_count / F of them, so that the draw stays uniform over all.
        positive_table: seconds an event must last to be positive, by action and surface.
        horizon: K, in seconds.
        positions: P; min(P, T) are drawn.
    """
    history, future = batch.history, batch.future
    index = jnp.arange(history.item.shape[1])[None, :]
    shipped = jnp.minimum(batch.future_count, future.item.shape[1])
    real = index < batch.length[:, None]  # [B, T]
    real_future = jnp.arange(future.item.shape[1])[None, :] < shipped[:, None]  # [B, F]
    in_history = _Counter(history, is_positive(history, real, positive_table))
    in_future = _Counter(future, is_positive(future, real_future, positive_table))
    each = (batch.future_count / jnp.maximum(shipped, 1))[:, None]  # events a shipped one stands for

    start = history.time  # [B, T]
    # Padding's time is the largest int32; keep start + horizon from wrapping there.
    end = jnp.where(real, start, 0) + horizon
    first, counted = in_history.within(start, end)
    first_future, counted_future = in_future.within(start, end)
    weight = counted.astype(jnp.float32) + each * counted_future.astype(jnp.float32)  # [B, T] positives
    eligible = real & (weight > 0)

    draws = jax.vmap(lambda key: jax.random.uniform(key, (2, history.item.shape[1])))(keys)  # [B, 2, T]
    newest = index == jnp.max(jnp.where(eligible, index, -1), axis=1, keepdims=True)
    priority = jnp.where(eligible, draws[:, 0] + newest.astype(jnp.float32), -1.0)
    priority, position = jax.lax.top_k(priority, min(positions, history.item.shape[1]))  # [B, P]
    valid = priority >= 0

    def chosen(values: jax.Array) -> jax.Array:
        return jnp.take_along_axis(values, position, axis=1)

    spot = draws[:, 1, : position.shape[1]] * chosen(weight)  # uniform in [0, positives)
    spot_future = (spot - chosen(counted).astype(jnp.float32)) / each
    item = jnp.where(
        spot_future < 0,
        in_history.nth(chosen(first), spot, chosen(counted)),
        in_future.nth(chosen(first_future), spot_future, chosen(counted_future)),
    )
    return Targets(jnp.where(valid, position, 0), jnp.where(valid, item, 0), valid)


class _Counter:
    """Counts and picks the positives of time ranges by prefix sums; times are sorted, padding last."""

    def __init__(self, events: Events, positive: Bool[Array, "b n"]) -> None:
        self.events = events
        before = jnp.cumsum(positive.astype(jnp.int32), axis=1)
        self.before = jnp.pad(before, ((0, 0), (1, 0)))  # [B, n + 1] positives among the first j events

    def within(self, start: Int[Array, "b t"], end: Int[Array, "b t"]) -> tuple[jax.Array, jax.Array]:
        """(positives up to `start`, positives in (start, end]), [B, T] each."""

        def up_to(moment: jax.Array) -> jax.Array:
            event = jax.vmap(lambda time, m: jnp.searchsorted(time, m, side="right"))(
                self.events.time, moment
            )
            return jnp.take_along_axis(self.before, event, axis=1)

        first = up_to(start)
        return first, up_to(end) - first

    def nth(self, first: jax.Array, spot: Float[Array, "b p"], count: Int[Array, "b p"]) -> jax.Array:
        """Item of the positive number floor(spot) after the first `first`, [B, P]."""
        number = first + jnp.clip(spot.astype(jnp.int32), 0, jnp.maximum(count - 1, 0)) + 1
        event = jax.vmap(lambda before, n: jnp.searchsorted(before, n, side="left"))(self.before, number) - 1
        return jnp.take_along_axis(
            self.events.item, jnp.clip(event, 0, self.events.item.shape[1] - 1), axis=1
        )
