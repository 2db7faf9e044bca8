"""CSV files copied to Parquet, every column as text.

DuckDB copies a file strictly and in parallel. A file that it does not read to the last line is copied again
by Python's csv module, which knows exactly which lines are broken and carries on after them. A file in
another encoding than UTF-8, or whose lines end in CR alone, is written anew as UTF-8 with LF first.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import gzip
import itertools
import re
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from pinnerformer_jax.config import CsvConfig
from pinnerformer_jax.ingestion.engine import BROKEN, FILE, ROW, first_line, literal, scanned
from pinnerformer_jax.ingestion.log_columns import engine_names
from pinnerformer_jax.remote_files import File, open_bytes

if TYPE_CHECKING:
    import duckdb

MAX_LINE = 1 << 21
"""Bytes of the longest line, and of the longest record, whose fields may have line breaks. What is longer is
broken, and no more of it is read at a time."""

MAX_LINES = 2_500
"""Lines of the longest record: where a quote never closes, no more are read to find that out."""

NOT_UTF8 = "byte %s is not UTF-8: "
"""What the text of a line that is not UTF-8 begins with."""

_SHOWN = 10_000  # characters of a broken line
_BATCH, _BATCH_BYTES = 1 << 16, 1 << 25  # rows copied at a time, and their bytes in the file


def copy(
    connection: duckdb.DuckDBPyConnection,
    setting: str,
    file: File,
    target: Path,
    dialect: CsvConfig,
    *,
    rows_too: bool = True,
) -> list[str]:
    """Copy a CSV file to Parquet.

    Args:
        connection: the engine.
        setting: the config field that names the file, for messages.
        file: plain or .gz.
        target: to write; its columns are FILE, ROW, BROKEN and the file's, by the engine's names.
        dialect: delimiter and encoding.
        rows_too: False: the columns alone.

    Returns:
        The names of its columns, as its header spells them.

    Raises:
        ValueError: the file cannot be read.
    """
    import duckdb

    copy_of_text = target.with_suffix(".csv")
    try:
        source = _as_utf8(file, dialect.encoding, copy_of_text, whole=rows_too)
        names, delimiter, lines = _header(source, dialect.delimiter)
        called = engine_names(names)
        if not rows_too:
            _copy_records([], file, called, target)
            return names
        columns = "{" + ", ".join(f"{literal(name)}: 'VARCHAR'" for name in called) + "}"
        try:
            (rows,) = connection.execute(
                f"COPY (SELECT {literal(file)} AS {FILE}, row_number() OVER () + {lines} AS {ROW}, "
                f"NULL::VARCHAR AS {BROKEN}, * FROM read_csv({scanned(source)}, auto_detect = false, "
                f"hive_partitioning = false, header = true, delim = {literal(delimiter)}, "
                f"quote = '\"', escape = '\"', max_line_size = {MAX_LINE}, columns = {columns})) "
                f"TO {literal(target)} (FORMAT parquet)"
            ).fetchone()
        except duckdb.OutOfMemoryException:  # by a quote that never closes in a long file
            rows = None
        except duckdb.OperationalError:  # no space: another reader would not do better
            raise
        except duckdb.Error:
            rows = None
        # DuckDB can lose what follows a quote that never closes without a word: count the lines.
        if rows is None or rows + lines != _count_lines(source):
            _copy_line_by_line(file, source, called, delimiter, lines, target)
    except UnicodeDecodeError as error:  # of the header
        place = f"byte {error.start} is not UTF-8"
        cure = f"set {_section(setting)}.csv.encoding, such as latin-1 or utf-16"
        raise ValueError(f"{setting}: {file} cannot be read: {place}: {cure}") from None
    except (OSError, EOFError, ValueError, csv.Error, duckdb.Error) as error:
        raise ValueError(f"{setting}: {file} cannot be read: {first_line(error)}") from None
    finally:
        copy_of_text.unlink(missing_ok=True)
    return names


def _section(setting: str) -> str:
    return "items" if setting.startswith("items") else "data"


@contextlib.contextmanager
def open_text(file: File) -> Generator[gzip.GzipFile | IO[bytes], None, None]:
    """The bytes of a file, unpacked."""
    with open_bytes(file) as data:
        yield gzip.GzipFile(fileobj=data) if file.name.lower().endswith(".gz") else data


def _as_utf8(file: File, encoding: str, copy: Path, *, whole: bool) -> Path:
    """The file; or `copy`, written anew, if it is in another encoding, its lines end in CR alone, or it is in
    an object store: then all is read once. Not `whole`: the beginning alone is written."""
    as_it_is = codecs.lookup(encoding).name in ("utf-8", "utf-8-sig", "ascii")
    blocks = _blocks(file, None if as_it_is else encoding)
    start = next(blocks)
    ends = re.search(rb"\r\n|\r(?=.)|\n", re.sub(rb'"[^"]*"?', b"", start), re.DOTALL)
    mac = ends is not None and ends[0] == b"\r"
    if as_it_is and not mac and isinstance(file, Path):
        return file
    with open(copy, "wb") as out:
        for block in itertools.chain([start], blocks if whole else ()):
            out.write(block.replace(b"\r", b"\n") if mac else block)
    return copy


def _blocks(file: File, encoding: str | None) -> Iterator[bytes]:
    """The bytes of a file in UTF-8, in blocks, at least one; without an encoding, as they are."""
    decoder = codecs.getincrementaldecoder(encoding)() if encoding else None
    end = 0
    with open_text(file) as data:
        while True:
            block = data.read(MAX_LINE)
            end += len(block)
            try:
                yield decoder.decode(block, final=not block).encode() if decoder else block
            except UnicodeDecodeError as error:
                place = end - len(error.object) + error.start
                raise ValueError(f"byte {place} is not {encoding}: {error.reason}") from None
            if not block:
                return


def _header(file: Path, given: str) -> tuple[list[str], str, int]:
    """Column names; the delimiter; the lines that the header takes, as a name may have line breaks.

    The delimiter is `given`, or that of comma, tab, semicolon and bar which the header has most of outside of
    quotes.
    """
    with open_text(file) as data:
        lines: list[str] = []
        size = quotes = 0
        for line in itertools.islice(_lines(data), MAX_LINES):
            size += len(line.data)
            if size > MAX_LINE:
                if lines:  # a quote that never closes
                    break
                raise ValueError(f"line {line.number} is longer than {MAX_LINE:,} bytes")
            try:
                lines.append(line.data.decode("utf-8"))
            except UnicodeDecodeError as error:
                if lines:  # it is no header any more
                    break
                start = line.start + error.start
                raise UnicodeDecodeError("utf-8", error.object, start, start + 1, error.reason) from None
            quotes += lines[-1].count('"')
            if quotes % 2 == 0:
                break
    if not lines or not (first := lines[0].removeprefix("\ufeff")).rstrip("\r\n"):
        raise ValueError("it does not start with a header of column names")
    lines[0] = first
    text = "".join(lines)
    if quotes % 2:  # a quote that never closes is a letter
        lines, text = [first.rstrip("\r\n")], first.replace('"', "")
    csv.field_size_limit(MAX_LINE)
    delimiter = given or max(",\t;|", key=re.sub(r'"[^"]*"', "", text).count)
    reader = csv.reader(lines, delimiter=delimiter)
    names = [name or f"column{k}" for k, name in enumerate(next(reader))]
    twice = [name for k, name in enumerate(names) if name in names[:k]]
    if twice:
        raise ValueError(f"its header names {twice[0]!r} twice")
    return names, delimiter, reader.line_num


def _count_lines(file: Path) -> int:
    count, block = 0, b"\n"
    with open_text(file) as data:
        while new := data.read(1 << 20):
            block = new
            count += block.count(b"\n")
    return count + (not block.endswith(b"\n"))


def _copy_line_by_line(
    file: File, source: Path, names: list[str], delimiter: str, header: int, target: Path
) -> None:
    """Copy a CSV file that has broken lines, or values over several lines, to Parquet."""
    _copy_records(_records(source, delimiter, header, len(names)), file, names, target)


def _copy_records(
    records: Iterable[tuple[int, tuple[Any, ...]]], file: File, names: list[str], target: Path
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {FILE: pa.string(), ROW: pa.int64(), BROKEN: pa.string()} | dict.fromkeys(names, pa.string())
    schema = pa.schema(types.items())
    with pq.ParquetWriter(target, schema) as writer:
        for rows in _batches(records):
            rows = ((str(file), *row) for row in rows)
            columns = [pa.array(c, t) for c, t in zip(zip(*rows, strict=True), types.values(), strict=True)]
            writer.write_batch(pa.record_batch(columns, schema=schema))


def _batches(records: Iterable[tuple[int, tuple[Any, ...]]]) -> Iterator[list[tuple[Any, ...]]]:
    """Rows, as many at a time as memory holds with any length of lines."""
    rows: list[tuple[Any, ...]] = []
    size = 0
    for length, row in records:
        rows.append(row)
        size += length
        if len(rows) == _BATCH or size > _BATCH_BYTES:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows


class _Line(NamedTuple):
    number: int  # from 1
    start: int  # place of its first byte in the file, from 0
    data: bytes  # of a line longer than MAX_LINE, one byte more than that


def _lines(file: gzip.GzipFile | IO[bytes]) -> Iterator[_Line]:
    start = 0
    for number in itertools.count(1):
        line = part = file.readline(MAX_LINE + 1)
        if not line:
            return
        length = len(line)
        while len(part) > MAX_LINE and not part.endswith(b"\n"):
            part = file.readline(MAX_LINE + 1)
            length += len(part)
        yield _Line(number, start, line)
        start += length


def _records(file: Path, delimiter: str, header: int, width: int) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Bytes and (line number, text if the line is broken, fields...) of each record after the header. An
    empty field is None. After a broken line, reading resumes at the next line, even if the broken one opened
    a quote."""
    csv.field_size_limit(MAX_LINE)
    with open_text(file) as data:
        lines = itertools.islice(_lines(data), header, None)
        again: deque[_Line] = deque()
        taken: list[_Line] = []
        size = 0  # of what was taken

        def feed() -> Iterator[str]:
            nonlocal size
            while line := (again.popleft() if again else next(lines, None)):
                taken.append(line)
                size += len(line.data)
                if len(taken) > MAX_LINES or size > MAX_LINE:
                    raise csv.Error("too long")
                yield line.data.decode("utf-8")

        reader = csv.reader(feed(), delimiter=delimiter, strict=True)
        while True:
            taken.clear()
            size, fields, note = 0, None, ""
            try:
                fields = next(reader)
            except StopIteration:
                return
            except UnicodeDecodeError as error:
                note = NOT_UTF8 % (taken[-1].start + error.start)
            except csv.Error:
                pass
            line = taken[0]
            if fields is not None and len(fields) == width:
                yield size, (line.number, None, *(field or None for field in fields))
            elif fields != []:  # not a blank line
                text = line.data.decode("utf-8", "replace").rstrip("\r\n")
                text = text[:_SHOWN] + "..." if len(text) > _SHOWN else text
                yield len(text), (line.number, note + text, *[None] * width)
                again.extendleft(reversed(taken[1:]))
                reader = csv.reader(feed(), delimiter=delimiter, strict=True)
