"""Vectors of users from a table of their events, without a state, a store or a prepared timeline."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pinnerformer_jax.ingestion.ingest import set_up_engine
from pinnerformer_jax.ingestion.log_reader import restrict
from pinnerformer_jax.serving import event_store, snapshot
from pinnerformer_jax.serving.day_log import load_log
from pinnerformer_jax.serving.histories import Histories, write_histories
from pinnerformer_jax.serving.trained_model import TrainedModel
from pinnerformer_jax.serving.users import embed_histories

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

_NO_END = 2**62  # microseconds since 1970


def embed_events(workdir: str | Path, events: Any, checkpoint: Literal["best", "last"] = "best") -> pa.Table:
    """Embed users from a table of their events with a trained run, which need not know the users.

    The table is all that is read of a user: give the newest T = `model.max_length` events of each, or more.
    Events of items that are not in the run's catalogue are left out.

    Args:
        workdir: of the run; its prepared folder must still be there.
        events: a pandas, polars or Arrow table with the columns of the run's log (`data.columns`); rows in
            any order, ids of the types that they have in the log.
        checkpoint: the best or the last, see `Checkpoints`.

    Returns:
        One row for each user, by user id: "user_id", "event_timestamp" (of the newest event that was read),
        "n_events" (how many were read) and "embedding", float32 [D], a unit vector.

    Raises:
        FileNotFoundError: no run, checkpoint or prepared data.
        ValueError: the table does not fit `data.columns`, too many of its rows are bad
            (`data.max_reject_share`; the message names a file that lists them), or no event is left.
    """
    import duckdb
    import pyarrow as pa
    import pyarrow.parquet as pq

    model = TrainedModel.load(workdir, checkpoint)
    with (
        tempfile.TemporaryDirectory() as folder,
        duckdb.connect(Path(folder) / "events.duckdb") as connection,
    ):
        work = Path(folder)
        set_up_engine(connection, model.config.data.memory_limit, work)
        pq.write_table(_as_arrow(events), work / "events.parquet")
        histories = _read(connection, work, model)
        embedder = model.embedder(model.catalog.features)
        vectors = embed_histories(embedder, histories, model, np.arange(len(histories.user_ids)))
    return pa.table(
        {
            "user_id": histories.user_ids,
            "event_timestamp": pa.array(histories.newest, pa.int64()).cast(pa.timestamp("us", "UTC")),
            "n_events": pa.array(histories.count, pa.int32()),
            "embedding": snapshot.lists(vectors),
        }
    )


def _read(connection: duckdb.DuckDBPyConnection, work: Path, model: TrainedModel) -> Histories:
    """The histories of the users in work/events.parquet."""
    import pyarrow as pa

    event_store.load_catalogue(connection, model.catalog, pa.array([]))
    event_store.load_empty_store(connection, model.timelines)
    no_users = connection.sql("SELECT user_id FROM stored").to_arrow_table()["user_id"].combine_chunks()
    restrict(connection, [], [work])
    failed = work.with_name(f"{work.name}-rejects.parquet")  # outside `work`, which is removed
    counts = load_log(
        connection,
        [work / "events.parquet"],
        model.config.data,
        _NO_END,
        work / "log",
        work / "rejects.parquet",
        failed,
        no_users,
    )
    event_store.merge_events(connection, no_users, model.config.model.max_length)
    length = model.config.model.max_length
    events = event_store.events_to_embed(connection, None, length)
    items = model.catalog.id_column
    histories = write_histories(events, items, model.timelines.manifest, 1, length, work / "timelines")
    if counts is None or not len(histories.user_ids):
        rows = counts.rows if counts else 0
        raise ValueError(f"of {rows:,} events none is of an item of the run's catalogue")
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
