"""From usable rows to timelines: choice of users, their roles, ids of names, shards."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pinnerformer_jax.config import DataConfig, PositiveRule
from pinnerformer_jax.data.positives import MAX_NAMES, is_positive
from pinnerformer_jax.data.ragged import offsets_of
from pinnerformer_jax.data.timelines import COLUMNS, EVALUATION, TRAIN, VALIDATION, shard_path
from pinnerformer_jax.ingestion.log_reader import literal

if TYPE_CHECKING:
    import duckdb

_BATCH = 1 << 18  # events written at a time


def count_users(connection: duckdb.DuckDBPyConnection, min_user_events: int, split: int) -> int:
    """How many users of `usable` have `min_user_events` up to the split, which is in seconds since 1970."""
    query = f"""
        SELECT count(*) FROM (
            SELECT user_id FROM usable WHERE micros < {(split + 1) * 10**6}
            GROUP BY user_id HAVING count(*) >= {min_user_events}
        )"""
    return connection.execute(query).fetchone()[0]


def shard_of_user(shards: int) -> str:
    """SQL of a user's shard: the upper half of the MD5 of the id's text, modulo the shards."""
    return f"md5_number_upper(CAST(user_id AS VARCHAR)) % {shards}"


def number_users(connection: duckdb.DuckDBPyConnection, data: DataConfig, split: int) -> None:
    """Create the table `users` (user_id, number, shard, role, events, cut) from `usable`: those with
    min_user_events up to the split.

    Role, shard and order follow from the MD5 of the id's text alone, so that no user ever changes role
    because others come or go: its lower half, as a share of 2^64, is below evaluation_share for an
    evaluation user and below evaluation_share + validation_share for a validation user; its upper half,
    modulo the shards, is the shard.
    """
    connection.execute(
        f"""
        CREATE TABLE users AS
        WITH counted AS (
            SELECT user_id, count(*) AS events, count(*) FILTER (micros < {(split + 1) * 10**6}) AS cut
            FROM usable GROUP BY user_id HAVING cut >= {data.min_user_events}
        ), hashed AS (
            SELECT *, md5_number_lower(CAST(user_id AS VARCHAR)) AS hash,
                {shard_of_user(data.shards)} AS shard,
                CAST(hash AS DOUBLE) / 2.0 ** 64 AS share
            FROM counted
        )
        SELECT user_id, row_number() OVER (ORDER BY shard, hash, user_id) - 1 AS number, shard, events, cut,
            CASE WHEN share < {data.evaluation_share!r} THEN {EVALUATION}
                WHEN share < {data.evaluation_share + data.validation_share!r} THEN {VALIDATION}
                ELSE {TRAIN} END AS role
        FROM hashed"""
    )


def name_ids(
    connection: duckdb.DuckDBPyConnection,
    kind: str,
    rules: tuple[PositiveRule, ...] = (),
    counted: str | None = None,
) -> list[str]:
    """Names by id of the actions or surfaces of `events`, the most frequent first, ties by name, after ""
    for the unknown; also the table `KIND_ids` (KIND, id). At most MAX_NAMES; further names are unknown, but
    never one that a rule names.

    Args:
        connection: where `events` is.
        kind: "action" or "surface".
        rules: of positives.
        counted: a query of KIND and n, its events; None: `count_names` of `events`.

    Raises:
        ValueError: the rules name more than MAX_NAMES.
    """
    wanted = sorted({getattr(rule, kind) for rule in rules} - {""})
    if len(wanted) > MAX_NAMES:
        raise ValueError(
            f"data.positives names {len(wanted)} {kind}s; at most {MAX_NAMES} can be told apart: group them "
            f"by an expression in data.columns.{kind}"
        )
    connection.execute(
        f"""
        CREATE TABLE {kind}_ids AS
        SELECT {kind}, row_number() OVER (ORDER BY n DESC, {kind}) AS id FROM (
            FROM ({counted or count_names(kind)})
            ORDER BY list_contains({literal(wanted)}::VARCHAR[], {kind}) DESC, n DESC, {kind}
            LIMIT {MAX_NAMES}
        ) ORDER BY id"""
    )
    names = connection.execute(f"SELECT {kind} FROM {kind}_ids ORDER BY id").fetchall()
    return ["", *(name for (name,) in names)]


def count_names(kind: str) -> str:
    """Query of the names of the actions or surfaces of `events`, and n, how many events have each."""
    return f"SELECT {kind}, count(*) AS n FROM events WHERE {kind} <> '' GROUP BY {kind}"


def write_shards(
    connection: duckdb.DuckDBPyConnection, prepared: Path, shards: Sequence[int], table: np.ndarray
) -> int:
    """Write PREPARED/shards from the tables `users`, `items`, `action_ids`, `surface_ids` and `events`.

    A user's events are sorted by time, and those of one microsecond by the MD5 of (item, action, surface,
    duration). This order depends neither on the item ids nor on the order of the log. DuckDB sorts the
    events, on disk if they do not fit in memory, and they pass through memory a batch at a time.

    Args:
        connection: where the tables are.
        prepared: the folder.
        shards: which, ascending: those of the users of the table `users`.
        table: float32 [A, S] of `positives.positive_table`.

    Returns:
        How many events are positive.
    """
    sizes = [_write_users(connection, prepared, shard) for shard in shards]
    query = """
        SELECT i.number AS item, coalesce(a.id, 0) AS action, coalesce(s.id, 0) AS surface,
            CAST(floor(e.micros / 1000000) AS BIGINT) AS time, e.duration
        FROM events AS e JOIN users AS u USING (user_id) JOIN items AS i USING (item_id)
            LEFT JOIN action_ids AS a USING (action) LEFT JOIN surface_ids AS s USING (surface)
        ORDER BY u.number, e.micros,
            md5_number_lower(concat_ws('|', e.item_id, e.action, e.surface, e.duration))"""
    batches = iter(connection.sql(query).to_arrow_reader(_BATCH))
    positives, rest = 0, None
    for shard, size in zip(shards, sizes, strict=True):
        with contextlib.ExitStack() as stack:
            files = {}
            for name, dtype in COLUMNS.items():
                path = shard_path(prepared, shard) / f"{name}.npy"
                _write_header(path, dtype, size)
                files[name] = stack.enter_context(open(path, "ab"))
            while size:
                batch = rest if rest is not None and len(rest) else next(batches)
                part, rest = batch.slice(0, size), batch.slice(size)
                size -= len(part)
                columns = {name: part[name].to_numpy().astype(dtype) for name, dtype in COLUMNS.items()}
                for name, file in files.items():
                    columns[name].tofile(file)
                positives += int(
                    is_positive(table, columns["action"], columns["surface"], columns["duration"]).sum()
                )
    return positives


def _write_users(connection: duckdb.DuckDBPyConnection, prepared: Path, shard: int) -> int:
    """Write the files of a shard that have a row for each user; the number of their events."""
    folder = shard_path(prepared, shard)
    folder.mkdir(parents=True)
    users = f"FROM users WHERE shard = {shard} ORDER BY number"
    connection.execute(
        f"COPY (SELECT user_id {users}) TO {literal(folder / 'users.parquet')} (FORMAT parquet)"
    )
    facts = connection.execute(f"SELECT events, cut, role {users}").fetchnumpy()
    np.save(folder / "offsets.npy", offsets_of(facts["events"]))
    np.save(folder / "cut.npy", facts["cut"].astype(np.int64))
    np.save(folder / "role.npy", facts["role"].astype(np.uint8))
    return int(facts["events"].sum())


def _write_header(path: Path, dtype: type[np.generic], size: int) -> None:
    """Start a .npy file of `size` numbers, which are to be appended."""
    kind = np.lib.format.dtype_to_descr(np.dtype(dtype))
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": kind, "fortran_order": False, "shape": (size,)})
