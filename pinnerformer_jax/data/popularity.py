"""How popular each item was in the course of the training period, and how much that changed. The loss adds
the popularity at a pair's time to its logits (training/training_loss.py)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from pinnerformer_jax.data.contracts import DAY, to_device_time
from pinnerformer_jax.data.ragged import flat_ranges
from pinnerformer_jax.data.timelines import TRAIN, Timelines

Array: TypeAlias = Any  # of NumPy or of JAX

MOST_MOMENTS, MOST_NUMBERS = 128, 1 << 25
"""Moments, and numbers of the table: 128 MiB on every device."""

MOST_ITEMS = MOST_NUMBERS // 8
"""With more there would be fewer than eight moments."""


class PopularityOverTime(NamedTuple):
    """Popularity of N items at M moments, at equal steps up to t. A pytree of arrays."""

    log_share: Array  # float32 [M, N], see `popularity_over_time`
    start: Array  # int32 [], device time of the first moment
    step: Array  # int32 [], seconds

    def moment(self, time: Array) -> Array:
        """int32: the number of the last moment that is no later than each time."""
        return ((time - self.start) // self.step).clip(0, self.log_share.shape[0] - 1)


def moments_of(items: int) -> int:
    """M, how many moments so many items have.

    Raises:
        ValueError: there are too many items.
    """
    if items > MOST_ITEMS:
        raise ValueError(
            f"objective.popularity_half_life_days: the popularity of at most {MOST_ITEMS:,} items can be "
            f"followed, and there are {items:,}; set it to 0"
        )
    return min(MOST_MOMENTS, MOST_NUMBERS // max(items, 1))


def popularity_over_time(
    timelines: Timelines, table: np.ndarray, items: int, half_life_days: float
) -> PopularityOverTime:
    """log(1 + c / mean c) of each item and moment; c is the decayed count of the item's positives by training
    users up to the moment, the mean that of all items. Nothing after the moment is read.

    Args:
        timelines: a prepared folder.
        table: float32 [A, S], what a positive is, see `positives.positive_table`.
        items: N.
        half_life_days: after so many days an event counts half.

    Raises:
        ValueError: there are too many items.
    """
    moments = moments_of(items)
    split = timelines.manifest.split_time
    first = min((int(time.min()) for _, time in _positives(timelines, table) if len(time)), default=split)
    step = max(-((first - split) // (moments - 1)), 1)
    start = split - step * (moments - 1)
    count, half_life = np.zeros((moments, items)), half_life_days * DAY
    for item, time in _positives(timelines, table):
        moment = -((start - time) // step)  # the first that is not earlier
        np.add.at(count, (moment, item), 0.5 ** ((start + moment * step - time) / half_life))
    for before, row in pairwise(count):
        row += before * 0.5 ** (step / half_life)
    mean = count.mean(axis=1, keepdims=True)
    share = np.divide(count, mean, out=count, where=mean > 0)
    return PopularityOverTime(
        np.log1p(share).astype(np.float32), to_device_time(np.array([start]))[0], np.int32(step)
    )


def popularity_drift(timelines: Timelines, table: np.ndarray, items: int) -> float:
    """How much better the positives of the last evaluation window before t are foretold by the popularity of
    the window before it than by that of all time before it, in nats each.

    It is a difference of two cross entropies, with shares in which every item has a mean item's count more.
    0 or less: what is popular does not change. NaN: one of the two windows has no positive.

    Args:
        timelines: a prepared folder.
        table: float32 [A, S], what a positive is, see `positives.positive_table`.
        items: N.
    """
    split, end = timelines.manifest.split_time, timelines.manifest.evaluation_end
    window = end - split
    last, previous, before = np.zeros((3, items))
    for item, time in _positives(timelines, table):
        late = time > split - window
        last += np.bincount(item[late], minlength=items)
        before += np.bincount(item[~late], minlength=items)
        previous += np.bincount(item[~late & (time > split - 2 * window)], minlength=items)
    if not last.any() or not previous.any():
        return float("nan")

    def cross_entropy(count: np.ndarray) -> float:
        share = (count + count.mean()) / (2 * count.sum())
        return float(-(last @ np.log(share)) / last.sum())

    return cross_entropy(before) - cross_entropy(previous)


def _positives(timelines: Timelines, table: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Items and times, int64 seconds since 1970, of the training users' positives up to t, shard by shard."""
    for shard in timelines.shards:
        users = np.flatnonzero(shard.role == TRAIN)
        _, event = flat_ranges(shard.offsets[users], shard.cut[users])
        event = event[shard.is_positive(event, table)]
        yield shard.item[event], shard.time[event]
