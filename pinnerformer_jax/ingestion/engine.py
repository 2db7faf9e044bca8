"""The engine's own columns, and texts that it takes and gives."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence

from pinnerformer_jax.remote_files import File

_PROCESS = secrets.token_hex(8)
FILE, ROW, BROKEN, IN_SCOPE = (f"__{name}_{_PROCESS}" for name in ("file", "row", "broken", "in_scope"))
"""Columns added to those of the log: the file's name; the row's number in it (in Parquet from 1, in CSV
the line, of which the header is 1); the text of a broken CSV line, whose other columns are null; and whether
`data.where` holds. Each process draws their names, so that no log has a column of the same name."""


def literal(value: str | File | Sequence[str | File]) -> str:
    """SQL literal of a text or of a list of texts."""
    if isinstance(value, str | File):
        return "'" + str(value).replace("'", "''") + "'"
    return "[" + ", ".join(literal(part) for part in value) + "]"


def scanned(files: File | Sequence[File]) -> str:
    """SQL literal of files to read, whose names the engine does not take for patterns."""
    if not isinstance(files, File):
        return "[" + ", ".join(scanned(file) for file in files) + "]"
    name = re.sub(r"[*?[]", r"[\g<0>]", str(files))
    if name != str(files) and "\\" in name:
        raise ValueError(f"{files}: a name with a backslash beside any of * ? [ cannot be read: rename it")
    return literal(name)


def first_line(error: Exception) -> str:
    """DuckDB's message, without the SQL that it adds; of an error within Python its last line."""
    text = str(error).strip().split("\n\nLINE ")[0]
    return text.splitlines()[-1] if text.startswith("Traceback ") else text.replace("\n", " ")
