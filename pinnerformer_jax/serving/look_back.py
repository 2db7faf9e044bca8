"""A state as of an earlier day, from the events that it keeps; and the users whom it would have served badly.

What the days after a moment brought is known. So the users are embedded as of that moment, with the model
that is served now, and the items of their later positive events are looked up in the ranking that they would
have had.

What this is not: an evaluation. The model may have been trained on these very days, and the items are those
of today. It finds users to look at; `evaluate` says how good a model is.

Dimensions: B users, N items of the state.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pinnerformer_jax.data.contracts import DAY
from pinnerformer_jax.retrieval.priors import decay
from pinnerformer_jax.retrieval.rules import NO_RULES, Rules
from pinnerformer_jax.serving import state
from pinnerformer_jax.serving.own_items import Counting
from pinnerformer_jax.serving.ranking import SCORES, Ranking
from pinnerformer_jax.serving.recommender import LoadedState
from pinnerformer_jax.serving.user_events import positive_events
from pinnerformer_jax.serving.why import Explainer

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Then:
    """A state as of an earlier moment."""

    end: int  # seconds since 1970
    counting: Counting  # of own counts
    popularity: np.ndarray  # float64 [N], decayed counts
    later: pa.Array  # ids of users with a positive event of a known item after the moment

    def ranking(self, loaded: LoadedState, rules: Rules = NO_RULES) -> Ranking:
        """Of the state's items, with the popularity of then."""
        counts = self.popularity if loaded.priors.popularity_weight else None
        return Ranking(loaded.vectors, loaded.index, loaded.priors, counts, rules)


@dataclass(frozen=True)
class BadlyServed:
    """How the later items of a user stood in the ranking of then."""

    user_id: Any
    before: int  # events up to the moment
    items: int  # distinct items of positive events after it
    found: int  # of them among the best k
    popular: int  # of them among the k most popular items of then
    best: int  # rank of the item that stood highest


@dataclass(frozen=True)
class Audit:
    """A sample of users, the worst served first."""

    users: list[BadlyServed]
    active: int  # users with a positive event after the moment; the sample is of these
    drawn: int
    cold: int  # of the drawn: they had too few events for a vector

    @property
    def recall(self) -> float:
        """Mean share of a user's later items that were among the best k."""
        return float(np.mean([user.found / user.items for user in self.users] or [np.nan]))

    @property
    def popular_recall(self) -> float:
        """The same of the most popular items."""
        return float(np.mean([user.popular / user.items for user in self.users] or [np.nan]))

    @property
    def missed(self) -> int:
        """Users of whose items none was among the best k."""
        return sum(user.found == 0 for user in self.users)


def look_back(loaded: LoadedState, end: int) -> Then:
    """Read all events of a state once, a part at a time.

    Args:
        loaded: the state.
        end: seconds since 1970; events of this second and later ones are left out.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    priors, items = loaded.priors, loaded.items["item_id"].combine_chunks()
    popularity = np.zeros(len(items))
    later = [pa.array([], loaded.user_type)]
    for table in loaded.events.of_all():
        row = pc.fill_null(pc.index_in(table["item_id"].combine_chunks(), items), -1).to_numpy()
        positive = positive_events(table, loaded.manifest.positives) & (row >= 0)
        time = table["micros"].to_numpy() // 10**6
        before, after = positive & (time < end), positive & (time >= end)
        weights = decay(time[before], end, priors.popularity_half_life_days)
        popularity += np.bincount(row[before], weights, len(items))
        later.append(table["user_id"].filter(pa.array(after)).combine_chunks().unique())
    counting = dataclasses.replace(loaded.counting, end=end)
    return Then(end, counting, popularity * priors.popularity_share, pa.concat_arrays(later))


def audit(
    loaded: LoadedState, explainer: Explainer, then: Then, k: int, sample: int, seed: int, deleted: set[Any]
) -> Audit:
    """Rank all items for a random sample of the users who were active after a moment, as of that moment.

    Args:
        loaded: the state.
        explainer: of its model.
        then: the state as of the moment.
        k: a later item counts as found among so many.
        sample: users to draw.
        seed: of the draw.
        deleted: users to leave out.
    """
    import pyarrow as pa

    active = [user for user in then.later.to_pylist() if user not in deleted]
    drawn = np.random.default_rng(seed).choice(len(active), min(sample, len(active)), replace=False)
    users = [active[place] for place in sorted(drawn.tolist())]
    if not users:
        return Audit([], 0, 0, 0)
    tables = [loaded.events.of(user) for user in users]
    starts = np.cumsum([0, *(len(table) for table in tables)])
    split = [int((table["micros"].to_numpy() < then.end * 10**6).sum()) for table in tables]
    histories = [np.arange(start, start + count) for start, count in zip(starts, split, strict=False)]
    vectors, known = explainer.embed(loaded, pa.concat_tables(tables), histories)
    ranking = then.ranking(loaded)
    popular = _places(then.popularity[None])[0]
    found: list[BadlyServed] = []
    size = max(1, SCORES // max(len(loaded.vectors), 1))
    warm = np.flatnonzero(known)
    for start in range(0, len(warm), size):
        part = warm[start : start + size]
        scores = vectors[part] @ loaded.vectors.T + ranking.added
        for place, of in zip(part.tolist(), scores, strict=True):
            table, count = tables[place], split[place]
            own = then.counting.of(table[:count], loaded.rows_of(table["item_id"][:count]))
            of[own.rows] += (ranking.own_weight * np.log1p(own.counts)).astype(np.float32)
            if loaded.priors.hide_seen:
                of[own.rows] = -np.inf
            after = table[count:]
            rows = loaded.rows_of(after["item_id"])
            positive = positive_events(after, loaded.manifest.positives) & (rows >= 0)
            wanted = np.unique(rows[positive])
            rank = _places(of[None])[0][wanted]
            found.append(
                BadlyServed(
                    users[place], count, len(wanted), int((rank <= k).sum()),
                    int((popular[wanted] <= k).sum()), int(rank.min()),
                )
            )  # fmt: skip
    found.sort(key=lambda user: (user.found / user.items, -user.best))
    return Audit(found, len(active), len(users), len(users) - len(found))


def end_of(date: str) -> int:
    """Seconds since 1970 of the first moment after a day."""
    return int(state.day_end(date).timestamp())


def days_before(loaded: LoadedState, days: int) -> int:
    """Seconds since 1970: so many days before the end of the state's day."""
    return end_of(loaded.manifest.date) - days * DAY


def _places(scores: np.ndarray) -> np.ndarray:
    """int [B, N]: the rank of each item, 1 for the best; of equal scores the lower row first."""
    order = np.argsort(-scores, axis=1, kind="stable")
    places = np.empty_like(order)
    np.put_along_axis(places, order, np.arange(1, scores.shape[1] + 1)[None], axis=1)
    return places
