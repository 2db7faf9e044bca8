"""The catalogue: numbers, titles, topics and vectors of the items of the log and of the item table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.format import open_memmap

from pinnerformer_jax.config import ItemsConfig
from pinnerformer_jax.data.catalog import FEATURES, ITEMS, TEXT
from pinnerformer_jax.data.ragged import flat_ranges
from pinnerformer_jax.data.timelines import TRAIN, Shard
from pinnerformer_jax.ingestion.log_reader import literal

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from pinnerformer_jax.ingestion.item_vectors import Built

MAX_VECTOR_EVENTS = 25_000_000
"""Vectors are built from so many events at most; of a larger log from every k-th user."""

BATCH = 1 << 14
"""Vectors that are written at a time."""


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
    write_vectors: Callable[[duckdb.DuckDBPyConnection, Path, int], None] | None = None,
) -> np.ndarray:
    """Write the folder of the catalogue from the table `items`.

    Args:
        connection: where that table is.
        items: where vectors come from.
        shards: the timelines, from which vectors that are not given are built.
        folder: to write.
        report: called with a line if the vectors are built from a sample of the users.
        write_vectors: writes those that are given; None: `write_given`.

    Returns:
        bool [N]: items that have a vector.
    """
    import pyarrow as pa

    folder.mkdir(parents=True)
    count = connection.execute("SELECT count(*) FROM items").fetchone()[0]
    if items.vector:
        (write_vectors or write_given)(connection, folder / FEATURES, count)
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
    for batch in connection.sql(query).to_arrow_reader(BATCH):
        features[batch["number"].to_numpy()] = unit_vectors(batch["vector"])
    features.flush()


def unit_vectors(column: pa.Array) -> np.ndarray:
    """A column of lists of one length, none of zeros, as float16 [N, D_item] of unit length."""
    vectors = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
    vectors = vectors / np.abs(vectors).max(axis=1, keepdims=True)  # so that no square overflows
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


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
