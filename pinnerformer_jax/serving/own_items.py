"""The items of each user's newest events, in memory: what the user saw, and how often of late."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pinnerformer_jax.config import PositiveRule
from pinnerformer_jax.retrieval.priors import decay
from pinnerformer_jax.serving.ranking import OwnCounts
from pinnerformer_jax.serving.user_events import UserEvents, positive_events

if TYPE_CHECKING:
    import pyarrow as pa

NOTHING = OwnCounts(np.empty(0, np.int64), np.empty(0, np.float32))


@dataclass(frozen=True)
class Counting:
    """How a user's own events are counted."""

    positives: tuple[PositiveRule, ...]
    end: int  # seconds since 1970, as of when
    half_life_days: float

    def weights(self, events: pa.Table) -> np.ndarray:
        """float64 [E]: what each event counts; 0 if it is not positive."""
        time = events["micros"].to_numpy() // 10**6
        weights = decay(time, self.end, self.half_life_days)
        return np.where(positive_events(events, self.positives), weights, 0.0)

    def of(self, events: pa.Table, rows: np.ndarray) -> OwnCounts:
        """A user's own items.

        Args:
            events: of the user, see `UserEvents.of`.
            rows: int64 [E], the rows of their items; -1: it has no vector.
        """
        known = rows >= 0
        own, place = np.unique(rows[known], return_inverse=True)
        counts = np.bincount(place, self.weights(events)[known], len(own))
        return OwnCounts(own, counts.astype(np.float32))


@dataclass(frozen=True)
class OwnItems:
    """`OwnCounts` of all users, 8 bytes for each user and item."""

    user_ids: pa.Array  # [U], ascending: users with events
    offsets: np.ndarray  # int64 [U + 1]
    rows: np.ndarray  # int32, ascending within a user
    counts: np.ndarray  # float32

    @classmethod
    def read(cls, events: UserEvents, items: pa.Array, counting: Counting) -> OwnItems:
        """Read a state's events once, a part at a time.

        Args:
            events: of the state.
            items: [N], ids by row.
            counting: of the state.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        ids, sizes, rows, counts = [], [np.zeros(1, np.int64)], [], []
        for table in events.of_all():
            users = table["user_id"].combine_chunks()
            fresh = np.ones(len(users), bool)
            fresh[1:] = pc.not_equal(users[1:], users[:-1]).to_numpy(zero_copy_only=False)
            ids.append(users.filter(pa.array(fresh)))
            row = pc.fill_null(pc.index_in(table["item_id"].combine_chunks(), items), -1).to_numpy()
            known = row >= 0
            keys = (np.cumsum(fresh) - 1)[known] * len(items) + row[known]
            own, place = np.unique(keys, return_inverse=True)
            counts.append(np.bincount(place, counting.weights(table)[known], len(own)).astype(np.float32))
            rows.append((own % len(items)).astype(np.int32))
            sizes.append(np.bincount(own // len(items), minlength=int(fresh.sum())))
        if not ids:
            return cls(pa.array([]), np.zeros(1, np.int64), np.empty(0, np.int32), np.empty(0, np.float32))
        return cls(
            pa.concat_arrays(ids), np.cumsum(np.concatenate(sizes)), np.concatenate(rows),
            np.concatenate(counts),
        )  # fmt: skip

    def of(self, user_id: Any) -> OwnCounts:
        """Of one user."""
        count = len(self.user_ids)
        place = bisect_left(range(count), user_id, key=lambda k: self.user_ids[k].as_py())
        if place == count or self.user_ids[place].as_py() != user_id:
            return NOTHING
        return self._at(place)

    def of_many(self, user_ids: pa.Array) -> tuple[list[OwnCounts], np.ndarray]:
        """Of B users; also bool [B], who has events at all."""
        import pyarrow.compute as pc

        if not len(self.user_ids):
            return [NOTHING] * len(user_ids), np.zeros(len(user_ids), bool)
        places = pc.fill_null(pc.index_in(user_ids, self.user_ids), -1).to_numpy()
        return [self._at(place) if place >= 0 else NOTHING for place in places.tolist()], places >= 0

    def _at(self, place: int) -> OwnCounts:
        part = slice(self.offsets[place], self.offsets[place + 1])
        return OwnCounts(self.rows[part], self.counts[part])
