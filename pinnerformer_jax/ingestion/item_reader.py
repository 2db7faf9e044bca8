"""The item table: ids of the log's type, titles, topics, texts and vectors, checked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pinnerformer_jax.config import ItemsConfig
from pinnerformer_jax.ingestion.event_mapping import bind, bind_optional
from pinnerformer_jax.ingestion.log_reader import BROKEN, FILE, ROW, FileRows, open_log
from pinnerformer_jax.remote_files import File

if TYPE_CHECKING:
    import duckdb

# Not names of columns of anybody's table, which DuckDB would take instead.
_RAW_ID, _GIVEN = f"{FILE}_item", f"{FILE}_given"


def open_item_files(
    connection: duckdb.DuckDBPyConnection,
    items: ItemsConfig,
    folder: Path,
    only: Sequence[FileRows] | None = None,
) -> list[File]:
    """Create the view `item_files` of items.table, or of `only` a part of it, see `open_log`; its files, none
    if no table is named."""
    if not items.table:
        return []
    return open_log(connection, "item_files", "items.table", [items.table], folder, items.csv, only)


def read_item_table(connection: duckdb.DuckDBPyConnection, items: ItemsConfig, item_type: str) -> None:
    """Create the view `item_vectors` (item_id, vector), and the table `item_table` (item_id, title, topic,
    text) of its items: those with a vector where vectors are given, else all. No table named: none.

    A vector of zeros is none. Ids are cast to the type they have in the log, and are unusable if that would
    change them. `open_item_files` comes first.

    Raises:
        ValueError: a column is missing, an id occurs twice, more than half of the ids are unusable, or
            vectors differ in length.
    """
    if not items.table:
        connection.execute(
            f"CREATE TABLE item_table (item_id {item_type}, title VARCHAR, topic VARCHAR, text VARCHAR)"
        )
        return
    map_item_rows(connection, items, item_type)
    check_item_ids(connection, items, item_type, item_table_counts(connection))
    if items.vector:
        check_vectors(connection, items.vector)
    connection.execute("CREATE VIEW item_vectors AS SELECT item_id, vector FROM item_rows WHERE given")
    connection.execute(f"CREATE TABLE item_table AS {ITEM_TABLE}")
    check_not_empty(connection, items, item_type)


ITEM_TABLE = "SELECT item_id, title, topic, text FROM item_rows WHERE item_id IS NOT NULL AND given"
"""Query of the items of `item_rows`."""


def map_item_rows(connection: duckdb.DuckDBPyConnection, items: ItemsConfig, item_type: str) -> None:
    """Create the view `item_rows` of `item_files`: item_id (null: unusable), title, topic, text, vector, and
    given, whether the item has what the catalogue asks for: a vector that is not zero, or nothing.

    Raises:
        ValueError: a column is missing, or a line of a CSV file is broken.
    """
    broken = connection.execute(
        f"SELECT {FILE}, {ROW} FROM item_files WHERE {BROKEN} IS NOT NULL ORDER BY ALL LIMIT 1"
    ).fetchone()
    if broken:
        raise ValueError(f"items.table: {broken[0]} line {broken[1]} is broken: check its fields and quotes")

    def column(setting: str, expression: str) -> str:
        return bind_optional(connection, "item_files", setting, expression)

    sql, kind = bind(connection, "item_files", "items.id", items.id)
    texts = [column("items.text", expression) for expression in items.text]
    vector = f"TRY_CAST({_GIVEN} AS FLOAT[])"
    given = f"coalesce(list_sum(list_transform({vector}, lambda x: abs(x))) > 0, false)"
    connection.execute(
        f"""
        CREATE VIEW item_rows AS SELECT
            {sql} AS {_RAW_ID},
            {exact_id(sql, kind, item_type)} AS item_id,
            nullif(trim(CAST({column("items.title", items.title)} AS VARCHAR)), '') AS title,
            nullif(trim(CAST({column("items.topic", items.topic)} AS VARCHAR)), '') AS topic,
            concat_ws(' ', {", ".join([*texts, "''"])}) AS text,
            {column("items.vector", items.vector)} AS {_GIVEN},
            {vector} AS vector,
            {given if items.vector else "true"} AS given
        FROM item_files"""
    )


def check_item_ids(
    connection: duckdb.DuckDBPyConnection, items: ItemsConfig, item_type: str, count: dict[str, Any]
) -> None:
    """Refuse `item_rows` where an id occurs twice, or if most are unusable.

    Args:
        connection: where the view is.
        items: for messages.
        item_type: of the ids.
        count: see `item_table_counts`.
    """
    if 2 * count["unusable_ids"] > count["rows"]:
        raise ValueError(
            f"items.table = {items.table!r}: {count['unusable_ids']:,} of {count['rows']:,} rows have no "
            f"usable id, such as {count['unusable_id']!r}: items.id = {items.id!r} must give ids of type "
            f"{item_type}, as in the log"
        )
    _refuse(
        connection,
        "SELECT item_id FROM item_rows WHERE item_id IS NOT NULL GROUP BY item_id HAVING count(*) > 1",
        "items.table has item {!r} more than once: keep one row an item",
    )


def check_not_empty(connection: duckdb.DuckDBPyConnection, items: ItemsConfig, item_type: str) -> None:
    """Refuse an `item_table` without an item."""
    if not connection.execute("SELECT count(*) FROM item_table").fetchone()[0]:
        raise ValueError(
            f"items.table = {items.table!r} has no item: are items.id = {items.id!r} "
            f"({item_type} in the log) and items.vector = {items.vector!r} the right columns?"
        )


def exact_id(sql: str, kind: str, wanted: str) -> str:
    """SQL of an id in another type; null where the type cannot hold it as it is."""
    if kind in ("FLOAT", "DOUBLE") and wanted not in ("FLOAT", "DOUBLE"):  # 7.0 is 7, 7.5 is none
        most = 2**24 if kind == "FLOAT" else 2**53  # from there on neighbouring whole numbers are one
        whole = f"isfinite({sql}) AND {sql} = trunc({sql}) AND abs({sql}) < {most}"
        return f"CASE WHEN {whole} THEN TRY_CAST(TRY_CAST({sql} AS BIGINT) AS {wanted}) END"
    if kind == wanted:
        return sql
    cast = f"TRY_CAST({sql} AS {wanted})"
    if kind == "VARCHAR" and "INT" in wanted:  # the engine rounds '7.5' to 8
        return f"CASE WHEN {cast} = TRY_CAST({sql} AS DECIMAL(38, 10)) THEN {cast} END"
    return cast if kind == "VARCHAR" else f"CASE WHEN TRY_CAST({cast} AS {kind}) = {sql} THEN {cast} END"


def item_table_counts(connection: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    """Of `item_rows`: "rows", "unusable_ids", and "unusable_id", the text of the least of them."""
    names = ("rows", "unusable_ids", "unusable_id")
    [counts] = connection.execute(
        f"SELECT count(*), count(*) FILTER (item_id IS NULL), "
        f"min(CAST({_RAW_ID} AS VARCHAR)) FILTER (item_id IS NULL) FROM item_rows"
    ).fetchall()
    return dict(zip(names, counts, strict=True))


def rows_in_log(connection: duckdb.DuckDBPyConnection) -> int:
    """Rows of `item_rows` whose item a stored event names, see `catalog_writer.number_items`."""
    query = "SELECT count(*) FROM item_rows WHERE item_id IN (SELECT item_id FROM items WHERE seen)"
    return connection.execute(query).fetchall()[0][0]


def check_overlap(connection: duckdb.DuckDBPyConnection, table: str) -> str:
    """A line to show if fewer than half of the log's items are in the item table; "" if there are enough.

    Raises:
        ValueError: none is. The message has an id of each.
    """
    [(items, matched)] = connection.execute(
        "SELECT count(*), count(*) FILTER (t.item_id IS NOT NULL) FROM items AS i LEFT JOIN item_table AS t "
        "USING (item_id) WHERE seen"
    ).fetchall()
    ids = [
        connection.execute(f"SELECT min(CAST(item_id AS VARCHAR)) FROM {query}").fetchone()[0]
        for query in ("items WHERE seen", "item_table ANTI JOIN (FROM items WHERE seen) USING (item_id)")
    ]
    if not matched:
        raise ValueError(
            f"items.table = {table!r}: none of the {items:,} items of the log is in it: the log has ids such "
            f"as {ids[0]!r}, the table such as {ids[1]!r}; make items.id give the log's ids"
        )
    if 2 * matched >= items:
        return ""
    return f"WARNING: only {matched:,} of the {items:,} items of the log are in items.table = {table!r}"


def check_vectors(connection: duckdb.DuckDBPyConnection, setting: str) -> None:
    """Refuse `item_rows` with a vector of another length than most, or with a number that is none."""
    (dim,) = connection.execute("SELECT mode(len(vector)) FROM item_rows").fetchone()
    for condition, what in (
        (f"{_GIVEN} IS NOT NULL AND vector IS NULL", "is no list of numbers"),
        (f"len(vector) <> {dim or 0}", f"has not the {dim} numbers that most have"),
        (
            "len(list_filter(vector, lambda x: x IS NULL OR NOT isfinite(x))) > 0",
            "has a number that is null, NaN or infinite",
        ),
    ):
        _refuse(
            connection,
            f"SELECT item_id FROM item_rows WHERE {condition}",
            f"items.vector = {setting!r}: the vector of item {{!r}} {what}; mend it, or make it null",
        )


def _refuse(connection: duckdb.DuckDBPyConnection, query: str, message: str) -> None:
    """Raise ValueError if the query finds an item; the message names the first."""
    found = connection.execute(f"SELECT min(item_id) FROM ({query}) HAVING count(*) > 0").fetchone()
    if found:
        raise ValueError(message.format(found[0]))
