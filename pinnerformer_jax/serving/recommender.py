"""Items for a user: look the user's vector up, and search the index, in the state that is served now."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pinnerformer_jax.retrieval import exact
from pinnerformer_jax.retrieval.scann_index import ScannIndex, version_of
from pinnerformer_jax.serving import snapshot, state
from pinnerformer_jax.serving.manifest import read_manifest, verify_state
from pinnerformer_jax.serving.tombstones import deleted_users, tombstone_files

if TYPE_CHECKING:
    import pyarrow as pa

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Item:
    """A recommended item."""

    id: Any  # as in the log
    title: str
    score: float  # inner product with the user's vector; NaN for a cold user


@dataclass(frozen=True)
class Recommendations:
    """Best first."""

    items: list[Item]
    cold: bool  # the user has no vector: these are the most popular items
    model_version: str
    date: str  # day of the state


class LoadedState:
    """A state in memory, its files verified. It never changes, so that threads may share it.

    Args:
        root: SNAPSHOTS.
        name: path of the state below it.
        store: feature store of the user vectors; None: the state's own users.parquet.

    Raises:
        FileNotFoundError: there is no such state.
        ValueError: a file is damaged, items, index and users are not of one model version, or the feature
            store has no vectors of that version.
    """

    def __init__(self, root: Path, name: str, store: snapshot.UserStore | None = None) -> None:
        self.name, self.folder = name, root / name
        self.manifest = verify_state(root, name)
        self.items = snapshot.read_parquet(self.folder / "items.parquet")
        self.model_version = snapshot.version_of(self.items)
        self.vectors = snapshot.vectors_of(self.items)
        self.popular = np.load(self.folder / "popular.npy", allow_pickle=False)
        self.index: ScannIndex | None = None
        if (self.folder / "index").is_dir():
            snapshot.check_same_version(
                {"items.parquet": self.model_version, "the index": version_of(self.folder / "index")}
            )
            try:
                self.index = ScannIndex.load(self.folder / "index", self.vectors)
            except ImportError as error:
                _log.warning("%s: searched exactly, which is slower: %s", name, error)
        self.user_type = _type_of_users(self.folder)
        self.users: snapshot.UserVectors
        if store is None:
            self.users = snapshot.SnapshotVectors.of(snapshot.read_parquet(self.folder / "users.parquet"))
        else:
            self.users = store.of(self.model_version)
        snapshot.check_same_version(
            {"items.parquet": self.model_version, "user vectors": self.users.model_version}
        )

    def seen(self, user_id: Any) -> set[Any]:
        """Ids of the items among the user's newest events."""
        import pyarrow.parquet as pq

        wanted = [("user_id", "=", user_id)]
        events = pq.read_table(
            self.folder / "events.parquet", columns=["item_id"], filters=wanted, partitioning=None
        )
        return set(events["item_id"].to_pylist())

    def nearest(self, vector: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores and rows of the k items nearest to a vector, best first; an index may miss some."""
        k = min(k, len(self.vectors))
        search = self.index.search if self.index else lambda q, n: exact.search(q, self.vectors, n)
        scores, rows = search(vector[None], k)
        return scores[0][rows[0] >= 0], rows[0][rows[0] >= 0]


class Recommender:
    """Recommends from the served state, and loads a new one as soon as the pointer names it.

    Threads may share it. If a new state cannot be used, that is logged as an error, and the old one goes on
    being served.
    """

    def __init__(self, root: Path, loaded: LoadedState, store: snapshot.UserStore | None = None) -> None:
        self._root, self._loaded, self._store = root, loaded, store
        self._deleted: tuple[list[Path], set[Any]] = [], set()
        self._tried: tuple[str, int] | None = None
        self._loading = threading.Lock()

    @classmethod
    def open(cls, snapshots: str | Path, users: snapshot.UserStore | None = None) -> Recommender:
        """Load the served state.

        Args:
            snapshots: folder that python -m pinnerformer_jax.embed publishes to.
            users: the feature store where vectors are looked up, such as stores.open_store(URL); None: the
                state's own users.parquet.

        Raises:
            FileNotFoundError: no state was published there.
            ConnectionError: the feature store does not answer.
            ValueError: a file is damaged, or users, items and index are not of one model version.
        """
        root = Path(snapshots)
        name = state.current(root)
        if name is None:
            raise FileNotFoundError(
                f"{root / 'CURRENT'}: nothing was published here; run python -m pinnerformer_jax.embed first"
            )
        return cls(root, LoadedState(root, name, users), users)

    def recommend(self, user_id: Any, k: int = 10, *, exclude_seen: bool = False) -> Recommendations:
        """The k items nearest to a user's vector; for a user without one the k most popular items.

        Args:
            user_id: of the type that ids have in the log.
            k: how many; fewer if there are not so many items.
            exclude_seen: leave out the items of the user's newest events (the T that the model reads).

        Raises:
            ConnectionError: the feature store does not answer.
            ValueError: k < 1, the feature store does not have the items' model version any more, or the list
                of deleted users is damaged.
        """
        if k < 1:
            raise ValueError(f"k = {k}: must be at least 1")
        loaded = self.refresh()
        deleted = user_id in self._deleted_users()
        vector = None if deleted else loaded.users.get(user_id)
        hidden = loaded.seen(user_id) if exclude_seen and not deleted else set()
        if vector is None:
            rows = loaded.popular[: k + len(hidden)]
            scores = np.full(len(rows), np.nan)
        else:
            scores, rows = loaded.nearest(vector, k + len(hidden))
        found = loaded.items.select(["item_id", "title"]).take(rows)
        items = [
            Item(item, title, float(score))
            for item, title, score in zip(*found.to_pydict().values(), scores, strict=True)
            if item not in hidden
        ]
        return Recommendations(items[:k], vector is None, loaded.model_version, loaded.manifest.date)

    def refresh(self) -> LoadedState:
        """The state that is served now. It is loaded here if the pointer has moved and the feature store has
        vectors of its model; meanwhile other threads use the old one."""
        name = state.current(self._root)
        if name in (None, self._loaded.name) or not self._loading.acquire(blocking=False):
            return self._loaded
        try:
            flipped = (self._root / "CURRENT").stat().st_mtime_ns
            if self._tried != (name, flipped) and self._stored(name):
                self._tried = name, flipped  # not tried again, until the pointer is written again
                self._loaded = LoadedState(self._root, name, self._store)
        except (OSError, ValueError) as error:
            _log.error("%s goes on being served: %s", self._loaded.name, error)
        finally:
            self._loading.release()
        return self._loaded

    def _deleted_users(self) -> set[Any]:
        """Ids of deleted users, read again when there are further ones.

        Raises:
            ValueError: a file of tombstones is damaged, so that it is unknown who was deleted.
        """
        files, users = self._deleted
        there = tombstone_files(self._root)
        if there != files:
            users = set(deleted_users(self._root, self._loaded.user_type).to_pylist())
            self._deleted = there, users
        return users

    def user_type(self) -> pa.DataType:
        """Type of user ids."""
        return self._loaded.user_type

    def _stored(self, name: str) -> bool:
        """Whether the feature store, which is updated after the state, has the model version of a state."""
        return self._store is None or self._store.holds(read_manifest(self._root, name).model_version)


def _type_of_users(folder: Path) -> pa.DataType:
    import pyarrow.parquet as pq

    return pq.read_schema(folder / "users.parquet").field("user_id").type
