"""The newest events of users, read from a state's files."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pinnerformer_jax.config import PositiveRule
from pinnerformer_jax.data.positives import is_positive, positive_table
from pinnerformer_jax.serving.event_file import by_user, merged

if TYPE_CHECKING:
    import pyarrow as pa

_COLUMNS = ["item_id", "action", "surface", "micros", "duration"]


class UserEvents:
    """Events by user. The files are mapped, so that their bytes stay if the state is removed, and their
    footers are read once; a request then reads the row groups that the user's id can be in. Threads may share
    it.

    Args:
        files: of a state, see `event_file.event_files`.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = [_File(file) for file in files]

    def of(self, user_id: Any) -> pa.Table:
        """item_id, action, surface, micros and duration of a user's events, oldest first."""
        for file in reversed(self._files):
            if len(found := file.of(user_id)):
                break
        return found

    def of_all(self) -> Iterator[pa.Table]:
        """Events of all users, in their order, with the column user_id; a table has whole users, and about
        `event_file.AT_ONCE` events or those of one user."""
        return by_user(merged([file.mapped for file in self._files]))


class _File:
    """One of the files."""

    def __init__(self, file: Path) -> None:
        import pyarrow as pa
        import pyarrow.dataset as ds
        import pyarrow.parquet as pq

        # Not a buffer of Python's: the scan's threads may let go of it when Python has ended, which aborts.
        self.mapped = pa.memory_map(str(file))
        self._fragment = ds.ParquetFileFormat().make_fragment(self.mapped)
        self._fragment.ensure_complete_metadata()
        footer = pq.read_metadata(self.mapped)
        column = footer.schema.to_arrow_schema().get_field_index("user_id")
        bounds = [footer.row_group(g).column(column).statistics for g in range(footer.num_row_groups)]
        self._first: list[Any] | None = None  # id of each row group; the file is sorted by user
        self._last: list[Any] | None = None
        if all(of is not None and of.has_min_max for of in bounds):
            self._first, self._last = [of.min for of in bounds], [of.max for of in bounds]

    def of(self, user_id: Any) -> pa.Table:
        import pyarrow.dataset as ds

        fragment = self._fragment
        if self._first is not None and self._last is not None:
            groups = range(bisect_left(self._last, user_id), bisect_right(self._first, user_id))
            fragment = fragment.subset(row_group_ids=list(groups))
        return fragment.to_table(columns=_COLUMNS, filter=ds.field("user_id") == user_id)


def positive_events(events: pa.Table, rules: tuple[PositiveRule, ...]) -> np.ndarray:
    """bool [E]: which events are positive."""
    codes, names = [], []
    for kind in ("action", "surface"):
        column = events[kind].combine_chunks().dictionary_encode()
        wanted = [name for name in (getattr(rule, kind) for rule in rules) if name]
        known = column.dictionary.to_pylist()
        # Place 0 is the unknown, and a rule may name what this user never did.
        names.append(["", *known, *dict.fromkeys(name for name in wanted if name not in known)])
        codes.append(column.indices.to_numpy(zero_copy_only=False) + 1)
    table = positive_table(rules, *names)
    return is_positive(table, *codes, events["duration"].to_numpy())
