"""Lists of users that a person writes for the daily job (--users, --tombstones): ids, one a line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pinnerformer_jax.ingestion.log_reader import parquet_files

if TYPE_CHECKING:
    import pyarrow as pa


class UserList(NamedTuple):
    """The ids of a list, in the type that they have in the data."""

    ids: pa.Array
    unknown: list[str]  # lines whose id no data have


def read_list(file: Path, user_type: pa.DataType, data: Sequence[Path], others: pa.Array) -> UserList:
    """Read a list. Blank lines do not count. Blanks around an id do if a user of the data has them in the id.

    Args:
        file: text in UTF-8.
        user_type: of the ids in the data.
        data: Parquet files with a column user_id of all known users.
        others: ids that are known besides.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is not UTF-8, or a line is no id of that type.
    """
    import duckdb
    import pyarrow as pa

    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: byte {error.start + 1} is not UTF-8; save the list as UTF-8") from None
    lines = [line.rstrip("\r") for line in text.split("\n") if line.strip()]
    stripped = [line.strip() for line in lines]
    try:
        exact = pa.array(lines if pa.types.is_string(user_type) else stripped, pa.string()).cast(user_type)
        bare = pa.array(stripped, pa.string()).cast(user_type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"{file}: user ids are of type {user_type}, one a line: {error}") from None
    with duckdb.connect() as connection:
        named = pa.table({"line": range(len(lines)), "exact": exact, "bare": bare})
        connection.register("named", named)
        connection.register("others", pa.table({"user_id": others}))
        found = connection.sql(
            f"""
            WITH known AS (
                SELECT user_id FROM {parquet_files(data)} UNION ALL SELECT user_id FROM others
            ), found AS (
                SELECT DISTINCT user_id FROM known
                WHERE user_id IN (SELECT exact FROM named UNION ALL SELECT bare FROM named)
            )
            SELECT coalesce(a.user_id, bare) AS id, coalesce(a.user_id, b.user_id) IS NOT NULL AS known
            FROM named LEFT JOIN found AS a ON exact = a.user_id LEFT JOIN found AS b ON bare = b.user_id
            ORDER BY line"""
        ).to_arrow_table()
    unknown = [line for line, known in zip(lines, found["known"].to_pylist(), strict=True) if not known]
    return UserList(found["id"].combine_chunks().cast(user_type), unknown)


def names(ids: Sequence[str], most: int = 20) -> str:
    """Ids in a message: all of a few, the first of many."""
    more = f" and {len(ids) - most:,} more" if len(ids) > most else ""
    return ", ".join(repr(name) for name in ids[:most]) + more
