"""How much recall a user vector loses by its age (paper, Table 2). One model embeds the users once at t,
daily, or after every event.

A schedule is a list of moments for each user, the first of them t. At each moment the user is embedded from
the events up to it. Each positive event of the window is a target of the newest vector from strictly before
it, also if the user repeats an item. So every schedule has the same targets.

Dimensions: U evaluated users, E their events in the window, M moments, V vectors, D output, N items.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from pinnerformer_jax.config import EvaluationConfig, PositiveRule
from pinnerformer_jax.data.contracts import DAY
from pinnerformer_jax.data.positives import positive_table
from pinnerformer_jax.data.ragged import flat_ranges, offsets_of, owners
from pinnerformer_jax.data.timelines import Timelines
from pinnerformer_jax.evaluation.comparison import MAX_SCORES, PAPER_K, Statistic, inner_products
from pinnerformer_jax.evaluation.metrics import NO_PAIRS, index_hits, rank_targets
from pinnerformer_jax.evaluation.protocol import Protocol


class Window(NamedTuple):
    """The events of the evaluated users in the window, user by user, oldest first."""

    user: np.ndarray  # int64 [E] place among the evaluated users
    time: np.ndarray  # int64 [E] seconds since 1970
    item: np.ndarray  # int32 [E]
    target: np.ndarray  # bool [E] positive, of an item with a vector


class Moments(NamedTuple):
    """The moments at which users are embedded, by user and time; every user has the moment t."""

    user: np.ndarray  # int64 [M]
    time: np.ndarray  # int64 [M]


class Embedded(NamedTuple):
    """Outcome of a schedule."""

    recall: Statistic  # the paper's Recall@10
    vectors: int  # V, those that targets need


def staleness(
    embed: Callable[[np.ndarray, np.ndarray], np.ndarray],
    items: np.ndarray,
    timelines: Timelines,
    protocol: Protocol,
    rules: tuple[PositiveRule, ...],
    config: EvaluationConfig,
) -> dict[str, Embedded]:
    """Recall@10 of "once", "daily" and "real time".

    As in the paper's protocol, a target is placed into the random index, and the user's other positives of
    the whole window are no candidates. This holds for every schedule.

    Args:
        embed: from users, by their numbers in the timelines, int64 [V], and counts of their events, int64
            [V], to the vectors that each user has after so many events, float32 [V, D].
        items: [N, D] item embeddings.
        timelines: a prepared folder.
        protocol: users, targets and index.
        rules: what makes an event positive.
        config: batch size.
    """
    manifest = timelines.manifest
    table = positive_table(rules, manifest.actions, manifest.surfaces)
    window = read_window(timelines, protocol, table)
    return {
        name: schedule_recall(embed, items, protocol, window, moments, config)
        for name, moments in schedules(window, protocol).items()
    }


def read_window(timelines: Timelines, protocol: Protocol, table: np.ndarray) -> Window:
    """Every event of the evaluated users in (t, end of the window]."""
    parts = []
    for first, shard in timelines.by_shard():
        place = np.flatnonzero((protocol.users >= first) & (protocol.users < first + shard.users))
        local = protocol.users[place] - first
        cut = shard.offsets[local] + shard.cut[local]
        owner, event = flat_ranges(cut, shard.offsets[local + 1] - cut)
        inside = shard.time[event] <= protocol.window_end
        owner, event = owner[inside], event[inside]
        target = shard.is_positive(event, table) & protocol.reachable[shard.item[event]]
        parts.append((place[owner], shard.time[event], shard.item[event], target))
    return Window(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def schedules(window: Window, protocol: Protocol) -> dict[str, Moments]:
    """The paper's three schedules: at t; at t and every 24 hours after it; at t and at every event."""
    users = np.arange(len(protocol.users))
    days = np.arange(protocol.split_time, protocol.window_end, DAY)
    started = np.full(len(users), protocol.split_time)
    return {
        "once": Moments(users, started),
        "daily": Moments(np.repeat(users, len(days)), np.tile(days, len(users))),
        "real time": _sorted(np.concatenate([users, window.user]), np.concatenate([started, window.time])),
    }


def schedule_recall(
    embed: Callable[[np.ndarray, np.ndarray], np.ndarray],
    items: np.ndarray,
    protocol: Protocol,
    window: Window,
    moments: Moments,
    config: EvaluationConfig,
) -> Embedded:
    """One schedule; the arguments are those of `staleness`."""
    seen = visible(window, moments, protocol)
    wanted = np.flatnonzero(window.target)
    user, item = window.user[wanted], window.item[wanted]
    # Moments of a user with no event between them have the same vector: it is computed once.
    counts = seen[newest_before(window, moments, protocol)[wanted]]
    rows, row = np.unique(np.stack([user, counts], axis=1), axis=0, return_inverse=True)
    owner, vectors = rows[:, 0], len(rows)

    score = inner_products(embed(protocol.users[owner], rows[:, 1]), items)
    size = max(1, min(config.batch_size, vectors, MAX_SCORES // len(items)))
    index, offsets = jnp.asarray(protocol.index), protocol.targets.offsets
    count = np.diff(offsets)[owner]  # the user's targets, for each vector
    hits = []
    for start in range(0, vectors, size):
        chunk = np.arange(start, min(start + size, vectors))
        place, number = protocol.targets.of(owner[chunk])
        scores = score(np.pad(chunk, (0, size - len(chunk)), mode="edge"))
        ranking = rank_targets(scores, index, (place, protocol.targets.item[number]), NO_PAIRS, PAPER_K)
        hits.append(index_hits(ranking, PAPER_K))
    # Where in `hits` an event's item is: after those of earlier vectors, at its place among its user's.
    pair = owners(offsets) * len(items) + protocol.targets.item
    among = np.searchsorted(pair, user * len(items) + item) - offsets[user]
    hit = np.concatenate(hits)[offsets_of(count)[row] + among]
    users = len(protocol.users)
    return Embedded(
        Statistic(np.bincount(user, hit, users), np.bincount(user, minlength=users).astype(float)), vectors
    )


def newest_before(window: Window, moments: Moments, protocol: Protocol) -> np.ndarray:
    """int64 [E]: the number of each event's newest moment strictly before it."""
    return np.searchsorted(_order(moments, protocol), _order(window, protocol), side="left") - 1


def visible(window: Window, moments: Moments, protocol: Protocol) -> np.ndarray:
    """int64 [M]: events of the user up to each moment, the history included."""
    first = np.searchsorted(window.user, moments.user)
    after_t = np.searchsorted(_order(window, protocol), _order(moments, protocol), side="right") - first
    return protocol.history.length[moments.user] + after_t


def _order(events: Window | Moments, protocol: Protocol) -> np.ndarray:
    """int64: numbers that sort by user, then time."""
    span = protocol.window_end - protocol.split_time + 1
    return events.user * span + (events.time - protocol.split_time)


def _sorted(user: np.ndarray, time: np.ndarray) -> Moments:
    return Moments(*np.unique(np.stack([user, time]), axis=1))
