"""Vectors of users from a table of their events, without a state, a store or a prepared timeline."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pinnerformer_jax.config import Config
from pinnerformer_jax.data.timelines import Timelines
from pinnerformer_jax.data.windows import newest
from pinnerformer_jax.ingestion.ingest import set_up_engine
from pinnerformer_jax.model.inference import Embedder
from pinnerformer_jax.serving import event_store, snapshot
from pinnerformer_jax.training.checkpoint import load_for_inference, open_data

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

_NO_END = 2**62  # microseconds since 1970


def embed_events(workdir: str | Path, events: Any, checkpoint: Literal["best", "last"] = "best") -> pa.Table:
    """Embed users from a table of their events with a trained run; they need not be known to it.

    Nothing else is known of a user: give the newest events of each, T = `model.max_length` of them or more.
    Events of items that are not in the run's catalogue are left out.

    Args:
        workdir: of the run; its prepared folder must still be there.
        events: a pandas, polars or Arrow table with the columns of the run's log (`data.columns`), in any
            order, ids of the types that they have there.
        checkpoint: of the lowest validation loss, or the last.

    Returns:
        A row a user, by user id: "user_id", "event_timestamp" (newest event that was read), "n_events" (how
        many were read) and "embedding", float32 [D], a unit vector.

    Raises:
        FileNotFoundError: no run, checkpoint or prepared data.
        ValueError: the table does not fit `data.columns`, too many of its rows are bad
            (`data.max_reject_share`; the message names a file that lists them), or no event is left.
    """
    import duckdb
    import pyarrow as pa
    import pyarrow.parquet as pq

    config, graphdef, params = load_for_inference(workdir, checkpoint)
    timelines, catalog = open_data(Path(workdir))
    with (
        tempfile.TemporaryDirectory() as folder,
        duckdb.connect(Path(folder) / "events.duckdb") as connection,
    ):
        work = Path(folder)
        set_up_engine(connection, config.data.memory_limit, work)
        pq.write_table(_as_arrow(events), work / "events.parquet")
        histories = _read(connection, work, config, timelines)
        length = np.diff(histories.events.offsets)
        vectors = Embedder(graphdef, params, catalog.features).users_by_length(
            lambda users, width: newest(histories.events, users, length[users], width),
            length,
            config.model.max_length,
            config.embedding.batch_size,
        )
    return pa.table(
        {
            "user_id": histories.user_ids,
            "event_timestamp": pa.array(histories.newest, pa.int64()).cast(pa.timestamp("us", "UTC")),
            "n_events": pa.array(length, pa.int32()),
            "embedding": snapshot.lists(vectors),
        }
    )


def _read(
    connection: duckdb.DuckDBPyConnection, work: Path, config: Config, timelines: Timelines
) -> event_store.Histories:
    """The timelines of work/events.parquet."""
    import pyarrow as pa

    event_store.load_catalogue(connection, timelines, pa.array([]))
    event_store.store_nothing(connection, timelines)
    nobody = connection.sql("SELECT user_id FROM stored").to_arrow_table()["user_id"].combine_chunks()
    kept_if_bad = work.with_name(f"{work.name}-rejects.parquet")  # `work` goes
    counts = event_store.load_log(
        connection,
        [work / "events.parquet"],
        config.data,
        _NO_END,
        work / "log",
        work / "rejects.parquet",
        kept_if_bad,
        nobody,
    )
    event_store.merge(connection, nobody, config.model.max_length)
    histories = event_store.histories(connection, None, 1, work / "timelines")
    if not len(histories.user_ids):
        raise ValueError(f"of {counts['rows']:,} events none is of an item of the run's catalogue")
    return histories


def _as_arrow(table: Any) -> pa.Table:
    """A table of any library that speaks Arrow or the dataframe interchange protocol."""
    import pyarrow as pa
    from pyarrow.interchange import from_dataframe

    if isinstance(table, pa.Table):
        return table
    if hasattr(table, "__arrow_c_stream__"):
        return pa.table(table)
    if hasattr(table, "__dataframe__"):
        return from_dataframe(table)
    raise ValueError(f"events are a {type(table).__name__}: give a pandas, polars or Arrow table")
