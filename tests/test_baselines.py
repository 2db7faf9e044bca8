import dataclasses

import numpy as np
import pytest
from prepared import write_prepared
from scipy.sparse import csr_matrix

from pinnerformer_jax.config import Config, DataConfig, EvaluationConfig, PositiveRule
from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.data.contracts import DAY
from pinnerformer_jax.data.positives import positive_table
from pinnerformer_jax.data.timelines import EVALUATION, TRAIN, VALIDATION, Timelines
from pinnerformer_jax.evaluation import baselines as module
from pinnerformer_jax.evaluation.baselines import (
    Constants,
    LastItems,
    baselines,
    choose_constants,
    ease,
    interactions,
    item_knn,
    neighbours,
    own_most_frequent,
    own_then,
    profile,
    random_scores,
    same_for_all,
    sampling_step,
)
from pinnerformer_jax.evaluation.counts import own_counts, popularity_counts, popularity_half_lives
from pinnerformer_jax.evaluation.evaluator import EvaluationData
from pinnerformer_jax.evaluation.fit_priors import fit_priors
from pinnerformer_jax.evaluation.protocol import History, build_protocol

T = 1_795_000_000
VIEW, LIKE = 1, 2
RULES = (PositiveRule(action="like"),)


def event(item, day, action=LIKE):
    return (item, action, 1, int(T + day * DAY), 0.0)


@pytest.fixture
def world(tmp_path):
    users = {
        "t1": [event(0, -3), event(1, -2), event(1, -1), event(5, 1)],
        "t2": [event(0, -3), event(1, -27), event(2, -29), event(3, -1, VIEW)],
        "t3": [event(4, -5)],
        "v": [event(6, -1), event(6, -2)],
        "e": [event(0, -9), event(2, -1), event(7, 1)],
        "e2": [event(7, -3), event(7, 1)],
    }
    roles = {"v": VALIDATION, "e": EVALUATION, "e2": EVALUATION}
    path = write_prepared(tmp_path / "p", users, T, roles=roles, shards=2, items=8)
    timelines, catalog = Timelines.open(path), Catalog.open(path)
    return timelines, catalog, build_protocol(timelines, catalog.reachable, RULES, EvaluationConfig())


def opened(path):
    """The evaluation data of a prepared folder."""
    config = Config(data=DataConfig(prepared=str(path), positives=RULES))
    return EvaluationData(config, Timelines.open(path), Catalog.open(path))


def table(timelines):
    return positive_table(RULES, timelines.manifest.actions, timelines.manifest.surfaces)


def history(*users, days=None, positive=None):
    """Lists of items, one event a day, the newest at t."""
    lengths = [len(items) for items in users]
    item = np.array([item for items in users for item in items], np.int32)
    age = np.concatenate([np.arange(n)[::-1] for n in lengths]) if days is None else np.array(days)
    positive = np.ones(len(item), bool) if positive is None else np.array(positive, bool)
    return History(np.cumsum([0, *lengths]), item, T - age.astype(np.int64) * DAY, positive)


def test_popularity_counts_training_positives_up_to_t_and_older_ones_less(world):
    timelines, _, _ = world
    # Neither what comes after t, nor a view, nor other users' events.
    whole, halved = popularity_counts(timelines, RULES, 8, [np.inf, 1.0])
    assert whole.tolist() == [2, 3, 1, 0, 1, 0, 0, 0]
    np.testing.assert_allclose(halved[:2], [2 * 2**-3, 2**-2 + 2**-1 + 2**-27])


def test_no_half_life_of_popularity_is_far_shorter_than_the_window():
    assert popularity_half_lives(1.0)[0] == 0.25
    assert popularity_half_lives(14.0)[0] == 1.0


def test_interactions_are_of_training_users_up_to_t(world):
    timelines, _, _ = world
    found = interactions(timelines, table(timelines), 8).toarray()
    assert found.tolist() == [
        [1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 0, 0, 0],
    ]


def test_interactions_take_the_newest_events_only(world, monkeypatch):
    timelines, _, _ = world
    monkeypatch.setattr(module, "KNN_EVENTS", 1)
    found = interactions(timelines, table(timelines), 8).toarray()
    assert [np.flatnonzero(row).tolist() for row in found] == [[1], [3], [4]]


def test_neighbours_by_hand():
    touched = csr_matrix(np.array([[1, 1, 0], [1, 1, 0], [0, 1, 1], [1, 0, 0]], np.float32))
    similar = neighbours(touched).toarray()
    assert similar[0, 1] == pytest.approx(2 / np.sqrt(3 * 3) * 2 / (2 + 10))
    assert similar[1, 2] == pytest.approx(1 / np.sqrt(3 * 1) * 1 / (1 + 10))
    assert similar[0, 0] == pytest.approx(1 * 3 / (3 + 10))
    assert similar[0, 2] == 0
    np.testing.assert_allclose(similar, similar.T)


def test_neighbours_are_the_same_in_chunks_and_keep_the_best(monkeypatch):
    rng = np.random.default_rng(0)
    touched = csr_matrix((rng.random((60, 40)) < 0.2).astype(np.float32))
    whole = neighbours(touched).toarray()
    monkeypatch.setattr(module, "MAX_PAIRS", 50)
    np.testing.assert_array_equal(neighbours(touched).toarray(), whole)
    monkeypatch.setattr(module, "NEIGHBOURS", 5)
    few = neighbours(touched).toarray()
    assert ((few > 0).sum(axis=1) == 5).all()
    np.testing.assert_allclose(np.sort(few, axis=1)[:, -5:], np.sort(whole, axis=1)[:, -5:])


def test_item_knn_weighs_newer_events_more(world):
    _, _, protocol = world
    similar = csr_matrix(np.eye(8, k=1, dtype=np.float32))  # the neighbour of 0 is 1, of 2 is 3
    popularity = np.arange(8, dtype=np.float32) / 8
    scores = item_knn(profile(protocol, 8), similar, popularity)(np.array([0]))
    assert scores.shape == (1, 8)
    assert scores[0, 3] == pytest.approx(1, rel=1e-5)  # the newest event weighs 1
    assert scores[0, 1] == pytest.approx(0.5 ** (8 / 28), rel=1e-5)  # eight days older
    assert np.argsort(-scores[0]).tolist() == [3, 1, 7, 6, 5, 4, 2, 0]  # popularity orders the rest


def test_ease_is_the_closed_form():
    """Steck (2019): B minimises |X - XB|^2 + penalty |B|^2 with a zero diagonal; here column by column."""
    rng = np.random.default_rng(0)
    touched = (rng.random((30, 5)) < 0.4).astype(np.float32)
    weights = np.zeros((5, 5))
    for item in range(5):
        others = [k for k in range(5) if k != item]
        x = touched[:, others].astype(float)
        weights[others, item] = np.linalg.solve(x.T @ x + 3 * np.eye(4), x.T @ touched[:, item])
    used = csr_matrix(np.array([[1, 0, 2, 0, 0]], np.float32))  # twice counts as once
    scores = ease(used, csr_matrix(touched), 3.0, np.zeros(5))(np.array([0]))
    np.testing.assert_allclose(scores[0], weights[0] + weights[2], atol=1e-5)


def test_ease_knows_the_most_touched_items_and_popularity_orders_the_rest():
    touched = csr_matrix(np.array([[1, 1, 0], [1, 1, 0], [0, 1, 1]], np.float32))
    score = ease(csr_matrix(np.array([[1.0, 0, 0]])), touched, 1.0, np.array([0.1, 0.2, 0.9]), most=2)
    scores = score(np.array([0]))[0]
    assert scores[1] > 0.1
    assert scores[2] == pytest.approx(0.9e-6)


def test_own_most_frequent_orders_by_decayed_count_then_popularity():
    popularity = np.array([0.1, 0.2, 0.3, 0.4, 0.9, 0.5], np.float32)
    lived = history([2, 0, 1, 0, 3, 4], [5], days=[5, 4, 3, 2, 3, 0, 0], positive=[1, 1, 1, 1, 1, 0, 1])
    (own,) = own_counts(lived, 6, T, [100.0])
    scores = own_most_frequent(own, popularity)(np.array([0, 1]))
    # 0 twice; 3 and 1 on the same day, 3 more popular; 2 older. Then by popularity: 4 was no positive.
    assert np.argsort(-scores[0], kind="stable").tolist() == [0, 3, 1, 2, 4, 5]
    assert np.argsort(-scores[1], kind="stable").tolist() == [5, 4, 3, 2, 1, 0]
    assert len(set(scores[0].tolist())) == 6  # nothing is tied
    (young,) = own_counts(lived, 6, T, [0.1])
    assert np.argmax(own_most_frequent(young, popularity)(np.array([0]))) == 0
    assert np.argmax(own_counts(history([1, 1, 1, 2]), 3, T, [0.5])[0].toarray()) == 2  # one now beats three


def test_own_items_come_before_all_that_another_scorer_names():
    (own,) = own_counts(history([1], [2, 2]), 3, T, [np.inf])
    scores = own_then(own, np.zeros(3), same_for_all(np.array([50.0, -2.0, 3.0])))(np.array([0, 1]))
    assert np.argsort(-scores, axis=1).tolist() == [[1, 0, 2], [2, 0, 1]]


def test_the_mean_of_the_last_items_takes_the_newest(tmp_path):
    users = {"a": [event(0, -9), event(1, -8), event(2, -7)], "b": [event(3, -1)]}
    users = {name: [*of, event(0, 1)] for name, of in users.items()}
    path = write_prepared(tmp_path / "p", users, T, roles=dict.fromkeys("ab", EVALUATION), items=4)
    data = opened(path)
    data.catalog = dataclasses.replace(data.catalog, features=np.eye(4, dtype=np.float16))
    scores = np.asarray(LastItems(data, 1).scorer(np.array([0, 1])))
    np.testing.assert_allclose(scores, [[0, 0, 1, 0], [0, 0, 0, 1]])
    scores = np.asarray(LastItems(data, 2).scorer(np.array([0])))
    np.testing.assert_allclose(scores, [[0, 0.5**0.5, 0.5**0.5, 0]], rtol=1e-6)


@pytest.mark.parametrize(("before", "after", "count"), [(40, 0, 8), (0, 10, 30)])
def test_how_many_last_items_is_chosen_on_validation_users(tmp_path, before, after, count):
    """People do one item each week; another many times, long before all others, or each week after it."""
    users = {
        f"{role}{k}": [
            *(event(20 + k, -90 + place / 100) for place in range(before)),
            *(event(item, 7 * week - 40 + place / 100)
              for week in range(7) for place, item in enumerate([k, *[20 + k] * after])),
        ]
        for role in "ve"
        for k in range(10)
    }  # fmt: skip
    roles = {name: VALIDATION if name[0] == "v" else EVALUATION for name in users}
    data = opened(write_prepared(tmp_path / "p", users, T, roles=roles, items=40))
    data.catalog = dataclasses.replace(data.catalog, features=np.eye(40, dtype=np.float16))
    assert choose_constants(data.earlier).last_items == count


def test_the_mean_is_served_with_priors_of_its_own(tmp_path):
    """People come back to one item each week, and do seven others once in between, which the mean is of."""
    rng = np.random.default_rng(0)
    users = {
        f"{role}{k}": [
            event(item, 7 * week - 80 + place / 10)
            for week in range(13)
            for place, item in enumerate([k, *rng.choice(np.arange(30, 60), 7, replace=False).tolist()])
        ]
        for role in "vte"
        for k in range(30)
    }
    roles = {name: {"v": VALIDATION, "e": EVALUATION}.get(name[0], TRAIN) for name in users}
    data = opened(write_prepared(tmp_path / "p", users, T, roles=roles, items=60))
    data.catalog = dataclasses.replace(data.catalog, features=rng.normal(size=(60, 8)).astype(np.float16))
    last = LastItems(data, 8)
    assert fit_priors(last).priors.own_weight > 0
    served = baselines(data, Constants(last_items=8))["last_items_served"]
    np.testing.assert_array_equal(served(np.arange(5)), last.served(fit_priors(last).priors)(np.arange(5)))


def test_random_is_a_function_of_seed_user_and_item():
    scores = np.asarray(random_scores(50, seed=1)(np.arange(4)))
    np.testing.assert_array_equal(random_scores(50, seed=1)(np.array([2, 2])), scores[[2, 2]])
    assert (np.asarray(random_scores(50, seed=2)(np.arange(4))) != scores).any()
    assert len(np.unique(scores)) > 190


def test_all_of_them_score_every_item(world):
    timelines, _, _ = world
    found = baselines(opened(timelines.path), Constants())
    assert list(found) == [
        "random", "popularity", "item_knn", "ease", "own_most_frequent", "own_then_knn", "last_items_mean",
        "last_items_served", "pinnersage_mean",
    ]  # fmt: skip
    for scorer in found.values():
        scores = np.asarray(scorer(np.array([0, 1, 1])))
        assert scores.shape == (3, 8)
        assert np.isfinite(scores).all()
    assert np.argmax(found["popularity"](np.array([0]))[0]) == 1
    # "e" touched 0 and 2, whose users touched 1 and 3; never 6, 7.
    assert set(np.argsort(-found["item_knn"](np.array([0]))[0])[:4].tolist()) == {0, 1, 2, 3}
    assert np.argmax(found["own_most_frequent"](np.array([1]))[0]) == 7


def test_without_training_events_nothing_breaks(tmp_path):
    users = {"e": [event(0, -1), event(1, 1)]}
    path = write_prepared(tmp_path / "p", users, T, roles={"e": EVALUATION}, items=3)
    data = opened(path)
    assert choose_constants(data.earlier) == Constants()  # nobody to choose on
    for scorer in baselines(data, Constants()).values():
        assert np.isfinite(np.asarray(scorer(np.array([0])))).all()


def test_the_half_life_of_ones_own_is_chosen_on_validation_users(tmp_path):
    """Validation users come back to what they did last; evaluation users, in the window, to what they did
    most. The choice follows the first."""
    often = [event(item, day) for item in range(11) for day in (-200, -199, -198)]
    recent = [event(item, -60 + item / 100) for item in range(11, 22)]
    back = [event(item, -7) for item in range(11, 22)]
    users = {f"v{k}": [*often, *recent, *back] for k in range(3)}
    users |= {f"t{k}": [event(k, -30)] for k in range(3)}
    users["e"] = [*often, *recent, *(event(item, 3) for item in range(11))]
    roles = {name: VALIDATION for name in users if name[0] == "v"} | {"e": EVALUATION}
    path = write_prepared(tmp_path / "p", users, T, roles=roles, items=40)
    assert choose_constants(opened(path).earlier).own_half_life <= 60


@pytest.mark.parametrize("back", [False, True])
def test_what_a_user_had_is_left_out_where_nobody_comes_back(tmp_path, back):
    """Half of the users walk through the items, a new one each week; or they do the same few again."""
    users = {
        f"{role}{k}": [event((k + (week % 3 if back else week)) % 30, 7 * week - 80) for week in range(13)]
        for role in "vte"
        for k in range(20)
    }
    roles = {name: {"v": VALIDATION, "e": EVALUATION}.get(name[0], TRAIN) for name in users}
    data = opened(write_prepared(tmp_path / "p", users, T, roles=roles, items=30))
    constants = choose_constants(data.earlier)
    assert (constants.popularity_hides_seen, constants.ease_hides_seen) == (not back, not back)
    found, history = baselines(data, constants), data.protocol.history
    for name in ("popularity", "item_knn", "ease"):
        scores = np.asarray(found[name](np.array([3])))[0]
        had = np.isin(np.arange(30), history.item[history.offsets[3] : history.offsets[4]])
        np.testing.assert_array_equal(np.isneginf(scores), had & (not back))


def test_a_sample_of_the_training_users_where_there_are_too_many(world, monkeypatch):
    timelines, _, _ = world
    whole = interactions(timelines, table(timelines), 8).toarray()
    counts = np.concatenate([shard.cut[shard.role == TRAIN] for shard in timelines.shards])
    assert sampling_step(timelines) == 1
    monkeypatch.setattr(module, "MAX_FITTED_PAIRS", int((counts**2).sum()) - 1)
    assert sampling_step(timelines) == 2
    found = interactions(timelines, table(timelines), 8).toarray()
    assert len(found) == sum(-(-np.count_nonzero(shard.role == TRAIN) // 2) for shard in timelines.shards)
    assert all(row in whole.tolist() for row in found.tolist())
