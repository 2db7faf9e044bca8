"""events.parquet of a state: that of the state before, streamed, with the changed users replaced."""

from __future__ import annotations

from bisect import bisect_right
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

GROUP = 1 << 16
"""Events of a row group, the least that is read to know what one user has seen."""


def merge_event_file(stored: Path, changed: pa.RecordBatchReader, leaving: pa.Array, file: Path) -> int:
    """Merge two sequences of events that are sorted by user; memory holds a few row groups.

    Args:
        stored: a Parquet file of events.
        changed: events of users who are not in `stored`, or are among `leaving`.
        leaving: ids of users whose stored events are left out.
        file: to write, in the columns and types of `stored`.

    Returns:
        How many events it has.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    old = pq.ParquetFile(stored)
    new = _Sorted(changed, old.schema_arrow)
    waiting = old.schema_arrow.empty_table()
    with pq.ParquetWriter(file, old.schema_arrow, compression="zstd") as writer:
        for group in range(old.num_row_groups):
            part = old.read_row_group(group)
            if not len(part):
                continue
            last = part["user_id"][-1].as_py()
            part = part.filter(pc.invert(pc.is_in(part["user_id"], leaving)))
            part = pa.concat_tables([part, new.up_to(last)])
            waiting = pa.concat_tables([waiting, part.take(pc.sort_indices(part["user_id"]))])  # stable
            while len(waiting) >= GROUP:
                writer.write_table(waiting.slice(0, GROUP))
                waiting = waiting.slice(GROUP)
        waiting = pa.concat_tables([waiting, new.up_to(None)])
        writer.write_table(waiting, row_group_size=GROUP)
    return pq.read_metadata(file).num_rows


class _Sorted:
    """Batches of events sorted by user, read as far as needed."""

    def __init__(self, batches: pa.RecordBatchReader, schema: pa.Schema) -> None:
        self.batches, self.schema, self.read = batches, schema, schema.empty_table()

    def up_to(self, last: Any) -> pa.Table:
        """The next events, up to the last one of user `last`; None: all that are left."""
        import pyarrow as pa

        parts = []
        while True:
            ids = self.read["user_id"]
            count = len(ids)
            if last is not None:
                count = bisect_right(range(len(ids)), last, key=lambda row: ids[row].as_py())
            parts.append(self.read.slice(0, count))
            self.read = self.read.slice(count)
            batch = None if len(self.read) else next(self.batches, None)
            if batch is None:
                return pa.concat_tables(parts)
            self.read = pa.Table.from_batches([batch]).cast(self.schema)
