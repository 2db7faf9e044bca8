"""Metrics of every method on the same users, targets and candidates, computed a chunk of users at a time.

Dimensions: U evaluated users, b users of a chunk, N items, S statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tqdm import tqdm

from pinnerformer_jax.config import EvaluationConfig
from pinnerformer_jax.evaluation.metrics import (
    NO_PAIRS,
    Pairs,
    coverage,
    coverage_curve,
    index_hits,
    interest_entropy,
    rank_targets,
    ranking_metrics,
    ranks,
    retrieved,
)
from pinnerformer_jax.evaluation.protocol import History, Protocol
from pinnerformer_jax.evaluation.results import Difference, LengthRow, MethodResults, MetricRow

Scorer = Callable[[np.ndarray], jax.Array | np.ndarray]
"""Places [b] among the evaluated users -> float32 [b, N], higher is nearer."""

MODEL = "pinnerformer"
"""The model's name among the methods: the inner product alone."""
SERVED = "served"
"""The name of the score that is served: the inner product and the priors."""
VECTORS = "vectors"
"""The name of the inner product of vectors that hold the priors."""
OF_MODEL = (SERVED, VECTORS, MODEL)
"""The methods that are of the model; all others are baselines."""
PAPER_K = 10
"""k of the paper's recall and coverage."""
ENTROPY_K = 50
CHOICE_K = 50
"""Places of a list that count where validation users choose the priors and the constants of the baselines."""
MAX_SCORES = 1 << 25
"""Scores of a chunk of users, b * N, at most."""
BUCKETS = (1, 5, 10, 20, 50, 100, 256)
"""Least events of each bucket of history lengths."""
RESAMPLES = 1000


def inner_products(users: np.ndarray, items: np.ndarray, mesh: Mesh | None = None) -> Scorer:
    """Score by embeddings, [U, D] and [N, D]. The devices of a mesh hold those of the items together; without
    one, the first device holds them.

    Raises:
        ValueError: an embedding is not finite.
    """
    for name, vectors in (("user", users), ("item", items)):
        broken = int((~np.isfinite(vectors).all(axis=1)).sum())
        if broken:
            raise ValueError(f"{broken} of {len(vectors)} {name} embeddings are not finite")
    multiply = jax.jit(lambda u, v: jnp.matmul(u, v.T, precision=lax.Precision.HIGHEST))
    if mesh is None:
        on_device = jnp.asarray(items, jnp.float32)
        return lambda places: multiply(users[places].astype(np.float32), on_device)
    padded = np.pad(items.astype(np.float32), ((0, -len(items) % mesh.size), (0, 0)))
    split = jax.device_put(padded, NamedSharding(mesh, PartitionSpec(mesh.axis_names)))

    def score(places: np.ndarray) -> jax.Array:
        scores = multiply(users[places].astype(np.float32), split)  # its columns are split
        return jax.device_put(scores, jax.devices()[0])[:, : len(items)]

    return score


def unseen_alone(scorer: Scorer, history: History) -> Scorer:
    """A scorer that leaves out what each user had: these items score -inf.

    Args:
        scorer: of all items.
        history: of the evaluated users.
    """

    def score(places: np.ndarray) -> np.ndarray:
        scores = np.array(scorer(places), np.float32)
        scores[history.touched(places)] = -np.inf
        return scores

    return score


class Statistic(NamedTuple):
    """A metric as a ratio of sums over users, so that users can be resampled."""

    total: np.ndarray  # float64 [U]
    weight: np.ndarray  # float64 [U]

    def value(self, users: np.ndarray | slice = slice(None)) -> float:
        """The metric over some users; NaN if none has any weight."""
        weight = self.weight[users].sum()
        return float(self.total[users].sum() / weight) if weight else float("nan")


class MethodMetrics(NamedTuple):
    """Metrics of one method, by user."""

    statistics: dict[tuple[str, str], Statistic]  # by (protocol, metric)
    shown: np.ndarray  # int64 [size of the index] times each item was in a top 10


def evaluate_methods(
    scorers: Mapping[str, Scorer], protocol: Protocol, topics: np.ndarray, config: EvaluationConfig
) -> MethodResults:
    """Evaluate every method.

    Args:
        scorers: by method.
        protocol: users, targets and candidates, the same for all.
        topics: int32 [N] topic of each item, -1 unknown.
        config: cutoffs, chunk size, filter_seen.

    Returns:
        No row where a metric is over no user.
    """
    methods = {
        name: evaluate_method(name, scorer, protocol, topics, config) for name, scorer in scorers.items()
    }
    keyed = {
        (name, *key): value for name, found in methods.items() for key, value in found.statistics.items()
    }
    low, high = intervals(list(keyed.values()), config.seed)
    rows = [
        MetricRow(*key, statistic.value(), int((statistic.weight > 0).sum()), float(a), float(b))
        for (key, statistic), a, b in zip(keyed.items(), low, high, strict=True)
        if statistic.weight.any()
    ]
    users = len(protocol.users)
    rows += [
        MetricRow(name, "paper", "p90_coverage@10", coverage(found.shown), users)
        for name, found in methods.items()
    ]
    return MethodResults(
        rows=rows,
        history_length=[row for name, found in methods.items() for row in _by_length(name, found, protocol)],
        coverage_curve={name: _thinned(coverage_curve(found.shown)) for name, found in methods.items()},
        differences=list(_differences(methods, config.seed)),
    )


def _differences(methods: Mapping[str, MethodMetrics], seed: int) -> Iterator[Difference]:
    """Recall@10 of what is served, or else of the model, less each other method's, on the same resampled
    users."""
    own = SERVED if SERVED in methods else MODEL
    if own not in methods:
        return
    for protocol in ("full", "new_items"):
        key = protocol, f"recall@{PAPER_K}"
        found = {name: method.statistics.get(key) for name, method in methods.items()}
        some = {name: each for name, each in found.items() if each is not None and each.weight.any()}
        if own not in some:
            continue
        drawn = dict(zip(some, resampled(list(some.values()), seed).T, strict=True))
        for name, statistic in some.items():
            if name != own:
                low, high = np.nanpercentile(drawn[own] - drawn[name], [2.5, 97.5])
                value = some[own].value() - statistic.value()
                yield Difference(own, name, protocol, value, float(low), float(high))


def evaluate_method(
    name: str, scorer: Scorer, protocol: Protocol, topics: np.ndarray, config: EvaluationConfig
) -> MethodMetrics:
    """Compute the metrics of one method, so many users at a time that their scores stay in bounds."""
    users, items = len(protocol.users), len(protocol.reachable)
    shown = np.zeros(items, np.int64)
    chunks: list[dict[tuple[str, str], Statistic]] = []
    with tqdm(total=users, desc=name, unit="user", leave=False, disable=None) as bar:
        for places, scores in in_chunks(scorer, protocol, config):
            paper, top = _paper(scores, places, protocol, topics)
            best = top[:, :PAPER_K]
            shown += np.bincount(best[best >= 0], minlength=items)
            chunks.append(paper | _full_and_new(scores, places, protocol, config))
            bar.update(len(places))
    joined = {}
    for key in chunks[0]:
        parts = [chunk[key] for chunk in chunks]
        joined[key] = Statistic(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    return MethodMetrics(joined, shown[protocol.index])


def of_full_catalogue(
    scorer: Scorer, protocol: Protocol, config: EvaluationConfig, metric: str, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """One metric of one method over the full catalogue, of all targets of each user, float64 [U]: where all
    items compete, and where those that the user had are left out, so that targets among them are missed.

    Args:
        metric: "recall", "ndcg" or "hit_rate".
        k: places of a list that count.
    """
    kept, hidden = [], []
    for places, scores in in_chunks(scorer, protocol, config):
        user, number = protocol.targets.of(places)
        targets, seen = (user, protocol.targets.item[number]), protocol.history.touched(places)
        for found, excluded in ((kept, NO_PAIRS), (hidden, seen)):
            found.append(_ranked(scores, len(places), protocol, targets, excluded, (k,))[f"{metric}@{k}"])
    return np.concatenate(kept), np.concatenate(hidden)


def in_chunks(
    scorer: Scorer, protocol: Protocol, config: EvaluationConfig
) -> Iterator[tuple[np.ndarray, jax.Array]]:
    """Places of some users, and their scores, padded to equal numbers of users, which stay in bounds."""
    users, items = len(protocol.users), len(protocol.reachable)
    size = max(1, min(config.batch_size, users, MAX_SCORES // items))
    for start in range(0, users, size):
        places = np.arange(start, min(start + size, users))
        padded = np.pad(places, (0, size - len(places)), mode="edge")
        yield places, jnp.asarray(scorer(padded), jnp.float32)


def _paper(
    scores: jax.Array, places: np.ndarray, protocol: Protocol, topics: np.ndarray
) -> tuple[dict[tuple[str, str], Statistic], np.ndarray]:
    """The paper's metrics of a chunk, and the nearest index items, int32 [b, 50]."""
    users = len(places)
    user, number = protocol.targets.of(places)
    targets = user, protocol.targets.item[number]
    ranking = rank_targets(scores, jnp.asarray(protocol.index), targets, NO_PAIRS, max(PAPER_K, ENTROPY_K))
    top = retrieved(ranking, protocol.index, ENTROPY_K)[:users]
    hit, by_action = index_hits(ranking, PAPER_K), protocol.targets.by_action
    statistics = {
        ("paper", "recall@10"): _share(hit, user, users),
        ("paper", "interest_entropy@50"): _mean(interest_entropy(top, topics)),
    }
    found = np.flatnonzero(by_action.any(axis=0))
    for action in found if len(found) > 1 else ():
        own = by_action[number, action]
        statistics["by_action", f"recall@10 {protocol.actions[action]}"] = _share(hit[own], user[own], users)
    return statistics, top


def _full_and_new(
    scores: jax.Array, places: np.ndarray, protocol: Protocol, config: EvaluationConfig
) -> dict[tuple[str, str], Statistic]:
    """Metrics of a chunk over the catalogue: of all targets, and of the new ones among unseen items."""
    user, number = protocol.targets.of(places)
    item, new = protocol.targets.item[number], protocol.targets.new[number]
    seen = protocol.history.touched(places)
    statistics = {}
    for kind, targets, excluded in (
        ("full", (user, item), seen if config.filter_seen else NO_PAIRS),
        ("new_items", (user[new], item[new]), seen),
    ):
        found = _ranked(scores, len(places), protocol, targets, excluded, config.cutoffs)
        statistics |= {(kind, metric): _mean(values) for metric, values in found.items()}
    return statistics


def _ranked(
    scores: jax.Array, users: int, protocol: Protocol, targets: Pairs, excluded: Pairs, cutoffs: Sequence[int]
) -> dict[str, np.ndarray]:
    """float64 [b] of each metric, see `ranking_metrics`, over the catalogue without what is excluded."""
    ranking = rank_targets(scores, jnp.asarray(protocol.reachable), targets, excluded, max(cutoffs))
    rank, found = ranks(ranking), {}
    for k in cutoffs:
        found |= ranking_metrics(rank, ranking.user, users, k)
    return found


def intervals(statistics: list[Statistic], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """95 % bootstrap intervals, low [S] and high [S]."""
    drawn_values = resampled(statistics, seed)
    some = np.isfinite(drawn_values).any(axis=0)
    low, high = np.full((2, len(statistics)), np.nan)
    low[some], high[some] = np.nanpercentile(drawn_values[:, some], [2.5, 97.5], axis=0)
    return low, high


def resampled(statistics: list[Statistic], seed: int) -> np.ndarray:
    """[RESAMPLES, S]: each statistic over resampled users, the same users for every statistic; NaN where no
    drawn user has weight."""
    rng = np.random.default_rng(seed)
    totals, weights = (np.stack(part, axis=1) for part in zip(*statistics, strict=True))  # [U, S]
    users = len(totals)
    block = max(1, min(RESAMPLES, (1 << 23) // users))
    values = []
    for start in range(0, RESAMPLES, block):
        size = min(block, RESAMPLES - start)
        drawn = rng.integers(users, size=(size, users)) + np.arange(size)[:, None] * users
        times = np.bincount(drawn.ravel(), minlength=size * users).reshape(size, users).astype(float)
        with np.errstate(invalid="ignore"):
            values.append((times @ totals) / (times @ weights))
    return np.concatenate(values)


def _share(hit: np.ndarray, user: np.ndarray, users: int) -> Statistic:
    """Hits over pairs."""
    return Statistic(np.bincount(user, hit, users), np.bincount(user, minlength=users).astype(float))


def _mean(values: np.ndarray) -> Statistic:
    """The mean over users, those with NaN left out."""
    return Statistic(np.nan_to_num(values), np.isfinite(values).astype(float))


def _by_length(method: str, found: MethodMetrics, protocol: Protocol) -> list[LengthRow]:
    """The paper's Recall@10 in each bucket of history lengths that has users."""
    bucket = np.searchsorted(BUCKETS, protocol.history.length, side="right") - 1
    recall = found.statistics["paper", "recall@10"]
    rows = []
    for k in np.unique(bucket):
        events = f"{BUCKETS[k]}+" if k == len(BUCKETS) - 1 else f"{BUCKETS[k]}-{BUCKETS[k + 1] - 1}"
        inside = bucket == k
        pairs = int(recall.weight[inside].sum())
        rows.append(LengthRow(method, events, recall.value(inside), int(inside.sum()), pairs))
    return rows


def _thinned(curve: np.ndarray, points: int = 200) -> list[list[float]]:
    """[share of items, share of results] at so many points, denser at the start."""
    ranks = np.unique(np.geomspace(1, len(curve), points).round().astype(int))
    return [[0.0, 0.0], *([rank / len(curve), float(curve[rank - 1])] for rank in ranks)]
