"""Engagement of users with items, in memory, and pairs of items that a user engaged with in turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from pinnerformer_jax.config import PositiveRule
from pinnerformer_jax.data.contracts import DAY
from pinnerformer_jax.data.positives import positive_table
from pinnerformer_jax.data.ragged import flat_ranges
from pinnerformer_jax.data.timelines import EVALUATION, TRAIN, Shard, Timelines


class Engagement(NamedTuple):
    """E events of some users, a user's contiguous and oldest first."""

    user: np.ndarray  # int64 [E] number in the timelines
    item: np.ndarray  # int32 [E] row of the catalogue
    time: np.ndarray  # int64 [E] seconds since 1970
    positive: np.ndarray  # bool [E]


class Pairs(NamedTuple):
    """Items that a user engaged with, the second after the first."""

    first: np.ndarray  # int32 [P]
    second: np.ndarray  # int32 [P]
    user: np.ndarray  # int64 [P] number in the timelines


def training_engagement(timelines: Timelines, rules: tuple[PositiveRule, ...]) -> Engagement:
    """Events of the training users up to t. Item vectors are made from these alone."""
    return _read(timelines, rules, TRAIN, lambda shard, users: (np.zeros_like(users), shard.cut[users]))


def window_engagement(timelines: Timelines, rules: tuple[PositiveRule, ...]) -> Engagement:
    """Events of the evaluation users after t. Item vectors are evaluated on these."""
    return _read(
        timelines, rules, EVALUATION, lambda shard, users: (shard.cut[users], np.diff(shard.offsets)[users])
    )


def co_engaged(events: Engagement, reach: int, days: float) -> Pairs:
    """Pairs of different items.

    Args:
        events: of which the positive ones count.
        reach: pairs are 1, 2, 4, ... positives apart, at most so many.
        days: and at most so many days.
    """
    user, item, time = (column[events.positive] for column in events[:3])
    parts = []
    for apart in 2 ** np.arange(reach.bit_length()):
        near = (user[apart:] == user[:-apart]) & (item[apart:] != item[:-apart])
        near &= time[apart:] - time[:-apart] <= days * DAY
        parts.append((item[:-apart][near], item[apart:][near], user[apart:][near]))
    return Pairs(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def sessions(events: Engagement, hours: float) -> Int[np.ndarray, " e"]:
    """The session of each event, from 0. A session ends at a pause of more than so many hours."""
    begins = (np.diff(events.user) != 0) | (np.diff(events.time) > hours * 3600)
    return np.concatenate([[0], np.cumsum(begins)])[: len(events.user)]


def _read(timelines: Timelines, rules: tuple[PositiveRule, ...], role: int, span: Callable) -> Engagement:
    """Of the users of a role the events that `span` says: first and end, counted from a user's own first."""
    manifest = timelines.manifest
    table = positive_table(rules, manifest.actions, manifest.surfaces)
    parts = []
    for first_user, shard in timelines.by_shard():
        users = np.flatnonzero(shard.role == role)
        begin, end = span(shard, users)
        parts.append(_events(shard, users, begin, end, first_user, table))
    return Engagement(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _events(
    shard: Shard, users: np.ndarray, begin: np.ndarray, end: np.ndarray, first_user: int, table: np.ndarray
) -> Engagement:
    """Events begin : end of each user."""
    owner, event = flat_ranges(shard.offsets[users] + begin, end - begin)
    return Engagement(
        first_user + users[owner], shard.item[event], shard.time[event], shard.is_positive(event, table)
    )
