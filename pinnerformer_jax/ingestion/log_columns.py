"""The columns of a log's files as the files have them, and what a setting makes of them.

The engine joins the columns of many files by name, whatever its case, and widens their types: int64 and
float64 become float64, in which large ids are rounded. It does not know Arrow's durations, which are plain
numbers in Parquet. So the files' own names and types are kept beside the relation.
"""

from __future__ import annotations

import difflib
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pinnerformer_jax.ingestion.engine import BROKEN, FILE, IN_SCOPE, ROW, first_line, literal
from pinnerformer_jax.remote_files import File, open_bytes

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa
    import pyarrow.parquet as pq

MUST_USE_A_COLUMN = (
    "data.columns.user",
    "data.columns.item",
    "data.columns.time",
    "items.id",
    "items.vector",
)
"""Settings that would be the same for every row without a column."""


class Column(NamedTuple):
    """A column of a relation."""

    names: tuple[str, ...]  # as the files spell it
    called: str  # the engine's name
    kinds: dict[str, str]  # {type: the first file that has it so}; empty for a column of no file

    @property
    def sql(self) -> str:
        """The engine's name, quoted."""
        return '"' + self.called.replace('"', '""') + '"'

    def where(self) -> str:
        """Each type, and a file that has it."""
        return " and ".join(f"{kind} in {file}" for kind, file in self.kinds.items())


class Setting(NamedTuple):
    """What a setting means."""

    sql: str
    kind: str  # the engine's type
    columns: list[Column]  # that it uses
    alone: bool  # it is a column's name, no expression


def parquet_columns(setting: str, file: File) -> list[tuple[str, str]]:
    """Names and Arrow types of a Parquet file's columns, in order.

    Raises:
        ValueError: it is no Parquet file.
    """
    return [(field.name, _kind(field.type)) for field in _footer(setting, file).schema.to_arrow_schema()]


def row_groups(setting: str, file: File) -> list[int]:
    """Rows of each row group of a Parquet file.

    Raises:
        ValueError: it is no Parquet file.
    """
    footer = _footer(setting, file)
    return [footer.row_group(number).num_rows for number in range(footer.num_row_groups)]


def _footer(setting: str, file: File) -> pq.FileMetaData:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with open_bytes(file) as source:
            return pq.read_metadata(source)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{setting}: {file} cannot be read: {first_line(error)}") from None


def _kind(kind: pa.DataType) -> str:
    import pyarrow as pa

    text = str(kind.value_type if pa.types.is_dictionary(kind) else kind)
    names = {"large_string": "string", "string_view": "string", "float": "float32", "halffloat": "float16"}
    return {**names, "double": "float64"}.get(text, text)


def engine_names(names: Sequence[str]) -> list[str]:
    """What the engine calls the columns of a file: it numbers names that differ in case alone."""
    taken: list[str] = []
    for name in names:
        numbered = (f"{name}_{number}" for number in itertools.count(1))
        lower = [other.lower() for other in taken]
        taken.append(next(n for n in itertools.chain([name], numbered) if n.lower() not in lower))
    return taken


def keep_columns(
    connection: duckdb.DuckDBPyConnection,
    relation: str,
    setting: str,
    files: Mapping[File, Sequence[tuple[str, str]]],
) -> None:
    """Create the table RELATION_columns (called, name, kind, file): the engine's name of each column, how
    files spell it, and each type that it has, with the first file that has it so.

    Raises:
        ValueError: columns whose names differ in case alone are not the same in all files.
    """
    found: dict[tuple[str, str, str], str] = {}
    layouts: dict[str, dict[tuple[str, ...], File]] = {}
    for file, columns in files.items():
        names = [name for name, _ in columns]
        for (name, kind), called in zip(columns, engine_names(names), strict=True):
            found.setdefault((called.lower(), name, kind), str(file))
            same = tuple(other for other in names if other.lower() == name.lower())
            layouts.setdefault(name.lower(), {}).setdefault(same, file)
    for layout in layouts.values():
        if len(layout) > 1 and max(map(len, layout)) > 1:
            raise ValueError(
                f"{setting}: names that differ in case alone are not the same columns in all files: "
                + ", ".join(f"{list(names)} in {file}" for names, file in layout.items())
                + "; rename them"
            )
    fields = "called VARCHAR, name VARCHAR, kind VARCHAR, file VARCHAR"
    connection.execute(f"CREATE OR REPLACE TABLE {relation}_columns ({fields})")
    if found:
        rows = [(*key, file) for key, file in found.items()]
        connection.executemany(f"INSERT INTO {relation}_columns VALUES (?, ?, ?, ?)", rows)


def resolve(connection: duckdb.DuckDBPyConnection, relation: str, setting: str, expression: str) -> Setting:
    """What a setting means that is a column's name, or an expression over columns, of a relation that
    `open_log` made. A name in its exact case wins over one in another case.

    Raises:
        ValueError: there is no such column (names the nearest), the name fits several, the expression is
            wrong, or it uses no column where it must.
    """
    import duckdb

    columns = columns_of(connection, relation)
    names = [name for column in columns for name in column.names]
    used = _fitting(columns, setting, expression)
    alone = bool(used)
    if alone:
        sql = used[0].sql
    elif re.fullmatch(r"[^\W\d]\w*", expression):
        near = difflib.get_close_matches(expression.lower(), [name.lower() for name in names], 1, 0.5)
        nearest = f" The nearest is {near[0]!r}." if near else ""
        raise ValueError(f"{setting} = {expression!r}: there is no such column.{nearest} There are: {names}")
    else:
        sql, used = _parse(connection, columns, setting, expression)
    try:  # beside a column, so that an aggregate is refused
        described = connection.execute(
            f"DESCRIBE SELECT ({sql}), {ROW} FROM {relation}_shape AS {relation}"
        ).fetchall()
    except duckdb.Error as error:
        raise ValueError(
            f"{setting} = {expression!r}: {first_line(error)} The columns are: {names}"
        ) from None
    if not used and setting in MUST_USE_A_COLUMN:
        raise ValueError(
            f"{setting} = {expression!r} uses no column: it is the same for every row. There are: {names}"
        )
    return Setting(f"({sql})", described[0][1], used, alone)


def columns_of(connection: duckdb.DuckDBPyConnection, relation: str) -> list[Column]:
    facts = connection.execute(f"SELECT called, name, kind, file FROM {relation}_columns").fetchall()
    columns = []
    for called, *_ in connection.execute(f"DESCRIBE {relation}_shape").fetchall():
        if called in (FILE, ROW, BROKEN, IN_SCOPE):
            continue
        own = [fact for fact in facts if fact[0] == called.lower()]
        kinds: dict[str, str] = {}
        for _, _, kind, file in own:
            kinds.setdefault(kind, file)
        spelled = tuple(dict.fromkeys(name for _, name, _, _ in own)) or (called,)
        columns.append(Column(spelled, called, kinds))
    return columns


def _fitting(columns: list[Column], setting: str, name: str) -> list[Column]:
    """The column of this name, or none."""
    lower = name.lower()
    exact = [column for column in columns if name in column.names]
    fitting = exact or [c for c in columns if lower in [other.lower() for other in c.names]]
    fitting = fitting or [c for c in columns if lower == c.called.lower()]
    if len(fitting) > 1:
        several = [other for column in fitting for other in column.names]
        raise ValueError(
            f"{setting}: {name!r} fits several columns, {several}: write one of them exactly, or rename them"
        )
    return fitting


def _parse(
    connection: duckdb.DuckDBPyConnection, columns: list[Column], setting: str, expression: str
) -> tuple[str, list[Column]]:
    """SQL of an expression, by the engine's names of columns, and the columns that it uses."""
    if wrong := _not_one_expression(connection, expression):
        names = [name for column in columns for name in column.names]
        raise ValueError(f"{setting} = {expression!r}: {wrong} The columns are: {names}")
    tree = _parsed(connection, expression)
    used: dict[str, Column] = {}
    renamed = False
    for reference in _references(tree):
        for place, part in enumerate(reference):
            for column in _fitting(columns, setting, part):
                used[column.sql] = column
                if column.called.lower() != part.lower():
                    reference[place], renamed = column.called, True
    if renamed:
        [(text,)] = connection.execute("SELECT json_deserialize_sql($1::JSON)", [json.dumps(tree)]).fetchall()
        expression = text.removeprefix("SELECT ")
    return expression, list(used.values())


def _parsed(connection: duckdb.DuckDBPyConnection, expression: str) -> dict[str, Any]:
    query = f"SELECT json_serialize_sql({literal(f'SELECT {expression}')})"
    return json.loads(connection.execute(query).fetchall()[0][0])


def _not_one_expression(connection: duckdb.DuckDBPyConnection, text: str) -> str | None:
    """Why the text, in brackets, is not one expression for the engine's parser; None: it is one, and no
    second column, clause or statement follows."""
    tree = _parsed(connection, f"({text})")
    if tree["error"] and tree["error_type"] == "parser":
        return f"Parser Error: {tree['error_message']}: write a column's name or one SQL expression."
    bare = _parsed(connection, text)  # in brackets a list would be a tuple
    if tree["error"] or bare["error"] or len(tree["statements"]) != 1:
        return "this is more than one SQL expression."
    first, plain = (query["statements"][0]["node"] for query in (tree, _parsed(connection, "(1)")))
    columns, _ = first.pop("select_list", ()), plain.pop("select_list")
    alone = len(columns) == len(bare["statements"][0]["node"].get("select_list", ())) == 1
    if not alone or first != plain:
        return "this is more than one SQL expression."
    return None


def _references(tree: Any) -> Iterator[list[str]]:
    """The parts of each column's name in a parsed statement."""
    if isinstance(tree, dict):
        if tree.get("type") == "COLUMN_REF":
            yield tree["column_names"]
        tree = list(tree.values())
    if isinstance(tree, list):
        for part in tree:
            yield from _references(part)
