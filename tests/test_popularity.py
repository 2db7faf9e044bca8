"""Popularity over time: what it counts, and that the loss adds it to the logits."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
import small_run
from prepared import write_prepared
from test_training_loss import CORPUS, own_gradient, with_objective

from pinnerformer_jax.config import ObjectiveConfig, PositiveRule
from pinnerformer_jax.data import popularity as module
from pinnerformer_jax.data.contracts import DAY, EPOCH
from pinnerformer_jax.data.popularity import PopularityOverTime, popularity_drift, popularity_over_time
from pinnerformer_jax.data.positives import positive_table
from pinnerformer_jax.data.timelines import EVALUATION, TRAIN, VALIDATION, Timelines
from pinnerformer_jax.objective.loss import Rows, sampled_softmax
from pinnerformer_jax.objective.negatives import NO_USER, Pool
from pinnerformer_jax.training.inputs import open_training_data
from pinnerformer_jax.training.sharding import make_mesh, replicate, shard_batch
from pinnerformer_jax.training.state import create
from pinnerformer_jax.training.step import make_gradient
from pinnerformer_jax.training.training_loss import Contrast, with_popularity

SPLIT, ITEMS = 1_700_000_000, 6
LIKES = (PositiveRule(action="like"),)
LIKE = 2


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Three training users, one of each other role, with events of 60 days before t and 10 after it."""
    rng = np.random.default_rng(0)
    users = {
        f"user-{k}": [
            (int(item), int(action), 1, int(SPLIT + age), 5.0)
            for item, action, age in zip(
                rng.integers(0, ITEMS, 40),
                rng.integers(1, 3, 40),
                rng.integers(-60 * DAY, 10 * DAY, 40),
                strict=True,
            )
        ]
        for k in range(5)
    }
    roles = {"user-3": VALIDATION, "user-4": EVALUATION}
    path = write_prepared(tmp_path_factory.mktemp("world"), users, SPLIT, roles=roles, items=ITEMS, shards=2)
    timelines = Timelines.open(path)
    return timelines, users, positive_table(LIKES, timelines.manifest.actions, timelines.manifest.surfaces)


def test_a_moment_counts_the_positives_of_training_users_up_to_it_and_nothing_later(world):
    timelines, users, table = world
    found = popularity_over_time(timelines, table, ITEMS, 7.0)
    events = [
        event for k in range(3) for event in users[f"user-{k}"] if event[1] == LIKE and event[3] <= SPLIT
    ]
    moments = found.start + found.step * np.arange(len(found.log_share)) + EPOCH
    assert found.start.dtype == found.step.dtype == np.int32
    assert moments[-1] == SPLIT
    assert moments[0] <= min(event[3] for event in events) <= moments[1]
    for moment, row in zip(moments, found.log_share, strict=True):
        count = np.zeros(ITEMS)
        for item, _, _, time, _ in events:
            count[item] += (time <= moment) * 0.5 ** ((moment - time) / (7 * DAY))
        np.testing.assert_allclose(row, np.log1p(count / max(count.mean(), 1e-300)), rtol=1e-5, atol=1e-6)
    assert found.log_share[-1].std() > 0.1  # so that the comparison says something


def test_a_time_has_the_last_moment_that_is_no_later(world):
    found = popularity_over_time(world[0], world[2], ITEMS, 7.0)
    start, step, last = int(found.start), int(found.step), len(found.log_share) - 1
    times = np.array(
        [start - 5, start, start + step - 1, start + step, start + step * last, start + 99 * step * last]
    )
    expected = [0, 0, 0, 1, last, last]
    assert found.moment(times).tolist() == expected
    on_device = jax.tree.map(jnp.asarray, found)
    assert on_device.moment(jnp.asarray(times, jnp.int32)).tolist() == expected


def test_more_items_have_fewer_moments_and_too_many_are_refused(world, monkeypatch):
    timelines, _, table = world
    monkeypatch.setattr(module, "MOST_NUMBERS", 10 * ITEMS + 3)
    assert popularity_over_time(timelines, table, ITEMS, 7.0).log_share.shape == (10, ITEMS)
    monkeypatch.setattr(module, "MOST_ITEMS", ITEMS - 1)
    with pytest.raises(ValueError, match=r"popularity_half_life_days: .* at most 5 items .* there are 6"):
        popularity_over_time(timelines, table, ITEMS, 7.0)


def test_a_log_without_positives_has_equal_items(world):
    timelines, _, table = world
    found = popularity_over_time(timelines, np.full_like(table, np.inf), ITEMS, 7.0)
    assert not found.log_share.any()
    assert np.isnan(popularity_drift(timelines, np.full_like(table, np.inf), ITEMS))


@pytest.mark.parametrize(("changes", "low", "high"), [(False, -0.2, 0.1), (True, 0.5, 3.0)])
def test_the_drift_is_large_where_other_items_are_popular_now(tmp_path, changes, low, high):
    rng = np.random.default_rng(0)
    age = np.sort(rng.uniform(0, 200, 2_000))
    favourite = np.where(changes & (age < 30), 1, 0)
    item = np.where(rng.random(2_000) < 0.8, favourite, rng.integers(0, ITEMS, 2_000))
    users = {"a": [(int(i), LIKE, 1, int(SPLIT - a * DAY), 1.0) for i, a in zip(item, age, strict=True)]}
    timelines = Timelines.open(write_prepared(tmp_path, users, SPLIT, roles={"a": TRAIN}, items=ITEMS))
    table = positive_table(LIKES, timelines.manifest.actions, timelines.manifest.surfaces)
    assert low < popularity_drift(timelines, table, ITEMS) < high


def example():
    """Embeddings, rows and a pool of all items, and popularity at three moments."""
    rng = np.random.default_rng(1)
    vectors = [jnp.asarray(rng.normal(size=(n, 4)).astype(np.float32)) for n in (5, ITEMS)]
    item = jnp.asarray(rng.integers(0, ITEMS, 5), jnp.int32)
    rows = Rows(item, jnp.arange(5, dtype=jnp.int32), jnp.full(5, 0.2), jnp.zeros(5))
    pool = Pool(jnp.arange(ITEMS, dtype=jnp.int32), jnp.full(ITEMS, NO_USER), jnp.ones(ITEMS, bool))
    log_share = jnp.asarray(rng.normal(size=(3, ITEMS)).astype(np.float32))
    return vectors, rows, pool, PopularityOverTime(log_share, jnp.int32(100), jnp.int32(10))


def test_the_loss_is_the_softmax_of_score_and_popularity_at_the_time():
    (user, items), rows, pool, popularity = example()
    time = jnp.asarray([100, 109, 110, 125, 500], jnp.int32)
    moment = [0, 0, 1, 2, 2]
    contrast = with_popularity(popularity, time, Contrast(rows, pool, jnp.zeros(ITEMS)))
    found = sampled_softmax(user, items[rows.item], items, jnp.float32(0.5), *contrast)
    logits = np.asarray(user) @ np.asarray(items).T / 0.5 + np.asarray(popularity.log_share)[moment]
    likelihood = jax.nn.log_softmax(logits)[np.arange(5), rows.item]
    np.testing.assert_allclose(found, -likelihood.mean(), rtol=1e-5)


@pytest.mark.slow
def test_a_step_adds_the_popularity_of_the_pairs_time_and_no_later_one():
    config, tables, batch = with_objective(), small.tables(), small.batch()
    start, end = int(batch.history.time[batch.history.time > 0].min()), small.NOW
    moments = jnp.int32(start), jnp.int32((end - start) // 4 + 1)

    def gradient(log_share):
        with_it = tables._replace(popularity=PopularityOverTime(jnp.asarray(log_share), *moments))
        (loss, _), gradient = own_gradient(config, tables=with_it)
        return loss, gradient

    flat = np.zeros((8, small.ITEMS), np.float32)
    rng = np.random.default_rng(0)
    later, now = flat.copy(), flat.copy()
    later[4:] = rng.normal(size=later[4:].shape)  # after the last event of a history
    now[:4] = rng.normal(size=now[:4].shape)
    (plain, _), plain_gradient = own_gradient(config, tables=tables)
    for log_share in (flat, later):
        loss, found = gradient(log_share)
        np.testing.assert_allclose(loss, plain, rtol=1e-6)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), found, plain_gradient
        )
    assert abs(float(gradient(now)[0]) - float(plain)) > 0.01


@pytest.mark.slow
def test_many_devices_have_the_loss_and_gradient_of_one():
    config, mesh = with_objective(), make_mesh(8)
    log_share = np.random.default_rng(0).normal(size=(8, small.ITEMS)).astype(np.float32)
    popularity = PopularityOverTime(log_share, np.int32(small.NOW - 40 * DAY), np.int32(5 * DAY))
    tables = small.tables()._replace(popularity=popularity)
    (own_loss, _), own = own_gradient(config, tables=jax.tree.map(jnp.asarray, tables))
    graphdef, state = create(config, small.SIZES)
    state, tables = replicate(mesh, (state, tables))
    batch = shard_batch(mesh, small.batch())
    loss, gradient = make_gradient(config, graphdef, mesh, CORPUS)(state, batch, tables)
    np.testing.assert_allclose(own_loss, loss, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), own, gradient)


def test_training_opens_with_the_popularity_of_its_log(tmp_path):
    config = small_run.config(small_run.write_data(tmp_path / "data"))

    def opened(half_life):
        objective = dataclasses.replace(config.objective, popularity_half_life_days=half_life)
        return open_training_data(dataclasses.replace(config, objective=objective)).tables.popularity

    assert opened(0.0) is None
    found = opened(7.0)
    assert found.log_share.shape == (128, 50)
    assert found.log_share[-1].std() > 0.1


def test_what_the_config_refuses():
    assert ObjectiveConfig(popularity_half_life_days=7.0).popularity_half_life_days == 7.0
    for wrong in (-1.0, 0.01, 40_000.0):
        with pytest.raises(ValueError, match=r"objective.popularity_half_life_days .* an hour to"):
            ObjectiveConfig(popularity_half_life_days=wrong)
    with pytest.raises(ValueError, match=r"objective.popularity_half_life_days .* needs objective.loss"):
        dataclasses.replace(ObjectiveConfig(popularity_half_life_days=7.0), loss="binary_cross_entropy")
