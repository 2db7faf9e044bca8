"""Step 5 of the daily job: the item vectors, and which items are popular."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pinnerformer_jax.files import link_or_copy
from pinnerformer_jax.model.inference import Embedder
from pinnerformer_jax.serving import snapshot
from pinnerformer_jax.serving.new_items import ItemSet
from pinnerformer_jax.serving.plan import Plan


def write_items(plan: Plan, version: str, embedder: Embedder, items: ItemSet, folder: Path) -> None:
    """Write items.parquet: the items that have a vector, by number.

    An item's vector depends on the model alone. So those of a state of the same model stay, and only items
    that came with this run are embedded.

    Args:
        plan: of the run.
        version: of the model.
        embedder: of the model, with the features of all items.
        items: all that there are.
        folder: of the state.

    Raises:
        ValueError: the vectors before are of another model version.
    """
    import pyarrow as pa

    file, before = folder / "items.parquet", None
    first = 0  # number of the first item to embed
    if plan.same_model:
        stored = plan.previous_file("items.parquet")
        snapshot.check_same_version(
            {"the model": version, f"items.parquet of {plan.base}": snapshot.version_in(stored)}
        )
        first = len(items.features) - items.added
        if not items.added:
            link_or_copy(stored, file)
            return
        before = snapshot.read_parquet(stored)
    rows = np.flatnonzero(items.has_vector[first:])
    table = snapshot.item_table(
        items.ids.take(pa.array(first + rows)),
        [items.titles[first + row] for row in rows],
        embedder.items(first)[rows],
        version,
    )
    if before is not None:
        table = pa.concat_tables([before, table]).combine_chunks()
    snapshot.write_parquet(table, file)


def write_popular(popular: np.ndarray, items: ItemSet, folder: Path) -> None:
    """Write popular.npy: all rows of items.parquet, the popular first, the others in their own order.

    Args:
        popular: numbers of items, the most popular first; those without a vector are left out.
        items: all that there are.
        folder: of the state.
    """
    row = np.cumsum(items.has_vector) - 1
    first = row[popular[items.has_vector[popular]]]
    rest = np.ones(items.has_vector.sum(), bool)
    rest[first] = False
    rest = np.flatnonzero(rest)
    np.save(folder / "popular.npy", np.concatenate([first, rest]).astype(np.int32))


def write_popularity(popularity: np.ndarray, items: ItemSet, folder: Path) -> None:
    """Write popularity.npy: the decayed count of each row of items.parquet.

    Args:
        popularity: float64 [N], by item number.
        items: all that there are.
        folder: of the state.
    """
    np.save(folder / "popularity.npy", popularity[items.has_vector])
