"""Items for a user, in the state that is served now: the user's vector, the index, and the priors."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pinnerformer_jax.files import ReadLock
from pinnerformer_jax.retrieval.priors import Priors, decay
from pinnerformer_jax.retrieval.scann_index import ScannIndex, version_of
from pinnerformer_jax.serving import snapshot, state
from pinnerformer_jax.serving.manifest import CURE, read_manifest
from pinnerformer_jax.serving.ranking import OwnCounts, Ranking
from pinnerformer_jax.serving.tombstones import deleted_users, tombstone_files
from pinnerformer_jax.serving.user_events import UserEvents, positive_events

if TYPE_CHECKING:
    import pyarrow as pa

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Item:
    """A recommended item."""

    id: Any  # as in the log
    title: str
    score: float  # inner product with the user's vector, and the priors; NaN for a cold user


@dataclass(frozen=True)
class Recommendations:
    """Best first."""

    items: list[Item]
    cold: bool  # the user has no vector: these are the most popular items
    model_version: str
    date: str  # day of the state
    formula: str = Priors().formula  # of the score, in words


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
        self.manifest = read_manifest(root, name)
        lock = ReadLock(self.folder)
        lock.verify(self.manifest.files, CURE)
        self.items = snapshot.read_parquet(self.folder / "items.parquet")
        self.model_version = snapshot.version_of(self.items)
        self.vectors = snapshot.vectors_of(self.items)
        self.popular = np.load(self.folder / "popular.npy", allow_pickle=False)
        index: ScannIndex | None = None
        if (self.folder / "index").is_dir():
            snapshot.check_same_version(
                {"items.parquet": self.model_version, "the index": version_of(self.folder / "index")}
            )
            try:
                index = ScannIndex.load(self.folder / "index", self.vectors)
            except ImportError as error:
                _log.warning("%s: searched exactly, which is slower: %s", name, error)
        self.priors = self.manifest.priors
        popularity = self.folder / "popularity.npy"
        counts = np.load(popularity, allow_pickle=False) if popularity.is_file() else None
        self.ranking = Ranking(self.vectors, index, self.priors, counts)
        self.events = UserEvents(self.folder / "events.parquet")
        self.user_type = _type_of_users(self.folder)
        self.users: snapshot.UserVectors
        if store is None:
            self.users = snapshot.SnapshotVectors.of(snapshot.read_parquet(self.folder / "users.parquet"))
        else:
            self.users = store.of(self.model_version)
        snapshot.check_same_version(
            {"items.parquet": self.model_version, "user vectors": self.users.model_version}
        )
        lock.check()

    @cached_property
    def _row(self) -> dict[Any, int]:
        """Row of each item."""
        return {item: row for row, item in enumerate(self.items["item_id"].to_pylist())}

    def rows_of(self, item_ids: pa.ChunkedArray) -> np.ndarray:
        """int64: the rows of items; -1: it has no vector."""
        return np.array([self._row.get(item, -1) for item in item_ids.to_pylist()], np.int64)

    def own_counts(self, events: pa.Table, rows: np.ndarray) -> OwnCounts:
        """A user's own decayed counts.

        Args:
            events: of the user, see `UserEvents.of`.
            rows: int64 [E], the rows of their items.
        """
        end = int(state.day_end(self.manifest.date).timestamp())
        counted = positive_events(events, self.manifest.positives) & (rows >= 0)
        time = events["micros"].to_numpy()[counted] // 10**6
        own, place = np.unique(rows[counted], return_inverse=True)
        return OwnCounts(own, np.bincount(place, decay(time, end, self.priors.own_half_life_days), len(own)))


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
        while (name := state.current(root)) is not None:
            if not (root / name).is_dir():
                raise FileNotFoundError(f"{root / 'CURRENT'}: names {name}, which is not there; {CURE}")
            try:
                return cls(root, LoadedState(root, name, users), users)
            except (OSError, ValueError):
                if state.current(root) == name:
                    raise  # else it was pruned, and a later state is served
        raise FileNotFoundError(
            f"{root / 'CURRENT'}: nothing was published here; run python -m pinnerformer_jax.embed first"
        )

    def recommend(self, user_id: Any, k: int = 10, *, exclude_seen: bool = False) -> Recommendations:
        """The k items of highest served score; for a user without a vector the k most popular items.

        The score is the inner product with the user's vector, and the priors if the run's evaluation found
        that they help: the same score as the method "served" of the evaluation.

        Args:
            user_id: of the type that ids have in the log.
            k: how many; fewer if there are not so many items.
            exclude_seen: leave out the items of the user's newest events, which the state keeps (as many as
                the model reads, or the priors count).

        Raises:
            ConnectionError: the feature store does not answer.
            OSError: it is damaged.
            ValueError: k < 1, the feature store does not have the items' model version any more, or the list
                of deleted users is damaged.
        """
        if k < 1:
            raise ValueError(f"k = {k}: must be at least 1")
        loaded = self.refresh()
        deleted = user_id in self._deleted_users()
        vector = None if deleted else loaded.users.get(user_id)
        hidden, own = np.empty(0, np.int64), OwnCounts(np.empty(0, np.int64), np.empty(0))
        counted = vector is not None and loaded.priors.own_weight != 0
        if not deleted and (exclude_seen or counted):
            events = loaded.events.of(user_id)
            rows = loaded.rows_of(events["item_id"])
            hidden = np.unique(rows) if exclude_seen else hidden
            own = loaded.own_counts(events, rows) if counted else own
        if vector is None:
            rows = loaded.popular[: k + len(hidden)]
            rows = rows[~np.isin(rows, hidden)][:k]
            scores = np.full(len(rows), np.nan)
        else:
            scores, rows = loaded.ranking.best(vector, k, own, hidden)
        found = loaded.items.select(["item_id", "title"]).take(rows)
        items = [
            Item(item, title, float(score))
            for item, title, score in zip(*found.to_pydict().values(), scores, strict=True)
        ]
        manifest = loaded.manifest
        return Recommendations(
            items, vector is None, loaded.model_version, manifest.date, loaded.priors.formula
        )

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
