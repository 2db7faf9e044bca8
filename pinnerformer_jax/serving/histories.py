"""Timelines of the users to embed, as the model reads them: items, actions and surfaces as numbers."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pinnerformer_jax.data.ragged import flat_ranges, offsets_of
from pinnerformer_jax.data.timelines import COLUMNS, TRAIN, Manifest, Shard, Timelines
from pinnerformer_jax.serving.event_file import by_user

if TYPE_CHECKING:
    import pyarrow as pa


class Histories(NamedTuple):
    """The users to embed, and their events."""

    user_ids: pa.Array  # [U], ascending
    newest: np.ndarray  # int64 [U] microseconds since 1970 of the newest event
    count: np.ndarray  # int64 [U] events of each user, 1 .. T
    timelines: Timelines  # of one shard, memory-mapped; user u is row u of the above


def write_histories(
    events: Iterable[pa.Table], items: pa.Array, manifest: Manifest, least: int, length: int, work: Path
) -> Histories:
    """Write the timelines of users.

    Args:
        events: with the columns of the store, by user and in the order of the timelines.
        items: ids by number.
        manifest: of the prepared folder whose numbers actions and surfaces have.
        least: users with fewer events are left out.
        length: T, the newest events of a user that the model reads.
        work: folder to write.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    names = {kind: pa.array(getattr(manifest, f"{kind}s")) for kind in ("action", "surface")}
    ids, newest, counts = [items[:0]], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    work.mkdir()
    with contextlib.ExitStack() as stack:
        files = {name: stack.enter_context(open(work / name, "wb")) for name in COLUMNS}
        for table in by_user(events):
            table = table.combine_chunks()
            users = table["user_id"].combine_chunks()
            fresh = np.ones(len(users), bool)
            fresh[1:] = pc.not_equal(users[1:], users[:-1]).to_numpy(zero_copy_only=False)
            first = np.flatnonzero(fresh)
            size = np.diff(first, append=len(users))
            enough = size >= least
            first, size = first[enough], size[enough]
            count = np.minimum(size, length)
            _, event = flat_ranges(first + size - count, count)
            some = table.take(pa.array(event))
            micros = some["micros"].to_numpy()
            columns = {
                "item": pc.index_in(some["item_id"], items).to_numpy(),
                "time": micros // 10**6,
                "duration": some["duration"].to_numpy(),
            }
            for kind, known in names.items():
                columns[kind] = pc.fill_null(pc.index_in(some[kind], known), 0).to_numpy()
            for name, file in files.items():
                columns[name].astype(COLUMNS[name]).tofile(file)
            ids.append(users.take(pa.array(first)))
            newest.append(table["micros"].to_numpy()[first + size - 1])
            counts.append(count)
    ids = ids[1:] or ids
    count = np.concatenate(counts)
    mapped = {
        name: np.memmap(work / name, dtype, "r") if count.sum() else np.zeros(0, dtype)
        for name, dtype in COLUMNS.items()
    }
    role = np.full(len(count), TRAIN, np.uint8)
    shard = Shard(work, offsets_of(count), count, role, **mapped, table=np.zeros(0, np.uint8))
    timelines = Timelines(work, dataclasses.replace(manifest, shards=1, counts={}, files={}), [shard])
    return Histories(pa.concat_arrays(ids), np.concatenate(newest), count, timelines)
