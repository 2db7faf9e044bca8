"""The engine's own columns, and texts that it takes and gives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

FILE, ROW, BROKEN = "__file", "__row", "__broken"
"""Columns added to those of the log: the file's name; the row's number in it (in Parquet from 1, in CSV
the line, of which the header is 1); the text of a broken CSV line, whose other columns are null."""


def literal(value: str | Path | Sequence[str | Path]) -> str:
    """SQL literal of a text or of a list of texts."""
    if isinstance(value, str | Path):
        return "'" + str(value).replace("'", "''") + "'"
    return "[" + ", ".join(literal(part) for part in value) + "]"


def first_line(error: Exception) -> str:
    """DuckDB's message, without the SQL that it adds."""
    return str(error).strip().split("\n\nLINE ")[0].replace("\n", " ")
