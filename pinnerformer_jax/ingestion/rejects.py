"""Rows that cannot be used: the reason, the count, and their file and row."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pinnerformer_jax.ingestion.log_reader import literal

if TYPE_CHECKING:
    import duckdb

BROKEN_LINE = "broken CSV line"
NOT_UTF8 = "line that is not UTF-8"
ROUNDED = "id that may be rounded"
NO_USER = "missing user"
NO_ITEM = "missing item"
NO_TIME = "missing time"
BAD_TIME = "unparsable time"
TIME_RANGE = "time out of range"
BAD_DURATION = "unparsable duration"
DURATION_RANGE = "negative, NaN or infinite duration"
NO_VECTOR = "item without a feature vector"
DUPLICATE = "exact duplicate"

REASONS = {
    BROKEN_LINE: "mend the line: fields, quotes (one within a quoted field is doubled), 2 MB a line at most",
    NOT_UTF8: "if all of the file is in another encoding, set data.csv.encoding; rejects name each byte",
    ROUNDED: "a floating point number holds whole ids below 2^53 (float32: 2^24) only: write them as int64",
    NO_USER: "is data.columns.user the right column? To leave such rows out, use data.where",
    NO_ITEM: "is data.columns.item the right column? To leave such rows out, use data.where",
    NO_TIME: "is data.columns.time the right column?",
    BAD_TIME: "is data.time_unit right? A text that is no ISO time needs try_strptime(column, format)",
    TIME_RANGE: "is data.time_unit right (s, ms, us, ns)? Else widen data.time_min, data.time_max",
    BAD_DURATION: "data.columns.duration must give a number of seconds",
    DURATION_RANGE: "data.columns.duration must give seconds >= 0",
    NO_VECTOR: "items.table has no vector of it: add it, or leave items.vector empty to build them",
    DUPLICATE: "another row has the same user, item, time and all else that is mapped; the first is kept",
}
"""Each reason, and what to do about it."""


def mark_duplicates(connection: duckdb.DuckDBPyConnection) -> None:
    """Set the reason, and the raw values, of usable rows of `staged` that repeat an earlier one.

    Equal rows have equal hashes, so only rows whose hash is not alone, few in most logs, are compared. Rows
    are told apart by the engine's own number, as `unnest` makes many rows of one row of a file.
    """
    facts = "user_id, item_id, micros, action, surface, duration, title, topic"
    connection.execute(
        f"""
        UPDATE staged SET reason = '{DUPLICATE}', raw_user = CAST(user_id AS VARCHAR),
            raw_item = CAST(item_id AS VARCHAR), raw_time = CAST(make_timestamp(micros) AS VARCHAR),
            raw_duration = CAST(duration AS VARCHAR)
        WHERE rowid IN (
            SELECT rowid FROM staged
            WHERE in_scope AND reason IS NULL AND hash({facts}) IN (
                SELECT hash({facts}) FROM staged WHERE in_scope AND reason IS NULL
                GROUP BY ALL HAVING count(*) > 1
            )
            QUALIFY row_number() OVER (PARTITION BY {facts} ORDER BY file, row) > 1
        )"""
    ).fetchall()  # to the end, or the connection stays busy


def count(connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """Rejected rows by reason, in the order of `REASONS`, those that occur."""
    found = dict(
        connection.execute(
            "SELECT reason, count(*) FROM staged WHERE reason IS NOT NULL GROUP BY reason"
        ).fetchall()
    )
    return {reason: found[reason] for reason in REASONS if found.get(reason)}


def write(
    connection: duckdb.DuckDBPyConnection, path: Path, without: str = "SELECT NULL WHERE false"
) -> None:
    """Write the rejects: file, row, reason, the raw user, item, time and duration, a broken line's text; but
    for users among `without`, a query that gives texts."""
    connection.execute(
        f"""
        COPY (
            SELECT file, row, reason, raw_user AS user, raw_item AS item, raw_time AS time,
                raw_duration AS duration, broken AS line
            FROM staged WHERE reason IS NOT NULL AND (raw_user IS NULL OR raw_user NOT IN ({without}))
            ORDER BY ALL
        ) TO {literal(path)} (FORMAT parquet)"""
    ).fetchall()  # to the end, or the connection stays busy


def check_share(rejected: dict[str, int], rows: int, allowed: float, file: Path) -> None:
    """Refuse a log that is bad beyond `allowed`, or entirely.

    Args:
        rejected: rows by reason.
        rows: rows in scope, good and bad.
        allowed: the largest share of bad rows that is accepted.
        file: where the rejects are written, for the message.

    Raises:
        ValueError: the share is larger; the message names the file of rejected rows and the fix.
    """
    bad = sum(rejected.values())
    if bad <= allowed * rows and bad < rows:
        return
    lines = [f"  {n:>12,}  {reason}: {REASONS[reason]}" for reason, n in rejected.items()]
    raise ValueError(
        f"{bad:,} of {rows:,} rows ({bad / rows:.1%}) are bad; data.max_reject_share = {allowed:g}:\n"
        + "\n".join(lines)
        + f"\nEach is listed in {file} with its file, row and reason. "
        "Mend the log, leave such rows out with data.where, or raise data.max_reject_share."
    )
