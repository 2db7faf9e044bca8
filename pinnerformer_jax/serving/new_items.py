"""Step 2 of the daily job: items that came after the training of the model.

The item tower needs nothing of an item but its vector. So an item that has one is recommended, and counts in
its users' histories, from the same night on.

    new_items.parquet     item_id (as it came), title, features fixed_size_list<float16>[D_item], unit rows;
                          in the order in which they came: their numbers go on from those of the catalogue

They go with the data: a state of a model that was trained on other prepared data starts without.
"""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pinnerformer_jax.config import ItemsConfig
from pinnerformer_jax.data.catalog import FEATURES, Catalog
from pinnerformer_jax.ingestion.catalog_writer import write_given
from pinnerformer_jax.ingestion.item_reader import open_item_files, read_item_table
from pinnerformer_jax.ingestion.log_reader import restrict
from pinnerformer_jax.serving.plan import Plan
from pinnerformer_jax.serving.snapshot import lists, rows_of
from pinnerformer_jax.serving.trained_model import TrainedModel

if TYPE_CHECKING:
    import pyarrow as pa

FILE = "new_items.parquet"

LEAST_COSINE = 0.5
"""Vectors of another making are refused: the mean cosine of given and known vectors, over the items that have
both, must be at least this."""


@dataclass(frozen=True)
class ItemSet:
    """All items that the state knows: those of the catalogue, and behind them those of new_items.parquet."""

    catalog: Catalog
    new: pa.Table  # of new_items.parquet
    added: int  # how many of the new ones came with this run; the last rows
    features: np.ndarray  # float16 [N, D_item]
    has_vector: np.ndarray  # bool [N]

    @cached_property
    def ids(self) -> pa.Array:
        """[N], as they came."""
        import pyarrow as pa

        return pa.concat_arrays([self.catalog.id_column, self.new["item_id"].combine_chunks()])

    @cached_property
    def titles(self) -> list[str]:
        """[N]"""
        return self.catalog.titles + self.new["title"].to_pylist()


def write_new_items(plan: Plan, model: TrainedModel, folder: Path) -> ItemSet:
    """Write new_items.parquet, if there are any: those of the state before, and behind them those of --items.

    Args:
        plan: of the run.
        model: whose catalogue comes first.
        folder: of the state.

    Raises:
        FileNotFoundError: --items is not there.
        ValueError: see `added_items`.
    """
    import pyarrow.parquet as pq

    catalog = model.catalog
    known = stored_items(plan.base_folder if plan.same_data else None, catalog)
    source = plan.job.items
    new = added_items(source, model.config.items, catalog, known) if source else known
    features, has_vector = catalog.features, catalog.reachable
    if len(new):
        pq.write_table(new, folder / FILE, compression="zstd")
        features = np.concatenate([features, features_of(new)])
        has_vector = np.concatenate([has_vector, np.ones(len(new), bool)])
    return ItemSet(catalog, new, len(new) - len(known), features, has_vector)


def stored_items(base: Path | None, catalog: Catalog) -> pa.Table:
    """new_items.parquet of a state; a table without rows if there is no state, or no such file in it."""
    import pyarrow.parquet as pq

    if base is not None and (base / FILE).is_file():
        return pq.read_table(base / FILE, partitioning=None).combine_chunks()
    return _table(catalog.id_column[:0], [], np.zeros((0, catalog.features.shape[1]), np.float16))


def added_items(source: Path | str, items: ItemsConfig, catalog: Catalog, known: pa.Table) -> pa.Table:
    """`known`, and behind it the items of a source that neither `known` nor the catalogue has.

    Args:
        source: an item table with the columns of the run's, or its URL; or a prepared folder, of which
            the items that have a vector are taken. If ingest built the run's vectors, a table gives vectors
            by its texts; a run whose titles came from the log takes the columns `items.id` and "title".
        items: the run's section, which names the table's columns.
        catalog: of the run.
        known: see `stored_items`.

    Raises:
        FileNotFoundError: the source is not there.
        ValueError: its ids are of another type, or its vectors of another length or another making than the
            run's; or ingest refuses the table.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    folder = isinstance(source, Path) and source.is_dir()
    found = _of_folder(Path(source)) if folder else _of_table(source, items, catalog)
    dim = catalog.features.shape[1]
    if found["features"].type.list_size != dim:
        raise ValueError(
            f"--items {source}: vectors of {found['features'].type.list_size} numbers, the run was trained "
            f"on {dim}"
        )
    if found["item_id"].type != known["item_id"].type:
        raise ValueError(
            f"--items {source}: item ids of type {found['item_id'].type}, in the data they are "
            f"{known['item_id'].type}"
        )
    row = pc.index_in(found["item_id"], catalog.id_column)
    if folder or items.vector:
        _check_origin(source, found, row, catalog)
    new = pc.and_(pc.is_null(row), pc.invert(pc.is_in(found["item_id"], known["item_id"].combine_chunks())))
    return pa.concat_tables([known, found.filter(new)]).combine_chunks()


def features_of(table: pa.Table) -> np.ndarray:
    """float16 [N, D_item]."""
    return rows_of(table, "features")


def _check_origin(source: Path | str, found: pa.Table, row: pa.ChunkedArray, catalog: Catalog) -> None:
    """Refuse vectors of another making, such as another factorisation: an inner product of vectors of two
    makings means nothing."""
    here, there = np.flatnonzero(row.is_valid().to_numpy()), row.drop_null().to_numpy()
    here, there = here[catalog.reachable[there]], there[catalog.reachable[there]]
    if not len(here):
        return
    new, old = features_of(found)[here].astype(np.float32), catalog.features[there].astype(np.float32)
    cosine = float((new * old).sum(axis=1).mean())
    if cosine < LEAST_COSINE:
        raise ValueError(
            f"--items {source}: its vectors of the {len(here):,} items that the run knows are not the run's "
            f"(mean cosine {cosine:.2f}), so those of new items would mean nothing to the model; take "
            "vectors of the same making (python -m pinnerformer_jax.items --reuse), or train again"
        )


def _of_folder(folder: Path) -> pa.Table:
    import pyarrow as pa

    catalog = Catalog.open(folder)
    rows = np.flatnonzero(catalog.reachable)
    return _table(
        catalog.id_column.take(pa.array(rows)), [catalog.titles[row] for row in rows], catalog.features[rows]
    )


def _of_table(file: Path | str, items: ItemsConfig, catalog: Catalog) -> pa.Table:
    import duckdb

    if not items.vector and catalog.text is None:
        raise ValueError(
            f"--items {file}: the vectors of the run's items were built without a half of text, so a table "
            "cannot give more of them; if --method pinsage made them, name the folder that python -m "
            "pinnerformer_jax.items --reuse writes; no other method can make more of them: train again"
        )
    with duckdb.connect() as connection, tempfile.TemporaryDirectory() as work:
        connection.register("known", catalog.to_arrow())
        [(kind,)] = connection.execute("SELECT any_value(typeof(item_id)) FROM known").fetchall()
        items = dataclasses.replace(items, table=str(file))
        if not (items.vector or items.title or items.topic or items.text):  # the log had the titles
            items = dataclasses.replace(items, title="title")
        restrict(connection, open_item_files(connection, items, Path(work)), [Path(work)])
        read_item_table(connection, items, kind)
        connection.execute(
            "CREATE TABLE items AS SELECT row_number() OVER (ORDER BY item_id) - 1 AS number, item_id, "
            "coalesce(title, CAST(item_id AS VARCHAR)) AS title, "
            "trim(concat_ws(' ', title, topic, text)) AS text FROM item_table"
        )
        found = connection.sql("SELECT item_id, title, text FROM items ORDER BY number").to_arrow_table()
        if items.vector:
            write_given(connection, Path(work) / FEATURES, len(found))
            features = np.load(Path(work) / FEATURES, allow_pickle=False)
        else:
            features = _of_texts(catalog, found["text"].to_pylist())
            found, features = found.filter(features.any(axis=1)), features[features.any(axis=1)]
            if not len(found):
                raise ValueError(f"--items {file}: no item has a word that a text of the training has")
    return _table(found["item_id"].combine_chunks(), found["title"].to_pylist(), features)


def _of_texts(catalog: Catalog, texts: list[str]) -> np.ndarray:
    """float16 [N, D_item], zero without a known word."""
    from pinnerformer_jax.ingestion.item_vectors import TextBasis, vectors_of_texts  # needs scikit-learn

    stored = catalog.text_arrays
    basis = TextBasis(stored["word"], stored["vector"])
    return vectors_of_texts(basis, stored.get("map"), texts, catalog.features.shape[1])


def _table(ids: pa.Array, titles: list[str], features: np.ndarray) -> pa.Table:
    import pyarrow as pa

    return pa.table({"item_id": ids, "title": pa.array(titles, pa.string()), "features": lists(features)})
