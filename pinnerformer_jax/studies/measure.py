"""Every measurement of one trained model, as numbers by method and metric, for studies of many models.

What does not depend on the model (protocol, topics, impressions, PinnerSage's clusters) is made once.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from pathlib import Path

import numpy as np

from pinnerformer_jax.config import Config
from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.data.contracts import positive_table
from pinnerformer_jax.data.timelines import Timelines
from pinnerformer_jax.evaluation.comparison import MODEL, evaluate_methods, inner_products
from pinnerformer_jax.evaluation.embedding import embed_users
from pinnerformer_jax.evaluation.pinnersage import (
    cluster_users,
    mean_vectors,
    nearest_cluster,
    oracle_recall,
)
from pinnerformer_jax.evaluation.protocol import Protocol, build_protocol, with_history
from pinnerformer_jax.evaluation.staleness import staleness
from pinnerformer_jax.evaluation.topics import item_topics
from pinnerformer_jax.model.inference import Embedder
from pinnerformer_jax.studies.ranker import Impressions, cosines, rank, read_impressions
from pinnerformer_jax.training.checkpoint import load_for_inference

ORACLE_CLUSTERS = (1, 5, 20)

Numbers = dict[str, dict[str, float]]
"""By method and metric. The model's metrics are named as in results.json, those of other protocols than the
paper's with the protocol before them ("new_items recall@10")."""


class Ground:
    """The data of a study and all that is measured against, the same for every model.

    Args:
        config: its data and evaluation sections.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.timelines = Timelines.open(config.data.prepared)
        self.catalog = Catalog.open(config.data.prepared)

    @cached_property
    def protocol(self) -> Protocol:
        """Who is evaluated on what."""
        return build_protocol(
            self.timelines, self.catalog.reachable, self.config.data.positives, self.config.evaluation
        )

    @cached_property
    def topics(self) -> np.ndarray:
        """int32 [N]."""
        return item_topics(self.catalog, self.config.evaluation)[0]

    @cached_property
    def pinnersage(self) -> Numbers:
        """PinnerSage as `pinnersage_1`, `_5`, `_20`: the oracle's recall; entropy and coverage of retrieval
        by all of the clusters."""
        features, protocol = self.catalog.features, self.protocol
        clusters = cluster_users(protocol, features)
        recall = oracle_recall(clusters, features, protocol, ORACLE_CLUSTERS)
        scorers = {f"pinnersage_{c}": nearest_cluster(clusters, features, c) for c in ORACLE_CLUSTERS}
        rows = evaluate_methods(scorers, protocol, self.topics, self.config.evaluation)["rows"]
        found: Numbers = {
            f"pinnersage_{c}": {"recall@10": statistic.value()} for c, statistic in recall.items()
        }
        for row in rows:
            if row["protocol"] == "paper" and row["metric"] != "recall@10":
                found[row["method"]][row["metric"]] = row["value"]
        return found

    @cached_property
    def shown(self) -> tuple[np.ndarray, Impressions, dict[str, np.ndarray]]:
        """Of the ranker: the users, whether they have targets or not, int64 [U]; what they were shown after
        t; and the cosines of PinnerSage's weighted mean."""
        manifest, data = self.timelines.manifest, self.config.data
        table = positive_table(data.positives, manifest.actions, manifest.surfaces)
        protocol = with_history(self.timelines, self.protocol, table)
        impressions = read_impressions(data, self.timelines, self.catalog, protocol.users)
        features = np.asarray(self.catalog.features, np.float32)
        means = mean_vectors(cluster_users(protocol, features), features)
        match = cosines(impressions, protocol.users, means, features)
        return protocol.users, impressions, {"pinnersage_mean": match}


def measure(ground: Ground, workdir: Path, parts: Collection[str]) -> Numbers:
    """Measure the best checkpoint of a run.

    Args:
        ground: of the data it was trained on.
        workdir: of the run.
        parts: which of "retrieval", "staleness", "pinnersage" and "ranker".

    Raises:
        FileNotFoundError: no checkpoint, or the log is gone (ranker).
        ValueError: the checkpoint or the log cannot be read.
    """
    config, graphdef, params = load_for_inference(workdir)
    settings, protocol, timelines = ground.config.evaluation, ground.protocol, ground.timelines
    embedder = Embedder(graphdef, params, ground.catalog.features)
    items, length = embedder.items(), config.model.max_length
    batch_size = ground.config.embedding.batch_size
    found: Numbers = {MODEL: {}}
    if "retrieval" in parts:
        users = embed_users(embedder, timelines, protocol.users, length, batch_size)
        results = evaluate_methods({MODEL: inner_products(users, items)}, protocol, ground.topics, settings)
        found[MODEL] |= {_metric(row["protocol"], row["metric"]): row["value"] for row in results["rows"]}
    if "staleness" in parts:
        recalls = staleness(
            embedder.users, items, timelines, protocol, config.data.positives, settings, length
        )
        recall = {name: outcome.recall.value() for name, outcome in recalls.items()}
        found[MODEL] |= {f"recall@10 {name}": value for name, value in recall.items()}
        if recall["real time"]:
            found[MODEL]["lost daily"] = 1 - recall["daily"] / recall["real time"]
    if "pinnersage" in parts:
        found |= ground.pinnersage
    if "ranker" in parts:
        everyone, impressions, matches = ground.shown
        vectors = embed_users(embedder, timelines, everyone, length, batch_size)
        matches = {**matches, MODEL: cosines(impressions, everyone, vectors, items)}
        middle = (protocol.split_time + protocol.window_end) // 2
        for name, numbers in rank(impressions, matches, middle, settings.seed).items():
            found[name] = found.get(name, {}) | numbers
    return found


def _metric(protocol: str, metric: str) -> str:
    return metric if protocol in ("paper", "by_action") else f"{protocol} {metric}"
