"""Items for a user, in the state that is served now: the user's vector, the index, and the priors."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pinnerformer_jax.files import ReadLock
from pinnerformer_jax.retrieval.priors import Priors
from pinnerformer_jax.retrieval.rules import NO_RULES, Rules, within_cap
from pinnerformer_jax.retrieval.scann_index import ScannIndex, version_of
from pinnerformer_jax.serving import snapshot, state
from pinnerformer_jax.serving.event_file import event_files
from pinnerformer_jax.serving.manifest import CURE, read_manifest
from pinnerformer_jax.serving.own_items import NOTHING, Counting, OwnItems
from pinnerformer_jax.serving.ranking import OwnCounts, Ranking
from pinnerformer_jax.serving.shop_rules import ShopRules
from pinnerformer_jax.serving.tombstones import deleted_users, tombstone_files
from pinnerformer_jax.serving.user_events import UserEvents

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
        keep_events: see `Recommender.open`.

    Raises:
        FileNotFoundError: there is no such state.
        ValueError: a file is damaged, items, index and users are not of one model version, or the feature
            store has no vectors of that version.
    """

    def __init__(
        self, root: Path, name: str, store: snapshot.UserStore | None = None, *, keep_events: bool = True
    ) -> None:
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
        # An index without partitions compares all items too, and a product does that for a batch at once.
        self.index = index if index is not None and index.settings.leaves else None
        self.popularity = counts
        ranking = Ranking(self.vectors, self.index, self.priors, counts)
        self._ruled: tuple[ShopRules | None, Ranking] = None, ranking
        self.events = UserEvents(event_files(self.folder))
        end = int(state.day_end(self.manifest.date).timestamp())
        self.counting = Counting(self.manifest.positives, end, self.priors.own_half_life_days)
        self._own: OwnItems | None = None
        if keep_events:
            self._own = OwnItems.read(self.events, self.items["item_id"].combine_chunks(), self.counting)
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
    def row(self) -> dict[Any, int]:
        """Row of each item."""
        return {item: row for row, item in enumerate(self.items["item_id"].to_pylist())}

    def items_of(self, scores: np.ndarray, rows: np.ndarray) -> list[Item]:
        """Items of rows, with scores."""
        found = self.items.select(["item_id", "title"]).take(rows)
        return [
            Item(item, title, float(score))
            for item, title, score in zip(*found.to_pydict().values(), scores, strict=True)
        ]

    def rows_of(self, item_ids: pa.ChunkedArray) -> np.ndarray:
        """int64: the rows of items; -1: it has no vector."""
        return np.array([self.row.get(item, -1) for item in item_ids.to_pylist()], np.int64)

    def own(self, user_id: Any) -> OwnCounts:
        """The items of a user's newest events, and their decayed counts."""
        if self._own is not None:
            return self._own.of(user_id)
        events = self.events.of(user_id)
        return self.counting.of(events, self.rows_of(events["item_id"]))

    @cached_property
    def own_items(self) -> OwnItems:
        """`own` of all users."""
        if self._own is None:
            self._own = OwnItems.read(self.events, self.items["item_id"].combine_chunks(), self.counting)
        return self._own

    def under(self, rules: ShopRules | None) -> Ranking:
        """The ranking within the rules of a shop; kept until other rules are asked for."""
        known, ranking = self._ruled
        if known is not rules:
            by_row = NO_RULES if rules is None else rules.for_items(self.items["item_id"].combine_chunks())
            ranking = Ranking(self.vectors, self.index, self.priors, self.popularity, by_row)
            self._ruled = rules, ranking
        return ranking

    def most_popular(self, k: int, hidden: np.ndarray, rules: Rules) -> np.ndarray:
        """int32 [at most k]: rows of the most popular items that may be shown."""
        if rules is NO_RULES:
            rows = self.popular[: k + len(hidden)]
        else:
            rows = self.popular if rules.allowed is None else self.popular[rules.allowed[self.popular]]
        rows = rows[~np.isin(rows, hidden)]
        return rows[within_cap(rows, rules)][:k]


class Recommender:
    """Recommends from the served state, and loads a new one as soon as the pointer names it.

    Threads may share it. If a new state cannot be used, that is logged as an error, and the old one goes on
    being served.

    Attributes:
        rules: of the shop, for every answer from now on; None: there are none. Replace the object when they
            change; the first answer after that takes some milliseconds more.
    """

    rules: ShopRules | None = None

    def __init__(
        self,
        root: Path,
        loaded: LoadedState,
        store: snapshot.UserStore | None = None,
        *,
        keep_events: bool = True,
    ) -> None:
        self._root, self._loaded, self._store, self._keep_events = root, loaded, store, keep_events
        self._deleted: tuple[list[Path], set[Any]] = [], set()
        self._tried: tuple[str, int] | None = None
        self._loading = threading.Lock()

    @classmethod
    def open(
        cls, snapshots: str | Path, users: snapshot.UserStore | None = None, *, keep_events: bool = True
    ) -> Recommender:
        """Load the served state.

        Args:
            snapshots: folder that python -m pinnerformer_jax.embed publishes to.
            users: the feature store where vectors are looked up, such as stores.open_store(URL); None: the
                state's own users.parquet.
            keep_events: read the users' newest events once and keep their items in memory, 8 bytes for each
                user and item. False: each request that needs them reads the file, which is less work if
                there are few requests.

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
                loaded = LoadedState(root, name, users, keep_events=keep_events)
                return cls(root, loaded, users, keep_events=keep_events)
            except (OSError, ValueError):
                if state.current(root) == name:
                    raise  # else it was pruned, and a later state is served
        raise FileNotFoundError(
            f"{root / 'CURRENT'}: nothing was published here; run python -m pinnerformer_jax.embed first"
        )

    def recommend(self, user_id: Any, k: int = 10, *, exclude_seen: bool | None = None) -> Recommendations:
        """The k items of highest served score within `rules`; for a user without a vector the k most popular.

        The score is the inner product with the user's vector, and the priors if the run's evaluation found
        that they help: the same score as the method "served" of the evaluation.

        Args:
            user_id: of the type that ids have in the log.
            k: how many; fewer if there are not so many items.
            exclude_seen: leave out the items of the user's newest events, which the state keeps (as many as
                the model reads, or the priors count); None: as the run's evaluation found better.

        Raises:
            ConnectionError: the feature store does not answer.
            OSError: it is damaged.
            ValueError: k < 1, the feature store does not have the items' model version any more, or the list
                of deleted users is damaged.
        """
        if k < 1:
            raise ValueError(f"k = {k}: must be at least 1")
        loaded = self.refresh()
        deleted = user_id in self.deleted_users()
        vector = None if deleted else loaded.users.get(user_id)
        ranking, own, hides = loaded.under(self.rules), NOTHING, loaded.priors.hides(exclude_seen)
        if not deleted and (hides or (vector is not None and loaded.priors.own_weight)):
            own = loaded.own(user_id)
        hidden = own.rows if hides else NOTHING.rows
        if vector is None:
            rows = loaded.most_popular(k, hidden, ranking.rules)
            scores = np.full(len(rows), np.nan)
        else:
            scores, rows = ranking.best(vector, k, own, hidden)
        items = loaded.items_of(scores, rows)
        return Recommendations(
            items,
            vector is None,
            loaded.model_version,
            loaded.manifest.date,
            replace(loaded.priors, hide_seen=hides).formula,
        )

    def similar(self, item_id: Any, k: int = 10) -> list[Item]:
        """The k items whose vectors have the largest inner product with an item's own, best first, within
        `rules`; the score is that product, for vectors are of unit length their cosine.

        Args:
            item_id: of the type that ids have in the log.
            k: how many; fewer if there are not so many items.

        Raises:
            ValueError: k < 1, or no item of the state has this id.
        """
        if k < 1:
            raise ValueError(f"k = {k}: must be at least 1")
        loaded = self.refresh()
        row = loaded.row.get(item_id)
        if row is None:
            raise ValueError(f"item {item_id!r}: none of the {len(loaded.vectors):,} items of the state")
        ranking = Ranking(loaded.vectors, loaded.index, Priors(), None, loaded.under(self.rules).rules)
        return loaded.items_of(*ranking.best(loaded.vectors[row], k, NOTHING, np.array([row])))

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
                self._loaded = LoadedState(self._root, name, self._store, keep_events=self._keep_events)
        except (OSError, ValueError) as error:
            _log.error("%s goes on being served: %s", self._loaded.name, error)
        finally:
            self._loading.release()
        return self._loaded

    def deleted_users(self) -> set[Any]:
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
