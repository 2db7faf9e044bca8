"""Decayed counts of positive events, by item: everybody's and each user's own.

Dimensions: U users, N items, H half-lives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pinnerformer_jax.config import PositiveRule
from pinnerformer_jax.data.positives import positive_table
from pinnerformer_jax.data.timelines import TRAIN, Timelines
from pinnerformer_jax.evaluation.protocol import History, histories
from pinnerformer_jax.retrieval.priors import decay

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


POPULARITY_HALF_LIVES = (0.25, 1.0, 3.0, 7.0, 14.0, 28.0, 56.0)
"""Days."""


def popularity_half_lives(window_days: float) -> list[float]:
    """Half-lives of popularity that are tried, in days: none under a fourteenth of the window. What was
    popular in the last hours says little about two weeks, and a few earlier splits cannot show how much."""
    return [life for life in POPULARITY_HALF_LIVES if life >= window_days / 14]


def popularity_counts(
    timelines: Timelines,
    rules: tuple[PositiveRule, ...],
    items: int,
    half_lives: Sequence[float],
    newest: int | None = None,
) -> np.ndarray:
    """float64 [H, N]: decayed counts of each item's positive events by training users, as of t.

    Args:
        timelines: a prepared folder.
        rules: what a positive is.
        items: N.
        half_lives: in days.
        newest: events of each user that are counted, the newest ones; None: all.
    """
    manifest = timelines.manifest
    table = positive_table(rules, manifest.actions, manifest.surfaces)
    counts = np.zeros((len(half_lives), items))
    for history in training_histories(timelines, table):
        history = history if newest is None else history.newest(newest)
        item, time = history.item[history.positive], history.time[history.positive]
        for row, half_life in zip(counts, half_lives, strict=True):
            row += np.bincount(item, decay(time, manifest.split_time, half_life), items)
    return counts


def own_counts(history: History, items: int, now: int, half_lives: Sequence[float]) -> list[csr_matrix]:
    """Decayed counts of each user's own positive events with each item, [U, N] for each half-life.

    Args:
        history: of the users.
        items: N.
        now: seconds since 1970, no event is later.
        half_lives: in days.
    """
    positive = history.positive
    owner, item, time = history.owners[positive], history.item[positive], history.time[positive]
    users = len(history.length)
    return [sum_matrix(owner, item, decay(time, now, life), users, items) for life in half_lives]


def training_histories(timelines: Timelines, table: np.ndarray, step: int = 1) -> Iterator[History]:
    """Events up to t of every `step`-th training user of a shard, a shard at a time."""
    for first, shard in timelines.by_shard():
        yield histories(timelines, first + np.flatnonzero(shard.role == TRAIN)[::step], table)


def sum_matrix(
    row: np.ndarray, column: np.ndarray, value: np.ndarray, rows: int | np.integer, columns: int
) -> csr_matrix:
    """float32 [rows, columns]: the sum of the values of equal places."""
    from scipy.sparse import csr_matrix

    matrix = csr_matrix((value.astype(np.float32), (row, column)), shape=(rows, columns))
    matrix.sum_duplicates()
    return matrix
