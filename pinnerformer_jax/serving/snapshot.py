"""User and item vectors of a state, each in a Parquet file that names its model version.

users.parquet, by user_id
  user_id                 as it came
  event_timestamp         of the newest event that went into the vector, UTC
  created_timestamp       end of the day whose run made the vector, UTC (so that a run can be repeated)
  embedding               fixed_size_list<float16 or float32>[D], unit length but for rounding
  n_events                events that went into it, at most T
  model_version           of the model that made it; in the schema's metadata too
items.parquet, in the rows of the index
  item_id, title          as it came; the id where there is no title
  embedding               fixed_size_list<float32>[D]
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from pinnerformer_jax.serving.event_file import write_sorted

if TYPE_CHECKING:
    import pyarrow as pa

_VERSION = b"model_version"

_REPEATED = ["created_timestamp", "n_events", "model_version"]
"""Columns whose values repeat; a dictionary of others, of vectors above all, costs time and space."""

GROUP = 1 << 17
"""Users or items of a row group, and users that are embedded at a time."""


@runtime_checkable
class UserVectors(Protocol):
    """Vectors of one model version: a snapshot's, or a feature store's."""

    @property
    def model_version(self) -> str:
        """Of the model that made the vectors."""

    def get(self, user_id: Any) -> np.ndarray | None:
        """float32 [D]; None: the user has no vector."""

    def get_many(self, user_ids: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """float32 [B, D], zeros for users without a vector; bool [B], whether the user has one."""


@runtime_checkable
class UserStore(Protocol):
    """A feature store, which holds vectors of one model version or more."""

    def holds(self, model_version: str) -> bool:
        """Whether it has vectors of a version."""

    def of(self, model_version: str) -> UserVectors:
        """The vectors of a version.

        Raises:
            ValueError: it has none; the message names the version and the one that is live.
        """


def check_same_version(versions: dict[str, str]) -> None:
    """Refuse artefacts of two model versions: an inner product of their vectors means nothing.

    Args:
        versions: model version of each artefact, by its name.

    Raises:
        ValueError: two differ; the message names both and their versions.
    """
    (first, wanted), *others = versions.items()
    for name, version in others:
        if version != wanted:
            raise ValueError(
                f"{first} of model version {wanted}, {name} of {version}: vectors of two models cannot be "
                "mixed; publish both with one run of python -m pinnerformer_jax.embed"
            )


def user_table(
    user_ids: pa.Array,
    newest: np.ndarray,
    created: datetime,
    vectors: np.ndarray,
    n_events: np.ndarray,
    model_version: str,
) -> pa.Table:
    """A user snapshot.

    Args:
        user_ids: [U]
        newest: int64 [U] microseconds since 1970.
        created: for created_timestamp.
        vectors: [U, D], of the dtype to store.
        n_events: int [U]
        model_version: of all of them.
    """
    import pyarrow as pa

    moment = pa.timestamp("us", "UTC")
    table = {
        "user_id": user_ids,
        "event_timestamp": pa.array(newest, pa.int64()).cast(moment),
        "created_timestamp": pa.repeat(pa.scalar(created, moment), len(user_ids)),
        "embedding": lists(vectors),
        "n_events": pa.array(n_events, pa.int32()),
        "model_version": pa.repeat(model_version, len(user_ids)),
    }
    return pa.table(table).replace_schema_metadata({_VERSION: model_version})


def user_schema(user: pa.DataType, dim: int, dtype: str, model_version: str) -> pa.Schema:
    """Columns and types of a user snapshot.

    Args:
        user: type of the ids.
        dim: D
        dtype: of the vectors.
        model_version: of all of them.
    """
    import pyarrow as pa

    vectors, none = np.zeros((0, dim), dtype), np.zeros(0, np.int64)
    moment = datetime.fromtimestamp(0, UTC)
    return user_table(pa.array([], user), none, moment, vectors, none, model_version).schema


def write_users(tables: Iterable[pa.Table], schema: pa.Schema, file: Path) -> int:
    """Write users.parquet as `write_parquet` does, from tables by user id; how many users it has."""
    return write_sorted(tables, schema, file, GROUP, _REPEATED)


def without(table: pa.Table, user_ids: pa.Array) -> pa.Table:
    """The rows of all users but these."""
    import pyarrow.compute as pc

    return table.filter(pc.invert(pc.is_in(table["user_id"], user_ids)))


def difference(old: pa.Table, new: pa.Table) -> tuple[pa.Table, pa.ChunkedArray]:
    """What has to change in a store of float16 vectors to go from one user snapshot to another.

    Args:
        old: what the store holds.
        new: of the same model.

    Returns:
        Rows of `new` to write: users who are not in `old`, or have another vector or newest event there. And
        ids of users to remove: in `old` and not in `new`.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    row = pc.index_in(new["user_id"], old["user_id"])
    changed = row.is_null().to_numpy()
    here, there = np.flatnonzero(~changed), row.drop_null().to_numpy()
    vectors = [vectors_of(table).astype(np.float16, copy=False) for table in (old, new)]
    moments = [table["event_timestamp"].to_numpy() for table in (old, new)]
    changed[here] = (vectors[0][there] != vectors[1][here]).any(axis=1)
    changed[here] |= moments[0][there] != moments[1][here]
    removed = old["user_id"].filter(pc.invert(pc.is_in(old["user_id"], new["user_id"].combine_chunks())))
    return new.filter(pa.array(changed)), removed


def item_table(ids: pa.Array, titles: list[str], vectors: np.ndarray, model_version: str) -> pa.Table:
    """Item vectors with ids and titles.

    Args:
        ids: [N]
        titles: [N]
        vectors: float32 [N, D]
        model_version: of all of them.
    """
    import pyarrow as pa

    table = pa.table({"item_id": ids, "title": titles, "embedding": lists(vectors)})
    return table.replace_schema_metadata({_VERSION: model_version})


def write_parquet(table: pa.Table, file: Path) -> None:
    """Write a table of users or items; the same table gives the same bytes."""
    import pyarrow.parquet as pq

    pq.write_table(table, file, compression="zstd", row_group_size=GROUP, use_dictionary=_REPEATED)


def read_parquet(file: Path, columns: list[str] | None = None) -> pa.Table:
    """Read a table of users or items into one chunk.

    Args:
        file: to read.
        columns: None: all.
    """
    import pyarrow.parquet as pq

    return pq.read_table(file, columns=columns, partitioning=None).combine_chunks()


def version_of(table: pa.Table) -> str:
    """The model version that a table of users or items names."""
    return (table.schema.metadata or {}).get(_VERSION, b"none").decode()


def version_in(file: Path) -> str:
    """`version_of`, of a file."""
    import pyarrow.parquet as pq

    return version_of(pq.read_schema(file).empty_table())


def sample_vectors(file: Path, most: int) -> np.ndarray:
    """[at most `most`, D]: vectors of evenly spaced rows of a file, which is read a row group at a time."""
    import pyarrow.parquet as pq

    source, parts, start = pq.ParquetFile(file), [], 0
    rows = np.unique(np.linspace(0, max(source.metadata.num_rows - 1, 0), most).astype(np.int64))
    for group in range(source.num_row_groups):
        end = start + source.metadata.row_group(group).num_rows
        here = rows[(rows >= start) & (rows < end)] - start
        if len(here):
            parts.append(vectors_of(source.read_row_group(group, columns=["embedding"]))[here])
        start = end
    return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)


def vectors_of(table: pa.Table) -> np.ndarray:
    """[N, D], of the stored dtype."""
    return rows_of(table, "embedding")


def rows_of(table: pa.Table, name: str) -> np.ndarray:
    """[N, D]: a column of lists of length D, as an array."""
    column = table[name].combine_chunks()
    return column.flatten().to_numpy().reshape(len(column), column.type.list_size)


@dataclass(frozen=True)
class SnapshotVectors:
    """A user snapshot in memory, searched by bisection, for it is sorted by user id: `UserVectors`."""

    user_ids: pa.Array  # [U]
    vectors: np.ndarray  # [U, D]
    model_version: str

    @classmethod
    def of(cls, table: pa.Table) -> SnapshotVectors:
        """From a user snapshot."""
        return cls(table["user_id"].combine_chunks(), vectors_of(table), version_of(table))

    def get(self, user_id: Any) -> np.ndarray | None:
        """float32 [D]; None: the user has no vector."""
        count = len(self.user_ids)
        row = bisect_left(range(count), user_id, key=lambda k: self.user_ids[k].as_py())
        if row == count or self.user_ids[row].as_py() != user_id:
            return None
        return self.vectors[row].astype(np.float32)

    def get_many(self, user_ids: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """float32 [B, D], zeros for users without a vector; bool [B], whether the user has one."""
        import pyarrow as pa
        import pyarrow.compute as pc

        rows = pc.index_in(pa.array(user_ids, self.user_ids.type), self.user_ids)
        known, rows = rows.is_valid().to_numpy(zero_copy_only=False), rows.drop_null().to_numpy()
        vectors = np.zeros((len(known), self.vectors.shape[1]), np.float32)
        vectors[known] = self.vectors[rows]
        return vectors, known


def lists(vectors: np.ndarray) -> pa.Array:
    """[N, D] as a column of lists of length D; `rows_of` is the inverse."""
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
