"""The item table is checked, items are numbered and described, vectors given or built."""

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prepared import write_prepared

from pinnerformer_jax.config import ItemsConfig
from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.data.timelines import EVALUATION, Manifest, Timelines, open_shard
from pinnerformer_jax.ingestion import catalog_writer, item_vectors
from pinnerformer_jax.ingestion.catalog_writer import number_items, seen_items, write_catalog
from pinnerformer_jax.ingestion.item_reader import (
    check_overlap,
    item_table_counts,
    open_item_files,
    read_item_table,
    rows_in_log,
)

SPLIT = 100


@pytest.fixture
def connection():
    with duckdb.connect() as connection:
        yield connection


def read_items(connection, tmp_path, columns, kind="VARCHAR", suffix="parquet", **items):
    path = tmp_path / f"items.{suffix}"
    if suffix == "csv":
        path.write_text(columns)
    else:
        pq.write_table(pa.table(columns), path)
    config = ItemsConfig(table=str(path), **items)
    open_item_files(connection, config, tmp_path / "work")
    read_item_table(connection, config, kind)
    return config


def add_events(connection, rows, kind="VARCHAR"):
    """(item, second, title, topic)"""
    connection.execute(f"CREATE TABLE events (item_id {kind}, micros BIGINT, title VARCHAR, topic VARCHAR)")
    rows = [(item, second * 10**6, title, topic) for item, second, title, topic in rows]
    if rows:
        connection.executemany("INSERT INTO events VALUES (?, ?, ?, ?)", rows)


def catalog_of(folder):
    """The catalogue alone, of a folder without a manifest."""
    return Catalog.of(Timelines(folder, Manifest([], [], SPLIT, SPLIT, 0, {}, {}, {}), []))


def items(connection, columns):
    return connection.execute(f"SELECT {columns} FROM items ORDER BY number").fetchall()


def test_items_of_the_training_period_come_first_by_frequency_then_id(connection):
    read_item_table(connection, ItemsConfig(), "BIGINT")
    seconds = {7: [1], 20: [1, 2, 3], 10: [1], 5: [SPLIT, SPLIT + 1, SPLIT + 2], 3: [SPLIT + 1] * 9}
    rows = [(item, second, None, None) for item, times in seconds.items() for second in times]
    add_events(connection, rows, "BIGINT")
    number_items(connection, seen_items(SPLIT))
    assert items(connection, "number, item_id, trained") == [
        (0, 20, True),
        (1, 10, True),
        (2, 5, True),
        (3, 7, True),
        (4, 3, False),
    ]


def test_items_that_no_event_names_are_left_out(connection, tmp_path):
    read_items(connection, tmp_path, {"item": ["b", "x", "a", "y"]})
    add_events(connection, [("b", 1, None, None), ("c", SPLIT + 1, None, None)])
    number_items(connection, seen_items(SPLIT))
    assert items(connection, "item_id, trained, seen") == [("b", True, True), ("c", False, True)]
    assert item_table_counts(connection) == {"rows": 4, "unusable_ids": 0, "unusable_id": None}
    assert rows_in_log(connection) == 1


def test_items_only_the_table_knows_come_last_if_asked_for(connection, tmp_path):
    read_items(connection, tmp_path, {"item": ["b", "x", "a", "y"]})
    add_events(connection, [("b", 1, None, None), ("c", SPLIT + 1, None, None)])
    number_items(connection, seen_items(SPLIT), without_events=True)
    assert items(connection, "item_id, trained") == [
        ("b", True), ("a", False), ("c", False), ("x", False), ("y", False),
    ]  # fmt: skip


def test_the_first_title_of_the_log_is_kept(connection):
    read_item_table(connection, ItemsConfig(), "VARCHAR")
    rows = [
        ("a", 3, "later", "t2"), ("a", 2, None, "t1"), ("a", 2, "first", None), ("a", SPLIT + 1, "new", "t3"),
        ("b", SPLIT + 2, "second", None), ("b", SPLIT + 1, "only later", None), ("b", SPLIT + 1, "tie", None),
        ("c", 1, None, "t4"), ("c", SPLIT + 1, "of the future", "t5"),
    ]  # fmt: skip
    add_events(connection, rows)
    number_items(connection, seen_items(SPLIT))
    assert items(connection, "item_id, title, topic, text") == [
        ("a", "first", "t1", "first t1"),
        ("c", None, "t4", "t4"),
        ("b", "only later", None, "only later"),
    ]


def test_the_tables_title_wins_and_text_is_all_there_is(connection, tmp_path):
    columns = {"id": ["a", "b"], "name": [" A ", ""], "kind": ["k", None], "maker": [5, 6]}
    read_items(
        connection, tmp_path, columns, id="id", title="name", topic="kind", text=("'maker' || maker", "kind")
    )
    add_events(connection, [("a", 1, "log's", "log's"), ("b", 2, "log's", "other")])
    number_items(connection, seen_items(SPLIT))
    assert items(connection, "title, topic, text") == [
        ("A", "k", "A k maker5 k"),
        ("log's", "other", "log's other maker6"),
    ]


@pytest.mark.parametrize(
    ("ids", "kind", "expected"),
    [
        ([7, 8], "VARCHAR", ["7", "8"]),
        (["07", "8"], "VARCHAR", ["07", "8"]),
        (["7", "8"], "BIGINT", [7, 8]),
        ([2**63 - 2, 2**63 - 1], "BIGINT", [2**63 - 2, 2**63 - 1]),
        (["7", "x"], "BIGINT", [7]),  # cannot be in the log
        (["7", None], "VARCHAR", ["7"]),
    ],
)
def test_ids_take_the_logs_type(connection, tmp_path, ids, kind, expected):
    read_items(connection, tmp_path, {"item": ids}, kind)
    assert [
        row[0] for row in connection.execute("SELECT item_id FROM item_table ORDER BY 1").fetchall()
    ] == expected


VECTORS = [[3.0, 4.0], [0.0, -2.0], [0.0, 0.0], None]


@pytest.mark.parametrize(
    "vectors",
    [VECTORS, pa.array(VECTORS, pa.list_(pa.float64(), 2)), ["[3, 4]", "[0, -2]", "[0, 0]", None]],
    ids=["lists", "fixed size", "text"],
)
def test_given_vectors_become_unit_rows(connection, tmp_path, vectors):
    config = read_items(connection, tmp_path, {"item": ["a", "b", "zero", "none"], "v": vectors}, vector="v")
    assert connection.execute("SELECT item_id FROM item_table ORDER BY 1").fetchall() == [("a",), ("b",)]
    add_events(connection, [("b", 1, None, None)])
    number_items(connection, seen_items(SPLIT), without_events=True)
    reachable = write_catalog(connection, config, [], tmp_path / "catalog", print)
    catalog = catalog_of(tmp_path)
    assert catalog.item_ids == ["b", "a"]
    assert catalog.features.tolist() == [[0.0, -1.0], [np.float16(0.6), np.float16(0.8)]]
    assert (catalog.trained, reachable.tolist(), catalog.reachable.tolist()) == (1, [True] * 2, [True] * 2)


def test_a_column_named_like_ours_is_not_taken_for_it(connection, tmp_path):
    columns = {"item": ["a"], "vec": [[3.0, 4.0]], "given": [[1.0, 0.0]]}
    read_items(connection, tmp_path, columns, vector="vec")
    assert connection.execute("SELECT vector FROM item_vectors").fetchall() == [([3.0, 4.0],)]


def test_columns_may_be_called_as_ours_are(connection, tmp_path):
    text = 'item,vector,given,text\na,"[3, 4]",x,1\nb,"[0, 0]",y,2\nc,,z,3\n'
    read_items(connection, tmp_path, text, suffix="csv", vector="vector", title="given", text=("text",))
    assert connection.execute("SELECT item_id, title FROM item_table").fetchall() == [("a", "x")]
    assert connection.execute("SELECT vector FROM item_vectors").fetchall() == [([3.0, 4.0],)]


def test_given_vectors_of_any_size_of_number(connection, tmp_path):
    vectors = [[3e30, 4e30], [3e-30, 4e-30]]
    config = read_items(connection, tmp_path, {"item": ["a", "b"], "v": vectors}, vector="v")
    add_events(connection, [])
    number_items(connection, seen_items(SPLIT), without_events=True)
    write_catalog(connection, config, [], tmp_path / "catalog", print)
    np.testing.assert_allclose(catalog_of(tmp_path).features, [[0.6, 0.8]] * 2, atol=1e-3)


def table(vectors, ids=("a", "b", "c")):
    return {"item": list(ids), "v": vectors}


GOOD = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]


@pytest.mark.parametrize(
    ("columns", "settings", "message"),
    [
        (table(GOOD, "aab"), {}, "items.table has item 'a' more than once"),
        (table([*GOOD[:2], [1.0]]), {"vector": "v"}, "the vector of item 'c' has not the 2 numbers"),
        (table([*GOOD[:2], [1.0, float("nan")]]), {"vector": "v"}, "of item 'c' has a number that is"),
        (table([[1.0, float("inf")], *GOOD[1:]]), {"vector": "v"}, "mend it, or make it null"),
        (table([[1.0, None], *GOOD[1:]]), {"vector": "v"}, "of item 'a' has a number that is null, NaN"),
        (table(["[1, 2]", "1 2", "[1, 2]"]), {"vector": "v"}, "of item 'b' is no list of numbers"),
        (table([1, 2, 3]), {"vector": "v"}, "the vector of item 'a' is no list of numbers"),
        (table([[0.0], [0.0], None]), {"vector": "v"}, "has no item: are items.id = 'item'"),
        (table(GOOD), {"vector": "vectors"}, "items.vector = 'vectors': there is no such column"),
        (table(GOOD), {"id": "itm"}, "items.id = 'itm': there is no such column. The nearest is 'item'"),
        (table(GOOD), {"title": "name"}, "items.title = 'name': there is no such column"),
        (table(GOOD), {"topic": "kind("}, r"items.topic = 'kind\(': Parser Error"),
        (table(GOOD), {"text": ("v", "w")}, "items.text = 'w': there is no such column"),
        ({"item": []}, {}, "has no item: are items.id"),
    ],
)  # fmt: skip
def test_wrong_item_tables(connection, tmp_path, columns, settings, message):
    with pytest.raises(ValueError, match=message):
        read_items(connection, tmp_path, columns, **settings)


def test_a_broken_line_of_the_item_table_is_an_error(connection, tmp_path):
    with pytest.raises(ValueError, match=r"items.table: .*items.csv line 3 is broken"):
        read_items(connection, tmp_path, "item,title\na,A\nb\n", suffix="csv")


@pytest.mark.parametrize(
    ("ids", "kind", "expected"),
    [
        (["1", "x", "7.5", "3.0", "007"], "BIGINT", [1, None, None, 3, 7]),
        (pa.array([1.0, 7.5, 2.0**60, 9.0]), "BIGINT", [1, None, None, 9]),
        (pa.array([1.0, 7.5, 3.0]), "VARCHAR", ["1", None, "3"]),
        (pa.array([2**53 + 1, 5, 6]), "DOUBLE", [None, 5.0, 6.0]),
        (pa.array([300, 5, 6]), "TINYINT", [None, 5, 6]),
    ],
)
def test_an_id_that_the_logs_type_cannot_hold_is_unusable(connection, tmp_path, ids, kind, expected):
    """A table of other ids is added, so that most are usable."""
    read_items(connection, tmp_path, {"item": ids}, kind)
    found = connection.execute("SELECT item_id FROM item_rows").fetchall()
    assert [row[0] for row in found] == expected
    assert item_table_counts(connection)["unusable_ids"] == expected.count(None)


def test_mostly_unusable_ids_are_an_error_with_an_example(connection, tmp_path):
    with pytest.raises(ValueError, match=r"2 of 3 rows have no usable id, such as 'SKU-1': .* type BIGINT"):
        read_items(connection, tmp_path, {"item": ["1", "SKU-2", "SKU-1"]}, "BIGINT")


def test_no_overlap_with_the_log_is_an_error_with_an_id_of_each(connection, tmp_path):
    read_items(connection, tmp_path, {"item": ["7", "8"]})
    add_events(connection, [("007", 1, None, None), ("008", 1, None, None)])
    number_items(connection, seen_items(SPLIT))
    with pytest.raises(ValueError, match=r"none of the 2 items of the log is in it: .* '007', .* '7'"):
        check_overlap(connection, "items.parquet")


@pytest.mark.parametrize(("table", "line"), [(["a"], "only 1 of the 3 items of the log"), (["a", "b"], "")])
def test_little_overlap_is_said(connection, tmp_path, table, line):
    read_items(connection, tmp_path, {"item": table})
    add_events(connection, [(item, 1, None, None) for item in "abc"])
    number_items(connection, seen_items(SPLIT))
    said = check_overlap(connection, "items.parquet")
    assert line in said
    assert bool(line) == bool(said)


def test_a_missing_item_table(connection, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"items.table = 'none.parquet': no such file"):
        open_item_files(connection, ItemsConfig(table="none.parquet"), tmp_path / "work")


def prepared_shards(tmp_path):
    """Six users of two events up to the split and one after it, one of them of the evaluation."""
    users = {f"u{k}": [(k, 1, 1, 10, 1.0), (k + 1, 1, 1, 20, 1.0), (9, 1, 1, 200, 1.0)] for k in range(6)}
    write_prepared(tmp_path / "shards-of", users, SPLIT, roles={"u2": EVALUATION}, shards=2)
    return [open_shard(tmp_path / "shards-of", k) for k in range(2)]


def built(connection, tmp_path, monkeypatch, texts, **limits):
    """What item_vectors.build is given for the shards above, and what is reported."""
    for name, value in limits.items():
        monkeypatch.setattr(catalog_writer, name, value)
    shards, asked, told = prepared_shards(tmp_path), [], []

    def build(*arguments):
        asked.extend(arguments)
        return item_vectors.Built(np.eye(10, 4, dtype=np.float16), None, None)

    monkeypatch.setattr(item_vectors, "build", build)
    connection.execute(
        "CREATE TABLE items AS SELECT k AS number, 'i' || k AS item_id, NULL::VARCHAR AS title,"
        f"NULL::VARCHAR AS topic, '{texts}' AS text, k < 9 AS trained FROM range(10) r(k)"
    )
    reachable = write_catalog(connection, ItemsConfig(built_dim=4), shards, tmp_path / "catalog", told.append)
    assert reachable.tolist() == catalog_of(tmp_path).reachable.tolist() == [True] * 4 + [False] * 6
    assert np.array_equal(catalog_of(tmp_path).features, np.eye(10, 4))
    return asked, told


def test_vectors_are_built_from_training_users_up_to_the_split(connection, tmp_path, monkeypatch):
    (user, item, count, texts, dim), told = built(connection, tmp_path, monkeypatch, "")
    assert (user.dtype, item.dtype, count, texts, dim) == (np.int64, np.int32, 10, None, 4)
    pairs = list(zip(user.tolist(), item.tolist(), strict=True))
    assert pairs == [(k, item) for k in range(6) if k != 2 for item in (k, k + 1)]
    assert told == []


def test_texts_go_to_the_builder(connection, tmp_path, monkeypatch):
    (_, _, _, texts, _), _ = built(connection, tmp_path, monkeypatch, "words")
    assert texts == ["words"] * 10


def test_of_too_many_events_a_sample_of_the_users_is_taken(connection, tmp_path, monkeypatch):
    (user, item, *_), told = built(connection, tmp_path, monkeypatch, "", MAX_VECTOR_EVENTS=6)
    assert sorted(set(user.tolist())) == [0, 3, 5]  # every second training user of each shard
    assert item.tolist() == [0, 1, 3, 4, 5, 6]
    assert "one training user in 2" in told[0]
