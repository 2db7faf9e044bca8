"""From the log's columns to ours: the SQL of each, and the reason a row cannot be used."""

from __future__ import annotations

import difflib
import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from pinnerformer_jax.config import DataConfig
from pinnerformer_jax.data.contracts import parse_time, to_device_time
from pinnerformer_jax.ingestion import rejects
from pinnerformer_jax.ingestion.log_reader import (
    BROKEN,
    FILE,
    IN_SCOPE,
    ROW,
    check_readable,
    first_line,
    literal,
)

if TYPE_CHECKING:
    import duckdb

_NUMBER = re.compile(r"U?(TINY|SMALL|BIG)?INT(EGER)?|FLOAT|DOUBLE|DECIMAL\(.*")
_MOMENT = re.compile(r"TIMESTAMP.*|DATE")
_MICROS = {"s": 10**6, "ms": 10**3, "us": 1}


def bind(
    connection: duckdb.DuckDBPyConnection, relation: str, setting: str, expression: str
) -> tuple[str, str]:
    """SQL and type of a setting that names a column of the relation or is an expression over them.

    Raises:
        ValueError: there is no such column (names the nearest), or the expression is wrong.
    """
    import duckdb

    names = [row[0] for row in connection.execute(f"DESCRIBE {relation}").fetchall()]
    names = [name for name in names if name not in (FILE, ROW, BROKEN, IN_SCOPE)]
    named = [name for name in names if name.lower() == expression.lower()]
    if named:
        expression = '"' + named[0].replace('"', '""') + '"'
    elif re.fullmatch(r"[^\W\d]\w*", expression):
        near = difflib.get_close_matches(expression.lower(), [name.lower() for name in names], 1, 0.5)
        nearest = f" The nearest is {near[0]!r}." if near else ""
        raise ValueError(f"{setting} = {expression!r}: there is no such column.{nearest} There are: {names}")
    elif wrong := _not_one_expression(connection, expression):
        raise ValueError(f"{setting} = {expression!r}: {wrong} The columns are: {names}")
    try:  # beside a column, so that an aggregate is refused
        described = connection.execute(f"DESCRIBE SELECT ({expression}), {ROW} FROM {relation}").fetchall()
    except duckdb.Error as error:
        raise ValueError(
            f"{setting} = {expression!r}: {first_line(error)} The columns are: {names}"
        ) from None
    return f"({expression})", described[0][1]


def _not_one_expression(connection: duckdb.DuckDBPyConnection, text: str) -> str | None:
    """Why the text, in brackets, is not one expression for the engine's parser; None: it is one, and no
    second column, clause or statement follows."""

    def parsed(expression: str) -> dict[str, Any]:
        query = f"SELECT json_serialize_sql({literal(f'SELECT ({expression})')})"
        return json.loads(connection.execute(query).fetchone()[0])

    tree = parsed(text)
    if tree["error"] and tree["error_type"] == "parser":
        return f"Parser Error: {tree['error_message']}: write a column's name or one SQL expression."
    if tree["error"] or len(tree["statements"]) != 1:
        return "this is more than one SQL expression."
    first, plain = (query["statements"][0]["node"] for query in (tree, parsed("1")))
    columns, _ = first.pop("select_list", ()), plain.pop("select_list")
    if len(columns) != 1 or first != plain:
        return "this is more than one SQL expression."
    return None


def bind_optional(
    connection: duckdb.DuckDBPyConnection, relation: str, setting: str, expression: str, default: str = "NULL"
) -> str:
    """`bind`, only the SQL; the default where the setting is empty."""
    return bind(connection, relation, setting, expression)[0] if expression else default


def bind_id(
    connection: duckdb.DuckDBPyConnection, relation: str, setting: str, expression: str
) -> tuple[str, str]:
    """`bind`, for an id.

    Raises:
        ValueError: also if it is of a type that Parquet cannot give back or that has parts.
    """
    sql, kind = bind(connection, relation, setting, expression)
    if kind.endswith("]") or kind.startswith(("STRUCT", "MAP", "UNION", "HUGEINT", "UHUGEINT", '"NULL"')):
        raise ValueError(f"{setting} = {expression!r} is of type {kind}: cast it to BIGINT or VARCHAR")
    return sql, kind


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
    user, user_type = bind_id(connection, relation, "data.columns.user", columns.user)
    item, item_type = bind_id(connection, relation, "data.columns.item", columns.item)
    time, time_type = bind(connection, relation, "data.columns.time", columns.time)
    duration = bind_optional(connection, relation, "data.columns.duration", columns.duration)
    where = bind_optional(connection, relation, "data.where", data.where, "true")
    raw = {"user_id": user, "item_id": item, "time": time, "duration": duration}
    for name, default in (("action", "'event'"), ("surface", "''"), ("title", "NULL"), ("topic", "NULL")):
        sql = bind_optional(connection, relation, f"data.columns.{name}", getattr(columns, name), default)
        raw[name] = f"nullif(trim(CAST({sql} AS VARCHAR)), '')"
    # A CASE evaluates only the rows it is for: an expression need not make sense out of scope.
    mapped = ", ".join(f"CASE WHEN {IN_SCOPE} THEN {sql} END AS {name}" for name, sql in raw.items())
    micros = _micros("time", time_type, data)
    first, last = (_bound(getattr(data, name), f"data.{name}") for name in ("time_min", "time_max"))
    vector_check = (
        f"WHEN item_id NOT IN (SELECT item_id FROM {with_vector}) THEN '{rejects.NO_VECTOR}'"
        if with_vector
        else ""
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
                WHEN broken IS NOT NULL THEN '{rejects.BROKEN_LINE}'
                WHEN {_missing("user_id", user_type)} THEN '{rejects.NO_USER}'
                WHEN {_missing("item_id", item_type)} THEN '{rejects.NO_ITEM}'
                WHEN {_missing("time", time_type)} THEN '{rejects.NO_TIME}'
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
            {
        ", ".join(
            f"CASE WHEN reason IS NOT NULL THEN CAST({a} AS VARCHAR) END AS raw_{b}"
            for a, b in (("user_id", "user"), ("item_id", "item"), ("time", "time"), ("duration", "duration"))
        )
    },
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


def _micros(time: str, kind: str, data: DataConfig) -> str:
    """SQL of the microseconds since 1970, as a float64 (exact for 1684..2255) that is null if unparsable."""
    if _MOMENT.fullmatch(kind) or (kind == "VARCHAR" and data.time_unit == "timestamp"):
        # A moment without a zone is taken in the connection's, which `stage` sets to data.time_zone.
        return f"CAST(epoch_us(TRY_CAST({time} AS TIMESTAMPTZ)) AS DOUBLE)"
    if data.time_unit == "timestamp" or not (_NUMBER.fullmatch(kind) or kind == "VARCHAR"):
        raise ValueError(
            f"data.columns.time = {data.columns.time!r} is of type {kind}: for numbers set data.time_unit "
            "to s, ms, us or ns; otherwise write an expression that gives a number, a timestamp or a text"
        )
    if data.time_unit == "ns":  # more digits than a float64 has
        return f"CAST(TRY_CAST({time} AS BIGINT) // 1000 AS DOUBLE)"
    return f"floor(TRY_CAST({time} AS DOUBLE) * {_MICROS[data.time_unit]})"
