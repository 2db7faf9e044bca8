"""Vectors of all users, made in parts beside the states, by processes that may run anywhere and twice.

    SNAPSHOTS.parts/model_version=V/ds=DAY/run=INPUTS/     of the state of this name
      users-00000.parquet users-00001.parquet ...          of `snapshot.GROUP` users each, by user id

A file appears by a rename, and no file is made again that is there. The run that makes the state takes its
vectors from these files, and embeds the users of those that are missing. As it would embed the same users
together, the state has the same bytes, if the same kind of device made them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from pinnerformer_jax.files import atomic_path

if TYPE_CHECKING:
    import pyarrow as pa


def parts_folder(snapshots: Path, name: str) -> Path:
    """Where the parts of a state are."""
    snapshots = snapshots.absolute()
    return snapshots.with_name(f"{snapshots.name}.parts") / name


def part_file(snapshots: Path, name: str, number: int) -> Path:
    """The part with the users of this group."""
    return parts_folder(snapshots, name) / f"users-{number:05d}.parquet"


def write_part(table: pa.Table, file: Path) -> None:
    """Write the vectors of a group of users, with a checksum of each page."""
    import pyarrow.parquet as pq

    with atomic_path(file) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)


def read_part(file: Path, user_ids: pa.Array, schema: pa.Schema) -> pa.Table | None:
    """What `write_part` wrote; None: the part was not made.

    Raises:
        ValueError: the file is damaged, or of other users or another kind of vectors.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not file.is_file():
        return None
    try:
        table = pq.read_table(file, partitioning=None, page_checksum_verification=True).combine_chunks()
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{file}: damaged ({error}); remove it, and the same command goes on") from None
    if table.schema != schema or not table["user_id"].combine_chunks().equals(user_ids):
        raise ValueError(f"{file}: not of the users of this state; remove it, and the same command goes on")
    return table


def remove_parts(snapshots: Path, name: str) -> None:
    """Remove the parts of a state, and the folders above them that are empty then."""
    folder = parts_folder(snapshots, name)
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        os.removedirs(folder.parent)
