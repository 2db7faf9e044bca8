"""Topics of items, for interest entropy: those of the catalogue, or clusters of the item vectors."""

from __future__ import annotations

import warnings

import numpy as np

from pinnerformer_jax.config import EvaluationConfig
from pinnerformer_jax.data.catalog import Catalog


def item_topics(catalog: Catalog, config: EvaluationConfig) -> tuple[np.ndarray, str]:
    """A topic for each item.

    Returns:
        int32 [N], -1 where unknown; and where the topics come from, in words.
    """
    given = catalog.topics
    names = {topic: k for k, topic in enumerate(dict.fromkeys(t for t in given if t is not None))}
    if names:
        known = np.array([-1 if topic is None else names[topic] for topic in given], np.int32)
        return known, f"{len(names)} topics of the catalogue"
    return _clusters(catalog, config)


def _clusters(catalog: Catalog, config: EvaluationConfig) -> tuple[np.ndarray, str]:
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning

    rows = np.flatnonzero(catalog.reachable)
    vectors = catalog.features[rows].astype(np.float32)
    clusters = min(config.topics, len(rows))
    with warnings.catch_warnings():  # fewer distinct vectors than clusters is no fault
        warnings.simplefilter("ignore", ConvergenceWarning)
        labels = MiniBatchKMeans(clusters, n_init=1, random_state=config.seed).fit_predict(vectors)
    topics = np.full(catalog.items, -1, np.int32)
    topics[rows] = labels
    return topics, f"{clusters} k-means clusters of the item vectors"
