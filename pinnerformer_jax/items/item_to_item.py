"""Item-to-item evaluation: do vectors find the item that a user engages with next?

Queries and targets are pairs of items that an evaluation user engaged with after t, the second right after
the first or as the next but one, within a day. All other items of the catalogue are candidates; a tie
counts against the target. A pair is new if training users never touched one of its items up to t; otherwise
it is warm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int

from pinnerformer_jax.data.timelines import Timelines
from pinnerformer_jax.evaluation.baselines import neighbours
from pinnerformer_jax.evaluation.comparison import Statistic, intervals
from pinnerformer_jax.items.engagement import Pairs, co_engaged, window_engagement
from pinnerformer_jax.items.methods import Sources, make_vectors

if TYPE_CHECKING:
    from rich.table import Table

REACH, DAYS = 2, 1.0
"""Reach and days of a pair, see `engagement.co_engaged`; the same for all vectors."""
MAX_PAIRS = 20_000
"""Warm and new pairs that are ranked, each; of more a random sample."""
CUTOFF = 10
_CHUNK = 256  # queries scored at a time

Scorer = Callable[[np.ndarray], np.ndarray]
"""Items [q] -> scores of all items [q, N]."""


class PairMetrics(NamedTuple):
    """Metrics of a method on some pairs; NaN if there are none."""

    pairs: int
    hit_rate: float  # share of targets among the 10 best
    low: float  # 95 % bootstrap interval of the hit rate, over users
    high: float
    mrr: float  # mean of 1 / rank


def evaluate_vectors(
    timelines: Timelines, sources: Sources, made: dict[str, np.ndarray]
) -> dict[str, dict[str, PairMetrics]]:
    """Item-to-item results of some vectors and of random, text, svd, item-kNN and counted pairs.

    Args:
        timelines: a prepared folder.
        sources: its training events.
        made: vectors by method.
    """
    from scipy.sparse import csr_matrix

    config, graph = sources.config, sources.graph
    random = np.random.default_rng(config.pinsage.seed).standard_normal((graph.items, 64), np.float32)
    vectors: dict[str, np.ndarray] = {"random": random}
    vectors |= {name: make_vectors(name, sources)[0] for name in ("text", "svd") if name not in made}
    if config.items.vector and "given" not in made:
        vectors["given"] = np.asarray(sources.catalog.features, np.float32)
    edges = np.ones(len(graph.user_items), np.float32), graph.user_items, graph.user_offsets
    similar = neighbours(csr_matrix(edges, shape=(len(graph.user_offsets) - 1, graph.items)))
    scorers = {name: inner_products(rows) for name, rows in (vectors | made).items()}
    scorers["item-kNN"] = lambda items: similar[items].toarray()
    followed = co_engaged(sources.events, REACH, DAYS)
    ones = np.ones(len(followed.first), np.float32)
    counts = csr_matrix((ones, (followed.first, followed.second)), shape=(graph.items, graph.items))
    scorers["pair counts"] = lambda items: counts[items].toarray()
    pairs = co_engaged(window_engagement(timelines, config.data.positives), REACH, DAYS)
    return evaluate_scorers(scorers, pairs, graph.connected, config.pinsage.seed)


def evaluate_scorers(
    scorers: Mapping[str, Scorer],
    pairs: Pairs,
    known: Bool[np.ndarray, " n"],
    seed: int = 0,
) -> dict[str, dict[str, PairMetrics]]:
    """Metrics of pairs by method and kind, "warm" and "new".

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
            name: _pair_metrics(
                pair_ranks(scorer, pairs.first[rows], pairs.second[rows]), pairs.user[rows], seed
            )
            for name, rows in chosen.items()
        }
        for method, scorer in scorers.items()
    }


def results_table(results: dict[str, dict[str, PairMetrics]]) -> Table:
    """The results as a table for the terminal."""
    from rich.table import Table

    counts = next(iter(results.values()))
    shown = Table(
        title="Item to item: " + ", ".join(f"{of.pairs:,} {name} pairs" for name, of in counts.items())
    )
    shown.add_column("vectors")
    for name in counts:
        shown.add_column(f"hit rate@{CUTOFF}, {name}", justify="right")
        shown.add_column(f"MRR, {name}", justify="right")
    for method, by_kind in results.items():
        cells = [
            cell
            for of in by_kind.values()
            for cell in (f"{of.hit_rate:.4f} ({of.low:.4f}-{of.high:.4f})", f"{of.mrr:.4f}")
        ]
        shown.add_row(method, *cells)
    return shown


def pair_ranks(
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


def _pair_metrics(rank: np.ndarray, user: np.ndarray, seed: int) -> PairMetrics:
    if not len(rank):
        return PairMetrics(0, *[float("nan")] * 4)
    hit = rank <= CUTOFF
    _, place = np.unique(user, return_inverse=True)
    of_users = Statistic(np.bincount(place, hit), np.bincount(place).astype(float))
    low, high = (float(bound[0]) for bound in intervals([of_users], seed))
    return PairMetrics(len(rank), float(np.mean(hit)), low, high, float(np.mean(1 / rank)))
