"""The types that cross between stages: `Events` and `Batch`.

Dimensions: B users, T actions of a history, F events after it, A actions, S surfaces.
Everything is integers and float32 durations; item ids are int32 rows of the catalogue end to
end and never pass through a float.
"""

from __future__ import annotations

import datetime
from typing import Any, NamedTuple, TypeAlias

import numpy as np

DAY = 86_400

EPOCH = 10_220 * DAY
"""Second (of 1970) that the device counts from: 1997-12-25. Seconds since then fit int32 until 2066,
and it is a multiple of every period of the absolute-time feature (the largest two, 28 d and 365 d,
meet every 10,220 d), so that phases are those of seconds since 1970."""

NO_TIME = np.iinfo(np.int32).max
"""Time of padding: later than anything, so that padded rows stay sorted."""

Array: TypeAlias = Any  # of NumPy on the host, of JAX on the device


class Events(NamedTuple):
    """Events of users, oldest first, padding at the tail (item 0, time NO_TIME). A pytree, of NumPy
    arrays on the host and of jax arrays on the device."""

    item: Array  # int32 [..., T] row of the catalogue
    action: Array  # uint8 [..., T] 0 is unknown
    surface: Array  # uint8 [..., T] 0 is unknown
    time: Array  # int32 [..., T] seconds since EPOCH
    duration: Array  # float32 [..., T] seconds


class Batch(NamedTuple):
    """The users of one step: the history of each up to a moment, and the events after it."""

    history: Events  # [B, T] the most recent T events up to the moment
    length: Array  # int32 [B] events of the history that are real; 0: the row itself is padding
    future: Events  # [B, F] events after it, within the horizon
    future_count: Array  # int32 [B] events after it in the horizon; > F where a random F of them are shipped
    user: Array  # int32 [B] the user; pairs of the same user are no negatives of each other


def part_bounds(rows: int, parts: int) -> list[int]:
    """Where a batch of so many rows is cut into (nearly) equal parts: parts + 1 row numbers."""
    return [rows * k // parts for k in range(parts + 1)]


def longest_in_parts(lengths: np.ndarray, parts: int, devices: int) -> np.ndarray:
    """int [parts]: the longest history of each part of a batch that is sorted longest first. A part is a part
    of each device's rows, which are interleaved."""
    bounds = part_bounds(len(lengths) // devices, parts)[:-1]
    return lengths[[devices * bound for bound in bounds]]


def computed_lengths(longest: np.ndarray, max_length: int) -> tuple[int, ...]:
    """Positions that parts are computed at: their longest row's, rounded up to a multiple of 4."""
    return tuple(np.minimum(-(-longest // 4) * 4, max_length).tolist())


def to_device_time(seconds: np.ndarray) -> np.ndarray:
    """int64 seconds since 1970 -> int32 seconds since EPOCH.

    Raises:
        ValueError: a time outside 1929..2066.
    """
    shifted = seconds.astype(np.int64) - EPOCH
    if shifted.size and np.abs(shifted).max() >= NO_TIME:
        raise ValueError("a time is outside 1929..2066 and does not fit int32 seconds")
    return shifted.astype(np.int32)


def parse_time(text: str, field_name: str) -> int:
    """ISO date or time (UTC if it names no zone) -> seconds since 1970.

    Raises:
        ValueError: with the name of the field.
    """
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{field_name} = {text!r}: write an ISO time such as 2026-11-24T00:00:00") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return int(moment.timestamp())


def format_time(seconds: int) -> str:
    """Seconds since 1970 -> ISO time, UTC."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
