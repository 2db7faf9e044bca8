"""Content: texts as at ingest, given vectors beside them."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pinnerformer_jax.config import Config, ItemsConfig
from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.data.item_vectors import text_basis
from pinnerformer_jax.items.content import content_features, item_texts
from tests.prepared import write_prepared


def catalog(tmp_path, **columns):
    return Catalog.open(write_prepared(tmp_path / "p", {"u": [(0, 1, 1, 5, 1.0)]}, 10, items=3, **columns))


def test_titles_topics_and_further_text_in_the_order_of_the_catalogue(tmp_path):
    known = catalog(tmp_path, titles=["Lamp", None, "Tin"], topics=["home", None, None])
    assert item_texts(Config(), known) == ["Lamp home", "", "Tin"]
    table = {"item": ["item-2", "item-0", "other"], "maker": ["Acme", "Zed", "None"], "year": [1999, 2001, 1]}
    pq.write_table(pa.table(table), tmp_path / "items.parquet")
    config = Config(items=ItemsConfig(table=str(tmp_path / "items.parquet"), text=("maker", "year")))
    assert item_texts(config, known) == ["Lamp home Zed 2001", "", "Tin Acme 1999"]


def test_given_vectors_stand_beside_the_text(tmp_path):
    known = catalog(tmp_path, titles=["red lamp", "red tin", None])
    items = ItemsConfig(table="items.parquet", vector="vector", built_dim=4)
    texts = item_texts(Config(), known)
    basis = text_basis(texts, np.array([True, True, False]), 4, 0)
    features = content_features(Config(items=items), known, texts, basis)
    assert features.shape == (3, 4 + 8)
    np.testing.assert_allclose(np.linalg.norm(features[:, :4], axis=1), [1, 1, 0], atol=1e-5)
    np.testing.assert_array_equal(features[:, 4:], known.features)
    without = content_features(Config(), known, texts, basis)
    assert without.shape == (3, 4)  # vectors that ingest built are no content


def test_nothing_known_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="neither text nor given vectors"):
        content_features(Config(), catalog(tmp_path), [""] * 3, None)
