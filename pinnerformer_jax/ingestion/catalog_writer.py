"""From the log and the item table to the catalogue: numbers, titles, topics, vectors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.format import open_memmap

from pinnerformer_jax.config import ItemsConfig
from pinnerformer_jax.data.catalog import FEATURES, ITEMS, TEXT
from pinnerformer_jax.data.ragged import flat_ranges
from pinnerformer_jax.data.timelines import TRAIN, Shard
from pinnerformer_jax.ingestion.event_mapping import bind, bind_optional
from pinnerformer_jax.ingestion.log_reader import BROKEN, FILE, ROW, literal, open_log
from pinnerformer_jax.remote_files import File

if TYPE_CHECKING:
    import duckdb

    from pinnerformer_jax.ingestion.item_vectors import Built

MAX_VECTOR_EVENTS = 25_000_000
"""Vectors are built from so many events at most; of a larger log from every k-th user."""

_RAW_ID = f"{FILE}_item"  # likewise

_BATCH = 1 << 14  # vectors written at a time

_GIVEN = f"{FILE}_given"  # not the name of a column of anybody's table, which DuckDB would take instead


def open_item_files(connection: duckdb.DuckDBPyConnection, items: ItemsConfig, folder: Path) -> list[File]:
    """Create the view `item_files` of items.table, see `open_log`; its files, none if no table is named."""
    return (
        open_log(connection, "item_files", "items.table", [items.table], folder, items.csv)
        if items.table
        else []
    )


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
    broken = connection.execute(
        f"SELECT {FILE}, {ROW} FROM item_files WHERE {BROKEN} IS NOT NULL ORDER BY ALL LIMIT 1"
    ).fetchone()
    if broken:
        raise ValueError(f"items.table: {broken[0]} line {broken[1]} is broken: check its fields and quotes")

    def column(setting: str, expression: str) -> str:
        return bind_optional(connection, "item_files", setting, expression)

    sql, kind = bind(connection, "item_files", "items.id", items.id)
    texts = [column("items.text", expression) for expression in items.text]
    connection.execute(
        f"""
        CREATE VIEW item_rows AS SELECT
            {sql} AS {_RAW_ID},
            {exact_id(sql, kind, item_type)} AS item_id,
            nullif(trim(CAST({column("items.title", items.title)} AS VARCHAR)), '') AS title,
            nullif(trim(CAST({column("items.topic", items.topic)} AS VARCHAR)), '') AS topic,
            concat_ws(' ', {", ".join([*texts, "''"])}) AS text,
            {column("items.vector", items.vector)} AS {_GIVEN},
            TRY_CAST({_GIVEN} AS FLOAT[]) AS vector
        FROM item_files"""
    )
    count = item_table_counts(connection)
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
    if items.vector:
        _check_vectors(connection, items.vector)
    given = "list_sum(list_transform(vector, lambda x: abs(x))) > 0" if items.vector else "true"
    connection.execute(f"CREATE VIEW item_vectors AS SELECT item_id, vector FROM item_rows WHERE {given}")
    connection.execute(
        "CREATE TABLE item_table AS SELECT item_id, title, topic, text FROM item_rows "
        f"WHERE item_id IS NOT NULL AND {given}"
    )
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
    """Of the item table: "rows", "unusable_ids", and "unusable_id", the text of the least of them; once
    `number_items` has run also "in_log", rows of items that a stored event names."""
    known = {row[0] for row in connection.execute("SHOW TABLES").fetchall()}
    if "item_rows" not in known:
        return {}
    in_log = "item_id IN (SELECT item_id FROM items WHERE seen)" if "items" in known else "false"
    rows, unusable, example, found = connection.execute(
        f"SELECT count(*), count(*) FILTER (item_id IS NULL), "
        f"min(CAST({_RAW_ID} AS VARCHAR)) FILTER (item_id IS NULL), count(*) FILTER ({in_log}) FROM item_rows"
    ).fetchone()
    counts = {"rows": rows, "unusable_ids": unusable, "unusable_id": example}
    return counts | ({"in_log": found} if "items" in known else {})


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


def _check_vectors(connection: duckdb.DuckDBPyConnection, setting: str) -> None:
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


def seen_items(split: int) -> str:
    """Query of the items of `events`: item_id, events (up to the split), and the first title and topic by
    time, of all events and of those up to the split, each as {micros, text}."""
    early = f"micros < {(split + 1) * 10**6}"
    firsts = ", ".join(
        f"min({{'micros': micros, 'text': {name}}}) FILTER ({name} IS NOT NULL AND {condition}) "
        f"AS {when}_{name}"
        for name in ("title", "topic")
        for when, condition in (("any", "true"), ("early", early))
    )
    return f"SELECT item_id, count(*) FILTER ({early}) AS events, {firsts} FROM events GROUP BY item_id"


def sum_seen(parts: str) -> str:
    """Query of `seen_items` of the whole, from the relation of those of its parts."""
    firsts = ", ".join(
        f"min({when}_{name}) AS {when}_{name}" for name in ("title", "topic") for when in ("any", "early")
    )
    return f"SELECT item_id, sum(events)::BIGINT AS events, {firsts} FROM {parts} GROUP BY item_id"


def number_items(connection: duckdb.DuckDBPyConnection, seen: str, without_events: bool = False) -> None:
    """Create the table `items` (number, item_id, title, topic, text, trained, seen) from `seen`, a query
    of `seen_items`, and `item_table`: items with events up to the split first, the most frequent first, ties
    by the id's text. Items without any event, which are not `seen`, are among them if asked for.

    The item table's title and topic win. Those of the log are the first by time; of an item with events up to
    the split they are of these alone, as later ones must not feed its vector.
    """
    connection.execute(
        f"""
        CREATE TABLE items AS
        WITH seen AS ({seen}), known AS (
            SELECT item_id, coalesce(events, 0) AS events, events IS NOT NULL AS seen,
                coalesce(t.title, (CASE WHEN events > 0 THEN early_title ELSE any_title END).text) AS title,
                coalesce(t.topic, (CASE WHEN events > 0 THEN early_topic ELSE any_topic END).text) AS topic,
                t.text AS text
            FROM seen AS s {"FULL" if without_events else "LEFT"} JOIN item_table AS t USING (item_id)
        )
        SELECT row_number() OVER (ORDER BY events DESC, CAST(item_id AS VARCHAR)) - 1 AS number, item_id,
            title, topic, trim(concat_ws(' ', title, topic, text)) AS text, events > 0 AS trained, seen
        FROM known"""
    )


def write_catalog(
    connection: duckdb.DuckDBPyConnection,
    items: ItemsConfig,
    shards: list[Shard],
    folder: Path,
    report: Callable[[str], None],
) -> np.ndarray:
    """Write the folder of the catalogue from the table `items`.

    Args:
        connection: where that table is.
        items: where vectors come from.
        shards: the timelines, from which vectors that are not given are built.
        folder: to write.
        report: called with a line if the vectors are built from a sample of the users.

    Returns:
        bool [N]: items that have a vector.
    """
    import pyarrow as pa

    folder.mkdir(parents=True)
    count = connection.execute("SELECT count(*) FROM items").fetchone()[0]
    if items.vector:
        write_given(connection, folder / FEATURES, count)
        reachable = np.ones(count, bool)
    else:
        built = _build(connection, items, shards, count, report)
        reachable = np.asarray(built.vectors.any(axis=1))
        np.save(folder / FEATURES, built.vectors)
        write_text(folder / TEXT, built)
    connection.register("item_flags", pa.table({"number": np.arange(count), "reachable": reachable}))
    connection.execute(
        f"""
        COPY (
            SELECT item_id, title, topic, trained, reachable
            FROM items JOIN item_flags USING (number) ORDER BY number
        ) TO {literal(folder / ITEMS)} (FORMAT parquet)"""
    )
    return reachable


def write_given(connection: duckdb.DuckDBPyConnection, file: Path, count: int) -> None:
    """Write the vectors of the view `item_vectors`, scaled to unit length, as float16 [count, D_item], by the
    numbers that the table `items` gives."""
    [(dim,)] = connection.execute("SELECT max(len(vector)) FROM item_vectors").fetchall()
    features = open_memmap(file, "w+", np.float16, (count, dim))
    query = "SELECT number, vector FROM item_vectors JOIN items USING (item_id)"
    for batch in connection.sql(query).to_arrow_reader(_BATCH):
        vectors = batch["vector"].flatten().to_numpy(zero_copy_only=False).reshape(-1, dim)
        vectors = vectors / np.abs(vectors).max(axis=1, keepdims=True)  # so that no square overflows
        features[batch["number"].to_numpy()] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    features.flush()


def write_text(file: Path, built: Built) -> None:
    """Write what gives further items vectors by their text, if the vectors have a half of text; see
    `Catalog.text_arrays`."""
    if built.basis is None:
        return
    arrays = built.basis._asdict()
    if built.text_map is not None:
        arrays["map"] = built.text_map
    np.savez(file, allow_pickle=False, **arrays)


def _build(
    connection: duckdb.DuckDBPyConnection,
    items: ItemsConfig,
    shards: list[Shard],
    count: int,
    report: Callable[[str], None],
) -> Built:
    """Vectors from the training users' events up to the split."""
    from pinnerformer_jax.ingestion import item_vectors

    events = sum(int(shard.cut[shard.role == TRAIN].sum()) for shard in shards)
    step = -(-events // MAX_VECTOR_EVENTS)  # users are in the order of a hash: every k-th is a sample
    if step > 1:
        report(f"item vectors are built from one training user in {step}: {events:,} events are too many")
    users, rows, first = [], [], 0
    for shard in shards:
        chosen = np.flatnonzero(shard.role == TRAIN)[:: max(step, 1)]
        owner, event = flat_ranges(shard.offsets[chosen], shard.cut[chosen])
        users.append(first + chosen[owner])
        rows.append(shard.item[event])
        first += shard.users
    texts = connection.execute("SELECT text FROM items ORDER BY number").fetchnumpy()["text"].tolist()
    return item_vectors.build(
        np.concatenate(users), np.concatenate(rows), count, texts if any(texts) else None, items.built_dim
    )
