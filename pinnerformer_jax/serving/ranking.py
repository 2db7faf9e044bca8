"""The best items by the served score: few candidates, and proof that no other item can be among the best."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pinnerformer_jax.retrieval.priors import Priors
from pinnerformer_jax.retrieval.scann_index import ScannIndex

FIRST_CANDIDATES = 200
"""Nearest items and popular items that are scored at first."""


@dataclass(frozen=True)
class OwnCounts:
    """A user's decayed counts."""

    rows: np.ndarray  # int64 [C], rows of the items, each once
    counts: np.ndarray  # float64 [C]


class Ranking:
    """Ranks the items of a state for a user.

    Args:
        vectors: float32 [N, D] of the items.
        index: over them; None: all items are scored.
        priors: of the score.
        popularity: float64 [N], decayed counts; None: the score needs none.
    """

    def __init__(
        self,
        vectors: np.ndarray,
        index: ScannIndex | None,
        priors: Priors,
        popularity: np.ndarray | None,
    ) -> None:
        self.vectors, self.index, self.own_weight = vectors, index, priors.own_weight
        self.added = np.zeros(len(vectors), np.float32)  # to each item's inner product, whoever the user is
        if popularity is not None:
            self.added = priors.add(np.zeros(1), popularity).astype(np.float32)
        self.most_added = np.argsort(-self.added, kind="stable")

    def best(
        self, vector: np.ndarray, k: int, own: OwnCounts, hidden: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores and rows of the k items of highest served score, best first.

        With an index, the nearest items, those with the most popularity, and the user's own are scored. An
        item that is none of these is at most as near as the farthest of the nearest, and at most as popular
        as the next popular one. Candidates are doubled until the k-th score reaches that bound (Fagin's
        threshold), so the answer is exact but for nearest items that the index misses.

        Args:
            vector: float32 [D] of the user.
            k: how many; fewer if there are not so many items.
            own: the user's own counts.
            hidden: int64 rows of items to leave out.
        """
        whole = len(self.vectors)
        count = max(k + len(hidden), FIRST_CANDIDATES if self.added.any() or len(own.rows) else 0)
        while True:
            bound = -np.inf
            if self.index is None or count >= whole:
                rows = np.arange(whole)
            else:
                inner, near = self.index.search(vector[None], count)
                near, inner = near[0][near[0] >= 0], inner[0][near[0] >= 0]
                rows = np.union1d(np.concatenate([near, self.most_added[:count]]), own.rows)
                bound = inner.min(initial=np.inf) + self.added[self.most_added[count]]
            rows = np.setdiff1d(rows, hidden, assume_unique=True)
            scores = self.vectors[rows] @ vector + self.added[rows]
            place = np.searchsorted(rows, own.rows)
            known = np.flatnonzero(rows[np.minimum(place, len(rows) - 1)] == own.rows) if len(rows) else []
            scores[place[known]] += self.own_weight * np.log1p(own.counts[known]).astype(np.float32)
            order = np.argsort(-scores, kind="stable")[:k]
            if bound == -np.inf or (len(order) == k and scores[order[-1]] >= bound):
                return scores[order], rows[order]
            count *= 2
