import dataclasses

import numpy as np
import pytest
from logs import START, given, write_parquet

from pinnerformer_jax.config import PositiveRule
from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.data.contracts import DAY
from pinnerformer_jax.data.timelines import EVALUATION, Timelines
from pinnerformer_jax.ingestion.ingest import prepare
from pinnerformer_jax.studies import ranker
from pinnerformer_jax.studies.ranker import FEATURES, NO_VECTOR, Impressions, cosines, metrics, ranker_metrics

T = START + 30 * DAY
ONCE = np.ones(4)


def test_metrics_of_a_hand_computed_case():
    positive, chance = np.array([True, False, True, False]), np.array([0.8, 0.6, 0.5, 0.1])
    auc, loss, entropy = metrics(positive, chance, ONCE)
    assert auc == 0.75  # of the four (positive, other) pairs one is in the wrong order
    assert loss == pytest.approx(-np.log([0.8, 0.4, 0.5, 0.9]).mean())
    assert entropy == pytest.approx(loss / np.log(2))


def test_always_saying_the_share_of_positives_has_an_entropy_of_one():
    positive = np.array([True, False, False, False])
    auc, _, entropy = metrics(positive, np.full(4, 0.25), ONCE)
    assert auc == 0.5
    assert entropy == pytest.approx(1)


def test_weights_count_impressions_so_many_times():
    positive, chance = np.array([True, False, False, True]), np.array([0.7, 0.2, 0.9, 0.4])
    times = np.array([2, 0, 1, 3])
    repeated = np.repeat(np.arange(4), times)
    expected = metrics(positive[repeated], chance[repeated], np.ones(6))
    assert metrics(positive, chance, times.astype(float)) == pytest.approx(expected)


def row(user, item, day, action="view", surface="home"):
    moment = int(T + day * DAY)
    return {
        "user": user, "item": item, "time": moment, "action": action, "surface": surface, "duration": 1.0,
    }  # fmt: skip


@pytest.fixture
def log(tmp_path):
    """(config, timelines, catalogue): views stay out of the timelines, likes and saves are positives."""
    rng = np.random.default_rng(0)
    rows = [row(f"u{k}", f"i{rng.integers(6)}", -d, "like") for k in range(30) for d in (2.5, 3.5)]
    rows += [
        row("u0", "i1", -1, "view"), row("u0", "i1", -0.5, "like"), row("u1", "i1", -4, "view"),
        row("u0", "i1", 1.0), row("u0", "i1", 3.0, "like", "search"), row("u0", "i5", 2.0, "save"),
        row("u0", "i1", 0.0, "like"), row("u0", "i1", 99.0, "view"),
        row("u0", "i99", 2.5, "view"),  # an item without a vector
    ]  # fmt: skip
    write_parquet(tmp_path / "log.parquet", rows)
    config = given(
        tmp_path, split_time=str(np.datetime64(T, "s")), evaluation_days=4.0, evaluation_share=0.99,
        validation_share=0.0, positives=(PositiveRule(action="like"), PositiveRule(action="save")),
        sequence_actions=("like", "save"),
    )  # fmt: skip
    config = dataclasses.replace(
        config, data=dataclasses.replace(config.data, evaluation_share=0.9, max_reject_share=0.5)
    )
    prepare(config, lambda text: None)
    return config, Timelines.open(config.data.prepared), Catalog.open(config.data.prepared)


def user_of(timelines, name):
    users = timelines.with_role(EVALUATION)
    found = dict(zip(timelines.user_ids(users), users.tolist(), strict=True))
    if name not in found:
        pytest.skip("the hash of the id no longer makes this user one of evaluation")
    return found[name]


def test_impressions_are_of_the_window_and_features_of_the_past(log):
    config, timelines, catalog = log
    user = user_of(timelines, "u0")
    found = ranker.read_impressions(config.data, timelines, catalog, np.array([user]))
    known = [catalog.item_ids[item] for item in found.item]
    assert known == ["i1", "i5", "i1"]  # by time; not the view of day 99, not the like at t
    assert found.unreachable == 1  # i99
    assert found.positive.tolist() == [False, True, True]
    assert found.user.tolist() == [user] * 3
    column = dict(zip(FEATURES, found.features.T, strict=True))
    assert column["user_shown"].tolist() == [5, 5, 5]  # two likes, a view, two likes up to t
    assert column["user_idle"].tolist() == [0, 0, 0]  # the like at t itself
    assert column["item_age"][2] - column["item_age"][0] == pytest.approx(2, abs=1e-4)
    shown = sum(name == "i1" for name in _past_items(config))
    assert column["item_shown"][0] == shown
    assert column["surface"][0] == 0
    assert np.isnan(column["surface"][2])  # a surface that nobody saw before t


def _past_items(config):
    import pyarrow.parquet as pq

    rows = pq.read_table(config.data.events[0]).to_pylist()
    return [row["item"] for row in rows if row["time"] <= T]


def test_the_past_does_not_know_what_came_after_it(log, tmp_path):
    """The window's outcomes turned round leave every feature as it was."""
    import pyarrow.parquet as pq

    config, timelines, catalog = log
    user = user_of(timelines, "u0")
    before = ranker.read_impressions(config.data, timelines, catalog, np.array([user]))
    rows = pq.read_table(config.data.events[0]).to_pylist()
    for line in rows:
        if line["time"] > T:
            line["action"] = "view" if line["action"] in ("like", "save") else "like"
    other = dataclasses.replace(config.data, events=(write_parquet(tmp_path / "other.parquet", rows),))
    after = ranker.read_impressions(other, timelines, catalog, np.array([user]))
    np.testing.assert_array_equal(before.features, after.features)
    assert (before.positive == ~after.positive).all()


def test_nobody_in_the_window_is_an_error(log):
    config, timelines, catalog = log
    idle = np.array([user_of(timelines, "u1")])
    with pytest.raises(ValueError, match="no impression of the 1 users"):
        ranker.read_impressions(config.data, timelines, catalog, idle)


def impressions(rng, n=4000, users=200):
    """Random ones; whether one is positive is drawn by its `chance`."""
    chance = rng.random(n)
    made = Impressions(
        user=np.sort(rng.integers(users, size=n)) * 3,
        item=rng.integers(10, size=n).astype(np.int32),
        time=rng.permutation(n),
        positive=rng.random(n) < chance,
        features=rng.random((n, len(FEATURES))).astype(np.float32).round(1),
        unreachable=0,
    )
    return made, chance


@pytest.mark.slow
def test_a_vector_that_knows_helps_and_noise_does_not():
    rng = np.random.default_rng(0)
    shown, chance = impressions(rng)
    found = ranker_metrics(shown, {"knows": chance, "noise": rng.random(len(chance))}, 2000, seed=0)
    assert list(found) == [NO_VECTOR, "knows", "noise"]
    assert found[NO_VECTOR]["gained"] == found[NO_VECTOR]["gained_high"] == 0
    assert found["knows"]["auc_low"] > found[NO_VECTOR]["auc_high"]
    assert found["knows"]["gained_low"] > 0.1
    assert found["noise"]["gained_low"] < 0 < found["knows"]["normalised_entropy"] < 1
    for values in found.values():
        assert values["log_loss_low"] < values["log_loss"] < values["log_loss_high"]
    assert found == ranker_metrics(shown, {"knows": chance, "noise": found_noise(0, chance)}, 2000, seed=0)


def found_noise(seed, chance):
    rng = np.random.default_rng(seed)
    impressions(rng)
    return rng.random(len(chance))


def test_test_impressions_do_not_train():
    """Turning the second half's outcomes round changes what is measured, not what is predicted."""
    shown, chance = impressions(np.random.default_rng(1))
    train = shown.time <= 2000
    turned = dataclasses.replace(shown, positive=np.where(train, shown.positive, ~shown.positive))
    one, other = (ranker.fit_and_predict(s, chance, train, 0) for s in (shown, turned))
    np.testing.assert_array_equal(one, other)


def test_a_half_of_one_kind_is_an_error():
    shown, _ = impressions(np.random.default_rng(0), n=50)
    positive = np.where(shown.time <= 25, shown.positive, True)
    with pytest.raises(ValueError, match="the second half of the window has 24 impressions, all of one kind"):
        ranker_metrics(dataclasses.replace(shown, positive=positive), {}, 25, seed=0)


def test_cosines_are_of_the_right_user_and_item():
    shown, _ = impressions(np.random.default_rng(0), n=5, users=3)
    shown = dataclasses.replace(shown, user=np.array([3, 3, 7, 9, 9]), item=np.array([0, 1, 1, 1, 0]))
    vectors = np.array([[2.0, 0.0], [0.0, 0.0], [3.0, 3.0]])
    items = np.array([[1.0, 0.0], [0.0, 5.0]])
    half = 1 / np.sqrt(2)
    np.testing.assert_allclose(
        cosines(shown, np.array([3, 7, 9]), vectors, items), [1, 0, 0, half, half], atol=1e-6
    )
