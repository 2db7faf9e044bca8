"""Fit the priors of the served score on validation users, at splits before t.

At each earlier split, validation users are embedded from their events up to it, and their positives in the
window after it are targets. Nothing after t is read, and no evaluation user. The weights and half-lives with
the highest Recall@10 win, over all items and over new items alike. A prior that gains nothing on users who
did not choose its weight is left out.

Dimensions: R rows (a validation user at a split), N items, C candidates of a row.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from pinnerformer_jax.data.timelines import TRAIN, Timelines
from pinnerformer_jax.evaluation.counts import own_counts, popularity_counts, popularity_half_lives
from pinnerformer_jax.evaluation.evaluator import Evaluator
from pinnerformer_jax.retrieval import exact
from pinnerformer_jax.retrieval.priors import Priors, kept_events

OWN_WEIGHTS = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
POPULARITY_WEIGHTS = (0.0, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
OWN_HALF_LIVES = (1.0, 7.0, 30.0, 90.0, 180.0, 360.0)
"""Days."""
NEAREST, POPULAR = 500, 200
"""Items beside the user's own that compete: so many nearest, and so many most popular by each half-life."""
K = 10
FOLDS = 5
"""A prior's gain is measured on users who did not choose its weight. Of few users, the best of hundreds of
places on the grid gains something by chance."""

_Family = tuple[slice, slice]
"""The own weights and the popularity weights that may be chosen."""


@dataclass(frozen=True)
class Fit:
    """The priors, and how they did on the rows they were fitted on."""

    priors: Priors
    rows: int
    users: int
    splits: int
    recall: tuple[float, float]  # Recall@10 over all items, of the inner product alone and with priors
    new_recall: tuple[float, float]  # likewise over new items

    @property
    def sentence(self) -> str:
        """For people."""
        if not self.rows:
            return "no priors were fitted: no validation user has a target at an earlier split"
        return (
            f"fitted on {self.users:,} validation users at {self.splits} earlier splits ({self.rows:,} "
            f"rows): recall@10 there {self.recall[0]:.3f} alone, {self.recall[1]:.3f} with priors; "
            f"new items {self.new_recall[0]:.3f}, {self.new_recall[1]:.3f}"
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


def fit_priors(model: Evaluator) -> Fit:
    """Fit the priors of a model.

    Args:
        model: on the evaluation data of the prepared folder; only its validation users are read.
    """
    rows: list[_Row] = []
    users: set[int] = set()
    splits = 0
    half_lives = popularity_half_lives(model.data.window_days)
    for data in model.data.earlier:
        splits += 1
        users |= set(data.protocol.users.tolist())
        rows += _rows(model.on(data), half_lives)
    if not rows:
        return Fit(Priors(), 0, 0, 0, (np.nan, np.nan), (np.nan, np.nan))
    hits = [
        _recalls(row) for row in tqdm(rows, desc="fitting priors", unit="user", leave=False, disable=None)
    ]
    full, new = (np.stack(part) for part in zip(*hits, strict=True))  # [R, H, A, Q, B]
    best = _choose(full, new, np.array([row.user for row in rows]))
    own_life, own, popularity_life, popularity = best
    priors = Priors(
        OWN_WEIGHTS[own], OWN_HALF_LIVES[own_life],
        POPULARITY_WEIGHTS[popularity], half_lives[popularity_life], _share(model.data.timelines),
    )  # fmt: skip
    alone = (0, 0, 0, 0)

    def mean(values: np.ndarray) -> tuple[float, float]:
        return float(np.nanmean(values[:, *alone])), float(np.nanmean(values[:, *best]))

    return Fit(priors, len(rows), len(users), splits, mean(full), mean(new))


def _share(timelines: Timelines) -> float:
    """Share of the users whose events popularity counts: the training users."""
    training = sum(int((shard.role == TRAIN).sum()) for shard in timelines.shards)
    return training / sum(shard.users for shard in timelines.shards)


def _choose(full: np.ndarray, new: np.ndarray, user: np.ndarray) -> tuple[int, ...]:
    """The place of the best priors on the grid [H, A, Q, B], from the recalls of each row; place 0 of A and B
    is weight zero."""
    new_rows = np.maximum((~np.isnan(new[:, 0, 0, 0, 0])).sum(), 1)
    of_row = full / len(full) + np.nan_to_num(new) / new_rows  # the sum over rows is the objective
    users, owner = np.unique(user, return_inverse=True)
    value = np.zeros((len(users), *of_row.shape[1:]))  # the rows of one user are not independent
    np.add.at(value, owner, of_row)
    fold = np.arange(len(users)) % FOLDS

    def best(family: _Family, chosen_on: np.ndarray) -> tuple[int, ...]:
        own, popularity = family
        part = value[chosen_on].sum(axis=0)[:, own, :, popularity]
        return tuple(int(k) for k in np.unravel_index(part.argmax(), part.shape))

    def held_out(family: _Family) -> float:
        """The value of all users, each at the place that the users of the other folds choose."""
        return sum(value[fold == k][:, *best(family, fold != k)].sum() for k in range(FOLDS))

    zero, whole = slice(0, 1), slice(None)
    families = (zero, zero), (zero, whole), (whole, zero), (whole, whole)
    return best(max(families, key=held_out), np.full(len(users), True))  # of equals, the simplest


def _rows(model: Evaluator, half_lives: Sequence[float]) -> Iterator[_Row]:
    """The rows of one split."""
    data, users, items = model.data, model.user_vectors, model.item_vectors
    protocol = data.protocol
    reachable = np.flatnonzero(protocol.reachable)
    kept = kept_events(model.max_length)
    popularity = np.log1p(
        popularity_counts(data.timelines, data.config.data.positives, len(items), half_lives, kept)
    )
    popular = np.unique(np.argsort(-popularity[:, reachable], axis=1)[:, :POPULAR])
    _, nearest = exact.search(users, items[reachable], min(NEAREST, len(reachable)))
    pairs = own_counts(protocol.history.newest(kept), len(items), protocol.split_time, OWN_HALF_LIVES)
    for place in range(len(users)):
        _, event = protocol.history.of(np.array([place]))
        touched = np.unique(protocol.history.item[event])
        _, number = protocol.targets.of(np.array([place]))
        targets = protocol.targets.item[number]
        candidates = np.unique(
            np.concatenate([reachable[nearest[place]], reachable[popular], touched, targets])
        )
        candidates = candidates[protocol.reachable[candidates]]
        own = np.stack([matrix[place, candidates].toarray()[0] for matrix in pairs])
        yield _Row(
            items[candidates] @ users[place],
            np.log1p(own),
            popularity[:, candidates],
            int(protocol.users[place]),
            np.isin(candidates, targets),
            np.isin(candidates, touched),
        )


def _recalls(row: _Row) -> tuple[np.ndarray, np.ndarray]:
    """Recall@10 over all candidates, and over new ones, for each point of the grid, [H, A, Q, B] each; NaN if
    the row has no new target."""
    a = np.array(OWN_WEIGHTS, np.float32)
    b = np.array(POPULARITY_WEIGHTS, np.float32)
    own = a[None, :, None] * row.own[:, None, :].astype(np.float32)  # [H, A, C]
    popular = b[None, :, None] * row.popularity[:, None, :].astype(np.float32)  # [Q, B, C]
    others = row.inner.astype(np.float32) + popular
    full = np.empty((*own.shape[:2], *popular.shape[:2]), np.float32)
    for h, k in itertools.product(*map(range, own.shape[:2])):
        full[h, k] = _recall(others + own[h, k], row.target)
    unseen = ~row.touched
    new = _recall(others[..., unseen], row.target[unseen])
    return full, np.broadcast_to(new, full.shape)


def _recall(scores: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Recall@10, [...], by scores [..., C]; NaN if there is no target."""
    if not target.any():
        return np.full(scores.shape[:-1], np.nan, np.float32)
    k = min(K, scores.shape[-1])
    least = np.partition(scores, -k, axis=-1)[..., -k]
    return (scores[..., target] >= least[..., None]).mean(axis=-1)
