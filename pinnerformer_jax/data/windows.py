"""Batches of windows over the timelines. Users and windows are a function of (seed, step), so that a resumed
run seeks. Reading is vectorised NumPy on the memory map, a batch at a time."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pinnerformer_jax.config import Config
from pinnerformer_jax.data.contracts import (
    NO_TIME,
    Batch,
    Events,
    computed_lengths,
    longest_in_parts,
    to_device_time,
)
from pinnerformer_jax.data.shuffle import shuffled
from pinnerformer_jax.data.timelines import COLUMNS, TRAIN, Shard, Timelines


@dataclass(frozen=True)
class Windows:
    """Training batches of the users of one role.

    A step takes the next B users of a stream in which every epoch holds each user once. A window ends at a
    random event of the user that has a later event. It ends at the user's T-th event or later; users with
    fewer than 2 T events may end it in the later half of their events. So windows are as full as the
    histories that are served, and their positions cover short histories too (our choice). A window holds the
    T events up to its end. The batch also has the events of the next K days, up to the split; of more than F,
    F at equal steps from a random start.
    """

    timelines: Timelines
    config: Config
    role: int = TRAIN
    rows: np.ndarray | None = None
    """Rows of each batch that are read; None: all."""

    @cached_property
    def users(self) -> np.ndarray:
        """int64, users that have a window: two events up to the split.

        Raises:
            ValueError: there are none.
        """
        enough = np.concatenate(
            [(shard.role == self.role) & (shard.cut >= 2) for shard in self.timelines.shards]
        )
        if not enough.any():
            raise ValueError(f"{self.timelines.path}: no user of this role has two events before the split")
        return np.flatnonzero(enough)

    def batch(self, step: int) -> Batch:
        """The batch of a step, NumPy arrays, rows by length, the longest first."""
        return self.with_lengths(step)[0]

    def with_lengths(self, step: int) -> tuple[Batch, np.ndarray]:
        """The batch of a step, and the lengths of all its users, also of those whose rows are not read: int
        [B], the longest first."""
        users, draws, phase = self._drawn(step)
        lengths = _assemble(self.timelines, users, self._lengths, draws)
        order = np.argsort(-lengths, kind="stable")  # before reading, so that nothing is copied twice
        read = order if self.rows is None else order[self.rows]
        users = users[read]
        batch = _assemble(self.timelines, users, self._windows, users, draws[read], phase[read])
        return batch, lengths[order]

    def part_lengths(self, parts: int, devices: int, steps: range) -> tuple[int, ...]:
        """Positions that each part of the sorted batches of these steps needs."""
        longest = np.zeros(parts, np.int64)
        for step in steps:
            users, draws, _ = self._drawn(step)
            lengths = _assemble(self.timelines, users, self._lengths, draws)
            longest = np.maximum(longest, longest_in_parts(np.sort(lengths)[::-1], parts, devices))
        return computed_lengths(longest, self.config.model.max_length)

    def _drawn(self, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        training = self.config.training
        size = training.batch_size
        rng = np.random.Generator(np.random.Philox(key=training.seed, counter=[0, 0, self.role, step]))
        places = np.arange(step * size, (step + 1) * size)
        users = self.users[shuffled(places, len(self.users), training.seed)]
        return users, rng.random(size), rng.random(size)

    def _spans(
        self, shard: Shard, users: np.ndarray, draws: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each window its first event, its end, and the end of what may be seen after it."""
        first, last = shard.offsets[users], shard.offsets[users] + shard.cut[users]
        earliest = first + np.maximum(np.minimum(self.config.model.max_length, (last - first) // 2), 1)
        end = earliest + (draws * (last - earliest)).astype(np.int64)
        return np.maximum(first, end - self.config.model.max_length), end, last

    def _lengths(self, shard: Shard, users: np.ndarray, draws: np.ndarray) -> np.ndarray:
        start, end, _ = self._spans(shard, users, draws)
        return end - start

    def _windows(
        self, shard: Shard, users: np.ndarray, numbers: np.ndarray, draws: np.ndarray, phase: np.ndarray
    ) -> Batch:
        config, width = self.config, self.config.training.future_events
        start, end, last = self._spans(shard, users, draws)
        horizon = shard.time[end - 1] + config.objective.horizon
        count = bisect_right(shard.time, end, last, horizon) - end
        if config.objective.next_positive:
            count = np.minimum(count, width)  # the first F, where others get a random F
        return Batch(
            history=_gather(shard, start, np.arange(config.model.max_length)[None, :], end - start),
            length=(end - start).astype(np.int32),
            future=_gather(shard, end, _subset(count, width, phase), np.minimum(count, width)),
            future_count=count.astype(np.int32),
            user=numbers.astype(np.int32),
        )


def training_batches(
    timelines: Timelines,
    config: Config,
    *,
    role: int = TRAIN,
    start_step: int,
    steps: int,
    rows: np.ndarray | None = None,
) -> Iterator[tuple[Batch, np.ndarray]]:
    """Batches of steps start_step .. steps - 1 with the lengths of all their users, see
    `Windows.with_lengths`, prepared ahead by threads, or processes if training.input_workers says so."""
    import grain

    windows = Windows(timelines, config, role, rows)
    _ = windows.users  # an empty role is an error here, not in a worker
    dataset = grain.MapDataset.range(start_step, steps).map(windows.with_lengths)
    dataset = dataset.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=8))
    if config.training.input_workers:
        from absl import flags

        flags.FLAGS.mark_as_parsed()  # Grain's workers read flags, which this program does not parse
        options = grain.MultiprocessingOptions(num_workers=config.training.input_workers)
        dataset = dataset.mp_prefetch(options, worker_init_fn=_leave_interrupts_to_the_loop)
    return iter(dataset)


def _leave_interrupts_to_the_loop(worker: int, workers: int) -> None:
    """Ctrl-C reaches every process of the terminal; the loop finishes its step and needs its input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def histories_at_split(timelines: Timelines, users: np.ndarray, max_length: int) -> tuple[Events, np.ndarray]:
    """The history of each user at t: the last T events up to the split.

    Args:
        timelines: a prepared folder.
        users: [B] numbers.
        max_length: T.

    Returns:
        Histories [B, T] in device time, and their lengths, int32 [B].
    """

    return _assemble(timelines, users, lambda shard, u: newest(shard, u, shard.cut[u], max_length))


def histories_up_to(
    timelines: Timelines, users: np.ndarray, counts: np.ndarray, max_length: int
) -> tuple[Events, np.ndarray]:
    """Like `histories_at_split`, of each user's first `counts` [B] events, wherever the split is."""
    return _assemble(timelines, users, lambda shard, u, n: newest(shard, u, n, max_length), counts)


def newest(shard: Shard, users: np.ndarray, end: np.ndarray, width: int) -> tuple[Events, np.ndarray]:
    """The newest `width` of each user's first `end` events, and how many they are."""
    count = np.minimum(end, width)
    start = shard.offsets[users] + end - count
    return _gather(shard, start, np.arange(width)[None, :], count), count.astype(np.int32)


def _assemble(timelines: Timelines, users: np.ndarray, read: Callable, *arguments: np.ndarray) -> Any:
    """Read shard by shard, and put the rows back in the order of `users`."""
    which = np.searchsorted(timelines.first_user, users, side="right") - 1
    order = np.argsort(which, kind="stable")
    parts = []
    for k in np.unique(which):
        rows = order[np.searchsorted(which[order], k) : np.searchsorted(which[order], k, side="right")]
        local = users[rows] - timelines.first_user[k]
        parts.append(read(timelines.shards[k], local, *(values[rows] for values in arguments)))
    back = np.argsort(order, kind="stable")
    return _merge(parts, back)


def _merge(parts: list, back: np.ndarray) -> Any:
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)[back]
    merged = [_merge([part[i] for part in parts], back) for i in range(len(parts[0]))]
    return type(parts[0])(*merged) if hasattr(parts[0], "_fields") else tuple(merged)


def _gather(shard: Shard, start: np.ndarray, index: np.ndarray, count: np.ndarray) -> Events:
    """Events start + index of each user, [B, width]; past the first `count` columns is padding."""
    real = np.arange(index.shape[1])[None, :] < count[:, None]
    where = (start[:, None] + index)[real]  # padding is not read
    columns = {}
    for name in COLUMNS:
        values = np.take(getattr(shard, name), where)
        if name == "time":
            values = to_device_time(values)
        columns[name] = np.full(real.shape, NO_TIME if name == "time" else 0, values.dtype)
        columns[name][real] = values
    return Events(**columns)


def _subset(count: np.ndarray, width: int, phase: np.ndarray) -> np.ndarray:
    """[B, F] ascending indices into each user's `count` events: the first F, or where there are more a
    systematic sample (equal steps from a random start), in which each event is equally likely."""
    step = np.maximum(count / width, 1.0)[:, None]
    return ((np.arange(width)[None, :] + np.where(step > 1, phase[:, None], 0.0)) * step).astype(np.int64)


def bisect_right(values: np.ndarray, low: np.ndarray, high: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """For each row, whose values in [low, high) ascend, the first index there whose value exceeds `wanted`;
    high if none does."""
    low, high = low.copy(), high.copy()
    while (open_ := low < high).any():
        middle = (low + high) // 2
        after = values[np.where(open_, middle, 0)] <= wanted
        low = np.where(open_ & after, middle + 1, low)
        high = np.where(open_ & ~after, middle, high)
    return low
