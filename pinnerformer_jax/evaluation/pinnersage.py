"""PinnerSage (Pal et al., KDD 2020), the paper's baseline: several vectors a user, each that of an item.

Ward's method clusters the item vectors of the last 90 days' events. The medoid represents a cluster. Its
importance is the sum of exp(-0.01 * age in days) over its events. The most important clusters are kept.

Dimensions: U evaluated users, n events of a user, C clusters kept, N items, D numbers of an item's vector.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float, Int

from pinnerformer_jax.data.contracts import DAY
from pinnerformer_jax.evaluation.comparison import MAX_SCORES, PAPER_K, Scorer, Statistic, inner_products
from pinnerformer_jax.evaluation.metrics import NO_PAIRS, index_hits, rank_targets
from pinnerformer_jax.evaluation.protocol import Protocol

HISTORY_DAYS = 90
DECAY = 0.01
"""Rate at which importance decays, per day."""
MERGE_DISTANCE = 1.0
"""Ward's distance at which merging stops (our choice; the threshold is not public): two items of unit vectors
are merged if their cosine is above 0.5."""
MAX_EVENTS = 1000
"""Newest events of a user that are clustered; bounds the time and memory of Ward, both quadratic."""
CLUSTERS = 20


class Clusters(NamedTuple):
    """The users' clusters, the most important first."""

    item: np.ndarray  # int32 [U, C] medoid; -1 where there are fewer
    importance: np.ndarray  # float64 [U, C]; 0 where there are fewer


def ward_clusters(vectors: Float[np.ndarray, "n d"]) -> Int[np.ndarray, " n"]:
    """Which cluster, from 0, each of a user's events is in."""
    from scipy.cluster.hierarchy import fcluster, ward
    from scipy.spatial.distance import pdist

    if len(vectors) == 1:
        return np.zeros(1, int)
    return fcluster(ward(pdist(vectors.astype(np.float64))), MERGE_DISTANCE, criterion="distance") - 1


def medoid(vectors: Float[np.ndarray, "n d"]) -> int:
    """The member with the least sum of squared distances to the others: the one nearest to their mean."""
    return int(np.argmin(np.sum((vectors - vectors.mean(axis=0)) ** 2, axis=1)))


def cluster_users(protocol: Protocol, features: np.ndarray, count: int = CLUSTERS) -> Clusters:
    """The most important clusters of each evaluated user, as of t.

    For a user without an event in the last 90 days the newest event alone is clustered (our choice). A user
    without an item that has a vector has no cluster.

    Args:
        protocol: the users and their histories.
        features: [N, D] item vectors.
        count: C.
    """
    history, users = protocol.history, len(protocol.users)
    found = Clusters(np.full((users, count), -1, np.int32), np.zeros((users, count)))
    for user in range(users):
        events = slice(history.offsets[user], history.offsets[user + 1])
        item, age = history.item[events], (protocol.split_time - history.time[events]) / DAY
        known = protocol.reachable[item]
        item, age = item[known][-MAX_EVENTS:], age[known][-MAX_EVENTS:]
        recent = age < HISTORY_DAYS
        recent[-1:] = True
        item, age = item[recent], age[recent]
        if not len(item):
            continue
        vectors = np.asarray(features[item], np.float32)
        cluster = ward_clusters(vectors)
        importance = np.bincount(cluster, np.exp(-DECAY * age))
        for place, which in enumerate(np.argsort(-importance, kind="stable")[:count]):
            members = np.flatnonzero(cluster == which)
            found.item[user, place] = item[members[medoid(vectors[members])]]
            found.importance[user, place] = importance[which]
    return found


def weighted_mean(clusters: Clusters, features: np.ndarray) -> Scorer:
    """Inner product with ONE vector a user, see `mean_vectors`."""
    vectors = np.asarray(features, np.float32)
    return inner_products(mean_vectors(clusters, vectors), vectors)


def mean_vectors(clusters: Clusters, vectors: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "u d"]:
    """The mean of each user's medoids, weighted by importance, of unit length; zero without a cluster."""
    weighted = zip(clusters.importance.T, clusters.item.T, strict=True)  # a place at a time; -1 weighs 0
    means = sum(importance[:, None] * vectors[item] for importance, item in weighted)
    return means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-9)


def nearest_cluster(clusters: Clusters, features: np.ndarray, count: int) -> Scorer:
    """Inner product with the nearest of a user's `count` most important medoids: retrieval by all of them."""
    scorers = _by_place(clusters, features, count)

    def score(places: np.ndarray) -> jax.Array | np.ndarray:
        best = scorers[0](places)
        for scorer in scorers[1:]:
            best = jnp.maximum(best, scorer(places))
        return best

    return score


def oracle_recall(
    clusters: Clusters, features: np.ndarray, protocol: Protocol, counts: tuple[int, ...] = (1, 5, 20)
) -> dict[int, Statistic]:
    """The paper's Recall@10 with an oracle (its Table 1): for each target that cluster of the user's counts
    that is closest to it.

    Args:
        clusters: of the evaluated users, C >= max(counts).
        features: [N, D] item vectors, unit rows.
        protocol: targets and index.
        counts: c, how many of the most important clusters the oracle chooses from.

    Returns:
        By c.
    """
    users, items = len(protocol.users), len(protocol.reachable)
    scorers = _by_place(clusters, features, max(counts))
    index = jnp.asarray(protocol.index)
    size = max(1, min(users, MAX_SCORES // items))
    chunks: dict[int, list[np.ndarray]] = {count: [] for count in counts}
    for start in range(0, users, size):
        places = np.arange(start, min(start + size, users))
        padded = np.pad(places, (0, size - len(places)), mode="edge")  # one shape, one program
        user, number = protocol.targets.of(places)
        targets = user, protocol.targets.item[number]
        closest, hit = np.full(len(user), -np.inf), np.zeros(len(user), bool)
        for k, scorer in enumerate(scorers, start=1):
            ranking = rank_targets(scorer(padded), index, targets, NO_PAIRS, PAPER_K)
            closer = ranking.score > closest
            closest, hit = (
                np.where(closer, ranking.score, closest),
                np.where(closer, index_hits(ranking, PAPER_K), hit),
            )
            if k in chunks:
                chunks[k].append(np.bincount(user, hit, len(places)))
    pairs = np.diff(protocol.targets.offsets).astype(float)
    return {count: Statistic(np.concatenate(hits), pairs) for count, hits in chunks.items()}


def _by_place(clusters: Clusters, features: np.ndarray, count: int) -> list[Scorer]:
    """For each of the first places, inner product with the user's medoid there; -inf for users with fewer."""
    vectors = jnp.asarray(features, jnp.float32)

    @jax.jit
    def score(item: jax.Array, vectors: jax.Array) -> jax.Array:
        products = jnp.matmul(vectors[item], vectors.T, precision=lax.Precision.HIGHEST)
        return jnp.where(item[:, None] >= 0, products, -jnp.inf)

    return [lambda users, k=k: score(clusters.item[users, k], vectors) for k in range(count)]
