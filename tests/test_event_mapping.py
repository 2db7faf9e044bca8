"""Columns to facts: expressions, types, times and zones, and why a row cannot be used."""

import datetime
import decimal
import math
import uuid

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from staged_log import BIG, T, one, staged

from pinnerformer_jax.config import DataConfig
from pinnerformer_jax.ingestion import rejects
from pinnerformer_jax.ingestion.event_mapping import stage
from pinnerformer_jax.ingestion.log_reader import open_log


def test_facts_of_a_row(tmp_path):
    columns = {"action": "what", "surface": "where_at", "duration": "ms / 1000", "title": "name"}
    table = one(what="like", where_at=3, ms=2500, name=" A name ")
    wanted = "user_id, item_id, micros, action, surface, duration, title, topic, reason, in_scope"
    assert staged(tmp_path, table, wanted, columns) == [
        ("u", "i", T * 10**6, "like", "3", 2.5, "A name", None, None, True)
    ]


def test_facts_that_are_not_mapped(tmp_path):
    assert staged(tmp_path, one(), "action, surface, duration, title") == [("event", "", 0.0, None)]


def test_null_facts(tmp_path):
    columns = {"action": "a", "surface": "s", "duration": "d"}
    table = one(a=pa.array([None], pa.string()), s="  ", d=pa.array([None], pa.float64()))
    assert staged(tmp_path, table, "action, surface, duration, reason", columns) == [("", "", 0.0, None)]


@pytest.mark.parametrize("name", ["User ID", "user-id", 'say "id"', "USER", "select", "größe"])
def test_any_name_of_a_column_needs_no_quotes(tmp_path, name):
    table = {name: ["u"], "item": ["i"], "time": [T]}
    assert staged(tmp_path, table, "user_id", {"user": name}) == [("u",)]


@pytest.mark.parametrize(
    "value",
    [
        "007", "ünï中", "a'b\"c", 7, -1, BIG, pa.array([2**64 - 1], pa.uint64()),
        decimal.Decimal("1.50"), True, datetime.date(2020, 2, 29), pa.array([b"\x00\xff"], pa.binary()),
        pa.array([uuid.UUID(int=5).bytes], pa.uuid()),
    ],
    ids=str,
)  # fmt: skip
def test_ids_keep_value_and_type(tmp_path, value):
    expected = value.to_pylist()[0] if isinstance(value, pa.Array) else value
    table = one(user=value, item=value)
    assert staged(tmp_path, table, "user_id, item_id, reason") == [(expected, expected, None)]


def test_ids_of_csv_are_text(tmp_path):
    rows = staged(tmp_path, f"user,item,time\n007,1e3,{T}\n", "user_id, item_id", suffix="csv")
    assert rows == [("007", "1e3")]


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
def test_a_damaged_page_names_the_file(tmp_path, compression):
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for path in paths:
        table = pa.table(
            {"user": [f"u{k % 90}" for k in range(2_000)], "item": ["i"] * 2_000, "time": [T] * 2_000}
        )
        pq.write_table(table, path, compression=compression)
    data = bytearray(paths[1].read_bytes())
    data[40:100] = bytes(255 - byte for byte in data[40:100])
    paths[1].write_bytes(data)
    with duckdb.connect() as connection:
        open_log(connection, "log", "data.events", [str(path) for path in paths], tmp_path / "work")
        with pytest.raises(ValueError, match=r"b\.parquet"):
            stage(connection, "log", DataConfig(), None)


def moment(text):
    return datetime.datetime.fromisoformat(text)


@pytest.mark.parametrize(
    ("value", "unit", "micros"),
    [
        (T, "s", T * 10**6),
        (T + 0.25, "s", T * 10**6 + 250_000),
        (str(T), "s", T * 10**6),
        (T * 1000 + 7, "ms", T * 10**6 + 7_000),
        (T * 10**6 + 7, "us", T * 10**6 + 7),
        (T * 10**9 + 7_999, "ns", T * 10**6 + 7),
        ("2023-11-14 22:13:20", "timestamp", T * 10**6),
        ("2023-11-14T22:13:20.5Z", "timestamp", T * 10**6 + 500_000),
        ("2023-11-14T23:13:20+01:00", "timestamp", T * 10**6),
        ("2023-11-14", "timestamp", 1_699_920_000 * 10**6),
        # A column of timestamps says itself what it is, whatever the unit of numbers.
        (moment("2023-11-14T22:13:20"), "s", T * 10**6),
        (moment("2023-11-14T22:13:20+00:00"), "timestamp", T * 10**6),
        (pa.array([T * 10**9], pa.timestamp("ns")), "timestamp", T * 10**6),
        (datetime.date(2023, 11, 14), "timestamp", 1_699_920_000 * 10**6),
    ],
)
def test_times(tmp_path, value, unit, micros):
    assert staged(tmp_path, one(time=value), "micros, reason", time_unit=unit) == [(micros, None)]


@pytest.mark.parametrize("value", ["2023-07-01 12:00:00", moment("2023-07-01T12:00:00")])
def test_a_time_without_zone_is_in_the_configs(tmp_path, value):
    noon = 1_688_212_800 * 10**6
    for zone, hours in (("UTC", 0), ("Europe/London", 1), ("America/New_York", -4), ("Asia/Kolkata", 5.5)):
        work = tmp_path / zone.replace("/", "-")
        work.mkdir()
        rows = staged(work, one(time=value), "micros", time_unit="timestamp", time_zone=zone)
        assert rows == [(noon - hours * 3600 * 10**6,)]


def test_a_time_with_zone_ignores_the_configs(tmp_path):
    table = one(time="2023-07-01T12:00:00Z")
    rows = staged(tmp_path, table, "micros", time_unit="timestamp", time_zone="Asia/Kolkata")
    assert rows == [(1_688_212_800 * 10**6,)]


NULL = pa.array([None], pa.string())


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (one(user=NULL), rejects.NO_USER),
        (one(user=" "), rejects.NO_USER),
        (one(user=math.nan), rejects.NO_USER),
        (one(item=NULL), rejects.NO_ITEM),
        (one(item=""), rejects.NO_ITEM),
        (one(time=pa.array([None], pa.int64())), rejects.NO_TIME),
        (one(time=""), rejects.NO_TIME),
        (one(time=math.nan), rejects.NO_TIME),
        (one(time="soon"), rejects.BAD_TIME),
        (one(time="inf"), rejects.BAD_TIME),
        (one(time=-1), rejects.TIME_RANGE),
        (one(time=T * 1000), rejects.TIME_RANGE),  # milliseconds taken for seconds
        (one(time=1e300), rejects.TIME_RANGE),
        (one(d=-0.5), rejects.DURATION_RANGE),
        (one(d=math.nan), rejects.DURATION_RANGE),
        (one(d=math.inf), rejects.DURATION_RANGE),
        (one(d="long"), rejects.BAD_DURATION),
        (one(item="other"), rejects.NO_VECTOR),
    ],
)
def test_reasons(tmp_path, row, reason):
    columns = {"duration": "d"} if "d" in row else {}
    rows = staged(tmp_path, row, "reason, micros", columns, with_vector=["i", ""])
    assert rows == [(reason, None)]


@pytest.mark.parametrize("value", ["2023-02-30", "14.11.2023 22:13", "1700000000"])
def test_unparsable_timestamps(tmp_path, value):
    assert staged(tmp_path, one(time=value), "reason", time_unit="timestamp") == [(rejects.BAD_TIME,)]


def test_time_range_is_inclusive_and_configurable(tmp_path):
    table = {"user": ["u"] * 4, "item": ["i"] * 4, "time": [T - 1, T, T + 9, T + 10]}
    allowed = {"time_min": "2023-11-14T22:13:20", "time_max": "2023-11-14T22:13:29"}
    reasons = [reason for (reason,) in staged(tmp_path, table, "reason", **allowed)]
    assert reasons == [rejects.TIME_RANGE, None, None, rejects.TIME_RANGE]


def test_rejected_rows_keep_their_raw_values(tmp_path):
    table = "user,item,time,d\n,007,never, -1x\nu,i\n"
    wanted = "row, reason, raw_user, raw_item, raw_time, raw_duration, broken"
    assert staged(tmp_path, table, wanted, {"duration": "d"}, suffix="csv") == [
        (2, rejects.NO_USER, None, "007", "never", " -1x", None),
        (3, rejects.BROKEN_LINE, None, None, None, None, "u,i"),
    ]


def test_rows_out_of_scope_are_not_judged(tmp_path):
    table = {
        "user": ["u", None, "u"],
        "item": ["i"] * 3,
        "time": ["1700000000", "x", "x"],
        "n": ["1", "z", None],
    }
    wanted = "in_scope, reason, user_id"
    # The cast would fail on the second row.
    rows = staged(tmp_path, table, wanted, {"duration": "CAST(n AS DOUBLE)"}, where="n = '1'")
    assert rows == [(True, None, "u"), (False, None, None), (False, None, None)]


@pytest.mark.parametrize("field", ["user", "item", "time", "action", "surface", "duration", "title", "topic"])
def test_a_missing_column_names_the_nearest(tmp_path, field):
    message = rf"data.columns.{field} = 'tmie': there is no such column. The nearest is 'time'. There are: \["
    with pytest.raises(ValueError, match=message):
        staged(tmp_path, one(), columns={field: "tmie"})


def test_a_missing_column_that_is_near_none(tmp_path):
    with pytest.raises(ValueError, match=r"there is no such column. There are: \['user', 'item', 'time'\]"):
        staged(tmp_path, one(), columns={"item": "xyz"})


@pytest.mark.parametrize(
    ("columns", "data", "message"),
    [
        ({"user": "lower(userr)"}, {}, r"data.columns.user = 'lower\(userr\)': .*\"userr\" not found"),
        ({"action": "CASE WHEN"}, {}, "data.columns.action = 'CASE WHEN': Parser Error"),
        ({"action": "nope(user)"}, {}, "data.columns.action .*nope does not exist"),
        ({"title": "count(*)"}, {}, "data.columns.title .*GROUP BY"),
        ({"user": "user; DROP TABLE log"}, {}, "data.columns.user .*Parser Error"),
        ({"user": "user), (item"}, {}, "data.columns.user .*this is more than one SQL expression"),
        ({"user": "user) FROM log WHERE (true"}, {}, "data.columns.user .*more than one SQL expression"),
        ({"user": "user) LIMIT (1"}, {}, "data.columns.user .*this is more than one SQL expression"),
        (
            {},
            {"where": "true), 1 FROM log; COPY (SELECT 1) TO 'x.csv'; SELECT (1"},
            "data.where .*one SQL exp",
        ),
        ({"user": "[user]"}, {}, r"data.columns.user = '\[user\]' is of type VARCHAR\[\]: cast it"),
        ({"item": "{'a': item}"}, {}, "data.columns.item .* is of type STRUCT.*: cast it"),
        ({"item": "time::HUGEINT"}, {}, "data.columns.item .* is of type HUGEINT: cast it"),
        ({"time": "time > 3"}, {}, "data.columns.time .* is of type BOOLEAN: for numbers set data.time_unit"),
        ({"time": "[time]"}, {}, r"data.columns.time .* is of type BIGINT\[\]"),
        (
            {},
            {"time_unit": "timestamp"},
            "data.columns.time .* is of type BIGINT: for numbers set data.time_unit",
        ),
        ({}, {"time_zone": "Mars/Base"}, "data.time_zone = 'Mars/Base': no such zone"),
        ({}, {"time_min": "yesterday"}, "data.time_min = 'yesterday': write an ISO time"),
        ({}, {"time_max": "2100-01-01"}, "data.time_max = '2100-01-01': a time is outside 1929..2066"),
        ({}, {"where": "tiem > 3"}, "data.where = 'tiem > 3': .*\"tiem\" not found"),
        ({}, {"where": "user"}, "cannot be read with these settings: .*TRY_CAST"),
        ({"duration": "CAST(user AS INT)"}, {}, "cannot be read with these settings: .*'u'.*TRY_CAST"),
        ({"action": "error('boom')"}, {}, "cannot be read with these settings: .*boom"),
    ],
)
def test_wrong_settings(tmp_path, columns, data, message):
    with pytest.raises(ValueError, match=message):
        staged(tmp_path, one(), columns=columns, **data)


def test_numbers_of_csv_need_a_cast(tmp_path):
    table = f"user,item,time,n\nu,i,{T},5\nu,i,{T},x\n"
    with pytest.raises(ValueError, match=r"data.where = 'n > 3': .*VARCHAR"):
        staged(tmp_path, table, suffix="csv", where="n > 3")


def test_a_cast_that_may_fail(tmp_path):
    table = f"user,item,time,n\nu,i,{T},5\nu,i,{T},x\n"
    rows = staged(tmp_path, table, "in_scope", suffix="csv", where="try_cast(n AS INT) > 3")
    assert rows == [(True,), (False,)]
