"""Does the user vector help a ranker? The paper's online experiment, offline: predict the positive engagement
of impressions in the days after t, with and without a user vector among the features.

The ranker is gradient-boosted trees (scikit-learn): counts, rates, ages and missing values go in as they
are. A vector goes in as ONE number, its cosine with the item's: neither trees nor a linear model can form a
product of two vectors from a few thousand rows of their coordinates, and a product is what retrieval
vectors are trained for. All else of the ranker is the same for every vector.

Features use the log up to t, and the impression's own surface and time. The impressions
of the first half of the window train the ranker, those of the second half test it.

Dimensions: n impressions, U users, N items, D numbers of a vector.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from pinnerformer_jax.config import DataConfig
from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.data.positives import positive_sql
from pinnerformer_jax.data.timelines import Timelines
from pinnerformer_jax.ingestion import event_mapping, rejects
from pinnerformer_jax.ingestion.ingest import set_up_engine
from pinnerformer_jax.ingestion.log_reader import open_log, restrict

NO_VECTOR = "no_vector"
METRICS = ("auc", "log_loss", "normalised_entropy")
RESAMPLES = 200
PRIOR = 20.0
"""With so many impressions a user's or item's own rate weighs as much as the overall rate."""
FEATURES = ("item_shown", "item_rate", "item_age", "user_shown", "user_rate", "user_idle", "surface")


@dataclass(frozen=True)
class Impressions:
    """What evaluation users were shown in the window after t, by user and time."""

    user: np.ndarray  # int64 [n] number in the timelines
    item: np.ndarray  # int32 [n] row of the catalogue; has a vector
    time: np.ndarray  # int64 [n] seconds since 1970
    positive: np.ndarray  # bool [n]
    features: np.ndarray  # float32 [n, FEATURES]; NaN where nothing is known
    unreachable: int  # impressions left out, as the item is not in the catalogue or has no vector


def read_impressions(
    data: DataConfig, timelines: Timelines, catalog: Catalog, users: np.ndarray
) -> Impressions:
    """Read the impressions from the log. They are not in the timelines: `data.sequence_actions` keeps
    engagements alone.

    Args:
        data: the log, its columns, and the rules of positives.
        timelines: a prepared folder of that log.
        catalog: its items.
        users: int64 [U] numbers of the users wanted.

    Raises:
        FileNotFoundError: the log does not exist.
        ValueError: it cannot be read, or has no impression of these users in the window.
    """
    import duckdb
    import pyarrow as pa

    manifest = timelines.manifest
    wanted_users = pa.table({"user_id": timelines.user_ids(users), "number": users})
    known_items = pa.table(
        {
            "item_id": catalog.item_ids,
            "row": np.arange(catalog.items, dtype=np.int32),
            "reachable": catalog.reachable,
        }
    )
    with tempfile.TemporaryDirectory() as folder, duckdb.connect(Path(folder) / "log.duckdb") as connection:
        set_up_engine(connection, data.memory_limit, Path(folder))
        files = open_log(connection, "log", "data.events", data.events, Path(folder) / "events", data.csv)
        restrict(connection, files, [Path(folder)])
        event_mapping.stage(connection, "log", data, None)
        rejects.mark_duplicates(connection)
        connection.register("wanted_users", wanted_users)
        connection.register("known_items", known_items)
        query = _QUERY.format(
            positive=positive_sql(data.positives),
            t=manifest.split_time,
            end=manifest.evaluation_end,
            prior=PRIOR,
        )
        found = connection.execute(query).fetchnumpy()
    if not len(found["number"]):
        raise ValueError(
            f"{' '.join(data.events)}: no impression of the {len(users)} users in the days after t"
        )
    columns = [np.ma.filled(found[name].astype(np.float32), np.nan) for name in FEATURES]
    within_reach = np.ma.filled(found["reachable"], False).astype(bool)
    return Impressions(
        user=np.asarray(found["number"])[within_reach],
        item=np.ma.getdata(found["row"])[within_reach].astype(np.int32),
        time=np.asarray(found["time"])[within_reach],
        positive=np.asarray(found["positive"])[within_reach],
        features=np.stack(columns, axis=1)[within_reach],
        unreachable=int((~within_reach).sum()),
    )


_QUERY = """
    WITH shown AS (
        SELECT user_id, item_id, micros // 1000000 AS time, surface, {positive} AS positive
        FROM staged WHERE in_scope AND reason IS NULL
    ), past AS (FROM shown WHERE time <= {t}
    ), everyone AS (SELECT count_if(positive) / count(*) AS rate FROM past
    ), items AS (
        SELECT item_id, count(*) AS item_shown, count_if(positive) AS item_liked, min(time) AS first
        FROM past GROUP BY item_id
    ), users AS (
        SELECT user_id, count(*) AS user_shown, count_if(positive) AS user_liked, max(time) AS last
        FROM past GROUP BY user_id
    ), surfaces AS (
        SELECT surface, row_number() OVER (ORDER BY count(*) DESC, surface) - 1 AS place
        FROM past GROUP BY surface
    )
    SELECT number, row, reachable, time, positive, item_shown,
        (coalesce(item_liked, 0) + {prior} * rate) / (coalesce(item_shown, 0) + {prior}) AS item_rate,
        (time - first) / 86400 AS item_age, user_shown,
        (coalesce(user_liked, 0) + {prior} * rate) / (coalesce(user_shown, 0) + {prior}) AS user_rate,
        ({t} - last) / 86400 AS user_idle, CASE WHEN place < 250 THEN place END AS surface
    FROM shown JOIN wanted_users USING (user_id) LEFT JOIN known_items USING (item_id)
        LEFT JOIN items USING (item_id) LEFT JOIN users USING (user_id)
        LEFT JOIN surfaces USING (surface), everyone
    WHERE time > {t} AND time <= {end}
    ORDER BY number, time, row, positive, surface"""


def cosines(
    impressions: Impressions,
    users: np.ndarray,
    vectors: Float[np.ndarray, "U D"],
    items: Float[np.ndarray, "N D"],
) -> Float[np.ndarray, " n"]:
    """How near each impression's user is to its item.

    Args:
        impressions: of these users.
        users: int64 [U], numbers, ascending.
        vectors: of the users.
        items: of the catalogue.
    """
    user = np.asarray(vectors, np.float32)[np.searchsorted(users, impressions.user)]
    item = np.asarray(items, np.float32)[impressions.item]
    norms = np.linalg.norm(user, axis=1) * np.linalg.norm(item, axis=1)
    return np.einsum("nd,nd->n", user, item) / np.maximum(norms, 1e-9)


def ranker_metrics(
    impressions: Impressions, matches: Mapping[str, np.ndarray], middle: int, seed: int
) -> dict[str, dict[str, float]]:
    """Train and test the ranker without a vector, and with each.

    Args:
        impressions: of the window.
        matches: `cosines` by method.
        middle: the second, since 1970, up to which impressions train.
        seed: of the ranker and of the bootstrap.

    Returns:
        By method, `NO_VECTOR` first: `METRICS`, and "gained", the share of the normalised entropy that is
        saved over no vector; each also with `_low` and `_high`, a 95 % bootstrap interval over users, the
        same resampled users for every method.

    Raises:
        ValueError: one of the halves has only positives, or none.
    """
    train = impressions.time <= middle
    for half, name in ((train, "first"), (~train, "second")):
        if len(np.unique(impressions.positive[half])) < 2:
            raise ValueError(
                f"the {name} half of the window has {half.sum()} impressions, all of one kind: a ranker "
                "needs positives and others (is every event of the log a positive by data.positives?)"
            )
    predicted = {
        name: fit_and_predict(impressions, match, train, seed)
        for name, match in {NO_VECTOR: None, **matches}.items()
    }
    positive, weights = impressions.positive[~train], _resamples(impressions, ~train, seed)
    values = {
        name: np.array([metrics(positive, chance, weight) for weight in weights])  # [1 + RESAMPLES, METRICS]
        for name, chance in predicted.items()
    }
    return {name: _summary(found, values[NO_VECTOR]) for name, found in values.items()}


def fit_and_predict(
    impressions: Impressions, match: np.ndarray | None, train: Bool[np.ndarray, " n"], seed: int
) -> Float[np.ndarray, " m"]:
    """The chance of each of the other impressions to be positive.

    Args:
        impressions: of the window.
        match: `cosines`; None: no vector.
        train: which impressions train.
        seed: of the ranker.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    known = impressions.features
    if match is not None:
        known = np.column_stack([known, match])
    trees = HistGradientBoostingClassifier(
        max_iter=100, learning_rate=0.05, max_leaf_nodes=15, l2_regularization=1.0, early_stopping=False,
        categorical_features=[FEATURES.index("surface")], random_state=seed,
    )  # fmt: skip
    with threadpool_limits(1):  # its threads spin where cores are shared, and there is little to do
        trees.fit(known[train], impressions.positive[train])
        return trees.predict_proba(known[~train])[:, 1]


def metrics(
    positive: Bool[np.ndarray, " m"], chance: Float[np.ndarray, " m"], weight: Float[np.ndarray, " m"]
) -> tuple[float, float, float]:
    """AUC, log loss in nats, and normalised entropy: the log loss over that of always saying the share of
    positives (He et al., 2014), so that 1 is knowing nothing."""
    from sklearn.metrics import log_loss, roc_auc_score

    share = np.average(positive, weights=weight)
    loss = log_loss(positive, chance, sample_weight=weight)
    entropy = -(share * np.log(share) + (1 - share) * np.log(1 - share))
    return roc_auc_score(positive, chance, sample_weight=weight), loss, loss / entropy


def _resamples(impressions: Impressions, test: np.ndarray, seed: int) -> list[np.ndarray]:
    """Weights of the tested impressions: all once, then by users drawn with replacement. A draw without
    both kinds of impressions is drawn again."""
    rng = np.random.default_rng(seed)
    users, user = np.unique(impressions.user[test], return_inverse=True)
    positive, weights = impressions.positive[test], [np.ones(len(user))]
    while len(weights) <= RESAMPLES:
        times = np.bincount(rng.integers(len(users), size=len(users)), minlength=len(users))
        weight = times[user].astype(float)
        if 0 < weight @ positive < weight.sum():
            weights.append(weight)
    return weights


def _summary(found: np.ndarray, without: np.ndarray) -> dict[str, float]:
    """The metrics and the entropy saved over no vector, with intervals.

    Args:
        found: [1 + RESAMPLES, METRICS] of a method.
        without: the same of the ranker without a vector.
    """
    gained = 1 - found[:, 2] / without[:, 2]
    summary = {}
    for name, values in zip((*METRICS, "gained"), (*found.T, gained), strict=True):
        low, high = np.percentile(values[1:], [2.5, 97.5])
        summary |= {name: float(values[0]), f"{name}_low": float(low), f"{name}_high": float(high)}
    return summary
