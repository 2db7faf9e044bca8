"""The best items by the served score, within a shop's rules: few candidates, and proof that no other item can
be among the best.

Scores of one user and of a batch are the same to the bit: a matrix product finds candidates, and these are
scored by one sum that does not depend on the batch.

Dimensions: B users, N items, D numbers of a vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pinnerformer_jax.retrieval.priors import Priors
from pinnerformer_jax.retrieval.rules import NO_RULES, Rules, within_cap
from pinnerformer_jax.retrieval.scann_index import ScannIndex

FIRST_CANDIDATES = 200
"""Nearest items and popular items that are scored at first, with an index."""

BLOCK = 64
"""Items of a block, without an index."""

SCORES = 1 << 22
"""Scores of a matrix product that memory holds at a time."""


@dataclass(frozen=True)
class OwnCounts:
    """A user's decayed counts."""

    rows: np.ndarray  # int64 [C], rows of the items, ascending, each once
    counts: np.ndarray  # float [C]; 0: the user saw the item, and no event of it is positive


class _Own(NamedTuple):
    """What own counts add to the scores of a batch."""

    keys: np.ndarray  # int64 [C] ascending, place of the user in the batch * N + row
    added: np.ndarray  # float32 [C]


class Ranking:
    """Ranks the items of a state for users.

    Args:
        vectors: float32 [N, D] of the items.
        index: over them; None: all items are scored.
        priors: of the score.
        popularity: float64 [N], decayed counts; None: the score needs none.
        rules: of the shop.
    """

    def __init__(
        self,
        vectors: np.ndarray,
        index: ScannIndex | None,
        priors: Priors,
        popularity: np.ndarray | None,
        rules: Rules = NO_RULES,
    ) -> None:
        self.vectors, self.index, self.own_weight, self.rules = vectors, index, priors.own_weight, rules
        self.added = np.zeros(len(vectors), np.float32)  # to each item's inner product, whoever the user is
        if popularity is not None:
            self.added = priors.add(np.zeros(1), popularity).astype(np.float32)
        self._largest = float(np.abs(self.added).max(initial=0))
        self._longest = float(np.sqrt(np.einsum("nd,nd->n", vectors, vectors).max(initial=0)))
        if rules.allowed is not None:
            self.added[~rules.allowed] = -np.inf
        self.most_added = np.argsort(-self.added, kind="stable")

    def best(
        self, vector: np.ndarray, k: int, own: OwnCounts, hidden: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores and rows of the k items of highest served score, best first.

        Args:
            vector: float32 [D] of the user.
            k: how many; fewer if there are not so many items that may be shown.
            own: the user's own counts.
            hidden: int64 rows of items to leave out.
        """
        return self.best_many(vector[None], k, [own], [hidden])[0]

    def best_many(
        self, vectors: np.ndarray, k: int, own: Sequence[OwnCounts], hidden: Sequence[np.ndarray]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """`best` for each of B users.

        Args:
            vectors: float32 [B, D].
            k: how many of each.
            own: B.
            hidden: B.
        """
        if self.rules.category is None:
            return self._all(vectors, k, own, hidden)
        found: list[tuple[np.ndarray, np.ndarray]] = [(np.empty(0), np.empty(0, np.int64))] * len(vectors)
        waiting, width = list(range(len(vectors))), 2 * k
        while waiting:  # for users whose first `width` items hold too few that the cap admits
            part = self._all(vectors[waiting], width, [own[b] for b in waiting], [hidden[b] for b in waiting])
            short = []
            for b, (scores, rows) in zip(waiting, part, strict=True):
                kept = np.flatnonzero(within_cap(rows, self.rules))[:k]
                found[b] = scores[kept], rows[kept]
                if len(kept) < k and len(rows) == width:
                    short.append(b)
            waiting, width = short, 2 * width
        return found

    def _all(
        self, vectors: np.ndarray, k: int, own: Sequence[OwnCounts], hidden: Sequence[np.ndarray]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Without a cap."""
        if self.index is not None:
            parts = zip(vectors, own, hidden, strict=True)
            return [self._by_index(self.index, *part, k) for part in parts]
        found: list[tuple[np.ndarray, np.ndarray]] = []
        size = max(1, SCORES // max(len(self.vectors), 1))
        for start in range(0, len(vectors), size):
            part = slice(start, start + size)
            found += self._by_product(vectors[part], k, own[part], hidden[part])
        return found

    def _by_index(
        self, index: ScannIndex, vector: np.ndarray, own: OwnCounts, hidden: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The nearest items, those with the most popularity, and the user's own are scored. An item that is
        none of these is at most as near as the farthest of the nearest, and at most as popular as the next
        popular one. Candidates are doubled until the k-th score reaches that bound (Fagin's threshold), so
        the answer is exact but for nearest items that the index misses."""
        whole = len(self.vectors)
        count = max(k + len(hidden), FIRST_CANDIDATES if self.added.any() or len(own.rows) else 0)
        while True:
            bound = -np.inf
            if count >= whole:
                rows = np.arange(whole)
            else:
                inner, near = index.search(vector[None], count)
                near, inner = near[0][near[0] >= 0], inner[0][near[0] >= 0]
                rows = np.union1d(np.concatenate([near, self.most_added[:count]]), own.rows)
                bound = inner.min(initial=np.inf) + self.added[self.most_added[count]]
            rows = np.setdiff1d(rows, hidden, assume_unique=True)
            rows = rows[self.added[rows] > -np.inf]
            scores = self._scores(vector[None], np.zeros(len(rows), np.int64), rows, self._own([own]))
            order = np.argsort(-scores, kind="stable")[:k]
            if bound == -np.inf or (len(order) == k and scores[order[-1]] >= bound):
                return scores[order], rows[order]
            count *= 2

    def _by_product(
        self, vectors: np.ndarray, k: int, own: Sequence[OwnCounts], hidden: Sequence[np.ndarray]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """All items are scored by one product, whose rounding depends on the batch. It says which items can
        be among the best, and these are scored again.

        Items are cut into blocks. k items are at least as good as the k-th of the blocks' best. So an item
        that is worse than that by more than twice the rounding is worse than k others.
        """
        whole, counts = len(self.vectors), self._own(own)
        if len(vectors) == 1:  # BLAS would wait for its threads, which on busy cores takes ten times as long
            rough = np.einsum("bd,nd->bn", vectors, self.vectors)
        else:
            rough = vectors @ self.vectors.T
        rough += self.added  # [B, N]
        rough.ravel()[counts.keys] += counts.added
        for row, leave in zip(rough, hidden, strict=True):
            row[leave] = -np.inf
        largest = self._largest + np.abs(counts.added).max(initial=0)
        rounding = self._longest * np.linalg.norm(vectors, axis=1) + largest  # [B]
        rounding *= (vectors.shape[1] + 8) * 2.0**-23
        size = max(1, min(BLOCK, whole // (4 * k)))  # items of a block; the last few items are in none
        best = rough[:, : whole - whole % size].reshape(len(rough), size, -1).max(axis=1, initial=-np.inf)
        least = np.full(len(rough), -np.inf, np.float32)
        if k <= best.shape[1]:
            least = np.partition(best, best.shape[1] - k, axis=1)[:, best.shape[1] - k] - 2 * rounding
        keys = np.flatnonzero((rough >= least[:, None]) & (rough > -np.inf))
        places, rows = np.divmod(keys, max(whole, 1))
        scores = self._scores(vectors, places, rows, counts)
        order = np.lexsort((-scores, places))  # stable: of equal scores the lower row first
        ends = np.cumsum(np.bincount(places, minlength=len(vectors)))
        kept = [
            order[end - count : end][:k] for end, count in zip(ends, np.diff(ends, prepend=0), strict=True)
        ]
        return [(scores[of], rows[of]) for of in kept]

    def _own(self, own: Sequence[OwnCounts]) -> _Own:
        places = np.repeat(np.arange(len(own)), [len(of.rows) for of in own])
        counts = np.concatenate([of.counts for of in own])
        rows = np.concatenate([of.rows for of in own]).astype(np.int64)
        return _Own(
            places * len(self.vectors) + rows, (self.own_weight * np.log1p(counts)).astype(np.float32)
        )

    def _scores(self, vectors: np.ndarray, places: np.ndarray, rows: np.ndarray, own: _Own) -> np.ndarray:
        """float32 [P]: the served scores of pairs of a user and an item. Each is a sum of its own, so that it
        does not depend on the others.

        Args:
            vectors: float32 [B, D].
            places: int [P], of the users among them.
            rows: int [P], of the items.
            own: of the B users.
        """
        scores = np.empty(len(rows), np.float32)
        step = max(1, SCORES // max(vectors.shape[1], 1))  # products that memory holds at a time
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            scores[part] = (self.vectors[rows[part]] * vectors[places[part]]).sum(axis=1)
        scores += self.added[rows]
        if len(own.keys):
            keys = places * len(self.vectors) + rows
            at = np.minimum(np.searchsorted(own.keys, keys), len(own.keys) - 1)
            scores += np.where(own.keys[at] == keys, own.added[at], np.float32(0))
        return scores
