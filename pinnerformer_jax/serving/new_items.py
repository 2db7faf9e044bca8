"""Items that came after the training. The item tower needs nothing of an item but its vector, so one that has
it is recommended, and counts in its users' histories, from the same night on.

    new_items.parquet     item_id (as it came), title, features fixed_size_list<float16>[D_item], unit rows;
                          in the order of their coming, so that they are numbered on from the catalogue

They stay with the states of the data whose catalogue they follow: prepared data of a new training have a
catalogue, and perhaps vectors, of their own.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pinnerformer_jax.config import ItemsConfig
from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.files import sha256
from pinnerformer_jax.ingestion.catalog_writer import read_item_table, write_given
from pinnerformer_jax.ingestion.log_reader import literal
from pinnerformer_jax.serving.snapshot import lists, rows_of

if TYPE_CHECKING:
    import pyarrow as pa

FILE = "new_items.parquet"

LEAST_COSINE = 0.5
"""Mean over the items that both sides know, of old and new vectors: below, they are of different making."""


def checksum(source: Path) -> str:
    """Of an item table, or of the manifest of a prepared folder, which has those of its files.

    Raises:
        FileNotFoundError: it is neither.
    """
    file = source / "manifest.json" if source.is_dir() else source
    if not file.is_file():
        raise FileNotFoundError(f"--items {source}: neither an item table nor a prepared folder")
    return sha256(file)


def stored(base: Path | None, catalog: Catalog) -> pa.Table:
    """Those of a state; none where there is no state, or no such file in it."""
    import pyarrow.parquet as pq

    if base is not None and (base / FILE).is_file():
        return pq.read_table(base / FILE, partitioning=None).combine_chunks()
    return _table(catalog.id_column[:0], [], np.zeros((0, catalog.features.shape[1]), np.float16))


def added(source: Path, items: ItemsConfig, catalog: Catalog, before: pa.Table) -> pa.Table:
    """`before`, and behind it the items of a source that neither it nor the catalogue knows.

    Args:
        source: an item table with the columns of the run's, or a prepared folder: of it the items that have
            a vector.
        items: the run's, which says what the table's columns are.
        catalog: of the run.
        before: see `stored`.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: its vectors cannot be the run's: of another length, or unlike for items that both know;
            or what ingest says of an item table.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    found = _of_folder(source) if source.is_dir() else _of_table(source, items, catalog)
    dim = catalog.features.shape[1]
    if found["features"].type.list_size != dim:
        raise ValueError(
            f"--items {source}: vectors of {found['features'].type.list_size} numbers, the run was trained "
            f"on {dim}"
        )
    if found["item_id"].type != before["item_id"].type:
        raise ValueError(
            f"--items {source}: item ids of type {found['item_id'].type}, in the data they are "
            f"{before['item_id'].type}"
        )
    row = pc.index_in(found["item_id"], catalog.id_column)
    _check_origin(source, found, row, catalog)
    new = pc.and_(pc.is_null(row), pc.invert(pc.is_in(found["item_id"], before["item_id"].combine_chunks())))
    return pa.concat_tables([before, found.filter(new)]).combine_chunks()


def write(table: pa.Table, state: Path) -> None:
    """Write the file into the folder of a state."""
    import pyarrow.parquet as pq

    pq.write_table(table, state / FILE, compression="zstd")


def features_of(table: pa.Table) -> np.ndarray:
    """float16 [N, D_item]."""
    return rows_of(table, "features")


def _check_origin(source: Path, found: pa.Table, row: pa.ChunkedArray, catalog: Catalog) -> None:
    """Vectors of two makings, such as two factorisations, look alike and mean nothing to each other."""
    here, there = np.flatnonzero(row.is_valid().to_numpy()), row.drop_null().to_numpy()
    here, there = here[catalog.reachable[there]], there[catalog.reachable[there]]
    if not len(here):
        return
    new, old = features_of(found)[here].astype(np.float32), catalog.features[there].astype(np.float32)
    cosine = float((new * old).sum(axis=1).mean())
    if cosine < LEAST_COSINE:
        raise ValueError(
            f"--items {source}: its vectors of the {len(here):,} items that the run knows are not the run's "
            f"(mean cosine {cosine:.2f}), so new items' would mean nothing to the model; take vectors of the "
            "same making (python -m pinnerformer_jax.items --reuse), or train anew"
        )


def _of_folder(folder: Path) -> pa.Table:
    import pyarrow as pa

    catalog = Catalog.open(folder)
    rows = np.flatnonzero(catalog.reachable)
    return _table(
        catalog.id_column.take(pa.array(rows)), [catalog.titles[row] for row in rows], catalog.features[rows]
    )


def _of_table(file: Path, items: ItemsConfig, catalog: Catalog) -> pa.Table:
    import duckdb

    if not items.vector:
        raise ValueError(
            f"--items {file}: the vectors of the run's items were built, not given, so a table has none that "
            "would do; if --method pinsage made them, name the folder that python -m pinnerformer_jax.items "
            "--reuse writes; no other method can give more of the same: train anew"
        )
    with duckdb.connect() as connection, tempfile.TemporaryDirectory() as work:
        known = literal(catalog.path / "items.parquet")
        [(kind,)] = connection.execute(f"SELECT any_value(typeof(item_id)) FROM {known}").fetchall()
        read_item_table(connection, dataclasses.replace(items, table=str(file)), kind, Path(work))
        connection.execute(
            "CREATE TABLE items AS SELECT row_number() OVER (ORDER BY item_id) - 1 AS number, item_id, "
            "coalesce(title, CAST(item_id AS VARCHAR)) AS title FROM item_table"
        )
        found = connection.sql("SELECT item_id, title FROM items ORDER BY number").to_arrow_table()
        write_given(connection, Path(work) / "features.npy", len(found))
        features = np.load(Path(work) / "features.npy", allow_pickle=False)
    return _table(found["item_id"].combine_chunks(), found["title"].to_pylist(), features)


def _table(ids: pa.Array, titles: list[str], features: np.ndarray) -> pa.Table:
    import pyarrow as pa

    return pa.table({"item_id": ids, "title": pa.array(titles, pa.string()), "features": lists(features)})
