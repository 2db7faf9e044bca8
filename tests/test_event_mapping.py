"""Columns to facts: expressions, types, times and zones, and why a row cannot be used."""

import datetime
import decimal
import math
import uuid

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pinnerformer_jax.config import ColumnsConfig, DataConfig
from pinnerformer_jax.ingestion import rejects
from pinnerformer_jax.ingestion.event_mapping import stage
from pinnerformer_jax.ingestion.kinds import check_ids
from pinnerformer_jax.ingestion.log_reader import open_log

T = 1_700_000_000
BIG = 2**63 - 1


def staged(tmp_path, table, wanted="*", columns=None, with_vector=None, suffix="parquet", **data):
    """The rows of `staged` for a log of one file, in order."""
    path = tmp_path / f"log.{suffix}"
    if suffix == "csv":
        path.write_text(table)
    else:
        pq.write_table(pa.table(table), path)
    with duckdb.connect() as connection:
        open_log(connection, "log", "data.events", [str(path)], tmp_path / "work")
        if with_vector is not None:
            connection.execute("CREATE TABLE vectors AS SELECT unnest($1) AS item_id", [with_vector])
        config = DataConfig(columns=ColumnsConfig(**columns or {}), **data)
        stage(connection, "log", config, None if with_vector is None else "vectors")
        return connection.execute(f"SELECT {wanted} FROM staged ORDER BY row").fetchall()


def one(**columns):
    """A log of one row, good unless `columns` makes it bad."""
    row = {"user": "u", "item": "i", "time": T} | columns
    return {name: value if isinstance(value, pa.Array) else [value] for name, value in row.items()}


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


def together(tmp_path, files, wanted, columns=None, **data):
    """`staged` of a log of several files, each a table."""
    paths = []
    for number, table in enumerate(files):
        paths.append(str(tmp_path / f"{number}.parquet"))
        pq.write_table(pa.table(table), paths[-1])
    with duckdb.connect() as connection:
        open_log(connection, "log", "data.events", paths, tmp_path / "work")
        stage(connection, "log", DataConfig(columns=ColumnsConfig(**columns or {}), **data), None)
        return connection.execute(f"SELECT {wanted} FROM staged ORDER BY file, row").fetchall()


@pytest.mark.parametrize(
    ("value", "kind", "good"),
    [
        (7.0, pa.float64(), True), (-(2.0**53) + 1, pa.float64(), True), (2.0**53, pa.float64(), False),
        (1.5, pa.float64(), False), (math.inf, pa.float64(), False), (2.0**24 - 1, pa.float32(), True),
        (2.0**24, pa.float32(), False), (0.5, pa.float16(), False), (2048.0, pa.float16(), False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["user", "item"])
def test_ids_in_floating_point_numbers(tmp_path, value, kind, good, name):
    table = one(**{name: pa.array([value], kind)})
    rows = staged(tmp_path, table, f"{name}_id, reason, raw_{name} IS NULL, typeof({name}_id)")
    assert rows == [(int(value), None, True, "BIGINT") if good else (None, rejects.ROUNDED, False, "BIGINT")]


@pytest.mark.parametrize("cast", ["BIGINT", "VARCHAR"])
def test_a_cast_does_not_hide_a_rounded_id(tmp_path, cast):
    table = {"user": [7.0, 4873214862074860000.0, None], "item": ["i"] * 3, "time": [T] * 3}
    rows = staged(tmp_path, table, "reason", {"user": f"CAST(user AS {cast})"})
    assert rows == [(None,), (rejects.ROUNDED,), (rejects.NO_USER,)]


def test_small_ids_of_both_kinds_are_whole_numbers(tmp_path):
    files = [one(user=7), one(user=pa.array([8.0])), one(user=pa.array([None], pa.float64()))]
    rows = together(tmp_path, files, "user_id, reason")
    assert rows == [(7, None), (8, None), (None, rejects.NO_USER)]


@pytest.mark.parametrize("whole", [pa.int64(), pa.uint64()])
@pytest.mark.parametrize("real", [pa.float64(), pa.float32()])
def test_large_ids_of_both_kinds_are_refused(tmp_path, whole, real):
    files = [one(item=pa.array([4873214862074860001], whole)), one(item=pa.array([None], real))]
    message = (
        f"data.columns.item: 'item' is {whole} in .*0.parquet and .* in .*1.parquet.*may be rounded in 1 rows"
    )
    with pytest.raises(ValueError, match=message):
        together(tmp_path, files, "item_id")


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (pa.array([7]), pa.array(["7"]), r"int64 in .*string in .*or CAST\(\"user\" AS VARCHAR\) here"),
        (pa.array([7.0]), pa.array(["7"]), "float64 in .*string in .*write one type$"),
        (pa.array([7.0]), pa.array([7.0], pa.float32()), "float64 in .*float32 in .*write one type$"),
        (pa.array([7], pa.decimal128(38, 0)), pa.array([7.0]), "decimal128.* in .*float64 in "),
        (pa.array([7], pa.decimal128(38, 0)), pa.array([7], pa.decimal128(38, 30)), "write one type$"),
        (pa.array([7]), pa.array([True]), "int64 in .*bool in "),
        (pa.array([7], pa.decimal256(50, 2)), pa.array([7], pa.decimal256(50, 2)), "more than 38 digits"),
    ],
)  # fmt: skip
def test_ids_of_different_types(tmp_path, first, second, message):
    with pytest.raises(ValueError, match=f"data.columns.user = 'user' is .*{message}"):
        together(tmp_path, [one(user=first), one(user=second)], "user_id")


def test_whole_numbers_of_any_width_go_together(tmp_path):
    files = [one(user=pa.array([k], kind)) for k, kind in enumerate((pa.int32(), pa.int64(), pa.uint8()))]
    assert together(tmp_path, files, "user_id") == [(0,), (1,), (2,)]
    files = [one(user=7), one(user="007")]
    rows = together(tmp_path, files, "user_id", {"user": "CAST(user AS VARCHAR)"})
    assert rows == [("7",), ("007",)]
    files = [one(user=7), one(user=7.0)]
    with pytest.raises(ValueError, match=r"int64 in .*float64 in .*write one type$"):
        together(tmp_path, files, "user_id", {"user": "CAST(user AS VARCHAR)"})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            pa.array([uuid.UUID(int=5).bytes], pa.uuid()),
            r"is of type UUID.*write CAST\(\"user\" AS VARCHAR\)",
        ),
        (pa.array([b"x"]), r"is of type BLOB.*write decode\(\"user\"\) if .* hex\(\"user\"\)"),
        (pa.array([datetime.datetime(2020, 1, 1)]), "is of type TIMESTAMP.*write CAST"),
        (pa.array([datetime.time(1)]), "is of type TIME.*write CAST"),
    ],
)
def test_ids_that_later_steps_do_not_take(tmp_path, value, message):
    pq.write_table(pa.table(one(user=value)), tmp_path / "log.parquet")
    with duckdb.connect() as connection:
        open_log(connection, "log", "data.events", [str(tmp_path / "log.parquet")], tmp_path / "work")
        with pytest.raises(ValueError, match=f"data.columns.user = 'user' {message}"):
            check_ids(connection, "log", DataConfig())
        check_ids(connection, "log", DataConfig(columns=ColumnsConfig(user='hex(CAST("user" AS VARCHAR))')))


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_an_arrow_duration_has_a_unit(tmp_path, unit):
    lasted = pa.array([datetime.timedelta(seconds=90)], pa.duration(unit))
    assert staged(tmp_path, one(d=lasted), "duration, reason", {"duration": "d"}) == [(90.0, None)]
    since_1970 = pa.array([datetime.timedelta(seconds=T)], pa.duration(unit))
    (tmp_path / "t").mkdir()
    assert staged(tmp_path / "t", one(time=since_1970), "micros", time_unit="ms") == [(T * 10**6,)]


def test_durations_whose_unit_is_not_one(tmp_path):
    kinds = (pa.duration("ns"), pa.duration("s"), pa.int64())
    for other in kinds[1:]:
        files = [one(d=pa.array([3], kind)) for kind in (kinds[0], other)]
        with pytest.raises(
            ValueError, match=r"data.columns.duration uses 'd', which is duration\[ns\] in .*0.parquet"
        ):
            together(tmp_path, files, "duration", {"duration": "d"})
    with pytest.raises(ValueError, match="name the column alone"):
        staged(tmp_path, one(d=pa.array([3], kinds[0])), columns={"duration": "coalesce(d, 0)"})


@pytest.mark.parametrize("expression", ["to_milliseconds(d)", "TIME '00:00:02.5'"])
def test_intervals_as_durations(tmp_path, expression):
    assert staged(tmp_path, one(d=2500), "duration, reason", {"duration": expression}) == [(2.5, None)]


@pytest.mark.parametrize("kind", [pa.float32(), pa.float16()])
@pytest.mark.parametrize("expression", ["time", "CAST(time AS DOUBLE)", "time + 1"])
def test_times_too_coarse(tmp_path, kind, expression):
    value = pa.array([60_000.0], kind)
    for unit, seconds in (("s", 128), ("ms", 131), ("ns", 137)):
        with pytest.raises(ValueError, match=f"is a float32 .*0.parquet.*only to {seconds} s"):
            together(
                tmp_path, [one(time=value), one(time=7.0)], "micros", {"time": expression}, time_unit=unit
            )


def test_a_coarse_number_may_be_added_to_a_time(tmp_path):
    table = one(after=pa.array([0.5], pa.float32()))
    rows = staged(tmp_path, table, "micros", {"time": "CAST(time AS DOUBLE) + after"})
    assert rows == [(T * 10**6 + 500_000,)]


@pytest.mark.parametrize("field", ["user", "item", "time"])
@pytest.mark.parametrize("expression", ["3", "'user'", "1700000000 + 1", "CAST(3 AS VARCHAR)", "random()"])
def test_a_setting_without_a_column(tmp_path, field, expression):
    with pytest.raises(
        ValueError, match=rf"data.columns.{field} = .* uses no column: .*\['user', 'item', 'time'\]"
    ):
        staged(tmp_path, one(), columns={field: expression})


def test_a_number_of_a_column_is_no_column(tmp_path):
    table = {"0": ["u"], "1": ["i"], "2": [T]}
    numbers = {"user": "0", "item": "1", "time": "2", "action": "'x'"}
    assert staged(tmp_path, table, "user_id, item_id, action", numbers) == [("u", "i", "x")]
    with pytest.raises(ValueError, match=r"data.columns.item = '3' uses no column: .*\['0', '1', '2'\]"):
        staged(tmp_path, table, columns=numbers | {"item": "3"})


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_the_exact_case_of_a_name_wins(tmp_path, suffix):
    table = {"User": ["device"], "user": ["person"], "USER_1": ["other"], "item": ["i"], "time": [str(T)]}
    if suffix == "csv":
        table = "".join(",".join(line) + "\n" for line in (table, [value for [value] in table.values()]))
    values = {"user": "person", "User": "device", "USER_1": "other", "user_1": "other"}
    for setting, value in (values | {"upper(user)": "PERSON", 'upper("User")': "DEVICE"}).items():
        assert staged(tmp_path, table, "user_id", {"user": setting}, suffix=suffix) == [(value,)], setting
    for setting in ("USER", "lower(uSer)"):
        with pytest.raises(
            ValueError, match=r"data.columns.user: '.*' fits several columns, \['User', 'user'\]"
        ):
            staged(tmp_path, table, columns={"user": setting}, suffix=suffix)


@pytest.mark.parametrize(
    "text", ["true), 1 FROM log; SELECT (1", "1; SELECT 2", "1, 2", "1 FROM log", "true) FROM log --"]
)
def test_a_setting_is_one_expression(tmp_path, text):
    with pytest.raises(ValueError, match=r"data.where = .*(Parser Error|more than one SQL expression)"):
        staged(tmp_path, one(), where=text)


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
