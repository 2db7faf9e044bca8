"""The day's log, read by the rules of ingest: the run's own columns, scope, actions and rejects.

    rejects.parquet    rows of the day's log that were set aside: file, row, reason, raw values

Beyond the rules of ingest:
- a row whose item neither the catalogue nor new_items.py has is set aside ("item without a feature vector");
- events after the day are left out.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pinnerformer_jax.config import DataConfig
from pinnerformer_jax.ingestion import event_mapping, rejects
from pinnerformer_jax.ingestion.log_reader import literal, open_log
from pinnerformer_jax.remote_files import File
from pinnerformer_jax.serving.event_store import FACTS, one
from pinnerformer_jax.serving.manifest import LogCounts

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

_INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT")


def load_log(
    connection: duckdb.DuckDBPyConnection,
    files: Sequence[File],
    data: DataConfig,
    end: int,
    work: Path,
    rejected: Path,
    failed: Path,
    deleted: pa.Array,
) -> LogCounts | None:
    """Create the table `arrived` from the day's log, and write its rejects.

    Args:
        connection: where `stored` and `items` are.
        files: the log; []: `arrived` is empty.
        data: the run's rules.
        end: microseconds since 1970; later events are left out.
        work: folder for copies of CSV files.
        rejected: file for the rejects.
        failed: file for the rejects if there are too many.
        deleted: ids of deleted users, whose rows are left out of the rejects.

    Returns:
        Counts; None if there is no log.

    Raises:
        ValueError: the log does not fit the rules, its ids are of another type than the stored ones, or
            more than data.max_reject_share of it is bad. Rows of unknown items do not count as bad.
    """
    import pyarrow as pa

    connection.execute("CREATE TABLE arrived AS FROM stored LIMIT 0")
    if not files:
        return None
    open_log(connection, "log", "--events", [str(file) for file in files], work, data.csv)
    columns = data.columns
    for kind in ("user", "item"):
        expression = _as_stored(connection, kind, getattr(columns, kind))
        columns = dataclasses.replace(columns, **{kind: expression})
    event_mapping.stage(connection, "log", dataclasses.replace(data, columns=columns), "items")
    rejects.mark_duplicates(connection)
    counts = rejects.count(connection)
    connection.register("deleted", pa.table({"user_id": deleted}))
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
    good = "FROM staged WHERE in_scope AND reason IS NULL"
    taken = f"action IN ({chosen})" if chosen else "true"
    [(accepted, after)] = connection.execute(
        f"SELECT count(*) FILTER ({taken}), count(*) FILTER ({taken} AND micros >= {end}) {good}"
    ).fetchall()
    connection.execute(f"INSERT INTO arrived SELECT {FACTS} {good} AND {taken} AND micros < {end}")
    return LogCounts(
        rows=rows,
        out_of_scope=rows - in_scope,
        rejected=counts,
        other_actions=in_scope - sum(counts.values()) - accepted,
        after_day=after,
        arrived=accepted - after,
    )


def _as_stored(connection: duckdb.DuckDBPyConnection, kind: str, expression: str) -> str:
    """SQL of an id of the log, in the type that ids of this kind have in the store."""
    setting = f"data.columns.{kind}"
    sql, found = event_mapping.bind_id(connection, "log", setting, expression)
    wanted = one(connection, f"SELECT column_type FROM (DESCRIBE stored) WHERE column_name = '{kind}_id'")
    of_before = (wanted, found) == ("DOUBLE", "BIGINT")  # of a run before ids were whole numbers
    if found == wanted or of_before:
        return expression
    if found in _INTEGERS and wanted in _INTEGERS:
        return f"CAST({sql} AS {wanted})"
    raise ValueError(
        f"--events: {setting} = {expression!r} is of type {found}, in the data the model was trained on it "
        f"was {wanted}; give the log's column that type"
    )
