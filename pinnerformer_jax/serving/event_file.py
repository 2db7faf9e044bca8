"""Files of rows sorted by user, one laid over another as they are streamed, and those of a state's events.

    events.parquet                              all users, as of some earlier night
    events-00001.parquet events-00002.parquet   users who changed since; of a user, the newest file counts

So a night writes what changed. A file that is less than twice as long as what is written after it is merged
with that. The files are then few, each at least twice as long as the next, and over the nights an event is
written again about as often as there are files. The other files are links to those of the state before.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pinnerformer_jax.files import link_or_copy

if TYPE_CHECKING:
    import pyarrow as pa

GROUP = 1 << 13
"""Events of a row group, the least that is read to know what one user has seen: a millisecond. Eight times as
many take eight times as long, and make files no smaller and scans no faster."""

AT_ONCE = 1 << 18
"""Rows in memory at a time."""


def event_files(folder: Path) -> list[Path]:
    """The files of a state's events, the newest last."""
    return [folder / "events.parquet", *sorted(folder.glob("events-*.parquet"))]


def write_event_files(
    stored: list[Path], changed: Iterable[pa.RecordBatch], rows: int, deleted: pa.Array, folder: Path,
    *, whole: bool,
) -> None:  # fmt: skip
    """Write the files of a state's events.

    Args:
        stored: files of the state before, the newest last.
        changed: all events of the users who changed, by user.
        rows: how many these are.
        deleted: ids of users whose events are left out, if they are in a file that is written.
        folder: of the state.
        whole: write one file without the events of deleted users.
    """
    import pyarrow.parquet as pq

    first = len(stored)  # the first file that is not linked
    total = rows
    while first and (whole or pq.read_metadata(stored[first - 1]).num_rows < 2 * total):
        first -= 1
        total += pq.read_metadata(stored[first]).num_rows
    names = ["events.parquet", *(f"events-{number:05d}.parquet" for number in range(1, first + 1))]
    for file, name in zip(stored[:first], names, strict=False):
        link_or_copy(file, folder / name)
    if first < len(stored) or rows:
        schema = pq.read_schema(stored[0])
        new = (_table_of(batch, schema) for batch in changed)
        older = merged(stored[first:]) if first < len(stored) else iter(())
        write_sorted(overlay(older, new, schema, deleted), schema, folder / names[first], GROUP)


def merged(files: list[Any]) -> Iterator[pa.Table]:
    """Rows of files that are sorted by user, by user; those of a user are of the newest file that has any.

    Args:
        files: what `pyarrow.parquet.ParquetFile` opens, the newest last.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    sources = [pq.ParquetFile(file) for file in files]
    schema = sources[0].schema_arrow

    def tables(source: pq.ParquetFile) -> Iterator[pa.Table]:
        return (_table_of(batch, schema) for batch in source.iter_batches(AT_ONCE))

    stream = tables(sources[0])
    for source in sources[1:]:
        nobody = pa.array([], schema.field("user_id").type)
        stream = overlay(stream, tables(source), schema, nobody)
    return stream


def overlay(
    older: Iterable[pa.Table], newer: Iterable[pa.Table], schema: pa.Schema, deleted: pa.Array
) -> Iterator[pa.Table]:
    """Lay rows over others, both sorted by user. Memory holds a few tables of each.

    Args:
        older: rows of a user who is in `newer` or `deleted` are left out.
        newer: of `schema`.
        schema: of both.
        deleted: ids, in any order.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    new = _Sorted(newer, schema)
    deleted = deleted.cast(schema.field("user_id").type)
    deleted = deleted.take(pc.sort_indices(deleted))
    replaced = deleted[:0]  # the last user of `newer` so far, whose older rows may go on
    for part in older:
        if not len(part):
            continue
        first, last = part["user_id"][0].as_py(), part["user_id"][-1].as_py()
        fresh = new.up_to(last)
        span = range(len(deleted))
        ends = (
            bisect(span, user, key=lambda row: deleted[row].as_py())
            for bisect, user in ((bisect_left, first), (bisect_right, last))
        )
        ids = pc.unique(fresh["user_id"])
        leaving = pa.concat_arrays([replaced, ids, deleted[slice(*ends)]])
        if len(leaving):
            part = part.filter(pc.invert(pc.is_in(part["user_id"], leaving)))
        if len(ids):
            replaced = ids[-1:]
            both = pa.concat_tables([part, fresh])
            part = both.take(pc.sort_indices(both["user_id"]))  # stable
        yield part
    while len(rest := new.up_to(None)):
        yield rest


def by_user(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of whole users, with about `AT_ONCE` rows or those of one user."""
    import pyarrow as pa
    import pyarrow.compute as pc

    waiting: list[pa.Table] = []
    for table in tables:
        if not len(table):
            continue
        waiting.append(table)
        if sum(map(len, waiting)) < AT_ONCE:
            continue
        joined = pa.concat_tables(waiting)
        whole = pc.index(joined["user_id"], joined["user_id"][-1]).as_py()
        if whole:
            yield joined.slice(0, whole)
        waiting = [joined.slice(whole)]
    if waiting:
        yield pa.concat_tables(waiting)


def write_sorted(
    tables: Iterable[pa.Table], schema: pa.Schema, file: Path, group: int, dictionary: bool | list[str] = True
) -> int:
    """Write a Parquet file with `group` rows in each row group but the last; how many rows it has.

    Args:
        tables: of `schema`.
        schema: of the file.
        file: to write.
        group: rows of a row group.
        dictionary: columns that repeat their values, which are then kept once; True: all.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    waiting, rows = schema.empty_table(), 0
    with pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=dictionary) as writer:
        for table in tables:
            rows += len(table)
            waiting = pa.concat_tables([waiting, table])
            while len(waiting) >= group:
                writer.write_table(waiting.slice(0, group))
                waiting = waiting.slice(group)
        if len(waiting) or not rows:
            writer.write_table(waiting)
    return rows


def _table_of(batch: pa.RecordBatch, schema: pa.Schema) -> pa.Table:
    import pyarrow as pa

    return pa.Table.from_batches([batch]).cast(schema)


class _Sorted:
    """Tables sorted by user, read as far as needed."""

    def __init__(self, tables: Iterable[pa.Table], schema: pa.Schema) -> None:
        self.tables, self.read = iter(tables), schema.empty_table()

    def up_to(self, last: Any) -> pa.Table:
        """The next rows, up to the last one of user `last`; None: the next table."""
        import pyarrow as pa

        parts = []
        while True:
            ids = self.read["user_id"]
            count = len(ids)
            if last is not None:
                count = bisect_right(range(len(ids)), last, key=lambda row: ids[row].as_py())
            parts.append(self.read.slice(0, count))
            self.read = self.read.slice(count)
            if last is None and count:
                return parts[-1]
            table = None if len(self.read) else next(self.tables, None)
            if table is None:
                return pa.concat_tables(parts)
            self.read = table
