"""From the log's columns to ours: the SQL of each, and the reason a row cannot be used."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pinnerformer_jax.config import DataConfig
from pinnerformer_jax.data.contracts import parse_time, to_device_time
from pinnerformer_jax.ingestion import rejects
from pinnerformer_jax.ingestion.csv_reader import NOT_UTF8
from pinnerformer_jax.ingestion.engine import BROKEN, FILE, IN_SCOPE, ROW, first_line, literal
from pinnerformer_jax.ingestion.kinds import bind_id, duration_in_seconds, find_id, time_in_micros
from pinnerformer_jax.ingestion.log_columns import Column, resolve
from pinnerformer_jax.ingestion.log_reader import check_readable

if TYPE_CHECKING:
    import duckdb

__all__ = ["bind", "bind_id", "bind_optional", "stage"]


def bind(
    connection: duckdb.DuckDBPyConnection, relation: str, setting: str, expression: str
) -> tuple[str, str]:
    """SQL and type of a setting that names a column of the relation or is an expression over them.

    Raises:
        ValueError: there is no such column (names the nearest), or the expression is wrong.
    """
    found = resolve(connection, relation, setting, expression)
    return found.sql, found.kind


def bind_optional(
    connection: duckdb.DuckDBPyConnection, relation: str, setting: str, expression: str, default: str = "NULL"
) -> str:
    """`bind`, only the SQL; the default where the setting is empty."""
    return bind(connection, relation, setting, expression)[0] if expression else default


def stage(
    connection: duckdb.DuckDBPyConnection, relation: str, data: DataConfig, with_vector: str | None
) -> None:
    """Create the table `staged`: every row of the log, mapped, with the reason it cannot be used.

        file, row           its place in the log
        in_scope            it meets data.where (if not, the other columns are null)
        user_id, item_id    as in the log
        micros              microseconds since 1970, UTC
        action, surface     text, '' where there is none
        duration            float32 seconds
        title, topic        text or null
        reason              one of `rejects.REASONS`, or null; then also user, item, time, duration: the
                            raw values as text, and broken: the text of a CSV line that is none

    Args:
        connection: where `relation` is, and `staged` will be.
        relation: the log.
        data: which column is what, and which times are allowed.
        with_vector: a table of the items (item_id) that have a vector; None: vectors will be built.

    Raises:
        ValueError: a column or expression is wrong, or does not fit a row of the log.
    """
    import duckdb

    columns = data.columns
    user = find_id(connection, relation, "data.columns.user", columns.user)
    item = find_id(connection, relation, "data.columns.item", columns.item)
    time = resolve(connection, relation, "data.columns.time", columns.time)
    micros = time_in_micros("data.columns.time", time, "time", data)
    duration = "NULL"
    if columns.duration:
        found = resolve(connection, relation, "data.columns.duration", columns.duration)
        duration = duration_in_seconds("data.columns.duration", found)
    where = bind_optional(connection, relation, "data.where", data.where, "true")
    raw = {"user_id": user.sql, "item_id": item.sql, "time": time.sql, "duration": duration}
    raw |= {"rounded_user": user.rounded, "rounded_item": item.rounded}
    for name, default in (("action", "'event'"), ("surface", "''"), ("title", "NULL"), ("topic", "NULL")):
        sql = bind_optional(connection, relation, f"data.columns.{name}", getattr(columns, name), default)
        raw[name] = f"nullif(trim(CAST({sql} AS VARCHAR)), '')"
    # A CASE evaluates only the rows it is for: an expression need not make sense out of scope.
    mapped = ", ".join(f"CASE WHEN {IN_SCOPE} THEN {sql} END AS {name}" for name, sql in raw.items())
    first, last = (_bound(getattr(data, name), f"data.{name}") for name in ("time_min", "time_max"))
    vector_check = (
        f"WHEN item_id NOT IN (SELECT item_id FROM {with_vector}) THEN '{rejects.NO_VECTOR}'"
        if with_vector
        else ""
    )
    raw_values = ", ".join(
        f"CASE WHEN reason IS NOT NULL THEN CAST({sql} AS VARCHAR) END AS raw_{name}"
        for name, sql in (
            ("user", "coalesce(CAST(user_id AS VARCHAR), rounded_user)"),
            ("item", "coalesce(CAST(item_id AS VARCHAR), rounded_item)"),
            ("time", "time"),
            ("duration", "duration"),
        )
    )
    query = f"""
        CREATE TABLE staged AS
        WITH scoped AS (
            SELECT *, {BROKEN} IS NOT NULL OR coalesce(CAST({where} AS BOOLEAN), false) AS {IN_SCOPE}
            FROM {relation}
        ), mapped AS (
            SELECT {FILE} AS file, {ROW} AS row, {BROKEN} AS broken, {IN_SCOPE} AS in_scope, {mapped}
            FROM scoped
        ), parsed AS (
            SELECT *, {micros} AS micros, TRY_CAST(duration AS FLOAT) AS seconds FROM mapped
        ), judged AS (
            SELECT *, CASE
                WHEN NOT in_scope THEN NULL
                WHEN broken LIKE '{NOT_UTF8 % "%"}%' THEN '{rejects.NOT_UTF8}'
                WHEN broken IS NOT NULL THEN '{rejects.BROKEN_LINE}'
                WHEN coalesce(rounded_user, rounded_item) IS NOT NULL THEN '{rejects.ROUNDED}'
                WHEN {_missing("user_id", user.kind)} THEN '{rejects.NO_USER}'
                WHEN {_missing("item_id", item.kind)} THEN '{rejects.NO_ITEM}'
                WHEN {_missing("time", time.kind)} THEN '{rejects.NO_TIME}'
                WHEN micros IS NULL OR NOT isfinite(micros) THEN '{rejects.BAD_TIME}'
                WHEN micros NOT BETWEEN {first} AND {last} THEN '{rejects.TIME_RANGE}'
                WHEN trim(CAST(duration AS VARCHAR)) <> '' AND seconds IS NULL THEN '{rejects.BAD_DURATION}'
                WHEN seconds < 0 OR NOT isfinite(seconds) THEN '{rejects.DURATION_RANGE}'
                {vector_check}
            END AS reason
            FROM parsed
        )
        SELECT file, row, in_scope, user_id, item_id,
            CASE WHEN reason IS NULL THEN CAST(micros AS BIGINT) END AS micros,
            coalesce(action, '') AS action, coalesce(surface, '') AS surface,
            coalesce(seconds, 0) AS duration, title, topic, reason,
            {raw_values},
            broken
        FROM judged"""
    try:
        connection.execute(f"SET TimeZone = {literal(data.time_zone)}")
    except duckdb.Error:
        raise ValueError(
            f"data.time_zone = {data.time_zone!r}: no such zone; write UTC or one such as Europe/London"
        ) from None
    try:
        connection.execute(query)
    except (duckdb.ProgrammingError, duckdb.DataError, duckdb.NotSupportedError) as error:
        check_readable(connection, relation)
        raise ValueError(
            f"the log cannot be read with these settings: {first_line(error)} "
            "(an expression in data.columns or data.where may need TRY_CAST)"
        ) from None
    except duckdb.OperationalError:  # no space, no memory
        raise
    except duckdb.Error as error:
        check_readable(connection, relation)
        raise ValueError(f"the log cannot be read: {first_line(error)}") from None
    for kind, found in (("user", user), ("item", item)):
        if found.mixed:
            _refuse_rounded(connection, kind, found.mixed)


def _refuse_rounded(connection: duckdb.DuckDBPyConnection, kind: str, column: Column) -> None:
    """Raise ValueError if ids became floating point numbers, because they are that in some files, and one of
    them may be rounded."""
    name, is_rounded = column.names[0], f"reason = '{rejects.ROUNDED}' AND {kind}_id IS NULL"
    [(example, rows)] = connection.execute(
        f"SELECT min(raw_{kind}), count(*) FROM staged WHERE {is_rounded}"
    ).fetchall()
    if rows:
        raise ValueError(
            f"data.columns.{kind}: {name!r} is {column.where()}. Read together they are floating point "
            f"numbers, which may be rounded in {rows:,} rows, such as {example}: write {name!r} as whole "
            "numbers in all files (in pandas: Int64)"
        )


def _missing(name: str, kind: str) -> str:
    """SQL condition: there is no value."""
    if kind == "VARCHAR":
        return f"({name} IS NULL OR trim({name}) = '')"
    if kind in ("FLOAT", "DOUBLE"):  # how pandas writes a missing whole number
        return f"({name} IS NULL OR isnan({name}))"
    return f"{name} IS NULL"


def _bound(text: str, setting: str) -> int:
    """Microseconds since 1970 of a bound that training can hold."""
    seconds = parse_time(text, setting)
    try:
        to_device_time(np.array([seconds]))
    except ValueError as error:
        raise ValueError(f"{setting} = {text!r}: {error}") from None
    return seconds * 10**6
