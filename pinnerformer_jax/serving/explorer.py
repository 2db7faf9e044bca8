"""What the pages of `explore` show of a state: users, their histories, what is recommended and why, what a
change of the history does, items.

A history can be edited: events are left out, or all that came after a day. Then the user is embedded again
with the run's model, and ranked with the own counts and the popularity of that day. An unedited user has the
stored vector, so that the page shows what is served.
"""

from __future__ import annotations

import datetime
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pinnerformer_jax.retrieval.rules import Rules
from pinnerformer_jax.serving import snapshot
from pinnerformer_jax.serving.look_back import Audit, Then, audit, days_before, end_of, look_back
from pinnerformer_jax.serving.own_items import NOTHING, Counting
from pinnerformer_jax.serving.ranking import OwnCounts, Ranking
from pinnerformer_jax.serving.recommender import Item, LoadedState, Recommender
from pinnerformer_jax.serving.typed_ids import typed_id
from pinnerformer_jax.serving.user_events import positive_events
from pinnerformer_jax.serving.why import Explainer, Reason

if TYPE_CHECKING:
    import pyarrow as pa

COMPARED = 100
"""Ranks up to which an edited history's recommendations are compared with the unedited ones."""

PICKS = 20
"""Users and items that a search lists."""


@dataclass(frozen=True)
class Edit:
    """What the page of a user asks for."""

    without: frozenset[str] = frozenset()  # keys of events to leave out, see `Event.key`
    as_of: str = ""  # ISO day: the history up to its end; "": all
    category: str = ""  # recommend of this category alone; "": of all
    k: int = 10
    hide_seen: bool | None = None  # hide what the user had; None: as served

    @property
    def changes_history(self) -> bool:
        """Whether events are left out."""
        return bool(self.without or self.as_of)


@dataclass(frozen=True)
class Event:
    """An event of a history."""

    key: str  # its microseconds, and its number among events of the same microsecond if that is not 0
    item_id: Any
    title: str
    category: str  # "" where none is known
    action: str  # "" where the log has none
    time: datetime.datetime  # UTC
    kept: bool  # by the edit
    known: bool  # the state has a vector of the item


@dataclass(frozen=True)
class Shown:
    """A recommended item."""

    item: Item
    category: str
    inner: float  # these three add up to the score, see `_Ranked.parts`
    own: float
    popularity: float
    before: int | None  # rank with the unedited history; None: beyond COMPARED, or nothing to compare
    later: bool  # of an edit as of a day: a positive event after it is of this item
    reasons: list[Reason]


@dataclass(frozen=True)
class UserPage:
    """A user."""

    user_id: Any
    events: list[Event]  # oldest first
    shown: list[Shown]
    dropped: list[tuple[Item, int, int | None]]  # of the unedited best k: rank before, rank now
    cold: bool  # too few events for a vector: these are the most popular items
    compared: bool  # `before` and `dropped` mean something
    notes: list[str]
    shares: list[tuple[str, float, float]]  # category, its shares of the kept events and of what is shown


@dataclass(frozen=True)
class _Ranked:
    """A user, served or edited, and what ranks the items."""

    vector: np.ndarray | None  # float32 [D]; None: too few events
    history: pa.Table
    counting: Counting
    own: OwnCounts
    ranking: Ranking

    def best(self, loaded: LoadedState, edit: Edit) -> tuple[np.ndarray, np.ndarray]:
        """Scores and rows of the best items, at least `COMPARED` if there are so many; of a cold user the
        most popular k, with the scores NaN."""
        hidden = self.own.rows if loaded.priors.hides(edit.hide_seen) else NOTHING.rows
        if self.vector is not None:
            return self.ranking.best(self.vector, max(edit.k, COMPARED), self.own, hidden)
        rows = loaded.most_popular(edit.k, hidden, self.ranking.rules)
        return np.full(len(rows), np.nan), rows

    def parts(self, loaded: LoadedState, row: int) -> tuple[float, float, float]:
        """Inner product, own count and popularity in the score of an item; NaN and zeros for a cold user."""
        if self.vector is None:
            return float("nan"), 0.0, 0.0
        count = float(self.own.counts[self.own.rows == row].sum())
        added = loaded.priors.own_weight * float(np.log1p(count))
        return float(loaded.vectors[row] @ self.vector), added, float(self.ranking.added[row])


@dataclass(frozen=True)
class ItemPage:
    """An item."""

    item: Item
    category: str
    rank: int  # among the most popular, 1 the first
    count: float | None  # decayed count of positives, if the state has them
    similar: list[tuple[Item, str]]  # and their categories


class Explorer:
    """See the module. Threads may share it.

    Args:
        recommender: of the states; its `rules` hold for what is recommended.
        explainer: of the run that made the state; None: there are no reasons and no edits.
        missing: a sentence for the pages where there is none.
        category: of items by their ids.
    """

    def __init__(
        self, recommender: Recommender, explainer: Explainer | None, missing: str, category: Mapping[Any, str]
    ) -> None:
        self.recommender, self._explainer, self._missing, self.category = (
            recommender, explainer, missing, category,
        )  # fmt: skip
        self._reading = threading.Lock()
        self._thens: dict[tuple[str, int], Then] = {}
        self._users: tuple[str, pa.Table] | None = None

    def explainer(self, loaded: LoadedState) -> tuple[Explainer | None, str]:
        """The model of a state; or None, and a sentence that says why there is none."""
        if self._explainer is None:
            return None, self._missing
        if self._explainer.model.version != loaded.model_version:
            return None, (
                f"The state is of model version {loaded.model_version} by now, the run of "
                f"{self._explainer.model.version}: start explore again with the run of the state."
            )
        return self._explainer, ""

    def users(self, loaded: LoadedState) -> pa.Table:
        """user_id, n_events and event_timestamp of the users with a vector, by id."""
        if self._users is None or self._users[0] != loaded.name:
            columns = ["user_id", "n_events", "event_timestamp"]
            self._users = loaded.name, snapshot.read_parquet(loaded.folder / "users.parquet", columns)
        return self._users[1]

    def user_id(self, text: str) -> Any:
        """An id that was typed.

        Raises:
            ValueError: it is of another type than the log's.
        """
        return typed_id(text, self.recommender.user_type(), "user", "user")

    def find_users(self, text: str) -> list[dict[str, Any]]:
        """Users whose ids begin with a text, by id."""
        import pyarrow as pa
        import pyarrow.compute as pc

        table = self.users(self.recommender.refresh())
        return self._listed(table.filter(pc.starts_with(table["user_id"].cast(pa.string()), text)))

    def some_users(self, which: str) -> list[dict[str, Any]]:
        """Users with the "most" or the "fewest" events that the model reads, or "random" ones."""
        import pyarrow.compute as pc

        table = self.users(self.recommender.refresh())
        if which == "random":
            rows = np.random.default_rng().choice(len(table), min(PICKS, len(table)), replace=False)
        else:
            order = "descending" if which == "most" else "ascending"
            most = PICKS + len(self.recommender.deleted_users())
            rows = pc.select_k_unstable(table, most, [("n_events", order)])
        return self._listed(table.take(rows))

    def find_items(self, text: str) -> list[tuple[Item, str]]:
        """Items whose id is the text, or whose title has it."""
        import pyarrow as pa
        import pyarrow.compute as pc

        loaded = self.recommender.refresh()
        same = pc.equal(loaded.items["item_id"].cast(pa.string()), text)
        found = pc.or_(same, pc.match_substring(loaded.items["title"], text, ignore_case=True))
        rows = np.flatnonzero(found.to_numpy())[:PICKS]
        return [(item, self._category(item.id)) for item in loaded.items_of(np.full(len(rows), np.nan), rows)]

    def categories(self) -> list[str]:
        """All there are."""
        return sorted({str(of) for of in self.category.values()})

    def user_page(self, user_id: Any, edit: Edit) -> UserPage | None:
        """A user; None: the state has no event and no vector of the user, or the user was deleted.

        Raises:
            ValueError: the day is none.
        """
        loaded = self.recommender.refresh()
        if user_id in self.recommender.deleted_users():
            return None
        table, vector = loaded.events.of(user_id), loaded.users.get(user_id)
        if vector is None and not len(table):
            return None
        try:
            end = end_of(edit.as_of or loaded.manifest.date)
        except ValueError:
            raise ValueError(f"as of {edit.as_of!r}: write a day such as 2026-11-24") from None
        if edit.as_of > loaded.manifest.date:
            raise ValueError(f"as of {edit.as_of}: the state ends with {loaded.manifest.date}")
        events = self._events(loaded, table, edit, end)
        explainer, missing = self.explainer(loaded)
        served = self._ranked(loaded, vector, table, edit, None)
        now, before = served, {}
        if edit.changes_history and explainer is not None:
            now = self._edited(
                loaded, explainer, table.filter(np.array([e.kept for e in events], bool)), edit, end
            )
            if vector is not None and now.vector is not None:
                before = {row: rank for rank, row in enumerate(served.best(loaded, edit)[1].tolist(), 1)}
        scores, rows = now.best(loaded, edit)
        top = rows[: edit.k]
        reasons: list[list[Reason]] = [[] for _ in top]
        if explainer is not None and now.vector is not None:
            reasons = explainer.reasons_in(loaded, now.history, now.counting, top)
        after = table.filter(table["micros"].to_numpy() >= end * 10**6)
        positive = positive_events(after, loaded.manifest.positives)
        later = set(loaded.rows_of(after["item_id"])[positive].tolist())
        items = loaded.items_of(scores[: edit.k], top)
        shown = [
            Shown(item, self._category(item.id), *now.parts(loaded, row), before.get(row), row in later, why)
            for row, item, why in zip(top.tolist(), items, reasons, strict=True)
        ]
        place = {row: rank for rank, row in enumerate(rows.tolist(), 1)}
        gone = [row for row, rank in before.items() if rank <= edit.k < place.get(row, edit.k + 1)]
        lost = loaded.items_of(np.full(len(gone), np.nan), np.array(gone, np.int64))
        return UserPage(
            user_id,
            events,
            shown,
            dropped=[(item, before[row], place.get(row)) for row, item in zip(gone, lost, strict=True)],
            cold=now.vector is None,
            compared=bool(before),
            notes=[*filter(None, [missing]), *self._notes(loaded, table, edit, explainer is not None)],
            shares=_shares([e.category for e in events if e.kept], [of.category for of in shown]),
        )

    def item_page(self, text: str) -> ItemPage | None:
        """An item, from its id as typed; None: the state has none of this id.

        Raises:
            ValueError: it is of another type than the log's.
        """
        loaded = self.recommender.refresh()
        row = loaded.row.get(typed_id(text, loaded.items["item_id"].type, "item", "item"))
        if row is None:
            return None
        (item,) = loaded.items_of(np.array([np.nan]), np.array([row]))
        rank = int(np.flatnonzero(loaded.popular == row)[0]) + 1
        count = None if loaded.popularity is None else float(loaded.popularity[row])
        near = self.recommender.similar(item.id, PICKS)
        return ItemPage(item, self._category(item.id), rank, count, [(i, self._category(i.id)) for i in near])

    def badly_served(self, days: int, k: int, sample: int, seed: int) -> Audit | None:
        """See `look_back.audit`; None: the model is not at hand."""
        loaded = self.recommender.refresh()
        explainer, _ = self.explainer(loaded)
        if explainer is None:
            return None
        then = self.then(loaded, days_before(loaded, days))
        return audit(loaded, explainer, then, k, sample, seed, self.recommender.deleted_users())

    def then(self, loaded: LoadedState, end: int) -> Then:
        """The state as of an earlier moment; the last few are kept."""
        key = loaded.name, end
        with self._reading:
            if key not in self._thens:
                for old in list(self._thens)[: len(self._thens) - 3]:
                    del self._thens[old]
                self._thens[key] = look_back(loaded, end)
            return self._thens[key]

    def _category(self, item_id: Any) -> str:
        found = self.category.get(item_id)
        return "" if found is None else str(found)

    def _listed(self, table: pa.Table) -> list[dict[str, Any]]:
        deleted = self.recommender.deleted_users()
        found = table[: PICKS + len(deleted)].to_pylist()
        return [user for user in found if user["user_id"] not in deleted][:PICKS]

    def _events(self, loaded: LoadedState, table: pa.Table, edit: Edit, end: int) -> list[Event]:
        rows = loaded.rows_of(table["item_id"])
        titles = loaded.items["title"].take(np.maximum(rows, 0)).to_pylist() if len(loaded.items) else []
        same: Counter[int] = Counter()
        events = []
        for row, title, of in zip(rows.tolist(), titles, table.to_pylist(), strict=True):
            micros, item = of["micros"], of["item_id"]
            key = f"{micros}.{same[micros]}" if same[micros] else str(micros)
            same[micros] += 1
            kept = key not in edit.without and micros < end * 10**6
            time = datetime.datetime.fromtimestamp(micros / 10**6, datetime.UTC)
            known = row >= 0
            events.append(
                Event(
                    key, item, title if known else str(item), self._category(item), of["action"] or "", time,
                    kept, known,
                )
            )  # fmt: skip
        return events

    def _edited(
        self, loaded: LoadedState, explainer: Explainer, history: pa.Table, edit: Edit, end: int
    ) -> _Ranked:
        """A user with an edited history, embedded again."""
        vectors, known = explainer.embed(loaded, history, [np.arange(len(history))])
        vector = vectors[0] if known[0] else None
        then = self.then(loaded, end) if edit.as_of and vector is not None else None
        return self._ranked(loaded, vector, history, edit, then)

    def _ranked(
        self, loaded: LoadedState, vector: np.ndarray | None, history: pa.Table, edit: Edit, then: Then | None
    ) -> _Ranked:
        counting = loaded.counting if then is None else then.counting
        own = counting.of(history, loaded.rows_of(history["item_id"]))
        return _Ranked(vector, history, counting, own, self._ranking(loaded, edit, then))

    def _ranking(self, loaded: LoadedState, edit: Edit, then: Then | None) -> Ranking:
        """Within the shop's rules, and of the category that was asked for."""
        rules = loaded.under(self.recommender.rules).rules
        if then is None and not edit.category:
            return loaded.under(self.recommender.rules)
        if edit.category:
            allowed = np.zeros(len(loaded.items), bool)
            allowed[[row for item, row in loaded.row.items() if self._category(item) == edit.category]] = True
            if rules.allowed is not None:
                allowed &= rules.allowed
            rules = Rules(allowed, rules.category, rules.at_most)
        if then is not None:
            return then.ranking(loaded, rules)
        return Ranking(loaded.vectors, loaded.index, loaded.priors, loaded.popularity, rules)

    def _notes(self, loaded: LoadedState, table: pa.Table, edit: Edit, model: bool) -> list[str]:
        kept, length = loaded.manifest.kept_events, loaded.manifest.max_length
        notes = []
        if len(table) >= kept:
            notes.append(f"The state keeps the newest {kept:,} events of a user; older ones are not shown.")
        if len(table) > length:
            older = "only count as own items" if loaded.priors.own_weight else "play no part"
            if loaded.priors.hides(edit.hide_seen):
                older = "only hide their items"
            notes.append(f"The model reads the newest {length:,} events; older ones {older}.")
        if edit.as_of and model:
            notes.append(
                "As of an earlier day: events, own counts and popularity are those up to its end; the model "
                "and the items are today's."
            )
        elif edit.without and model and loaded.priors.popularity_weight:
            notes.append("What the left-out events add to everybody's popularity stays in.")
        return notes


def _shares(history: list[str], shown: list[str]) -> list[tuple[str, float, float]]:
    """Categories of the events and of the shown items with their shares, the largest first."""
    before, after = Counter(of for of in history if of), Counter(of for of in shown if of)
    names = sorted(before | after, key=lambda name: (-after[name], -before[name], name))
    total = max(before.total(), 1), max(after.total(), 1)
    return [(name, before[name] / total[0], after[name] / total[1]) for name in names]
