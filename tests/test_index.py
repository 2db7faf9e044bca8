"""index/ over the vectors of items.parquet."""

import numpy as np
import pyarrow as pa
import pytest
from states import vector

from pinnerformer_jax.config import IndexConfig
from pinnerformer_jax.retrieval.scann_index import ScannIndex
from pinnerformer_jax.serving import snapshot, state
from pinnerformer_jax.serving.index import write_index
from pinnerformer_jax.serving.manifest import IndexReport


def write_tables(folder, users, items=12, version="a"):
    """items.parquet and users.parquet of a state."""
    folder.mkdir(parents=True, exist_ok=True)
    vectors = np.random.default_rng(0).normal(size=(items, 8)).astype(np.float32)
    table = snapshot.item_table(pa.array(range(items)), [""] * items, vectors, version)
    snapshot.write_parquet(table, folder / "items.parquet")
    moments, count = np.zeros(users, int), np.ones(users, int)
    rows = np.array([vector(k, k) for k in range(users)], np.float16).reshape(users, 8)
    table = snapshot.user_table(
        pa.array(range(users)), moments, state.day_end("2026-03-01"), rows, count, version
    )
    snapshot.write_parquet(table, folder / "users.parquet")


def test_an_index_is_built_and_compared_with_exact_search(tmp_path):
    write_tables(tmp_path, users=5)
    report = write_index(None, None, IndexConfig(), tmp_path)
    assert report == IndexReport(0, 0, 0, False, k=10, queries=5, recall=1.0, parts=1)
    assert (tmp_path / "index" / "manifest.json").is_file()


def test_without_users_nothing_is_compared(tmp_path):
    write_tables(tmp_path, users=0, items=3)
    assert write_index(None, None, IndexConfig(), tmp_path) == IndexReport(0, 0, 0, False, parts=1)


def test_an_index_of_the_same_items_is_linked(tmp_path, monkeypatch):
    for name in ("before", "now"):
        write_tables(tmp_path / name, users=2)
    write_index(None, None, IndexConfig(), tmp_path / "before")
    monkeypatch.setattr(ScannIndex, "build", None)
    assert write_index(tmp_path / "before", None, IndexConfig(), tmp_path / "now").recall == 1.0
    for file in (tmp_path / "before" / "index").iterdir():
        assert (tmp_path / "now" / "index" / file.name).samefile(file)
    write_tables(tmp_path / "next", users=2)
    report = IndexReport(0, 0, 0, False, k=10, queries=7, recall=0.5, parts=1)
    monkeypatch.setattr(ScannIndex, "load", None)
    assert write_index(tmp_path / "now", report, IndexConfig(), tmp_path / "next") == report
    (tmp_path / "now" / "index" / "scann_docids.pkl").write_bytes(b"")
    write_tables(tmp_path / "last", users=2)
    with pytest.raises(ValueError, match=r"foreign files \['scann_docids.pkl'\]"):
        write_index(tmp_path / "now", report, IndexConfig(), tmp_path / "last")


def test_an_index_of_another_model_is_refused(tmp_path):
    write_tables(tmp_path / "before", users=2, version="b")
    write_index(None, None, IndexConfig(), tmp_path / "before")
    write_tables(tmp_path / "now", users=2)
    with pytest.raises(ValueError, match=r"items\.parquet of model version a, index of b"):
        write_index(tmp_path / "before", None, IndexConfig(), tmp_path / "now")


def test_no_item_has_a_vector(tmp_path):
    write_tables(tmp_path, users=2, items=0)
    with pytest.raises(ValueError, match="no item of the catalogue has a vector"):
        write_index(None, None, IndexConfig(), tmp_path)
