"""Which (user embedding, item) pairs are trained (paper, "objectives"): one function for each objective.

dense_all_action  a random set of positions, each with ONE positive drawn from the K days after it
all_action        the newest position, with up to P positives drawn from the K days after it
next_action       the newest position, with the next positive after it
sasrec            every position, with the next positive after it

An event counts for a position if it is strictly later, by at most K. Events with the same timestamp, such as
one basket, do not predict each other. Everything here runs inside the jitted step.
B users, T actions of a history, F events after it, P pairs a user, A actions, S surfaces.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pinnerformer_jax.config import ObjectiveConfig
from pinnerformer_jax.data import positives as rules
from pinnerformer_jax.data.contracts import NO_TIME, Batch, Events


class Targets(NamedTuple):
    """The pairs of a step, [B, P] each, the same P for every user.

    A user's weights must sum to 0 (no pair) or to at least 1. The loss divides them by that sum, so that
    every user counts the same.
    """

    position: jax.Array  # int32, index into the history, whose embedding is trained; 0 where not valid
    item: jax.Array  # int32, the positive, a row of the catalogue; 0 where not valid
    valid: jax.Array  # bool, whether this is a pair; the others are padding
    weight: jax.Array  # float32, against the user's other pairs; 0 where not valid


Objective = Callable[[jax.Array, Batch, jax.Array], Targets]
"""An objective: objective(keys, batch, positive_table) -> Targets, the pairs of a step. It is traced into the
jitted step, so it must be made of jax operations.

keys: a random key for each user, [B], see `user_keys`.
batch: histories, and the events after them as candidates for positives.
positive_table: float32 [A, S], seconds that an event must last to be a positive, see `is_positive`.

A function above with its settings bound is one: `partial(next_action, horizon=28 * DAY)`.
"""


def configured_objective(config: ObjectiveConfig) -> Objective:
    """The objective that the `objective` section of a config names, with its settings bound."""
    horizon = config.horizon
    match config.name:
        case "dense_all_action":
            return partial(dense_all_action, horizon=horizon, positions=config.positions)
        case "all_action":
            return partial(all_action, horizon=horizon, positives=config.positions)
        case "next_action":
            return partial(next_action, horizon=horizon)
        case "sasrec":
            return partial(sasrec, horizon=horizon, newest_weighs_half=True)
        case "sasrec_plain":
            return partial(sasrec, horizon=horizon, newest_weighs_half=False)


def check_targets(targets: Targets, batch: Batch) -> None:
    """Check the shapes and types of what an objective returned; costs nothing in the compiled step.

    Raises:
        ValueError: a field has another shape or type than `Targets` says.
    """
    users, pairs = batch.length.shape[0], jnp.shape(targets.item)[1:]
    kinds = {"position": jnp.integer, "item": jnp.integer, "valid": jnp.bool_, "weight": jnp.floating}
    for name, kind in kinds.items():
        values = jnp.asarray(getattr(targets, name))
        if values.ndim != 2 or values.shape != (users, *pairs) or not jnp.issubdtype(values.dtype, kind):
            raise ValueError(
                f"objective: Targets.{name} is {values.dtype}{list(values.shape)}; it must be "
                f"{kind.__name__}[{users}, P]: one row for each user of the batch, the same P in all fields"
            )


def user_keys(key: jax.Array, row: Int[Array, " b"]) -> jax.Array:
    """A random key for each user, [B].

    Args:
        key: of the step.
        row: int32 [B], the user's row in the GLOBAL batch, so that what is drawn for a user does not depend
            on the number of devices.
    """
    return jax.vmap(lambda number: jax.random.fold_in(key, number))(row)


def is_positive(
    events: Events, real: Bool[Array, "b t"], positive_table: Float[Array, "a s"]
) -> Bool[Array, "b t"]:
    """Which events are positive engagements: those that last long enough for their action and surface.

    Args:
        events: [B, T].
        real: which of them are no padding.
        positive_table: seconds that an event must last to be a positive, by action and surface; infinity
            where it never is one.
    """
    return real & rules.is_positive(positive_table, events.action, events.surface, events.duration)


def dense_all_action(
    keys: jax.Array, batch: Batch, positive_table: Float[Array, "a s"], *, horizon: int, positions: int
) -> Targets:
    """Pairs of the dense all-action objective.

    Positions are drawn without replacement among those that have a positive. The newest of them is always
    drawn, as it is the most like the position that is served (our choice; the paper draws all at random).
    Each is trained on ONE positive drawn uniformly from those in (t_s, t_s + K].

    Args:
        keys: [B], see `user_keys`.
        batch: histories and the events after them. Where only F of `future_count` were shipped, each
            counts as future_count / F of them, so that the draw stays uniform over all.
        positive_table: seconds an event must last to be positive, by action and surface.
        horizon: K, in seconds.
        positions: P; min(P, T) are drawn.
    """
    later = _LaterPositives(batch, positive_table, horizon)
    index = jnp.arange(batch.history.item.shape[1])[None, :]
    eligible = later.real & (later.count > 0)

    draws = jax.vmap(lambda key: jax.random.uniform(key, (2, index.shape[1])))(keys)  # [B, 2, T]
    newest = index == jnp.max(jnp.where(eligible, index, -1), axis=1, keepdims=True)
    priority = jnp.where(eligible, draws[:, 0] + newest.astype(jnp.float32), -1.0)
    priority, position = jax.lax.top_k(priority, min(positions, index.shape[1]))  # [B, P]
    spot = draws[:, 1, : position.shape[1]] * jnp.take_along_axis(later.count, position, axis=1)
    return _targets(position, later.nth(position, spot), priority >= 0)


def all_action(
    keys: jax.Array, batch: Batch, positive_table: Float[Array, "a s"], *, horizon: int, positives: int
) -> Targets:
    """Pairs of the all-action objective: the newest position on positives drawn without replacement from
    its next K days.

    Args:
        keys: [B], see `user_keys`.
        batch: histories and the events after them; of more than F, a uniformly random F is drawn from.
        positive_table: seconds an event must last to be positive, by action and surface.
        horizon: K, in seconds.
        positives: P, the paper's 32; min(P, F) at most.
    """
    future, newest = batch.future, _newest(batch)
    width = future.item.shape[1]
    start = jnp.take_along_axis(batch.history.time, newest, axis=1)  # [B, 1]
    later = (future.time > start) & (future.time - start <= horizon)
    eligible = later & is_positive(future, _shipped(batch), positive_table)
    draws = jax.vmap(lambda key: jax.random.uniform(key, (width,)))(keys)  # [B, F]
    priority, event = jax.lax.top_k(jnp.where(eligible, draws, -1.0), min(positives, width))  # [B, P]
    valid = (priority >= 0) & (batch.length > 0)[:, None]
    return _targets(
        jnp.broadcast_to(newest, event.shape), jnp.take_along_axis(future.item, event, axis=1), valid
    )


def next_action(
    keys: jax.Array, batch: Batch, positive_table: Float[Array, "a s"], *, horizon: int
) -> Targets:
    """Pairs of the next-action objective, P = 1: the newest position on its next positive.

    Args:
        keys: not used: nothing is drawn.
        batch: histories and the events after them; of more than F these must be the first, not a sample.
        positive_table: seconds an event must last to be positive, by action and surface.
        horizon: K, in seconds: a later event is no positive (our choice, as for every objective).
    """
    later = _LaterPositives(batch, positive_table, horizon)
    newest = _newest(batch)
    valid = jnp.take_along_axis(later.real & (later.count > 0), newest, axis=1)
    return _targets(newest, later.nth(newest, jnp.zeros(newest.shape)), valid)


def sasrec(
    keys: jax.Array,
    batch: Batch,
    positive_table: Float[Array, "a s"],
    *,
    horizon: int,
    newest_weighs_half: bool,
) -> Targets:
    """Pairs of SASRec, P = T: every position on its next positive, which lies in the history or after it.

    Args:
        keys: not used: nothing is drawn.
        batch: histories and the events after them; of more than F these must be the first, not a sample.
        positive_table: seconds an event must last to be positive, by action and surface.
        horizon: K, in seconds, as for `next_action`.
        newest_weighs_half: the newest position weighs as much as all others together (paper, Table 10).
    """
    later = _LaterPositives(batch, positive_table, horizon)
    valid = later.real & (later.count > 0)
    position = jnp.broadcast_to(jnp.arange(valid.shape[1])[None, :], valid.shape)
    targets = _targets(position, later.nth(position, jnp.zeros(valid.shape)), valid)
    if not newest_weighs_half:
        return targets
    newest = position == _newest(batch)
    others = jnp.sum(valid & ~newest, axis=1, keepdims=True).astype(jnp.float32)
    return targets._replace(weight=jnp.where(newest & valid, jnp.maximum(others, 1.0), targets.weight))


def _targets(position: jax.Array, item: jax.Array, valid: jax.Array) -> Targets:
    """Pairs of equal weight."""
    return Targets(jnp.where(valid, position, 0), jnp.where(valid, item, 0), valid, valid.astype(jnp.float32))


def _newest(batch: Batch) -> Int[Array, "b 1"]:
    return jnp.maximum(batch.length - 1, 0)[:, None]


def _shipped(batch: Batch) -> Bool[Array, "b f"]:
    """Which events of the future are real."""
    width = batch.future.item.shape[1]
    return jnp.arange(width)[None, :] < jnp.minimum(batch.future_count, width)[:, None]


class _LaterPositives:
    """The positives in (t, t + K] of every position's time t, in the history and after it: how many there
    are, and the item of any of them.

    Where only F of `future_count` events were shipped, each counts as future_count / F events.
    """

    def __init__(self, batch: Batch, positive_table: Float[Array, "a s"], horizon: int) -> None:
        history, future = batch.history, batch.future
        shipped = jnp.minimum(batch.future_count, future.item.shape[1])
        self.real = jnp.arange(history.item.shape[1])[None, :] < batch.length[:, None]  # [B, T]
        self.history = _Counter(history, is_positive(history, self.real, positive_table))
        self.future = _Counter(future, is_positive(future, _shipped(batch), positive_table))
        self.each = (batch.future_count / jnp.maximum(shipped, 1))[
            :, None
        ]  # events that a shipped one counts as

        start = history.time  # [B, T]
        # Padding's time is the largest int32, and a long horizon ends after it: keep the sum from wrapping.
        start_or_0 = jnp.where(self.real, start, 0)
        end = start_or_0 + jnp.minimum(horizon, NO_TIME - 1 - jnp.maximum(start_or_0, 0))
        self.first, self.counted = self.history.within(start, end)
        self.first_future, self.counted_future = self.future.within(start, end)
        self.count = self.counted.astype(jnp.float32) + self.each * self.counted_future.astype(jnp.float32)

    def nth(self, position: Int[Array, "b p"], spot: Float[Array, "b p"]) -> Int[Array, "b p"]:
        """Item of the positive at `spot`, in [0, count) of its position, oldest first."""

        def chosen(values: jax.Array) -> jax.Array:
            return jnp.take_along_axis(values, position, axis=1)

        counted = chosen(self.counted)
        spot_future = (spot - counted.astype(jnp.float32)) / self.each
        return jnp.where(
            spot_future < 0,
            self.history.nth(chosen(self.first), spot, counted),
            self.future.nth(chosen(self.first_future), spot_future, chosen(self.counted_future)),
        )


class _Counter:
    """Counts and picks the positives of time ranges by prefix sums; times are sorted, padding last."""

    def __init__(self, events: Events, positive: Bool[Array, "b n"]) -> None:
        self.events = events
        before = jnp.cumsum(positive.astype(jnp.int32), axis=1)
        self.before = jnp.pad(before, ((0, 0), (1, 0)))  # [B, n + 1] positives among the first j events

    def within(self, start: Int[Array, "b t"], end: Int[Array, "b t"]) -> tuple[jax.Array, jax.Array]:
        """(positives up to `start`, positives in (start, end]), [B, T] each."""

        def up_to(moment: jax.Array) -> jax.Array:
            event = _search(self.events.time, moment, side="right")
            return jnp.take_along_axis(self.before, event, axis=1)

        first = up_to(start)
        return first, up_to(end) - first

    def nth(self, first: jax.Array, spot: Float[Array, "b p"], count: Int[Array, "b p"]) -> jax.Array:
        """Item of the positive number floor(spot) after the first `first`, [B, P]."""
        number = first + jnp.clip(spot.astype(jnp.int32), 0, jnp.maximum(count - 1, 0)) + 1
        event = _search(self.before, number, side="left") - 1
        return jnp.take_along_axis(
            self.events.item, jnp.clip(event, 0, self.events.item.shape[1] - 1), axis=1
        )


def _search(
    ascending: Int[Array, "b n"], wanted: Int[Array, "b t"], *, side: Literal["left", "right"]
) -> Int[Array, "b t"]:
    """`searchsorted` of each row. Binary search is a loop of small kernels; an accelerator compares all pairs
    in one kernel instead."""
    method = "scan" if jax.default_backend() == "cpu" else "compare_all"
    return jax.vmap(partial(jnp.searchsorted, side=side, method=method))(ascending, wanted)
