"""The evaluation of a trained model: the data that all models of a folder share, and one model on them.

Dimensions: U evaluated users, N items, D numbers of an embedding.
"""

from __future__ import annotations

import contextlib
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property

import numpy as np

from pinnerformer_jax.config import Config
from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.data.contracts import DAY
from pinnerformer_jax.data.timelines import EVALUATION, VALIDATION, Timelines
from pinnerformer_jax.evaluation.comparison import (
    MODEL,
    Scorer,
    evaluate_methods,
    inner_products,
    unseen_alone,
)
from pinnerformer_jax.evaluation.counts import own_counts, popularity_counts
from pinnerformer_jax.evaluation.protocol import Protocol, build_protocol
from pinnerformer_jax.evaluation.results import MethodResults
from pinnerformer_jax.evaluation.staleness import staleness
from pinnerformer_jax.evaluation.topics import item_topics
from pinnerformer_jax.model.inference import Embedder, embed_users
from pinnerformer_jax.retrieval.priors import Priors, kept_events

EARLIER_SPLITS, EARLIER_USERS = 6, 500
"""Splits before t, and users of each, at most."""


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

    @property
    def window_days(self) -> float:
        """Length of the evaluation window, and of those of the earlier splits."""
        return (self.timelines.manifest.evaluation_end - self.timelines.manifest.split_time) / DAY

    @cached_property
    def earlier(self) -> list[EvaluationData]:
        """The validation users at splits before t, an evaluation window apart: at t less one window, less
        two, and so on. Choices are made there: nothing after t is read, and no evaluation user.

        Only items that occur up to the end of a split's window compete there. Otherwise popularity would seem
        to help, as it leaves out what does not exist yet."""
        manifest = self.timelines.manifest
        window = manifest.evaluation_end - manifest.split_time
        first = min((int(shard.time.min()) for shard in self.timelines.shards if len(shard.time)), default=0)
        most = dataclasses.replace(self.config.evaluation, max_users=EARLIER_USERS)
        config = dataclasses.replace(self.config, evaluation=most)
        found = []
        for split in range(manifest.split_time - window, first, -window)[:EARLIER_SPLITS]:
            timelines = self.timelines.at_earlier_split(split, VALIDATION)
            there = self.catalog.reachable & (self._first_events <= split + window)
            data = EvaluationData(config, timelines, dataclasses.replace(self.catalog, reachable=there))
            with contextlib.suppress(ValueError):  # no validation user has a history and a target there
                _ = data.protocol
                found.append(data)
        return found

    @cached_property
    def _first_events(self) -> np.ndarray:
        """int64 [N]: when each item first occurs, up to t and among users that are not evaluated; the largest
        number for one that does not."""
        first = np.full(self.catalog.items, np.iinfo(np.int64).max)
        for shard in self.timelines.shards:
            seen = np.repeat(shard.role != EVALUATION, np.diff(shard.offsets))
            seen &= np.asarray(shard.time) <= self.timelines.manifest.split_time
            np.minimum.at(first, shard.item[seen], shard.time[seen])
        return first

    @cached_property
    def topics(self) -> tuple[np.ndarray, str]:
        """int32 [N], -1 where unknown; and where the topics come from, in words."""
        return item_topics(self.catalog, self.config.evaluation)


class InnerProduct(ABC):
    """What scores by the inner product of a user's and an item's vector, and serves that with priors.

    Args:
        data: of the prepared folder.
        max_length: T, events of a history that the model reads; decides how many the priors count.
    """

    def __init__(self, data: EvaluationData, max_length: int) -> None:
        self.data, self.max_length = data, max_length

    @property
    @abstractmethod
    def user_vectors(self) -> np.ndarray:
        """float32 [U, D]: the protocol's users as of t."""

    @property
    @abstractmethod
    def item_vectors(self) -> np.ndarray:
        """float32 [N, D]."""

    @abstractmethod
    def on(self, data: EvaluationData) -> InnerProduct:
        """The same on other data of the same catalogue, whose items have the same vectors."""

    @cached_property
    def scorer(self) -> Scorer:
        """Inner product of a user's and an item's vector."""
        return inner_products(self.user_vectors, self.item_vectors)

    def served(self, priors: Priors) -> Scorer:
        """The score that is served: the inner product and the priors; -inf for what they hide."""
        data, items = self.data, len(self.item_vectors)
        if priors.none:
            return self.scorer
        rules, kept = data.config.data.positives, kept_events(self.max_length)
        (popularity,) = popularity_counts(
            data.timelines, rules, items, [priors.popularity_half_life_days], kept
        )
        protocol = data.protocol
        history = protocol.history.newest(kept)
        (own,) = own_counts(history, items, protocol.split_time, [priors.own_half_life_days])

        def score(places: np.ndarray) -> np.ndarray:
            added = priors.add(own[places].toarray(), popularity)
            return np.asarray(self.scorer(places)) + added.astype(np.float32)

        return unseen_alone(score, history) if priors.hide_seen else score


class Evaluator(InnerProduct):
    """One model on the evaluation data.

    Args:
        data: of the folder that the model was trained on.
        embedder: of the model.
        max_length: T, events of a history that the model reads.
    """

    def __init__(self, data: EvaluationData, embedder: Embedder, max_length: int) -> None:
        super().__init__(data, max_length)
        self.embedder = embedder

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
        return inner_products(self.user_vectors, self.item_vectors, self.embedder.mesh)

    def on(self, data: EvaluationData) -> Evaluator:
        """The same model on other data of the same catalogue, whose items are not embedded again."""
        other = Evaluator(data, self.embedder, self.max_length)
        vars(other)["item_vectors"] = self.item_vectors
        return other

    def embed_users(self, users: np.ndarray, counts: np.ndarray | None = None) -> np.ndarray:
        """float32 [U, D]: users, by their numbers in the timelines, int64 [U]; as of t, or after their first
        `counts` events, int64 [U]."""
        batch_size = self.data.config.embedding.batch_size
        return embed_users(self.embedder, self.data.timelines, users, self.max_length, batch_size, counts)

    def metrics(self, others: Mapping[str, Scorer] | None = None) -> MethodResults:
        """Metrics of the model, and of other scorers by name."""
        scorers = {MODEL: self.scorer, **(others or {})}
        return evaluate_methods(scorers, self.data.protocol, self.data.topics[0], self.data.config.evaluation)

    def staleness(self) -> dict[str, float]:
        """Recall@10 with users embedded "once", "daily" and in "real time" (paper, Table 2)."""
        data = self.data
        found = staleness(
            self.embed_users, self.item_vectors, data.timelines, data.protocol,
            data.config.data.positives, data.config.evaluation,
        )  # fmt: skip
        return {name: outcome.recall.value() for name, outcome in found.items()}
