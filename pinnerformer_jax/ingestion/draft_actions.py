"""What a person did, and what of it is a positive: by an action column, flags, ratings or returns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pinnerformer_jax.config import PositiveRule
from pinnerformer_jax.data.positives import MAX_NAMES
from pinnerformer_jax.ingestion import column_names
from pinnerformer_jax.ingestion.column_names import named, strength
from pinnerformer_jax.ingestion.draft import CHECK, Draft
from pinnerformer_jax.ingestion.engine import BROKEN, first_line, literal
from pinnerformer_jax.ingestion.log_profile import Facts

if TYPE_CHECKING:
    import duckdb

_UNDONE = "cancel|refund|void|return|declin|fail"


def choose_actions(
    connection: duckdb.DuckDBPyConnection, relation: str, draft: Draft, columns: Sequence[Facts]
) -> None:
    """Choose data.columns.action, data.positives and data.sequence_actions. The first of these that the log
    has: an action column, flags (is_like, purchase ...), ratings, returns, nothing."""
    actions = [
        c for c in named(columns, column_names.ACTION)
        if 1 <= c.distinct <= MAX_NAMES and c.filled > 0.5 and not c.kind.endswith((")", "]"))
        and (c.text or c.key != "type") and c.kind not in ("DOUBLE", "FLOAT")
    ]  # fmt: skip
    flags = _flags(columns)
    ratings = [c for c in named(columns, column_names.RATING) if c.numbers > 0.97 and 2 <= c.distinct <= 101]
    if actions:
        _by_column(connection, relation, draft, actions)
    elif flags:
        _by_flags(connection, relation, draft, flags)
    elif ratings:
        _by_rating(connection, relation, draft, ratings[0])
    else:
        _by_returns(connection, relation, draft, columns)
    if "data.positives" not in draft.choices:
        draft.choose(
            "data.positives",
            (PositiveRule(),),
            "the log has one kind of event, so that every event is a positive",
        )


def count_actions(
    connection: duckdb.DuckDBPyConnection, relation: str, draft: Draft, sql: str
) -> dict[str, int]:
    """Rows in scope by action, the most frequent first. An expression must be by the engine's names."""
    import duckdb

    where = draft.value("data.where") or "true"
    try:
        return dict(
            connection.execute(
                f"SELECT coalesce(trim(CAST({sql} AS VARCHAR)), '') AS a, count(*) AS n FROM {relation} "
                f"WHERE {BROKEN} IS NULL AND ({where}) GROUP BY a ORDER BY n DESC, a LIMIT 1000"
            ).fetchall()
        )
    except duckdb.Error as error:
        raise ValueError(f"data.columns.action = {sql!r}: {first_line(error)}") from None


def _counted(counts: dict[str, int]) -> str:
    shown = [f"{name or 'empty'} {rows:,}" for name, rows in list(counts.items())[:12]]
    return ", ".join(shown) + (f" and {len(counts) - 12} more" if len(counts) > 12 else "")


def _positives(draft: Draft, counts: dict[str, int], what: str = "") -> None:
    """Choose data.positives among several actions: those that state an intent; else all but those against."""
    kinds = {name: strength(name) for name in counts if name}
    intent = [name for name, kind in kinds.items() if kind == "intent"]
    chosen = intent or [name for name, kind in kinds.items() if kind != "against"]
    unknown = [name for name, kind in kinds.items() if not kind]
    others = [name for name in kinds if name not in chosen]
    if intent:
        reason = f"{what}actions that state an intent. No positives are: {', '.join(others) or 'none'}"
    else:
        reason = f"{what}no action is called like an intent, such as purchase or like"
    if unknown:
        reason += f". Unknown names: {', '.join(unknown[:10])}"
    share = sum(counts[name] for name in chosen) / max(sum(counts.values()), 1)
    rules = tuple(PositiveRule(action=name) for name in chosen) if others or what else (PositiveRule(),)
    mark = CHECK if len(kinds) > 1 else ""
    draft.choose("data.positives", rules, f"{reason}. They are {share:.1%} of the events", mark)


def _by_column(
    connection: duckdb.DuckDBPyConnection, relation: str, draft: Draft, actions: Sequence[Facts]
) -> None:
    best = actions[0]
    counts = count_actions(connection, relation, draft, best.sql)
    others = [repr(c.name) for c in actions[1:]]
    reason = f"{_counted(counts)}"
    if others:
        reason += f". It might as well be {' or '.join(others)}"
    draft.choose("data.columns.action", best.name, reason, CHECK if others else "", others)
    if len([name for name in counts if name]) > 1:
        _positives(draft, counts)


def _flags(columns: Sequence[Facts]) -> list[Facts]:
    """Columns of 0 and 1 (or true and false) that are called like an action."""
    found: dict[str, Facts] = {}
    for column in columns:
        values = {value.lower().removesuffix(".0") for value in column.frequent}
        if values and values <= {"0", "1", "true", "false"} and len(values) == 2 and column.filled > 0.5:
            label = _label(column)
            if strength(label) and label not in found:
                found[label] = column
    return list(found.values())


def _label(column: Facts) -> str:
    return re.sub(r"^(is|has)_", "", column.name)


def _by_flags(
    connection: duckdb.DuckDBPyConnection, relation: str, draft: Draft, flags: Sequence[Facts]
) -> None:
    """The strongest flag that is set: against, then intent, then a look, each the rarest first."""
    order = {"intent": 0, "against": 1, "look": 2}

    def rarity(column: Facts) -> tuple[int, int]:
        rows = sum(n for v, n in column.frequent.items() if v.lower().removesuffix(".0") in ("1", "true"))
        return order[strength(_label(column))], rows

    ordered = sorted(flags, key=rarity)

    def cases(quoted: bool) -> str:
        parts = []
        for column in ordered:
            name = column.sql if quoted else column.bare
            if column.kind == "VARCHAR":
                yes = "TRUE" if "true" in map(str.lower, column.frequent) else "1"
                test = f"try_cast({name} AS BOOLEAN)" if yes == "TRUE" else f"try_cast({name} AS DOUBLE) = 1"
            else:
                test = name if column.kind == "BOOLEAN" else f"{name} = 1"
            parts.append(f"WHEN {test} THEN {literal(_label(column))}")
        return f"CASE {' '.join(parts)} ELSE 'impression' END"

    counts = count_actions(connection, relation, draft, cases(True))
    draft.choose(
        "data.columns.action", cases(False),
        f"of several flags the strongest, and impression where none is set: {_counted(counts)}", CHECK,
    )  # fmt: skip
    shown = {name: rows for name, rows in counts.items() if name != "impression"}
    _positives(draft, shown, "a guess by the names of the flags: ")
    if "impression" in counts and shown:
        draft.choose(
            "data.sequence_actions", tuple(shown),
            f"without the {counts['impression']:,} rows of impressions: timelines hold what a person "
            "did", CHECK,
        )  # fmt: skip


def _by_rating(connection: duckdb.DuckDBPyConnection, relation: str, draft: Draft, column: Facts) -> None:
    most = column.high
    threshold = next((t for top, t in ((1, 1), (5, 4), (10, 7), (100, 70)) if most <= top), 0.8 * most)
    [(rows, liked, empty)] = connection.execute(
        f"SELECT count(*), count(*) FILTER (TRY_CAST({column.sql} AS DOUBLE) >= {threshold}), "
        f"count(*) FILTER (TRY_CAST({column.sql} AS DOUBLE) IS NULL OR TRY_CAST({column.sql} AS DOUBLE) = 0) "
        f"FROM {relation} WHERE {BROKEN} IS NULL"
    ).fetchall()
    number = f"try_cast({column.bare} AS DOUBLE)" if column.kind == "VARCHAR" else column.bare
    reason = (
        f"{column.name} from {column.low:g} to {column.high:g}: {liked / max(rows, 1):.1%} of the rows have "
        f"{threshold:g} or more, which counts as liked"
    )
    if empty:
        reason += f". {empty:,} rows have 0 or none, which some logs use for no rating"
    draft.choose(
        "data.columns.action",
        f"CASE WHEN {number} >= {threshold:g} THEN 'liked' ELSE 'rated' END",
        reason,
        CHECK,
    )
    rules = (PositiveRule(action="liked"),) if 0 < liked < rows else (PositiveRule(),)
    draft.choose("data.positives", rules, f"ratings of {threshold:g} or more", CHECK, ["(PositiveRule(),)"])


def _by_returns(
    connection: duckdb.DuckDBPyConnection, relation: str, draft: Draft, columns: Sequence[Facts]
) -> None:
    """Rows of a shop that take something back: a negative quantity, an invoice C..., a status."""
    where = f"{BROKEN} IS NULL AND ({draft.value('data.where') or 'true'})"
    found = []
    for column in named(columns, column_names.QUANTITY)[:1]:
        number = f"try_cast({column.bare} AS DOUBLE)" if column.kind == "VARCHAR" else column.bare
        found.append(
            (column, f"{number} < 0", f"TRY_CAST({column.sql} AS DOUBLE) < 0", "a negative quantity")
        )
    for column in named(columns, column_names.ORDER)[:1]:
        if column.kind == "VARCHAR":
            test = "regexp_matches({}, '^C[0-9]')"
            found.append((column, test.format(column.bare), test.format(column.sql), "a number C..."))
    sparse = ""
    for column in named(columns, column_names.STATUS)[:1]:
        if any(re.search(_UNDONE, value.lower()) for value in column.frequent):
            if column.filled < 0.95:
                sparse = (
                    f"{column.name} says of some orders that they were undone, but "
                    f"{1 - column.filled:.1%} of the "
                    "rows have none: fill it in, or rows of such orders count as purchases"
                )
                continue
            test = f"regexp_matches(lower({{}}), '{_UNDONE}')"
            values = [v for v in column.frequent if re.search(_UNDONE, v.lower())]
            found.append((column, test.format(column.bare), test.format(column.sql), ", ".join(values)))
    parts = []
    for column, bare, sql, what in found:
        [(rows,)] = connection.execute(f"SELECT count(*) FROM {relation} WHERE {where} AND {sql}").fetchall()
        if rows:
            parts.append((column, bare, sql, rows, what))
    if not parts:
        if sparse:
            draft.choose("data.positives", (PositiveRule(),), f"every event is a positive. {sparse}", CHECK)
        return
    either = " OR ".join(sql for _, _, sql, _, _ in parts)
    [(undone, rows)] = connection.execute(
        f"SELECT count(*) FILTER ({either}), count(*) FROM {relation} WHERE {where}"
    ).fetchall()
    agree = len(parts) > 1 and all(n > 0.9 * undone for *_, n, _ in parts)
    test = " OR ".join(bare for _, bare, _, _, _ in parts)
    counted = "; ".join(f"{column.name} {what}: {n:,} rows" for column, _, _, n, what in parts)
    draft.choose(
        "data.columns.action", f"CASE WHEN {test} THEN 'return' ELSE 'purchase' END",
        f"{undone:,} of {rows:,} rows ({undone / rows:.1%}) take something back ({counted})"
        + (f". {sparse}" if sparse else ""),
        "" if agree and not sparse else CHECK,
    )  # fmt: skip
    draft.choose("data.positives", (PositiveRule(action="purchase"),), "returns are events, but no positives")
