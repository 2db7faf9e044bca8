"""The time of the split and the end of the evaluation window, of which a few wrong clocks know nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pinnerformer_jax.config import DataConfig
from pinnerformer_jax.data.contracts import DAY, format_time, parse_time

if TYPE_CHECKING:
    import duckdb

SPARSE = 0.1
"""Where events are less dense than this share of the bulk's density, there is next to nothing."""

_BINS = 100_000  # at most


class _Histogram(NamedTuple):
    """Events over time."""

    counts: np.ndarray  # int64, of bins of equal width from the first event on
    width: int  # of a bin, microseconds
    bulk: slice  # bins without the earliest and the latest 1 % of the events (at least 10, at most 10 %)

    @property
    def density(self) -> float:
        """Events of a bin of the bulk, on average."""
        return float(self.counts[self.bulk].mean())


def choose_split(
    connection: duckdb.DuckDBPyConnection, data: DataConfig, report: Callable[[str], None]
) -> tuple[int, int]:
    """t, and the last second of the evaluation window; the same, the end of the bulk, with `data.final`.

    By default the window ends with the bulk of the events. What comes later is left out if it is at most 1 %
    of the events (or 10 events) and next to nothing for the time that it covers: clocks that are wrong.

    Args:
        connection: where `accepted` is.
        data: split_time, evaluation_days, final.
        report: called with a line about late events, and about a window that holds next to nothing.

    Raises:
        ValueError: the window does not fit into the log.
    """
    first, last = connection.execute("SELECT min(micros), max(micros) FROM accepted").fetchone()
    horizon = round(data.evaluation_days * DAY)
    histogram = _histogram(connection, first, last, horizon)
    tomorrow = round((time.time() + DAY) * 10**6)
    if late := _count(connection, tomorrow, last):
        report(f"{late:,} events are dated after tomorrow, up to {_text(last)}: wrong clocks?")
    bulk_end = last if data.split_time else _end_of_bulk(connection, histogram, first, last)
    if bulk_end < last:
        late = _count(connection, bulk_end, last)
        report(
            f"{late:,} events lie far behind the bulk of the log, which ends at {_text(bulk_end)}; the last "
            f"is of {_text(last)}. The split follows the bulk, and they are left out. If they are right, set "
            "data.split_time; if their clocks are wrong, data.time_max rejects them"
        )
    last_second, first_second = bulk_end // 10**6, first // 10**6
    if data.final:
        return last_second, last_second
    span = f"the log, which runs from {format_time(first_second)} to {format_time(last_second)}"
    if horizon > last_second - first_second:
        raise ValueError(f"data.evaluation_days = {data.evaluation_days:g} is longer than {span}: lower it")
    split, end = last_second - horizon, last_second
    if data.split_time:
        split = parse_time(data.split_time, "data.split_time")
        end = split + horizon
        if not first_second <= split < last_second:
            raise ValueError(f"data.split_time = {data.split_time!r} is outside {span}")
        if end > last_second:
            days = (last_second - split) / DAY
            report(f"the log ends {days:.1f} days into the evaluation window of {data.evaluation_days:g}")
    inside = _count(connection, (split + 1) * 10**6 - 1, (end + 1) * 10**6 - 1)
    usual = histogram.density * (min(end, last_second) - split) * 10**6 / histogram.width
    if inside < SPARSE * usual:
        report(
            f"the evaluation window, {format_time(split)} to {format_time(end)}, holds next to nothing: "
            f"{inside:,} events; the bulk of the log has {usual:,.0f} in as long a time. See data.split_time"
        )
    return split, end


def _histogram(connection: duckdb.DuckDBPyConnection, first: int, last: int, horizon: int) -> _Histogram:
    width = max(horizon * 10**6 // 8, (last - first) // _BINS, 1)
    found = connection.execute(
        f"SELECT (micros - {first}) // {width} AS bin, count(*) AS n FROM accepted GROUP BY bin"
    ).fetchnumpy()
    counts = np.zeros((last - first) // width + 1, np.int64)
    counts[found["bin"]] = found["n"]
    events = counts.sum()
    few = min(events // 10, max(10, events // 100))
    up_to = counts.cumsum()
    low, high = np.searchsorted(up_to, [few, events - few - 1], side="right")
    return _Histogram(counts, width, slice(low, high + 1))


def _end_of_bulk(connection: duckdb.DuckDBPyConnection, histogram: _Histogram, first: int, last: int) -> int:
    """Time of the last event of the bulk, in microseconds; `last` if what follows is as dense as the rest."""
    counts, width, bulk = histogram
    since = np.concatenate([counts[::-1].cumsum()[::-1], [0, 0]])  # events in this bin or later
    start = np.arange(
        bulk.stop, len(counts) - 2
    )  # what covers less, such as a weekend, moves the split little
    sparse = SPARSE * histogram.density
    here = since[start] - since[start + 2] < 2 * sparse
    to_the_end = since[start] < sparse * (len(counts) - start)
    found = start[here & to_the_end]
    if not len(found):
        return last
    begin, end = (first + int(found[0] + k) * width for k in (-1, 2))
    (end_of_bulk,) = connection.execute(
        f"""
        SELECT arg_max(micros, gap) FROM (
            SELECT micros, lead(micros) OVER (ORDER BY micros) - micros AS gap
            FROM accepted WHERE micros >= {begin}
        ) WHERE micros < {end}"""
    ).fetchone()
    return last if end_of_bulk is None else int(end_of_bulk)


def _count(connection: duckdb.DuckDBPyConnection, after: int, up_to: int) -> int:
    query = f"SELECT count(*) FROM accepted WHERE micros > {after} AND micros <= {up_to}"
    return connection.execute(query).fetchone()[0]


def _text(micros: int) -> str:
    return format_time(micros // 10**6)
