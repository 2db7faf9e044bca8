"""The evaluation protocol: the users, their targets and the candidate items, the same for every method.

t is the end of training. A user is evaluated if the user has the role EVALUATION (none of their events is
trained on), at least one event up to t, and at least one target. A target is an item with a vector that the
user has a positive event with in the window after t.

Dimensions: U evaluated users, E their events up to t, R (user, target item) pairs, N items, A actions.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from pinnerformer_jax.config import EvaluationConfig, PositiveRule
from pinnerformer_jax.data.contracts import DAY, format_time
from pinnerformer_jax.data.positives import positive_table
from pinnerformer_jax.data.ragged import flat_ranges, offsets_of, owners
from pinnerformer_jax.data.timelines import EVALUATION, Timelines
from pinnerformer_jax.evaluation.results import ProtocolSummary


@dataclass(frozen=True)
class History:
    """The events of users up to t, user by user, oldest first."""

    offsets: np.ndarray  # int64 [U + 1]: user u owns events offsets[u] : offsets[u + 1]
    item: np.ndarray  # int32 [E]
    time: np.ndarray  # int64 [E] seconds since 1970
    positive: np.ndarray  # bool [E]

    @property
    def length(self) -> np.ndarray:
        """int64 [U], events of each user."""
        return np.diff(self.offsets)

    @property
    def owners(self) -> np.ndarray:
        """int64 [E]: the user of each event, as a place among the users."""
        return owners(self.offsets)

    def of(self, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The events of some users: the user of each, as a place in `users`, and its number."""
        return flat_ranges(self.offsets[users], self.length[users])

    def touched(self, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The items of the events of some users: the user of each, as a place in `users`, and the item."""
        owner, event = self.of(users)
        return owner, self.item[event]

    def newest(self, count: int) -> History:
        """The newest events of each user, at most `count`."""
        length = np.minimum(self.length, count)
        _, event = flat_ranges(self.offsets[1:] - length, length)
        return History(offsets_of(length), self.item[event], self.time[event], self.positive[event])


@dataclass(frozen=True)
class Targets:
    """The distinct reachable items of users' positive events in the window, user by user."""

    offsets: np.ndarray  # int64 [U + 1]
    item: np.ndarray  # int32 [R]
    new: np.ndarray  # bool [R]: the user had not touched it up to t
    by_action: np.ndarray  # bool [R, A]: a positive event of that action is with it

    def of(self, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The targets of some users: the user of each, as a place in `users`, and its number."""
        return flat_ranges(self.offsets[users], np.diff(self.offsets)[users])


@dataclass(frozen=True)
class Protocol:
    """The evaluated users, their histories and targets, and the items that compete."""

    users: np.ndarray  # int64 [U] numbers in the timelines, ascending
    history: History
    targets: Targets
    reachable: np.ndarray  # bool [N] items with a vector: the candidates of `full` and `new_items`
    index: np.ndarray  # bool [N] the random items of `paper`
    actions: list[str]  # names by id; [0] is "", the unknown
    split_time: int  # t, seconds since 1970
    window_end: int  # last second of the window
    eligible: int  # users that qualify; more than U if a sample is evaluated
    without_history: int  # evaluation users without an event up to t
    without_target: int  # the others without a reachable target
    unreachable: int  # (user, item) pairs of positives left out: the item has no vector

    @property
    def summary(self) -> ProtocolSummary:
        """The sizes, as the report and results.json show them."""
        return ProtocolSummary(
            t=format_time(self.split_time),
            window_end=format_time(self.window_end),
            window_days=(self.window_end - self.split_time) / DAY,
            users=len(self.users),
            eligible_users=self.eligible,
            users_without_history=self.without_history,
            users_without_target=self.without_target,
            pairs=len(self.targets.item),
            new_pairs=int(self.targets.new.sum()),
            unreachable_pairs=self.unreachable,
            items=len(self.reachable),
            reachable_items=int(self.reachable.sum()),
            index_size=int(self.index.sum()),
        )


def build_protocol(
    timelines: Timelines,
    reachable: np.ndarray,
    rules: tuple[PositiveRule, ...],
    config: EvaluationConfig,
) -> Protocol:
    """Build the protocol of a prepared folder.

    Args:
        timelines: the folder.
        reachable: bool [N], items with a vector.
        rules: what makes an event positive.
        config: sizes and seeds of the samples.

    Raises:
        ValueError: there is no user to evaluate; the message says why.
    """
    manifest, items = timelines.manifest, len(reachable)
    table = positive_table(rules, manifest.actions, manifest.surfaces)
    active, without_history = _held_out(timelines)
    user, item, by_action = _window_positives(timelines, active, table, items)
    within_reach = reachable[item]
    unreachable = int((~within_reach).sum())
    user, item, by_action = user[within_reach], item[within_reach], by_action[within_reach]
    eligible = np.unique(user)
    if len(eligible) == 0:
        raise ValueError(
            f"{timelines.path}: of {len(active) + without_history} evaluation users none has both an "
            f"event up to {format_time(manifest.split_time)} and then, up to "
            f"{format_time(manifest.evaluation_end)}, a positive on an item with a vector; raise "
            "data.evaluation_share or data.evaluation_days, or widen data.positives, and run ingest again"
        )

    rng = np.random.default_rng(config.seed)
    candidates = np.flatnonzero(reachable)
    index = np.zeros(items, bool)
    index[rng.choice(candidates, min(config.index_size, len(candidates)), replace=False)] = True
    users = eligible
    if 0 < config.max_users < len(eligible):
        users = np.sort(rng.choice(eligible, config.max_users, replace=False))
        chosen = np.isin(user, users)
        user, item, by_action = user[chosen], item[chosen], by_action[chosen]

    history = histories(timelines, users, table)
    place = np.searchsorted(users, user)
    touched = history.owners * items + history.item
    targets = Targets(
        offsets=np.searchsorted(place, np.arange(len(users) + 1)),
        item=item.astype(np.int32),
        new=~np.isin(place * items + item, touched),
        by_action=by_action,
    )
    return Protocol(
        users=users,
        history=history,
        targets=targets,
        reachable=reachable,
        index=index,
        actions=manifest.actions,
        split_time=manifest.split_time,
        window_end=manifest.evaluation_end,
        eligible=len(eligible),
        without_history=without_history,
        without_target=len(active) - len(eligible),
        unreachable=unreachable,
    )


def with_history(timelines: Timelines, protocol: Protocol, table: np.ndarray) -> Protocol:
    """The protocol of all evaluation users with an event up to t. The choice does not depend on events after
    t, so these users have histories and no targets.

    Args:
        timelines: a prepared folder.
        protocol: of the users with targets.
        table: float32 [A, S], see `positives.positive_table`.
    """
    users, _ = _held_out(timelines)
    nothing = Targets(
        np.zeros(len(users) + 1, np.int64),
        np.zeros(0, np.int32),
        np.zeros(0, bool),
        np.zeros((0, len(table)), bool),
    )
    history = histories(timelines, users, table)
    return dataclasses.replace(protocol, users=users, history=history, targets=nothing)


def _held_out(timelines: Timelines) -> tuple[np.ndarray, int]:
    """Evaluation users with an event up to t, ascending, and how many have none."""
    users = timelines.with_role(EVALUATION)
    active = np.concatenate([shard.cut for shard in timelines.shards])[users] > 0
    return users[active], int((~active).sum())


def _window_positives(
    timelines: Timelines, users: np.ndarray, table: np.ndarray, items: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The distinct (user, item) pairs of positives in the window, by user and item, and bool [pairs, A]: by
    which actions."""
    pairs, kinds = [], []
    for first, shard in timelines.by_shard():
        local = users[(users >= first) & (users < first + shard.users)] - first
        cut = shard.offsets[local] + shard.cut[local]
        owner, event = flat_ranges(cut, shard.offsets[local + 1] - cut)
        wanted = shard.is_positive(event, table) & (shard.time[event] <= timelines.manifest.evaluation_end)
        pair, which = np.unique(
            (first + local[owner[wanted]]) * items + shard.item[event[wanted]], return_inverse=True
        )
        kind = np.zeros((len(pair), len(table)), bool)
        kind[which, shard.action[event[wanted]]] = True
        pairs.append(pair)
        kinds.append(kind)
    return *np.divmod(np.concatenate(pairs), items), np.concatenate(kinds)


def histories(timelines: Timelines, users: np.ndarray, table: np.ndarray) -> History:
    """Every event of some users up to t.

    Args:
        timelines: a prepared folder.
        users: int64 [U], ascending.
        table: float32 [A, S], see `positives.positive_table`.
    """
    length, item, time, positive = [], [], [], []
    for first, shard in timelines.by_shard():
        local = users[(users >= first) & (users < first + shard.users)] - first
        _, event = flat_ranges(shard.offsets[local], shard.cut[local])
        length.append(shard.cut[local])
        item.append(shard.item[event])
        time.append(shard.time[event])
        positive.append(shard.is_positive(event, table))
    offsets = offsets_of(np.concatenate(length))
    return History(offsets, *(np.concatenate(column) for column in (item, time, positive)))
