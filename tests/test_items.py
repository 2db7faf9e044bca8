"""items.parquet and popular.npy, from a plan and a set of items."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from prepared import write_prepared

from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.files import Unchanged
from pinnerformer_jax.model.inference import Embedder
from pinnerformer_jax.serving import snapshot
from pinnerformer_jax.serving.items import write_items, write_popular
from pinnerformer_jax.serving.new_items import ItemSet, stored_items
from pinnerformer_jax.serving.plan import Job, Plan

HAS_VECTOR = np.array([True, False, True, True, True])


class Numbers(Embedder):
    """An item's vector is its number, twice."""

    def __init__(self):
        pass

    def items(self, first=0):
        return np.repeat(np.arange(first, len(HAS_VECTOR), dtype=np.float32)[:, None], 2, axis=1)


@pytest.fixture
def items(tmp_path):
    """Five items, i0 .. i4, all of the catalogue."""
    features = np.where(HAS_VECTOR[:, None], np.eye(5), 0).astype(np.float16)
    ids, titles = [f"i{k}" for k in range(5)], [f"Item {k}" for k in range(5)]
    users = {"u": [(0, 1, 1, 10, 1.0)]}
    folder = write_prepared(tmp_path / "data", users, 99, item_ids=ids, titles=titles, features=features)
    catalog = Catalog.open(folder)
    return ItemSet(catalog, stored_items(None, catalog), 0, catalog.features, catalog.reachable)


def plan(root, base=None):
    nobody = pa.array([], pa.string())
    return Plan(
        job=Job(Path("run"), root), name="new", date="2026-03-01", base=base, previous=None, log=[],
        deleted=nobody, unknown=[], requested=nobody, kept_events=4, inputs={},
        same_data=base is not None, same_model=base is not None, read=Unchanged(),
    )  # fmt: skip


def test_a_new_model_embeds_all_items_that_have_a_vector(tmp_path, items):
    write_items(plan(tmp_path), "a", Numbers(), items, tmp_path)
    table = snapshot.read_parquet(tmp_path / "items.parquet")
    assert table["item_id"].to_pylist() == ["i0", "i2", "i3", "i4"]
    assert table["title"].to_pylist() == ["Item 0", "Item 2", "Item 3", "Item 4"]
    assert snapshot.vectors_of(table)[:, 1].tolist() == [0, 2, 3, 4]
    assert snapshot.version_of(table) == "a"


def write_base(folder, rows, version="a"):
    folder.mkdir()
    ids, titles = pa.array([f"i{k}" for k in rows]), [f"Item {k}" for k in rows]
    vectors = np.full((len(rows), 2), -1, np.float32)
    snapshot.write_parquet(snapshot.item_table(ids, titles, vectors, version), folder / "items.parquet")


def test_of_the_same_model_only_added_items_are_embedded(tmp_path, items):
    write_base(tmp_path / "base", [0, 2])
    write_items(plan(tmp_path, "base"), "a", Numbers(), dataclasses.replace(items, added=2), tmp_path)
    table = snapshot.read_parquet(tmp_path / "items.parquet")
    assert table["item_id"].to_pylist() == ["i0", "i2", "i3", "i4"]
    assert snapshot.vectors_of(table)[:, 0].tolist() == [-1, -1, 3, 4]


def test_without_added_items_the_file_is_copied(tmp_path, items):
    write_base(tmp_path / "base", [0, 2, 3, 4])
    write_items(plan(tmp_path, "base"), "a", Numbers(), items, tmp_path)
    copy, original = (folder / "items.parquet" for folder in (tmp_path, tmp_path / "base"))
    assert copy.read_bytes() == original.read_bytes()


def test_vectors_of_another_model_are_refused(tmp_path, items):
    write_base(tmp_path / "base", [0, 2, 3, 4], "b")
    with pytest.raises(ValueError, match=r"the model of model version a, items.parquet of base of b"):
        write_items(plan(tmp_path, "base"), "a", Numbers(), items, tmp_path)


def test_the_popular_come_first_then_the_others_in_order(tmp_path, items):
    write_popular(np.array([3, 1, 2], np.int32), items, tmp_path)
    popular = np.load(tmp_path / "popular.npy")
    assert popular.dtype == np.int32
    assert popular.tolist() == [2, 1, 0, 3]  # rows of items.parquet: i3, i2, i0, i4; i1 has no vector
