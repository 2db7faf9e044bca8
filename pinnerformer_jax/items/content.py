"""Content of the items as numbers: text, given vectors and the columns of pinsage.numbers."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64

from pinnerformer_jax.config import Config, ItemsConfig
from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.ingestion.event_mapping import bind
from pinnerformer_jax.ingestion.item_reader import exact_id, open_item_files, read_item_table
from pinnerformer_jax.ingestion.item_vectors import TextBasis, project_texts
from pinnerformer_jax.ingestion.log_reader import restrict

if TYPE_CHECKING:
    import duckdb

MOST_DEVIATIONS = 5.0
"""Numbers further from the mean than so many standard deviations count as so far."""


class Scale(NamedTuple):
    """Of each number, over the items of the training period that have it."""

    mean: np.ndarray  # float64 [K]
    deviation: np.ndarray  # float64 [K]


def item_texts(config: Config, catalog: Catalog) -> list[str]:
    """Title, topic and items.text (categories too) of each item, "" where there is nothing, as at ingest."""
    items = config.items if config.items.text else ItemsConfig()  # the catalogue has the other two
    with _item_table(items, catalog) as (connection, _):
        rows = connection.execute(
            """
            SELECT trim(concat_ws(' ', c.title, c.topic, t.text))
            FROM catalogue AS c LEFT JOIN item_table AS t USING (item_id) ORDER BY number"""
        ).fetchall()
    return [text for (text,) in rows]


def item_numbers(config: Config, catalog: Catalog) -> Float64[np.ndarray, "n k"]:
    """pinsage.numbers of each item, NaN where there is none.

    Raises:
        ValueError: no item table is named, or it has no such column.
    """
    wanted = config.pinsage.numbers
    if not wanted:
        return np.zeros((catalog.items, 0))
    if not config.items.table:
        raise ValueError(f"pinsage.numbers = {wanted}: name items.table, which they are columns of")
    with _item_table(config.items, catalog) as (connection, kind):
        item, *numbers = (
            bind(connection, "item_files", setting, expression)
            for setting, expression in [
                ("items.id", config.items.id),
                *[("pinsage.numbers", n) for n in wanted],
            ]
        )
        columns = ", ".join(f"TRY_CAST({sql} AS DOUBLE) AS number_{k}" for k, (sql, _) in enumerate(numbers))
        found = connection.execute(
            f"""
            SELECT t.* EXCLUDE item_id FROM catalogue AS c LEFT JOIN
                (SELECT {exact_id(*item, kind)} AS item_id, {columns} FROM item_files) AS t USING (item_id)
            ORDER BY number"""
        ).fetchnumpy()
    for name, (_, of), column in zip(wanted, numbers, found.values(), strict=True):
        if of == "VARCHAR" and np.isnan(np.ma.filled(column.astype(float), np.nan)).all():
            raise ValueError(f"pinsage.numbers = {wanted}: {name!r} is a text, and no item's is a number")
    values = np.stack([np.ma.filled(column.astype(float), np.nan) for column in found.values()], axis=1)
    return np.where(np.isfinite(values), values, np.nan)


def scale_of(numbers: Float64[np.ndarray, "n k"], trained: Bool[np.ndarray, " n"]) -> Scale:
    """Mean and standard deviation over items of the training period; 0 and 1 where none has it."""
    known = np.ma.masked_invalid(numbers[trained])
    deviation = np.ma.filled(known.std(axis=0), 0.0)
    return Scale(np.ma.filled(known.mean(axis=0), 0.0), np.where(deviation > 0, deviation, 1.0))


def standardise(numbers: Float64[np.ndarray, "n k"], scale: Scale) -> Float32[np.ndarray, "n 2*k"]:
    """The numbers, 0 where there is none, and beside them 1 where there is one."""
    there = np.isfinite(numbers)
    away = np.clip((numbers - scale.mean) / scale.deviation, -MOST_DEVIATIONS, MOST_DEVIATIONS)
    return np.concatenate([np.where(there, away, 0), there], axis=1).astype(np.float32)


def content_features(
    config: Config,
    catalog: Catalog,
    texts: list[str],
    basis: TextBasis | None,
    numbers: Float32[np.ndarray, "n k"],
) -> Float32[np.ndarray, "n f"]:
    """Text vectors, given vectors and numbers side by side. A number is about 1 in size; a row of vectors, or
    all of it, is zero where an item has none.

    Args:
        config: says whether vectors were given.
        catalog: of the prepared data.
        texts: of its items.
        basis: of the text vectors; None: texts are no part of it.
        numbers: of its items, see `standardise`; may have no column.

    Raises:
        ValueError: nothing is known of any item.
    """
    parts = [] if basis is None else [project_texts(basis, texts)]
    if config.items.vector:
        parts.append(np.asarray(catalog.features, np.float32))
    if not parts and not numbers.size:
        raise ValueError(
            "the items have neither text nor given vectors nor numbers: name data.columns.title, or "
            "items.table with items.title, items.text or items.vector, and run ingest; or pinsage.numbers; "
            "or take --method svd"
        )
    return np.concatenate([*(part * part.shape[1] ** 0.5 for part in parts), numbers], axis=1)


@contextlib.contextmanager
def _item_table(
    items: ItemsConfig, catalog: Catalog
) -> Generator[tuple[duckdb.DuckDBPyConnection, str], None, None]:
    """A connection with the item table, see `read_item_table`, and the view `catalogue` (number, item_id,
    title, topic); the type of ids."""
    import duckdb

    with duckdb.connect() as connection, tempfile.TemporaryDirectory() as work:
        connection.register("catalogue", catalog.to_arrow())
        (kind,) = connection.execute("SELECT any_value(typeof(item_id)) FROM catalogue").fetchone()
        restrict(connection, open_item_files(connection, items, Path(work)), [Path(work)])
        read_item_table(connection, items, kind)
        yield connection, kind
