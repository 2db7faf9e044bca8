"""Ids, times and durations by the types that the files have: never rounded, never of another unit."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pinnerformer_jax.config import DataConfig
from pinnerformer_jax.ingestion.log_columns import Column, Setting, resolve

if TYPE_CHECKING:
    import duckdb

_DIGITS = {"float16": 11, "float32": 24, "float64": 53}
"""Bits of a whole number that each type holds exactly."""

_IDS = re.compile(r"U?(TINY|SMALL|BIG)?INT(EGER)?|VARCHAR|DECIMAL\(.*|BOOLEAN|DATE")
_NUMBER = re.compile(r"U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|FLOAT|DOUBLE|DECIMAL\(.*")
_MOMENT = re.compile(r"TIMESTAMP.*|DATE")
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


class Id(NamedTuple):
    """An id in SQL."""

    sql: str  # null where it is missing or may be rounded
    kind: str  # the engine's type
    rounded: str  # text of a floating point number that is no whole number, or may be rounded; else null
    mixed: Column | None  # a column of whole numbers in some files and of floating point numbers in others


def bind_id(
    connection: duckdb.DuckDBPyConnection, relation: str, setting: str, expression: str
) -> tuple[str, str]:
    """SQL and type of an id, see `find_id`."""
    return find_id(connection, relation, setting, expression)[:2]


def find_id(connection: duckdb.DuckDBPyConnection, relation: str, setting: str, expression: str) -> Id:
    """An id, which is a column or an expression. Floating point numbers are taken as whole numbers where they
    hold them exactly: below 2^53, or 2^24 for float32.

    Raises:
        ValueError: see `resolve`; or it is of a type that Parquet cannot give back or that has parts, or its
            types in the files have no type in common that keeps all values as they are.
    """
    found = resolve(connection, relation, setting, expression)
    kind = found.kind
    if kind.endswith("]") or kind.startswith(("STRUCT", "MAP", "UNION", "HUGEINT", "UHUGEINT", '"NULL"')):
        raise ValueError(f"{setting} = {expression!r} is of type {kind}: cast it to BIGINT or VARCHAR")
    mixed = None
    for column in found.columns:
        families = {_family(kind) for kind in column.kinds} - {"null"}
        if any(_decimal_digits(kind) > 38 for kind in column.kinds):
            raise ValueError(
                f"{setting} = {expression!r} is {column.where()}: the engine reads decimals of more than 38 "
                "digits as floating point numbers, which would round ids; write them as text"
            )
        floats = families & _DIGITS.keys()
        if floats and len(families) > 1:
            mixed = column
        lossy = mixed is column or any(family.startswith("decimal") for family in families)
        whole_or_float = len(floats) == 1 and families == {"int", *floats}
        if len(families) > 1 and (lossy or found.alone) and not (found.alone and whole_or_float):
            cure = "write one type" if lossy else f"write one type, or CAST({column.sql} AS VARCHAR) here"
            raise ValueError(
                f"{setting} = {expression!r} is {column.where()}: ids of these types cannot be compared as "
                f"they are; {cure}"
            )
    if kind in ("FLOAT", "DOUBLE"):
        floats_of_id = [found.sql]
    else:
        inexact = [column for column in found.columns if _DIGITS.keys() & column.kinds.keys()]
        floats_of_id = [column.sql for column in inexact] if len(inexact) == len(found.columns) else []
    if not floats_of_id:
        return Id(found.sql, kind, "NULL", mixed)
    digits = [_DIGITS.get(kind, 53) for column in found.columns for kind in column.kinds]
    limit = 2 ** min([53, 24 if kind == "FLOAT" else 53, *digits])
    whole = " AND ".join(f"abs({x}) < {limit} AND {x} = trunc({x})" for x in floats_of_id)
    there = " OR ".join(f"({x} IS NOT NULL AND NOT isnan({x}))" for x in floats_of_id)
    text = f"concat_ws(' ', {', '.join(f'CAST({x} AS VARCHAR)' for x in floats_of_id)})"
    rounded = f"CASE WHEN ({there}) AND NOT coalesce({whole}, false) THEN {text} END"
    exact, kind = (
        (f"TRY_CAST({found.sql} AS BIGINT)", "BIGINT") if kind in ("FLOAT", "DOUBLE") else (found.sql, kind)
    )
    return Id(f"(CASE WHEN {whole} THEN {exact} END)", kind, rounded, mixed)


def check_ids(connection: duckdb.DuckDBPyConnection, relation: str, data: DataConfig) -> None:
    """Check that all verbs take the ids of a log that is to be prepared.

    Raises:
        ValueError: they do not take ids of this type; the message has the cast to write.
    """
    for setting in ("user", "item"):
        expression = getattr(data.columns, setting)
        found = find_id(connection, relation, f"data.columns.{setting}", expression)
        if not _IDS.fullmatch(found.kind):
            name = found.sql[1:-1]
            cast = f"CAST({name} AS VARCHAR)"
            if found.kind == "BLOB":
                cast = f"decode({name}) if it is text in UTF-8, else hex({name})"
            raise ValueError(
                f"data.columns.{setting} = {expression!r} is of type {found.kind}, which not all steps take "
                f"as an id: write {cast}"
            )


def time_in_micros(setting: str, found: Setting, name: str, data: DataConfig) -> str:
    """SQL of the microseconds since 1970, as a float64 (exact for 1684..2255) that is null if unparsable.

    Args:
        setting: the config field, for messages.
        found: what it means.
        name: of its value in the SQL.
        data: unit and zone of times.

    Raises:
        ValueError: it is no time, or of a type that cannot hold one.
    """
    kind, unit = found.kind, _duration_unit(setting, found) or data.time_unit
    if _MOMENT.fullmatch(kind) or (kind == "VARCHAR" and unit == "timestamp"):
        # A moment without a zone is taken in the connection's, which `stage` sets to data.time_zone.
        return f"CAST(epoch_us(TRY_CAST({name} AS TIMESTAMPTZ)) AS DOUBLE)"
    if unit == "timestamp" or not (_NUMBER.fullmatch(kind) or kind == "VARCHAR"):
        raise ValueError(
            f"{setting} = {data.columns.time!r} is of type {kind}: for numbers set data.time_unit "
            "to s, ms, us or ns; otherwise write an expression that gives a number, a timestamp or a text"
        )
    coarse = [c for c in found.columns if {"float16", "float32"} & c.kinds.keys()]
    if kind == "FLOAT" or (coarse and len(coarse) == len(found.columns)):
        seconds = np.spacing(np.float32(1.7e9 * _PER_SECOND[unit])) / _PER_SECOND[unit]
        where = f" ({'; '.join(column.where() for column in coarse)})" if coarse else ""
        raise ValueError(
            f"{setting} = {data.columns.time!r} is a float32{where}: it holds a time since 1970 only to "
            f"{seconds:.0f} s, and the order of events is lost; write the times as int64, float64 or "
            "timestamps"
        )
    if unit == "ns":  # more digits than a float64 has
        return f"CAST(TRY_CAST({name} AS BIGINT) // 1000 AS DOUBLE)"
    return f"floor(TRY_CAST({name} AS DOUBLE) * {10**6 // _PER_SECOND[unit]})"


def duration_in_seconds(setting: str, found: Setting) -> str:
    """SQL of a duration in seconds: that of an Arrow duration, an interval or a time of day by its own unit.

    Raises:
        ValueError: its unit is not the same in all files, or it is an expression over an Arrow duration.
    """
    if unit := _duration_unit(setting, found):
        return f"(CAST({found.sql} AS DOUBLE) / {_PER_SECOND[unit]})"
    return f"epoch({found.sql})" if found.kind in ("INTERVAL", "TIME") else found.sql


def _duration_unit(setting: str, found: Setting) -> str | None:
    """Unit of a column that the files call a duration; None: it is none."""
    for column in found.columns:
        if any(kind.startswith("duration") for kind in column.kinds):
            kinds = {kind: file for kind, file in column.kinds.items() if kind != "null"}
            if not found.alone or len(kinds) > 1:
                raise ValueError(
                    f"{setting} uses {column.names[0]!r}, which is {column.where()}: name the column alone, "
                    "of one type in all files, and its unit is known; or write it as a number of seconds"
                )
            return next(iter(kinds)).removeprefix("duration[").removesuffix("]")
    return None


def _family(kind: str) -> str:
    """Types whose values stay as they are when files are read together."""
    return "int" if re.fullmatch(r"u?int\d+", kind) else kind


def _decimal_digits(kind: str) -> int:
    match = re.fullmatch(r"decimal\d+\((\d+), -?\d+\)", kind)
    return int(match[1]) if match else 0
