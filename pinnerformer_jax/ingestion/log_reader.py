"""The files of a log as one DuckDB relation, each row with the file and row it came from.

Parquet is read in place. A CSV file is first copied to Parquet with every column as text, so
that an id such as 007 stays as it is; cast a column to compare it as a number
(`try_cast(quantity AS DOUBLE) > 0`). DuckDB copies it strictly and in parallel. A file it does not
read to the last line (too few or too many fields, a quote that never closes, bytes that are not
UTF-8, a value over several lines) is copied again by Python's csv module, which knows exactly which
lines are broken and carries on after them: csv_reader.py.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pinnerformer_jax.config import CsvConfig
from pinnerformer_jax.ingestion import csv_reader, log_columns
from pinnerformer_jax.ingestion.engine import BROKEN, FILE, ROW, first_line, literal

if TYPE_CHECKING:
    import duckdb

_PARQUET, _CSV = (".parquet",), (".csv", ".csv.gz", ".tsv", ".tsv.gz")
_TFDS = re.compile(r"tfds:(?P<name>[^:]+(:\d+\.\d+\.\d+)?)(:(?P<split>.+))?")
_DEFAULT = CsvConfig()


def open_log(
    connection: duckdb.DuckDBPyConnection,
    relation: str,
    setting: str,
    patterns: Sequence[str],
    folder: Path,
    csv: CsvConfig = _DEFAULT,
) -> None:
    """Create the view `relation` over all files that the patterns name, and the table of its columns, see
    `log_columns.keep_columns`.

    Args:
        connection: where the view is made.
        relation: its name.
        setting: the config field the patterns come from, for messages.
        patterns: files, globs, or `tfds:NAME[:SPLIT]`.
        folder: for Parquet copies of other formats; it must exist as long as the view.
        csv: how CSV files are written.

    Raises:
        FileNotFoundError: a pattern matches no file.
        ValueError: a file is of no known kind or cannot be read; names it.
    """
    import duckdb

    folder.mkdir(parents=True, exist_ok=True)
    parquet, copies, columns = [], [], {}
    for number, file in enumerate(log_files(setting, patterns, folder)):
        if file.name.lower().endswith(_PARQUET):
            parquet.append(file)
            columns[file] = log_columns.parquet_columns(setting, file)
        else:
            copies.append(folder / f"{number:05d}.parquet")
            names = csv_reader.copy(connection, setting, file, copies[-1], csv)
            columns[file] = [(name, "string") for name in names]
    log_columns.keep_columns(connection, relation, setting, columns)
    parts = []
    if parquet:
        parts.append(
            f"SELECT {FILE}, file_row_number + 1 AS {ROW}, NULL::VARCHAR AS {BROKEN}, * EXCLUDE ({FILE}) "
            f"FROM read_parquet({literal(parquet)}, union_by_name = true, filename = '{FILE}')"
        )
    if copies:
        parts.append(f"FROM read_parquet({literal(copies)}, union_by_name = true, hive_partitioning = false)")
    try:
        connection.execute(f"CREATE VIEW {relation} AS {' UNION ALL BY NAME '.join(parts)}")
        # Settings are bound to a table without rows: each look at the view would open all files.
        connection.execute(f"CREATE OR REPLACE TABLE {relation}_shape AS FROM {relation} LIMIT 0")
    except duckdb.Error as error:
        raise ValueError(f"{setting}: the files cannot be read together: {first_line(error)}") from None


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
