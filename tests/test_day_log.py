"""The day's log by the rules of ingest."""

import dataclasses

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from event_world import DATA, NONE, SECOND, START, events_of, load, row
from logs import write_parquet

from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.serving import event_store
from pinnerformer_jax.serving.day_log import load_log
from pinnerformer_jax.serving.manifest import EventCounts, LogCounts


def test_what_becomes_of_a_log(connection, timelines, tmp_path):
    event_store.load_stored(connection, None, Catalog.of(timelines), 9, (START + 99) * SECOND, tmp_path)
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
    changed = events_of(connection, "changed")
    assert events_of(connection, "kept") == [event[:6] for event in changed]
    assert [(event[4] // SECOND - START, event[6]) for event in changed] == [
        (2, False), (3, False), (4, False), (9, True)
    ]  # fmt: skip


def test_too_many_bad_rows_stop_it_and_stay_for_reading(connection, timelines, tmp_path):
    event_store.load_stored(connection, None, Catalog.of(timelines), 9, (START + 99) * SECOND, tmp_path)
    with pytest.raises(ValueError, match=r"2 of 3 rows(.|\n)*failed.parquet"):
        load(connection, tmp_path, [row(user=None), row(item=None), row("item-9")])
    assert pq.read_table(tmp_path / "failed.parquet").num_rows == 3
    load_nothing_new = [row("item-8"), row("item-9")]
    with duckdb.connect() as again:
        event_store.load_catalogue(again, Catalog.of(timelines), pa.array([], pa.string()))
        event_store.load_stored(again, None, Catalog.of(timelines), 9, (START + 99) * SECOND, tmp_path)
        assert load(again, tmp_path, load_nothing_new).arrived == 0  # unknown items alone do not


def test_ids_of_other_integers_do_and_of_other_types_do_not(connection, timelines, tmp_path):
    event_store.load_stored(connection, None, Catalog.of(timelines), 9, (START + 99) * SECOND, tmp_path)
    write_parquet(tmp_path / "text.parquet", [row(user="7")])
    write_parquet(tmp_path / "small.parquet", [row()], user=pa.int16())
    arguments = (DATA, START * 10**9, tmp_path / "work", tmp_path / "rejects", tmp_path / "failed", NONE)
    with pytest.raises(ValueError, match=r"'user' is of type VARCHAR, in the data .* it was BIGINT"):
        load_log(connection, [tmp_path / "text.parquet"], *arguments)
    connection.execute("DROP TABLE arrived; DROP VIEW log")
    load_log(connection, [tmp_path / "small.parquet"], *arguments)
    assert connection.execute("SELECT user_id, typeof(user_id) FROM arrived").fetchall() == [(7, "BIGINT")]
