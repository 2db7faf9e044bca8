"""What a part of each stage does; part_job.py says what the stages are, part_items.py does two of them."""

from __future__ import annotations

import dataclasses
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pinnerformer_jax.config import DataConfig
from pinnerformer_jax.config.by_log import SHARES, fill, shares_by_log
from pinnerformer_jax.config_files import to_dict
from pinnerformer_jax.data.catalog import catalog_path
from pinnerformer_jax.data.positives import positive_table
from pinnerformer_jax.data.timelines import Manifest, open_shard, shard_path
from pinnerformer_jax.files import link_or_copy
from pinnerformer_jax.ingestion import (
    catalog_writer,
    event_mapping,
    ingest,
    item_reader,
    part_items,
    rejects,
    timeline_writer,
)
from pinnerformer_jax.ingestion.engine import literal
from pinnerformer_jax.ingestion.log_reader import open_log, parquet_files, restrict
from pinnerformer_jax.ingestion.part_job import Job, Task
from pinnerformer_jax.ingestion.split import choose_split

if TYPE_CHECKING:
    import duckdb


def _copy(connection: duckdb.DuckDBPyConnection, query: str, file: Path, options: str = "") -> None:
    connection.execute(f"COPY ({query}) TO {literal(file)} (FORMAT parquet{options})").fetchall()


def _scatter(job: Job, task: Task) -> dict[str, Any]:
    connection, data = task.connection, job.config.data
    part = job.log[task.part]
    files = open_log(connection, "log", "data.events", data.events, task.scratch / "log", data.csv, part)
    restrict(connection, files, [job.work])
    item_type = ingest.type_of_items(connection, data)
    part_items.open_item_table(job, connection, item_type)
    event_mapping.stage(connection, "log", data, "item_table" if job.config.items.vector else None)
    good = "FROM staged WHERE in_scope AND reason IS NULL"
    _copy(connection, "FROM staged WHERE reason IS NOT NULL", task.out / "rejected.parquet")
    _copy(connection, "FROM staged LIMIT 0", task.out / "shape.parquet")
    shard = timeline_writer.shard_of_user(data.shards)
    _copy(connection, f"SELECT *, {shard} AS shard {good}", task.out / "rows", ", PARTITION_BY (shard)")
    [(rows, in_scope)] = connection.execute(
        "SELECT count(*), count(*) FILTER (in_scope) FROM staged"
    ).fetchall()
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
    part_items.open_item_table(job, connection, job.all_facts("scatter")[0]["item_type"])
    seen = catalog_writer.sum_seen(parquet_files(job.here("count", "items.parquet")))
    catalog_writer.number_items(connection, seen, config.items.without_events)
    if config.items.table:
        [of_table] = job.all_facts("table")
        facts["item_table"] = {name: of_table[name] for name in ("rows", "unusable_ids", "unusable_id")}
        facts["item_table"]["in_log"] = item_reader.rows_in_log(connection)
        if users and (warning := item_reader.check_overlap(connection, config.items.table)):
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


def write_prepared(
    job: Job,
    connection: duckdb.DuckDBPyConnection,
    folder: Path,
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
    part_items.open_item_table(job, connection, job.all_facts("scatter")[0]["item_type"])
    connection.execute(f"CREATE TABLE items AS FROM {parquet_files(job.here('number', 'items.parquet'))}")
    shards = [open_shard(folder, shard) for shard in range(data.shards)]
    reachable = catalog_writer.write_catalog(
        connection,
        job.config.items,
        shards,
        catalog_path(folder),
        report,
        partial(part_items.write_vectors, job),
    )
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


def _one(connection: duckdb.DuckDBPyConnection, query: str) -> int:
    return connection.execute(query).fetchall()[0][0]


RUN: dict[str, Callable[[Job, Task], dict[str, Any]]] = {
    "items": part_items.items,
    "table": part_items.table,
    "scatter": _scatter,
    "merge": _merge,
    "split": _split,
    "count": _count,
    "number": _number,
    "gather": _gather,
}
