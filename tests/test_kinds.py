"""Ids, times and durations by the types that the files have."""

import datetime
import math
import uuid

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from staged_log import T, one, staged, together

from pinnerformer_jax.config import ColumnsConfig, DataConfig
from pinnerformer_jax.ingestion import rejects
from pinnerformer_jax.ingestion.kinds import check_ids
from pinnerformer_jax.ingestion.log_reader import open_log


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
