"""Replay the days of a log through the daily job, to compare incremental with full embedding.

The log is cut into days. Each day is run incrementally and with all users embedded; the two take turns in
running first. Each has its own states. Events, merging, items and index are the same, so that the times
differ by the embedding alone. Recall of each snapshot is over the positives of the days after it.

Dimensions: U users, N items, D numbers of an embedding.
"""

from __future__ import annotations

import datetime
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pinnerformer_jax.config import Config
from pinnerformer_jax.data.contracts import DAY
from pinnerformer_jax.data.positives import positive_sql
from pinnerformer_jax.files import atomic_path
from pinnerformer_jax.ingestion import event_mapping
from pinnerformer_jax.ingestion.ingest import set_up_engine
from pinnerformer_jax.ingestion.log_reader import BROKEN, FILE, ROW, literal, open_log, restrict
from pinnerformer_jax.retrieval import exact
from pinnerformer_jax.serving import snapshot, state
from pinnerformer_jax.serving.daily import run
from pinnerformer_jax.serving.manifest import read_manifest
from pinnerformer_jax.serving.plan import Job
from pinnerformer_jax.training.final import check_not_final
from pinnerformer_jax.training.run_record import read_record

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

RECALL_K = 10


@dataclass(frozen=True)
class Span:
    """Which days."""

    first: str  # ISO; the state before the replay is of this day
    days: int  # that follow it
    horizon: int  # days after each whose positives are targets


@dataclass(frozen=True)
class ReplayDay:
    """One day, run both ways. A pair is a user with a vector and an item of the catalogue that the user has a
    positive event with in the horizon. Recall is the share of pairs whose item is among the user's 10
    nearest.
    """

    date: str  # ISO
    incremental: float  # seconds of the whole job
    full: float  # seconds of the whole job with all users embedded
    events: int  # new ones
    users: int  # in the snapshot
    embedded: int  # users, incrementally
    difference: float  # largest absolute difference of a number of both snapshots' vectors
    pairs: int
    recall: float  # of the incremental snapshot
    recall_full: float
    recall_stale: float  # by the vectors of the first day; a user without one has no hit


def replay(
    workdir: Path,
    folder: Path,
    span: Span,
    events: tuple[str, ...] = (),
    prepared: Path | None = None,
    report: Callable = print,
) -> list[ReplayDay]:
    """Replay the days, and compare both ways of each.

    Args:
        workdir: of a trained run.
        folder: for the days' logs and both series of states.
        span: days.
        events: the log; (): the run's own.
        prepared: where the run's prepared folder is now; None: where the run found it.
        report: called with a line about each day.

    Returns:
        One record a day.

    Raises:
        FileNotFoundError: no run or no log.
        ValueError: the folder is not empty, the log has none of these days, or a final run has seen it.
    """
    import duckdb

    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty: name a new folder")
    config = read_record(workdir).config
    if not events:
        check_not_final(config, workdir)
    roots = {name: folder / name for name in ("incremental", "full")}
    lines = []
    folder.mkdir(parents=True, exist_ok=True)
    with duckdb.connect(folder / "log.duckdb") as connection:
        set_up_engine(connection, config.data.memory_limit, folder)
        try:
            logs = _cut(connection, config, events or config.data.events, span, folder)
        except (ValueError, OSError):
            shutil.rmtree(folder)  # it was empty, and the same command may name it again
            raise
        for name in (*roots, "warm"):  # the last one so that the first day compiles nothing
            root = roots.get(name, folder / "warm")
            run(Job(workdir, root, span.first, dtype="float32", prepared=prepared), _silent)
        first = _users(roots["full"])
        for number, log in enumerate(logs):
            date = _day(span.first, number + 1)
            seconds: dict[str, Any] = {}
            for name in list(roots)[:: 1 if number % 2 == 0 else -1]:
                job = Job(
                    workdir, roots[name], date, (str(log),), everyone=name == "full", dtype="float32",
                    prepared=prepared,
                )  # fmt: skip
                started = time.perf_counter()
                run(job, _silent)
                seconds[name] = time.perf_counter() - started
            measures = _measure_day(connection, config, roots, first, date, span.horizon)
            line = ReplayDay(date=date, **seconds, **measures)
            lines.append(line)
            report(
                f"{date}: {line.embedded:,} of {line.users:,} users embedded, "
                f"{line.incremental:.2f} s against {line.full:.2f} s; recall {line.recall:.4f}, "
                f"full {line.recall_full:.4f}, stale {line.recall_stale:.4f}"
            )
    return lines


def _cut(
    connection: duckdb.DuckDBPyConnection, config: Config, events: tuple[str, ...], span: Span, folder: Path
) -> list[Path]:
    """Write the unchanged rows of each day, and create the table `positives` (user_id, item_id, micros)."""
    data = config.data
    files = open_log(connection, "log", "--events", events, folder / "log", data.csv)
    restrict(connection, files, [folder])
    event_mapping.stage(connection, "log", data, None)
    connection.execute(
        f"""
        CREATE TABLE positives AS SELECT DISTINCT user_id, item_id, micros FROM staged
        WHERE in_scope AND reason IS NULL AND {positive_sql(data.positives)}"""
    )
    logs, found = [], 0
    for number in range(1, span.days + 1):
        end = int(state.day_end(_day(span.first, number)).timestamp())
        logs.append(folder / f"{_day(span.first, number)}.parquet")
        [(rows,)] = connection.execute(
            f"""
            COPY (
                SELECT log.* EXCLUDE ({FILE}, {ROW}, {BROKEN})
                FROM log SEMI JOIN (
                    FROM staged WHERE micros >= {(end - DAY) * 10**6} AND micros < {end * 10**6}
                ) AS day ON log.{FILE} = day.file AND log.{ROW} = day.row
                ORDER BY log.{FILE}, log.{ROW}
            ) TO {literal(logs[-1])} (FORMAT parquet)"""
        ).fetchall()
        found += rows
    if not found:
        raise ValueError(f"the log has no event in the {span.days} days after {span.first}: choose others")
    return logs


def _measure_day(
    connection: duckdb.DuckDBPyConnection,
    config: Config,
    roots: dict[str, Path],
    first: pa.Table,
    date: str,
    horizon: int,
) -> dict[str, Any]:
    name = state.current(roots["incremental"]) or ""
    counts = read_manifest(roots["incremental"], name).counts
    items = snapshot.read_parquet(roots["incremental"] / name / "items.parquet")
    merged, full = _users(roots["incremental"]), _users(roots["full"])
    if not merged["user_id"].equals(full["user_id"]):
        raise ValueError(f"{date}: both runs must have the same users")
    end = int(state.day_end(date).timestamp())
    for kind, table in (("user", merged), ("item", items)):
        rows = table.select([f"{kind}_id"]).append_column("row", [np.arange(len(table))])
        connection.register(f"{kind}_rows", rows)
    pairs = connection.execute(
        f"""
        SELECT DISTINCT u.row AS user, i.row AS item
        FROM positives JOIN user_rows AS u USING (user_id) JOIN item_rows AS i USING (item_id)
        WHERE micros >= {end * 10**6} AND micros < {(end + horizon * DAY) * 10**6} ORDER BY ALL"""
    ).fetchnumpy()
    vectors = snapshot.vectors_of(items)
    stale = _aligned(first, merged)
    return {
        "events": counts.events.new_events,
        "users": counts.users.users,
        "embedded": counts.users.embedded_users,
        "difference": float(np.abs(snapshot.vectors_of(merged) - snapshot.vectors_of(full)).max()),
        "pairs": len(pairs["user"]),
        "recall": _recall(snapshot.vectors_of(merged), vectors, pairs),
        "recall_full": _recall(snapshot.vectors_of(full), vectors, pairs),
        "recall_stale": _recall(stale, vectors, pairs),
    }


def _aligned(old: pa.Table, new: pa.Table) -> np.ndarray:
    """float32 [U, D]: old vectors in the order of the new users; NaN for those without."""
    import pyarrow.compute as pc

    row = pc.index_in(new["user_id"], old["user_id"]).to_numpy()  # NaN: not there
    vectors = snapshot.vectors_of(old)[np.nan_to_num(row).astype(np.int64)]
    return np.where(np.isnan(row.astype(np.float64))[:, None], np.float32("nan"), vectors)


def _recall(users: np.ndarray, items: np.ndarray, pairs: dict[str, np.ndarray]) -> float:
    """Share of the pairs whose item is among the user's 10 nearest; NaN without any pair."""
    wanted, row = np.unique(pairs["user"], return_inverse=True)
    if not len(wanted):
        return float("nan")
    queries = users[wanted]
    known = ~np.isnan(queries[:, 0])
    nearest = exact.search(np.nan_to_num(queries), items, min(RECALL_K, len(items)))[1]
    hit = (nearest[row] == pairs["item"][:, None]).any(axis=1) & known[row]
    return float(hit.mean())


def draw(lines: list[ReplayDay], title: str, file: Path) -> None:
    """Wall time and recall by day, as a PNG."""
    from matplotlib.figure import Figure

    days = [line.date[5:] for line in lines]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    seconds, recall = figure.subplots(1, 2)
    for axes, series in (
        (seconds, (("full", "everyone", "s--"), ("incremental", "active users", "o-"))),
        (recall, (("recall_full", "all users", "s--"), ("recall", "merged", "o-"),
                  ("recall_stale", "vectors of the first day", "^:"))),
    ):  # fmt: skip
        for name, label, style in series:
            axes.plot(days, [getattr(line, name) for line in lines], style, label=label, markersize=4)
        axes.set_ylim(0, None)
        axes.tick_params(axis="x", rotation=60)
        axes.legend()
    seconds.set(ylabel="seconds of the job", title=title)
    recall.set(ylabel="Recall@10 of the days after")
    with atomic_path(file) as temporary:
        figure.savefig(temporary, dpi=150)


def _users(root: Path) -> pa.Table:
    return snapshot.read_parquet(root / str(state.current(root)) / "users.parquet")


def _day(first: str, number: int) -> str:
    return (datetime.date.fromisoformat(first) + datetime.timedelta(days=number)).isoformat()


def _silent(line: str) -> None:
    pass
