"""The method "vectors": the inner product of vectors that hold the priors (`retrieval.prior_vectors`).

The weight of the own counts is chosen on validation users at splits before t, as the other priors are.
Popularity and what is hidden are those of the served score. The directions of the own counts are those of
training users up to the split: later ones would tell what is bought together after it.

Dimensions: U evaluated users, N items, K numbers of the own counts.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pinnerformer_jax.data.positives import positive_table
from pinnerformer_jax.evaluation.comparison import (
    CHOICE_K,
    Scorer,
    inner_products,
    of_full_catalogue,
    unseen_alone,
)
from pinnerformer_jax.evaluation.counts import own_counts, popularity_counts, training_histories
from pinnerformer_jax.evaluation.evaluator import InnerProduct
from pinnerformer_jax.evaluation.protocol import History
from pinnerformer_jax.retrieval.prior_vectors import (
    items_with_priors,
    own_basis,
    users_with_priors,
)
from pinnerformer_jax.retrieval.priors import Priors, kept_events

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

OWN_HALF_LIFE_DAYS = 90.0
"""Of the own counts in vectors, where they have no weight in the served score."""
MOST_ITEMS = 1 << 20
"""Of a larger catalogue the directions would take gigabytes, several times over."""
OWN_WEIGHTS = (0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)


class Counts(NamedTuple):
    """What the vectors of one split hold beside the model's."""

    own: csr_matrix  # float32 [U, N], log(1 + decayed count) of the evaluated users
    basis: np.ndarray  # float32 [N, K], see `own_basis`
    popularity: np.ndarray  # float64 [N], decayed counts


def counts_at(model: InnerProduct, priors: Priors) -> Counts:
    """The counts of the model's split.

    Args:
        model: whose users are counted.
        priors: their half-lives and `vectors_own_dim` are read.
    """
    from scipy.sparse import vstack

    data, kept = model.data, kept_events(model.max_length)
    protocol, rules, manifest = data.protocol, data.config.data.positives, data.timelines.manifest
    items = len(protocol.reachable)

    def logs(history: History) -> csr_matrix:
        (own,) = own_counts(history.newest(kept), items, protocol.split_time, [priors.own_half_life_days])
        own.data = np.log1p(own.data)
        return own

    table = positive_table(rules, manifest.actions, manifest.surfaces)
    training = vstack([logs(history) for history in training_histories(data.timelines, table)], format="csr")
    half_lives = [priors.popularity_half_life_days]
    (popularity,) = popularity_counts(data.timelines, rules, items, half_lives, kept)
    return Counts(logs(protocol.history), own_basis(training, priors.vectors_own_dim), popularity)


def by_vectors(model: InnerProduct, priors: Priors, counts: Counts | None = None) -> Scorer:
    """Score by vectors that hold the priors; -inf for what the priors hide.

    Args:
        model: whose vectors begin them.
        priors: of the model.
        counts: of the model's split; None: they are counted.
    """
    own, basis, popularity = counts or counts_at(model, priors)
    users = users_with_priors(model.user_vectors, own, basis, priors)
    scorer = inner_products(users, items_with_priors(model.item_vectors, basis, popularity, priors))
    return unseen_alone(scorer, model.data.protocol.history) if priors.hide_seen else scorer


def fit_own_weight(model: InnerProduct, priors: Priors, dim: int) -> Priors:
    """The priors with a weight of the own counts in vectors: that with the highest NDCG of validation users
    over all items and over those that the user did not have. Zero, if that is as good.

    Args:
        model: on the evaluation data of the prepared folder; only its validation users are read.
        priors: fitted for the served score.
        dim: K; 0, or more than `MOST_ITEMS` items: no weight.
    """
    if dim and (items := model.data.catalog.items) > MOST_ITEMS:
        print(f"vectors: no own counts, as {items:,} items are more than {MOST_ITEMS:,}", file=sys.stderr)
        dim = 0
    gains = np.zeros(len(OWN_WEIGHTS))
    if priors.own_weight == 0:
        priors = dataclasses.replace(priors, own_half_life_days=OWN_HALF_LIFE_DAYS)
    trial = dataclasses.replace(priors, vectors_own_dim=dim, hide_seen=False)
    for data in model.data.earlier if dim else ():
        there, settings = model.on(data), data.config.evaluation
        counts = counts_at(there, trial)
        for number, weight in enumerate(OWN_WEIGHTS):
            scorer = by_vectors(there, dataclasses.replace(trial, vectors_own_weight=weight), counts)
            kept, hidden = of_full_catalogue(scorer, data.protocol, settings, "ndcg", CHOICE_K)
            gains[number] += hidden.sum() + (hidden if priors.hide_seen else kept).sum()
    weight = OWN_WEIGHTS[int(gains.argmax())]
    return dataclasses.replace(priors, vectors_own_weight=weight, vectors_own_dim=dim if weight else 0)
