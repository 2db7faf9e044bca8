"""Who, what and when in a log, by its columns' names and values: choices with their reasons."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pinnerformer_jax.ingestion import column_names
from pinnerformer_jax.ingestion.column_names import named
from pinnerformer_jax.ingestion.draft import CHECK, EDIT, Draft
from pinnerformer_jax.ingestion.engine import BROKEN, literal
from pinnerformer_jax.ingestion.log_profile import Facts
from pinnerformer_jax.ingestion.time_format import TimeFormat, read_times

if TYPE_CHECKING:
    import duckdb

_NOBODY = (
    "0", "-1", "null", "none", "nan", "na", "n/a", "guest", "anonymous", "unknown", "(not set)",
    "undefined", "\\n",
)  # fmt: skip
"""Values, in small letters, that stand for a missing user."""


def choose_ids(draft: Draft, columns: Sequence[Facts]) -> None:
    """Choose data.columns.user and data.columns.item."""
    for setting, strong, weak, what in (
        ("user", column_names.USER, column_names.WEAK_USER, "a user"),
        ("item", column_names.ITEM, column_names.WEAK_ITEM, "an item"),
    ):
        name = f"data.columns.{setting}"
        sure = [c for c in named(columns, strong) if c.filled > 0.05]
        sure.sort(key=lambda c: c.filled < 0.5)  # GA4: user_id, mostly empty, beside user_pseudo_id
        maybe = [c for c in named(columns, weak) if c.filled > 0.05]
        nested = _nested_items(columns) if setting == "item" else None
        if not sure and nested:
            draft.choose(name, *nested)
            continue
        found = sure or maybe
        if not found:
            draft.choose(
                name, "", f"no column is called like {what} ({_list(columns)}). Name it here", EDIT,
                [repr(c.name) for c in columns if c.distinct > 1][:12],
            )  # fmt: skip
            continue
        best = found[0]
        # Beside an id, 'product' with texts of several words has the names: see choose_titles.
        others = [repr(_id(c)) for c in found[1:] if best.words or not c.words]
        reason = f"by its name; in a sample {best.distinct:,} values"
        if setting == "item":  # an id of a user may be an address, which belongs in no file of settings
            reason += f" such as {best.example}"
        mark = ""
        if best.kind.endswith("[]"):
            values = "a list: each row of the log is as many events, which unnest takes apart"
            draft.choose(name, f"unnest({best.sql})", values)
            continue
        if not sure:
            reason += f". Only some logs name {what} by such a column"
            mark = CHECK
        elif others:
            reason += f". It might as well be {_or(others)}"
            mark = CHECK
        elif setting == "item" and best.filled < 0.95:
            reason += f". {1 - best.filled:.1%} of the sample's rows have none, and are rejected"
            mark = CHECK
        same_key = [c for c in columns if c.key == best.key and c is not best]
        if same_key and mark != CHECK:
            reason, mark = f"{reason}. {same_key[0].name!r} is called nearly the same", CHECK
        draft.choose(name, _id(best), reason, mark, others)


def _id(column: Facts) -> str:
    """The column, or the cast that ingest needs of its type."""
    if column.kind in ("UUID", "HUGEINT", "UHUGEINT") or column.kind.startswith("TIME"):
        return f"CAST({column.bare} AS VARCHAR)"
    return column.name


def _nested_items(columns: Sequence[Facts]) -> tuple[str, str, str] | None:
    """The id within a list of records, as the export of Google Analytics 4 has it."""
    for column in columns:
        if column.kind.startswith("STRUCT(") and column.kind.endswith("[]"):
            fields = re.findall(r'(?:\(|, )"?(\w+)"? [A-Z]', column.kind)
            keys = {re.sub("_", "", f).lower(): f for f in reversed(fields)}
            for wanted in column_names.ITEM:
                if wanted in keys:
                    return (
                        f"unnest({column.bare}).{keys[wanted]}",
                        f"{column.name} is a list of records with the field {keys[wanted]}: each of "
                        "them is an "
                        "event. Rows with an empty list are no events",
                        "",
                    )
    return None


def choose_time(
    connection: duckdb.DuckDBPyConnection, relation: str, draft: Draft, columns: Sequence[Facts]
) -> TimeFormat | None:
    """Choose data.columns.time and data.time_unit: of the columns that are called like the time of an event,
    the first that gives times, a time of day before a mere date."""
    sure = [c for c in named(columns, column_names.TIME) if c.filled > 0.05]
    maybe = [
        c for c in columns
        if c not in sure and c.filled > 0.05 and not column_names.LATER_TIME.search(c.key)
        and c.key not in column_names.DURATION and re.search(r"time|date|(At|_at|_ts|_dt)$", c.name)
    ]  # fmt: skip
    rest = [c for c in columns if c not in sure + maybe and not re.search("id$", c.key) and c.filled > 0.5]
    unknown: TimeFormat | None = None
    for group in (sure, maybe, rest):
        found = {}
        for column in group:
            form = read_times(connection, relation, column)
            if form is None:
                continue
            if form.expression or form.unit == "timestamp":
                found[column.name] = form
            elif group is not rest:  # numbers of another kind
                unknown = unknown or form
        if not found:
            continue
        finer = {name: form for name, form in found.items() if not form.coarse} or found
        name = next(iter(finer))
        form = finer[name]
        others = [
            f"{other.expression!r}, time_unit={other.unit!r}" for key, other in finer.items() if key != name
        ]
        value, reason, mark, instead = form.expression, form.reason, form.mark, [*form.instead, *others]
        if others:
            reason, mark = f"{reason}. It might as well be {' or '.join(list(finer)[1:])}", mark or CHECK
        if group is maybe:
            reason, mark = f"{reason}. Its name does not say that it is the time of the event", mark or CHECK
        if group is rest and not name.startswith("unnest"):
            reason = f"no column is called like a time. {name} could be one: {reason}"
            value, mark, instead = "", EDIT, [repr(form.expression), *instead]
        if form.coarse:
            reason += ". Days without a time of day: the order within a day is not known"
            for clock in columns:
                if clock.name != name and re.fullmatch(r"\d\d?:\d\d(:\d\d(\.\d+)?)?", clock.example):
                    reason += (
                        f". {clock.name} has times of day, which are not used: write an expression of both"
                    )
                    mark = mark or CHECK
                    if form.expression == name:
                        both = next(c for c in columns if c.name == name).bare
                        instead.append(repr(f"{both} || ' ' || {clock.bare}"))
        draft.choose("data.columns.time", value, reason, mark, instead)
        draft.choose("data.time_unit", form.unit, "see data.columns.time")
        return form
    if unknown:
        draft.choose("data.columns.time", "", unknown.reason, EDIT, unknown.instead)
        draft.choose("data.time_unit", unknown.unit, "see data.columns.time")
        return None
    draft.choose(
        "data.columns.time", "",
        f"no column gives a time ({_list(columns)}). Without times there is nothing to predict: join "
        "them to the "
        "log, and name the column here", EDIT,
    )  # fmt: skip
    return None


def choose_scope(
    connection: duckdb.DuckDBPyConnection, relation: str, draft: Draft, columns: Sequence[Facts]
) -> None:
    """Choose data.where: rows of guests, whose user is empty, are no events of anybody."""
    conditions, reasons, mark = [], [], ""
    user = next((c for c in columns if c.name == draft.value("data.columns.user")), None)
    if user is not None:
        text = f"lower(trim(CAST({user.sql} AS VARCHAR)))"
        empty = f"{user.sql} IS NULL"
        if user.kind == "VARCHAR":
            empty = f"({empty} OR trim({user.sql}) = '')"
        elif user.kind in ("FLOAT", "DOUBLE"):
            empty = f"({empty} OR CAST({user.sql} AS VARCHAR) = 'nan')"
        rows, blank = connection.execute(
            f"SELECT count(*), count(*) FILTER ({empty}) FROM {relation} WHERE {BROKEN} IS NULL"
        ).fetchone()
        bare = f"trim({user.bare})" if user.kind == "VARCHAR" else user.bare
        if blank:
            if user.kind == "VARCHAR":
                conditions.append(f"{bare} <> ''")
            elif user.kind in ("FLOAT", "DOUBLE"):
                # Not isnan: the engine trusts Parquet's bounds, which leave NaN out.
                conditions.append(f"CAST({user.bare} AS VARCHAR) <> 'nan'")
            else:
                conditions.append(f"{user.bare} IS NOT NULL")
            reasons.append(f"{blank:,} of {rows:,} rows ({blank / rows:.1%}) have no user: guests")
        [(value, most, sampled)] = connection.execute(
            f"SELECT {text} AS t, count(*) AS n, sum(n) OVER () FROM {relation}_sample WHERE NOT {empty} "
            "GROUP BY t ORDER BY n DESC, t LIMIT 1"
        ).fetchall() or [("", 0, 1)]
        usual = sorted(user.frequent.values())[len(user.frequent) // 2] if user.frequent else 0
        nobody = [
            value for value, count in user.frequent.items()
            if (plain := value.lower().removesuffix(".0")) in _NOBODY
            and (plain not in ("0", "-1") or count > max(10 * usual, 0.005 * sampled))  # ids may begin at 0
        ]  # fmt: skip
        if nobody:
            shown = ", ".join(map(repr, nobody))
            wanted = [literal(v) for v in nobody]
            texts = bare if user.kind == "VARCHAR" else f"CAST({bare} AS VARCHAR)"
            conditions.append(f"{texts} NOT IN ({', '.join(wanted)})")
            share = sum(user.frequent[v] for v in nobody) / sampled
            reasons.append(f"the user {shown} ({share:.1%} of the rows) is taken for nobody in particular")
            mark = CHECK
        elif most > 0.05 * sampled and user.distinct > 100:
            draft.add(
                "data.columns.user",
                f"The user {value!r} has {most / sampled:.1%} of the rows: is that a person?",
                CHECK,
            )
    nested = re.match(r"unnest\(([^)]+)\)\.", draft.value("data.columns.item"))
    if nested:
        conditions.append(f"len({nested[1]}) > 0")
        reasons.append("rows without items are no events")
    if conditions:
        draft.choose("data.where", " AND ".join(conditions), "; ".join(reasons), mark)


def check_item_codes(
    connection: duckdb.DuckDBPyConnection, relation: str, draft: Draft, columns: Sequence[Facts]
) -> None:
    """Say so where a few ids of items have no digit and all others have: POST and FEE beside 85123A."""
    item = next((c for c in columns if c.name == draft.value("data.columns.item")), None)
    if item is None or item.kind != "VARCHAR":
        return
    rows, without, items, codes, example = connection.execute(
        f"SELECT sum(n), sum(n) FILTER (NOT code), count(*), count(*) FILTER (NOT code), "
        f"arg_max(id, n) FILTER (NOT code) FROM ("
        f"SELECT {item.sql} AS id, count(*) AS n, regexp_matches(id, '[0-9]') AS code "
        f"FROM {relation} WHERE {item.sql} <> '' GROUP BY id)"
    ).fetchone()
    if codes and without < 0.05 * rows and codes < 0.05 * items:
        draft.add(
            "data.columns.item",
            f"{without:,} rows are of {codes:,} ids without a digit, such as {example!r}. If these are no "
            f"products but postage or fees, leave them out in data.where: "
            f"regexp_matches({item.bare}, '[0-9]')",
            CHECK,
        )


def choose_duration(draft: Draft, columns: Sequence[Facts]) -> None:
    """Choose data.columns.duration."""
    found = [c for c in named(columns, column_names.DURATION) if c.filled > 0.3]
    if not found:
        return
    best = found[0]
    kind = best.kind
    if not (best.numbers > 0.97 or kind in ("INTERVAL", "TIME")):
        return
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", best.name).lower().split("_")
    in_ms = words[-1] in ("ms", "msec", "millis") or words[0] == "ms"
    in_s = words[-1] in ("s", "sec", "secs", "seconds") or words[0] == "seconds"
    reason = f"half of the sample's rows have {best.middle:g} or less"
    mark = ""
    value = best.name
    if kind in ("INTERVAL", "TIME"):
        reason = f"of type {kind}"
    elif any(of.startswith("duration") for of in best.of_files):
        reason = f"of type {best.of_files[0]} in the files, so that its unit is known"
    elif in_ms:
        number = f"try_cast({best.bare} AS DOUBLE)" if kind == "VARCHAR" else best.bare
        value, reason = f"{number} / 1000", f"milliseconds by its name; {reason}"
    elif in_s:
        reason = f"seconds by its name; {reason}"
    else:
        reason, mark = f"taken for seconds, as its name does not say its unit; {reason}", CHECK
    if best.key.startswith("duration"):
        reason += ". It must be how long the user stayed, not the length of the item"
        mark = CHECK
    instead = [f'"{best.bare} / 1000"'] if mark and not in_ms else []
    draft.choose("data.columns.duration", value, reason, mark, [*instead, '""'] if mark else ())


def choose_surface(draft: Draft, columns: Sequence[Facts]) -> None:
    """Choose data.columns.surface."""
    for column in named(columns, column_names.SURFACE):
        if 2 <= column.distinct <= 255 and column.filled > 0.5 and not column.kind.endswith((")", "]")):
            values = ", ".join(list(column.frequent)[:5])
            draft.choose(
                "data.columns.surface", column.name, f"{column.distinct} values, the most frequent {values}"
            )
            return


def choose_titles(draft: Draft, columns: Sequence[Facts], with_table: bool) -> None:
    """Choose data.columns.title and topic, where there is no item table with them."""
    if with_table:
        return
    item = draft.value("data.columns.item")
    items = next((c.distinct for c in columns if c.name == item), 0)
    titles = [  # about one an item: no order numbers
        c for c in column_names.titles(columns)
        if c.text and c.name != item and c.distinct > 1 and (not items or c.distinct <= 3 * items)
    ]  # fmt: skip
    if titles:
        draft.choose(
            "data.columns.title",
            titles[0].name,
            f"texts such as {titles[0].example!r}; they feed the item vectors",
        )
    topics = [c for c in named(columns, column_names.TOPIC) if c.name != item and c.distinct > 1]
    topics = [c for c in topics if c not in titles[:1] and not c.kind.endswith((")", "]"))]
    if topics:
        draft.choose(
            "data.columns.topic", topics[0].name,
            f"{topics[0].distinct:,} values in the sample, such as {topics[0].example!r}",
        )  # fmt: skip


def _list(columns: Sequence[Facts]) -> str:
    shown = [f"{c.name} {c.distinct:,}" for c in columns[:20]]
    return (
        "columns, with their values in a sample: " + ", ".join(shown) + (" ..." if len(columns) > 20 else "")
    )


def _or(values: Sequence[str]) -> str:
    return " or ".join(values)
