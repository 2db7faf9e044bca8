"""Recommendations for many users, as a table that is written a part at a time.

    user_id         as in the log
    rank            1 .. k
    item_id, title  as in items.parquet
    score           as `Recommender.recommend` gives it, to the bit
    model_version   of the vectors
    state           path of the state below SNAPSHOTS, which has its day as ds=DAY

All rows are of one state. A user without a vector is left out and counted: `recommend` would give such a user
the most popular items.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pinnerformer_jax.files import atomic_path
from pinnerformer_jax.serving import snapshot
from pinnerformer_jax.serving.own_items import NOTHING
from pinnerformer_jax.serving.ranking import OwnCounts, Ranking
from pinnerformer_jax.serving.recommender import LoadedState, Recommender

if TYPE_CHECKING:
    import pyarrow as pa

AT_ONCE = 1 << 14
"""Users whose vectors and recommendations memory holds at a time; a row group of the file."""

FORMATS = (".parquet", ".csv", ".jsonl")


@dataclass
class Counts:
    """Users by what became of them."""

    users: int = 0  # with recommendations
    deleted: int = 0
    too_few_events: int = 0  # the state has events of them, and no vector
    unknown: int = 0  # the state has neither
    rows: int = 0

    def summary(self) -> str:
        """In a line to show."""
        reasons = {
            "deleted": self.deleted,
            "with too few events": self.too_few_events,
            "unknown": self.unknown,
        }
        left = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items() if count)
        out = f"; {sum(reasons.values()):,} users have no vector and are left out: {left}" if left else ""
        return f"{self.users:,} users, {self.rows:,} recommendations{out}"


def write_recommendations(
    recommender: Recommender,
    user_ids: pa.Array | None,
    k: int,
    file: Path,
    *,
    exclude_seen: bool | None = None,
    part: tuple[int, int] = (0, 1),
) -> Counts:
    """Write the recommendations of many users, with a progress bar. The file is complete or absent.

    Args:
        recommender: its state when the call begins, and its rules.
        user_ids: each once; None: everybody in the state.
        k: how many of each; fewer if there are not so many items.
        file: to write: .parquet, .csv or .jsonl (a JSON object a line).
        exclude_seen: see `Recommender.recommend`.
        part: (i, n): the i-th, from 0 on, of n equal shares of the users; n calls of one state write all.

    Returns:
        Counts of the users.

    Raises:
        ConnectionError: the feature store does not answer.
        OSError: the file cannot be written.
        ValueError: the name ends with none of the three, or k < 1.
    """
    from tqdm import tqdm

    if file.suffix not in FORMATS:
        raise ValueError(f"{file}: the name must end with one of {', '.join(FORMATS)}")
    counts = Counts()
    loaded = recommender.refresh()
    everybody = everybody_in(loaded) if user_ids is None else user_ids
    first, end = (len(everybody) * k // part[1] for k in (part[0], part[0] + 1))
    everybody = everybody.slice(first, end - first)
    with (
        atomic_path(file) as temporary,
        _writer(temporary) as write,
        tqdm(total=len(everybody), desc="recommending", unit="user", leave=False, disable=None) as bar,
    ):
        for start in range(0, max(len(everybody), 1), AT_ONCE):
            part = everybody.slice(start, AT_ONCE)
            write(
                _recommend(recommender, loaded, part, k, counts, exclude_seen=exclude_seen, done=bar.update)
            )
    return counts


def everybody_in(loaded: LoadedState) -> pa.Array:
    """Ids of all users with a vector or an event in a state, those with a vector first."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(loaded.users, snapshot.SnapshotVectors):
        users = loaded.users.user_ids
    else:
        users = snapshot.read_parquet(loaded.folder / "users.parquet", ["user_id"])[
            "user_id"
        ].combine_chunks()
    others = loaded.own_items.user_ids.cast(users.type)
    return pa.concat_arrays([users, others.filter(pc.invert(pc.is_in(others, users)))])


def _recommend(
    recommender: Recommender,
    loaded: LoadedState,
    user_ids: pa.Array,
    k: int,
    counts: Counts,
    *,
    exclude_seen: bool | None,
    done: Callable[[int], object],
) -> pa.Table:
    """The table of some users.

    Args:
        recommender: whose rules and deleted users count.
        loaded: the state.
        user_ids: [B].
        k: how many of each.
        counts: grow by these users.
        exclude_seen: see `Recommender.recommend`.
        done: is told how many more users are done.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if k < 1:
        raise ValueError(f"k = {k}: must be at least 1")
    ranking = loaded.under(recommender.rules)
    own, has_events = loaded.own_items.of_many(user_ids)
    ids = user_ids.to_pylist()
    vectors, known = loaded.users.get_many(ids)
    gone = recommender.deleted_users()
    deleted = np.array([user in gone for user in ids], bool) if gone else np.zeros(len(ids), bool)
    known &= ~deleted
    counts.users += int(known.sum())
    counts.deleted += int(deleted.sum())
    counts.too_few_events += int((~known & ~deleted & has_events).sum())
    counts.unknown += int((~known & ~deleted & ~has_events).sum())
    places = np.flatnonzero(known)
    hides = loaded.priors.hides(exclude_seen)
    found = _rank(ranking, vectors[places], k, [own[b] for b in places], hides_seen=hides, done=done)
    done(len(ids) - len(places))
    size = np.array([len(rows) for _, rows in found], np.int64)
    rows = np.concatenate([rows for _, rows in found]) if found else np.empty(0, np.int64)
    scores = np.concatenate([scores for scores, _ in found]) if found else np.empty(0)
    counts.rows += len(rows)
    item_ids, titles = (loaded.items[name].combine_chunks() for name in ("item_id", "title"))
    rank = np.arange(len(rows)) - np.repeat(np.cumsum(size) - size, size) + 1

    def constant(text: str) -> pa.Array:
        zeros = pa.array(np.zeros(len(rows), np.int32))
        return pc.cast(pa.DictionaryArray.from_arrays(zeros, [text]), pa.string())

    return pa.table(
        {
            "user_id": user_ids.take(pa.array(np.repeat(places, size))),
            "rank": pa.array(rank, pa.int32()),
            "item_id": item_ids.take(pa.array(rows)),
            "title": titles.take(pa.array(rows)),
            "score": pa.array(scores.astype(np.float32)),
            "model_version": constant(loaded.model_version),
            "state": constant(loaded.name),
        }
    )


def _rank(
    ranking: Ranking,
    vectors: np.ndarray,
    k: int,
    own: list[OwnCounts],
    *,
    hides_seen: bool,
    done: Callable[[int], object],
) -> list[tuple[np.ndarray, np.ndarray]]:
    found = []
    for start in range(0, len(own), 1024):
        part = slice(start, start + 1024)
        counted = own[part]
        hidden = [of.rows if hides_seen else NOTHING.rows for of in counted]
        if not (ranking.own_weight or hides_seen):
            counted = [NOTHING] * len(counted)
        found += ranking.best_many(vectors[part], k, counted, hidden)
        done(len(counted))
    return found


@contextlib.contextmanager
def _writer(file: Path) -> Generator[Any, None, None]:
    """A function that appends a table to the file; the first table gives the columns."""
    import pyarrow.csv
    import pyarrow.parquet as pq

    if file.suffix == ".jsonl":
        with open(file, "w", encoding="utf-8") as lines:
            yield lambda table: lines.writelines(_json_lines(table))
        return
    open_file: Any = None

    def write(table: pa.Table) -> None:
        nonlocal open_file
        if open_file is None:
            kind = pq.ParquetWriter if file.suffix == ".parquet" else pyarrow.csv.CSVWriter
            open_file = kind(file, table.schema)
        open_file.write_table(table)

    try:
        yield write
    finally:
        if open_file is not None:
            open_file.close()


def _json_lines(table: pa.Table) -> Iterator[str]:
    names, columns = table.column_names, [column.to_pylist() for column in table.columns]
    for values in zip(*columns, strict=True):
        yield json.dumps(dict(zip(names, values, strict=True)), ensure_ascii=False, default=str) + "\n"
