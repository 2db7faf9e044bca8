"""Timelines of the users to embed, as the model reads them: items, actions and surfaces as numbers."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pinnerformer_jax.data.timelines import TRAIN, Manifest, Timelines, open_shard
from pinnerformer_jax.ingestion.timeline_writer import write_shards
from pinnerformer_jax.serving.event_store import FACTS, newest, one

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa


class Histories(NamedTuple):
    """The users to embed, and their events."""

    user_ids: pa.Array  # [U], ascending
    newest: np.ndarray  # int64 [U] microseconds since 1970 of the newest event
    count: np.ndarray  # int64 [U] events of each user, 1 .. T
    timelines: Timelines  # of one shard, memory-mapped; user u is row u of the above


def write_histories(
    connection: duckdb.DuckDBPyConnection,
    manifest: Manifest,
    requested: pa.Array | None,
    least: int,
    length: int,
    work: Path,
) -> Histories:
    """Write the timelines of the users to embed: those with new events, and those requested.

    Args:
        connection: where `kept`, `changed`, `items`, `action_ids` and `surface_ids` are.
        manifest: of the prepared folder whose numbers items, actions and surfaces have.
        requested: ids; None: all users.
        least: users with fewer events are left out.
        length: T, the newest events of a user that the model reads.
        work: folder to write.
    """
    import pyarrow as pa

    condition = ""
    if requested is not None:
        connection.register("requested_ids", pa.table({"user_id": requested}))
        condition = (
            "WHERE user_id IN "
            f"(SELECT user_id FROM changed WHERE fresh AND place <= {length} "
            "UNION SELECT user_id FROM requested_ids)"
        )
    connection.execute(
        f"""
        CREATE TABLE users AS
        SELECT user_id, row_number() OVER (ORDER BY user_id) - 1 AS number, 0 AS shard,
            least(count(*), {length}) AS events,
            events AS cut, {TRAIN} AS role, max(micros) AS newest
        FROM kept {condition} GROUP BY user_id HAVING count(*) >= {least}"""
    )
    connection.execute(
        f"CREATE VIEW events AS SELECT {FACTS} FROM kept SEMI JOIN users USING (user_id) {newest(length)}"
    )
    actions, surfaces = (
        1 + one(connection, f"SELECT count(*) FROM {kind}_ids") for kind in ("action", "surface")
    )
    write_shards(connection, work, 1, np.full((actions, surfaces), np.inf, np.float32))
    facts = connection.sql("SELECT user_id, newest FROM users ORDER BY number").to_arrow_table()
    shard = open_shard(work, 0)
    timelines = Timelines(work, dataclasses.replace(manifest, shards=1, counts={}, files={}), [shard])
    ids = facts["user_id"].combine_chunks()
    return Histories(ids, facts["newest"].to_numpy(), np.diff(shard.offsets), timelines)
