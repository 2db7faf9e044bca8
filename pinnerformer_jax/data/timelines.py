"""Timelines on disk: flat memory-mapped columns, all events of a user contiguous.

PREPARED/
  manifest.json            counts, config and the checksum of every file
  rejects.parquet          the rows that cannot be used: file, row, reason, raw values
  shards/00000/            users by hash of their id
    users.parquet          user_id, as in the log
    offsets.npy            int64 [U + 1]: user u owns events offsets[u] : offsets[u + 1]
    cut.npy                int64 [U]: events of the user up to the split
    role.npy               uint8 [U]: TRAIN, VALIDATION or EVALUATION
    item.npy action.npy surface.npy time.npy duration.npy      [E], sorted by time within a user
  catalog/                 see catalog.py
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pinnerformer_jax.config_files import digest
from pinnerformer_jax.data.mapped import map_file, read_column
from pinnerformer_jax.data.positives import is_positive
from pinnerformer_jax.data.ragged import offsets_of
from pinnerformer_jax.files import Facts, ReadLock, read_checked_json, write_checked_json

if TYPE_CHECKING:
    import pyarrow as pa

MANIFEST = "manifest.json"
FORMAT = 1
TRAIN, VALIDATION, EVALUATION = 0, 1, 2
NO_ROLE = 3  # in `Timelines.at_earlier_split` alone
ROLES = {"train": TRAIN, "validation": VALIDATION, "evaluation": EVALUATION}
COLUMNS = {
    "item": np.int32,
    "action": np.uint8,
    "surface": np.uint8,
    "time": np.int64,
    "duration": np.float32,
}

_CURE = "run ingest again (or items, if it wrote the folder)"


@dataclass(frozen=True)
class Manifest:
    """Names, times, counts, config and files of a prepared folder."""

    actions: list[str]  # names by id; [0] is "", the unknown
    surfaces: list[str]
    split_time: int  # t, seconds since 1970
    evaluation_end: int  # last second of the evaluation window
    shards: int
    counts: dict[str, Any]  # rows read, kept, filtered, rejected by reason; users by role; items
    config: dict[str, Any]  # the data and items sections it was made with
    files: Facts


@dataclass(frozen=True)
class Shard:
    """The columns of one shard, memory-mapped."""

    path: Path
    offsets: np.ndarray
    cut: np.ndarray
    role: np.ndarray
    item: np.ndarray
    action: np.ndarray
    surface: np.ndarray
    time: np.ndarray
    duration: np.ndarray
    table: np.ndarray  # uint8, the bytes of users.parquet

    @cached_property
    def user_ids(self) -> pa.Array:
        """[U], as in the log."""
        return read_column(self.table, "user_id")

    @property
    def users(self) -> int:
        """How many users the shard holds."""
        return len(self.role)

    def is_positive(self, event: np.ndarray, table: np.ndarray) -> np.ndarray:
        """bool [E]: which events are positive.

        Args:
            event: int [E], numbers of events of the shard.
            table: float32 [A, S], see `positives.positive_table`.
        """
        return is_positive(table, self.action[event], self.surface[event], self.duration[event])


class Timelines:
    """A prepared folder, opened for reading: ingest does not replace it while this object lives.

    A user's number runs over the shards in order: shard 0's users first.
    """

    def __init__(
        self, path: Path, manifest: Manifest, shards: list[Shard], lock: ReadLock | None = None
    ) -> None:
        self.path, self.manifest, self.shards, self.lock = path, manifest, shards, lock
        self.first_user = offsets_of(np.array([shard.users for shard in shards], int))  # [shards + 1]

    @classmethod
    def open(cls, path: str | Path, *, verify: bool = True) -> Timelines:
        """Map a prepared folder.

        Args:
            path: what ingest wrote.
            verify: also compare the checksum of every file of the folder, the catalogue's among them; a
                process reads a file for that once.

        Raises:
            FileNotFoundError: it was never prepared.
            ValueError: a file is missing, short or (verify) altered; names the file.
        """
        path = Path(path)
        _check_there(path)
        lock = ReadLock(path)
        lock.watch(path / MANIFEST)
        manifest = read_manifest(path)
        lock.verify(manifest.files, _CURE, contents=verify)
        opened = cls(path, manifest, [open_shard(path, k) for k in range(manifest.shards)], lock)
        opened.check()
        return opened

    def check(self) -> None:
        """Compare the files of the folder with what they were at the opening: before what was made of them is
        written.

        Raises:
            ValueError: a file was changed, replaced or removed; the message names it.
        """
        if self.lock:
            self.lock.check()

    def __reduce__(self) -> tuple[Any, ...]:
        """Worker processes map the files again instead of receiving a copy."""
        return _open_again, (self.path, digest(self.manifest))

    @property
    def users(self) -> int:
        """How many users there are."""
        return int(self.first_user[-1])

    def with_role(self, role: int) -> np.ndarray:
        """int64: numbers of the users of a role, ascending."""
        return np.concatenate(
            [first + np.flatnonzero(shard.role == role) for first, shard in self.by_shard()]
        ).astype(np.int64)

    def at_earlier_split(self, time: int, evaluated: int) -> Timelines:
        """The same events with an earlier split, as ingest would have set it: what is chosen there has seen
        nothing of the evaluation window.

        Args:
            time: the earlier t, seconds since 1970. The window after it is as long as the evaluation window.
            evaluated: the role whose users are evaluated there. Users of the role EVALUATION have no role.
        """
        shards = []
        for shard in self.shards:
            role = np.where(shard.role == EVALUATION, NO_ROLE, shard.role)
            role[shard.role == evaluated] = EVALUATION
            before = np.concatenate([[0], np.cumsum(np.asarray(shard.time) <= time)])
            shards.append(dataclasses.replace(shard, role=role, cut=np.diff(before[shard.offsets])))
        window = self.manifest.evaluation_end - self.manifest.split_time
        manifest = dataclasses.replace(self.manifest, split_time=time, evaluation_end=time + window)
        return Timelines(self.path, manifest, shards, self.lock)

    def by_shard(self) -> Iterator[tuple[int, Shard]]:
        """(number of the shard's first user, shard) of each shard."""
        return zip(self.first_user[:-1].tolist(), self.shards, strict=True)

    def user_ids(self, users: np.ndarray) -> list[Any]:
        """Ids as in the log, in the order of `users`."""
        ids: list[Any] = [None] * len(users)
        which = np.searchsorted(self.first_user, users, side="right") - 1
        for k in np.unique(which):
            rows = np.flatnonzero(which == k)
            values = self.shards[k].user_ids.take(users[rows] - self.first_user[k]).to_pylist()
            for row, value in zip(rows, values, strict=True):
                ids[row] = value
        return ids


def shard_path(prepared: Path, shard: int) -> Path:
    """Folder of a shard."""
    return prepared / "shards" / f"{shard:05d}"


def read_manifest(prepared: str | Path) -> Manifest:
    """The manifest of a prepared folder.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or of another format.
    """
    _check_there(Path(prepared))
    file = Path(prepared) / MANIFEST
    what = "the manifest of a prepared folder"
    values = read_checked_json(file, what, _CURE)
    if values.pop("format", None) != FORMAT:
        raise ValueError(f"{file}: not format {FORMAT}; {_CURE}")
    try:
        return Manifest(**values)
    except TypeError as error:
        raise ValueError(f"{file}: not {what} ({error}); {_CURE}") from error


def _check_there(prepared: Path) -> None:
    if not (prepared / MANIFEST).is_file():
        raise FileNotFoundError(
            f"{prepared / MANIFEST}: no prepared data here (working folder {Path.cwd()}); run python -m "
            "pinnerformer_jax.ingest with this config first"
        )


def _open_again(path: Path, manifest: str) -> Timelines:
    opened = Timelines.open(path, verify=False)
    if digest(opened.manifest) != manifest:
        raise ValueError(f"{path}: replaced by other data while this process was reading it")
    return opened


def write_manifest(prepared: str | Path, manifest: Manifest) -> None:
    """Write the manifest of a prepared folder, after all its other files."""
    write_checked_json(Path(prepared) / MANIFEST, {"format": FORMAT, **dataclasses.asdict(manifest)})


def open_shard(prepared: Path, shard: int) -> Shard:
    """Map the columns of a shard."""
    path = shard_path(prepared, shard)

    def column(name: str) -> np.ndarray:
        return np.load(path / f"{name}.npy", mmap_mode="r", allow_pickle=False)

    columns = [column(name) for name in ("offsets", "cut", "role", *COLUMNS)]
    users = path / "users.parquet"
    table = map_file(users) if users.is_file() else np.zeros(0, np.uint8)  # the bench writes no ids
    return Shard(path, *columns, table=table)
