"""Event log -> prepared timelines and catalogue.

DuckDB does all work that grows with the log. It keeps to data.memory_limit and spills to disk beside the
prepared folder. event_mapping.py checks and maps rows, timeline_writer.py chooses users, roles and order, and
catalog_writer.py writes the items. The same log and settings give the same bytes.
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pinnerformer_jax.config import Config, DataConfig
from pinnerformer_jax.config.by_log import fill, shares_by_log
from pinnerformer_jax.config_files import to_dict
from pinnerformer_jax.data.catalog import catalog_path
from pinnerformer_jax.data.contracts import format_time
from pinnerformer_jax.data.positives import MAX_NAMES, positive_table
from pinnerformer_jax.data.timelines import (
    EVALUATION,
    ROLES,
    Manifest,
    open_shard,
    write_manifest,
)
from pinnerformer_jax.files import atomic_folder, facts_of
from pinnerformer_jax.ingestion import (
    catalog_writer,
    event_mapping,
    item_reader,
    kinds,
    rejects,
    timeline_writer,
)
from pinnerformer_jax.ingestion.log_reader import engine, first_line, literal, open_log, restrict
from pinnerformer_jax.ingestion.split import choose_split

if TYPE_CHECKING:
    import duckdb


_GOOD = "staged WHERE in_scope AND reason IS NULL"


def prepare(config: Config, report: Callable[[str], None] = print) -> Manifest:
    """Write the folder config.data.prepared from the log config.data.events.

    Args:
        config: its data and items sections are used.
        report: called with a line at the end of each stage, and with warnings.

    Returns:
        The manifest. Its `counts` account for every row:
        rows = out_of_scope + the sum of rejected {reason: rows} + other_actions (not in sequence_actions)
        + after_window (later than the evaluation window: never stored) + of_small_users + events (stored).
        Of the events: positives, unknown_actions, unknown_surfaces. Of users: small_users,
        users {role: users}, evaluated_users (evaluation users with events in the window).
        Of items: items, trained_items, unreachable_items (without a vector).
        Of items.table, if one is named: item_table {rows, in_log (of items with stored events), unusable_ids,
        unusable_id (an example)}.

    Raises:
        FileNotFoundError: there is no such log.
        ValueError: the log or a setting cannot be used; the message names it and the fix.
    """

    prepared = target(config.data.prepared)
    failed = prepared.with_name(f"{prepared.name}.rejects.parquet")
    with atomic_folder(prepared) as folder:
        work = folder / "work"
        work.mkdir()
        limit = config.data.memory_limit
        with engine(work / "log.duckdb", limit, prepared) as connection:
            set_up_engine(connection, limit, work)
            manifest = _prepare(connection, config, folder, work, failed, _timed(report))
        shutil.rmtree(work)
        manifest = dataclasses.replace(manifest, files=facts_of(folder))
        write_manifest(folder, manifest)
    failed.unlink(missing_ok=True)  # of an earlier attempt
    return manifest


def _prepare(
    connection: duckdb.DuckDBPyConnection,
    config: Config,
    folder: Path,
    work: Path,
    failed: Path,
    report: Callable[[str], None],
) -> Manifest:
    data, counts = config.data, {}
    _stage_log(connection, config, work, folder)
    rejects.mark_duplicates(connection)
    counts["rows"], in_scope = _row(connection, "SELECT count(*), count(*) FILTER (in_scope) FROM staged")
    counts["out_of_scope"] = counts["rows"] - in_scope
    counts["rejected"] = rejects.count(connection)
    report(f"read {counts['rows']:,} rows")
    set_rejects_aside(connection, data, counts["rejected"], in_scope, folder / "rejects.parquet", failed)

    accept(connection, data)
    accepted = check_actions(connection, data)
    counts["other_actions"] = in_scope - sum(counts["rejected"].values()) - accepted
    split, end = choose_split(connection, data, report)
    up_to(connection, end)
    counts["after_window"] = accepted - _row(connection, "SELECT count(*) FROM usable")[0]
    if config.sizes_by_log:
        users = timeline_writer.count_users(connection, data.min_user_events, split)
        data = fill(data, shares_by_log(users))
        report(
            f"sizes by the log, {users:,} users: data.evaluation_share {data.evaluation_share:g}, "
            f"data.validation_share {data.validation_share:g}"
        )
    timeline_writer.number_users(connection, data, split)
    connection.execute("CREATE VIEW events AS FROM usable SEMI JOIN users USING (user_id)")
    counts["events"] = _row(connection, "SELECT sum(events)::BIGINT FROM users")[0] or 0
    counts["of_small_users"] = accepted - counts["after_window"] - counts["events"]
    counts |= check_users(data, split, count_users(connection, split))
    report(f"chose {sum(counts['users'].values()):,} users with {counts['events']:,} events")

    actions = timeline_writer.name_ids(connection, "action", data.positives)
    surfaces = timeline_writer.name_ids(connection, "surface", data.positives)
    counts |= count_unknown(connection)
    catalog_writer.number_items(connection, catalog_writer.seen_items(split), config.items.without_events)
    if config.items.table:
        counts["item_table"] = item_reader.item_table_counts(connection)
        counts["item_table"]["in_log"] = item_reader.rows_in_log(connection)
        if warning := item_reader.check_overlap(connection, config.items.table):
            report(warning)
    counts["items"], counts["trained_items"] = _row(
        connection, "SELECT count(*), count(*) FILTER (trained) FROM items"
    )
    counts["positives"] = timeline_writer.write_shards(
        connection, folder, range(data.shards), positive_table(data.positives, actions, surfaces)
    )
    check_positives(data, counts["positives"])
    report(f"wrote {data.shards} shards")

    shards = [open_shard(folder, shard) for shard in range(data.shards)]
    reachable = catalog_writer.write_catalog(connection, config.items, shards, catalog_path(folder), report)
    counts["unreachable_items"] = int((~reachable).sum())
    report(f"wrote the catalogue of {counts['items']:,} items")
    return Manifest(
        actions=actions,
        surfaces=surfaces,
        split_time=split,
        evaluation_end=end,
        shards=data.shards,
        counts=counts,
        config={"data": to_dict(data), "items": to_dict(config.items)},
        files={},
    )


def _stage_log(connection: duckdb.DuckDBPyConnection, config: Config, work: Path, folder: Path) -> None:
    """Create `staged`, see `event_mapping.stage`, and the item table, see `item_reader.read_item_table`.
    From then on the engine reads and writes nothing but their files and what is below `folder`, which holds
    `work`, a folder for copies."""
    data = config.data
    files = open_log(connection, "log", "data.events", data.events, work / "events", data.csv)
    files += item_reader.open_item_files(connection, config.items, work / "items")
    restrict(connection, files, [folder])
    item_reader.read_item_table(connection, config.items, type_of_items(connection, data))
    event_mapping.stage(connection, "log", data, "item_table" if config.items.vector else None)


def type_of_items(connection: duckdb.DuckDBPyConnection, data: DataConfig) -> str:
    """The type of the item ids of the relation `log`, whose ids are checked."""
    kinds.check_ids(connection, "log", data)
    return event_mapping.bind_id(connection, "log", "data.columns.item", data.columns.item)[1]


def target(setting: str) -> Path:
    """The folder to write, if it may be written."""
    if not setting:
        raise ValueError("data.prepared is empty: name the folder to write the timelines to")
    path = Path(setting)
    if path.exists() and not (
        path.is_dir() and ((path / "manifest.json").exists() or not any(path.iterdir()))
    ):
        raise ValueError(
            f"data.prepared = {setting!r} exists and is no prepared folder: name another, or remove it"
        )
    return path.resolve()


def set_up_engine(connection: duckdb.DuckDBPyConnection, limit: str, work: Path) -> None:
    """Bound the engine's memory, and let it show how far long steps are on a terminal."""
    import duckdb

    try:
        connection.execute(f"SET memory_limit = {literal(limit)}")
    except duckdb.Error as error:
        raise ValueError(f"data.memory_limit = {limit!r}: {first_line(error)}") from None
    connection.execute(f"SET temp_directory = {literal(work / 'spill')}")
    connection.execute(f"SET enable_progress_bar = {sys.stdout.isatty()}")


def _timed(report: Callable[[str], None]) -> Callable[[str], None]:
    """`report`, with the seconds since it was last called."""
    last = time.perf_counter()

    def timed(text: str) -> None:
        nonlocal last
        now = time.perf_counter()
        report(f"{text} ({now - last:.1f} s)")
        last = now

    return timed


def _row(connection: duckdb.DuckDBPyConnection, query: str) -> tuple[Any, ...]:
    return connection.execute(query).fetchone()


def set_rejects_aside(
    connection: duckdb.DuckDBPyConnection,
    data: DataConfig,
    rejected: dict[str, int],
    in_scope: int,
    file: Path,
    failed: Path,
) -> None:
    """Write the rejects to `file`; to `failed`, which outlives this run, if there are too many."""
    if not in_scope:
        raise ValueError(
            f"the log {' '.join(data.events)} is empty: it has no row"
            + (f" that meets data.where = {data.where!r}" if data.where else "")
        )
    rejects.write(connection, file)
    try:
        rejects.check_share(rejected, in_scope, data.max_reject_share, failed)
    except ValueError:
        shutil.move(file, failed)
        raise


def accept(connection: duckdb.DuckDBPyConnection, data: DataConfig) -> None:
    """Create the view `accepted`: good rows of `staged` of an action that enters the sequence."""
    chosen = ", ".join(literal(action) for action in data.sequence_actions)
    connection.execute(
        f"CREATE VIEW accepted AS FROM {_GOOD}" + (f" AND action IN ({chosen})" if chosen else "")
    )


def up_to(connection: duckdb.DuckDBPyConnection, end: int) -> None:
    """Create the view `usable`: accepted rows up to the last second of the evaluation window."""
    connection.execute(f"CREATE VIEW usable AS FROM accepted WHERE micros < {(end + 1) * 10**6}")


def check_actions(connection: duckdb.DuckDBPyConnection, data: DataConfig) -> int:
    """How many rows are accepted.

    Raises:
        ValueError: the log lacks an action that data.sequence_actions names, or has too many names.
    """
    present = f"SELECT action FROM {_GOOD} GROUP BY action ORDER BY count(*) DESC, action"
    known = [name for (name,) in connection.execute(f"{present} LIMIT 20").fetchall()]
    for action in data.sequence_actions:
        if not _row(connection, f"SELECT count(*) FROM ({present}) WHERE action = {literal(action)}")[0]:
            raise ValueError(f"data.sequence_actions: no action {action!r} in the log; it has {known}")
    accepted, names = _row(
        connection, "SELECT count(*), count(DISTINCT action) FILTER (action <> '') FROM accepted"
    )
    if names > MAX_NAMES:
        raise ValueError(
            f"data.columns.action has {names:,} different values, such as {known[:3]}; at most "
            f"{MAX_NAMES} can be told apart: choose with data.sequence_actions, or group "
            "them by an expression"
        )
    return accepted


def count_unknown(connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """Events whose action, or surface, has no number of its own."""
    return {
        f"unknown_{kind}s": _row(
            connection, f"SELECT count(*) FROM events ANTI JOIN {kind}_ids USING ({kind})"
        )[0]
        for kind in ("action", "surface")
    }


def check_positives(data: DataConfig, positives: int) -> None:
    """Refuse a log without a positive event."""
    if not positives:
        raise ValueError(f"no event meets any rule of data.positives = {data.positives}")


def count_users(connection: duckdb.DuckDBPyConnection, split: int) -> dict[str, int]:
    """Users of each role, everyone of `usable`, evaluation users with events after the split, and events of
    everyone after it."""
    of_role = dict(connection.execute("SELECT role, count(*) FROM users GROUP BY role").fetchall())
    return {name: of_role.get(role, 0) for name, role in ROLES.items()} | {
        "everyone": _row(connection, "SELECT count(DISTINCT user_id) FROM usable")[0],
        "evaluated": _row(
            connection, f"SELECT count(*) FROM users WHERE role = {EVALUATION} AND events > cut"
        )[0],
        "after": _row(connection, f"SELECT count(*) FROM usable WHERE micros >= {(split + 1) * 10**6}")[0],
    }


def check_users(data: DataConfig, split: int, found: dict[str, int]) -> dict[str, Any]:
    """Users by role, and how many were left out.

    Args:
        data: shares of the roles, fewest events.
        split: t, for messages.
        found: what `count_users` gives.

    Raises:
        ValueError: no user is left, or no user has a role that must not be empty.
    """
    users = {name: found[name] for name in ROLES}
    kept, everyone, evaluated = sum(users.values()), found["everyone"], found["evaluated"]
    if not kept:
        raise ValueError(
            f"none of {everyone:,} users has data.min_user_events = {data.min_user_events} events up to the "
            f"split, {format_time(split)}: lower it, or set a later data.split_time"
        )
    if not users["train"]:
        raise ValueError(
            f"no user is left to train: all {kept:,} fall into data.evaluation_share = "
            f"{data.evaluation_share} or data.validation_share = {data.validation_share}; lower them"
        )
    if data.evaluation_share and not evaluated:
        window = f"after the split, {format_time(split)} (all users have {found['after']:,})"
        raise ValueError(
            f"none of {users['evaluation']:,} evaluation users (of {kept:,}) has an event {window}: "
            "raise data.evaluation_share or data.evaluation_days, or set evaluation_share to 0 to do without"
        )
    return {"small_users": everyone - kept, "users": users, "evaluated_users": evaluated}
