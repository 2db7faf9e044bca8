"""Do vectors find the item that is engaged with next?

Queries and targets are pairs of items that an evaluation user engaged with after t, the second right after
the first or as the next but one, within a day. All other items of the catalogue compete; a tie is decided
against the target. A pair is new if training users never touched one of its items up to t, else it is warm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int

from pinnerformer_jax.evaluation.comparison import Statistic, intervals
from pinnerformer_jax.items.engagement import Pairs

REACH, DAYS = 2, 1.0
"""What a pair is, see `engagement.co_engaged`; whatever the vectors were trained on."""
MAX_PAIRS = 20_000
"""Warm and new pairs that are ranked, each; of more a random sample."""
CUTOFF = 10
_CHUNK = 256  # queries scored at a time

Scorer = Callable[[np.ndarray], np.ndarray]
"""Items [q] -> scores of all items [q, N]."""


class Found(NamedTuple):
    """How a method did on some pairs; NaN where there are none."""

    pairs: int
    hit_rate: float  # share of targets among the 10 best
    low: float  # 95 % bootstrap interval of the hit rate, over users
    high: float
    mrr: float  # mean of 1 / rank


def compare(
    scorers: Mapping[str, Scorer],
    pairs: Pairs,
    known: Bool[np.ndarray, " n"],
    seed: int = 0,
) -> dict[str, dict[str, Found]]:
    """By method: {"warm": Found, "new": Found}.

    Args:
        scorers: by method.
        pairs: queries and targets.
        known: items that training users touched up to t.
        seed: of the sample of pairs.
    """
    warm = known[pairs.first] & known[pairs.second]
    rng = np.random.default_rng(seed)
    chosen = {}
    for name, among in (("warm", warm), ("new", ~warm)):
        rows = np.flatnonzero(among)
        chosen[name] = np.sort(rng.choice(rows, min(len(rows), MAX_PAIRS), replace=False))
    return {
        method: {
            name: _found(ranks(scorer, pairs.first[rows], pairs.second[rows]), pairs.user[rows], seed)
            for name, rows in chosen.items()
        }
        for method, scorer in scorers.items()
    }


def ranks(
    scorer: Scorer, first: Int[np.ndarray, " p"], second: Int[np.ndarray, " p"]
) -> Int[np.ndarray, " p"]:
    """Rank of each pair's second item among all items but the first; 1 is the best."""
    order = np.argsort(first, kind="stable")
    queries, start = np.unique(first[order], return_index=True)
    end = np.append(start[1:], len(first))
    out = np.empty(len(first), np.int64)
    for k in range(0, len(queries), _CHUNK):
        scores = np.array(scorer(queries[k : k + _CHUNK]))
        scores[np.arange(len(scores)), queries[k : k + _CHUNK]] = -np.inf
        for row, begin, stop in zip(scores, start[k : k + _CHUNK], end[k : k + _CHUNK], strict=True):
            own = order[begin:stop]
            out[own] = len(row) - np.searchsorted(np.sort(row), row[second[own]], side="left")
    return out


def inner_products(vectors: Float32[np.ndarray, "n d"]) -> Scorer:
    """Scores by vectors."""
    return lambda items: vectors[items] @ vectors.T


def _found(rank: np.ndarray, user: np.ndarray, seed: int) -> Found:
    if not len(rank):
        return Found(0, *[float("nan")] * 4)
    hit = rank <= CUTOFF
    _, place = np.unique(user, return_inverse=True)
    of_users = Statistic(np.bincount(place, hit), np.bincount(place).astype(float))
    low, high = (float(bound[0]) for bound in intervals([of_users], seed))
    return Found(len(rank), float(np.mean(hit)), low, high, float(np.mean(1 / rank)))
