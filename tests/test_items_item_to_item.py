"""Ranks by hand, ties against the target, warm and new apart."""

import numpy as np
import pytest

from pinnerformer_jax.items import item_to_item
from pinnerformer_jax.items.engagement import Pairs
from pinnerformer_jax.items.item_to_item import evaluate_scorers, inner_products, pair_ranks

SCORES = np.array([[9, 3, 2, 2], [0, 9, 5, 1], [4, 4, 9, 4], [1, 0, 2, 9]], np.float32)


def test_ranks_by_hand(monkeypatch):
    first, second = np.array([2, 0, 1, 0, 0]), np.array([1, 1, 0, 2, 3])
    expected = [3, 1, 3, 3, 3]  # the tie of 2 and 3 goes against either; the query itself does not compete
    assert pair_ranks(lambda items: SCORES[items], first, second).tolist() == expected
    monkeypatch.setattr(item_to_item, "_CHUNK", 1)
    assert pair_ranks(lambda items: SCORES[items], first, second).tolist() == expected


def test_warm_and_new_apart(monkeypatch):
    pairs = Pairs(np.array([0, 1, 3]), np.array([1, 2, 2]), np.array([5, 5, 6]))
    monkeypatch.setattr(item_to_item, "CUTOFF", 1)
    result = evaluate_scorers({"s": lambda items: SCORES[items]}, pairs, np.array([True, True, True, False]))[
        "s"
    ]
    assert result["warm"] == (2, 1.0, 1.0, 1.0, 1.0)
    assert result["new"] == (1, 1.0, 1.0, 1.0, 1.0)
    result = evaluate_scorers({"s": lambda items: -SCORES[items]}, pairs, np.array([True, True, True, True]))[
        "s"
    ]
    assert result["warm"] == (3, 0.0, 0.0, 0.0, pytest.approx(1 / 3))
    assert result["new"].pairs == 0
    assert np.isnan(result["new"].mrr)


def test_vectors_score_by_inner_product():
    vectors = np.array([[1, 0], [0, 1], [0.6, 0.8]], np.float32)
    np.testing.assert_allclose(inner_products(vectors)(np.array([2])), [[0.6, 0.8, 1]], atol=1e-6)


def test_the_interval_resamples_users_not_pairs():
    """50 pairs of one user are one observation: alike for all, they leave the hit rate open."""
    first, second = np.array([0] * 50 + [1] * 50), np.array([1] * 50 + [0] * 50)
    scorers = {"s": lambda items: np.tile(np.arange(20.0), (len(items), 1)) * [[1], [-1]]}
    known = np.ones(20, bool)
    one_each = evaluate_scorers(scorers, Pairs(first, second, np.arange(100)), known)["s"]["warm"]
    two = evaluate_scorers(scorers, Pairs(first, second, first), known)["s"]["warm"]
    assert one_each.hit_rate == two.hit_rate == 0.5
    assert 0.35 < one_each.low < one_each.high < 0.65
    assert (two.low, two.high) == (0, 1)
