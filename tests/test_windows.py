import dataclasses
import pickle

import numpy as np
import pytest
from prepared import write_prepared

from pinnerformer_jax.config import Config, ModelConfig, ObjectiveConfig, TrainingConfig
from pinnerformer_jax.data.contracts import DAY, EPOCH, NO_TIME, part_bounds
from pinnerformer_jax.data.timelines import EVALUATION, TRAIN, VALIDATION, Timelines
from pinnerformer_jax.data.windows import Windows, histories_at_split, training_batches

SPLIT = 1_795_000_000
T, F = 6, 4


def config(**training) -> Config:
    return Config(
        model=ModelConfig(layers=1, width=8, heads=2, max_length=T),
        objective=ObjectiveConfig(horizon_days=10),
        training=TrainingConfig(**{"batch_size": 8, "steps": 20, "future_events": F} | training),
    )


@pytest.fixture
def timelines(tmp_path):
    """40 users of up to 30 events, one every two days or so, some after the split; items name the event."""
    rng = np.random.default_rng(0)
    users = {}
    for user in range(40):
        count = int(rng.integers(1, 31))
        times = SPLIT + 5 * DAY - np.sort(rng.choice(60 * DAY, count, replace=False))[::-1]
        users[user] = [(100 * user + k, 1, 1, int(t), float(k)) for k, t in enumerate(times)]
    roles = {user: (TRAIN, TRAIN, TRAIN, VALIDATION, EVALUATION)[user % 5] for user in users}
    write_prepared(tmp_path / "p", users, SPLIT, roles=roles, shards=3)
    return Timelines.open(tmp_path / "p")


def check(windows: Windows, step: int) -> None:
    """Every fact of a batch against the timelines, event by event."""
    timelines, batch = windows.timelines, windows.batch(step)
    for row in range(len(batch.length)):
        length, count = batch.length[row], batch.future_count[row]
        items, times = batch.history.item[row], batch.history.time[row]
        user = items[0] // 100
        shard_number = np.searchsorted(timelines.first_user, user, side="right") - 1
        shard, local = timelines.shards[shard_number], user - timelines.first_user[shard_number]
        assert shard.role[local] == windows.role
        events = slice(shard.offsets[local], shard.offsets[local] + shard.cut[local])
        life, moments = shard.item[events], shard.time[events]
        end = int(items[length - 1] % 100) + 1
        assert 1 <= end < len(life)
        np.testing.assert_array_equal(items[:length], life[max(0, end - T) : end])
        np.testing.assert_array_equal(times[:length].astype(np.int64) + EPOCH, moments[max(0, end - T) : end])
        assert (times[length:] == NO_TIME).all()
        assert not items[length:].any()
        after = np.flatnonzero((moments > moments[end - 1] - 1) & (moments <= moments[end - 1] + 10 * DAY))
        after = life[after[after >= end]]
        assert count == len(after)
        shipped = batch.future.item[row, : min(count, F)]
        assert len(set(shipped)) == min(count, F)
        assert set(shipped) <= set(after)
        assert (np.diff(batch.future.time[row].astype(np.int64)) >= 0).all()
        assert (batch.future.time[row, min(count, F) :] == NO_TIME).all()
        assert moments.max() <= SPLIT


@pytest.mark.parametrize("role", [TRAIN, VALIDATION])
def test_batches_hold_windows_of_their_users_and_nothing_after_the_split(timelines, role):
    for step in range(6):
        check(Windows(timelines, config(), role), step)


def test_an_epoch_holds_every_user_once(timelines):
    windows = Windows(timelines, config(batch_size=len(Windows(timelines, config()).users)))
    for step in range(2):
        seen = np.sort(windows.batch(step).history.item[:, 0] // 100)
        np.testing.assert_array_equal(seen, windows.users)


def test_short_lives_end_in_their_later_half(tmp_path):
    users = {0: [(k, 1, 1, SPLIT - 30 * DAY + k * 3600, 0.0) for k in range(8)]}
    users |= {1: [(k, 1, 1, SPLIT - 30 * DAY + k * 3600, 0.0) for k in (10, 11)]}
    write_prepared(tmp_path / "p", users, SPLIT)
    batches = [Windows(Timelines.open(tmp_path / "p"), config()).batch(step) for step in range(20)]
    ends = np.concatenate([b.history.item[np.arange(8), b.length - 1] for b in batches])
    assert set(ends) == {3, 4, 5, 6, 10}


@pytest.mark.parametrize("devices", [1, 2])
def test_part_lengths_fit_every_batch_they_were_made_for(timelines, devices):
    windows = Windows(timelines, config())
    parts = windows.part_lengths(4, devices, range(6))
    for step in range(6):
        lengths = windows.batch(step).length
        assert (np.diff(lengths) <= 0).all()
        for device in range(devices):
            rows = lengths[device::devices]
            bounds = part_bounds(len(rows), 4)
            assert all(rows[a:b].max() <= part for a, b, part in zip(bounds, bounds[1:], parts, strict=False))


def test_part_lengths_are_no_longer_than_needed(tmp_path):
    lives = {user: [(k, 1, 1, SPLIT - DAY + k, 0.0) for k in range(3 + 60 * (user < 2))] for user in range(8)}
    write_prepared(tmp_path / "p", lives, SPLIT)
    long = config()
    long = dataclasses.replace(long, model=dataclasses.replace(long.model, max_length=40))
    windows = Windows(Timelines.open(tmp_path / "p"), long)
    assert windows.part_lengths(4, 1, range(3)) == (40, 4, 4, 4)


def test_ends_are_spread_and_the_future_is_a_fair_sample(tmp_path):
    users = {0: [(k, 1, 1, SPLIT - 30 * DAY + k * 3600, 0.0) for k in range(100)]}
    write_prepared(tmp_path / "p", users, SPLIT)
    windows = Windows(Timelines.open(tmp_path / "p"), config(batch_size=200))
    batches = [windows.batch(step) for step in range(10)]
    ends = np.concatenate([b.history.item[np.arange(200), b.length - 1] for b in batches])
    # T events in, or later, all ends alike; the last event is kept for the future.
    assert (ends.min(), ends.max()) == (T - 1, 98)
    assert np.mean(ends) == pytest.approx((T - 1 + 98) / 2, abs=3)
    long = np.concatenate([b.future_count > 4 * F for b in batches])
    item = np.concatenate([b.future.item for b in batches])[long]
    count = np.concatenate([b.future_count for b in batches])[long]
    place = (item - ends[long][:, None] - 0.5) / count[:, None]
    assert place.mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("name", ["next_action", "sasrec", "sasrec_plain"])
def test_objectives_on_the_next_positive_get_the_first_events_after_the_window(tmp_path, name):
    users = {0: [(k, 1, 1, SPLIT - 30 * DAY + k * 3600, 0.0) for k in range(100)]}
    write_prepared(tmp_path / "p", users, SPLIT)
    settings = dataclasses.replace(config(), objective=ObjectiveConfig(name=name, horizon_days=10))
    batch = Windows(Timelines.open(tmp_path / "p"), settings).batch(0)
    ends = batch.history.item[np.arange(8), batch.length - 1]
    np.testing.assert_array_equal(batch.future_count, np.minimum(99 - ends, F))
    assert (batch.future_count == F).any()
    for row, (end, count) in enumerate(zip(ends, batch.future_count, strict=True)):
        assert batch.future.item[row, :count].tolist() == list(range(end + 1, end + 1 + count))


def test_grain_gives_the_same_batches_and_a_resume_is_a_seek(timelines):
    windows = Windows(timelines, config())
    stream = list(training_batches(timelines, config(), start_step=3, steps=9))
    assert len(stream) == 6
    for step, (batch, lengths) in enumerate(stream, start=3):
        np.testing.assert_array_equal(lengths, batch.length)
        for got, wanted in zip(
            batch.history + batch.future,
            windows.batch(step).history + windows.batch(step).future,
            strict=True,
        ):
            np.testing.assert_array_equal(got, wanted)


def test_workers_map_the_files_themselves(timelines):
    windows = pickle.loads(pickle.dumps(Windows(timelines, config())))
    np.testing.assert_array_equal(windows.batch(2).length, Windows(timelines, config()).batch(2).length)
    assert len(pickle.dumps(timelines)) < 1000, "the columns must not travel"


def test_histories_at_the_split(timelines):
    users = np.array([31, 2, 17, 4])
    history, length = histories_at_split(timelines, users, T)
    for row, user in enumerate(users):
        shard_number = np.searchsorted(timelines.first_user, user, side="right") - 1
        shard, local = timelines.shards[shard_number], user - timelines.first_user[shard_number]
        start, cut = shard.offsets[local], shard.cut[local]
        np.testing.assert_array_equal(
            history.item[row, : length[row]], shard.item[start + max(0, cut - T) : start + cut]
        )
        assert length[row] == min(cut, T)


def test_a_role_without_users_is_named(tmp_path):
    write_prepared(tmp_path / "p", {0: [(0, 1, 1, SPLIT, 0.0)]}, SPLIT)
    windows = Windows(Timelines.open(tmp_path / "p"), config())
    with pytest.raises(ValueError, match="no user of this role has two events before the split"):
        _ = windows.users
