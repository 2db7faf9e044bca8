import jax
import numpy as np
import pytest

from pinnerformer_jax.retrieval import exact


def by_hand(queries, items, k):
    scores = queries @ items.T
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, rows, axis=1), rows


@pytest.mark.parametrize(("query_chunk", "item_chunk"), [(256, 65_536), (7, 100), (4, 33), (40, 777)])
@pytest.mark.parametrize("k", [1, 10, 50])
def test_search_equals_numpy_whatever_the_chunks(query_chunk, item_chunk, k):
    rng = np.random.default_rng(0)
    # Whole numbers whose products float32 adds without rounding, so that order is beyond doubt.
    queries, items = (rng.integers(-900, 900, (n, 12)).astype(np.float32) for n in (23, 777))
    scores, rows = exact.search(queries, items, k, query_chunk=query_chunk, item_chunk=item_chunk)
    expected_scores, expected_rows = by_hand(queries, items, k)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_array_equal(scores, expected_scores)
    assert scores.dtype == np.float32


def test_search_of_more_than_a_chunk_holds():
    items = np.eye(9, dtype=np.float32)
    scores, rows = exact.search(items[:2], items, 9, item_chunk=4)
    assert rows[0, 0] == 0
    assert rows[1, 0] == 1
    assert sorted(rows[0]) == list(range(9))
    np.testing.assert_array_equal(scores[0], [1, *[0] * 8])


def test_search_compiles_once():
    rng = np.random.default_rng(0)
    queries, items = (rng.normal(size=(n, 4)).astype(np.float32) for n in (50, 300))
    items = jax.numpy.asarray(items)
    exact._search_chunk.clear_cache()
    exact.search(queries, items, 5, query_chunk=8, item_chunk=64)
    exact.search(queries[:3], items, 5, query_chunk=8, item_chunk=64)
    assert exact._search_chunk._cache_size() == 1


@pytest.mark.parametrize(("columns", "k"), [(1, 1), (63, 63), (64, 5), (1000, 200)])
def test_top_k_equals_lax(columns, k):
    scores = jax.random.normal(jax.random.key(0), (5, columns))
    best, rows = exact.top_k(scores, k)
    expected, expected_rows = jax.lax.top_k(scores, k)
    np.testing.assert_array_equal(best, expected)
    np.testing.assert_array_equal(rows, expected_rows)


def test_top_k_of_equal_numbers_names_each_column_once():
    best, rows = exact.top_k(jax.numpy.ones((2, 300)), 100)
    assert (best == 1).all()
    assert all(len(set(row.tolist())) == 100 for row in rows)


def test_errors_name_the_sizes():
    with pytest.raises(ValueError, match=r"k = 4: must be in 1\.\.3"):
        exact.search(np.ones((1, 2), np.float32), np.ones((3, 2), np.float32), 4)
    with pytest.raises(ValueError, match="queries have 2 numbers, items 5"):
        exact.search(np.ones((1, 2), np.float32), np.ones((3, 5), np.float32), 1)
