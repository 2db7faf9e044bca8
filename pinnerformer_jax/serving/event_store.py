"""The newest events of each user, in the log's own terms, and how a day's log is merged into them.

    events.parquet     user_id, item_id (as they came), action, surface, micros (since 1970), duration [s];
                       by user, then in the order of the timelines
    rejects.parquet    rows of the day's log that were set aside: file, row, reason, raw values

An embedding needs a user's newest T events and no others, so no more are kept: the store grows with the
users, not with time. Ids and names stay those of the log, not numbers of a catalogue, so that the store
outlives the model. It starts from the prepared timelines (whole seconds: within one, their finer order is
lost), and does so again, united with what came since, when the model's data or T change.

The day's log goes by the rules of ingest: the run's own columns, scope, actions and rejects. Besides,
- an item that neither the catalogue nor new_items.py knows is set aside ("item without a feature vector");
- what lies after the day, or of deleted users, is left out; what the store already has (the same event in
  the same second) is not taken twice, so that logs may overlap;
- users are embedded from data.min_user_events on, whether they are new or not.

What grows with the log is DuckDB's, within data.memory_limit and spilled to disk beside the state. The file
of the state before is streamed into the new one: a day is one pass over it, and only what changed is sorted.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pinnerformer_jax.config import DataConfig, PositiveRule
from pinnerformer_jax.data.positives import positive_sql
from pinnerformer_jax.data.ragged import flat_ranges
from pinnerformer_jax.data.timelines import TRAIN, Shard, Timelines, open_shard
from pinnerformer_jax.data.windows import bisect_right
from pinnerformer_jax.ingestion import event_mapping, rejects
from pinnerformer_jax.ingestion.log_reader import literal, open_log
from pinnerformer_jax.ingestion.timeline_writer import write_shards
from pinnerformer_jax.serving import event_file

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

_FACTS = "user_id, item_id, action, surface, micros, duration"
_ORDER = ("micros", "md5_number_lower(concat_ws('|', item_id, action, surface, duration))")  # of write_shards
_SAME = " AND ".join(
    [f"a.{name} = b.{name}" for name in ("user_id", "item_id", "action", "surface", "duration")]
    + ["a.micros // 1000000 = b.micros // 1000000"]
)
_INTEGER = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT")


class Histories(NamedTuple):
    """The users to embed, by id, and what the store has of them."""

    user_ids: pa.Array  # [U], ascending
    newest: np.ndarray  # int64 [U] microseconds since 1970 of the newest event
    events: Shard  # memory-mapped, at most T events a user


def load_catalogue(connection: duckdb.DuckDBPyConnection, timelines: Timelines, new: pa.Array) -> None:
    """Create the tables `items`, `action_ids` and `surface_ids`, as `write_shards` reads them; the ids of
    items that came after the catalogue are numbered on from it."""
    import pyarrow as pa

    file = literal(timelines.path / "catalog" / "items.parquet")
    connection.execute(
        f"CREATE TABLE items AS SELECT item_id, file_row_number AS number FROM read_parquet({file}, "
        "file_row_number = true)"
    )
    if len(new):
        connection.register("new_ids", pa.table({"item_id": new, "place": np.arange(len(new))}))
        connection.execute(
            "INSERT INTO items SELECT item_id, (SELECT count(*) FROM items) + place FROM new_ids"
        )
        connection.unregister("new_ids")
    for kind, names in (("action", timelines.manifest.actions), ("surface", timelines.manifest.surfaces)):
        connection.execute(f"CREATE TABLE {kind}_ids ({kind} VARCHAR, id BIGINT)")
        rows = [(name, number) for number, name in enumerate(names) if number]
        if rows:
            connection.executemany(f"INSERT INTO {kind}_ids VALUES (?, ?)", rows)


def store_nothing(connection: duckdb.DuckDBPyConnection, timelines: Timelines) -> None:
    """Create the table `stored` without events, with ids of the types that they have in the timelines.

    Args:
        connection: where `items` is.
        timelines: of the run.
    """
    users = literal(timelines.shards[0].path / "users.parquet")
    connection.execute(
        "CREATE TABLE stored AS SELECT user_id, item_id, '' AS action, '' AS surface, 0::BIGINT AS micros, "
        f"0::FLOAT AS duration FROM read_parquet({users}), items LIMIT 0"
    )


def load_stored(
    connection: duckdb.DuckDBPyConnection,
    base: Path | None,
    timelines: Timelines | None,
    max_length: int,
    end: int,
    work: Path,
) -> tuple[Path, dict[str, int]]:
    """Create the view `stored` of the events of a state, or of prepared timelines united with them.

    Args:
        connection: where `items` is.
        base: folder of the state.
        timelines: of which each user's newest events before `end` are taken; None: the state's do.
        max_length: how many of each user are kept of both.
        end: microseconds since 1970.
        work: folder for the file.

    Returns:
        The file that the view reads, and counts of events that were left out: of an item that the catalogue
        does not have (any more), and after `end`.
    """
    file, left_out = work / "stored.parquet", {}
    if timelines is None:
        file = base / "events.parquet"
    else:
        later = _load_timelines(connection, timelines, max_length, end)
        if base:
            events = f"read_parquet({literal(base / 'events.parquet')}, hive_partitioning = false)"
            connection.execute(
                f"INSERT INTO prepared SELECT {_FACTS} FROM {events} AS a ANTI JOIN prepared AS b ON {_SAME}"
            )
        without = _one(connection, "SELECT count(*) FROM prepared ANTI JOIN items USING (item_id)")
        left_out = {"without_item": without, "timelines_after_day": later}
        connection.execute(
            f"COPY (SELECT {_FACTS} FROM prepared SEMI JOIN items USING (item_id) {_newest(max_length)} "
            f"ORDER BY user_id, {', '.join(_ORDER)}) TO {literal(file)} (FORMAT parquet)"
        )
        connection.execute("DROP TABLE prepared")
    connection.execute(
        f"CREATE VIEW stored AS SELECT {_FACTS} FROM read_parquet({literal(file)}, hive_partitioning = false)"
    )
    return file, left_out


def _load_timelines(
    connection: duckdb.DuckDBPyConnection, timelines: Timelines, max_length: int, end: int
) -> int:
    """Create the table `prepared`; how many events lie after `end`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    ids = pq.read_table(timelines.path / "catalog" / "items.parquet", columns=["item_id"])["item_id"]
    names = {kind: pa.array(getattr(timelines.manifest, f"{kind}s")) for kind in ("action", "surface")}
    later = 0
    for number, shard in enumerate(timelines.shards):
        first, last = shard.offsets[:-1], shard.offsets[1:]
        wanted = np.full(len(first), end // 10**6 - 1)  # the last second before it
        count = bisect_right(shard.time, first, last, wanted) - first
        later += len(shard.time) - int(count.sum())
        kept = np.minimum(count, max_length)
        owner, event = flat_ranges(shard.offsets[:-1] + count - kept, kept)
        users = pq.read_table(shard.path / "users.parquet", columns=["user_id"])["user_id"]
        part = pa.table(
            {
                "user_id": users.take(pa.array(owner)),
                "item_id": ids.take(pa.array(shard.item[event])),
                "action": names["action"].take(pa.array(shard.action[event])),
                "surface": names["surface"].take(pa.array(shard.surface[event])),
                "micros": shard.time[event] * 10**6,
                "duration": shard.duration[event],
            }
        )
        connection.register("part", part)
        connection.execute(f"{'INSERT INTO' if number else 'CREATE TABLE'} prepared {'' if number else 'AS '}"
                           f"SELECT {_FACTS} FROM part")  # fmt: skip
        connection.unregister("part")
    return later


def load_log(
    connection: duckdb.DuckDBPyConnection,
    files: list[Path],
    data: DataConfig,
    end: int,
    work: Path,
    rejected: Path,
    failed: Path,
    gone: pa.Array,
) -> dict[str, Any]:
    """Create the table `arrived` from the day's log, and write its rejects.

    Args:
        connection: where `stored` and `items` are.
        files: the log; none: nothing arrived.
        data: the run's rules.
        end: microseconds since 1970; what is later is left out.
        work: folder for copies of CSV files.
        rejected: file for the rejects.
        failed: file for them if there are too many.
        gone: ids of deleted users, of whom the rejects say nothing.

    Returns:
        Counts, which add up to `rows`, of what became of the log's rows.

    Raises:
        ValueError: the log does not fit the rules, its ids are of another type than the stored ones, or
            more than data.max_reject_share of it is bad (items that the catalogue has not aside).
    """
    import pyarrow as pa

    connection.execute("CREATE TABLE arrived AS FROM stored LIMIT 0")
    if not files:
        return {}
    open_log(connection, "log", "--events", [str(file) for file in files], work)
    columns = data.columns
    for kind in ("user", "item"):
        expression = _as_stored(connection, kind, getattr(columns, kind))
        columns = dataclasses.replace(columns, **{kind: expression})
    event_mapping.stage(connection, "log", dataclasses.replace(data, columns=columns), "items")
    rejects.mark_duplicates(connection)
    counts = rejects.count(connection)
    connection.register("deleted", pa.table({"user_id": gone}))
    rejects.write(connection, rejected, without="SELECT CAST(user_id AS VARCHAR) FROM deleted")
    connection.unregister("deleted")
    [(rows, in_scope)] = connection.execute(
        "SELECT count(*), count(*) FILTER (in_scope) FROM staged"
    ).fetchall()
    bad = {reason: n for reason, n in counts.items() if reason != rejects.NO_VECTOR}
    if bad:
        try:
            rejects.check_share(bad, in_scope, data.max_reject_share, failed)
        except ValueError:
            shutil.move(rejected, failed)
            raise
    chosen = ", ".join(literal(action) for action in data.sequence_actions)
    good = "FROM staged ANTI JOIN duplicates USING (file, row) WHERE in_scope AND reason IS NULL"
    taken = f"action IN ({chosen})" if chosen else "true"
    [(accepted, after)] = connection.execute(
        f"SELECT count(*) FILTER ({taken}), count(*) FILTER ({taken} AND micros >= {end}) {good}"
    ).fetchall()
    connection.execute(f"INSERT INTO arrived SELECT {_FACTS} {good} AND {taken} AND micros < {end}")
    return {
        "rows": rows,
        "out_of_scope": rows - in_scope,
        "rejected": counts,
        "other_actions": in_scope - sum(counts.values()) - accepted,
        "after_day": after,
        "arrived": accepted - after,
    }


def _as_stored(connection: duckdb.DuckDBPyConnection, kind: str, expression: str) -> str:
    """SQL of an id of the log, in the type that ids of this kind have in the store."""
    setting = f"data.columns.{kind}"
    sql, found = event_mapping.bind_id(connection, "log", setting, expression)
    wanted = _one(connection, f"SELECT column_type FROM (DESCRIBE stored) WHERE column_name = '{kind}_id'")
    if found == wanted:
        return sql
    if found in _INTEGER and wanted in _INTEGER:
        return f"CAST({sql} AS {wanted})"
    raise ValueError(
        f"--events: {setting} = {expression!r} is of type {found}, in the data the model was trained on it "
        f"was {wanted}; give the log's column that type"
    )


def merge(connection: duckdb.DuckDBPyConnection, gone: pa.Array, max_length: int) -> dict[str, int]:
    """Create the view `kept`: of stored and arrived events the newest of each user. Of these the table
    `changed` has the users with events that only the log had (`fresh`).

    Args:
        connection: where `stored` and `arrived` are.
        gone: ids of deleted users.
        max_length: how many events of a user are kept.

    Returns:
        Counts.
    """
    import pyarrow as pa

    connection.register("gone_ids", pa.table({"user_id": gone}))
    connection.execute("CREATE TABLE gone AS FROM gone_ids")
    connection.unregister("gone_ids")
    connection.execute("CREATE TABLE affected AS FROM stored SEMI JOIN arrived USING (user_id)")
    connection.execute(
        f"""
        CREATE TABLE fresh AS
        FROM arrived AS a ANTI JOIN gone USING (user_id) ANTI JOIN affected AS b ON {_SAME}"""
    )
    connection.execute(
        f"""
        CREATE TABLE changed AS
        WITH together AS (
            SELECT *, false AS fresh FROM affected SEMI JOIN fresh USING (user_id)
            UNION ALL SELECT *, true FROM fresh
        )
        FROM together {_newest(max_length)}"""
    )
    connection.execute(
        """
        CREATE VIEW kept AS
        FROM stored ANTI JOIN gone USING (user_id) ANTI JOIN changed USING (user_id)
        UNION ALL SELECT * EXCLUDE (fresh) FROM changed"""
    )
    deleted = "SELECT count(DISTINCT user_id) FROM stored SEMI JOIN gone USING (user_id)"
    of_deleted = _one(connection, "SELECT count(*) FROM arrived SEMI JOIN gone USING (user_id)")
    new = _one(connection, "SELECT count(*) FROM fresh")
    return {
        "deleted_users": _one(connection, deleted),
        "of_deleted_users": of_deleted,
        "known_already": _one(connection, "SELECT count(*) FROM arrived") - of_deleted - new,
        "new_events": new,
    }


def _newest(count: int) -> str:
    """SQL that leaves of each user the newest events."""
    newest_first = ", ".join(f"{key} DESC" for key in _ORDER)
    return f"QUALIFY row_number() OVER (PARTITION BY user_id ORDER BY {newest_first}) <= {count}"


def write_events(connection: duckdb.DuckDBPyConnection, stored: Path, gone: pa.Array, file: Path) -> int:
    """Write events.parquet: what is in `kept`, by user and in the order of the timelines.

    Args:
        connection: where `changed` is.
        stored: file that `load_stored` returned.
        gone: ids of deleted users.
        file: to write.

    Returns:
        How many events it has.
    """
    import pyarrow as pa

    ids = connection.sql("SELECT DISTINCT user_id FROM changed").to_arrow_table()["user_id"]
    leaving = pa.concat_arrays([*ids.cast(gone.type).chunks, gone])
    changed = connection.sql(f"SELECT {_FACTS} FROM changed ORDER BY user_id, {', '.join(_ORDER)}")
    return event_file.write(stored, changed.to_arrow_reader(event_file.GROUP), leaving, file)


def histories(
    connection: duckdb.DuckDBPyConnection, named: pa.Array | None, least: int, work: Path
) -> Histories:
    """What is kept of the users to embed: with fresh events or named.

    Args:
        connection: where `kept`, `changed`, `items`, `action_ids` and `surface_ids` are.
        named: ids; None: everyone.
        least: users with fewer events are left out.
        work: folder for the timelines.
    """
    import pyarrow as pa

    condition = ""
    if named is not None:
        connection.register("named_ids", pa.table({"user_id": named}))
        condition = (
            "WHERE user_id IN (SELECT user_id FROM changed WHERE fresh UNION SELECT user_id FROM named_ids)"
        )
    connection.execute(
        f"""
        CREATE TABLE users AS
        SELECT user_id, row_number() OVER (ORDER BY user_id) - 1 AS number, 0 AS shard, count(*) AS events,
            events AS cut, {TRAIN} AS role, max(micros) AS newest
        FROM kept {condition} GROUP BY user_id HAVING count(*) >= {least}"""
    )
    connection.execute("CREATE VIEW events AS FROM kept SEMI JOIN users USING (user_id)")
    actions, surfaces = (
        1 + _one(connection, f"SELECT count(*) FROM {kind}_ids") for kind in ("action", "surface")
    )
    write_shards(connection, work, 1, np.full((actions, surfaces), np.inf, np.float32))
    facts = connection.sql("SELECT user_id, newest FROM users ORDER BY number").to_arrow_table()
    ids = facts["user_id"].combine_chunks()
    return Histories(ids, facts["newest"].to_numpy(), open_shard(work, 0))


def popularity(
    connection: duckdb.DuckDBPyConnection, rules: tuple[PositiveRule, ...], since: int
) -> np.ndarray:
    """int32: rows of the catalogue that had positives in the store, the most of them first.

    Args:
        connection: where `kept` and `items` are.
        rules: what a positive is.
        since: microseconds since 1970; older events do not count.
    """
    query = f"""
        SELECT number FROM kept JOIN items USING (item_id)
        WHERE micros >= {since} AND {positive_sql(rules)}
        GROUP BY number ORDER BY count(*) DESC, number"""
    return connection.execute(query).fetchnumpy()["number"].astype(np.int32)


def _one(connection: duckdb.DuckDBPyConnection, query: str) -> Any:
    [(value,)] = connection.execute(query).fetchall()  # to the end, or the connection stays busy
    return value
