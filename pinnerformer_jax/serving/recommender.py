"""From a user's id to items: the vector looked up, the index searched, in whatever state is served now."""

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

if TYPE_CHECKING:
    import pyarrow as pa

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Item:
    """A recommended item."""

    id: Any  # as it came
    title: str
    score: float  # inner product with the user's vector; NaN for a cold user


@dataclass(frozen=True)
class Recommendations:
    """Best first."""

    items: list[Item]
    cold: bool  # the user has no vector: these are the most popular items
    model_version: str
    date: str  # day of the state


class Published:
    """A state in memory, its files verified. It never changes, so that threads may share it.

    Raises:
        FileNotFoundError: there is no such state.
        ValueError: a file is damaged, items, index and users are not of one model version, or the feature
            store has no vectors of that version.
    """

    def __init__(self, root: Path, name: str, store: snapshot.UserStore | None = None) -> None:
        self.name, self.folder = name, root / name
        self.manifest = state.verify(root, name)
        self.items = snapshot.read(self.folder / "items.parquet")
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
            self.users = snapshot.SnapshotVectors.of(snapshot.read(self.folder / "users.parquet"))
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
        """Scores and rows of about the k items nearest to a vector, best first."""
        k = min(k, len(self.vectors))
        search = self.index.search if self.index else lambda q, n: exact.search(q, self.vectors, n)
        scores, rows = search(vector[None], k)
        return scores[0][rows[0] >= 0], rows[0][rows[0] >= 0]


class Recommender:
    """Recommends from the state that is served, and takes up a new one as soon as the pointer names it.

    May be shared by threads. A new state that cannot be used is logged as an error; the old one serves on.
    """

    def __init__(self, root: Path, published: Published, store: snapshot.UserStore | None = None) -> None:
        self._root, self._published, self._store = root, published, store
        self._deleted: tuple[list[Path], set[Any]] = [], set()
        self._tried: tuple[str, int] | None = None
        self._loading = threading.Lock()

    @classmethod
    def open(cls, snapshots: str | Path, users: snapshot.UserStore | None = None) -> Recommender:
        """Load the served state.

        Args:
            snapshots: folder that python -m pinnerformer_jax.embed publishes to.
            users: the feature store where vectors are looked up, such as stores.open_store(URL); None: in
                the state's own snapshot.

        Raises:
            FileNotFoundError: nothing was published there.
            ConnectionError: the feature store is not there.
            ValueError: a file is damaged, or users, items and index are not of one model version.
        """
        root = Path(snapshots)
        name = state.current(root)
        if name is None:
            raise FileNotFoundError(
                f"{root / 'CURRENT'}: nothing was published here; run python -m pinnerformer_jax.embed first"
            )
        return cls(root, Published(root, name, users), users)

    def recommend(self, user_id: Any, k: int = 10, *, exclude_seen: bool = False) -> Recommendations:
        """The k items nearest to a user's vector, or without one the most popular.

        Args:
            user_id: of the type that ids have in the log.
            k: how many; fewer if there are not so many items.
            exclude_seen: leave out the items of the user's newest events (the T that the model reads).

        Raises:
            ConnectionError: the feature store is not there.
            ValueError: k < 1, the feature store has no more vectors of the items' model version, or the
                list of deleted users is damaged.
        """
        if k < 1:
            raise ValueError(f"k = {k}: must be at least 1")
        published = self.refresh()
        deleted = user_id in self._buried()
        vector = None if deleted else published.users.get(user_id)
        hidden = published.seen(user_id) if exclude_seen and not deleted else set()
        if vector is None:
            rows = published.popular[: k + len(hidden)]
            scores = np.full(len(rows), np.nan)
        else:
            scores, rows = published.nearest(vector, k + len(hidden))
        found = published.items.select(["item_id", "title"]).take(rows)
        items = [
            Item(item, title, float(score))
            for item, title, score in zip(*found.to_pydict().values(), scores, strict=True)
            if item not in hidden
        ]
        return Recommendations(items[:k], vector is None, published.model_version, published.manifest.date)

    def refresh(self) -> Published:
        """The state that is served now, loaded if the pointer has moved and the feature store has vectors of
        its model. Other threads go on with the old one meanwhile."""
        name = state.current(self._root)
        if name in (None, self._published.name) or not self._loading.acquire(blocking=False):
            return self._published
        try:
            flipped = (self._root / "CURRENT").stat().st_mtime_ns
            if self._tried != (name, flipped) and self._stored(name):
                self._tried = name, flipped  # not tried again, until the pointer is written again
                self._published = Published(self._root, name, self._store)
        except (OSError, ValueError) as error:
            _log.error("%s serves on: %s", self._published.name, error)
        finally:
            self._loading.release()
        return self._published

    def _buried(self) -> set[Any]:
        """Who was deleted, in whatever state: read again when somebody else is.

        Raises:
            ValueError: a file of tombstones is damaged, so that nobody knows whom not to serve.
        """
        files, users = self._deleted
        there = state.tombstones(self._root)
        if there != files:
            users = set(state.deleted(self._root, self._published.user_type).to_pylist())
            self._deleted = there, users
        return users

    def user_type(self) -> pa.DataType:
        """Of user ids."""
        return self._published.user_type

    def _stored(self, name: str) -> bool:
        """Whether the feature store, which is written after the state, can serve it."""
        return self._store is None or self._store.holds(state.read_manifest(self._root, name).model_version)


def _type_of_users(folder: Path) -> pa.DataType:
    import pyarrow.parquet as pq

    return pq.read_schema(folder / "users.parquet").field("user_id").type
