"""Deleted users. No state, whether new or old, serves a vector of them.

SNAPSHOTS/tombstones/CHECKSUM.parquet     user_id; a file for each list of deletions
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pinnerformer_jax.files import check_contents, sha256, sync

if TYPE_CHECKING:
    import pyarrow as pa

_UNFINISHED = "new"


def add_tombstones(root: Path, user_ids: pa.Array) -> None:
    """Record users as deleted.

    Args:
        root: SNAPSHOTS.
        user_ids: [U]; ids that were deleted before do no harm.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"user_id": user_ids}).sort_by("user_id")
    folder = root / "tombstones"
    folder.mkdir(exist_ok=True)
    file = folder / f"{_UNFINISHED}.parquet"  # if this run is killed, the next one overwrites it
    pq.write_table(table, file)
    sync(file)
    file.rename(folder / f"{sha256(file)[:16]}.parquet")
    sync(folder)


def tombstone_files(root: Path) -> list[Path]:
    """The files of deleted users, by name, which is the beginning of their checksum."""
    return [file for file in sorted((root / "tombstones").glob("*.parquet")) if file.stem != _UNFINISHED]


def deleted_users(root: Path, user_type: pa.DataType) -> pa.Array:
    """Ids of all users who were ever deleted.

    Raises:
        ValueError: a file is damaged, or its ids are not of `user_type`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    parts = [pa.array([], user_type)]
    for file in tombstone_files(root):
        check_contents(file, file.stem, "delete the users again")
        ids = pq.read_table(file, partitioning=None)["user_id"].combine_chunks()
        if ids.type != user_type:
            raise ValueError(f"{file}: user ids of type {ids.type}, in the data they are {user_type}")
        parts.append(ids)
    return pa.concat_arrays(parts)
