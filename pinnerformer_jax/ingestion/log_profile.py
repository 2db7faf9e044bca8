"""What the columns of a log or of an item table hold: names, kinds, and the values of a sample of rows."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pinnerformer_jax.ingestion.csv_reader import open_text
from pinnerformer_jax.ingestion.engine import BROKEN, FILE, ROW
from pinnerformer_jax.ingestion.log_columns import columns_of
from pinnerformer_jax.remote_files import File

if TYPE_CHECKING:
    import duckdb

SAMPLE = 20_000
"""Rows whose values are looked at, spread over all files."""

_PEEK = 1 << 22  # bytes of a file whose encoding is looked at
_FREQUENT = 300  # values of a column that are kept, the most frequent first
_RECBOLE = re.compile(r":(token|float|token_seq|float_seq)$")
_KEYWORDS = {
    "all", "and", "any", "as", "asc", "between", "by", "case", "cast", "check", "column", "cross",
    "default", "desc", "distinct", "do", "else", "end", "except", "false", "for", "from", "full", "group",
    "having", "in", "inner", "is", "join", "left", "like", "limit", "natural", "not", "null", "offset",
    "on", "only", "or", "order", "outer", "primary", "references", "right", "select", "similar", "table",
    "then", "to", "true", "union", "unique", "user", "using", "when", "where", "window", "with",
}  # fmt: skip
"""Names that SQL takes for its own unless they are quoted."""
_VALUE = re.compile(r"[-+]?\d+([.,]\d+)?|\d{4}-\d\d-\d\d.*|[0-9a-f-]{20,}", re.IGNORECASE)


class Facts(NamedTuple):
    """A column."""

    name: str  # as the files spell it
    sql: str  # quoted for the engine
    kind: str  # the engine's type
    of_files: tuple[str, ...]  # the types that the files say
    filled: float  # share of the sample's rows that have a value: not null, not blank, not NaN
    distinct: int  # values in the sample
    numbers: float  # share of the filled rows that read as a number
    low: float  # 1st percentile of these numbers; NaN without any
    middle: float  # median
    high: float  # 99th percentile
    frequent: dict[str, int]  # the most frequent values as text, with their rows in the sample

    @property
    def key(self) -> str:
        """The name as `key` gives it: userId and user_id:token are userid."""
        name = key(self.name)
        return name.removesuffix("list") if self.kind.endswith("]") else name  # Merlin: item_id-list

    @property
    def text(self) -> bool:
        """Its values are texts that are no numbers."""
        return self.kind == "VARCHAR" and self.numbers < 0.5

    @property
    def words(self) -> bool:
        """Most of its values are texts of several words, such as the name of a product."""
        return self.text and 2 * sum(" " in value for value in self.frequent) > len(self.frequent)

    @property
    def bare(self) -> str:
        """The column in an expression of the config: without quotes if it may be."""
        plain = re.fullmatch(r"[A-Za-z_]\w*", self.name) and self.name.lower() not in _KEYWORDS
        return self.name if plain else self.sql

    @property
    def example(self) -> str:
        """A frequent value."""
        return next(iter(self.frequent), "")


def key(name: str) -> str:
    """A column's name in small letters and digits alone, without RecBole's type."""
    return re.sub(r"[\W_]+", "", _RECBOLE.sub("", name)).lower()


def profile(connection: duckdb.DuckDBPyConnection, relation: str) -> list[Facts]:
    """The columns of a relation that `open_log` made, by a sample of its rows. It creates the table
    RELATION_sample."""
    [(rows,)] = connection.execute(f"SELECT count(*) FROM {relation}").fetchall()
    step = max(1, rows // SAMPLE)
    connection.execute(
        f"CREATE OR REPLACE TABLE {relation}_sample AS FROM {relation} "
        f"WHERE {BROKEN} IS NULL AND hash({ROW}, {FILE}) % {step} = 0 LIMIT {2 * SAMPLE}"
    )
    kinds = {row[0]: row[1] for row in connection.execute(f"DESCRIBE {relation}_shape").fetchall()}
    found = []
    for column in columns_of(connection, relation):
        sql, kind = column.sql, kinds[column.called]
        text = f"nullif(trim(CAST({sql} AS VARCHAR)), '')"
        if kind in ("FLOAT", "DOUBLE"):
            text = f"nullif({text}, 'nan')"
        number = f"CASE WHEN isfinite(TRY_CAST({text} AS DOUBLE)) THEN TRY_CAST({text} AS DOUBLE) END"
        if kind.startswith(("DATE", "TIME", "BLOB", "INTERVAL")) or kind.endswith(("]", ")")):
            number = "NULL::DOUBLE"
        query = f"SELECT {text} AS t, {number} AS n FROM {relation}_sample"
        count, there, numbers, distinct, *spread = connection.execute(
            f"SELECT count(*), count(t), count(n), count(DISTINCT t), "
            f"quantile_cont(n, 0.01), quantile_cont(n, 0.5), quantile_cont(n, 0.99) FROM ({query})"
        ).fetchone()
        frequent = connection.execute(
            f"SELECT t, count(*) AS rows FROM ({query}) WHERE t IS NOT NULL "
            f"GROUP BY t ORDER BY rows DESC, t LIMIT {_FREQUENT}"
        ).fetchall()
        low, middle, high = (float("nan") if value is None else value for value in spread)
        found.append(
            Facts(
                column.names[0], sql, kind, tuple(column.kinds),
                there / max(count, 1), distinct, numbers / max(there, 1),
                low, middle, high, dict(frequent),
            )
        )  # fmt: skip
    return found


def check_header(file: File, encoding: str, known: Sequence[str]) -> None:
    """Check that a text file begins with names of columns, between delimiters that ingest reads.

    Args:
        file: plain or .gz; of another kind than CSV: nothing is checked.
        encoding: of its text.
        known: names, as `key` gives them, one of which makes a line a header.

    Raises:
        ValueError: it does not; the message has the command that mends it.
    """
    suffixes = "".join(Path(file.name).suffixes[-2:]).lower().removesuffix(".gz")
    if suffixes.endswith((".json", ".jsonl", ".ndjson")):
        raise ValueError(
            f'{file} is JSON, which ingest does not read. As Parquet: python -c "import duckdb; '
            f"duckdb.sql('COPY (FROM read_json_auto(''{file}'')) TO ''{Path(file.name).stem}.parquet''')\""
        )
    if suffixes.endswith((".xlsx", ".xls")):
        raise ValueError(f"{file} is a spreadsheet: save the sheet as CSV UTF-8, and name that file")
    if suffixes.endswith(".parquet"):
        return
    with open_text(file) as data:
        line = data.readline(1 << 16).decode(encoding, "replace").removeprefix("\ufeff")
    line = next(iter(line.splitlines()), "")
    if "::" in line and not re.search("[,\t;|]", line):
        names = ",".join(["user", "item", "rating", "time"][: line.count("::") + 1])
        raise ValueError(
            f"{file}: its fields are separated by ::, which ingest does not read, and it has no header. As "
            f"CSV: (echo {names}; sed 's/::/,/g' {file}) > {Path(file.name).stem}.csv"
        )
    delimiter = max(",\t;|", key=re.sub(r'"[^"]*"', "", line).count)
    cells = next(csv.reader([line.replace("\0", "")], delimiter=delimiter), [])
    numbered = [str(k) for k in range(len(cells))]
    values = [cell for cell in cells if _VALUE.fullmatch(cell.strip())]
    if values and cells != numbered and not {key(cell) for cell in cells} & set(known):
        shown = line if len(line) < 200 else f"{line[:200]}..."
        names = {"\t": "\\t"}.get(delimiter, delimiter).join(f"name{k + 1}" for k in range(len(cells)))
        read = f"zcat {file}" if file.name.endswith(".gz") else f"cat {file}"
        raise ValueError(
            f"{file} does not begin with a header of column names: its first line is {shown!r}. Write one, "
            f"with your names for its {len(cells)} columns, such as user, item, time: "
            f"(printf '{names}\\n'; {read}) > {file.name.partition('.')[0]}-named.csv"
        )


def encoding_of(files: Sequence[File]) -> str:
    """The encoding of text files, by their first 4 MB: utf-8, utf-16 where a mark says so, cp1252 (Windows)
    or, where a byte has no meaning in that, latin-1. The last two cannot be told apart for certain."""
    for file in files:
        if file.name.lower().endswith(".parquet"):
            continue
        with open_text(file) as data:
            start = data.read(_PEEK)
        if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "utf-16"
        for encoding in ("utf-8", "cp1252"):
            try:
                codecs.getincrementaldecoder(encoding)().decode(start)
            except UnicodeDecodeError:
                continue
            if encoding != "utf-8":
                return encoding
            break
        else:
            return "latin-1"
    return "utf-8"
