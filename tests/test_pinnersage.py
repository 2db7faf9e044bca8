import numpy as np
import pytest

from pinnerformer_jax.data.contracts import DAY
from pinnerformer_jax.evaluation import pinnersage as module
from pinnerformer_jax.evaluation.pinnersage import (
    Clusters,
    cluster_users,
    mean_vectors,
    medoid,
    nearest_cluster,
    oracle_recall,
    ward_clusters,
    weighted_mean,
)
from pinnerformer_jax.evaluation.protocol import History, Protocol, Targets

T = 1_795_000_000


def circle(*degrees: float) -> np.ndarray:
    """Unit vectors in the plane."""
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


# Items 0-2 lie together, 3-5 a quarter of the circle on, 6 and 7 opposite the first; 8 has no vector.
FEATURES = np.concatenate([circle(0, 4, 10, 90, 95, 99, 180, 183), np.zeros((1, 2), np.float32)])


def case(*users: list[tuple[int, float]], targets: list[list[int]] | None = None, items: int = 9) -> Protocol:
    """Users by their (item, age in days), oldest first."""
    wanted = targets or [[0]] * len(users)
    item = np.array([item for user in users for item, _ in user], np.int32)
    age = np.array([age for user in users for _, age in user])
    pairs, time = sum(map(len, wanted)), T - np.round(age * DAY).astype(np.int64)
    return Protocol(
        users=np.arange(len(users)),
        history=History(
            np.cumsum([0, *map(len, users)]), item, time, np.ones(len(item), bool)
        ),
        targets=Targets(
            np.cumsum([0, *map(len, wanted)]),
            np.concatenate(wanted).astype(np.int32),
            np.ones(pairs, bool),
            np.ones((pairs, 1), bool),
        ),
        reachable=np.arange(items) != 8,
        index=np.arange(items) != 8,
        actions=[""],
        split_time=T,
        window_end=T + 14 * DAY,
        eligible=len(users),
        without_history=0,
        without_target=0,
        unreachable=0,
    )  # fmt: skip


def test_points_whose_clusters_are_known():
    found = ward_clusters(FEATURES[[0, 3, 1, 6, 4, 2, 5, 7]])
    groups = {frozenset(np.flatnonzero(found == k).tolist()) for k in range(found.max() + 1)}
    assert groups == {frozenset({0, 2, 5}), frozenset({1, 4, 6}), frozenset({3, 7})}
    assert ward_clusters(FEATURES[:1]).tolist() == [0]
    assert len(set(ward_clusters(circle(0, 59)).tolist())) == 1  # a cosine above 0.5 is merged
    assert len(set(ward_clusters(circle(0, 61)).tolist())) == 2


def test_medoid_has_the_least_squared_distance_to_the_others():
    points = np.random.default_rng(0).normal(size=(30, 5))
    squared = ((points[:, None] - points[None]) ** 2).sum(-1).sum(1)
    assert medoid(points) == squared.argmin()


def test_clusters_of_users_by_importance():
    protocol = case(
        [(3, 80.0), (4, 80.0), (5, 80.0), (0, 1.0), (1, 1.0), (2, 1.0), (6, 0.0)],
        [(6, 200.0), (7, 150.0)],
        [(8, 1.0)],
        [(3, 100.0), (8, 0.5), (0, 0.0)],
    )
    found = cluster_users(protocol, FEATURES, 3)
    assert found.item.tolist() == [[1, 4, 6], [7, -1, -1], [-1, -1, -1], [0, -1, -1]]
    np.testing.assert_allclose(
        found.importance,
        [
            [3 * np.exp(-0.01), 3 * np.exp(-0.8), 1],  # the same number of events, 79 days older
            [np.exp(-1.5), 0, 0],  # nothing in 90 days: the newest event
            [0, 0, 0],  # no item with a vector
            [1, 0, 0],  # what is older than 90 days does not count
        ],
    )
    assert cluster_users(protocol, FEATURES, 1).item[0].tolist() == [1]


def test_only_the_newest_events_are_clustered(monkeypatch):
    monkeypatch.setattr(module, "MAX_EVENTS", 2)
    found = cluster_users(case([(6, 3.0), (3, 2.0), (0, 1.0)]), FEATURES, 3)
    assert sorted(found.item[0].tolist()) == [-1, 0, 3]


def test_weighted_mean_is_one_unit_vector():
    clusters = Clusters(np.array([[0, 3], [6, -1], [-1, -1]], np.int32), np.array([[3.0, 1], [2, 0], [0, 0]]))
    scores = np.asarray(weighted_mean(clusters, FEATURES)(np.arange(3)))
    np.testing.assert_allclose(scores[0, [0, 3]], np.array([3, 1]) / np.sqrt(10), atol=1e-6)
    np.testing.assert_allclose(scores[1, 6], 1, atol=1e-6)
    assert not scores[2].any()
    means = mean_vectors(clusters, FEATURES)
    np.testing.assert_allclose(means, [[3 / np.sqrt(10), 1 / np.sqrt(10)], [-1, 0], [0, 0]], atol=1e-6)


def test_nearest_cluster_scores_by_the_nearest_of_the_first():
    clusters = Clusters(np.array([[0, 3, 6], [3, -1, -1]], np.int32), np.array([[3.0, 2, 1], [1, 0, 0]]))
    products = FEATURES @ FEATURES.T
    for count in (1, 2, 3):
        scores = np.asarray(nearest_cluster(clusters, FEATURES, count)(np.array([0, 1])))
        np.testing.assert_allclose(scores[0], products[[0, 3, 6][:count]].max(axis=0), atol=1e-6)
        np.testing.assert_allclose(scores[1], products[3], atol=1e-6)


@pytest.mark.parametrize("limit", [300, 1 << 25])
def test_the_oracle_takes_for_each_target_the_closest_cluster(monkeypatch, limit):
    """Against loops over users, targets and clusters."""
    monkeypatch.setattr(module, "MAX_SCORES", limit)
    rng = np.random.default_rng(1)
    features = rng.normal(size=(120, 4)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    wanted = [np.sort(rng.choice(120, 5, replace=False)).tolist() for _ in range(9)]
    protocol = case(*[[(0, 1.0)]] * 9, targets=wanted, items=120)
    clusters = Clusters(rng.integers(0, 120, (9, 6)).astype(np.int32), np.ones((9, 6)))
    clusters.item[2:4, 3:] = -1
    clusters.item[5] = -1
    found = oracle_recall(clusters, features, protocol, (1, 3, 6))
    products = features.astype(np.float64) @ features.T
    for count in (1, 3, 6):
        hits = []
        for user, own in enumerate(wanted):
            medoids = [m for m in clusters.item[user, :count] if m >= 0]
            for item in own:
                best = max(medoids, key=lambda m: products[m, item], default=None)
                rivals = [j for j in np.flatnonzero(protocol.index) if j not in own]
                hits.append(best is not None and sum(products[best, rivals] >= products[best, item]) < 10)
        assert found[count].value() == pytest.approx(np.mean(hits))
    assert 0 < found[1].value() < found[6].value()
