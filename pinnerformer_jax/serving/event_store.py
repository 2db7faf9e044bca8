"""The newest events of each user, in the log's own terms, and how a day's events are merged into them.

    events.parquet     user_id, item_id (as they came), action, surface, micros (since 1970), duration [s];
                       by user, then in the order of the timelines

An embedding needs a user's newest T events, and the priors of the served score the newest 4,096
(retrieval/priors.py); no more are kept: the store grows with the users, not with time. Ids and names stay
those of the log, not numbers of a catalogue, so that the store outlives the model. It starts from the
prepared timelines (whole seconds: within one, their finer order is lost). When the model's data or the number
of kept events change, it starts from the timelines again, united with what came since.

An event that the store has already (the same in the same second) is not taken twice, so that logs may
overlap. Events of deleted users are left out.

DuckDB holds all that grows with the log, within data.memory_limit, and spills to disk beside the state. The
file of the state before is streamed into the new one: a day is one pass over it, and only what changed is
sorted.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pinnerformer_jax.config import PositiveRule
from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.data.contracts import DAY
from pinnerformer_jax.data.positives import positive_sql
from pinnerformer_jax.data.ragged import flat_ranges
from pinnerformer_jax.data.timelines import Timelines
from pinnerformer_jax.data.windows import bisect_right
from pinnerformer_jax.ingestion.log_reader import literal, parquet_files
from pinnerformer_jax.serving.event_file import GROUP, merge_event_file
from pinnerformer_jax.serving.manifest import EventCounts, TimelineCounts

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

FACTS = "user_id, item_id, action, surface, micros, duration"
_ORDER = ("micros", "md5_number_lower(concat_ws('|', item_id, action, surface, duration))")  # of write_shards
_NEWEST_FIRST = ", ".join(f"{key} DESC" for key in _ORDER)
_PLACE = f"row_number() OVER (PARTITION BY user_id ORDER BY {_NEWEST_FIRST})"
_SAME = " AND ".join(
    [f"a.{name} = b.{name}" for name in ("user_id", "item_id", "action", "surface", "duration")]
    + ["a.micros // 1000000 = b.micros // 1000000"]
)


def load_catalogue(connection: duckdb.DuckDBPyConnection, catalog: Catalog, new: pa.Array) -> None:
    """Create the tables `items`, `action_ids` and `surface_ids`, as `write_shards` reads them.

    Args:
        connection: where to.
        catalog: of the run; it has the first numbers.
        new: ids of items that came after the training; their numbers go on from the catalogue's.
    """
    import pyarrow as pa

    connection.register("catalogue", catalog.to_arrow())
    connection.execute("CREATE TABLE items AS SELECT item_id, number FROM catalogue")
    connection.unregister("catalogue")
    manifest = catalog.timelines.manifest
    if len(new):
        connection.register("new_ids", pa.table({"item_id": new, "place": np.arange(len(new))}))
        connection.execute(
            "INSERT INTO items SELECT item_id, (SELECT count(*) FROM items) + place FROM new_ids"
        )
        connection.unregister("new_ids")
    for kind, names in (("action", manifest.actions), ("surface", manifest.surfaces)):
        connection.execute(f"CREATE TABLE {kind}_ids ({kind} VARCHAR, id BIGINT)")
        rows = [(name, number) for number, name in enumerate(names) if number]
        if rows:
            connection.executemany(f"INSERT INTO {kind}_ids VALUES (?, ?)", rows)


def load_empty_store(connection: duckdb.DuckDBPyConnection, timelines: Timelines) -> None:
    """Create the table `stored` without events; ids have the types that they have in the timelines.

    Args:
        connection: where `items` is.
        timelines: of the run.
    """
    import pyarrow as pa

    connection.register("of_shard", pa.table({"user_id": timelines.shards[0].user_ids}))
    connection.execute(
        "CREATE TABLE stored AS SELECT user_id, item_id, '' AS action, '' AS surface, 0::BIGINT AS micros, "
        "0::FLOAT AS duration FROM of_shard, items LIMIT 0"
    )
    connection.unregister("of_shard")


def load_stored(
    connection: duckdb.DuckDBPyConnection,
    base: Path | None,
    catalog: Catalog | None,
    kept: int,
    end: int,
    work: Path,
) -> tuple[Path, TimelineCounts | None]:
    """Create the view `stored` of the events of a state, or of prepared timelines united with them.

    Args:
        connection: where `items` is.
        base: folder of the state; None: there is none.
        catalog: of prepared timelines, whose newest events of each user before `end` are taken; None: the
            state has them already.
        kept: how many events of each user are kept.
        end: microseconds since 1970.
        work: folder for the file.

    Returns:
        The file that the view reads, and counts of events that were left out; None if no timelines were read.
    """
    file, counts = work / "stored.parquet", None
    if catalog is None and base is not None:
        file = base / "events.parquet"
    elif catalog is not None:
        later = _load_timelines(connection, catalog, kept, end)
        if base:
            events = parquet_files(base / "events.parquet")
            connection.execute(
                f"INSERT INTO prepared SELECT {FACTS} FROM {events} AS a ANTI JOIN prepared AS b ON {_SAME}"
            )
        without = one(connection, "SELECT count(*) FROM prepared ANTI JOIN items USING (item_id)")
        counts = TimelineCounts(without_item=without, timelines_after_day=later)
        connection.execute(
            f"COPY (SELECT {FACTS} FROM prepared SEMI JOIN items USING (item_id) {newest(kept)} "
            f"ORDER BY user_id, {', '.join(_ORDER)}) TO {literal(file)} (FORMAT parquet)"
        )
        connection.execute("DROP TABLE prepared")
    connection.execute(f"CREATE VIEW stored AS SELECT {FACTS} FROM {parquet_files(file)}")
    return file, counts


def _load_timelines(connection: duckdb.DuckDBPyConnection, catalog: Catalog, most: int, end: int) -> int:
    """Create the table `prepared` of the newest events before `end`; returns how many are not before it."""
    import pyarrow as pa

    ids, timelines = catalog.id_column, catalog.timelines
    names = {kind: pa.array(getattr(timelines.manifest, f"{kind}s")) for kind in ("action", "surface")}
    later = 0
    for number, shard in enumerate(timelines.shards):
        first, last = shard.offsets[:-1], shard.offsets[1:]
        wanted = np.full(len(first), end // 10**6 - 1)  # the last second before it
        count = bisect_right(shard.time, first, last, wanted) - first
        later += len(shard.time) - int(count.sum())
        kept = np.minimum(count, most)
        owner, event = flat_ranges(shard.offsets[:-1] + count - kept, kept)
        part = pa.table(
            {
                "user_id": shard.user_ids.take(pa.array(owner)),
                "item_id": ids.take(pa.array(shard.item[event])),
                "action": names["action"].take(pa.array(shard.action[event])),
                "surface": names["surface"].take(pa.array(shard.surface[event])),
                "micros": shard.time[event] * 10**6,
                "duration": shard.duration[event],
            }
        )
        connection.register("part", part)
        connection.execute(f"{'INSERT INTO' if number else 'CREATE TABLE'} prepared {'' if number else 'AS '}"
                           f"SELECT {FACTS} FROM part")  # fmt: skip
        connection.unregister("part")
    return later


def merge_events(connection: duckdb.DuckDBPyConnection, deleted: pa.Array, kept: int) -> EventCounts:
    """Create the view `kept` of the newest stored and arrived events of each user, and the table `changed` of
    those among them whose user has an event that was not stored (`fresh`); `place` 1 is the newest event.

    Args:
        connection: where `stored` and `arrived` are.
        deleted: ids of deleted users.
        kept: how many events of a user are kept.

    Returns:
        Counts, but for `stored_events`.
    """
    import pyarrow as pa

    connection.register("deleted_ids", pa.table({"user_id": deleted}))
    connection.execute("CREATE TABLE deleted AS FROM deleted_ids")
    connection.unregister("deleted_ids")
    connection.execute("CREATE TABLE affected AS FROM stored SEMI JOIN arrived USING (user_id)")
    connection.execute(
        f"""
        CREATE TABLE fresh AS
        FROM arrived AS a ANTI JOIN deleted USING (user_id) ANTI JOIN affected AS b ON {_SAME}"""
    )
    connection.execute(
        f"""
        CREATE TABLE changed AS
        WITH together AS (
            SELECT *, false AS fresh FROM affected SEMI JOIN fresh USING (user_id)
            UNION ALL SELECT *, true FROM fresh
        )
        SELECT *, {_PLACE} AS place FROM together QUALIFY place <= {kept}"""
    )
    connection.execute(
        f"""
        CREATE VIEW kept AS
        FROM stored ANTI JOIN deleted USING (user_id) ANTI JOIN changed USING (user_id)
        UNION ALL SELECT {FACTS} FROM changed"""
    )
    with_events = "SELECT count(DISTINCT user_id) FROM stored SEMI JOIN deleted USING (user_id)"
    of_deleted = one(connection, "SELECT count(*) FROM arrived SEMI JOIN deleted USING (user_id)")
    new = one(connection, "SELECT count(*) FROM fresh")
    return EventCounts(
        deleted_users=one(connection, with_events),
        of_deleted_users=of_deleted,
        known_already=one(connection, "SELECT count(*) FROM arrived") - of_deleted - new,
        new_events=new,
    )


def newest(count: int) -> str:
    """SQL that keeps the newest events of each user."""
    return f"QUALIFY {_PLACE} <= {count}"


def write_kept(connection: duckdb.DuckDBPyConnection, stored: Path, deleted: pa.Array, file: Path) -> int:
    """Write events.parquet: the events of `kept`, by user and in the order of the timelines.

    Args:
        connection: where `changed` is.
        stored: file that `load_stored` returned.
        deleted: ids of deleted users.
        file: to write.

    Returns:
        How many events it has.
    """
    import pyarrow as pa

    ids = connection.sql("SELECT DISTINCT user_id FROM changed").to_arrow_table()["user_id"]
    leaving = pa.concat_arrays([*ids.cast(deleted.type).chunks, deleted])
    changed = connection.sql(f"SELECT {FACTS} FROM changed ORDER BY user_id, {', '.join(_ORDER)}")
    return merge_event_file(stored, changed.to_arrow_reader(GROUP), leaving, file)


def popular_items(
    connection: duckdb.DuckDBPyConnection, rules: tuple[PositiveRule, ...], since: int
) -> np.ndarray:
    """int32: numbers of the items that have positives in the store, the item with the most first.

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


def popularity(
    connection: duckdb.DuckDBPyConnection,
    rules: tuple[PositiveRule, ...],
    end: int,
    half_life_days: float,
    items: int,
) -> np.ndarray:
    """float64 [N]: by number, the decayed count of each item's positives in the store, as
    `evaluation.counts.popularity_counts` counts them.

    Args:
        connection: where `kept` and `items` are.
        rules: what a positive is.
        end: seconds since 1970, as of when.
        half_life_days: an event counts 1/2 after each.
        items: N.
    """
    # Summed as whole multiples of 2^-32: a sum of floats would depend on the order of the threads.
    query = f"""
        SELECT number, CAST(sum(CAST(
            round(pow(2.0, 32 + (micros // 1000000 - {end}) / {half_life_days * DAY!r})) AS BIGINT
        )) AS DOUBLE) AS count
        FROM kept JOIN items USING (item_id) WHERE {positive_sql(rules)} GROUP BY number"""
    found = connection.execute(query).fetchnumpy()
    counts = np.zeros(items)
    counts[found["number"]] = found["count"] / 2**32
    return counts


def one(connection: duckdb.DuckDBPyConnection, query: str) -> Any:
    """The one value that a query gives."""
    [(value,)] = connection.execute(query).fetchall()  # to the end, or the connection stays busy
    return value
