"""The same prepared folder as `ingest.prepare` writes, made in parts that may run anywhere and twice.

    scatter   a part a file of the log     its rows, mapped and checked, to a Parquet file for each shard
    merge     a part a shard               without duplicates
    split     one part                     rejects, actions, the time of the split
    count     a part a shard               users, and how many events each item, action and surface has
    number    one part                     the sums: numbers of items, actions and surfaces
    gather    a part a shard               the shard's timelines
    finish    one part                     the catalogue, the manifest, and the folder in its place

A user's shard is a hash of the id (`timeline_writer.shard_of_user`), so all that is told per user is told
within a shard. Each part reads the files of the stages before and writes a folder of its own below
PREPARED.parts/KEY, which appears by a rename: a part that ran is not run again, and of a part that runs twice
at once the first result stays. KEY is a checksum of the settings and of the size and time of each file, so
other inputs never meet old results.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pinnerformer_jax.config import Config, DataConfig
from pinnerformer_jax.config.by_log import SHARES, fill, shares_by_log
from pinnerformer_jax.config_files import to_dict
from pinnerformer_jax.data.catalog import catalog_path
from pinnerformer_jax.data.positives import positive_table
from pinnerformer_jax.data.timelines import Manifest, open_shard, shard_path, write_manifest
from pinnerformer_jax.files import atomic_folder, facts_of, link_or_copy, sync, with_checksum, write_json
from pinnerformer_jax.ingestion import catalog_writer, ingest, rejects, timeline_writer
from pinnerformer_jax.ingestion.engine import literal
from pinnerformer_jax.ingestion.log_reader import engine, log_files, parquet_files, restrict
from pinnerformer_jax.ingestion.split import choose_split

if TYPE_CHECKING:
    import duckdb

STAGES = ("scatter", "merge", "split", "count", "number", "gather", "finish")
"""In order: each needs all parts of those before it."""

_FACTS = "facts.json"


@dataclass(frozen=True)
class Job:
    """An ingest in parts."""

    config: Config
    files: tuple[Path, ...]  # of the log
    work: Path  # PREPARED.parts/KEY

    @classmethod
    def of(cls, config: Config) -> Job:
        """The job that a config asks for.

        Raises:
            FileNotFoundError: there is no such log.
            ValueError: a setting cannot be used.
        """
        from pinnerformer_jax import __version__

        data, prepared = config.data, ingest.target(config.data.prepared)
        if any(pattern.startswith("tfds:") for pattern in data.events):
            raise ValueError(
                "data.events: a tfds: data set is prepared by one process, without --engine or --stage"
            )
        files = log_files("data.events", data.events, prepared.parent)
        inputs = files + (
            log_files("items.table", [config.items.table], prepared.parent) if config.items.table else []
        )
        facts = {
            "version": __version__,
            "data": to_dict(dataclasses.replace(data, memory_limit=DataConfig.memory_limit)),
            "items": to_dict(config.items),
            "sizes_by_log": config.sizes_by_log,
            "files": [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in inputs],
        }
        return cls(
            config,
            tuple(files),
            prepared.with_name(f"{prepared.name}.parts") / with_checksum(facts)["sha256"][:16],
        )

    @property
    def prepared(self) -> Path:
        """The folder to write."""
        return ingest.target(self.config.data.prepared)

    def parts(self, stage: str) -> int:
        """How many parts a stage has."""
        of = {"scatter": len(self.files)} | dict.fromkeys(
            ("merge", "count", "gather"), self.config.data.shards
        )
        return of.get(stage, 1)

    def folder(self, stage: str, part: int) -> Path:
        """What a part writes."""
        return self.work / stage / f"{part:05d}"

    def facts(self, stage: str, part: int = 0) -> dict[str, Any] | None:
        """Counts of a part; None: it has not run."""
        file = self.folder(stage, part) / _FACTS
        return json.loads(file.read_text()) if file.is_file() else None

    def all_facts(self, stage: str) -> list[dict[str, Any]]:
        """Counts of all parts of a stage.

        Raises:
            ValueError: one has not run.
        """
        found = [self.facts(stage, part) for part in range(self.parts(stage))]
        if missing := [part for part, facts in enumerate(found) if facts is None]:
            raise ValueError(
                f"{self.work}: {len(missing)} of {len(found)} parts of --stage {stage} have not run with "
                f"this log and these settings, such as part {missing[0]}: run that stage first"
            )
        return [facts for facts in found if facts is not None]

    def here(self, stage: str, name: str) -> list[Path]:
        """The files of a name of all parts of a stage."""
        return [self.folder(stage, part) / name for part in range(self.parts(stage))]


class Task(NamedTuple):
    """A part that runs, and where."""

    connection: duckdb.DuckDBPyConnection
    part: int  # its number
    out: Path  # folder for what it makes
    scratch: Path  # for its copies
    report: Callable[[str], None]


def run_part(job: Job, stage: str, part: int, limit: str, threads: int | None = None) -> dict[str, Any]:
    """Run a part, if it has not run; its counts, and under "said" what to show.

    Args:
        job: the ingest.
        stage: one of STAGES.
        part: its number.
        limit: memory of the engine, as data.memory_limit.
        threads: of the engine; None: one a core.

    Raises:
        ValueError: the log or a setting cannot be used, or a stage before has not run to its end.
    """
    if (facts := job.facts(stage, part)) is not None:
        return facts
    said: list[str] = []
    folder = job.folder(stage, part)
    with _output(folder) as out, _engine(job, folder, limit, threads) as (connection, scratch):
        facts = _RUN[stage](job, Task(connection, part, out, scratch, said.append)) | {"said": said}
        write_json(out / _FACTS, facts)
    return facts


def finish(job: Job, limit: str, report: Callable[[str], None] = print) -> Manifest:
    """Write the prepared folder from the parts, and remove them.

    Raises:
        ValueError: a stage before has not run to its end, or the log cannot be used or was changed meanwhile.
    """
    if Job.of(job.config) != job:
        raise ValueError(
            f"the log of {job.work} was changed since its parts were begun: run the same command again"
        )
    failed = job.prepared.with_name(f"{job.prepared.name}.rejects.parquet")
    with (
        _engine(job, job.folder("finish", 0), limit, None) as (connection, scratch),
        atomic_folder(job.prepared) as folder,
    ):
        manifest = _finish(job, connection, folder, scratch, report)
        manifest = dataclasses.replace(manifest, files=facts_of(folder))
        write_manifest(folder, manifest)
    failed.unlink(missing_ok=True)  # of an earlier attempt
    shutil.rmtree(job.work.parent, ignore_errors=True)
    return manifest


def share_memory(limit: str, workers: int) -> str:
    """A worker's share of data.memory_limit."""
    return re.sub(r"[\d.]+", lambda number: f"{float(number[0]) / workers:.3f}", limit)


@contextlib.contextmanager
def _output(folder: Path) -> Generator[Path, None, None]:
    """A temporary folder; takes its place, synced, if the block ends without an error, unless it is taken."""
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.tmp")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for inner in temporary.rglob("*"):
            sync(inner)
        try:
            os.rename(temporary, folder)
        except OSError:
            if not (folder / _FACTS).is_file():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _engine(
    job: Job, folder: Path, limit: str, threads: int | None
) -> Generator[tuple[duckdb.DuckDBPyConnection, Path], None, None]:
    """A connection, and a folder for its copies and what it spills."""
    scratch = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.work")
    scratch.mkdir(parents=True)
    try:
        with engine(scratch / "log.duckdb", limit, job.work) as connection:
            ingest.set_up_engine(connection, limit, scratch)
            connection.execute("SET enable_progress_bar = false")  # of many engines on one terminal
            if threads:
                connection.execute(f"SET threads = {threads}")
            yield connection, scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _copy(connection: duckdb.DuckDBPyConnection, query: str, file: Path, options: str = "") -> None:
    connection.execute(f"COPY ({query}) TO {literal(file)} (FORMAT parquet{options})").fetchall()


def _scatter(job: Job, task: Task) -> dict[str, Any]:
    connection = task.connection
    item_type = ingest.stage_log(connection, job.config, task.scratch, job.work, task.part)
    good = "FROM staged WHERE in_scope AND reason IS NULL"
    _copy(connection, "FROM staged WHERE reason IS NOT NULL", task.out / "rejected.parquet")
    _copy(connection, "FROM staged LIMIT 0", task.out / "shape.parquet")
    shard = timeline_writer.shard_of_user(job.config.data.shards)
    _copy(connection, f"SELECT *, {shard} AS shard {good}", task.out / "rows", ", PARTITION_BY (shard)")
    rows, in_scope = connection.execute("SELECT count(*), count(*) FILTER (in_scope) FROM staged").fetchall()[
        0
    ]
    return {"rows": rows, "in_scope": in_scope, "item_type": item_type}


def _merge(job: Job, task: Task) -> dict[str, Any]:
    connection = task.connection
    job.all_facts("scatter")
    files = [job.folder("scatter", 0) / "shape.parquet"]
    for folder in job.here("scatter", f"rows/shard={task.part}"):
        files += sorted(folder.glob("*.parquet"))
    connection.execute(f"CREATE TABLE staged AS FROM {parquet_files(files)}")
    rejects.mark_duplicates(connection)
    _copy(connection, "FROM staged WHERE reason IS NOT NULL", task.out / "rejected.parquet")
    facts = "user_id, item_id, micros, action, surface, duration, title, topic"
    _copy(connection, f"SELECT {facts} FROM staged WHERE reason IS NULL", task.out / "events.parquet")
    return {"rows": _one(connection, "SELECT count(*) FROM staged WHERE reason IS NULL")}


def _split(job: Job, task: Task) -> dict[str, Any]:
    connection = task.connection
    data, scattered = job.config.data, job.all_facts("scatter")
    job.all_facts("merge")
    rejected = job.here("scatter", "rejected.parquet") + job.here("merge", "rejected.parquet")
    connection.execute(
        f"CREATE VIEW staged AS FROM {parquet_files(rejected)} "
        f"UNION ALL BY NAME {_good(job.here('merge', 'events.parquet'))}"
    )
    counts = {
        "rows": sum(facts["rows"] for facts in scattered),
        "in_scope": sum(facts["in_scope"] for facts in scattered),
        "rejected": rejects.count(connection),
    }
    failed = job.prepared.with_name(f"{job.prepared.name}.rejects.parquet")
    file = task.out / "rejects.parquet"
    ingest.set_rejects_aside(connection, data, counts["rejected"], counts["in_scope"], file, failed)
    ingest.accept(connection, data)
    counts["accepted"] = ingest.check_actions(connection, data)
    split, end = choose_split(connection, data, task.report)
    return counts | {"split": split, "end": end}


def _count(job: Job, task: Task) -> dict[str, Any]:
    connection = task.connection
    split = _open_shard(job, connection, task.part, job.config.data)
    _copy(connection, catalog_writer.seen_items(split), task.out / "items.parquet")
    for kind in ("action", "surface"):
        _copy(connection, timeline_writer.count_names(kind), task.out / f"{kind}.parquet")
    return {
        "rows": _one(connection, "SELECT count(*) FROM usable"),
        "users": _one(connection, "SELECT count(*) FROM users"),
        "events": _one(connection, "SELECT count(*) FROM events"),
    }


def _number(job: Job, task: Task) -> dict[str, Any]:
    connection = task.connection
    config, counted = job.config, job.all_facts("count")
    data, facts = config.data, {}
    users = sum(of["users"] for of in counted)
    if config.sizes_by_log:
        data = fill(data, shares_by_log(users))
        task.report(
            f"sizes by the log, {users:,} users: data.evaluation_share {data.evaluation_share:g}, "
            f"data.validation_share {data.validation_share:g}"
        )
    facts["shares"] = {name: getattr(data, name) for name in SHARES}
    for kind in ("action", "surface"):
        files = parquet_files(job.here("count", f"{kind}.parquet"))
        sums = f"SELECT {kind}, sum(n)::BIGINT AS n FROM {files} GROUP BY {kind}"
        facts[f"{kind}s"] = timeline_writer.name_ids(connection, kind, data.positives, sums)
    _read_item_table(job, connection, task.scratch)
    seen = catalog_writer.sum_seen(parquet_files(job.here("count", "items.parquet")))
    catalog_writer.number_items(connection, seen, config.items.without_events)
    if config.items.table:
        facts["item_table"] = catalog_writer.item_table_counts(connection)
        if users and (warning := catalog_writer.check_overlap(connection, config.items.table)):
            task.report(warning)
    _copy(connection, "FROM items ORDER BY number", task.out / "items.parquet")
    facts["items"], facts["trained_items"] = connection.execute(
        "SELECT count(*), count(*) FILTER (trained) FROM items"
    ).fetchall()[0]
    return facts | {"rows": facts["items"]}


def _gather(job: Job, task: Task) -> dict[str, Any]:
    connection = task.connection
    [numbers] = job.all_facts("number")
    data = dataclasses.replace(job.config.data, **numbers["shares"])
    split = _open_shard(job, connection, task.part, data)
    connection.execute(f"CREATE VIEW items AS FROM {parquet_files(job.here('number', 'items.parquet'))}")
    for kind in ("action", "surface"):
        names = numbers[f"{kind}s"][1:]
        connection.execute(
            f"CREATE TABLE {kind}_ids AS SELECT unnest({literal(names)}::VARCHAR[]) AS {kind}, "
            f"unnest(range(1, {len(names) + 1})) AS id"
        )
    table = positive_table(data.positives, numbers["actions"], numbers["surfaces"])
    facts = ingest.count_users(connection, split) | ingest.count_unknown(connection)
    facts["positives"] = timeline_writer.write_shards(connection, task.out, [task.part], table)
    return facts | {"rows": _one(connection, "SELECT count(*) FROM events")}


def _finish(
    job: Job,
    connection: duckdb.DuckDBPyConnection,
    folder: Path,
    scratch: Path,
    report: Callable[[str], None],
) -> Manifest:
    [found], [numbers] = job.all_facts("split"), job.all_facts("number")
    data = dataclasses.replace(job.config.data, **numbers["shares"])
    sums: Counter[str] = Counter()
    for facts in job.all_facts("gather"):
        sums.update({name: value for name, value in facts.items() if name != "said"})
    usable = sum(facts["rows"] for facts in job.all_facts("count"))
    good = found["in_scope"] - sum(found["rejected"].values())
    counts: dict[str, Any] = {
        "rows": found["rows"],
        "out_of_scope": found["rows"] - found["in_scope"],
        "rejected": found["rejected"],
        "other_actions": good - found["accepted"],
        "after_window": found["accepted"] - usable,
        "events": sums["rows"],
        "of_small_users": usable - sums["rows"],
    }
    counts |= ingest.check_users(data, found["split"], sums)
    counts |= {name: sums[name] for name in ("unknown_actions", "unknown_surfaces")}
    counts |= {name: numbers[name] for name in ("item_table", "items", "trained_items") if name in numbers}
    counts["positives"] = sums["positives"]
    ingest.check_positives(data, counts["positives"])
    link_or_copy(job.folder("split", 0) / "rejects.parquet", folder / "rejects.parquet")
    for shard in range(data.shards):
        source = shard_path(job.folder("gather", shard), shard)
        shutil.copytree(source, shard_path(folder, shard), copy_function=link_or_copy)
    _read_item_table(job, connection, scratch)
    connection.execute(f"CREATE TABLE items AS FROM {parquet_files(job.here('number', 'items.parquet'))}")
    shards = [open_shard(folder, shard) for shard in range(data.shards)]
    # `restrict` lets the engine write below `work` alone: the catalogue is moved from there.
    made = scratch / "catalog"
    reachable = catalog_writer.write_catalog(connection, job.config.items, shards, made, report)
    shutil.move(made, catalog_path(folder))
    counts["unreachable_items"] = int((~reachable).sum())
    return Manifest(
        actions=numbers["actions"],
        surfaces=numbers["surfaces"],
        split_time=found["split"],
        evaluation_end=found["end"],
        shards=data.shards,
        counts=counts,
        config={"data": to_dict(data), "items": to_dict(job.config.items)},
        files={},
    )


def _good(files: Sequence[Path]) -> str:
    return f"SELECT *, true AS in_scope, NULL::VARCHAR AS reason FROM {parquet_files(files)}"


def _open_shard(job: Job, connection: duckdb.DuckDBPyConnection, part: int, data: DataConfig) -> int:
    """Create `usable`, `users` and `events` of a shard; t."""
    [found] = job.all_facts("split")
    events = job.folder("merge", part) / "events.parquet"
    connection.execute(f"CREATE VIEW staged AS {_good([events])}")
    ingest.accept(connection, data)
    ingest.up_to(connection, found["end"])
    timeline_writer.number_users(connection, data, found["split"])
    connection.execute("CREATE VIEW events AS FROM usable SEMI JOIN users USING (user_id)")
    return found["split"]


def _read_item_table(job: Job, connection: duckdb.DuckDBPyConnection, scratch: Path) -> None:
    files = catalog_writer.open_item_files(connection, job.config.items, scratch / "items")
    restrict(connection, files, [job.work])
    item_type = job.all_facts("scatter")[0]["item_type"]
    catalog_writer.read_item_table(connection, job.config.items, item_type)


def _one(connection: duckdb.DuckDBPyConnection, query: str) -> int:
    return connection.execute(query).fetchall()[0][0]


_RUN: dict[str, Callable[[Job, Task], dict[str, Any]]] = {
    "scatter": _scatter,
    "merge": _merge,
    "split": _split,
    "count": _count,
    "number": _number,
    "gather": _gather,
}
