"""The synthetic world keeps the promises of its docstring."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pinnerformer_jax import synthetic as verb
from pinnerformer_jax.config_files import load_config
from pinnerformer_jax.data.contracts import DAY
from pinnerformer_jax.data.positives import positive_table
from pinnerformer_jax.files import sha256
from pinnerformer_jax.ingestion import synthetic, synthetic_world
from pinnerformer_jax.ingestion.synthetic import ACTIONS, START, SURFACES
from pinnerformer_jax.ingestion.synthetic_world import (
    STAGES,
    USERS_PER_BLOCK,
    SyntheticConfig,
    make_items,
    user_blocks,
)

CONFIG = SyntheticConfig(users=1500, items=1200, topics=20)
DEMO = load_config(Path(__file__).parents[1] / "configs" / "demo.py")


@pytest.fixture(scope="module")
def world():
    """(items, users, events) of one block."""
    items = make_items(CONFIG)
    _, users, rng = next(user_blocks(CONFIG))
    return items, users, synthetic.make_events(CONFIG, items, users, rng)


def positives(events):
    rules = positive_table(DEMO.data.positives, ["", *ACTIONS], ["", *SURFACES])
    return events["duration"] >= rules[events["action"] + 1, events["surface"] + 1]


def on_interest(items, users, events):
    """bool: the item's topic is one of the user's that is alive."""
    user, day = events["user"], events["time"] / DAY
    alive = synthetic.interest_weight(items, users, user, day) > 0
    return (alive & (users.topic[user] == items.topic[events["item"]][:, None])).any(axis=1)


def test_activity_and_popularity_have_heavy_tails(world):
    _, _, events = world
    for column, size in (("user", CONFIG.users), ("item", CONFIG.items)):
        count = np.sort(np.bincount(events[column], minlength=size))[::-1]
        assert count[: size // 10].sum() > 0.25 * count.sum()
        assert count[0] > 6 * np.median(count)


def test_no_event_before_a_birth(world):
    items, users, events = world
    day = events["time"] / DAY
    # Freshness is taken at the start of a session; its events are minutes later.
    assert (day >= items.born[events["item"]]).all()
    assert (day >= users.joined[events["user"]]).all()
    born = items.born[items.born >= 0]
    assert 0.4 < len(born) / CONFIG.items < 0.6
    assert np.histogram(born, bins=9, range=(0, 90))[0].min() > 40  # new items in every ten days
    last = np.unique(events["item"][day >= 76])
    assert (items.born[last] >= 76).mean() > 0.05  # and they are engaged with


def test_popularity_fades_with_age(world):
    items, _, events = world
    at_birth = np.flatnonzero((items.born > 0) & (items.born < 45))
    mine = np.isin(events["item"], at_birth)
    age = events["time"][mine] / DAY - items.born[events["item"][mine]]
    early, late = (age < 15).sum(), ((age >= 30) & (age < 45)).sum()
    assert early > 1.3 * late


def test_days_and_weeks_have_a_rhythm(world):
    items, _, events = world
    hour = np.bincount(events["time"] % DAY // 3600, minlength=24)
    assert hour.max() > 5 * hour.min()
    assert 16 <= hour.argmax() <= 22
    weekend = (events["time"] // DAY + synthetic.FIRST_WEEKDAY) % 7 >= 5
    kind = items.weekend[items.topic[events["item"]]]
    assert weekend[kind > 0].mean() > 1.5 * weekend[kind < 0].mean()


def test_actions_durations_and_surfaces_tell_of_interest(world):
    items, users, events = world
    liked = on_interest(items, users, events)
    assert 0.6 < liked.mean() < 0.9
    seconds = {
        name: np.median(events["duration"][(events["action"] == k) & liked]) for k, name in enumerate(ACTIONS)
    }
    assert seconds["click"] > seconds["closeup"] > seconds["repin"] > seconds["view"]
    share = [np.bincount(events["action"][liked == on], minlength=5) / (liked == on).sum() for on in (0, 1)]
    repin, hide, view = (ACTIONS.index(name) for name in ("repin", "hide", "view"))
    assert share[1][repin] > 5 * share[0][repin]
    assert share[0][hide] > 2 * share[1][hide]
    assert share[0][view] > 3 * share[1][view]
    search = events["surface"] == SURFACES.index("search")
    assert liked[search].mean() > 0.95
    assert (events["duration"] >= 0).all()


def test_better_fit_longer_and_more_often(world):
    items, users, events = world
    liked = on_interest(items, users, events)
    item, taste = events["item"], users.taste[events["user"]]
    fit = synthetic.style_fit(items, item, taste)
    assert fit[liked].mean() > 0.6  # 0.5 for an item at random
    closeup = liked & (events["action"] == ACTIONS.index("closeup"))
    good, poor = (np.median(events["duration"][closeup & which]) for which in (fit > 0.8, fit < 0.4))
    assert good > 1.3 * poor


def test_interests_pass_through_their_stages_in_order(world):
    items, users, events = world
    user, day = events["user"], events["time"] / DAY
    first = users.topic[user, 0] == items.topic[events["item"]]  # of the interest that never dies
    ahead = items.stage[events["item"]] - synthetic.interest_stage(users, user, np.zeros(len(user), int), day)
    share = np.bincount(ahead[first] % len(STAGES), minlength=len(STAGES)) / first.sum()
    assert share[0] > 0.55  # the stage it is in
    assert share[1] > share[5] > share[2:5].max()  # else the next, or the one before
    # So a stage later, the same interest takes items of the next stage.
    later = synthetic.interest_stage(users, user, np.zeros(len(user), int), day + users.pace[user, 0])
    now = synthetic.interest_stage(users, user, np.zeros(len(user), int), day)
    np.testing.assert_array_equal(later[first] - now[first], 1)


def test_sessions_hold_together_and_drift(world):
    items, _, events = world
    order = np.lexsort((events["time"], events["user"]))
    user, time = events["user"][order], events["time"][order]
    topic = items.topic[events["item"][order]]
    together = (np.diff(user) == 0) & (np.diff(time) < 600)
    apart = (np.diff(user) == 0) & (np.diff(time) > DAY)
    same = np.diff(topic) == 0
    assert 0.9 > same[together].mean() > 1.5 * same[apart].mean()


def test_items_are_seldom_taken_twice(world):
    _, _, events = world
    pairs = events["user"] * CONFIG.items + events["item"]
    assert 0.01 < 1 - len(np.unique(pairs)) / len(pairs) < 0.25


def test_most_users_have_positives_in_the_last_two_weeks(world):
    _, _, events = world
    late = events["time"] >= (CONFIG.days - 14) * DAY
    known = np.unique(events["user"][~late])
    with_target = np.unique(events["user"][late & positives(events)])
    assert np.isin(known, with_target).mean() > 0.7


def test_vectors_tell_much_but_not_all(world):
    items, _, _ = world
    assert items.vector.shape == (CONFIG.items, CONFIG.vector_dim)
    np.testing.assert_allclose(np.linalg.norm(items.vector, axis=1), 1, rtol=1e-5)
    similarity = items.vector @ items.vector.T
    np.fill_diagonal(similarity, -np.inf)
    near = np.argsort(-similarity, axis=1)[:, :10]
    same_topic = (items.topic[near] == items.topic[:, None]).mean()
    same_cell = (
        (items.topic[near] == items.topic[:, None]) & (items.stage[near] == items.stage[:, None])
    ).mean()
    assert same_topic > 0.8
    assert 0.4 < same_cell < 0.9


def test_only_the_true_process_finds_what_comes_next():
    """Recall@10 of the positives of the last two weeks, the user's other positives out of the way."""
    config = SyntheticConfig(users=USERS_PER_BLOCK)
    items = make_items(config)
    _, users, rng = next(user_blocks(config))
    events = synthetic.make_events(config, items, users, rng)
    positive, day, split = positives(events), events["time"] / DAY, config.days - 14
    every = np.arange(config.items)
    cell = items.topic * len(STAGES) + items.stage
    window = np.linspace(split, config.days, 29)
    fresh = np.mean([synthetic.freshness(items, every, np.full(config.items, d)) for d in window], axis=0)
    popularity = np.bincount(
        events["item"][positive & (day > split - 28) & (day <= split)], minlength=config.items
    )

    def expected(user):
        """How often each item is drawn in the window, up to a factor, by the process itself."""
        same = np.full(len(window), user)
        weight = synthetic.interest_weight(items, users, same, window)
        weight /= weight.sum(axis=1, keepdims=True)
        drawn = np.zeros((config.topics, len(STAGES)))
        for interest, topic in enumerate(users.topic[user]):
            stage = synthetic.interest_stage(users, same, np.full(len(window), interest), window)
            np.add.at(drawn[topic], stage % len(STAGES), weight[:, interest])
        appeal = np.diff(items.popularity) * fresh * synthetic.style_fit(items, every, users.taste[user])
        return drawn.ravel()[cell] * appeal / np.bincount(cell, appeal)[cell]

    hits = {"process": [], "popularity": [], "last items": [], "all items": []}
    for user in range(250):
        mine = np.flatnonzero(events["user"] == user)
        before = events["item"][mine[day[mine] <= split]]
        targets = np.unique(events["item"][mine[positive[mine] & (day[mine] > split)]])
        if not len(before) or not len(targets):
            continue
        of_method = {
            "process": expected(user),
            "popularity": popularity,
            "last items": items.vector @ items.vector[before[-10:]].mean(axis=0),
            "all items": items.vector @ items.vector[before].mean(axis=0),
        }
        for name, score in of_method.items():
            better = np.delete(score, targets)[:, None] >= score[targets]
            hits[name] += (better.sum(axis=0) < 10).tolist()
    recall = {name: np.mean(values) for name, values in hits.items()}
    assert recall["process"] > 0.25
    assert recall["process"] > 3 * recall["last items"]
    assert recall["last items"] > 1.5 * recall["all items"]
    assert recall["process"] > 10 * recall["popularity"]


@pytest.mark.slow
def test_files(tmp_path):
    config = dataclasses.replace(CONFIG, users=2100)  # two blocks, the second a small one
    rows = synthetic.write(config, tmp_path / "a")
    events = pq.read_table(tmp_path / "a" / "events.parquet")
    assert events.schema.names == ["user", "item", "time", "action", "surface", "duration"]
    assert events.num_rows == rows
    assert pq.read_metadata(tmp_path / "a" / "events.parquet").num_row_groups == 2
    time = events["time"].to_numpy()
    assert time.min() >= START
    assert time.max() < START + config.days * DAY
    items = pq.read_table(tmp_path / "a" / "items.parquet")
    assert items.schema.names == ["item", "title", "topic", "vector"]
    assert set(events["item"].to_pylist()) <= set(items["item"].to_pylist())
    assert len(set(items["topic"].to_pylist())) == config.topics
    assert all(
        t in title for t, title in zip(items["topic"].to_pylist(), items["title"].to_pylist(), strict=True)
    )

    synthetic.write(config, tmp_path / "b")
    synthetic.write(dataclasses.replace(config, seed=1), tmp_path / "c")
    for name in ("events.parquet", "items.parquet"):
        assert sha256(tmp_path / "a" / name) == sha256(tmp_path / "b" / name)
        assert sha256(tmp_path / "a" / name) != sha256(tmp_path / "c" / name)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["events.parquet", "items.parquet"]


def test_a_block_is_the_same_in_a_larger_world(world, monkeypatch):
    items, _, _ = world
    monkeypatch.setattr(synthetic_world, "USERS_PER_BLOCK", 100)
    small, large = (dataclasses.replace(CONFIG, users=users) for users in (200, 300))
    for (_, a, rng_a), (_, b, rng_b) in zip(user_blocks(small), user_blocks(large), strict=False):
        events_a = synthetic.make_events(small, items, a, rng_a)
        events_b = synthetic.make_events(large, items, b, rng_b)
        for name in events_a:
            np.testing.assert_array_equal(events_a[name], events_b[name])


def test_demo_config_reads_these_files(tmp_path):
    verb.main(["--out", str(tmp_path), "--users", "50", "--items", "240", "--days", "20"])
    events = pq.read_schema(tmp_path / "events.parquet").names
    columns = DEMO.data.columns
    assert {columns.user, columns.item, columns.time, columns.action, columns.surface} <= set(events)
    assert columns.duration in events
    items = DEMO.items
    assert {items.id, items.vector, items.title, items.topic} <= set(
        pq.read_schema(tmp_path / "items.parquet").names
    )


def test_errors_name_the_field():
    with pytest.raises(ValueError, match=r"items = 10: needs one per topic and stage, 144"):
        SyntheticConfig(items=10)
    with pytest.raises(ValueError, match=r"days = 0"):
        SyntheticConfig(days=0)
    with pytest.raises(ValueError, match="vector_dim = 7: must be even"):
        SyntheticConfig(vector_dim=7)
    with pytest.raises(ValueError, match="events_per_user"):
        SyntheticConfig(events_per_user=-1)
