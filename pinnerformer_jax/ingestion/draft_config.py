"""From a log to the draft of its config: look at the files, choose, and try the choices as ingest would.

Columns are looked at in a sample of rows. What decides a setting for all rows (dates, guests, actions, ids of
the item table) is counted in all of them. Ingest's own steps then try the choices: on all users of a log of
up to `TRIAL` rows, on every k-th user of a larger one. What ingest says goes into the draft.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pinnerformer_jax.config import Config, CsvConfig, DataConfig, ItemsConfig
from pinnerformer_jax.data.contracts import DAY, format_time
from pinnerformer_jax.ingestion import column_names, event_mapping, item_reader, kinds, rejects
from pinnerformer_jax.ingestion.csv_reader import NOT_UTF8
from pinnerformer_jax.ingestion.draft import CHECK, EDIT, Draft
from pinnerformer_jax.ingestion.draft_actions import choose_actions
from pinnerformer_jax.ingestion.draft_columns import (
    check_item_codes,
    choose_duration,
    choose_ids,
    choose_scope,
    choose_surface,
    choose_time,
    choose_titles,
)
from pinnerformer_jax.ingestion.draft_items import choose_items
from pinnerformer_jax.ingestion.engine import BROKEN
from pinnerformer_jax.ingestion.ingest import set_up_engine
from pinnerformer_jax.ingestion.log_profile import Facts, check_header, encoding_of, profile
from pinnerformer_jax.ingestion.log_reader import engine, log_files, open_log

if TYPE_CHECKING:
    import duckdb

TRIAL = 1_000_000
"""Rows that the choices are tried on, up to twice as many."""

_KNOWN = (*column_names.USER, *column_names.ITEM, *column_names.TIME)


def draft_config(
    name: str,
    events: Sequence[str],
    table: str,
    prepared: str,
    work: Path,
    report: Callable[[str], None] = lambda line: None,
) -> Draft:
    """Choose the settings of a log.

    Args:
        name: of the config.
        events: files of the log, or globs.
        table: file of the items; "": none.
        prepared: for data.prepared.
        work: an empty folder for copies of CSV files and for what the engine spills.
        report: called with a line at the end of each stage.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file is no log: of no known kind, without a header, empty, or damaged.
    """
    draft = Draft(name)
    limit = DataConfig().memory_limit
    with engine(work / "log.duckdb", limit, work) as connection:
        set_up_engine(connection, limit, work)
        columns = _open(connection, draft, "log", "data", events, work / "events", report)
        draft.choose("data.events", tuple(events), draft.seen[0])
        draft.choose("data.prepared", prepared, "the folder that ingest writes")
        choose_ids(draft, columns)
        form = choose_time(connection, "log", draft, columns)
        choose_scope(connection, "log", draft, columns)
        check_item_codes(connection, "log", draft, columns)
        report("chose the columns of user, item and time")
        choose_actions(connection, "log", draft, columns)
        choose_surface(draft, columns)
        choose_duration(draft, columns)
        report("chose actions and positives")
        if table:
            _draft_items(connection, draft, table, work)
            report("looked at the item table")
        choose_titles(draft, columns, bool(draft.value("items.table")))
        if form is not None and not draft.marked(EDIT):
            _try(connection, draft, columns)
            report("tried the settings")
    return draft


def _open(
    connection: duckdb.DuckDBPyConnection,
    draft: Draft,
    relation: str,
    section: str,
    patterns: Sequence[str],
    folder: Path,
    report: Callable[[str], None] = lambda line: None,
) -> list[Facts]:
    """Open the files as `relation`, profiled, and choose the encoding."""
    folder.mkdir(parents=True, exist_ok=True)
    setting = "data.events" if section == "data" else "items.table"
    for pattern in patterns:  # a better word than that of an unknown kind
        if Path(pattern).is_file():
            check_header(Path(pattern), "utf-8", _KNOWN)
    files = log_files(setting, patterns, folder)
    encoding = encoding_of(files)
    for file in files:
        check_header(file, encoding, _KNOWN)
    open_log(connection, relation, setting, patterns, folder, CsvConfig(encoding=encoding))
    [(rows, broken, odd)] = connection.execute(
        f"SELECT count(*), count({BROKEN}), count(*) FILTER ({BROKEN} LIKE '{NOT_UTF8 % '%'}%') FROM "
        f"{relation}"
    ).fetchall()
    if odd and encoding == "utf-8":  # behind the part that was looked at
        encoding = "cp1252"
        connection.execute(f"DROP VIEW {relation}")
        open_log(connection, relation, setting, patterns, folder, CsvConfig(encoding=encoding))
        [(rows, broken)] = connection.execute(f"SELECT count(*), count({BROKEN}) FROM {relation}").fetchall()
    if rows == broken:
        raise ValueError(f"{setting}: {' '.join(patterns)} has no row that can be read")
    columns = profile(connection, relation)
    if len(columns) == 1:
        raise ValueError(
            f"{setting}: {files[0]} has one column, {columns[0].name!r}: fields must be separated by "
            "comma, tab, "
            "semicolon or bar"
        )
    if encoding != "utf-8":
        odd_text = next(
            (value for c in columns for value in [c.name, *c.frequent] if not value.isascii()),
            "none in the sample",
        )
        draft.choose(
            f"{section}.csv.encoding", encoding,
            "UTF-16 by its first bytes" if encoding == "utf-16" else
            f"the file is not UTF-8. Does this text look right: {odd_text!r}?",
            "" if encoding == "utf-16" else CHECK, ['"latin-1"', '"cp1250"', '"shift-jis"'],
        )  # fmt: skip
    what = "the log" if section == "data" else "the item table"
    lines = f"{what}: {len(files):,} file{'s' if len(files) > 1 else ''}, {rows:,} rows"
    if broken:
        lines += f", of which {broken:,} are broken lines, which ingest sets aside"
    draft.seen.append(lines)
    report(f"read {rows:,} rows")
    return columns


def _draft_items(connection: duckdb.DuckDBPyConnection, draft: Draft, table: str, work: Path) -> None:
    columns = _open(connection, draft, "item_files", "items", [table], work / "items")
    item = draft.value("data.columns.item")
    if not item:
        draft.choose(
            "items.table", "",
            f"{table} is left out, as the item of the log is not known. Write data.columns.item, and "
            "table and id "
            "here", CHECK, [f"table={table!r}, id=..."],
        )  # fmt: skip
        return
    sql, kind = event_mapping.bind_id(connection, "log", "data.columns.item", item)
    connection.execute(
        f"CREATE TABLE log_items AS SELECT DISTINCT item_id FROM (SELECT {sql} AS item_id FROM log "
        f"WHERE {BROKEN} IS NULL) WHERE item_id IS NOT NULL AND trim(CAST(item_id AS VARCHAR)) <> ''"
    )
    choose_items(connection, draft, table, columns, kind)
    if not draft.value("items.table"):
        return
    chosen = ItemsConfig(**draft.section("items"), csv=CsvConfig(**draft.section("items.csv")))
    try:
        item_reader.read_item_table(connection, chosen, kind)
    except ValueError as error:
        for setting in [s for s in draft.choices if s.startswith("items.")]:
            del draft.choices[setting]
        draft.choose("items.table", "", f"{table} is left out, as ingest refuses it: {error}", CHECK)


def _try(connection: duckdb.DuckDBPyConnection, draft: Draft, columns: Sequence[Facts]) -> None:
    """Map rows as ingest does; add what it says, counts, and the settings that follow from them."""
    config = draft.config()
    step = _sample_users(connection, config)
    try:
        kinds.check_ids(connection, "trial", config.data)
        event_mapping.stage(connection, "trial", config.data, "item_table" if config.items.vector else None)
    except ValueError as error:
        setting = next((s for s in draft.choices if f"{s} " in str(error) or f"{s}:" in str(error)), "")
        if not setting:
            raise
        draft.choose(setting, "", f"ingest refuses {draft.value(setting)!r}: {error}", EDIT)
        return
    rejects.mark_duplicates(connection)
    [(scoped,)] = connection.execute("SELECT count(*) FILTER (in_scope) FROM staged").fetchall()
    rejected = rejects.count(connection)
    _choose_rejects(draft, rejected, scoped)
    good = "FROM staged WHERE in_scope AND reason IS NULL"
    [(events, users, items, pairs, first, last, end)] = connection.execute(
        "SELECT count(*), count(DISTINCT user_id), count(DISTINCT item_id), count(DISTINCT (user_id, "
        "item_id)), "
        f"quantile_disc(micros, 0.005), quantile_disc(micros, 0.995), max(micros) {good}"
    ).fetchall()
    if not events:
        return
    about = f"of one user in {step:,}: " if step > 1 else ""
    days = (last - first) / (DAY * 10**6)
    draft.seen.append(
        f"{about}{users:,} users, {items:,} items, {events:,} usable events, "
        f"99 % of them from {format_time(first // 10**6)} to {format_time(last // 10**6)}"
    )
    draft.seen.append(
        f"{1 - pairs / events:.1%} of the events repeat an item that the user had before"
        + (": priors of own counts will matter" if pairs < 0.7 * events else "")
    )
    if users < 20:
        draft.add("data.columns.user", f"There are {users} users, too few to learn from", CHECK)
    _choose_evaluation(draft, days)
    _look_at_end(draft, end)


def _sample_users(connection: duckdb.DuckDBPyConnection, config: Config) -> int:
    """Create the relation `trial` of the rows of every k-th user; k."""
    [(rows,)] = connection.execute("SELECT count(*) FROM log").fetchall()
    step = max(1, rows // TRIAL)
    user, _ = event_mapping.bind(connection, "log", "data.columns.user", config.data.columns.user)
    condition = f"WHERE hash({user}) % {step} = 0" if step > 1 else ""
    connection.execute(f"CREATE VIEW trial AS FROM log {condition}")
    for part in ("columns", "shape"):
        connection.execute(f"CREATE TABLE trial_{part} AS FROM log_{part}")
    return step


def _choose_rejects(draft: Draft, rejected: dict[str, int], rows: int) -> None:
    """Say which rows ingest would reject; raise its limit where it would stop at exact duplicates."""
    if not rejected or not rows:
        return
    share = sum(rejected.values()) / rows
    counts = ", ".join(f"{reason}: {n:,} rows ({n / rows:.1%})" for reason, n in rejected.items())
    usual = DataConfig().max_reject_share
    draft.seen.append(f"ingest would reject {share:.1%} of the rows ({counts})")
    if share < 0.8 * usual:
        return
    bad = share - rejected.get(rejects.DUPLICATE, 0) / rows
    reasons = "; ".join(f"{reason}: {rejects.REASONS[reason]}" for reason in rejected)
    if bad > 0.5:
        draft.choose("data.max_reject_share", usual, f"{counts}. Ingest will stop. {reasons}", CHECK)
        return
    allowed = min(math.ceil(20 * share + 1) / 20, 1.0)
    draft.choose(
        "data.max_reject_share", allowed,
        f"ingest rejects {share:.1%} of the rows ({counts}), and would stop at its usual {usual:g}. "
        f"{reasons}",
        CHECK if bad > 0.01 else "",
    )  # fmt: skip


def _choose_evaluation(draft: Draft, days: float) -> None:
    usual = DataConfig().evaluation_days
    if days >= 4 * usual:
        return
    if days < 2:
        draft.choose(
            "data.evaluation_days", max(round(days / 4, 2), 0.01),
            f"the log has {days:.1f} days, too few to say what people do later", CHECK,
        )  # fmt: skip
        return
    chosen = float(max(1, round(days / 4)))
    draft.choose(
        "data.evaluation_days",
        chosen,
        f"a quarter of the log, which has {days:.1f} days (usual are {usual:g})",
    )


def _look_at_end(draft: Draft, end: int) -> None:
    import time

    if end / 10**6 > time.time() + DAY:
        draft.add(
            "data.columns.time",
            f"The last event is of {format_time(end // 10**6)}, in the future: wrong clocks? "
            "data.time_max rejects "
            "them", CHECK,
        )  # fmt: skip
