"""Content: texts as at ingest, given vectors beside them."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pinnerformer_jax.config import Config, ItemsConfig, PinSageConfig
from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.ingestion.item_vectors import text_basis
from pinnerformer_jax.items.content import content_features, item_numbers, item_texts, scale_of, standardise
from tests.prepared import write_prepared

NO_NUMBERS = np.zeros((3, 0), np.float32)


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
    features = content_features(Config(items=items), known, texts, basis, NO_NUMBERS)
    assert features.shape == (3, 4 + 8)
    np.testing.assert_allclose(np.linalg.norm(features[:, :4], axis=1), [2, 2, 0], atol=1e-5)
    np.testing.assert_allclose(features[:, 4:], known.features * 8**0.5, atol=1e-2)
    without = content_features(Config(), known, texts, basis, NO_NUMBERS)
    assert without.shape == (3, 4)  # vectors that ingest built are no content


def test_nothing_known_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="neither text nor given vectors"):
        content_features(Config(), catalog(tmp_path), [""] * 3, None, NO_NUMBERS)


def test_numbers_of_the_item_table_in_the_order_of_the_catalogue(tmp_path):
    table = {
        "item": ["item-2", "item-0", "other"],
        "price": ["3", "cheap", "9"],
        "year": [1999.0, 2001.0, 1.0],
    }
    pq.write_table(pa.table(table), tmp_path / "items.parquet")
    items = ItemsConfig(table=str(tmp_path / "items.parquet"))
    config = Config(items=items, pinsage=PinSageConfig(numbers=("price", "year / 0 + year", "year")))
    numbers = item_numbers(config, catalog(tmp_path))
    np.testing.assert_array_equal(
        numbers, [[np.nan, np.nan, 2001], [np.nan, np.nan, np.nan], [3, np.nan, 1999]]
    )
    assert item_numbers(Config(), catalog(tmp_path / "without")).shape == (3, 0)


def test_a_text_is_no_number(tmp_path):
    pq.write_table(pa.table({"item": ["item-2", "item-0"], "title": ["a", "b"]}), tmp_path / "items.parquet")
    items = ItemsConfig(table=str(tmp_path / "items.parquet"))
    config = Config(items=items, pinsage=PinSageConfig(numbers=("title",)))
    with pytest.raises(ValueError, match=r"pinsage.numbers = .*'title' is a text, and no item's is a number"):
        item_numbers(config, catalog(tmp_path))


def test_numbers_need_the_table_and_its_columns(tmp_path):
    config = Config(pinsage=PinSageConfig(numbers=("price",)))
    with pytest.raises(ValueError, match=r"pinsage\.numbers = \('price',\): name items\.table"):
        item_numbers(config, catalog(tmp_path))
    pq.write_table(pa.table({"item": ["item-0"], "prize": [1]}), tmp_path / "items.parquet")
    config = Config(items=ItemsConfig(table=str(tmp_path / "items.parquet")), pinsage=config.pinsage)
    with pytest.raises(ValueError, match=r"pinsage\.numbers = 'price'"):
        item_numbers(config, catalog(tmp_path / "again"))


def test_numbers_are_standardised_over_the_items_of_training():
    numbers = np.array([[1.0, 5, np.nan], [3, 5, np.nan], [np.nan, 6, 7], [1000, 5, 7]])
    scale = scale_of(numbers, np.array([True, True, False, False]))  # the last two came after t
    assert (scale.mean.tolist(), scale.deviation.tolist()) == ([2, 5, 0], [1, 1, 1])
    expected = [[-1, 0, 0, 1, 1, 0], [1, 0, 0, 1, 1, 0], [0, 1, 5, 0, 1, 1], [5, 0, 5, 1, 1, 1]]
    np.testing.assert_array_equal(standardise(numbers, scale), expected)
    assert standardise(numbers[:, :0], scale_of(numbers[:, :0], np.ones(4, bool))).shape == (4, 0)
