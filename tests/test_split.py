"""The split follows the bulk of the events: wrong clocks do not move it, and a good log keeps its end."""

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from pinnerformer_jax.config import DataConfig
from pinnerformer_jax.data.contracts import DAY, format_time
from pinnerformer_jax.ingestion.split import choose_split

START = 1_600_000_000
DAYS = 60


def split_of(times, **data):
    """(split, end of the window, what is reported) of events at these seconds."""
    lines = []
    with duckdb.connect() as connection:
        connection.register("times", pa.table({"micros": np.asarray(times, np.int64) * 10**6}))
        connection.execute("CREATE TABLE accepted AS FROM times")
        return (*choose_split(connection, DataConfig(**data), lines.append), lines)


def evenly(count, days=DAYS, seed=0):
    return START + np.sort(np.random.default_rng(seed).integers(days * DAY, size=count))


@pytest.mark.parametrize("count", [30, 560, 20_000])
@pytest.mark.parametrize(
    "wrong",
    [
        lambda n, rng: [START + 7000 * DAY],
        lambda n, rng: START + rng.integers(DAYS + 30, 7000, size=max(n // 200, 2)) * DAY,  # scattered
        lambda n, rng: np.full(max(n // 200, 2), 2**31 - 1),  # a default value
        lambda n, rng: [START + (DAYS + 15) * DAY, START + (DAYS + 400) * DAY],
        lambda n, rng: [0, 10 * DAY, START + 7000 * DAY],  # in the past too
    ],
    ids=["one", "scattered", "a default", "near and far", "both ends"],
)
def test_wrong_clocks_do_not_move_the_split(count, wrong):
    good = evenly(count)
    odd = np.asarray(wrong(count, np.random.default_rng(1)))
    split, end, lines = split_of([*odd, *good])
    assert end == good[-1]
    assert split == end - 14 * DAY
    late = int((odd > end).sum())
    assert f"{late:,} events lie far behind the bulk" in " ".join(lines)
    assert format_time(int(odd.max())) in " ".join(lines)


@pytest.mark.parametrize("count", [20, 100, 560, 20_000])
@pytest.mark.parametrize("days", [15, 60, 800])
@pytest.mark.parametrize("seed", range(3))
def test_a_good_log_ends_with_its_last_event(count, days, seed):
    times = evenly(count, days, seed)
    weekday = (times // DAY) % 7 < 5
    growing = START + (np.linspace(0, 1, count) ** 0.3 * days * DAY).astype(int)
    for log in (times, times[weekday], growing):
        horizon = min(14.0, (log[-1] - log[0]) / DAY)
        split, end, lines = split_of(log, evaluation_days=horizon)
        assert (split, end, lines) == (log[-1] - round(horizon * DAY), log[-1], [])


def test_days_without_events_before_the_last_ones_are_no_wrong_clocks():
    times = evenly(20_000, 1_000)
    times = times[(times < times[-1] - 9 * DAY) | (times > times[-1] - 5 * DAY)]
    assert split_of(times)[1:] == (times[-1], [])


def test_a_split_that_is_given_stays():
    times = [*evenly(500), START + 1500 * DAY]
    split, end, lines = split_of(times, split_time=format_time(START + 40 * DAY))
    assert (split, end, lines) == (START + 40 * DAY, START + 54 * DAY, [])


def test_a_window_that_holds_next_to_nothing_is_said():
    times = [*evenly(500), START + 1500 * DAY]
    *_, [_, line] = split_of(times, split_time=format_time(START + 1490 * DAY))
    assert "holds next to nothing: 1 events; the bulk of the log has" in line


def test_events_after_tomorrow_are_counted():
    times = [*evenly(500), 2_500_000_000, 2_600_000_000]
    assert split_of(times)[2][0].startswith("2 events are dated after tomorrow, up to 2052-")


@pytest.mark.parametrize("split_time", ["", "2020-10-01"])
def test_a_final_log_is_split_at_its_end(split_time):
    good = evenly(2000)
    wrong = START + 7000 * DAY
    split, end, _ = split_of([*good, wrong], final=True, evaluation_share=0.0, validation_share=0.0)
    assert split == end == good[-1]
    days = {"evaluation_days": 1000.0, "split_time": split_time}  # of an evaluation that there is not
    split, end, _ = split_of(good, final=True, evaluation_share=0.0, validation_share=0.0, **days)
    assert split == end == good[-1]
