"""The item table in parts: its rows are mapped and checked and its vectors scaled once, by `items`; the other
stages read what it wrote. See part_job.py."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.format import open_memmap

from pinnerformer_jax.config import ItemsConfig
from pinnerformer_jax.ingestion import ingest, item_reader
from pinnerformer_jax.ingestion.catalog_writer import BATCH, unit_vectors
from pinnerformer_jax.ingestion.log_reader import literal, open_log, parquet_files, restrict
from pinnerformer_jax.ingestion.part_job import Job, Task

if TYPE_CHECKING:
    import duckdb

ROWS, VECTORS, TABLE = "rows.parquet", "vectors.float16", "items.parquet"


def items(job: Job, task: Task) -> dict[str, Any]:
    """Write the rows of the item table that have a usable id, with the part and the place in it of each
    vector, and the vectors."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    connection, config, data = task.connection, job.config.items, job.config.data
    # Of the log the columns alone, for the type of its ids.
    files = open_log(connection, "log", "data.events", data.events, task.scratch / "log", data.csv, only=())
    files += item_reader.open_item_files(connection, config, task.scratch / "items", job.table[task.part])
    restrict(connection, files, [job.work])
    item_type = ingest.type_of_items(connection, data)
    item_reader.map_item_rows(connection, config, item_type)
    counts = item_reader.item_table_counts(connection)
    if config.vector:
        item_reader.check_vectors(connection, config.vector)
    [(dim,)] = connection.execute("SELECT max(len(vector)) FILTER (given) FROM item_rows").fetchall()
    vectors = ", vector" if config.vector else ""
    batches = connection.sql(
        f"SELECT item_id, title, topic, text, given{vectors} FROM item_rows WHERE item_id IS NOT NULL"
    ).to_arrow_reader(BATCH)
    schema = pa.schema([field for field in batches.schema if field.name != "vector"])
    schema = schema.append(pa.field("part", pa.int64())).append(pa.field("place", pa.int64()))
    written = 0
    with pq.ParquetWriter(task.out / ROWS, schema) as rows, open(task.out / VECTORS, "wb") as file:
        for batch in batches:
            given = batch["given"].to_numpy(zero_copy_only=False)
            columns = [batch[name] for name in schema.names[:-2]]
            columns += [np.full(len(given), task.part), written + np.cumsum(given) - 1]
            rows.write_batch(pa.record_batch(columns, schema=schema))
            written += int(given.sum())
            if config.vector and given.any():
                file.write(unit_vectors(batch.filter(batch["given"])["vector"]).tobytes())
    return counts | {"item_type": item_type, "dim": dim, "vectors": written if config.vector else 0}


def table(job: Job, task: Task) -> dict[str, Any]:
    """Write the item table as a whole."""
    connection, config = task.connection, job.config.items
    parts = job.all_facts("items")
    kind = parts[0]["item_type"]
    connection.execute(f"CREATE VIEW item_rows AS FROM {parquet_files(job.here('items', ROWS))}")
    examples = [of["unusable_id"] for of in parts if of["unusable_id"] is not None]
    counts = {name: sum(of[name] for of in parts) for name in ("rows", "unusable_ids")}
    counts["unusable_id"] = min(examples, default=None)
    item_reader.check_item_ids(connection, config, kind, counts)
    dims = {of["dim"]: job.table[part][0] for part, of in reversed(list(enumerate(parts))) if of["dim"]}
    if len(dims) > 1:
        (one, first), (other, second), *_ = sorted(dims.items())
        raise ValueError(
            f"items.vector = {config.vector!r}: vectors have {one} numbers in {first}, {other} in {second}: "
            "all must have the same"
        )
    connection.execute(f"CREATE VIEW item_table AS {item_reader.ITEM_TABLE}")
    item_reader.check_not_empty(connection, config, kind)
    connection.execute(f"COPY (FROM item_rows) TO {literal(task.out / TABLE)} (FORMAT parquet)")
    return counts | {"dim": max(dims, default=None)}


def open_item_table(job: Job, connection: duckdb.DuckDBPyConnection, item_type: str) -> None:
    """Create `item_table`, see `item_reader.read_item_table`, and the view `item_rows` that it is made of."""
    if not job.config.items.table:
        return item_reader.read_item_table(connection, ItemsConfig(), item_type)
    job.all_facts("table")
    connection.execute(f"CREATE VIEW item_rows AS FROM {parquet_files(job.folder('table', 0) / TABLE)}")
    connection.execute(f"CREATE VIEW item_table AS {item_reader.ITEM_TABLE}")
    return None


def write_vectors(job: Job, connection: duckdb.DuckDBPyConnection, file: Path, count: int) -> None:
    """The same as `catalog_writer.write_given`, of what the parts wrote."""
    [facts] = job.all_facts("table")
    features = open_memmap(file, "w+", np.float16, (count, facts["dim"]))
    for part, of in enumerate(job.all_facts("items")):
        if not of["vectors"]:
            continue
        given = np.memmap(job.folder("items", part) / VECTORS, np.float16, "r").reshape(of["vectors"], -1)
        found = connection.execute(
            f"SELECT number, place FROM items JOIN item_rows USING (item_id) WHERE given AND part = {part} "
            "ORDER BY place"
        ).fetchnumpy()
        for start in range(0, len(found["place"]), BATCH):
            chunk = slice(start, start + BATCH)
            features[found["number"][chunk]] = given[found["place"][chunk].astype(np.int64)]
    features.flush()
