"""The item table: which column has the log's ids, and which have titles, topics, texts and vectors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from pinnerformer_jax.ingestion import column_names
from pinnerformer_jax.ingestion.column_names import named
from pinnerformer_jax.ingestion.draft import CHECK, Draft
from pinnerformer_jax.ingestion.item_reader import exact_id
from pinnerformer_jax.ingestion.log_profile import Facts

if TYPE_CHECKING:
    import duckdb

_TRIED = 30
"""Columns that are tried for the id, at most."""

_TEXTS = 5
"""Further text columns that feed the item vectors, at most."""


class _Match(NamedTuple):
    column: Facts
    matched: int  # items of the log that it has
    repeated: int  # rows beyond one an item


class _Mended(NamedTuple):
    table_id: str  # for items.id
    log_id: str  # for data.columns.item
    reason: str


def choose_items(
    connection: duckdb.DuckDBPyConnection, draft: Draft, table: str, columns: Sequence[Facts], item_type: str
) -> None:
    """Choose the section items.

    Args:
        connection: where the tables `log_items` (item_id), the log's items, and `item_files`, profiled, are.
        draft: to add to.
        table: file or glob, as it was given.
        columns: of the item table.
        item_type: the engine's type of the log's ids.
    """
    [(items,)] = connection.execute("SELECT count(*) FROM log_items").fetchall()
    [(rows,)] = connection.execute("SELECT count(*) FROM item_files").fetchall()
    best = _best(connection, columns, item_type)
    if best is None or best.matched < 0.5 * items:
        mended = _mend(connection, draft, columns, item_type, items)
        if mended is None:
            _no_match(connection, draft, table, columns, best, items)
            return
        draft.choose("items.table", table, f"{rows:,} rows")
        of_log = mended.log_id != draft.value("data.columns.item")
        if of_log:
            draft.choose("data.columns.item", mended.log_id, mended.reason, CHECK)
        reason = "gives the log's ids, see data.columns.item" if of_log else mended.reason
        draft.choose("items.id", mended.table_id, reason, "" if of_log else CHECK)
        _choose_contents(connection, draft, columns, rows)
        return
    share = best.matched / max(items, 1)
    if best.repeated:
        draft.choose(
            "items.table", "",
            f"{table} is left out: {best.column.name} has an item in more than one row "
            f"({best.repeated:,} rows too "
            "many), and ingest takes one row an item. Write such a table", CHECK,
        )  # fmt: skip
        return
    reason = f"{best.matched:,} of the {items:,} items of the log ({share:.1%}) are in it"
    draft.choose("items.table", table, f"{rows:,} rows")
    draft.choose("items.id", best.column.name, reason, CHECK if share < 0.95 else "")
    _choose_contents(connection, draft, columns, rows)


def _best(connection: duckdb.DuckDBPyConnection, columns: Sequence[Facts], item_type: str) -> _Match | None:
    """The column with the most of the log's items; of equals the one that is called like an id."""
    first = named(columns, column_names.ITEM)
    last = [c for c in columns if c not in first and not c.kind.endswith(("]", ")")) and c.distinct > 1]
    best: _Match | None = None
    for column in [*first, *last][:_TRIED]:
        matched, rows, distinct = _matches(connection, exact_id(column.sql, column.kind, item_type))
        if matched and (best is None or matched > 1.2 * best.matched):
            best = _Match(column, matched, rows - distinct)
    return best


def _matches(
    connection: duckdb.DuckDBPyConnection, table_id: str, log_id: str = "item_id"
) -> tuple[int, int, int]:
    """Items of the log that the table has; rows of the table with an id; its different ids."""
    return connection.execute(
        f"""
        WITH ids AS MATERIALIZED (
            SELECT id FROM (SELECT {table_id} AS id FROM item_files) WHERE id IS NOT NULL
        )
        SELECT (SELECT count(*) FROM log_items WHERE {log_id} IN (FROM ids)),
            (SELECT count(*) FROM ids), (SELECT count(DISTINCT id) FROM ids)"""
    ).fetchone()


def _mend(
    connection: duckdb.DuckDBPyConnection,
    draft: Draft,
    columns: Sequence[Facts],
    item_type: str,
    items: int,
) -> _Mended | None:
    """Where ids differ by leading zeros, by `.0`, by blanks or by case alone: the setting to write."""
    if item_type != "VARCHAR":  # numbers: what reads as one was found
        return None
    log_item = draft.value("data.columns.item")
    plain = re.fullmatch(r"\w+", log_item)
    [(shortest, longest)] = connection.execute(
        "SELECT min(len(item_id)), max(len(item_id)) FROM log_items"
    ).fetchall()
    for column in [*named(columns, column_names.ITEM), *columns][:_TRIED]:
        if column.kind.endswith(("]", ")")):
            continue
        text = "{}" if column.kind == "VARCHAR" else "CAST({} AS VARCHAR)"
        [(short, long)] = connection.execute(
            f"SELECT min(len(t)), max(len(t)) FROM (SELECT {text.format(column.sql)} AS t FROM item_files) "
            "WHERE trim(t) <> ''"
        ).fetchall()
        ways = [
            (f"regexp_replace({text}, '[.]0$', '')", "{}", "without the .0 of a floating point number"),
            (f"trim({text})", "{}", "without the blanks around it"),
            (f"lower(trim({text}))", "{}", "in small letters"),
            (f"upper(trim({text}))", "{}", "in capital letters"),
        ]
        if shortest == longest:
            lost = f"lpad({text}, {longest}, '0')"
            ways.insert(0, (lost, "{}", "with the leading zeros that it lost"))
        if short == long and plain:
            ways.append((text, f"lpad({{}}, {long}, '0')", "with the leading zeros that the log lost"))
        if plain:
            ways.append(
                (text, "regexp_replace({}, '[.]0$', '')", "without the .0 of a floating point number")
            )
        for of_table, of_log, what in ways:
            matched, *_ = _matches(connection, of_table.format(column.sql), of_log.format("item_id"))
            if matched >= 0.5 * items and matched:
                [(example,)] = connection.execute("SELECT min(item_id) FROM log_items").fetchall()
                reason = (
                    f"{what}: the log has ids such as {example!r}, the table such as {column.example!r}; so "
                    f"{matched:,} of the {items:,} items of the log are in it"
                )
                if of_log == "{}":
                    return _Mended(of_table.format(column.bare), log_item, reason)
                return _Mended(column.name, of_log.format(log_item), reason)
    return None


def _no_match(
    connection: duckdb.DuckDBPyConnection,
    draft: Draft,
    table: str,
    columns: Sequence[Facts],
    best: _Match | None,
    items: int,
) -> None:
    [(example,)] = connection.execute("SELECT min(CAST(item_id AS VARCHAR)) FROM log_items").fetchall()
    named_id = next(iter(named(columns, column_names.ITEM)), columns[0])
    most = f"{best.column.name} has {best.matched:,} of them" if best else "no column has any of them"
    draft.choose(
        "items.table", "",
        f"{table} is left out: of the {items:,} items of the log, with ids such as {example!r}, {most}; "
        f"{named_id.name} has ids such as {named_id.example!r}. To use it write table and id, a column or an "
        "expression that gives the log's ids", CHECK, [f"table={table!r}, id=..."],
    )  # fmt: skip


def _choose_contents(
    connection: duckdb.DuckDBPyConnection, draft: Draft, columns: Sequence[Facts], rows: int
) -> None:
    """Choose the vector, the title, the topic and further texts."""
    left = [c for c in columns if c.name != draft.value("items.id")]
    for column in [*named(left, column_names.VECTOR), *left]:
        if dim := _vector_length(connection, column):
            draft.choose("items.vector", column.name, f"lists of {dim} numbers")
            left.remove(column)
            break
    texts = [c for c in left if c.text and c.distinct > 1]
    titles = column_names.titles(texts)
    if titles:
        draft.choose("items.title", titles[0].name, f"texts such as {titles[0].example!r}")
        texts.remove(titles[0])
        left.remove(titles[0])
    sampled = max(sum(left[0].frequent.values()), 1) if left else 1
    topics = [
        c for c in named(left, column_names.TOPIC)
        if 2 <= c.distinct <= max(min(1000, rows // 2), 2) and not c.kind.endswith(("]", ")"))
    ]  # fmt: skip
    if topics:
        topic = topics[0]
        value, reason = topic.name, f"{topic.distinct:,} values, such as {topic.example!r}"
        several = sum(n for v, n in topic.frequent.items() if "|" in v)
        if several > 0.1 * sampled and topic.text:
            value = f"split_part({topic.bare}, '|', 1)"
            reason += "; the first of several, which are divided by |"
        elif topic in texts:
            texts.remove(topic)
        draft.choose("items.topic", value, reason)
    further = [
        c for c in texts
        if not re.search(r"id$|url|link|image|img|date|time|_dt|path", c.key) and not _dates(c)
    ][:_TEXTS]  # fmt: skip
    if further:
        draft.choose(
            "items.text", tuple(c.name for c in further),
            "texts, which feed the item vectors with title and topic. Numbers are not used: counts and "
            "means of the "
            "whole period would tell what happens after the training",
        )  # fmt: skip


def _dates(column: Facts) -> bool:
    return bool(re.match(r"\d{4}-\d\d-\d\d", column.example))


def _vector_length(connection: duckdb.DuckDBPyConnection, column: Facts) -> int:
    """Numbers of the lists that a column holds, if all have equally many; else 0."""
    if not (re.fullmatch(r"(FLOAT|DOUBLE)\[\d*\]", column.kind) or column.example.startswith("[")):
        return 0
    if column.kind.startswith("STRUCT"):
        return 0
    [(low, high, unread)] = connection.execute(
        "SELECT min(len(v)), max(len(v)), count(*) FILTER (v IS NULL) FROM (SELECT "
        f"TRY_CAST({column.sql} AS FLOAT[]) "
        f"AS v FROM item_files_sample WHERE {column.sql} IS NOT NULL)"
    ).fetchall()
    return low if low and low == high and low > 1 and not unread else 0
