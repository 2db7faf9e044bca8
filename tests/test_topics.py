import numpy as np
from prepared import write_prepared

from pinnerformer_jax.config import EvaluationConfig
from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.evaluation.topics import item_topics


def catalog(path, **given):
    return Catalog.open(write_prepared(path, {"a": [(0, 1, 1, 1_795_000_000, 0.0)]}, 1_795_000_000, **given))


def test_given_topics_win(tmp_path):
    topics, origin = item_topics(
        catalog(tmp_path / "p", items=4, topics=["b", None, "a", "b"]), EvaluationConfig()
    )
    assert topics.tolist() == [0, -1, 1, 0]
    assert origin == "2 topics of the catalogue"


def test_clusters_where_none_are_given(tmp_path):
    rng = np.random.default_rng(0)
    truth = np.arange(60) % 3
    features = np.eye(3)[truth] + 0.05 * rng.normal(size=(60, 3))
    features[-1] = 0  # no vector, no topic
    topics, origin = item_topics(catalog(tmp_path / "p", features=features), EvaluationConfig(topics=3))
    assert topics[-1] == -1
    for kind in range(3):
        assert len(set(topics[:-1][truth[:-1] == kind])) == 1
    assert len(set(topics[:-1])) == 3
    assert origin == "3 k-means clusters of the item vectors"


def test_fewer_items_than_topics(tmp_path):
    features = np.tile([[1.0, 0.0]], (5, 1))  # and fewer distinct ones
    topics, origin = item_topics(catalog(tmp_path / "p", features=features), EvaluationConfig())
    assert (topics >= 0).all()
    assert origin.startswith("5 k-means")
