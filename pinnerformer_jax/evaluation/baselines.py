"""Baselines: scorers without a neural network.

They are fitted on the training users' events up to t and applied to the evaluated users' histories. Users,
masks and metrics are the model's. The constants were chosen on two public logs for the strongest baseline.

Dimensions: U evaluated users, b users of a chunk, N items.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

import jax
import numpy as np

from pinnerformer_jax.config import PositiveRule
from pinnerformer_jax.data.contracts import DAY
from pinnerformer_jax.data.positives import positive_table
from pinnerformer_jax.data.ragged import owners
from pinnerformer_jax.data.timelines import TRAIN, Timelines
from pinnerformer_jax.evaluation.comparison import Scorer, inner_products
from pinnerformer_jax.evaluation.pinnersage import cluster_users, weighted_mean
from pinnerformer_jax.evaluation.protocol import History, Protocol, histories

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

POPULARITY_DAYS = 28
NEIGHBOURS = 100
SHRINKAGE = 10.0
"""Users in common at which a similarity counts half (Bell and Koren, 2007)."""
HALF_LIFE_DAYS = 28.0
"""Age at which an event of the history weighs half in item-kNN."""
KNN_EVENTS = 256
"""Item-kNN counts so many of the newest events of a training user; this bounds the pairs of a user."""
LAST_ITEMS = 30
MAX_PAIRS = 1 << 24
"""Co-occurrences item-kNN counts at a time."""


def baselines(
    timelines: Timelines,
    protocol: Protocol,
    features: np.ndarray,
    rules: tuple[PositiveRule, ...],
    seed: int,
) -> dict[str, Scorer]:
    """Fit all baselines; scorers by the method's name in the results.

    Args:
        timelines: a prepared folder.
        protocol: the evaluated users and their histories.
        features: [N, D_item] vectors of the catalogue, unit rows.
        rules: what makes an event positive.
        seed: of the random scorer.
    """
    manifest, items = timelines.manifest, len(protocol.reachable)
    table = positive_table(rules, manifest.actions, manifest.surfaces)
    popularity = recent_positives(timelines, table, items)
    share = (popularity / (popularity.max() + 1)).astype(np.float32)  # [0, 1)
    return {
        "random": random_scores(items, seed),
        "popularity": lambda users: np.broadcast_to(share, (len(users), items)),
        "item_knn": item_knn(protocol, neighbours(interactions(timelines, table, items)), share),
        "own_most_frequent": own_most_frequent(protocol.history, share),
        "last_items_mean": last_items_mean(protocol.history, features),
        "pinnersage_mean": weighted_mean(cluster_users(protocol, features), features),
    }


def random_scores(items: int, seed: int) -> Scorer:
    """Uniform numbers, a function of seed, user and item."""
    key = jax.random.key(seed)
    draw = jax.jit(jax.vmap(lambda user: jax.random.uniform(jax.random.fold_in(key, user), (items,))))
    return lambda users: draw(users.astype(np.uint32))


def recent_positives(timelines: Timelines, table: np.ndarray, items: int) -> np.ndarray:
    """int64 [N]: positive events of each item in the 28 days up to t."""
    since = timelines.manifest.split_time - POPULARITY_DAYS * DAY
    counts = np.zeros(items, np.int64)
    for history in _training(timelines, table):
        counts += np.bincount(history.item[history.positive & (history.time > since)], minlength=items)
    return counts


def interactions(timelines: Timelines, table: np.ndarray, items: int) -> csr_matrix:
    """1 where a training user touched an item, [training users, N]."""
    from scipy.sparse import vstack

    parts = []
    for history in _training(timelines, table):
        owner, place = _places_from_end(history)
        recent = place < KNN_EVENTS
        matrix = _matrix(
            owner[recent], history.item[recent], np.ones(recent.sum()), len(history.length), items
        )
        matrix.data[:] = 1
        parts.append(matrix)
    return vstack(parts, format="csr")


def neighbours(touched: csr_matrix) -> csr_matrix:
    """Each item's 100 most similar items, itself among them, [N, N].

    Similarity is the cosine of the items' users, times c / (c + 10) for c users in common.
    """
    from scipy.sparse import vstack

    by_item = touched.T.tocsr()
    norm = np.sqrt(np.diff(by_item.indptr))
    pairs = np.cumsum(by_item @ np.diff(touched.indptr))
    ends = np.searchsorted(pairs, np.arange(0, pairs[-1], MAX_PAIRS), side="right")
    edges = np.unique([0, *ends, len(norm)])
    parts = []
    for start, end in pairwise(edges):
        common = (by_item[start:end] @ touched).tocsr()  # [items of the chunk, N]
        row = owners(common.indptr)
        cosine = common.data / (norm[start + row] * norm[common.indices])
        similarity = cosine * common.data / (common.data + SHRINKAGE)
        order = np.lexsort((common.indices, -similarity, row))
        best = order[np.arange(len(order)) - common.indptr[row] < NEIGHBOURS]
        parts.append(_matrix(row[best], common.indices[best], similarity[best], end - start, len(norm)))
    return vstack(parts, format="csr")


def item_knn(protocol: Protocol, similar: csr_matrix, popularity: np.ndarray) -> Scorer:
    """Sum of the similarities to the items of the history; newer events weigh more. Popularity orders the
    items that are no neighbour of the history."""
    history, users = protocol.history, len(protocol.users)
    weight = 0.5 ** ((protocol.split_time - history.time) / (HALF_LIFE_DAYS * DAY))
    owner = history.owners
    # Without this an old history would weigh less than popularity.
    weight /= np.maximum.reduceat(weight, history.offsets[:-1])[owner]
    profile = _matrix(owner, history.item, weight, users, len(popularity))
    return lambda chosen: (profile[chosen] @ similar).toarray() + 1e-6 * popularity


def own_most_frequent(history: History, popularity: np.ndarray) -> Scorer:
    """The items of the user's own positive events: the most frequent first, then the most recent, then the
    most popular. All other items follow by popularity, in [0, 1)."""
    users, items = len(history.length), len(popularity)
    owner = history.owners[history.positive]
    pair, which = np.unique(owner * items + history.item[history.positive], return_inverse=True)
    count = np.bincount(which, minlength=len(pair))
    latest = np.full(len(pair), np.iinfo(np.int64).min)
    np.maximum.at(latest, which, history.time[history.positive])
    user, item = np.divmod(pair, items)
    order = np.lexsort((popularity[item], latest, count, user))
    place = np.empty(len(pair))
    place[order] = np.arange(len(order)) - np.searchsorted(user, user)  # from 0, the best last
    own = _matrix(user, item, 1 + place, users, items)

    def score(chosen: np.ndarray) -> np.ndarray:
        scores = own[chosen].toarray()
        return np.where(scores > 0, scores, popularity)

    return score


def last_items_mean(history: History, features: np.ndarray) -> Scorer:
    """Inner product with the mean vector of the last 30 events' items."""
    owner, place = _places_from_end(history)
    last = place < LAST_ITEMS
    profile = _matrix(
        owner[last], history.item[last], np.ones(last.sum()), len(history.length), len(features)
    )
    vectors = np.asarray(features, np.float32)
    means = profile @ vectors
    return inner_products(means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-9), vectors)


def _training(timelines: Timelines, table: np.ndarray) -> Iterator[History]:
    """Training users' events up to t, a shard at a time."""
    for first, shard in timelines.by_shard():
        yield histories(timelines, first + np.flatnonzero(shard.role == TRAIN), table)


def _places_from_end(history: History) -> tuple[np.ndarray, np.ndarray]:
    """The user of each event, and how many of that user's events are newer."""
    owner = history.owners
    return owner, history.offsets[owner + 1] - 1 - np.arange(len(owner))


def _matrix(
    row: np.ndarray, column: np.ndarray, value: np.ndarray, rows: int | np.integer, columns: int
) -> csr_matrix:
    from scipy.sparse import csr_matrix

    matrix = csr_matrix((value.astype(np.float32), (row, column)), shape=(rows, columns))
    matrix.sum_duplicates()
    return matrix
