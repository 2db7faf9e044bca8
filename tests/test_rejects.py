"""Rejected rows: duplicates found, all counted and written, too many refused."""

import duckdb
import pyarrow.parquet as pq
import pytest

from pinnerformer_jax.ingestion import rejects

ROW = {
    "file": "a", "row": 1, "in_scope": True, "user_id": "u", "item_id": "i", "micros": 5_000_000,
    "action": "view", "surface": "", "duration": 1.5, "title": None, "topic": None, "reason": None,
    "raw_user": None, "raw_item": None, "raw_time": None, "raw_duration": None, "broken": None,
}  # fmt: skip


@pytest.fixture
def connection():
    with duckdb.connect() as connection:
        connection.execute(
            "CREATE TABLE staged (file VARCHAR, row BIGINT, in_scope BOOLEAN, user_id VARCHAR,"
            "item_id VARCHAR, micros BIGINT, action VARCHAR, surface VARCHAR, duration FLOAT, title VARCHAR,"
            "topic VARCHAR, reason VARCHAR, raw_user VARCHAR, raw_item VARCHAR, raw_time VARCHAR,"
            "raw_duration VARCHAR, broken VARCHAR)"
        )
        yield connection


def add(connection, **columns):
    connection.execute(
        f"INSERT INTO staged VALUES ({', '.join('?' * len(ROW))})", list((ROW | columns).values())
    )


def duplicates(connection):
    rejects.mark_duplicates(connection)
    query = f"SELECT file, row FROM staged WHERE reason = '{rejects.DUPLICATE}' ORDER BY file, row"
    return connection.execute(query).fetchall()


def test_the_first_of_equal_rows_is_kept(connection):
    for file, row in (("b", 1), ("a", 9), ("a", 2), ("a", 3)):
        add(connection, file=file, row=row)
    assert duplicates(connection) == [("a", 3), ("a", 9), ("b", 1)]


def test_rows_of_one_place_are_told_apart(connection):
    for item in ("i", "j", "j", "k", "j"):  # as unnest makes them of one row
        add(connection, item_id=item)
    assert duplicates(connection) == [("a", 1)] * 2
    kept = connection.execute("SELECT item_id FROM staged WHERE reason IS NULL ORDER BY item_id").fetchall()
    assert kept == [("i",), ("j",), ("k",)]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("user_id", "v"), ("item_id", "j"), ("micros", 5_000_001), ("action", "like"), ("surface", "home"),
        ("duration", 1.25), ("title", "t"), ("topic", "t"),
    ],
)  # fmt: skip
def test_rows_that_differ_in_anything_mapped_are_no_duplicates(connection, name, value):
    add(connection, row=1)
    add(connection, row=2, **{name: value})
    assert duplicates(connection) == []


def test_bad_rows_are_no_duplicates(connection):
    for row in range(4):
        add(connection, row=row, in_scope=row > 1, reason=rejects.NO_USER if row > 2 else None)
    assert duplicates(connection) == []


def test_counts_and_file(connection, tmp_path):
    add(connection, row=1)
    add(connection, row=2)
    add(connection, row=3, reason=rejects.BAD_TIME, raw_user="u", raw_time="soon", micros=None)
    add(connection, row=4, reason=rejects.BROKEN_LINE, broken="u,i", micros=None)
    add(connection, row=5, in_scope=False)
    rejects.mark_duplicates(connection)
    assert rejects.count(connection) == {
        rejects.BROKEN_LINE: 1,
        rejects.BAD_TIME: 1,
        rejects.DUPLICATE: 1,
    }
    rejects.write(connection, tmp_path / "it's.parquet")
    table = pq.read_table(tmp_path / "it's.parquet")
    assert table.column_names == ["file", "row", "reason", "user", "item", "time", "duration", "line"]
    assert [tuple(row.values()) for row in table.to_pylist()] == [
        ("a", 2, rejects.DUPLICATE, "u", "i", "1970-01-01 00:00:05", "1.5", None),
        ("a", 3, rejects.BAD_TIME, "u", None, "soon", None, None),
        ("a", 4, rejects.BROKEN_LINE, None, None, None, None, "u,i"),
    ]


@pytest.mark.parametrize(("bad", "allowed"), [(0, 0.0), (5, 0.05), (99, 1.0)])
def test_a_share_that_is_allowed(tmp_path, bad, allowed):
    rejects.check_share({rejects.NO_USER: bad}, 100, allowed, tmp_path)


@pytest.mark.parametrize(("bad", "allowed"), [(1, 0.0), (6, 0.05), (100, 1.0)])
def test_a_share_that_is_not(tmp_path, bad, allowed):
    counts = {rejects.NO_USER: bad - 1, rejects.TIME_RANGE: 1}
    with pytest.raises(ValueError, match=rf"{bad} of 100 rows \({bad}.0%\) are bad") as error:
        rejects.check_share(counts, 100, allowed, tmp_path / "rejects.parquet")
    message = str(error.value)
    for part in (
        f"data.max_reject_share = {allowed:g}",
        "is data.time_unit right",
        "rejects.parquet",
        "data.where",
    ):
        assert part in message


def test_every_reason_has_a_cure():
    named = [value for name, value in vars(rejects).items() if name.isupper() and isinstance(value, str)]
    assert set(named) == set(rejects.REASONS)
    assert all(rejects.REASONS.values())
