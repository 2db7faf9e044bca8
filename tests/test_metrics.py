import math

import jax.numpy as jnp
import numpy as np
import pytest

from pinnerformer_jax.evaluation import metrics
from pinnerformer_jax.evaluation.metrics import (
    coverage,
    coverage_curve,
    index_hits,
    interest_entropy,
    rank_targets,
    ranking_metrics,
    ranks,
    retrieved,
)


def pairs(*lists):
    """[[items of user 0], [items of user 1], ...] -> users and items."""
    user = [k for k, items in enumerate(lists) for _ in items]
    return np.array(user, int), np.array([item for items in lists for item in items], int)


def ranking_of(scores, targets, *, candidates=None, excluded=None, k=50):
    scores = np.asarray(scores, np.float32)
    candidates = np.ones(scores.shape[1], bool) if candidates is None else np.asarray(candidates, bool)
    excluded = pairs(*[[]] * len(scores)) if excluded is None else excluded
    return rank_targets(jnp.asarray(scores), jnp.asarray(candidates), targets, excluded, k)


def test_competitors_are_candidates_that_are_no_targets():
    ranking = ranking_of(
        [[9, 8, 7, 6, 5, 4]], pairs([1, 2]), candidates=[1, 1, 0, 0, 1, 1], excluded=pairs([5, 5]), k=3
    )
    np.testing.assert_array_equal(ranking.top_scores, [[9, 5, -np.inf]])
    np.testing.assert_array_equal(ranking.top_items, [[0, 4, -1]])
    np.testing.assert_array_equal(ranking.score, [8, 7])  # the second is outside the index: placed into it


def test_paper_recall_lets_the_other_positives_not_compete():
    # Twelve items; user 0 likes the two best and the last, user 1 the eleventh and twelfth best.
    scores = [np.arange(12, 0, -1), np.arange(12, 0, -1)]
    ranking = ranking_of(scores, pairs([0, 1, 11], [10, 11]))
    # Of user 0 nine items are no targets: the worst item has fewer than ten competitors above it.
    np.testing.assert_array_equal(index_hits(ranking, 10), [True, True, True, False, False])
    # Where targets compete, the same worst item has eleven above it.
    np.testing.assert_array_equal(ranks(ranking), [0, 1, 11, 10, 11])


def test_paper_recall_needs_fewer_than_k_competitors():
    scores = [[5, 4, 3, 2, 1]]
    assert index_hits(ranking_of(scores, pairs([3])), 4).all()
    assert not index_hits(ranking_of(scores, pairs([3])), 3).any()


def test_a_constant_scorer_has_no_hit():
    ranking = ranking_of(np.zeros((2, 30)), pairs([0, 3], [29]))
    assert not index_hits(ranking, 10).any()
    rank = ranks(ranking)
    assert (rank >= 27).all()
    for k in (1, 10):
        for values in ranking_metrics(rank, ranking.user, 2, k).values():
            np.testing.assert_array_equal(values, 0)


def test_ties_count_against_the_target():
    # One better, two equal: the target comes fourth.
    ranking = ranking_of([[7, 5, 5, 5, 1]], pairs([2]))
    assert ranks(ranking).tolist() == [3]
    assert index_hits(ranking, 4).all()
    assert not index_hits(ranking, 3).any()
    assert retrieved(ranking, np.ones(5, bool), 5).tolist() == [[0, 1, 3, 2, 4]]


def test_ranking_metrics_by_hand():
    # User 0: three targets at places 0, 2, 5. User 1: one at place 1. User 2: none.
    rank, user = np.array([0, 2, 5, 1]), np.array([0, 0, 0, 1])
    found = ranking_metrics(rank, user, 3, 3)
    np.testing.assert_allclose(found["recall@3"], [2 / 3, 1, np.nan])
    ideal = 1 + 1 / math.log2(3) + 1 / math.log2(4)
    np.testing.assert_allclose(found["ndcg@3"], [(1 + 1 / math.log2(4)) / ideal, 1 / math.log2(3), np.nan])
    np.testing.assert_allclose(found["hit_rate@3"], [1, 1, np.nan])
    at_two = ranking_metrics(rank, user, 3, 2)  # the ideal holds two hits though there are three targets
    np.testing.assert_allclose(at_two["ndcg@2"][0], 1 / (1 + 1 / math.log2(3)))
    np.testing.assert_allclose(at_two["recall@2"][0], 1 / 3)
    np.testing.assert_allclose(ranking_metrics(rank, user, 3, 1)["hit_rate@1"], [1, 0, np.nan])


def test_new_items_masks_take_seen_items_from_both_sides():
    scores = [[9, 8, 7, 6, 5]]
    seen = pairs([0, 1, 1])  # touched twice counts once
    ranking = ranking_of(scores, pairs([3]), excluded=seen)
    assert ranks(ranking).tolist() == [1]  # only item 2 is before it
    # A seen item that is a target all the same can never be a hit.
    assert ranks(ranking_of(scores, pairs([0]), excluded=seen))[0] >= 5
    assert not ranking_metrics(ranks(ranking_of(scores, pairs([0]), excluded=seen)), np.zeros(1, int), 1, 5)[
        "recall@5"
    ].any()


def test_retrieved_merges_targets_that_are_candidates():
    ranking = ranking_of([[1, 5, 9, 7]], pairs([1, 3]), candidates=[1, 1, 1, 0])
    assert retrieved(ranking, np.array([1, 1, 1, 0], bool), 4).tolist() == [[2, 1, 0, -1]]


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_an_enumeration(seed):
    """Against loops over users and items, with ties, an index that lacks targets, and seen items."""
    rng = np.random.default_rng(seed)
    users, items, k = 7, 90, 10
    scores = rng.integers(0, 25, (users, items)).astype(np.float32)
    candidates = rng.random(items) < 0.7
    targets = pairs(*[rng.choice(items, rng.integers(0, 8), replace=False) for _ in range(users)])
    excluded = pairs(*[rng.choice(items, 12) for _ in range(users)])
    plain = ranking_of(scores, targets, candidates=candidates)
    masked = ranking_of(scores, targets, candidates=candidates, excluded=excluded)
    hits, rank = index_hits(plain, k), ranks(masked)
    for pair, (user, item) in enumerate(zip(*targets, strict=True)):
        own = set(targets[1][targets[0] == user])
        others = [j for j in np.flatnonzero(candidates) if j not in own]
        assert hits[pair] == (sum(scores[user, j] >= scores[user, item] for j in others) < k)
        seen = set(excluded[1][excluded[0] == user])
        if item in seen:
            assert rank[pair] >= items
            continue
        ahead = sum(scores[user, j] >= scores[user, item] for j in others if j not in seen)
        better = sum(scores[user, j] > scores[user, item] for j in own - seen)
        equal = sum(scores[user, j] == scores[user, item] for j in own - seen)
        if ahead < 50:  # as many competitors as are kept
            assert ahead + better <= rank[pair] < ahead + better + equal


def test_entropy_by_hand():
    topics = np.array([0, 0, 1, 2, -1])
    rows = np.array([[0, 1, 2, 3], [0, 1, -1, 4], [4, -1, -1, -1]])
    expected = [-(0.5 * math.log(0.5) + 2 * 0.25 * math.log(0.25)), 0, np.nan]
    np.testing.assert_allclose(interest_entropy(rows, topics), expected)


def test_entropy_without_any_topic():
    assert np.isnan(interest_entropy(np.array([[0, 1]]), np.array([-1, -1]))).all()


def test_coverage_by_hand():
    # 100 results: 60 + 30 of them on two of ten items make 90 %.
    assert coverage(np.array([0, 60, 0, 10, 30, 0, 0, 0, 0, 0])) == 0.2
    assert coverage(np.array([0, 60, 0, 11, 29, 0, 0, 0, 0, 0])) == 0.3
    assert coverage(np.full(10, 7)) == 0.9
    np.testing.assert_allclose(coverage_curve(np.array([1, 0, 3])), [0.75, 1, 1])


def test_a_nan_is_an_error():
    with pytest.raises(ValueError, match="NaN"):
        ranking_of([[1, np.nan, 2]], pairs([0]))


def test_few_shapes_are_compiled():
    metrics._rank.clear_cache()
    for count in (0, 1, 30, 64):
        ranking_of(np.zeros((1, 200)), pairs(range(count)))
    assert metrics._rank._cache_size() == 1
