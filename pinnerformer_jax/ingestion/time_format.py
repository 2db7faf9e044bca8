"""How a log writes its times, by the values: numbers since 1970 in some unit, ISO texts, or a format."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, NamedTuple

from pinnerformer_jax.ingestion.draft import CHECK, EDIT
from pinnerformer_jax.ingestion.engine import literal
from pinnerformer_jax.ingestion.log_profile import Facts

if TYPE_CHECKING:
    import duckdb

_FIRST, _LAST = 631_152_000, 2_840_140_800
"""1990 and 2060 in seconds: what ingest takes for a time without a word (data.time_min, time_max)."""

_CLOCKS = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p", ", %H:%M:%S", "T%H:%M:%S")
_DAY_FIRST = [f"%d{s}%m{s}{y}" for s, y in itertools.product("/.-", ("%Y", "%y"))] + ["%d %m, %Y"]
_MONTH_FIRST = [re.sub(r"%d(.*)%m", r"%m\1%d", date) for date in _DAY_FIRST]
_CLEAR = (
    "%Y%m%d", "%Y.%m.%d", "%d %b %Y", "%d-%b-%Y", "%d-%b-%y", "%b %d, %Y", "%d %B %Y", "%B %d, %Y",
    "%b %d %Y",
)  # fmt: skip
_WHOLE = (
    "%Y-%m-%d %H:%M:%S %z", "%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%d %H:%M:%S.%f %z", "%Y%m%d%H%M%S", "%Y%m%d %H%M%S",
    "%a %b %d %H:%M:%S %z %Y", "%a, %d %b %Y %H:%M:%S %z", "%d/%b/%Y:%H:%M:%S %z", "%d/%b/%Y %H:%M:%S",
)  # fmt: skip


class TimeFormat(NamedTuple):
    """How a column gives times."""

    expression: str  # for data.columns.time; "" if it is not known
    unit: str  # for data.time_unit
    reason: str
    mark: str = ""
    instead: tuple[str, ...] = ()
    coarse: bool = False  # days without a time of day


def read_times(connection: duckdb.DuckDBPyConnection, relation: str, column: Facts) -> TimeFormat | None:
    """How a column of a profiled relation gives times; None: it gives none.

    A date such as 03/04/2024 is decided by all rows: a value above 12 is a day. Where no row decides, the
    mark is EDIT and `instead` has both readings.
    """
    name = column.name
    if column.kind.endswith("[]") and not column.kind.startswith("STRUCT"):
        return _of_lists(connection, relation, column)
    if re.fullmatch(r"TIMESTAMP.*|DATE", column.kind):
        zone = "" if "ZONE" in column.kind else _no_zone(column)
        return TimeFormat(name, "timestamp", f"of type {column.kind}{zone}", coarse=column.kind == "DATE")
    if column.numbers > 0.97 and column.kind != "BOOLEAN":
        return _of_numbers(connection, relation, column)
    if column.kind != "VARCHAR" or not column.frequent:
        return None
    share = _share(connection, relation, column, f"TRY_CAST({column.sql} AS TIMESTAMPTZ)")
    if share > 0.95:
        coarse = all(re.fullmatch(r"\d{4}\D\d\d?\D\d\d?", value) for value in column.frequent)
        return TimeFormat(
            name, "timestamp", f"ISO times such as {column.example}{_no_zone(column)}", coarse=coarse
        )
    return _of_format(connection, relation, column)


def _of_lists(connection: duckdb.DuckDBPyConnection, relation: str, column: Facts) -> TimeFormat | None:
    """Times of a log whose rows are sessions, with a list of times each."""
    item = column.kind.removesuffix("[]")
    listed = f"unnest({column.sql})"
    reason = "lists, which unnest takes apart as those of the items"
    if re.fullmatch(r"TIMESTAMP.*|DATE", item):
        return TimeFormat(listed, "timestamp", reason, coarse=item == "DATE")
    if not re.fullmatch(r"U?(BIG|SMALL)?INT(EGER)?|DOUBLE", item):
        return None
    [(low, high)] = connection.execute(
        f"SELECT quantile_disc(t, 0.01), quantile_disc(t, 0.99) FROM (SELECT {listed} AS t FROM "
        f"{relation}_sample)"
    ).fetchall()
    if low is None:
        return None
    found = _of_numbers(
        connection, relation, column._replace(low=low, high=high, frequent={str(low): 1}), listed
    )
    if found is None or not found.expression:
        return found
    return found._replace(expression=listed, reason=f"{reason}; {found.reason}")


def _no_zone(column: Facts) -> str:
    if re.search(r"(Z|UTC|[+-]\d\d:?\d\d|[+-]\d\d)$", column.example) and ":" in column.example:
        return ""
    return ", without a zone: taken as UTC (data.time_zone)"


def _share(connection: duckdb.DuckDBPyConnection, relation: str, column: Facts, parsed: str) -> float:
    """Share of the sample's filled rows that an expression reads as a time from 1990 to 2060."""
    [(share,)] = connection.execute(
        f"SELECT avg(CASE WHEN coalesce(epoch({parsed}) BETWEEN {_FIRST} AND {_LAST}, false) THEN 1 "
        "ELSE 0 END) "
        f"FROM {relation}_sample WHERE trim(CAST({column.sql} AS VARCHAR)) <> ''"
    ).fetchall()
    return share or 0.0


def _of_numbers(
    connection: duckdb.DuckDBPyConnection, relation: str, column: Facts, sql: str = ""
) -> TimeFormat | None:
    """By the numbers that `sql` gives, the column's by default: the unit that makes times of most of them."""
    low, high = column.low, column.high
    for unit, name, factor in (
        ("s", "seconds", 1), ("ms", "milliseconds", 10**3), ("us", "microseconds", 10**6),
        ("ns", "nanoseconds", 10**9),
    ):  # fmt: skip
        numbers = f"SELECT TRY_CAST({sql or column.sql} AS DOUBLE) AS n FROM {relation}_sample"
        fits = f"n BETWEEN {_FIRST * factor} AND {_LAST * factor}"
        [(share, first, last, days)] = connection.execute(
            f"SELECT count(*) FILTER (fits) / count(*), min(n) FILTER (fits), max(n) FILTER (fits), "
            f"bool_and(n % {86_400 * factor} = 0) FILTER (fits) "
            f"FROM (SELECT n, {fits} AS fits FROM ({numbers}) WHERE isfinite(n))"
        ).fetchall()
        if share and share > 0.9:
            reason = (
                f"numbers such as {last:.0f}: as {name} since 1970 they are {_day(first / factor)} to "
                f"{_day(last / factor)}"
            )
            if share < 1:
                reason += f". {1 - share:.2%} of a sample are no such times, and are rejected"
            return TimeFormat(column.name, unit, reason, CHECK if share < 0.99 else "", coarse=bool(days))
    for layout, digits in (("%Y%m%d", 8), ("%Y%m%d%H%M%S", 14)):
        text = f"CAST({column.bare} AS VARCHAR)"
        parsed = f"try_strptime(CAST({column.sql} AS VARCHAR), '{layout}')"
        if len(str(int(high))) == digits and _share(connection, relation, column, parsed) > 0.95:
            return TimeFormat(
                f"try_strptime({text}, '{layout}')", "timestamp",
                f"numbers such as {column.example} are dates of the form {layout}, taken as UTC "
                "(data.time_zone)", coarse=digits == 8,
            )  # fmt: skip
    if high > low:
        number = f"try_cast({column.bare} AS DOUBLE)"
        since, way = "2000-01-01, for example", f"946684800 + 86400 * {number}"
        if low > 30_000 and high < 60_000:
            since, way = "1899-12-30, as spreadsheets do", f"86400 * ({number} - 25569)"
        return TimeFormat(
            "", "s",
            f"{column.name} has numbers from {low:,.0f} to {high:,.0f}, which are no times since 1970 "
            "in s, ms, us or ns. If they count days, write them as seconds since 1970; if from "
            f"{since}, as below",
            EDIT, (repr(way),),
        )  # fmt: skip
    return None


def _of_format(connection: duckdb.DuckDBPyConnection, relation: str, column: Facts) -> TimeFormat | None:
    days, months = (
        _layouts(connection, relation, column, [d + c for d in dates for c in _CLOCKS])
        for dates in (_DAY_FIRST, _MONTH_FIRST)
    )
    clear = _layouts(connection, relation, column, [*_WHOLE, *(d + c for d in _CLEAR for c in _CLOCKS)])
    of_clear = _share(connection, relation, column, _parse(column.sql, clear)) if clear else 0.0
    either = ", ".join(_parse(column.sql, layouts) for layouts in (days, months) if layouts)
    of_either = _share(connection, relation, column, f"coalesce({either})") if either else 0.0
    if max(of_clear, of_either) < 0.9:
        return None
    example = f"such as {column.example}"
    if of_clear >= of_either:
        coarse = not any("%H" in layout or "%I" in layout for layout in clear)
        zone = "" if any("%z" in layout for layout in clear) else ", taken as UTC (data.time_zone)"
        return TimeFormat(_parse(column.bare, clear), "timestamp", f"texts {example}{zone}", coarse=coarse)
    coarse = not any("%H" in layout or "%I" in layout for layout in days + months)
    return _by_all_rows(connection, relation, column, days, months, coarse)


def _by_all_rows(
    connection: duckdb.DuckDBPyConnection,
    relation: str,
    column: Facts,
    days: list[str],
    months: list[str],
    coarse: bool,
) -> TimeFormat:
    """Day first or month first, by the rows that only one of the two reads."""
    as_days, as_months = (
        f"{_parse(column.sql, layouts)} IS NOT NULL" if layouts else "false" for layouts in (days, months)
    )
    [(only_days, only_months)] = connection.execute(
        f"SELECT count(*) FILTER ({as_days} AND NOT {as_months}), "
        f"count(*) FILTER ({as_months} AND NOT {as_days}) FROM {relation}"
    ).fetchall()
    day = _parse(column.bare, days or months)
    month = _parse(column.bare, months or days)
    counts = (
        f"{only_days:,} rows are dates only with the day first (dd/mm), "
        f"{only_months:,} only with the month first"
    )
    if (only_days == 0) == (only_months == 0):
        why = "no row decides" if only_days == 0 else "the log mixes them"
        return TimeFormat(
            "", "timestamp",
            f"dates such as {column.example} may be dd/mm or mm/dd: {counts}, so {why}. Write the right one",
            EDIT, (repr(day), repr(month)), coarse,
        )  # fmt: skip
    expression, order = (day, "dd/mm") if only_days else (month, "mm/dd")
    return TimeFormat(
        expression, "timestamp",
        f"dates such as {column.example} are {order}: {counts}. Without a zone: taken as UTC "
        "(data.time_zone)",
        coarse=coarse,
    )  # fmt: skip


def _layouts(
    connection: duckdb.DuckDBPyConnection, relation: str, column: Facts, layouts: list[str]
) -> list[str]:
    """Those of the layouts that are needed to read the sample's values, the most frequent first."""
    left = f"SELECT DISTINCT trim({column.sql}) AS t FROM {relation}_sample WHERE trim({column.sql}) <> ''"
    chosen: list[str] = []
    while len(chosen) < 4:
        unread = f"SELECT t FROM ({left} LIMIT 3000)"
        if chosen:
            unread += f" WHERE {_parse('t', chosen)} IS NULL"
        counts = ", ".join(
            f"count(*) FILTER (coalesce(epoch(try_strptime(t, {literal(layout)})) BETWEEN {_FIRST} AND "
            f"{_LAST}, "
            "false))"
            for layout in layouts
        )
        [found] = connection.execute(f"SELECT {counts} FROM ({unread})").fetchall()
        best = max(range(len(layouts)), key=lambda k: found[k])
        if not found[best]:
            break
        chosen.append(layouts[best])
    return chosen


def _parse(sql: str, layouts: list[str]) -> str:
    given = literal(layouts[0]) if len(layouts) == 1 else literal(layouts)
    return f"try_strptime(trim({sql}), {given})"


def _day(seconds: float) -> str:
    import datetime

    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).date().isoformat()
