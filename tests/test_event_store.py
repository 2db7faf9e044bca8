"""The store of newest events, table by table."""

import dataclasses

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from logs import write_parquet
from prepared import write_prepared

from pinnerformer_jax.config import ColumnsConfig, DataConfig, PositiveRule
from pinnerformer_jax.data.timelines import Timelines
from pinnerformer_jax.serving import event_store
from pinnerformer_jax.serving.day_log import load_log
from pinnerformer_jax.serving.histories import write_histories
from pinnerformer_jax.serving.manifest import EventCounts, LogCounts, TimelineCounts

SECOND = 10**6
NONE = pa.array([], pa.int64())
START = 1_795_000_000
DATA = DataConfig(
    columns=ColumnsConfig(action="action", surface="surface", duration="duration"), max_reject_share=0.5
)


@pytest.fixture
def timelines(tmp_path):
    """Users 7 and 5 with five and two events of items 0 .. 4, a second apart; item 3 is no one's."""
    users = {
        7: [(k % 3, 1 + k % 2, 1, START + k, k / 2) for k in range(5)],
        5: [(4, 0, 2, START, 1.0), (4, 1, 0, START + 1, 2.0)],
    }
    return Timelines.open(write_prepared(tmp_path / "prepared", users, START + 9, items=5, shards=2))


@pytest.fixture
def connection(timelines):
    with duckdb.connect() as connection:
        event_store.load_catalogue(connection, timelines, pa.array([], pa.string()))
        yield connection


def stored(connection, table="stored"):
    return connection.execute(f"FROM {table} ORDER BY user_id, micros").fetchall()


def row(item="item-0", second=9, **values):
    return {
        "user": 7, "item": item, "time": START + second, "action": "view", "surface": "home", "duration": 0.5
    } | values  # fmt: skip


def load(connection, tmp_path, rows, end=START + 1000, data=DATA):
    write_parquet(tmp_path / "log.parquet", rows, user=pa.int64())
    return load_log(
        connection, [tmp_path / "log.parquet"], data, end * SECOND, tmp_path / "work",
        tmp_path / "rejects.parquet", tmp_path / "failed.parquet", NONE,
    )  # fmt: skip


def test_the_newest_events_of_the_timelines(connection, timelines, tmp_path):
    _, left = event_store.load_stored(connection, None, timelines, 3, (START + 4) * SECOND, tmp_path)
    assert left == TimelineCounts(without_item=0, timelines_after_day=1)
    assert stored(connection) == [
        (5, "item-4", "", "search", START * SECOND, 1.0),
        (5, "item-4", "view", "", (START + 1) * SECOND, 2.0),
        *(
            (7, f"item-{k % 3}", ("view", "like")[k % 2], "home", (START + k) * SECOND, k / 2)
            for k in (1, 2, 3)
        ),
    ]


def test_a_state_and_timelines_are_united(connection, timelines, tmp_path):
    file, _ = event_store.load_stored(connection, None, timelines, 9, (START + 99) * SECOND, tmp_path)
    load(connection, tmp_path, [row(second=50), row(second=51, user=9)])
    event_store.merge_events(connection, NONE, 9)
    (tmp_path / "base").mkdir()
    event_store.write_kept(connection, file, NONE, tmp_path / "base" / "events.parquet")
    kept = pq.read_table(tmp_path / "base" / "events.parquet")
    assert kept["user_id"].to_pylist() == [5] * 2 + [7] * 6 + [9]
    with duckdb.connect() as again:
        event_store.load_catalogue(again, timelines, pa.array([], pa.string()))
        again.execute("DELETE FROM items WHERE item_id = 'item-4'")
        _, left = event_store.load_stored(
            again, tmp_path / "base", timelines, 9, (START + 99) * SECOND, tmp_path
        )
        assert left == TimelineCounts(without_item=2, timelines_after_day=0)
        assert stored(again) == [tuple(event.values()) for event in kept.to_pylist()[2:]]


def test_what_becomes_of_a_log(connection, timelines, tmp_path):
    event_store.load_stored(connection, None, timelines, 9, (START + 99) * SECOND, tmp_path)
    rows = [
        row(),
        row(),  # twice
        row("item-9"),  # unknown
        row(second=1000),  # later
        row(action="skip"),
        row(user=None),
        row("item-0", 0, duration=0.0),  # in the store already
        row(user=5, second=7),  # deleted
    ]
    data = dataclasses.replace(DATA, where="time > 0", sequence_actions=("view", "like"))
    counts = load(connection, tmp_path, rows, data=data)
    assert counts == LogCounts(
        rows=8, out_of_scope=0, other_actions=1, after_day=1, arrived=3,
        rejected={"missing user": 1, "item without a feature vector": 1, "exact duplicate": 1},
    )  # fmt: skip
    merged = event_store.merge_events(connection, pa.array([5, 1], pa.int64()), 4)
    assert merged == EventCounts(deleted_users=1, of_deleted_users=1, known_already=1, new_events=1)
    changed = stored(connection, "changed")
    assert stored(connection, "kept") == [event[:6] for event in changed]
    assert [(event[4] // SECOND - START, event[6]) for event in changed] == [
        (2, False), (3, False), (4, False), (9, True)
    ]  # fmt: skip


def test_too_many_bad_rows_stop_it_and_stay_for_reading(connection, timelines, tmp_path):
    event_store.load_stored(connection, None, timelines, 9, (START + 99) * SECOND, tmp_path)
    with pytest.raises(ValueError, match=r"2 of 3 rows(.|\n)*failed.parquet"):
        load(connection, tmp_path, [row(user=None), row(item=None), row("item-9")])
    assert pq.read_table(tmp_path / "failed.parquet").num_rows == 3
    load_nothing_new = [row("item-8"), row("item-9")]
    with duckdb.connect() as again:
        event_store.load_catalogue(again, timelines, pa.array([], pa.string()))
        event_store.load_stored(again, None, timelines, 9, (START + 99) * SECOND, tmp_path)
        assert load(again, tmp_path, load_nothing_new).arrived == 0  # unknown items alone do not


def test_ids_of_other_integers_do_and_of_other_types_do_not(connection, timelines, tmp_path):
    event_store.load_stored(connection, None, timelines, 9, (START + 99) * SECOND, tmp_path)
    write_parquet(tmp_path / "text.parquet", [row(user="7")])
    write_parquet(tmp_path / "small.parquet", [row()], user=pa.int16())
    arguments = (DATA, START * 10**9, tmp_path / "work", tmp_path / "rejects", tmp_path / "failed", NONE)
    with pytest.raises(ValueError, match=r"'user' is of type VARCHAR, in the data .* it was BIGINT"):
        load_log(connection, [tmp_path / "text.parquet"], *arguments)
    connection.execute("DROP TABLE arrived; DROP VIEW log")
    load_log(connection, [tmp_path / "small.parquet"], *arguments)
    assert connection.execute("SELECT user_id, typeof(user_id) FROM arrived").fetchall() == [(7, "BIGINT")]


def test_who_is_embedded(connection, timelines, tmp_path):
    event_store.load_stored(connection, None, timelines, 9, (START + 99) * SECOND, tmp_path)
    load(connection, tmp_path, [row(), row(user=3)])
    event_store.merge_events(connection, NONE, 9)

    def chosen(requested, least=1):
        work = tmp_path / f"timelines-{len(list(tmp_path.glob('timelines-*')))}"
        found = write_histories(connection, timelines.manifest, requested, least, work)
        connection.execute("DROP VIEW events; DROP TABLE users")
        return found

    found = chosen(NONE)
    assert found.user_ids.to_pylist() == [3, 7]
    assert found.count.tolist() == [1, 6]
    [events] = found.timelines.shards
    assert found.newest.tolist() == [(START + 9) * SECOND] * 2
    assert events.item.tolist() == [0, 0, 1, 2, 0, 1, 0]
    assert events.action.tolist() == [1, 1, 2, 1, 2, 1, 1]
    assert events.surface.tolist() == [1] * 7
    assert events.time.tolist() == [START + k for k in (9, 0, 1, 2, 3, 4, 9)]
    assert chosen(pa.array([5, 42]), 2).user_ids.to_pylist() == [5, 7]
    assert chosen(None).user_ids.to_pylist() == [3, 5, 7]


def test_popularity_counts_recent_positives(connection, timelines, tmp_path):
    event_store.load_stored(connection, None, timelines, 9, (START + 99) * SECOND, tmp_path)
    load(connection, tmp_path, [row("item-2", 8), row("item-2", 9), row("item-1", 9, duration=0.4)])
    event_store.merge_events(connection, NONE, 9)
    rules = (PositiveRule("view", 0.5, "home"), PositiveRule("like"))
    assert event_store.popular_items(connection, rules, (START + 1) * SECOND).tolist() == [2, 1, 0]
    assert event_store.popular_items(connection, rules, (START + 8) * SECOND).tolist() == [2]


def test_an_event_of_the_same_second_is_the_same(connection, timelines, tmp_path):
    """Timelines have whole seconds, a log may have finer ones."""
    event_store.load_stored(connection, None, timelines, 9, (START + 99) * SECOND, tmp_path)
    data = dataclasses.replace(DATA, time_unit="ms")
    known, new = row("item-0", 0, duration=0.0), row("item-0", 0, duration=0.1)
    rows = [event | {"time": event["time"] * 1000 + 250} for event in (known, new)]
    assert load(connection, tmp_path, rows, data=data).arrived == 2
    assert event_store.merge_events(connection, NONE, 9).known_already == 1
    assert connection.execute("SELECT micros FROM fresh").fetchall() == [(START * SECOND + 250_000,)]
