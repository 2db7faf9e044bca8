"""All measurements of a trained model, as numbers by method and metric, for studies of many models.

What does not depend on the model (protocol, topics, impressions, PinnerSage's clusters) is computed once.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from pathlib import Path

import numpy as np

from pinnerformer_jax.config import Config
from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.data.positives import positive_table
from pinnerformer_jax.data.timelines import Timelines
from pinnerformer_jax.evaluation.comparison import MODEL, evaluate_methods
from pinnerformer_jax.evaluation.evaluator import EvaluationData, Evaluator
from pinnerformer_jax.evaluation.pinnersage import (
    cluster_users,
    mean_vectors,
    nearest_cluster,
    oracle_recall,
)
from pinnerformer_jax.evaluation.protocol import with_history
from pinnerformer_jax.model.inference import Embedder
from pinnerformer_jax.studies.ranker import Impressions, cosines, ranker_metrics, read_impressions
from pinnerformer_jax.training.checkpoint import load_for_inference
from pinnerformer_jax.training.item_table import split_over_own

ORACLE_CLUSTERS = (1, 5, 20)

Numbers = dict[str, dict[str, float]]
"""By method and metric. The model's metrics are named as in results.json, those of other protocols than the
paper's with the protocol before them ("new_items recall@10")."""


class StudyData(EvaluationData):
    """The evaluation data of a study, with PinnerSage's numbers and the ranker's impressions."""

    @classmethod
    def open(cls, config: Config) -> StudyData:
        """Open the prepared folder of a config.

        Raises:
            FileNotFoundError: there is none.
        """
        timelines = Timelines.open(config.data.prepared)
        return cls(config, timelines, Catalog.of(timelines))

    @cached_property
    def pinnersage(self) -> Numbers:
        """PinnerSage as `pinnersage_1`, `_5`, `_20`: the oracle's recall; entropy and coverage of retrieval
        by all of the clusters."""
        features, protocol = self.catalog.features, self.protocol
        clusters = cluster_users(protocol, features)
        recall = oracle_recall(clusters, features, protocol, ORACLE_CLUSTERS)
        scorers = {f"pinnersage_{c}": nearest_cluster(clusters, features, c) for c in ORACLE_CLUSTERS}
        methods = evaluate_methods(scorers, protocol, self.topics[0], self.config.evaluation)
        found: Numbers = {
            f"pinnersage_{c}": {"recall@10": statistic.value()} for c, statistic in recall.items()
        }
        for row in methods.rows:
            if row.protocol == "paper" and row.metric != "recall@10":
                found[row.method][row.metric] = row.value
        return found

    @cached_property
    def impressions(self) -> tuple[np.ndarray, Impressions, dict[str, np.ndarray]]:
        """For the ranker: the users, with or without targets, int64 [U]; the impressions of these users after
        t; and the cosines of PinnerSage's weighted mean with the items, by the method's name."""
        manifest, data = self.timelines.manifest, self.config.data
        table = positive_table(data.positives, manifest.actions, manifest.surfaces)
        protocol = with_history(self.timelines, self.protocol, table)
        impressions = read_impressions(data, self.timelines, self.catalog, protocol.users)
        features = np.asarray(self.catalog.features, np.float32)
        means = mean_vectors(cluster_users(protocol, features), features)
        match = cosines(impressions, protocol.users, means, features)
        return protocol.users, impressions, {"pinnersage_mean": match}


def measure_run(data: StudyData, workdir: Path, parts: Collection[str]) -> Numbers:
    """Measure the best checkpoint of a run.

    Args:
        data: that the run was trained on.
        workdir: of the run.
        parts: which of "retrieval", "staleness", "pinnersage" and "ranker".

    Raises:
        FileNotFoundError: there is no checkpoint, or (ranker) no log.
        ValueError: the checkpoint or the log cannot be read.
    """
    config, graphdef, params = load_for_inference(workdir)
    features = data.catalog.features
    embedder = Embedder(graphdef, params, features, split_over_own(features, config.training))
    model = Evaluator(data, embedder, config.model.max_length)
    found: Numbers = {MODEL: {}}
    if "retrieval" in parts:
        found[MODEL] |= {_metric(row.protocol, row.metric): row.value for row in model.metrics().rows}
    if "staleness" in parts:
        recall = model.staleness()
        found[MODEL] |= {f"recall@10 {name}": value for name, value in recall.items()}
        if recall["real time"]:
            found[MODEL]["lost daily"] = 1 - recall["daily"] / recall["real time"]
    if "pinnersage" in parts:
        found |= data.pinnersage
    if "ranker" in parts:
        users, impressions, matches = data.impressions
        own = cosines(impressions, users, model.embed_users(users), model.item_vectors)
        middle = (data.protocol.split_time + data.protocol.window_end) // 2
        metrics = ranker_metrics(impressions, {**matches, MODEL: own}, middle, data.config.evaluation.seed)
        for name, numbers in metrics.items():
            found[name] = found.get(name, {}) | numbers
    return found


def _metric(protocol: str, metric: str) -> str:
    return metric if protocol in ("paper", "by_action") else f"{protocol} {metric}"
