"""Baselines: scorers without a neural network.

They are fitted on the training users' events up to t and applied to the evaluated users' histories. Users,
masks and metrics are the model's. What decides their strength on a log (half-lives, EASE's penalty) is chosen
on validation users at splits before t, as the model's priors are. The other constants were chosen on two
public logs.

Dimensions: U evaluated users, b users of a chunk, N items, H half-lives.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache, cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np

from pinnerformer_jax.data.positives import positive_table
from pinnerformer_jax.data.ragged import owners
from pinnerformer_jax.data.timelines import TRAIN, Timelines
from pinnerformer_jax.evaluation.comparison import (
    CHOICE_K,
    Scorer,
    of_full_catalogue,
    unseen_alone,
)
from pinnerformer_jax.evaluation.counts import (
    own_counts,
    popularity_counts,
    popularity_half_lives,
    sum_matrix,
    training_histories,
)
from pinnerformer_jax.evaluation.evaluator import EvaluationData, InnerProduct
from pinnerformer_jax.evaluation.fit_priors import fit_priors
from pinnerformer_jax.evaluation.pinnersage import cluster_users, weighted_mean
from pinnerformer_jax.evaluation.protocol import History, Protocol
from pinnerformer_jax.retrieval.priors import decay

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

NEIGHBOURS = 100
SHRINKAGE = 10.0
"""Users in common at which a similarity counts half (Bell and Koren, 2007)."""
HALF_LIFE_DAYS = 28.0
"""Age at which an event of the history weighs half in item-kNN and EASE."""
KNN_EVENTS = 256
"""Item-kNN and EASE count so many of the newest events of a training user, which bounds the pairs."""
MAX_FITTED_PAIRS = 1 << 30
"""Item-kNN and EASE are fitted on every k-th training user, where all have more pairs of such events."""
EASE_ITEMS = 10_000
"""EASE inverts a dense matrix over the items that most training users touched, at most so many."""
EASE_ITEMS_TUNED = 2_000
"""Likewise where its penalty is chosen, which takes an inverse for each."""
MAX_PAIRS = 1 << 24
"""Co-occurrences item-kNN counts at a time."""

OWN_HALF_LIVES = (7.0, 30.0, 60.0, 120.0, 240.0, np.inf)
"""Days; infinity: events do not age."""
UNTRAINED = "last_items_served"
"""The baseline of the served score: the same without training."""
LAST_ITEMS = (8, 30, 128)
"""Newest events whose items' vectors are averaged."""
EASE_PENALTIES = (10.0, 100.0, 300.0, 1000.0, 3000.0, 10_000.0, 100_000.0)


class Constants(NamedTuple):
    """What is chosen on validation users; here, what is taken where there are none."""

    popularity_half_life: float = 14.0  # days
    own_half_life: float = 60.0  # days
    ease_penalty: float = 300.0
    popularity_hides_seen: bool = False  # leaves out what the user had
    ease_hides_seen: bool = False  # likewise EASE and item-kNN
    last_items: int = 30  # newest events whose items' vectors are averaged


def choose_constants(splits: Sequence[EvaluationData]) -> Constants:
    """The constants with the highest NDCG over the full catalogue, since the priors are chosen by discounted
    gain too (`fit_priors`); each is chosen on its own, and whether what a user had is left out with it.

    Args:
        splits: validation users at splits before t, see `EvaluationData.earlier`; none: the defaults.
    """
    if not splits:
        return Constants()

    def gains(scorers: Callable[[EvaluationData], Iterator[Scorer]]) -> np.ndarray:
        """float64 [2, values]: where all items compete, and without those that the user had."""

        def both(scorer: Scorer, data: EvaluationData) -> list[float]:
            found = of_full_catalogue(scorer, data.protocol, data.config.evaluation, "ndcg", CHOICE_K)
            return [float(of_each.sum()) for of_each in found]

        return np.sum([[both(scorer, data) for scorer in scorers(data)] for data in splits], axis=0).T

    def best(of: np.ndarray, values: Sequence[float]) -> tuple[float, bool]:
        hidden, number = divmod(int(of.argmax()), len(values))
        return values[number], bool(hidden)

    half_lives = popularity_half_lives(splits[0].window_days)

    def by_popularity(data: EvaluationData) -> Iterator[Scorer]:
        return map(same_for_all, _popularity(data, half_lives))

    popularity_half_life, popularity_hides = best(gains(by_popularity), half_lives)

    @cache
    def popularity_of(data: EvaluationData) -> np.ndarray:
        return _popularity(data, [popularity_half_life])[0]

    def by_own(data: EvaluationData) -> Iterator[Scorer]:
        popularity = popularity_of(data)
        history, now = data.protocol.history, data.protocol.split_time
        counts = own_counts(history, len(popularity), now, OWN_HALF_LIVES)
        return (own_most_frequent(own, popularity) for own in counts)

    def by_ease(data: EvaluationData) -> Iterator[Scorer]:
        popularity = popularity_of(data)
        touched = interactions(data.timelines, _positives(data), len(popularity))
        used = profile(data.protocol, len(popularity))
        return (ease(used, touched, penalty, popularity, EASE_ITEMS_TUNED) for penalty in EASE_PENALTIES)

    def by_last_items(data: EvaluationData) -> Iterator[Scorer]:
        return (LastItems(data, count).scorer for count in LAST_ITEMS)

    own_half_life = OWN_HALF_LIVES[int(gains(by_own)[0].argmax())]
    ease_penalty, ease_hides = best(gains(by_ease), EASE_PENALTIES)
    last_items = LAST_ITEMS[int(gains(by_last_items).max(axis=0).argmax())]
    return Constants(
        popularity_half_life, own_half_life, ease_penalty, popularity_hides, ease_hides, last_items
    )


def baselines(data: EvaluationData, constants: Constants) -> dict[str, Scorer]:
    """Fit all baselines; scorers by the method's name in the results.

    Args:
        data: the evaluated users and their histories.
        constants: see `choose_constants`.
    """
    protocol, features = data.protocol, data.catalog.features
    items = len(protocol.reachable)
    (popularity,) = _popularity(data, [constants.popularity_half_life])
    (own,) = own_counts(protocol.history, items, protocol.split_time, [constants.own_half_life])
    if (step := sampling_step(data.timelines)) > 1:
        print(f"item-kNN and EASE are fitted on one training user in {step}", file=sys.stderr)
    touched, used = interactions(data.timelines, _positives(data), items), profile(protocol, items)
    knn = item_knn(used, neighbours(touched), popularity)
    last = LastItems(data, constants.last_items)
    found = {
        "random": random_scores(items, data.config.evaluation.seed),
        "popularity": same_for_all(popularity),
        "item_knn": knn,
        "ease": ease(used, touched, constants.ease_penalty, popularity),
        "own_most_frequent": own_most_frequent(own, popularity),
        "own_then_knn": own_then(own, popularity, knn),
        "last_items_mean": last.scorer,
        UNTRAINED: last.served(fit_priors(last).priors),
        "pinnersage_mean": weighted_mean(cluster_users(protocol, features), features),
    }
    hides = {"popularity": constants.popularity_hides_seen}
    hides |= dict.fromkeys(("item_knn", "ease"), constants.ease_hides_seen)
    return {
        name: unseen_alone(scorer, protocol.history) if hides.get(name) else scorer
        for name, scorer in found.items()
    }


def random_scores(items: int, seed: int) -> Scorer:
    """Uniform numbers, a function of seed, user and item."""
    key = jax.random.key(seed)
    draw = jax.jit(jax.vmap(lambda user: jax.random.uniform(jax.random.fold_in(key, user), (items,))))
    return lambda users: draw(users.astype(np.uint32))


def same_for_all(scores: np.ndarray) -> Scorer:
    """The same scores, [N], for every user."""
    return lambda users: np.broadcast_to(scores.astype(np.float32), (len(users), len(scores)))


def sampling_step(timelines: Timelines) -> int:
    """k, if item-kNN and EASE are fitted on every k-th training user, so that their pairs of events are at
    most about `MAX_FITTED_PAIRS`; 1: on all. Users are in the order of a hash, so these are a sample."""
    counts = (np.minimum(shard.cut[shard.role == TRAIN], KNN_EVENTS) for shard in timelines.shards)
    return max(1, -(-sum(int((count**2).sum()) for count in counts) // MAX_FITTED_PAIRS))


def interactions(timelines: Timelines, table: np.ndarray, items: int) -> csr_matrix:
    """1 where a training user touched an item, [training users, N]; of every k-th user, see
    `sampling_step`."""
    from scipy.sparse import vstack

    parts = []
    for history in training_histories(timelines, table, sampling_step(timelines)):
        owner, place = _places_from_end(history)
        recent = place < KNN_EVENTS
        matrix = sum_matrix(
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
        parts.append(sum_matrix(row[best], common.indices[best], similarity[best], end - start, len(norm)))
    return vstack(parts, format="csr")


def profile(protocol: Protocol, items: int) -> csr_matrix:
    """What each user touched, [U, N]: the sum over events, of which newer ones weigh more, the newest 1."""
    history = protocol.history
    weight = decay(history.time, protocol.split_time, HALF_LIFE_DAYS)
    owner = history.owners
    # Without this an old history would weigh less than popularity.
    weight /= np.maximum.reduceat(weight, history.offsets[:-1])[owner]
    return sum_matrix(owner, history.item, weight, len(protocol.users), items)


def item_knn(used: csr_matrix, similar: csr_matrix, popularity: np.ndarray) -> Scorer:
    """Sum of the similarities to the items of the history. Popularity orders the items that are no neighbour
    of the history.

    Args:
        used: of each user, see `profile`.
        similar: see `neighbours`.
        popularity: [N], in [0, 1).
    """
    return lambda chosen: (used[chosen] @ similar).toarray() + 1e-6 * popularity


def ease(
    used: csr_matrix, touched: csr_matrix, penalty: float, popularity: np.ndarray, most: int = EASE_ITEMS
) -> Scorer:
    """EASE (Steck, 2019): the linear map from what a user touched to the items, in closed form, without a
    map of an item to itself. Popularity orders the items that it does not know.

    Args:
        used: of each user, see `profile`; what counts more than 1 counts 1.
        touched: [training users, N], see `interactions`.
        penalty: of the squared weights.
        popularity: [N], in [0, 1).
        most: items that it knows, those that most training users touched.
    """
    from scipy.linalg import get_lapack_funcs

    users = np.bincount(touched.indices, minlength=touched.shape[1])
    known = np.sort(np.argsort(-users, kind="stable")[: min(most, np.count_nonzero(users))])
    if not len(known):
        return same_for_all(popularity)
    part = touched[:, known]
    gram = (part.T @ part).toarray().astype(np.float32)
    gram[np.diag_indices_from(gram)] += penalty
    factorise, invert = get_lapack_funcs(("potrf", "potri"), (gram,))
    factor, failed = factorise(gram, lower=1)
    half, failed_too = invert(factor, lower=1)  # the lower half of the inverse
    if failed or failed_too:
        raise ValueError(f"EASE: the matrix with penalty {penalty:g} cannot be inverted")
    inverse = np.tril(half) + np.tril(half, -1).T
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)

    def score(chosen: np.ndarray) -> np.ndarray:
        scores = np.tile((1e-6 * popularity).astype(np.float32), (len(chosen), 1))
        scores[:, known] += used[chosen][:, known].minimum(1).toarray() @ weights
        return scores

    return score


def own_most_frequent(own: csr_matrix, popularity: np.ndarray) -> Scorer:
    """The user's own items by decayed count. All others follow by popularity.

    Args:
        own: see `own_counts`.
        popularity: [N], in [0, 1); it also orders items of equal counts.
    """
    return own_then(own, popularity, same_for_all(popularity))


def own_then(own: csr_matrix, popularity: np.ndarray, other: Scorer) -> Scorer:
    """The user's own items by decayed count, those of equal counts by popularity; all others follow by
    another scorer."""
    user = owners(own.indptr)
    order = np.lexsort((popularity[own.indices], own.data, user))
    place = own.copy()
    place.data[order] = 1 + np.arange(len(order)) - own.indptr[user[order]]  # from 1, the best last

    def score(chosen: np.ndarray) -> np.ndarray:
        mine, scores = place[chosen].toarray(), np.asarray(other(chosen), np.float32)
        return np.where(mine > 0, scores.max(axis=1, keepdims=True) + mine, scores)

    return score


class LastItems(InnerProduct):
    """A user's vector is the mean of the vectors of the items of the newest events. With priors, fitted as
    those of the model, this is what is served without any training.

    Args:
        data: of the prepared folder.
        count: of the events.
    """

    def __init__(self, data: EvaluationData, count: int) -> None:
        super().__init__(data, data.config.model.max_length)
        self.count = count

    @cached_property
    def user_vectors(self) -> np.ndarray:
        """float32 [U, D]: unit rows, or zero."""
        history = self.data.protocol.history
        owner, place = _places_from_end(history)
        last = place < self.count
        of_each = sum_matrix(
            owner[last], history.item[last], np.ones(last.sum()), len(history.length), len(self.item_vectors)
        )
        means = of_each @ self.item_vectors
        return means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-9)

    @cached_property
    def item_vectors(self) -> np.ndarray:
        """float32 [N, D]: as they were given or built."""
        return np.asarray(self.data.catalog.features, np.float32)

    def on(self, data: EvaluationData) -> LastItems:
        """The same on other data of the same catalogue."""
        return LastItems(data, self.count)


def _positives(data: EvaluationData) -> np.ndarray:
    manifest = data.timelines.manifest
    return positive_table(data.config.data.positives, manifest.actions, manifest.surfaces)


def _popularity(data: EvaluationData, half_lives: Sequence[float]) -> np.ndarray:
    """float64 [H, N]: decayed counts, scaled to [0, 1)."""
    rules, items = data.config.data.positives, len(data.protocol.reachable)
    counts = popularity_counts(data.timelines, rules, items, half_lives)
    return counts / (counts.max(axis=1, keepdims=True) + 1)


def _places_from_end(history: History) -> tuple[np.ndarray, np.ndarray]:
    """The user of each event, and how many of that user's events are newer."""
    owner = history.owners
    return owner, history.offsets[owner + 1] - 1 - np.arange(len(owner))
