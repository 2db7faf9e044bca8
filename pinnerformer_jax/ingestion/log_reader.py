"""The files of a log as one DuckDB relation, each row with the file and row it came from.

Parquet is read in place. A CSV file is first copied to Parquet with every column as text, so
that an id such as 007 stays as it is; cast a column to compare it as a number
(`try_cast(quantity AS DOUBLE) > 0`). DuckDB copies it strictly and in parallel. A file it does not
read to the last line (too few or too many fields, a quote that never closes, bytes that are not
UTF-8, a value over several lines) is copied again by Python's csv module, which knows exactly which
lines are broken and carries on after them.
"""

from __future__ import annotations

import contextlib
import csv
import glob
import gzip
import itertools
import re
import secrets
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import unquote

if TYPE_CHECKING:
    import duckdb

_PROCESS = secrets.token_hex(8)
FILE, ROW, BROKEN, IN_SCOPE = (f"__{name}_{_PROCESS}" for name in ("file", "row", "broken", "in_scope"))
"""Columns added to those of the log: the file's name; the row's number in it (in Parquet from 1, in CSV
the line, of which the header is 1); the text of a broken CSV line, whose other columns are null; and whether
`data.where` holds. Each process draws their names, so that no log has a column of the same name."""

_PARQUET, _CSV = (".parquet",), (".csv", ".csv.gz", ".tsv", ".tsv.gz")
_TFDS = re.compile(r"tfds:(?P<name>[^:]+(:\d+\.\d+\.\d+)?)(:(?P<split>.+))?")
_BATCH = 1 << 16  # rows copied at a time
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"  # in a folder's name: null


def open_log(
    connection: duckdb.DuckDBPyConnection, relation: str, setting: str, patterns: Sequence[str], folder: Path
) -> list[Path]:
    """Create the view `relation` over all files that the patterns name.

    A folder KEY=VALUE on a file's path gives a column KEY if no file has a column of that name.

    Args:
        connection: where the view is made.
        relation: its name.
        setting: the config field the patterns come from, for messages.
        patterns: files, globs, or `tfds:NAME[:SPLIT]`.
        folder: for Parquet copies of other formats; it must exist as long as the view.

    Returns:
        The files.

    Raises:
        FileNotFoundError: a pattern matches no file.
        ValueError: a file is of no known kind or cannot be read; names it.
    """
    import duckdb

    folder.mkdir(parents=True, exist_ok=True)
    files = log_files(setting, patterns, folder)
    parquet = [file for file in files if file.name.lower().endswith(_PARQUET)]
    copies = []
    for number, file in enumerate(files):
        if file not in parquet:
            copies.append(folder / f"{number:05d}.parquet")
            _copy_csv(connection, setting, file, copies[-1])
    try:
        if parquet and "file_row_number" in _names(connection, parquet_files(parquet)):
            # The engine would take the log's column for its own number of the row.
            for number, file in enumerate(parquet):
                copies.append(folder / f"renumbered{number:05d}.parquet")
                connection.execute(
                    f"COPY (SELECT {literal(file)} AS {FILE}, row_number() OVER () AS {ROW}, "
                    f"NULL::VARCHAR AS {BROKEN}, * FROM {parquet_files(file)}) "
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
        connection.execute(f"CREATE VIEW {relation} AS SELECT *{of_path} FROM ({rows})")
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error as error:
        raise ValueError(f"{setting}: the files cannot be read together: {first_line(error)}") from None
    return files


def _names(connection: duckdb.DuckDBPyConnection, source: str) -> set[str]:
    """Column names of a relation in small letters: the engine does not tell their case apart."""
    return {row[0].lower() for row in connection.execute(f"DESCRIBE FROM {source}").fetchall()}


def _path_columns(connection: duckdb.DuckDBPyConnection, files: Sequence[Path], taken: set[str]) -> str:
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


def parquet_files(files: Path | Sequence[Path], options: str = "") -> str:
    """SQL that reads Parquet files: these and no others, and no column from their paths."""
    options = f", {options}" if options else ""
    return f"read_parquet({_scanned(files)}, union_by_name = true, hive_partitioning = false{options})"


def _scanned(files: Path | Sequence[Path]) -> str:
    """SQL literal of files to read, whose names the engine does not take for patterns."""
    if not isinstance(files, Path):
        return "[" + ", ".join(_scanned(file) for file in files) + "]"
    name = re.sub(r"[*?[]", r"[\g<0>]", str(files))
    if name != str(files) and "\\" in name:
        raise ValueError(f"{files}: a name with a backslash beside any of * ? [ cannot be read: rename it")
    return literal(name)


def restrict(
    connection: duckdb.DuckDBPyConnection, files: Sequence[Path], folders: Sequence[Path | None]
) -> None:
    """Bar the engine from all files but these and those below these folders. Settings are SQL expressions,
    and a run's are read back from its workdir: they must reach no further than the log."""
    for setting, paths in (("paths", files), ("directories", [folder for folder in folders if folder])):
        allowed = [literal(path) for path in paths] + [_scanned(Path(path)) for path in paths]
        connection.execute(f"SET allowed_{setting} = [{', '.join(allowed)}]")
    connection.execute("SET enable_external_access = false")


@contextlib.contextmanager
def engine_errors(
    connection: duckdb.DuckDBPyConnection, limit: str, folder: Path
) -> Generator[None, None, None]:
    """What the engine cannot do is a ValueError. It names a damaged file of the log or of the item table.

    Args:
        connection: where the relations of `open_log` are.
        limit: data.memory_limit, for the message.
        folder: where the engine writes, for the message.
    """
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        full = isinstance(error, duckdb.OutOfMemoryException) or "No space left" in str(error)
        if not full:
            check_readable(connection, "log", "item_files")
        what = f"ran out of memory (data.memory_limit = {limit}) or of disk" if full else "failed"
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
                    connection.execute(
                        f"SELECT max(hash(f)) FROM {parquet_files(Path(file))} AS f"
                    ).fetchall()
                except duckdb.OutOfMemoryException:
                    return
                except duckdb.Error as error:
                    raise ValueError(
                        f"{file} cannot be read, it is damaged: {first_line(error)}; copy or write it again"
                    ) from None


def literal(value: str | Path | Sequence[str | Path]) -> str:
    """SQL literal of a text or of a list of texts."""
    if isinstance(value, str | Path):
        return "'" + str(value).replace("'", "''") + "'"
    return "[" + ", ".join(literal(part) for part in value) + "]"


def first_line(error: Exception) -> str:
    """DuckDB's message, without the SQL that it adds."""
    return str(error).strip().split("\n\nLINE ")[0].replace("\n", " ")


def log_files(setting: str, patterns: Sequence[str], folder: Path) -> list[Path]:
    """The files that the patterns name, each once, in the patterns' order and by name within a glob."""
    if not patterns:
        raise ValueError(f"{setting} is empty: name Parquet or CSV files, or globs of them")
    found: dict[Path, None] = {}
    for pattern in patterns:
        if pattern.startswith("tfds:"):
            found[_tfds(setting, pattern, folder)] = None
            continue
        if Path(pattern).is_dir():
            raise ValueError(f"{setting} = {pattern!r} is a folder: write {pattern.rstrip('/')}/*.parquet")
        names = [pattern] if Path(pattern).is_file() else sorted(glob.glob(pattern, recursive=True))
        files = [Path(name) for name in names if Path(name).is_file()]
        if not files:
            raise FileNotFoundError(f"{setting} = {pattern!r}: no such file (working folder {Path.cwd()})")
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


def _copy_csv(connection: duckdb.DuckDBPyConnection, setting: str, file: Path, target: Path) -> None:
    """Copy a CSV file to Parquet, every column as text."""
    import duckdb

    try:
        names, delimiter = _header(file)
        columns = "{" + ", ".join(f"{literal(name)}: 'VARCHAR'" for name in names) + "}"
        try:
            (rows,) = connection.execute(
                f"COPY (SELECT {literal(file)} AS {FILE}, row_number() OVER () + 1 AS {ROW}, "
                f"NULL::VARCHAR AS {BROKEN}, * FROM read_csv({_scanned(file)}, auto_detect = false, "
                f"hive_partitioning = false, header = true, delim = {literal(delimiter)}, quote = '\"', "
                f"escape = '\"', columns = {columns})) TO {literal(target)} (FORMAT parquet)"
            ).fetchone()
        except duckdb.OperationalError:  # no space, no memory: another reader would not do better
            raise
        except duckdb.Error:
            rows = None
        # DuckDB can lose what follows a quote that never closes without a word: count the lines.
        if rows is None or rows + 1 != _count_lines(file):
            _copy_line_by_line(file, names, delimiter, target)
    except (OSError, EOFError, ValueError, duckdb.Error) as error:
        raise ValueError(f"{setting}: {file} cannot be read: {first_line(error)}") from None


def _open(file: Path) -> gzip.GzipFile | IO[bytes]:
    return gzip.open(file, "rb") if file.name.lower().endswith(".gz") else open(file, "rb")


def _header(file: Path) -> tuple[list[str], str]:
    """Column names, and the delimiter: of comma, tab, semicolon and bar the one the header has most of."""
    with _open(file) as lines:
        line = lines.readline().decode("utf-8-sig").rstrip("\r\n")
    if not line:
        raise ValueError("it does not start with a header of column names")
    delimiter = max(",\t;|", key=line.count)
    names = [name or f"column{k}" for k, name in enumerate(next(csv.reader([line], delimiter=delimiter)))]
    twice = [name for k, name in enumerate(names) if name.lower() in [n.lower() for n in names[:k]]]
    if twice:
        raise ValueError(f"its header names {twice[0]!r} twice")
    return names, delimiter


def _count_lines(file: Path) -> int:
    count, block = 0, b"\n"
    with _open(file) as data:
        while new := data.read(1 << 20):
            block = new
            count += block.count(b"\n")
    return count + (not block.endswith(b"\n"))


def _copy_line_by_line(file: Path, names: list[str], delimiter: str, target: Path) -> None:
    """Copy a CSV file that has broken lines, or values over several lines, to Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {FILE: pa.string(), ROW: pa.int64(), BROKEN: pa.string()} | dict.fromkeys(names, pa.string())
    schema = pa.schema(types.items())
    records = _records(file, delimiter, len(names))
    with pq.ParquetWriter(target, schema) as writer:
        while rows := [(str(file), *record) for record in itertools.islice(records, _BATCH)]:
            columns = [pa.array(c, t) for c, t in zip(zip(*rows, strict=True), types.values(), strict=True)]
            writer.write_batch(pa.record_batch(columns, schema=schema))


def _records(file: Path, delimiter: str, width: int) -> Iterator[tuple[Any, ...]]:
    """(line number, text if the line is broken, fields...) of each record after the header; an empty field is
    None. After a broken line, reading resumes at the next line, even if the broken one opened a quote."""
    with _open(file) as data:
        numbered = enumerate(data, start=1)
        next(numbered)  # the header
        again: deque[tuple[int, bytes]] = deque()
        taken: list[tuple[int, bytes]] = []

        def feed() -> Iterator[str]:
            while line := (again.popleft() if again else next(numbered, None)):
                taken.append(line)
                yield line[1].decode("utf-8")

        reader = csv.reader(feed(), delimiter=delimiter, strict=True)
        while True:
            taken.clear()
            try:
                fields = next(reader)
            except StopIteration:
                return
            except (csv.Error, UnicodeDecodeError):
                fields = None
            number, text = taken[0]
            if fields is not None and len(fields) == width:
                yield number, None, *(field or None for field in fields)
            elif fields != []:  # not a blank line
                yield number, text.decode("utf-8", "replace").rstrip("\r\n"), *[None] * width
                again.extendleft(reversed(taken[1:]))
                reader = csv.reader(feed(), delimiter=delimiter, strict=True)
