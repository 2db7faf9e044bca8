"""The best items of many users at once, within the rules of a shop."""

import numpy as np
import pytest
from test_served_score import Nearest

from pinnerformer_jax.retrieval.priors import Priors
from pinnerformer_jax.retrieval.rules import Rules, within_cap
from pinnerformer_jax.serving import ranking as ranking_module
from pinnerformer_jax.serving.ranking import OwnCounts, Ranking

NOTHING = OwnCounts(np.empty(0, np.int64), np.empty(0, np.float32))


def world(seed, items=1500, users=40, dim=16):
    """(item vectors, priors, popularity, user vectors, own counts, hidden rows); some vectors twice."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(items, dim)).astype(np.float32)
    vectors[items // 2 : items // 2 + 100] = vectors[:100]  # equal scores, so that the order is by row
    vectors[-60:] = vectors[0]
    queries = rng.normal(size=(users, dim)).astype(np.float32)
    queries[0] = vectors[0]  # more equal scores than candidates
    priors = Priors((0, 0.5, 2.0)[seed % 3], 30, (0.3, 0)[seed % 2], 7)
    popularity = np.round(rng.pareto(1, items)) if priors.popularity_weight else None
    own = [NOTHING]
    for size in rng.integers(0, 30, users - 1):
        rows = np.sort(rng.choice(items, size, replace=False))
        own.append(OwnCounts(rows, rng.pareto(1, size).astype(np.float32)))
    hidden = [of.rows if b % 2 else NOTHING.rows for b, of in enumerate(own)]
    return vectors, priors, popularity, queries, own, hidden


def brute_force(vectors, priors, popularity, query, own, hidden, rules, k):
    """Rows one after the other, in float64."""
    counts = np.zeros(len(vectors))
    counts[own.rows] = own.counts
    scores = vectors.astype(np.float64) @ query + priors.add(
        counts, np.zeros(1) if popularity is None else popularity
    )
    shown, taken = [], {}
    for row in np.argsort(-scores, kind="stable"):
        category = -1 if rules.category is None else int(rules.category[row])
        if row in hidden or (rules.allowed is not None and not rules.allowed[row]):
            continue
        if category >= 0 and taken.get(category, 0) >= rules.at_most:
            continue
        taken[category] = taken.get(category, 0) + 1
        shown.append(scores[row])
        if len(shown) == k:
            break
    return np.array(shown)


def some_rules(seed, items):
    rng = np.random.default_rng(seed)
    allowed = rng.random(items) < (0.9, 0.02)[seed % 2]
    category = rng.integers(-1, 8, items)
    return [Rules(), Rules(allowed), Rules(None, category, 2), Rules(allowed, category, 1)]


@pytest.mark.parametrize("seed", range(6))
def test_a_batch_has_the_same_bits_as_each_user_alone_and_is_exact(seed):
    vectors, priors, popularity, queries, own, hidden = world(seed)
    for rules in some_rules(seed, len(vectors)):
        ranking = Ranking(vectors, None, priors, popularity, rules)
        found = ranking.best_many(queries, 10, own, hidden)
        for b, (scores, rows) in enumerate(found):
            alone_scores, alone_rows = ranking.best(queries[b], 10, own[b], hidden[b])
            np.testing.assert_array_equal(alone_rows, rows)
            np.testing.assert_array_equal(alone_scores, scores)
            assert not np.isin(rows, hidden[b]).any()
            wanted = brute_force(vectors, priors, popularity, queries[b], own[b], hidden[b], rules, 10)
            np.testing.assert_allclose(scores, wanted, rtol=1e-4, atol=1e-4)
            equal = np.flatnonzero(scores[1:] == scores[:-1])
            assert (rows[equal] < rows[equal + 1]).all()


@pytest.mark.parametrize("seed", range(6))
def test_an_index_gives_the_same_answer(seed):
    vectors, priors, popularity, queries, own, hidden = world(seed)
    vectors = vectors + np.random.default_rng(1).normal(size=vectors.shape).astype(np.float32) / 100
    for rules in some_rules(seed, len(vectors)):
        alone = Ranking(vectors, None, priors, popularity, rules).best_many(queries, 10, own, hidden)
        index = Nearest(vectors)
        found = Ranking(vectors, index, priors, popularity, rules).best_many(queries, 10, own, hidden)
        for (scores, rows), (wanted_scores, wanted) in zip(found, alone, strict=True):
            np.testing.assert_array_equal(rows, wanted)
            np.testing.assert_array_equal(scores, wanted_scores)
        assert min(index.asked) < len(vectors)


def test_the_batch_may_be_cut_anywhere(monkeypatch):
    vectors, priors, popularity, queries, own, hidden = world(0)
    ranking = Ranking(vectors, None, priors, popularity)
    whole = ranking.best_many(queries, 10, own, hidden)
    monkeypatch.setattr(ranking_module, "SCORES", 3 * len(vectors))
    for (scores, rows), (other_scores, other) in zip(
        whole, ranking.best_many(queries, 10, own, hidden), strict=True
    ):
        np.testing.assert_array_equal(rows, other)
        np.testing.assert_array_equal(scores, other_scores)


def test_few_items_and_no_user():
    vectors = np.eye(4, dtype=np.float32)
    ranking = Ranking(vectors, None, Priors(), None)
    assert ranking.best_many(np.empty((0, 4), np.float32), 3, [], []) == []
    [(scores, rows)] = ranking.best_many(vectors[1:2], 9, [NOTHING], [np.array([1])])
    assert rows.tolist() == [0, 2, 3]
    assert scores.tolist() == [0.0, 0.0, 0.0]
    nothing = Ranking(vectors, None, Priors(), None, Rules(np.zeros(4, bool), np.zeros(4, int), 1))
    assert nothing.best(vectors[0], 2, NOTHING, NOTHING.rows)[1].tolist() == []


def test_a_cap_admits_the_first_of_each_category():
    rules = Rules(None, np.array([0, 0, 1, -1, -1, 0]), 2)
    assert within_cap(np.array([5, 0, 1, 2, 3, 4]), rules).tolist() == [True, True, False, True, True, True]
    assert within_cap(np.array([], int), rules).tolist() == []
    assert within_cap(np.array([1, 1]), Rules()).tolist() == [True, True]
