"""The methods that make item vectors, all from the same training events and content."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32
from sklearn.preprocessing import normalize

from pinnerformer_jax.config import Config
from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.data.timelines import Timelines
from pinnerformer_jax.ingestion import item_vectors
from pinnerformer_jax.ingestion.item_vectors import Built
from pinnerformer_jax.items.content import (
    content_features,
    item_numbers,
    item_texts,
    scale_of,
    standardise,
)
from pinnerformer_jax.items.engagement import Engagement, co_engaged, sessions, training_engagement
from pinnerformer_jax.items.fit import embed_all, fit
from pinnerformer_jax.items.graph import Graph, build_graph
from pinnerformer_jax.items.pinsage import ItemGraph
from pinnerformer_jax.items.trained import Trained
from pinnerformer_jax.items.walks import Neighbours, find_neighbours, kept_neighbours
from pinnerformer_jax.items.whitening import fit_whitening, whiten

Method = Literal["pinsage", "pinsage_svd", "svd", "text"]


class Sources(NamedTuple):
    """The inputs of every method."""

    config: Config
    catalog: Catalog
    events: Engagement  # of the training users up to t
    graph: Graph  # of these events


def open_sources(config: Config, timelines: Timelines) -> Sources:
    """Read the training events of a prepared folder."""
    catalog = Catalog.of(timelines)
    events = training_engagement(timelines, config.data.positives)
    return Sources(config, catalog, events, build_graph(events.user, events.item, catalog.items))


def make_vectors(
    method: Method, sources: Sources, report: Callable[[str], None] = print, walks: Path | None = None
) -> tuple[Float32[np.ndarray, "n d"], Trained | Built | None]:
    """Vectors of all items, unit rows; zero where the method knows nothing of the item.

    Args:
        method: its name.
        sources: of the items.
        report: called with lines about the progress.
        walks: see `pinsage`.

    Returns:
        The vectors, and what can give more of them: pinsage has a model, svd the map from text.
    """
    if method == "pinsage":
        return pinsage(sources, report, walks=walks)
    if method == "pinsage_svd":
        return pinsage_svd(sources, report, walks), None
    return svd(sources) if method == "svd" else (text(sources), None)


def text(sources: Sources) -> Float32[np.ndarray, "n d"]:
    """TF-IDF and SVD of the texts alone."""
    texts, dim = item_texts(sources.config, sources.catalog), sources.config.items.built_dim
    return item_vectors.text_vectors(texts, sources.graph.connected, dim, sources.config.pinsage.seed)


def svd(sources: Sources) -> tuple[Float32[np.ndarray, "n d"], Built]:
    """Co-occurrence and text, as ingest builds them where no vectors are given."""
    texts = item_texts(sources.config, sources.catalog)
    built = item_vectors.build(
        sources.events.user,
        sources.events.item,
        sources.graph.items,
        texts if any(texts) else None,
        sources.config.items.built_dim,
        sources.config.pinsage.seed,
    )
    return built.vectors.astype(np.float32), built


def pinsage_svd(
    sources: Sources, report: Callable[[str], None] = print, walks: Path | None = None
) -> Float32[np.ndarray, "n d"]:
    """Half of the numbers PinSage's, half of co-occurrence; for `report` and `walks` see `pinsage`. Our
    choice: the mean over neighbours loses differences between similar items, and co-occurrence keeps them."""
    config, (user, item, *_) = sources.config, sources.events
    dim, whitening = config.items.built_dim, config.pinsage.whitening
    items = dataclasses.replace(config.items, built_dim=dim - dim // 2)
    plain = dataclasses.replace(config.pinsage, whitening=0.0)  # both halves are whitened together
    halved = sources._replace(config=dataclasses.replace(config, items=items, pinsage=plain))
    halves = (
        pinsage(halved, report, walks=walks)[0],
        item_vectors.co_occurrence_vectors(user, item, sources.graph.items, dim // 2, config.pinsage.seed),
    )
    vectors = normalize(np.hstack(halves), copy=False)
    return (
        whiten(vectors, fit_whitening(vectors[sources.graph.connected], whitening)) if whitening else vectors
    )


def pinsage(
    sources: Sources,
    report: Callable[[str], None] = print,
    trained: Trained | None = None,
    walks: Path | None = None,
) -> tuple[Float32[np.ndarray, "n d"], Trained]:
    """Walks, training, and the vectors of the whole catalogue.

    Args:
        sources: of the items.
        report: called with lines about the progress.
        trained: an earlier model, which then gives the vectors; None: one is trained.
        walks: a file that keeps the neighbours, so that a stopped run need not walk again.

    Returns:
        The vectors, and the model.

    Raises:
        ValueError: the items have no content, or other content than the earlier model reads.
    """
    config, connected, dim = sources.config.pinsage, sources.graph.connected, sources.config.items.built_dim
    texts = item_texts(sources.config, sources.catalog)
    numbers = item_numbers(sources.config, sources.catalog)
    if trained and len(trained.scale.mean) != numbers.shape[1]:
        raise ValueError(
            f"pinsage.numbers = {config.numbers}: the model was trained on {len(trained.scale.mean)} of them"
        )
    if trained:
        basis, scale = trained.basis, trained.scale
    else:
        basis = item_vectors.text_basis(texts, connected, dim, config.seed) if any(texts) else None
        scale = scale_of(numbers, connected)
    features = content_features(sources.config, sources.catalog, texts, basis, standardise(numbers, scale))
    if trained and features.shape[1] != trained.model.inner.message.in_features:
        raise ValueError(
            f"the items have {features.shape[1]} numbers of content, the model reads "
            f"{trained.model.inner.message.in_features}: were vectors given when it was trained?"
        )
    ranks = config.neighbours + (config.hard_ranks if config.loss == "max_margin" else 0)
    walked, graph = dataclasses.replace(config, neighbours=ranks), walked_graph(sources)
    ranked = kept_neighbours(graph, walked, walks) if walks else find_neighbours(graph, walked)
    report(f"walked from {connected.sum():,} items over {len(graph.item_users):,} edges")
    known = ItemGraph(*map(jnp.asarray, (features, *ranked.first(config.neighbours))))
    if trained:
        return whiten(embed_all(trained.model, known), trained.whitening), trained
    pairs = co_engaged(sources.events, config.reach, config.window_days)
    corpus = np.flatnonzero(connected).astype(np.int32)
    hard = Neighbours(*(table[:, config.neighbours :] for table in ranked))
    model = fit(known, pairs, corpus, hard, dim, config, report)
    vectors = embed_all(model, known)
    whitening = fit_whitening(vectors[connected], config.whitening)
    return whiten(vectors, whitening), Trained(model, whitening, basis, scale)


def walked_graph(sources: Sources) -> Graph:
    """The graph of users, and of sessions if pinsage.session_hours is set."""
    events, hours = sources.events, sources.config.pinsage.session_hours
    if not hours:
        return sources.graph
    users = np.concatenate([events.user, events.user.max(initial=-1) + 1 + sessions(events, hours)])
    return build_graph(users, np.tile(events.item, 2), sources.graph.items)
