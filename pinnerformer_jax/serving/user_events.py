"""The newest events of one user, read from a state's events.parquet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pinnerformer_jax.config import PositiveRule
from pinnerformer_jax.data.mapped import map_file
from pinnerformer_jax.data.positives import is_positive, positive_table

if TYPE_CHECKING:
    import pyarrow as pa


class UserEvents:
    """Events by user. The file is mapped, so that its bytes stay if the state is removed, and its footer is
    read once; a request then reads the row groups that the user's id can be in. Threads may share it.

    Args:
        file: events.parquet of a state.
    """

    def __init__(self, file: Path) -> None:
        import pyarrow as pa
        import pyarrow.dataset as ds

        self._fragment = ds.ParquetFileFormat().make_fragment(pa.py_buffer(map_file(file)))
        self._fragment.ensure_complete_metadata()

    def of(self, user_id: Any) -> pa.Table:
        """item_id, action, surface, micros and duration of a user's events, oldest first."""
        import pyarrow.dataset as ds

        columns = ["item_id", "action", "surface", "micros", "duration"]
        return self._fragment.to_table(columns=columns, filter=ds.field("user_id") == user_id)


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
