"""The newest events of each user of prepared timelines, in the log's own terms, by user id.

A shard has its users by the hash of their ids, each with events in order of time. So nothing but the users
has to be sorted: memory holds ids, places and counts of all users, and a few hundred thousand events.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.data.ragged import flat_ranges, offsets_of
from pinnerformer_jax.data.timelines import COLUMNS
from pinnerformer_jax.data.windows import bisect_right
from pinnerformer_jax.serving.event_file import AT_ONCE

if TYPE_CHECKING:
    import pyarrow as pa

TIE = "md5_number_lower(concat_ws('|', item_id, action, surface, duration))"
"""SQL that orders events of a user that have the same time, see `timeline_writer.write_shards`."""


class NewestEvents:
    """See the module.

    Args:
        catalog: of the timelines.
        most: events of a user.
        end: microseconds since 1970; later events are left out.
    """

    def __init__(self, catalog: Catalog, most: int, end: int) -> None:
        self.catalog, self.later = catalog, 0
        counts, firsts = [], []
        for shard in catalog.timelines.shards:
            first, last = shard.offsets[:-1], shard.offsets[1:]
            wanted = np.full(len(first), end // 10**6 - 1)  # the last second before it
            count = bisect_right(shard.time, first, last, wanted) - first
            self.later += len(shard.time) - int(count.sum())
            counts.append(np.minimum(count, most))
            firsts.append(first + count - counts[-1])
        self.count, self.first = np.concatenate(counts), np.concatenate(firsts)  # [U]

    @cached_property
    def schema(self) -> pa.Schema:
        """Columns and types of `tables`."""
        import pyarrow as pa

        user, item = self.catalog.timelines.shards[0].user_ids.type, self.catalog.id_column.type
        kinds = {
            "user_id": user, "item_id": item, "action": pa.string(), "surface": pa.string(),
            "micros": pa.int64(), "duration": pa.float32(),
        }  # fmt: skip
        return pa.schema(list(kinds.items()))

    def tables(self) -> Iterator[pa.Table]:
        """All events, by user and in the order of the store; tables of whole users."""
        import pyarrow as pa
        import pyarrow.compute as pc

        timelines = self.catalog.timelines
        ids = pa.concat_arrays([shard.user_ids for shard in timelines.shards])
        names = {kind: pa.array(getattr(timelines.manifest, f"{kind}s")) for kind in ("action", "surface")}
        order = pc.sort_indices(ids).to_numpy().astype(np.int64)
        part = np.cumsum(self.count[order]) // AT_ONCE
        for users in np.split(order, 1 + np.flatnonzero(np.diff(part))):
            owner, columns = self._read(users)
            table = pa.Table.from_arrays(
                [
                    ids.take(pa.array(users[owner])),
                    self.catalog.id_column.take(pa.array(columns["item"])),
                    names["action"].take(pa.array(columns["action"])),
                    names["surface"].take(pa.array(columns["surface"])),
                    pa.array(columns["time"] * 10**6),
                    pa.array(columns["duration"]),
                ],
                schema=self.schema,
            )
            yield _break_ties(table, owner, columns["time"])

    def _read(self, users: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The place in `users` of each event's user, and the events."""
        timelines, count = self.catalog.timelines, self.count[users]
        offsets = offsets_of(count)
        columns = {name: np.empty(offsets[-1], dtype) for name, dtype in COLUMNS.items()}
        which = np.searchsorted(timelines.first_user, users, side="right") - 1
        for number in np.unique(which):
            mine = which == number
            _, event = flat_ranges(self.first[users[mine]], count[mine])
            _, place = flat_ranges(offsets[:-1][mine], count[mine])
            for name, column in columns.items():
                column[place] = getattr(timelines.shards[number], name)[event]
        return np.repeat(np.arange(len(users)), count), columns


def _break_ties(table: pa.Table, owner: np.ndarray, time: np.ndarray) -> pa.Table:
    """Events of a user in one second by `TIE`; they are in another order if the log's times were finer."""
    import duckdb
    import pyarrow as pa

    same = np.zeros(len(owner) + 1, bool)
    same[1:-1] = (np.diff(owner) == 0) & (np.diff(time) == 0)
    tied = np.flatnonzero(same[:-1] | same[1:])
    if not len(tied):
        return table
    key = np.zeros(len(owner), np.uint64)
    with duckdb.connect() as connection:
        connection.register("tied", table.take(pa.array(tied)).append_column("row", pa.array(tied)))
        found = connection.execute(f'SELECT "row", {TIE} AS key FROM tied').fetchnumpy()
    key[found["row"]] = found["key"]
    return table.take(pa.array(np.lexsort((key, time, owner))))
