"""The feature store: user vectors by id, for servers. The daily job updates it after it published a state.

For each of a few model versions the store holds the users of one state; one version is live. A reader asks
for the vectors of a version (`Store.of`): while it still has the items of yesterday's model, it reads
yesterday's vectors. A new version becomes live at once and as a whole, and the old one stays readable for a
while.

If the store has the version of a state already, only the vectors that changed are written. LMDB shows such a
change as a whole, Redis user by user. That is no mixture of models: a vector depends on the events of its own
user alone.

A value is a header and the vector, whatever the snapshot's dtype, little-endian, without padding:
  format u8, model_version 12 bytes, event_timestamp i64 [us since 1970, UTC], D u16, vector float16 [D],
  checksum u32
The checksum is the CRC-32 of the key and of all bytes of the value before it. Values of format 1 have none;
they are read, and the next publishing replaces them.
"""

from __future__ import annotations

import decimal
import hashlib
import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pinnerformer_jax.files import check_files
from pinnerformer_jax.serving import snapshot
from pinnerformer_jax.serving.manifest import CURE, read_manifest
from pinnerformer_jax.serving.tombstones import deleted_users

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 2
CHUNK = 1 << 16
"""Users that are written at a time."""

_HEADER = struct.Struct("<B12sqH")
_CHECKSUM = 4  # bytes
_LONGEST_KEY = 511  # LMDB's

Rows = Iterable[tuple[list[bytes], list[bytes]]]
"""Keys and values, in chunks."""


@dataclass(frozen=True)
class Contents:
    """What a store holds of a model version."""

    model_version: str
    state: str  # path of the state below SNAPSHOTS
    users: int
    dim: int
    format: int = 1  # of the values


class DamagedError(OSError):
    """Bytes of a store were changed or cut off."""


class Store(ABC):
    """Where user vectors are kept; threads may share it. If the place fails, all methods raise OSError (a
    ConnectionError or DamagedError among them) with its name, without the password."""

    mend: str
    """What to do about damage, for messages."""

    @abstractmethod
    def live(self) -> str | None:
        """The model version that was published last; None: no version was."""

    @abstractmethod
    def contents(self, model_version: str) -> Contents | None:
        """What the store holds of a version; None: nothing (any more)."""

    @abstractmethod
    def fetch(self, model_version: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values by key, in the order of the keys.

        Raises:
            ValueError: the store does not hold the version; the message names it and the live one.
        """

    @abstractmethod
    def update(self, contents: Contents, changed: Rows, removed: list[bytes]) -> bool:
        """Change a version that the store holds to another state, and make it live.

        Args:
            contents: what the store will hold of the version.
            changed: users to write.
            removed: keys of users to remove.

        Returns:
            False if the store turns out to hold other users than its record says, or is damaged: then call
            `replace`.
        """

    @abstractmethod
    def replace(self, contents: Contents, rows: Rows) -> None:
        """Write all users of a version beside what the store holds, then make it live."""

    @abstractmethod
    def delete(self, keys: list[bytes]) -> None:
        """Remove users from all versions."""

    def holds(self, model_version: str) -> bool:
        """Whether the store has vectors of a version."""
        return self.contents(model_version) is not None

    def of(self, model_version: str) -> StoredVectors:
        """The vectors of a model version.

        Raises:
            ValueError: the store does not hold it; the message names it and the live one.
        """
        contents = self.contents(model_version)
        if contents is None:
            raise self.lacks(model_version)
        return StoredVectors(self, model_version, contents.dim)

    def lacks(self, model_version: str) -> ValueError:
        """The error that the store does not hold a version."""
        return ValueError(
            f"{self}: no vectors of model version {model_version}, live is {self.live()}; publish with "
            "python -m pinnerformer_jax.embed --store"
        )


@dataclass(frozen=True)
class StoredVectors:
    """Vectors of one model version in a store: `UserVectors`."""

    store: Store
    model_version: str
    dim: int

    def get(self, user_id: Any) -> np.ndarray | None:
        """float32 [D]; None: the user has no vector.

        Raises:
            OSError, ValueError: see get_many.
        """
        vectors, known = self.get_many([user_id])
        return vectors[0] if known[0] else None

    def get_many(self, user_ids: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Vectors of several users.

        Returns:
            float32 [U, D], zeros for users without a vector; bool [U], whether the user has one.

        Raises:
            DamagedError: a value is damaged; the message names the user and the cure.
            OSError: the store fails.
            ValueError: the store does not hold this version any more, or a value is of another one; the
                message names both.
        """
        keys = [key(user_id) for user_id in user_ids]
        values = self.store.fetch(self.model_version, keys)
        known = np.array([value is not None for value in values], bool)
        vectors = np.zeros((len(values), self.dim), np.float32)
        found = [
            self._vector(user_id, name, value)
            for user_id, name, value in zip(user_ids, keys, values, strict=True)
            if value is not None
        ]
        vectors[known] = np.frombuffer(b"".join(found), "<f2").reshape(-1, self.dim)
        return vectors, known

    def _vector(self, user_id: Any, name: bytes, value: bytes) -> bytes:
        """The bytes of a value's vector."""
        rest, checksum = (value[:-_CHECKSUM], value[-_CHECKSUM:]) if value[:1] != b"\1" else (value, None)
        if len(rest) == _HEADER.size + 2 * self.dim and checksum in (None, _checksum(name, rest)):
            layout, version, _, dim = _HEADER.unpack_from(rest)
            version = version.rstrip(b"\0").decode("ascii", "replace")
            if version != self.model_version:
                snapshot.check_same_version({str(self.store): self.model_version, "a value in it": version})
            if layout <= FORMAT and dim == self.dim:
                return rest[_HEADER.size :]
        raise DamagedError(f"{self.store}: the value of user {user_id!r} is damaged; {self.store.mend}")


def _checksum(name: bytes, rest: bytes) -> bytes:
    return zlib.crc32(rest, zlib.crc32(name)).to_bytes(_CHECKSUM, "little")


def publish_users(store: Store, root: Path, name: str) -> str:
    """Write the users of a state to a store, and make its version live.

    If the process is killed at any moment, the store serves what it did before, and the next call completes
    the work. One process at a time may publish to a store; the lock of SNAPSHOTS ensures that.

    Args:
        store: where to.
        root: SNAPSHOTS.
        name: path of the state below it.

    Returns:
        What was done, in a line to show.

    Raises:
        OSError: the store failed; it goes on serving what it did before.
    """
    try:
        return _write_users(store, root, name)
    except OSError as error:
        raise type(error)(
            f"{name} is published, but not in the store: {error}; the next run with --store repairs it"
        ) from None


def _write_users(store: Store, root: Path, name: str) -> str:
    manifest = read_manifest(root, name)
    check_files(root / name, {"users.parquet": manifest.files["users.parquet"]}, CURE)
    users = snapshot.read_parquet(root / name / "users.parquet")
    snapshot.check_same_version(
        {"manifest.json": manifest.model_version, "users.parquet": snapshot.version_of(users)}
    )
    users = snapshot.without(users, deleted_users(root, users["user_id"].type))
    contents = Contents(manifest.model_version, name, len(users), manifest.dim, FORMAT)
    try:
        held = store.contents(manifest.model_version)
    except DamagedError:  # it is replaced as a whole
        held = None
    before = None if held is None or held.format != FORMAT else _users_before(root, held.state)
    if before is not None and before.schema.field("user_id").type == users.schema.field("user_id").type:
        changed, removed = snapshot.difference(before, users)
        if store.update(contents, encode(changed), [key(user) for user in removed.to_pylist()]):
            return f"{store}: {len(changed):,} users written, {len(removed):,} removed"
    store.replace(contents, encode(users))
    return f"{store}: all {len(users):,} users written"


def _users_before(root: Path, name: str) -> pa.Table | None:
    """users.parquet of the state that a store holds; None if that state was removed or is damaged."""
    try:
        files = read_manifest(root, name).files
        check_files(root / name, {"users.parquet": files["users.parquet"]}, CURE)
    except (FileNotFoundError, ValueError):
        return None
    return snapshot.read_parquet(root / name / "users.parquet")


def key(user_id: Any) -> bytes:
    """The key of a user; ids that differ have keys that differ, also if only their types do (1 and "1").
    Decimals that are equal have the same key (1.5 and 1.50)."""
    if isinstance(user_id, np.bool_):
        user_id = bool(user_id)
    if isinstance(user_id, str):
        name = b"s" + user_id.encode()
    elif isinstance(user_id, bytes):
        name = b"b" + user_id
    elif isinstance(user_id, decimal.Decimal):
        digits = f"{user_id:f}"
        name = b"d" + (digits.rstrip("0").rstrip(".") if "." in digits else digits).encode()
    elif isinstance(user_id, (int, np.integer)) and not isinstance(user_id, bool):
        name = b"i%d" % int(user_id)
    else:
        name = f"o{type(user_id).__name__} {user_id!r}".encode()
    return name if len(name) <= _LONGEST_KEY else b"h" + hashlib.sha256(name).digest()


def encode(users: pa.Table) -> Iterator[tuple[list[bytes], list[bytes]]]:
    """Keys and values of a user snapshot, in chunks.

    Raises:
        ValueError: the model version has more than 12 bytes.
    """
    version = snapshot.version_of(users).encode()
    if len(version) > 12:
        raise ValueError(f"model version {version.decode()!r}: a store keeps at most 12 bytes of it")
    for start in range(0, len(users), CHUNK):
        part = users.slice(start, CHUNK)
        vectors = snapshot.vectors_of(part).astype("<f2", copy=False)
        moments = part["event_timestamp"].to_numpy().astype("datetime64[us]").astype(np.int64).tolist()
        keys = [key(user_id) for user_id in part["user_id"].to_pylist()]
        values = []
        for name, moment, vector in zip(keys, moments, vectors, strict=True):
            rest = _HEADER.pack(FORMAT, version, moment, len(vector)) + vector.tobytes()
            values.append(rest + _checksum(name, rest))
        yield keys, values
