"""Training finds clusters again; new items get vectors without it; the same seed gives the same bytes."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from pinnerformer_jax.config import PinSageConfig
from pinnerformer_jax.items import fit as fitting
from pinnerformer_jax.items.engagement import Engagement, co_engaged
from pinnerformer_jax.items.fit import embed_all, fit
from pinnerformer_jax.items.graph import build_graph
from pinnerformer_jax.items.pinsage import ItemGraph
from pinnerformer_jax.items.walks import Neighbours, find_neighbours

ITEMS, CLUSTERS = 40, 4
CONFIG = PinSageConfig(
    width=32, steps=60, batch_size=64, random_negatives=32, neighbours=5, learning_rate=5e-3
)


def world(items=ITEMS):
    """Users of one cluster each (item i is of cluster i % 4), and content that says the cluster, noisily."""
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(200), 6).astype(np.int64)
    item = (user % CLUSTERS + CLUSTERS * rng.integers(0, ITEMS // CLUSTERS, len(user))).astype(np.int32)
    events = Engagement(user, item, np.zeros(len(user), np.int64), np.ones(len(user), bool))
    features = rng.standard_normal((items, 12)).astype(np.float32) * 0.5
    features[np.arange(items), np.arange(items) % CLUSTERS] += 2
    neighbours = find_neighbours(build_graph(user, item, items), CONFIG)
    return events, ItemGraph(*map(jnp.asarray, (features, *neighbours)))


def trained(events, graph, **changes):
    config = dataclasses.replace(CONFIG, **changes)
    wider = dataclasses.replace(CONFIG, neighbours=9)
    ranked = find_neighbours(build_graph(events.user, events.item, ITEMS), wider)
    hard = Neighbours(ranked.item[:, 5:], ranked.weight[:, 5:])
    corpus = np.arange(ITEMS, dtype=np.int32)
    return fit(graph, co_engaged(events, 4, 1), corpus, hard, 16, config, lambda _: None)


@pytest.fixture(scope="module")
def model():
    return trained(*world())


def cluster_share(vectors, queries):
    """Share of the 9 nearest old items that are of the query's cluster."""
    scores = vectors[queries] @ vectors[:ITEMS].T
    scores[queries[:, None] == np.arange(ITEMS)[None, :]] = -np.inf
    near = np.argsort(-scores, axis=1)[:, :9]
    return np.mean(near % CLUSTERS == queries[:, None] % CLUSTERS)


def test_items_engaged_with_together_are_near(model):
    vectors = embed_all(model, world()[1])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert cluster_share(vectors, np.arange(ITEMS)) > 0.95


def test_so_they_are_by_the_published_loss():
    _, graph = world()
    vectors = embed_all(trained(*world(), loss="max_margin"), graph)
    assert cluster_share(vectors, np.arange(ITEMS)) > 0.95


def test_a_new_item_gets_a_vector_by_content_alone(model):
    _, graph = world(ITEMS + 8)  # eight items that training never saw, without an edge
    assert not np.asarray(graph.weight)[ITEMS:].any()
    vectors = embed_all(model, graph)
    assert cluster_share(vectors, np.arange(ITEMS, ITEMS + 8)) > 0.9


def test_a_few_edges_speak_for_an_item_without_content(model):
    events, graph = world(ITEMS + 1)
    user = np.append(events.user, [1, 5])  # of cluster 1
    item = np.append(events.item, [ITEMS, ITEMS]).astype(np.int32)  # by its number it were of cluster 0
    neighbours = find_neighbours(build_graph(user, item, ITEMS + 1), CONFIG)
    features = graph.features.at[ITEMS].set(0)
    vectors = embed_all(model, ItemGraph(features, *map(jnp.asarray, neighbours)))
    near = np.argsort(-(vectors[ITEMS] @ vectors[:ITEMS].T))[:5]
    assert (near % CLUSTERS == 1).all()


def test_nothing_known_no_vector(model):
    _, graph = world(ITEMS + 1)
    vectors = embed_all(model, graph._replace(features=graph.features.at[ITEMS].set(0)))
    assert not vectors[ITEMS].any()


@pytest.mark.slow
def test_same_seed_same_bytes_and_chunks_change_nothing(model, monkeypatch):
    graph = world()[1]
    vectors = embed_all(model, graph)
    assert embed_all(trained(*world()), graph).tobytes() == vectors.tobytes()
    monkeypatch.setattr(fitting, "CHUNK", 7)
    np.testing.assert_allclose(embed_all(model, graph), vectors, atol=1e-6)


def test_no_pair_is_an_error():
    events, graph = world()
    with pytest.raises(ValueError, match=r"within pinsage\.window_days = 28"):
        trained(events._replace(positive=np.zeros_like(events.positive)), graph)
