"""Fit the priors of the served score on validation users, at splits before t.

At each earlier split, validation users are embedded from their events up to it, and their positives in the
window after it are targets. Nothing after t is read, and no evaluation user. The weights and half-lives with
the highest discounted gain win, over all items and over new items alike: a target at rank r counts
1 / log2(1 + r). With few users this chooses better than Recall@10, which sees only who passes rank 10
(docs/log.md). What a user had is hidden where the gain over all targets, those among it missed, is higher so.

Dimensions: N items; C candidates of a row, which is a validation user at a split. [A, Q, B] is the grid:
half-lives and weights of the own counts; half-lives of popularity; its weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from tqdm import tqdm

from pinnerformer_jax.data.timelines import TRAIN, Timelines
from pinnerformer_jax.evaluation.comparison import CHOICE_K
from pinnerformer_jax.evaluation.counts import own_counts, popularity_counts, popularity_half_lives
from pinnerformer_jax.evaluation.evaluator import EvaluationData, InnerProduct
from pinnerformer_jax.retrieval import exact
from pinnerformer_jax.retrieval.priors import Priors, kept_events

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


class Grid(NamedTuple):
    """What is tried; a weight of zero beside these."""

    own_half_lives: tuple[float, ...]  # days
    own_weights: tuple[float, ...]
    popularity_weights: tuple[float, ...]
    popularity_half_lives: slice  # of `popularity_half_lives`

    @property
    def own(self) -> list[tuple[int, float]]:
        """Half-life, by its number, and weight; without a weight the half-life says nothing."""
        return [(0, 0.0), *product(range(len(self.own_half_lives)), self.own_weights)]

    def popularity(self, data: EvaluationData) -> list[float]:
        """Half-lives of popularity, in days."""
        found = popularity_half_lives(data.window_days)
        return found[self.popularity_half_lives] or found[:1]  # a long window has one


_DOUBLING = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
# By the longest half-life events hardly age.
FINE = Grid((1.0, 7.0, 30.0, 90.0, 180.0, 360.0, 3600.0), (*_DOUBLING, 3.2), (0.025, *_DOUBLING), slice(None))
COARSE = Grid((90.0,), (0.2, 0.8, 3.2), (0.05, 0.2, 0.8), slice(1, 2))
"""Enough to compare the checkpoints of a training."""
NEAREST, POPULAR = 500, 200
"""Items beside the user's own that compete: so many nearest, and so many most popular by each half-life."""


@dataclass(frozen=True)
class Fit:
    """The priors, and how they did on the rows they were fitted on."""

    priors: Priors
    rows: int
    users: int
    splits: int
    gain: tuple[float, float]  # over all items, of the inner product alone and with priors
    new_gain: tuple[float, float]  # likewise over new items
    error: float = np.nan  # standard error of the gain over all items, with priors

    @property
    def served_gain(self) -> float:
        """The mean of both, with priors: by it they were chosen."""
        return (self.gain[1] + self.new_gain[1]) / 2

    @property
    def sentence(self) -> str:
        """For people."""
        if not self.rows:
            return "no priors were fitted: no validation user has a target at an earlier split"
        return (
            f"fitted on {self.users:,} validation users at {self.splits} earlier splits ({self.rows:,} "
            f"rows): discounted gain there {self.gain[0]:.3f} alone, {self.gain[1]:.3f} with priors; "
            f"new items {self.new_gain[0]:.3f}, {self.new_gain[1]:.3f}"
        )


@dataclass(frozen=True)
class _Row:
    """A validation user at a split: its candidates, and what decides their order."""

    inner: np.ndarray  # [C]
    own: np.ndarray  # [own half-lives, C] log(1 + count)
    popularity: np.ndarray  # [popularity half-lives, C]
    user: int
    target: np.ndarray  # bool [C]
    touched: np.ndarray  # bool [C]


class Counts(NamedTuple):
    """What the priors of one split add up, which is the same for every model."""

    own: list[csr_matrix]  # [U, N] of each half-life
    popularity: np.ndarray  # [popularity half-lives, N], log(1 + count)


def counts_at(data: EvaluationData, grid: Grid, max_length: int) -> Counts:
    """The counts of a split.

    Args:
        data: at the split.
        grid: whose half-lives are used.
        max_length: T, events of a history that the model reads.
    """
    protocol, kept = data.protocol, kept_events(max_length)
    items, half_lives = len(protocol.reachable), grid.popularity(data)
    popular = popularity_counts(data.timelines, data.config.data.positives, items, half_lives, kept)
    own = own_counts(protocol.history.newest(kept), items, protocol.split_time, grid.own_half_lives)
    return Counts(own, np.log1p(popular))


def fit_priors(model: InnerProduct, grid: Grid = FINE, counts: Sequence[Counts] | None = None) -> Fit:
    """Fit the priors of a model, or of what else has a vector of each user and item.

    Args:
        model: on the evaluation data of the prepared folder; only its validation users are read.
        grid: of which the best point is taken.
        counts: of each earlier split, from `counts_at`; None: they are counted.
    """
    own_grid, weights, half_lives = grid.own, (0.0, *grid.popularity_weights), grid.popularity(model.data)
    splits = model.data.earlier
    counts = counts or [counts_at(data, grid, model.max_length) for data in splits]
    rows = [row for data, of in zip(splits, counts, strict=True) for row in _rows(model.on(data), of)]
    if not rows:
        return Fit(Priors(), 0, 0, 0, (np.nan, np.nan), (np.nan, np.nan))
    full, squares = np.zeros((2, len(own_grid), len(half_lives), len(weights)))
    hidden, hidden_squares, new, new_rows = *np.zeros((3, *full.shape[1:])), 0
    for row in tqdm(rows, desc="fitting priors", unit="user", leave=False, disable=None):
        of_full, of_new = _gains(row, own_grid, weights)
        full += of_full / len(rows)
        squares += of_full**2 / len(rows)
        if of_new is not None:
            new, new_rows = new + of_new, new_rows + 1
            of_all = of_new * (row.target & ~row.touched).sum() / row.target.sum()
            hidden += of_all / len(rows)
            hidden_squares += of_all**2 / len(rows)
    new /= max(new_rows, 1)
    best = tuple(int(k) for k in np.unravel_index((full + new).argmax(), full.shape))
    unseen = tuple(int(k) for k in np.unravel_index((hidden + new).argmax(), new.shape))
    hide_seen = bool((hidden + new)[unseen] > (full + new)[best])
    own, popularity_life, popularity = (0, *unseen) if hide_seen else best
    own_life, own_weight = own_grid[own]
    priors = Priors(
        own_weight, grid.own_half_lives[own_life],
        weights[popularity], half_lives[popularity_life], _share(model.data.timelines), hide_seen,
    )  # fmt: skip
    gain, square = (hidden[unseen], hidden_squares[unseen]) if hide_seen else (full[best], squares[best])
    return Fit(
        priors, len(rows), len({row.user for row in rows}), len(model.data.earlier),
        (float(full[0, 0, 0]), float(gain)),
        (float(new[0, 0]), float(new[popularity_life, popularity])),
        float(np.sqrt(max(square - gain**2, 0) / len(rows))),
    )  # fmt: skip


def _share(timelines: Timelines) -> float:
    """Share of the users whose events popularity counts: the training users."""
    training = sum(int((shard.role == TRAIN).sum()) for shard in timelines.shards)
    return training / sum(shard.users for shard in timelines.shards)


def _rows(model: InnerProduct, counts: Counts) -> Iterator[_Row]:
    """The rows of one split."""
    users, items, protocol = model.user_vectors, model.item_vectors, model.data.protocol
    reachable = np.flatnonzero(protocol.reachable)
    popular = np.unique(np.argsort(-counts.popularity[:, reachable], axis=1)[:, :POPULAR])
    _, nearest = exact.search(users, items[reachable], min(NEAREST, len(reachable)))
    for place in range(len(users)):
        _, event = protocol.history.of(np.array([place]))
        touched = np.unique(protocol.history.item[event])
        _, number = protocol.targets.of(np.array([place]))
        targets = protocol.targets.item[number]
        candidates = np.unique(
            np.concatenate([reachable[nearest[place]], reachable[popular], touched, targets])
        )
        candidates = candidates[protocol.reachable[candidates]]
        own = np.stack([matrix[place, candidates].toarray()[0] for matrix in counts.own])
        yield _Row(
            items[candidates] @ users[place],
            np.log1p(own),
            counts.popularity[:, candidates],
            int(protocol.users[place]),
            np.isin(candidates, targets),
            np.isin(candidates, touched),
        )


def _gains(
    row: _Row, own_grid: Sequence[tuple[int, float]], weights: Sequence[float]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Discounted gain of the targets among all candidates, and of new ones among the new, for each point of
    the grid, [A, Q, B] and [Q, B]; None if no target is new."""
    counts, target = row.own.astype(np.float32), row.target
    b = np.array(weights, np.float32)
    popular = b[None, :, None] * row.popularity[:, None, :].astype(np.float32)  # [Q, B, C]
    others = row.inner.astype(np.float32) + popular
    full = np.stack([_gain(others + np.float32(weight) * counts[life], target) for life, weight in own_grid])
    unseen = ~row.touched
    wanted = target[unseen]
    return full, _gain(others[..., unseen], wanted) if wanted.any() else None


def _gain(scores: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Mean discounted gain of the targets, [...], by scores [..., C]: of each 1 / log2(2 + candidates with a
    higher score), or 0 if these are CHOICE_K or more."""
    k = min(CHOICE_K, scores.shape[-1])
    top = np.partition(scores, -k, axis=-1)[..., -k:]
    above = np.count_nonzero(top[..., None, :] > scores[..., target][..., None], axis=-1)
    return np.where(above < k, 1 / np.log2(above + 2), 0).mean(axis=-1)
