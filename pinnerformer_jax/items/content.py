"""What is known of the items besides who engaged with them, as numbers."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from pinnerformer_jax.config import Config, ItemsConfig
from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.data.catalog_writer import read_item_table
from pinnerformer_jax.data.item_vectors import TextBasis, project_texts
from pinnerformer_jax.data.log_reader import literal


def item_texts(config: Config, catalog: Catalog) -> list[str]:
    """Title, topic and items.text of each item, "" where there is nothing, as at ingest."""
    import duckdb

    items = config.items if config.items.text else ItemsConfig()  # the catalogue has the other two
    file = literal(catalog.path / "items.parquet")
    with duckdb.connect() as connection, tempfile.TemporaryDirectory() as work:
        (kind,) = connection.execute(f"SELECT any_value(typeof(item_id)) FROM {file}").fetchone()
        read_item_table(connection, items, kind, Path(work))
        rows = connection.execute(
            f"""
            SELECT trim(concat_ws(' ', c.title, c.topic, t.text))
            FROM read_parquet({file}, file_row_number = true) AS c LEFT JOIN item_table AS t USING (item_id)
            ORDER BY file_row_number"""
        ).fetchall()
    return [text for (text,) in rows]


def content_features(
    config: Config, catalog: Catalog, texts: list[str], basis: TextBasis | None
) -> Float32[np.ndarray, "n f"]:
    """Given vectors and text vectors side by side, each of unit norm, or zero where an item has none.

    Args:
        config: says whether vectors were given.
        catalog: of the prepared data.
        texts: of its items.
        basis: of the text vectors; None: texts are no part of it.

    Raises:
        ValueError: nothing is known of any item.
    """
    parts = [] if basis is None else [project_texts(basis, texts)]
    if config.items.vector:
        parts.append(np.asarray(catalog.features, np.float32))
    if not parts:
        raise ValueError(
            "the items have neither text nor given vectors: name data.columns.title, or items.table with "
            "items.title, items.text or items.vector, and run ingest; or take --method svd"
        )
    return np.concatenate(parts, axis=1)
