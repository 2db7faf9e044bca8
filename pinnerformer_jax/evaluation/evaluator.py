"""The evaluation of a trained model: the data that all models of a folder share, and one model on them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np

from pinnerformer_jax.config import Config
from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.data.timelines import Timelines
from pinnerformer_jax.evaluation.comparison import MODEL, Scorer, evaluate_methods, inner_products
from pinnerformer_jax.evaluation.protocol import Protocol, build_protocol
from pinnerformer_jax.evaluation.results import MethodResults
from pinnerformer_jax.evaluation.staleness import staleness
from pinnerformer_jax.evaluation.topics import item_topics
from pinnerformer_jax.model.inference import Embedder, embed_users


class EvaluationData:
    """A prepared folder with its protocol and topics, which are the same for every model.

    Args:
        config: its sections data, embedding and evaluation are used.
        timelines: of the prepared folder.
        catalog: of the same folder.
    """

    def __init__(self, config: Config, timelines: Timelines, catalog: Catalog) -> None:
        self.config, self.timelines, self.catalog = config, timelines, catalog

    @cached_property
    def protocol(self) -> Protocol:
        """Users, targets and candidates.

        Raises:
            ValueError: there is no user to evaluate.
        """
        return build_protocol(
            self.timelines, self.catalog.reachable, self.config.data.positives, self.config.evaluation
        )

    @cached_property
    def topics(self) -> tuple[np.ndarray, str]:
        """int32 [N], -1 where unknown; and where the topics come from, in words."""
        return item_topics(self.catalog, self.config.evaluation)


class Evaluator:
    """One model on the evaluation data.

    Args:
        data: of the folder that the model was trained on.
        embedder: of the model.
        max_length: T, events of a history that the model reads.
    """

    def __init__(self, data: EvaluationData, embedder: Embedder, max_length: int) -> None:
        self.data, self.embedder, self.max_length = data, embedder, max_length

    @cached_property
    def user_vectors(self) -> np.ndarray:
        """float32 [U, D]: the protocol's users as of t."""
        return self.embed_users(self.data.protocol.users)

    @cached_property
    def item_vectors(self) -> np.ndarray:
        """float32 [N, D]."""
        return self.embedder.items()

    @cached_property
    def scorer(self) -> Scorer:
        """Inner product of a user's and an item's vector."""
        return inner_products(self.user_vectors, self.item_vectors)

    def embed_users(self, users: np.ndarray, counts: np.ndarray | None = None) -> np.ndarray:
        """float32 [U, D]: users, by their numbers in the timelines, int64 [U]; as of t, or after their first
        `counts` events, int64 [U]."""
        batch_size = self.data.config.embedding.batch_size
        return embed_users(self.embedder, self.data.timelines, users, self.max_length, batch_size, counts)

    def metrics(self, baselines: Mapping[str, Scorer] | None = None) -> MethodResults:
        """Metrics of the model, and of other scorers by name."""
        scorers = {MODEL: self.scorer, **(baselines or {})}
        return evaluate_methods(scorers, self.data.protocol, self.data.topics[0], self.data.config.evaluation)

    def staleness(self) -> dict[str, float]:
        """Recall@10 with users embedded "once", "daily" and in "real time" (paper, Table 2)."""
        data = self.data
        found = staleness(
            self.embed_users, self.item_vectors, data.timelines, data.protocol,
            data.config.data.positives, data.config.evaluation,
        )  # fmt: skip
        return {name: outcome.recall.value() for name, outcome in found.items()}
