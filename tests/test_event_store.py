"""The store of newest events, table by table."""

import dataclasses

import duckdb
import pyarrow as pa
from event_world import DATA, NONE, SECOND, START, events_of, load, row

from pinnerformer_jax.config import PositiveRule
from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.data.contracts import DAY
from pinnerformer_jax.serving import event_store
from pinnerformer_jax.serving.event_file import event_files, merged
from pinnerformer_jax.serving.manifest import TimelineCounts


def test_the_newest_events_of_the_timelines(connection, timelines, tmp_path):
    _, left = event_store.load_stored(
        connection, None, Catalog.of(timelines), 3, (START + 4) * SECOND, tmp_path
    )
    assert left == TimelineCounts(without_item=0, timelines_after_day=1)
    assert events_of(connection) == [
        (5, "item-4", "", "search", START * SECOND, 1.0),
        (5, "item-4", "view", "", (START + 1) * SECOND, 2.0),
        *(
            (7, f"item-{k % 3}", ("view", "like")[k % 2], "home", (START + k) * SECOND, k / 2)
            for k in (1, 2, 3)
        ),
    ]


def test_a_state_and_timelines_are_united(connection, timelines, tmp_path):
    files, _ = event_store.load_stored(
        connection, None, Catalog.of(timelines), 9, (START + 99) * SECOND, tmp_path
    )
    load(connection, tmp_path, [row(second=50), row(second=51, user=9)])
    event_store.merge_events(connection, NONE, 9)
    (tmp_path / "base").mkdir()
    assert event_store.write_kept(connection, files, NONE, tmp_path / "base", whole=False) == 9
    kept = pa.concat_tables(merged(event_files(tmp_path / "base")))
    assert kept["user_id"].to_pylist() == [5] * 2 + [7] * 6 + [9]
    with duckdb.connect() as again:
        event_store.load_catalogue(again, Catalog.of(timelines), pa.array([], pa.string()))
        again.execute("DELETE FROM items WHERE item_id = 'item-4'")
        _, left = event_store.load_stored(
            again, tmp_path / "base", Catalog.of(timelines), 9, (START + 99) * SECOND, tmp_path
        )
        assert left == TimelineCounts(without_item=2, timelines_after_day=0)
        assert events_of(again) == [tuple(event.values()) for event in kept.to_pylist()[2:]]


def test_popularity_counts_recent_positives(connection, timelines, tmp_path):
    event_store.load_stored(connection, None, Catalog.of(timelines), 9, (START + 99) * SECOND, tmp_path)
    load(connection, tmp_path, [row("item-2", 8), row("item-2", 9), row("item-1", 9, duration=0.4)])
    event_store.merge_events(connection, NONE, 9)
    rules = (PositiveRule("view", 0.5, "home"), PositiveRule("like"))

    def popularity(since, half_life_days):
        return event_store.popularity(
            connection, rules, (START + since) * SECOND, START + 10, half_life_days, 5
        )

    for half_life_days in (None, 1 / DAY):
        assert popularity(1, half_life_days).popular.tolist() == [2, 1, 0]
        assert popularity(8, half_life_days).popular.tolist() == [2]
    assert popularity(8, None).decayed is None
    kept = connection.execute("SELECT item_id, micros, action, duration, surface FROM kept").fetchall()
    counts = [0.0] * 5
    for item, micros, action, duration, surface in kept:
        if action == "like" or (action == "view" and duration >= 0.5 and surface == "home"):
            counts[int(item[-1])] += 2.0 ** (micros // SECOND - START - 10)
    assert popularity(8, 1 / DAY).decayed.tolist() == counts
    assert sum(counts) > 0.5


def test_an_event_of_the_same_second_is_the_same(connection, timelines, tmp_path):
    """Timelines have whole seconds, a log may have finer ones."""
    event_store.load_stored(connection, None, Catalog.of(timelines), 9, (START + 99) * SECOND, tmp_path)
    data = dataclasses.replace(DATA, time_unit="ms")
    known, new = row("item-0", 0, duration=0.0), row("item-0", 0, duration=0.1)
    rows = [event | {"time": event["time"] * 1000 + 250} for event in (known, new)]
    assert load(connection, tmp_path, rows, data=data).arrived == 2
    assert event_store.merge_events(connection, NONE, 9).known_already == 1
    assert connection.execute("SELECT micros FROM fresh").fetchall() == [(START * SECOND + 250_000,)]
