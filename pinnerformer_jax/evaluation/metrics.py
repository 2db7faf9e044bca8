"""Metrics of a ranking: the scores of a user's targets beside the highest scores of other items.

Ties count against the model: an item that scores the same as a target ranks before it.

Dimensions: b users of a chunk, N items, K best other items kept, R (user, target) pairs of the chunk; `user`
is a pair's place in the chunk, ascending.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from pinnerformer_jax.retrieval.exact import top_k


class Ranking(NamedTuple):
    """Scores of each user's targets, and of the best candidates that are not targets."""

    top_scores: np.ndarray  # float32 [b, K] highest scores of candidates that are not targets, descending
    top_items: np.ndarray  # int32 [b, K] their items; -1 with score -inf where there are fewer
    user: np.ndarray  # int64 [R] the target's user, a place in the chunk
    item: np.ndarray  # int32 [R] the target
    score: np.ndarray  # float32 [R] its score; -inf if it is excluded


Pairs = tuple[np.ndarray, np.ndarray]
"""Users (places in the chunk) and items, [R] each."""

NO_PAIRS: Pairs = (np.zeros(0, np.int64), np.zeros(0, np.int32))


def rank_targets(
    scores: jax.Array | np.ndarray, candidates: jax.Array, targets: Pairs, excluded: Pairs, k: int
) -> Ranking:
    """Find the K best candidates of each user besides the targets, and the scores of the targets.

    Args:
        scores: float32 [b, N], on the device.
        candidates: bool [N], items that may be retrieved.
        targets: left out of the K best, whether they are candidates or not.
        excluded: left out of the K best; a target among them scores -inf. Pairs may repeat.
        k: K; at most N are kept.

    Raises:
        ValueError: a score is NaN.
    """
    k = min(k, scores.shape[1])
    best, rows, score = jax.device_get(
        _rank(scores, candidates, _padded(targets, len(scores)), _padded(excluded, len(scores)), k)
    )
    user, item = targets
    score = score[: len(user)]
    if np.isnan(best).any() or np.isnan(score).any():
        raise ValueError("a score is NaN; look for non-finite embeddings")
    return Ranking(best, np.where(np.isneginf(best), -1, rows), user, item, score)


@partial(jax.jit, static_argnames="k")
def _rank(
    scores: Float[Array, "b N"],
    candidates: Bool[Array, " N"],
    targets: tuple[Int[Array, " R"], Int[Array, " R"]],
    excluded: tuple[Int[Array, " E"], Int[Array, " E"]],
    k: int,
) -> tuple[Float[Array, "b k"], Int[Array, "b k"], Float[Array, " R"]]:
    allowed = scores.at[excluded].set(-jnp.inf, mode="drop")
    score = allowed[targets]
    others = jnp.where(candidates[None, :], allowed, -jnp.inf).at[targets].set(-jnp.inf, mode="drop")
    return *top_k(others, k), score


def _padded(pairs: Pairs, users: int) -> Pairs:
    """Pad to a power of two with pairs of a user out of range, which the device drops; so few shapes are
    compiled."""
    missing = max(64, 1 << (len(pairs[0]) - 1).bit_length()) - len(pairs[0])
    user, item = (np.asarray(values, np.int32) for values in pairs)
    return np.pad(user, (0, missing), constant_values=users), np.pad(item, (0, missing))


def index_hits(ranking: Ranking, k: int) -> np.ndarray:
    """bool [R]: is a target among the k nearest of the index, if it alone of the user's targets is placed
    there? (The paper's Recall@10.)"""
    if ranking.top_scores.shape[1] < k:
        return np.isfinite(ranking.score)
    return ranking.score > ranking.top_scores[ranking.user, k - 1]


def ranks(ranking: Ranking) -> np.ndarray:
    """int64 [R]: the rank of each target, from 0, among candidates and the user's other targets. Exact below
    K; an excluded target has the largest int64."""
    ahead = (ranking.top_scores[ranking.user] >= ranking.score[:, None]).sum(axis=1)
    order = np.lexsort((-ranking.score, ranking.user))
    among = np.empty_like(order)
    among[order] = _place_in_group(ranking.user[order])
    return np.where(np.isneginf(ranking.score), np.iinfo(np.int64).max, ahead + among)


def ranking_metrics(rank: np.ndarray, user: np.ndarray, users: int, k: int) -> dict[str, np.ndarray]:
    """Recall@k, NDCG@k and HitRate@k of each user, float64 [b]; NaN for a user without targets.

    Recall is hits / number of targets; NDCG's ideal holds min(k, number of targets) hits at the top.
    """
    count = np.bincount(user, minlength=users)
    hit = rank < k
    hits = np.bincount(user, hit, users)
    gain = np.bincount(user, np.where(hit, 1 / np.log2(np.where(hit, rank, 0) + 2), 0), users)
    ideal = np.cumsum([0, *(1 / np.log2(np.arange(k) + 2))])[np.minimum(count, k)]
    some = np.where(count > 0, 1.0, np.nan)
    return {
        f"recall@{k}": hits / np.maximum(count, 1) * some,
        f"ndcg@{k}": gain / np.maximum(ideal, 1) * some,
        f"hit_rate@{k}": (hits > 0) * some,
    }


def retrieved(ranking: Ranking, candidates: np.ndarray, k: int) -> np.ndarray:
    """int32 [b, k]: the k items retrieved for each user, best first; -1 where there are fewer.

    Args:
        ranking: of K >= k.
        candidates: bool [N], those that were ranked; a target that is not a candidate is not retrieved.
        k: how many.
    """
    users, width = ranking.top_scores.shape
    shown = candidates[ranking.item] & np.isfinite(ranking.score)
    user = np.concatenate([np.repeat(np.arange(users), width), ranking.user[shown]])
    row = np.concatenate([ranking.top_items.ravel(), ranking.item[shown]])
    score = np.concatenate([ranking.top_scores.ravel(), ranking.score[shown]])
    is_target = np.arange(len(row)) >= users * width
    order = np.lexsort((is_target, -score, user))
    user, row = user[order], row[order]
    place = _place_in_group(user)
    top = np.full((users, k), -1, np.int32)
    top[user[place < k], place[place < k]] = row[place < k]
    return top


def interest_entropy(rows: np.ndarray, topics: np.ndarray) -> np.ndarray:
    """Entropy, in nats, of the topics among each user's items, float64 [b].

    Args:
        rows: int32 [b, k] items; -1 is none.
        topics: int32 [N] topic of each item; -1 is unknown, and left out. NaN for a user without any.
    """
    topic = np.where(rows >= 0, topics[rows], -1)
    user, column = np.nonzero(topic >= 0)
    kinds = int(topics.max(initial=0)) + 1
    kind, count = np.unique(user * kinds + topic[user, column], return_counts=True)
    owner = kind // kinds
    total = np.bincount(owner, count, len(rows))
    share = count / total[owner]
    return np.where(total > 0, np.bincount(owner, -share * np.log(share), len(rows)), np.nan)


def coverage_curve(shown: np.ndarray) -> np.ndarray:
    """Share of all results that the 1, 2, 3, ... most shown items account for, float64 [size of the index].

    Args:
        shown: int [size of the index], how often each item was in a top 10.
    """
    return np.cumsum(np.sort(shown)[::-1]) / max(shown.sum(), 1)


def coverage(shown: np.ndarray, share: float = 0.9) -> float:
    """The smallest share of the index that accounts for this share of all results (P90 coverage)."""
    cumulative = np.cumsum(np.sort(shown)[::-1])
    wanted = math.ceil(round(share * int(cumulative[-1]), 6))
    return float(np.searchsorted(cumulative, wanted) + 1) / len(shown)


def _place_in_group(group: np.ndarray) -> np.ndarray:
    """0, 1, 2, ... within each run of equal numbers of an ascending array."""
    return np.arange(len(group)) - np.searchsorted(group, group)
