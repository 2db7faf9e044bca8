import dataclasses
import json

import jax
import numpy as np
import pytest

from pinnerformer_jax.config import EvaluationConfig
from pinnerformer_jax.evaluation import comparison
from pinnerformer_jax.evaluation.comparison import (
    Statistic,
    evaluate_method,
    evaluate_methods,
    inner_products,
    intervals,
)
from pinnerformer_jax.evaluation.protocol import History, Protocol, Targets


def protocol(users=23, items=140, seed=0, index=70):
    """Made-up users with long and short histories; some have no new target."""
    rng = np.random.default_rng(seed)
    length = rng.integers(1, 30, users)
    history = History(
        offsets=np.cumsum([0, *length]),
        item=rng.integers(0, items, length.sum()).astype(np.int32),
        time=np.zeros(length.sum(), np.int64),
        positive=np.ones(length.sum(), bool),
    )
    wanted = [np.sort(rng.choice(items, rng.integers(1, 7), replace=False)) for _ in range(users)]
    touched = [set(history.item[a:b]) for a, b in zip(history.offsets, history.offsets[1:], strict=False)]
    wanted[3] = np.array(sorted(touched[3]))[:1]
    return Protocol(
        users=np.arange(users),
        history=history,
        targets=Targets(
            offsets=np.cumsum([0, *map(len, wanted)]),
            item=np.concatenate(wanted).astype(np.int32),
            new=np.array(
                [item not in seen for own, seen in zip(wanted, touched, strict=True) for item in own]
            ),
            by_action=np.ones((sum(map(len, wanted)), 1), bool),
        ),
        actions=[""],
        reachable=np.arange(items) % 9 != 0,
        index=np.isin(np.arange(items), rng.choice(items, index, replace=False))
        & (np.arange(items) % 9 != 0),
        split_time=1_795_000_000,
        window_end=1_796_209_600,
        eligible=users,
        without_history=0,
        without_target=0,
        unreachable=0,
    )


def values(results):
    return {(row.protocol, row.metric): row.value for row in results.rows}


def enumerated(scores, case, topics, filter_seen):
    """The definitions, by loops over users, items and targets, in float64."""
    hits, recalls, shown = [], {"full": [], "new_items": []}, np.zeros(len(topics), int)
    ndcgs, entropies = {"full": [], "new_items": []}, []
    for user, row in enumerate(scores):
        own = case.targets.item[case.targets.offsets[user] : case.targets.offsets[user + 1]].tolist()
        seen = set(case.history.item[case.history.offsets[user] : case.history.offsets[user + 1]].tolist())
        for item in own:
            rivals = [j for j in np.flatnonzero(case.index) if j not in own]
            hits.append(sum(row[j] >= row[item] for j in rivals) < 10)
        ranking = sorted(np.flatnonzero(case.index), key=lambda j: (-row[j], j in own))
        shown[ranking[:10]] += 1
        _, counts = np.unique(topics[ranking[:50]], return_counts=True)
        share = counts / counts.sum()
        entropies.append(-(share * np.log(share)).sum())
        for kind in recalls:
            hidden = seen if kind == "new_items" or filter_seen else set()
            wanted = [j for j in own if kind == "full" or j not in seen]
            if not wanted:
                continue
            ranking = sorted(
                (j for j in np.flatnonzero(case.reachable | np.isin(np.arange(len(row)), wanted))
                 if j not in hidden),
                key=lambda j: (-row[j], j in wanted),
            )  # fmt: skip
            places = [place for place, j in enumerate(ranking[:10]) if j in wanted]
            recalls[kind].append(len(places) / len(wanted))
            best = sum(1 / np.log2(2 + place) for place in range(min(10, len(wanted))))
            ndcgs[kind].append(sum(1 / np.log2(2 + place) for place in places) / best)
    counts = np.sort(shown[case.index])[::-1].cumsum()
    return {
        ("paper", "recall@10"): np.mean(hits),
        ("paper", "interest_entropy@50"): np.mean(entropies),
        ("paper", "p90_coverage@10"): (np.argmax(counts >= 0.9 * counts[-1]) + 1) / case.index.sum(),
        ("full", "recall@10"): np.mean(recalls["full"]),
        ("full", "ndcg@10"): np.mean(ndcgs["full"]),
        ("full", "hit_rate@10"): np.mean([value > 0 for value in recalls["full"]]),
        ("new_items", "recall@10"): np.mean(recalls["new_items"]),
        ("new_items", "ndcg@10"): np.mean(ndcgs["new_items"]),
    }


@pytest.mark.parametrize(("batch_size", "filter_seen"), [(1, False), (5, True), (8, False), (256, False)])
def test_equal_to_an_enumeration_whatever_the_chunks(batch_size, filter_seen):
    case = protocol()
    rng = np.random.default_rng(1)
    topics = rng.integers(0, 6, 140).astype(np.int32)
    # Distinct scores: among equal items it is open which are shown, and entropy depends on it.
    scores = rng.permuted(np.tile(np.arange(140), (23, 1)), axis=1).astype(np.float32)
    config = EvaluationConfig(batch_size=batch_size, filter_seen=filter_seen)
    found = values(evaluate_methods({"m": lambda users: scores[users]}, case, topics, config))
    for key, expected in enumerated(scores, case, topics, filter_seen).items():
        assert found[key] == pytest.approx(expected), key


def test_ties_whatever_the_chunks(monkeypatch):
    case = protocol()
    scores = np.random.default_rng(1).integers(0, 9, (23, 140)).astype(np.float32)
    topics = np.zeros(140, np.int32)
    expected = enumerated(scores, case, topics, False)
    for limit in (140, 1000, 1 << 25):  # 1, 7 and 23 users at a time
        monkeypatch.setattr(comparison, "MAX_SCORES", limit)
        found = values(evaluate_methods({"m": lambda users: scores[users]}, case, topics, EvaluationConfig()))
        for protocol_name in ("paper", "full", "new_items"):
            assert found[protocol_name, "recall@10"] == pytest.approx(expected[protocol_name, "recall@10"])


def test_memory_is_bounded_by_the_chunk(monkeypatch):
    monkeypatch.setattr(comparison, "MAX_SCORES", 140 * 4)
    asked = []

    def scorer(users):
        asked.append(len(users))
        return np.zeros((len(users), 140), np.float32)

    evaluate_method("m", scorer, protocol(), np.zeros(140, np.int32), EvaluationConfig())
    assert asked == [4] * 6  # the last chunk is filled up: one shape


def test_a_constant_scorer_gets_nothing():
    results = evaluate_methods(
        {"m": lambda users: np.ones((len(users), 140), np.float32)},
        protocol(), np.zeros(140, np.int32), EvaluationConfig(),
    )  # fmt: skip
    scored = [row for row in results.rows if "entropy" not in row.metric and "cov" not in row.metric]
    assert len(scored) == 13
    assert {row.value for row in scored} == {0.0}


def test_rows_are_what_was_promised():
    case = protocol()
    rng = np.random.default_rng(0)
    scorers = {
        name: inner_products(*(rng.normal(size=(n, 4)).astype(np.float32) for n in (23, 140)))
        for name in ("pinnerformer", "other")
    }
    results = evaluate_methods(scorers, case, np.full(140, -1, np.int32), EvaluationConfig(cutoffs=(5,)))
    found = {(row.method, row.protocol, row.metric) for row in results.rows}
    kinds = {
        *[("paper", "recall@10"), ("paper", "p90_coverage@10")],  # no topic is known: no entropy
        *[(p, f"{m}@5") for p in ("full", "new_items") for m in ("recall", "ndcg", "hit_rate")],
    }
    assert found == {(name, *kind) for name in scorers for kind in kinds}
    assert len(results.rows) == len(found)
    users = {row.protocol: row.n_users for row in results.rows}
    new = np.add.reduceat(case.targets.new, case.targets.offsets[:-1])
    assert users == {"paper": 23, "full": 23, "new_items": int((new > 0).sum())}
    for row in results.rows:
        if row.low is not None:
            assert row.low <= row.value <= row.high
    json.dumps([row.to_json() for row in results.rows], allow_nan=False)


def test_recall_by_history_length_adds_up():
    case = protocol()
    scores = np.random.default_rng(2).normal(size=(23, 140)).astype(np.float32)
    results = evaluate_methods(
        {"m": lambda users: scores[users]}, case, np.zeros(140, np.int32), EvaluationConfig()
    )
    lines = results.history_length
    assert [line.events for line in lines] == ["1-4", "5-9", "10-19", "20-49"]
    assert sum(line.n_users for line in lines) == 23
    assert sum(line.n_pairs for line in lines) == len(case.targets.item)
    total = sum(line.recall * line.n_pairs for line in lines) / len(case.targets.item)
    assert total == pytest.approx(values(results)["paper", "recall@10"])


def test_recall_by_action_splits_the_same_hits():
    case = protocol()
    scores = np.random.default_rng(2).normal(size=(23, 140)).astype(np.float32)
    pairs = len(case.targets.item)
    kinds = np.stack([np.zeros(pairs), np.arange(pairs) % 3 > 0, np.arange(pairs) % 3 == 0, np.zeros(pairs)])
    user = np.repeat(np.arange(23), np.diff(case.targets.offsets))
    scores[user, case.targets.item] += kinds[2]  # save is easier
    targets = dataclasses.replace(case.targets, by_action=kinds.T.astype(bool))
    case = dataclasses.replace(case, targets=targets, actions=["", "like", "save", "hide"])
    for size in (5, 256):
        config = EvaluationConfig(batch_size=size)
        results = evaluate_methods({"m": lambda users: scores[users]}, case, np.zeros(140, np.int32), config)
        found = {row.metric: row for row in results.rows if row.protocol == "by_action"}
        assert set(found) == {"recall@10 like", "recall@10 save"}
        hits = sum(found[f"recall@10 {a}"].value * kinds[k].sum() for k, a in ((1, "like"), (2, "save")))
        assert hits / pairs == pytest.approx(values(results)["paper", "recall@10"])
        assert found["recall@10 save"].value > found["recall@10 like"].value


def test_coverage_curve_starts_at_nothing_and_ends_at_everything():
    scores = np.random.default_rng(2).normal(size=(23, 140)).astype(np.float32)
    results = evaluate_methods(
        {"m": lambda users: scores[users]}, protocol(), np.zeros(140, np.int32), EvaluationConfig()
    )
    curve = np.array(results.coverage_curve["m"])
    assert curve[0].tolist() == [0, 0]
    assert curve[-1].tolist() == [1, 1]
    assert (np.diff(curve, axis=0) >= 0).all()


def test_bootstrap_agrees_with_the_normal_interval():
    rng = np.random.default_rng(0)
    mean = Statistic(rng.normal(3, 2, 2000), np.ones(2000))
    some = Statistic(np.where(rng.random(2000) < 0.5, mean.total, 0), np.ones(2000))
    ratio = Statistic(2 * mean.total, 4 * np.ones(2000))
    nobody = Statistic(np.zeros(2000), np.zeros(2000))
    low, high = intervals([mean, some, ratio, nobody], seed=0)
    half = 1.96 * 2 / np.sqrt(2000)
    assert (high[0] - low[0]) / 2 == pytest.approx(half, rel=0.1)
    np.testing.assert_allclose([low[2], high[2]], [low[0] / 2, high[0] / 2])  # the same users are drawn
    assert np.isnan(low[3])
    np.testing.assert_array_equal(intervals([mean], seed=0), intervals([mean], seed=0))


def test_inner_products_of_items_that_several_devices_hold():
    rng = np.random.default_rng(0)
    users, items = (rng.integers(-9, 9, (n, 4)).astype(np.float32) for n in (5, 21))  # no multiple of 8
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    found = inner_products(users, items, mesh)(np.array([0, 3]))
    np.testing.assert_array_equal(found, users[[0, 3]] @ items.T)
    assert found.devices() == {jax.devices()[0]}


def test_inner_products_refuse_what_is_not_finite():
    users, items = np.ones((3, 2), np.float32), np.ones((5, 2), np.float32)
    items[2, 1] = np.inf
    with pytest.raises(ValueError, match="1 of 5 item embeddings are not finite"):
        inner_products(users, items)
    np.testing.assert_array_equal(inner_products(users, users)(np.array([0, 0, 2])), np.full((3, 3), 2))
