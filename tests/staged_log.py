"""Logs for tests of the mapping: tables in, rows of `staged` out."""

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from pinnerformer_jax.config import ColumnsConfig, DataConfig
from pinnerformer_jax.ingestion.event_mapping import stage
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
