"""The score that is served: priors from the evaluation to the daily state and the recommendation."""

import json
import math
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from daily_run import (
    FIRST,
    ITEMS,
    ROWS,
    TRAINED,
    day,
    events_of,
    make_run,
    of_days,
    publish,
    run_day,
    users_of,
)
from logs import write_parquet

from pinnerformer_jax.config import PositiveRule
from pinnerformer_jax.data.contracts import DAY
from pinnerformer_jax.retrieval import priors as priors_module
from pinnerformer_jax.retrieval.priors import Priors, read_priors, write_priors
from pinnerformer_jax.retrieval.scann_index import ScannIndex
from pinnerformer_jax.serving import snapshot, state
from pinnerformer_jax.serving.manifest import read_manifest
from pinnerformer_jax.serving.ranking import OwnCounts, Ranking
from pinnerformer_jax.serving.recommender import Recommender
from pinnerformer_jax.serving.user_events import positive_events

PRIORS = Priors(0.4, 20.0, 0.2, 5.0, 0.6)


def served_scores(snapshots, user, days):
    """{item: score}, of all items, straight from ROWS."""
    rows, end = of_days(ROWS, 0, days), FIRST + days * DAY

    def count(item, half_life, of):
        return sum(
            2 ** ((row["time"] - end) / (half_life * DAY))
            for row in rows
            if row["item"] == item and of in (row["user"], None)
        )

    places, table = users_of(snapshots)
    vector = snapshot.vectors_of(table)[places[user]].astype(np.float32)
    items = snapshot.read_parquet(snapshots / state.current(snapshots) / "items.parquet")
    return {
        item: float(row @ vector)
        + PRIORS.own_weight * math.log1p(count(item, PRIORS.own_half_life_days, user))
        + PRIORS.popularity_weight
        * math.log1p(PRIORS.popularity_share * count(item, PRIORS.popularity_half_life_days, None))
        for item, row in zip(items["item_id"].to_pylist(), snapshot.vectors_of(items), strict=True)
    }


def assert_served_exactly(snapshots, days):
    recommender = Recommender.open(snapshots)
    users, _ = users_of(snapshots)
    for user in users:
        found = recommender.recommend(user, ITEMS)
        wanted = served_scores(snapshots, user, days)
        assert [item.score for item in found.items] == sorted([i.score for i in found.items], reverse=True)
        assert {item.id: item.score for item in found.items} == pytest.approx(wanted, abs=2e-5)
    assert "0.4 x log(1 + own count, half-life 20 days)" in found.formula


def test_recommendations_have_the_exact_score_day_after_day(tmp_path):
    workdir, snapshots = make_run(tmp_path, ROWS), tmp_path / "snapshots"
    write_priors(workdir, PRIORS, 1, "by hand")
    publish(workdir, snapshots, date=day(TRAINED - 1))
    assert_served_exactly(snapshots, TRAINED)
    for number in (TRAINED, TRAINED + 1):
        run_day((tmp_path, workdir, snapshots), number)
    assert_served_exactly(snapshots, TRAINED + 2)


def test_priors_that_come_later_count_all_events(tmp_path):
    workdir, snapshots = make_run(tmp_path, ROWS, max_length=4), tmp_path / "snapshots"
    publish(workdir, snapshots, date=day(TRAINED - 1), dtype="float32")
    before, vectors = users_of(snapshots)
    write_priors(workdir, PRIORS, 1, "by hand")
    name = run_day((tmp_path, workdir, snapshots), TRAINED)
    manifest = read_manifest(snapshots, name)
    assert manifest.kept_events == priors_module.KEPT_EVENTS
    assert manifest.counts.users.embedded_users == len(
        {row["user"] for row in of_days(ROWS, TRAINED, TRAINED + 1)}
    )
    assert_served_exactly(snapshots, TRAINED + 1)
    after, table = users_of(snapshots)
    quiet = set(before) - {row["user"] for row in of_days(ROWS, TRAINED, TRAINED + 1)}
    for user in quiet:
        old, new = (snapshot.vectors_of(t)[p[user]] for t, p in ((vectors, before), (table, after)))
        np.testing.assert_array_equal(old, new)


def test_no_more_events_are_kept_than_the_priors_count(tmp_path, monkeypatch):
    monkeypatch.setattr(priors_module, "KEPT_EVENTS", 6)
    workdir, snapshots = make_run(tmp_path, ROWS, max_length=4), tmp_path / "snapshots"
    write_priors(workdir, PRIORS, 1, "by hand")
    publish(workdir, snapshots, date=day(TRAINED - 1))
    name = run_day((tmp_path, workdir, snapshots), TRAINED)
    events = events_of(snapshots, name).to_pylist()
    rows = of_days(ROWS, 0, TRAINED + 1)
    for user in {row["user"] for row in rows}:
        newest = sorted(row["time"] for row in rows if row["user"] == user)[-6:]
        assert [e["micros"] // 10**6 for e in events if e["user_id"] == user] == newest


def test_a_late_event_is_not_read_by_the_model_and_still_counts(tmp_path):
    workdir, snapshots = make_run(tmp_path, ROWS, max_length=4), tmp_path / "snapshots"
    write_priors(workdir, PRIORS, 1, "by hand")
    publish(workdir, snapshots, date=day(TRAINED - 1))
    counted = Counter(row["user"] for row in of_days(ROWS, 0, TRAINED))
    late = {**ROWS[0], "user": counted.most_common(1)[0][0], "time": FIRST + 1}
    log = write_parquet(tmp_path / "late.parquet", [late])
    name = publish(workdir, snapshots, date=day(TRAINED), events=(log,))
    counts = read_manifest(snapshots, name).counts
    assert (counts.events.new_events, counts.users.embedded_users) == (1, 0)
    events = events_of(snapshots, name).to_pylist()
    oldest = next(event for event in events if event["user_id"] == late["user"])
    assert (oldest["micros"], oldest["item_id"]) == ((FIRST + 1) * 10**6, late["item"])


def test_priors_of_another_checkpoint_are_not_served(tmp_path):
    assert read_priors(tmp_path, 1) == (
        Priors(),
        f"no priors.json in {tmp_path}: served without priors; python -m pinnerformer_jax.evaluate fits them",
    )
    write_priors(tmp_path, PRIORS, 7, "by hand")
    assert read_priors(tmp_path, 7) == (PRIORS, PRIORS.formula)
    found, sentence = read_priors(tmp_path, 8)
    assert found.none
    assert "fitted for step 7, and this checkpoint is of step 8" in sentence
    (tmp_path / "priors.json").write_text('{"step": 7, "own_weight": "much"}')
    with pytest.raises(ValueError, match=r"priors.json: not what evaluate writes .*run evaluate again"):
        read_priors(tmp_path, 7)


class Nearest(ScannIndex):
    """An index that misses nothing."""

    def __init__(self, vectors):
        self.vectors, self.asked = vectors, []

    def search(self, queries, k):
        self.asked.append(k)
        scores = queries @ self.vectors.T
        rows = np.argsort(-scores, axis=1)[:, :k].astype(np.int32)
        return np.take_along_axis(scores, rows, 1), rows


@pytest.mark.parametrize("seed", range(20))
def test_few_candidates_are_enough(seed):
    rng = np.random.default_rng(seed)
    items, k = 3000, 10
    vectors = rng.normal(size=(items, 8)).astype(np.float32)
    vector = rng.normal(size=8).astype(np.float32)
    priors = Priors(rng.choice([0, 0.3, 3.0]), 30, rng.choice([0, 0.1, 2.0]), 7)
    popularity = rng.pareto(1, items) if priors.popularity_weight else None
    rows = rng.choice(items, 30, replace=False) if priors.own_weight else np.empty(0, np.int64)
    own = OwnCounts(np.sort(rows), rng.pareto(1, len(rows)))
    hidden = (
        np.unique(np.concatenate([rng.choice(items, 40), own.rows[:3]])) if seed % 2 else np.empty(0, int)
    )
    index = Nearest(vectors)
    scores, found = Ranking(vectors, index, priors, popularity).best(vector, k, own, hidden)
    counts = np.zeros(items)
    counts[own.rows] = own.counts
    wanted = vectors @ vector + priors.add(counts, np.zeros(items) if popularity is None else popularity)
    wanted[hidden] = -np.inf
    np.testing.assert_array_equal(found, np.argsort(-wanted)[:k])
    np.testing.assert_allclose(scores, wanted[found], rtol=1e-5)
    alone = Ranking(vectors, None, priors, popularity).best(vector, k, own, hidden)
    np.testing.assert_array_equal(alone[1], found)
    assert max(index.asked) < items


def test_all_items_may_be_asked_for():
    vectors = np.eye(4, dtype=np.float32)
    nothing = OwnCounts(np.empty(0, np.int64), np.empty(0))
    for index in (None, Nearest(vectors)):
        ranking = Ranking(vectors, index, Priors(), None)
        assert ranking.best(vectors[2], 9, nothing, np.array([0]))[1].tolist() == [2, 1, 3]
        assert ranking.best(vectors[2], 2, nothing, np.arange(4))[1].tolist() == []


def test_positive_events_are_those_of_the_rules():
    events = pa.table(
        {
            "item_id": ["a", "b", "c", "d"],
            "action": ["like", "view", "view", ""],
            "surface": ["home", "home", "search", ""],
            "micros": [1, 2, 3, 4],
            "duration": pa.array([0, 5, 50, 500], pa.float32()),
        }
    )

    def positive(*rules):
        return positive_events(events, rules).tolist()

    assert positive(PositiveRule()) == [True] * 4
    assert positive(PositiveRule(action="like"), PositiveRule(min_duration=50)) == [True, False, True, True]
    assert positive(PositiveRule(action="view", surface="search")) == [False, False, True, False]
    assert positive(PositiveRule(action="buy")) == [False] * 4
    assert positive_events(events.slice(0, 0), (PositiveRule(action="buy"),)).tolist() == []


def test_manifests_of_before_have_no_priors(tmp_path):
    workdir, snapshots = make_run(tmp_path, ROWS), tmp_path / "snapshots"
    name = publish(workdir, snapshots, date=day(TRAINED - 1))
    file = snapshots / name / "manifest.json"
    values = json.loads(file.read_text())
    for key in ("kept_events", "priors", "positives", "sha256"):
        del values[key]
    file.write_text(json.dumps(values))
    manifest = read_manifest(snapshots, name)
    assert manifest.priors == Priors()
    assert manifest.kept_events == manifest.max_length == 24
    assert Recommender.open(snapshots).recommend("u001").formula == "inner product"
