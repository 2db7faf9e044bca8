"""The files of a log as one DuckDB relation, each row with the file and row it came from.

Parquet is read in place. A CSV file is first copied to Parquet with every column as text, so
that an id such as 007 stays as it is; cast a column to compare it as a number
(`try_cast(quantity AS DOUBLE) > 0`). DuckDB copies it strictly and in parallel. A file it does not
read to the last line (too few or too many fields, a quote that never closes, bytes that are not
UTF-8, a value over several lines) is copied again by Python's csv module, which knows exactly which
lines are broken and carries on after them: csv_reader.py.
"""

from __future__ import annotations

import contextlib
import glob
import re
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote

from pinnerformer_jax.config import CsvConfig
from pinnerformer_jax.ingestion import csv_reader, log_columns
from pinnerformer_jax.ingestion.engine import (
    BROKEN,
    FILE,
    ROW,
    first_line,
    literal,
    scanned,
)
from pinnerformer_jax.remote_files import File, RemoteFile, find, identity, is_remote, let_engine_read

if TYPE_CHECKING:
    import duckdb

_PARQUET, _CSV = (".parquet",), (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".inter", ".item")
_TFDS = re.compile(r"tfds:(?P<name>[^:]+(:\d+\.\d+\.\d+)?)(:(?P<split>.+))?")
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"  # in a folder's name: null
_DEFAULT = CsvConfig()


class FileRows(NamedTuple):
    """Rows of a log: those of a file, or some of them."""

    file: File
    first: int = 1
    last: int | None = None  # None: to the end

    def __str__(self) -> str:
        return str(self.file) + ("" if self.last is None else f", rows {self.first:,} to {self.last:,}")


def log_parts(setting: str, files: Sequence[File], least: int, most: int) -> list[tuple[FileRows, ...]]:
    """Cut a log into parts of about as much work.

    Args:
        setting: the config field that names the files, for messages.
        files: of the log.
        least: rows of a part. Smaller files are put together, in their order, until they have so many; of
            a CSV file, whose rows nobody knows, 50 bytes count for a row.
        most: rows from which on a part of a Parquet file ends, with the row group.

    Raises:
        ValueError: a file that is called Parquet is none.
    """
    parts: list[tuple[FileRows, ...]] = []
    small: list[FileRows] = []
    rows = 0
    for file in files:
        if file.name.lower().endswith(_PARQUET):
            groups = log_columns.row_groups(setting, file)
        else:
            groups = [identity(file)[1] // 50]
        if sum(groups) >= least:
            ranges = _ranges(file, groups, most) if len(groups) > 1 else [FileRows(file)]
            parts += [(part,) for part in ranges]
            continue
        small.append(FileRows(file))
        rows += sum(groups)
        if rows >= least:
            parts.append(tuple(small))
            small, rows = [], 0
    return [*parts, tuple(small)] if small else parts


def _ranges(file: File, groups: Sequence[int], most: int) -> list[FileRows]:
    """As many row groups together as have `most` rows; the file as it is, if that is all of them."""
    ranges, first, end = [], 1, 0
    for group in groups:
        end += group
        if end - first + 1 >= most:
            ranges.append(FileRows(file, first, end))
            first = end + 1
    if first <= end:
        ranges.append(FileRows(file, first, end))
    return ranges if len(ranges) > 1 else [FileRows(file)]


def _condition(part: Sequence[FileRows]) -> str:
    """SQL of the rows of a part; the engine reads no other files, and no other row groups."""
    if len(part) == 1 and part[0].last is not None:
        return f"{FILE} = {literal(part[0].file)} AND {ROW} BETWEEN {part[0].first} AND {part[0].last}"
    return f"{FILE} IN ({', '.join(literal(rows.file) for rows in part)})"


def open_log(
    connection: duckdb.DuckDBPyConnection,
    relation: str,
    setting: str,
    patterns: Sequence[str],
    folder: Path,
    csv: CsvConfig = _DEFAULT,
    only: Sequence[FileRows] | None = None,
) -> list[File]:
    """Create the view `relation` over all files that the patterns name, and the table of its columns, see
    `log_columns.keep_columns`.

    A folder KEY=VALUE on a file's path gives a column KEY if no file has a column of that name.

    Args:
        connection: where the view is made.
        relation: its name.
        setting: the config field the patterns come from, for messages.
        patterns: files, globs, URLs of files in an object store, or `tfds:NAME[:SPLIT]`.
        folder: for Parquet copies of other formats; it must exist as long as the view.
        csv: how CSV files are written.
        only: the part of the log that the view has, with the columns of all files; None: all.

    Returns:
        The files.

    Raises:
        FileNotFoundError: a pattern matches no file.
        ValueError: a file is of no known kind or cannot be read; names it.
    """
    import duckdb

    folder.mkdir(parents=True, exist_ok=True)
    files = log_files(setting, patterns, folder)
    wanted = set(files) if only is None else {rows.file for rows in only}
    let_engine_read(connection, files)
    parquet, copies, columns = [], [], {}
    for number, file in enumerate(files):
        if file.name.lower().endswith(_PARQUET):
            parquet.append(file)
            columns[file] = log_columns.parquet_columns(setting, file)
        else:
            copies.append(folder / f"{number:05d}.parquet")
            names = csv_reader.copy(connection, setting, file, copies[-1], csv, rows_too=file in wanted)
            columns[file] = [(name, "string") for name in names]
    log_columns.keep_columns(connection, relation, setting, columns)
    try:
        if parquet and "file_row_number" in _names(connection, parquet_files(parquet)):
            # The engine would take the log's column for its own number of the row.
            for number, file in enumerate(parquet):
                copies.append(folder / f"renumbered{number:05d}.parquet")
                few = "" if file in wanted else "LIMIT 0"
                connection.execute(
                    f"COPY (SELECT {literal(file)} AS {FILE}, row_number() OVER () AS {ROW}, "
                    f"NULL::VARCHAR AS {BROKEN}, * FROM {parquet_files(file)} {few}) "
                    f"TO {literal(copies[-1])} (FORMAT parquet)"
                )
            parquet = []
        parts = []
        if parquet:
            scan = parquet_files(parquet, f"filename = '{FILE}'")
            parts.append(
                f"SELECT {FILE}, file_row_number + 1 AS {ROW}, NULL::VARCHAR AS {BROKEN}, "
                f"* EXCLUDE ({FILE}) FROM {scan}"
            )
        if copies:
            parts.append(f"FROM {parquet_files(copies)}")
        rows = " UNION ALL BY NAME ".join(parts)
        of_path = _path_columns(connection, files, _names(connection, f"({rows})"))
        which = f" WHERE {_condition(only)}" if only else ""
        connection.execute(f"CREATE VIEW {relation} AS SELECT *{of_path} FROM ({rows}){which}")
        # Settings are bound to a table without rows: each look at the view would open all files.
        connection.execute(f"CREATE OR REPLACE TABLE {relation}_shape AS FROM {relation} LIMIT 0")
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error as error:
        raise ValueError(f"{setting}: the files cannot be read together: {first_line(error)}") from None
    return files


def _names(connection: duckdb.DuckDBPyConnection, source: str) -> set[str]:
    """Column names of a relation in small letters: the engine does not tell their case apart."""
    return {row[0].lower() for row in connection.execute(f"DESCRIBE FROM {source}").fetchall()}


def _path_columns(connection: duckdb.DuckDBPyConnection, files: Sequence[File], taken: set[str]) -> str:
    """SQL of a column for each KEY of the folders KEY=VALUE on the files' paths, but for names that are
    `taken`. It is a date, a moment or a whole number if all values are written as one, else a text."""
    found: dict[str, tuple[str, set[str]]] = {}  # by the name in small letters: as it is spelled, and values
    for file in files:
        for part in file.parts[:-1]:
            key, equals, value = part.partition("=")
            if equals and key and key.lower() not in taken:
                found.setdefault(key.lower(), (key, set()))[1].add(unquote(value))
    columns = ""
    for key, values in found.values():
        texts = literal(sorted(values - {"", _NO_VALUE}))
        for kind in ("DATE", "TIMESTAMP", "BIGINT", "VARCHAR"):
            same = f"bool_and(CAST(TRY_CAST(v AS {kind}) AS VARCHAR) IS NOT DISTINCT FROM v)"  # 007 is a text
            if connection.execute(f"SELECT {same} FROM (SELECT unnest({texts}) AS v)").fetchone()[0]:
                break
        value = f"url_decode(regexp_extract({FILE}, {literal(f'(?:^|/){re.escape(key)}=([^/]*)/')}, 1, 'i'))"
        value = f"nullif(nullif({value}, ''), '{_NO_VALUE}')"
        columns += f""", CAST({value} AS {kind}) AS "{key.replace('"', '""')}\""""
    return columns


def parquet_files(files: File | Sequence[File], options: str = "") -> str:
    """SQL that reads Parquet files: these and no others, and no column from their paths."""
    options = f", {options}" if options else ""
    return f"read_parquet({scanned(files)}, union_by_name = true, hive_partitioning = false{options})"


def restrict(
    connection: duckdb.DuckDBPyConnection, files: Sequence[File], folders: Sequence[Path | None]
) -> None:
    """Bar the engine from all files but these and those below these folders. Settings are SQL expressions,
    and a run's are read back from its workdir: they must reach no further than the log."""
    for setting, paths in (("paths", files), ("directories", [folder for folder in folders if folder])):
        allowed = [literal(path) for path in paths] + [scanned(path) for path in paths]
        connection.execute(f"SET allowed_{setting} = [{', '.join(allowed)}]")
    connection.execute("SET enable_external_access = false")


@contextlib.contextmanager
def engine(file: Path, limit: str, folder: Path) -> Generator[duckdb.DuckDBPyConnection, None, None]:
    """A connection to the engine. What it cannot do is a ValueError, which names a damaged file of the log or
    of the item table.

    Args:
        file: of its database.
        limit: data.memory_limit, for the message.
        folder: where it writes, for the message.
    """
    import duckdb

    def full(error: duckdb.Error) -> bool:
        return isinstance(error, duckdb.OutOfMemoryException) or "No space left" in str(error)

    try:
        with duckdb.connect(file) as connection:
            try:
                yield connection
            except duckdb.Error as error:
                if not full(error):
                    check_readable(connection, "log", "item_files")
                raise
    except duckdb.Error as error:
        what = f"ran out of memory (data.memory_limit = {limit}) or of disk" if full(error) else "failed"
        raise ValueError(f"the engine {what}, beside {folder}: {first_line(error)}") from None


def check_readable(connection: duckdb.DuckDBPyConnection, *relations: str) -> None:
    """Read every Parquet file of the relations from end to end, to name the one that an error came from.

    Raises:
        ValueError: a file is damaged.
    """
    import duckdb

    for relation in relations:
        try:
            files = connection.execute(f"SELECT DISTINCT {FILE} FROM {relation} ORDER BY ALL").fetchall()
        except duckdb.Error:  # there is no such relation
            continue
        for (file,) in files:
            if file.lower().endswith(_PARQUET):
                try:
                    source = RemoteFile(file, 0, "") if is_remote(file) else Path(file)
                    connection.execute(f"SELECT max(hash(f)) FROM {parquet_files(source)} AS f").fetchall()
                except duckdb.OutOfMemoryException:
                    return
                except duckdb.Error as error:
                    why = "it was changed, removed or damaged" if is_remote(file) else "it is damaged"
                    raise ValueError(
                        f"{file} cannot be read, {why}: {first_line(error)}; copy or write it again"
                    ) from None


def log_files(setting: str, patterns: Sequence[str], folder: Path) -> list[File]:
    """The files that the patterns name, each once, in the patterns' order and by name within a glob."""
    if not patterns:
        raise ValueError(f"{setting} is empty: name Parquet or CSV files, or globs of them")
    found: dict[File, None] = {}
    for pattern in patterns:
        if pattern.startswith("tfds:"):
            found[_tfds(setting, pattern, folder)] = None
            continue
        what = f"{setting} = {pattern!r}"
        if is_remote(pattern):
            files: list[File] = list(find(what, pattern))
        elif Path(pattern).is_dir():
            raise ValueError(f"{what} is a folder: write {pattern.rstrip('/')}/*.parquet")
        else:
            names = [pattern] if Path(pattern).is_file() else sorted(glob.glob(pattern, recursive=True))
            files = [Path(name) for name in names if Path(name).is_file()]
        if not files:
            where = "bucket or key" if is_remote(pattern) else f"working folder {Path.cwd()}"
            raise FileNotFoundError(f"{what}: no such file ({where})")
        for file in files:
            if not file.name.lower().endswith(_PARQUET + _CSV):
                known = " ".join(_PARQUET + _CSV)
                raise ValueError(
                    f"{setting}: {file} is of no known kind; its name must end in one of {known}"
                )
        found |= dict.fromkeys(files)
    return list(found)


def _tfds(setting: str, pattern: str, folder: Path) -> Path:
    from pinnerformer_jax.ingestion import tfds_in

    match = _TFDS.fullmatch(pattern)
    if match is None:
        raise ValueError(f"{setting} = {pattern!r}: write tfds:NAME or tfds:NAME:SPLIT")
    try:
        return tfds_in.export(match["name"], match["split"] or "", folder)
    except RuntimeError as error:
        raise ValueError(f"{setting}: {error}") from None
