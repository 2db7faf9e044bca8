"""A small store of events for tests of serving, table by table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from logs import write_parquet
from prepared import write_prepared

from pinnerformer_jax.config import ColumnsConfig, DataConfig
from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.data.timelines import Timelines
from pinnerformer_jax.serving import event_store
from pinnerformer_jax.serving.day_log import load_log
from pinnerformer_jax.serving.manifest import LogCounts

SECOND = 10**6
NONE = pa.array([], pa.int64())
START = 1_795_000_000
DATA = DataConfig(
    columns=ColumnsConfig(action="action", surface="surface", duration="duration"), max_reject_share=0.5
)


def make_timelines(folder: Path) -> Timelines:
    """Users 7 and 5 with five and two events of items 0 .. 4, a second apart; item 3 has no event."""
    users = {
        7: [(k % 3, 1 + k % 2, 1, START + k, k / 2) for k in range(5)],
        5: [(4, 0, 2, START, 1.0), (4, 1, 0, START + 1, 2.0)],
    }
    return Timelines.open(write_prepared(folder / "prepared", users, START + 9, items=5, shards=2))


@contextmanager
def connect(timelines: Timelines) -> Iterator[duckdb.DuckDBPyConnection]:
    """An engine that has the catalogue."""
    with duckdb.connect() as connection:
        event_store.load_catalogue(connection, Catalog.of(timelines), pa.array([], pa.string()))
        yield connection


def events_of(connection: duckdb.DuckDBPyConnection, table: str = "stored") -> list[tuple[Any, ...]]:
    """Rows of a table, by user and time."""
    return connection.execute(f"FROM {table} ORDER BY user_id, micros").fetchall()


def row(item: str = "item-0", second: int = 9, **values: Any) -> dict[str, Any]:
    """A row of the log."""
    return {
        "user": 7, "item": item, "time": START + second, "action": "view", "surface": "home", "duration": 0.5
    } | values  # fmt: skip


def load(
    connection: duckdb.DuckDBPyConnection,
    folder: Path,
    rows: list[dict[str, Any]],
    end: int = START + 1000,
    data: DataConfig = DATA,
) -> LogCounts:
    """Write rows as a log and load it."""
    write_parquet(folder / "log.parquet", rows, user=pa.int64())
    return load_log(
        connection, [folder / "log.parquet"], data, end * SECOND, folder / "work",
        folder / "rejects.parquet", folder / "failed.parquet", NONE,
    )  # fmt: skip
