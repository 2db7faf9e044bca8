"""The newest events of each user, in the log's own terms, and how a day's events are merged into them.

    events*.parquet    user_id, item_id (as they came), action, surface, micros (since 1970), duration [s];
                       by user, then in the order of the timelines; see event_file.py

An embedding needs a user's newest T events, and the priors of the served score the newest 4,096
(retrieval/priors.py); no more are kept: the store grows with the users, not with time. Ids and names stay
those of the log, not numbers of a catalogue, so that the store outlives the model. It starts from the
prepared timelines (whole seconds: within one, their finer order is lost). When the model's data or the number
of kept events change, it starts from the timelines again, united with what came since.

An event that the store has already (the same in the same second) is not taken twice, so that logs may
overlap. Events of deleted users are left out.

DuckDB holds all that grows with the log, within data.memory_limit, and spills to disk beside the state. A
day looks once through the stored events for those of its users, sorts these, and writes them to a file of
their own; what the state before has of all others is linked.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pinnerformer_jax.config import PositiveRule
from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.data.contracts import DAY
from pinnerformer_jax.data.positives import positive_sql
from pinnerformer_jax.data.timelines import Timelines
from pinnerformer_jax.ingestion.log_reader import literal, parquet_files
from pinnerformer_jax.serving.event_file import AT_ONCE, GROUP, event_files, write_event_files, write_sorted
from pinnerformer_jax.serving.manifest import EventCounts, TimelineCounts
from pinnerformer_jax.serving.newest_events import TIE, NewestEvents

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

FACTS = "user_id, item_id, action, surface, micros, duration"
_ORDER = ("micros", TIE)  # of write_shards
ORDER = ", ".join(["user_id", *_ORDER])
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
) -> tuple[list[Path], TimelineCounts | None]:
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
        The files that the view reads, the newest last (see `event_file`), and counts of events that were left
        out; None if no timelines were read.
    """
    files, counts = [work / "stored.parquet"], None
    if catalog is None and base is not None:
        files = event_files(base)
    elif catalog is not None:
        timelines = NewestEvents(catalog, kept, end)
        without = 0
        if base is None:
            write_sorted(timelines.tables(), timelines.schema, files[0], GROUP)
        else:
            without = _unite(connection, timelines, base, kept, files[0])
        counts = TimelineCounts(without_item=without, timelines_after_day=timelines.later)
    connection.execute(f"CREATE VIEW stored AS {_newest_files(files)}")
    return files, counts


def _newest_files(files: list[Path]) -> str:
    """SQL of the events in files of which, for each user, the newest that has the user counts."""
    parts = []
    for number, file in enumerate(files, 1):
        later = f"SELECT DISTINCT user_id FROM {parquet_files(files[number:])}"
        parts.append(
            f"SELECT {FACTS} FROM {parquet_files(file)}"
            + (f" ANTI JOIN ({later}) USING (user_id)" if files[number:] else "")
        )
    return " UNION ALL ".join(parts)


def _unite(
    connection: duckdb.DuckDBPyConnection, timelines: NewestEvents, base: Path, kept: int, file: Path
) -> int:
    """Write the newest events of timelines and a state together; how many have no item in `items`."""
    import pyarrow as pa

    batches = (batch for table in timelines.tables() for batch in table.to_batches())
    connection.register("timelines", pa.RecordBatchReader.from_batches(timelines.schema, batches))
    connection.execute(f"CREATE TABLE prepared AS SELECT {FACTS} FROM timelines")
    connection.unregister("timelines")
    events = f"({_newest_files(event_files(base))})"
    connection.execute(
        f"INSERT INTO prepared SELECT {FACTS} FROM {events} AS a ANTI JOIN prepared AS b ON {_SAME}"
    )
    without = one(connection, "SELECT count(*) FROM prepared ANTI JOIN items USING (item_id)")
    connection.execute(
        f"COPY (SELECT {FACTS} FROM prepared SEMI JOIN items USING (item_id) {newest(kept)} "
        f"ORDER BY {ORDER}) TO {literal(file)} (FORMAT parquet, ROW_GROUP_SIZE {GROUP})"
    )
    connection.execute("DROP TABLE prepared")
    return without


def merge_events(connection: duckdb.DuckDBPyConnection, deleted: pa.Array, kept: int) -> EventCounts:
    """Create the view `kept` of the newest stored and arrived events of each user, and the table `changed` of
    those among them whose user has an event that was not stored (`fresh`); `place` 1 is the newest event. Its
    rows are in the order of the timelines.

    Args:
        connection: where `stored` and `arrived` are.
        deleted: ids of deleted users.
        kept: how many events of a user are kept.

    Returns:
        Counts, but for `stored_events`.
    """
    import pyarrow as pa

    # Joins look up in what is on their right: ids, or the events of the day's users. The engine does not know
    # how many rows a view of joined files has, and would put all stored events there.
    connection.execute("SET disabled_optimizers = 'build_side_probe_side'")
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
            SELECT *, {TIE} AS tie FROM (
                SELECT *, false AS fresh FROM affected SEMI JOIN fresh USING (user_id)
                UNION ALL SELECT *, true FROM fresh
            )
        )
        SELECT * EXCLUDE (tie),
            row_number() OVER (PARTITION BY user_id ORDER BY micros DESC, tie DESC) AS place
        FROM together QUALIFY place <= {kept} ORDER BY user_id, place DESC"""
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


def write_kept(
    connection: duckdb.DuckDBPyConnection, stored: list[Path], deleted: pa.Array, folder: Path, *, whole: bool
) -> int:
    """Write the files of the events of `kept`, by user and in the order of the timelines.

    Args:
        connection: where `changed` is.
        stored: files that `load_stored` returned.
        deleted: ids of deleted users.
        folder: of the state.
        whole: a deleted user has stored events.

    Returns:
        How many events there are.
    """
    rows = one(connection, "SELECT count(*) FROM changed")
    changed = connection.sql(f"SELECT {FACTS} FROM changed").to_arrow_reader(AT_ONCE)  # in its order
    write_event_files(stored, changed, rows, deleted, folder, whole=whole)
    return one(connection, "SELECT count(*) FROM kept")


def events_to_embed(
    connection: duckdb.DuckDBPyConnection, requested: pa.Array | None, length: int
) -> Iterator[pa.Table]:
    """The kept events of the users to embed: those with new events, and those requested; in the order of the
    timelines.

    Args:
        connection: where `kept` and `changed` are.
        requested: ids; None: all users.
        length: T; an event is new to the model if it is among so many newest of its user.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    active = f"SELECT DISTINCT user_id FROM changed WHERE fresh AND place <= {length}"
    source, users = f"kept ORDER BY {ORDER}", None
    if requested is not None and len(requested):
        connection.register("requested_ids", pa.table({"user_id": requested}))
        connection.execute(
            f"CREATE OR REPLACE TABLE to_embed AS {active} UNION SELECT user_id FROM requested_ids"
        )
        connection.unregister("requested_ids")
        source = f"kept SEMI JOIN to_embed USING (user_id) ORDER BY {ORDER}"
    elif requested is not None:
        source, users = "changed", connection.sql(active).to_arrow_table()["user_id"].combine_chunks()
    for batch in connection.sql(f"SELECT {FACTS} FROM {source}").to_arrow_reader(AT_ONCE):
        table = pa.Table.from_batches([batch])
        yield table if users is None else table.filter(pc.is_in(table["user_id"], users))


class Popularity(NamedTuple):
    """Which items have positives in the store."""

    popular: np.ndarray  # int32, numbers of the items that have some of late, the item with the most first
    decayed: np.ndarray | None  # float64 [N]: by number, what they count with their decay; None: not counted


def popularity(
    connection: duckdb.DuckDBPyConnection,
    rules: tuple[PositiveRule, ...],
    since: int,
    end: int,
    half_life_days: float | None,
    items: int,
) -> Popularity:
    """Count the positives of each item, in one look through the store.

    Args:
        connection: where `kept` and `items` are.
        rules: what a positive is.
        since: microseconds since 1970; older events do not make an item popular.
        end: seconds since 1970, as of when events decay.
        half_life_days: an event counts 1/2 after each, as `evaluation.counts.popularity_counts` counts them;
            None: no decayed counts are needed.
        items: N.
    """
    wanted, decayed = f"{positive_sql(rules)} AND micros >= {since}", "0"
    if half_life_days is not None:
        # Summed as whole multiples of 2^-32: a sum of floats would depend on the order of the threads.
        halvings = f"(micros // 1000000 - {end}) / {half_life_days * DAY!r}"
        wanted, decayed = positive_sql(rules), f"sum(CAST(round(pow(2.0, 32 + {halvings})) AS BIGINT))"
    query = f"""
        SELECT number, count(*) FILTER (micros >= {since}) AS late, CAST({decayed} AS DOUBLE) AS decayed
        FROM kept JOIN items USING (item_id) WHERE {wanted} GROUP BY number ORDER BY late DESC, number"""
    found = connection.execute(query).fetchnumpy()
    popular = found["number"][found["late"] > 0].astype(np.int32)
    if half_life_days is None:
        return Popularity(popular, None)
    counts = np.zeros(items)
    counts[found["number"]] = found["decayed"] / 2**32
    return Popularity(popular, counts)


def one(connection: duckdb.DuckDBPyConnection, query: str) -> Any:
    """The one value that a query gives."""
    [(value,)] = connection.execute(query).fetchall()  # to the end, or the connection stays busy
    return value
