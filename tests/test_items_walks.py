"""Walks against the exact distribution, and neighbourhoods by hand."""

import dataclasses

import numpy as np
import pytest

from pinnerformer_jax.config import PinSageConfig
from pinnerformer_jax.items import walks
from pinnerformer_jax.items.graph import build_graph
from pinnerformer_jax.items.walks import count_visits, find_neighbours, kept_neighbours

USER = np.array([0, 0, 0, 1, 1, 2, 2, 3], np.int64)
ITEM = np.array([0, 1, 2, 1, 3, 3, 4, 4], np.int32)
ITEMS = 6  # the last has no user


def moves():
    """Transition matrix [6, 6] of item -> user -> item."""
    has = np.zeros((4, ITEMS))
    has[USER, ITEM] = 1
    to_user = has.T / np.maximum(has.sum(axis=0), 1)[:, None]
    return to_user @ (has / has.sum(axis=1, keepdims=True))


@pytest.mark.parametrize(("hops", "restart"), [(1, 0.0), (3, 0.0), (4, 0.4)])
def test_visits_follow_the_powers_of_the_transition_matrix(hops, restart):
    config = PinSageConfig(walkers=40_000, hops=hops, restart=restart)
    starts = np.array([0, 3, 5], np.int32)
    graph = build_graph(USER, ITEM, ITEMS)
    row, item, visits = count_visits(graph, starts, config, np.random.default_rng(0))
    counted = np.zeros((3, ITEMS))
    counted[row, item] = visits / config.walkers

    home = np.eye(ITEMS)[starts]
    at, expected = home, np.zeros((3, ITEMS))
    for hop in range(hops):
        at = (
            (restart * home * home.sum(1, keepdims=True) + (1 - restart) * at) @ moves()
            if hop
            else at @ moves()
        )
        expected += at
    np.testing.assert_allclose(expected.sum(axis=1), [hops, hops, 0])
    np.testing.assert_allclose(counted, expected, atol=5 * np.sqrt(hops / config.walkers))
    assert not counted[expected == 0].any()


def test_neighbours_are_the_most_visited_others():
    config = PinSageConfig(walkers=20_000, hops=1, neighbours=2)
    found = find_neighbours(build_graph(USER, ITEM, ITEMS), config)
    # From 3 one move reaches 1 (by user 1), 3 and 4 (by user 2): 1/4, 1/2, 1/4.
    assert sorted(found.item[3].tolist()) == [1, 4]
    np.testing.assert_allclose(found.weight[3], 0.5, atol=0.02)
    assert found.item[1, 0] == 3  # at 1/4; 0 and 2 at 1/6
    np.testing.assert_allclose(found.weight[1], [0.6, 0.4], atol=0.02)
    assert found.item[4].tolist() == [3, 0]  # the only one; then padding
    assert found.weight[4].tolist() == [1, 0]
    assert not found.weight[5].any()  # no user, no neighbour


def test_ties_go_to_the_lower_number():
    user, item = np.zeros(9, np.int64), np.arange(9, dtype=np.int32)
    graph = build_graph(user, item, 9)
    found = walks.Neighbours(np.zeros((1, 2), np.int32), np.zeros((1, 2), np.float32))
    walks._most_visited(np.zeros(3, np.int64), np.array([4, 2, 7]), np.array([5, 5, 5]), 0, found)
    assert found.item.tolist() == [[2, 4]]
    assert find_neighbours(graph, PinSageConfig()).item.shape == (9, 20)


def test_same_seed_same_bytes_other_seed_other(monkeypatch):
    monkeypatch.setattr(walks, "CHUNK_VISITS", 60)  # two items a chunk
    graph = build_graph(USER, ITEM, ITEMS)
    first, again, other = (
        find_neighbours(graph, PinSageConfig(walkers=10, hops=3, seed=seed)) for seed in (1, 1, 2)
    )
    assert first.weight.tobytes() == again.weight.tobytes()
    assert first.item.tobytes() == again.item.tobytes()
    assert (first.weight != other.weight).any()
    np.testing.assert_allclose(first.weight.sum(axis=1), [1, 1, 1, 1, 1, 0], rtol=1e-6)


def test_the_first_neighbours_are_those_of_a_smaller_table():
    graph = build_graph(USER, ITEM, ITEMS)
    many, few = (find_neighbours(graph, PinSageConfig(neighbours=count)) for count in (4, 2))
    np.testing.assert_array_equal(many.first(2).item, few.item)
    np.testing.assert_allclose(many.first(2).weight, few.weight, rtol=1e-6)


def test_a_kept_table_is_not_walked_for_again(tmp_path, monkeypatch):
    config, graph, file = (
        PinSageConfig(walkers=10, hops=3),
        build_graph(USER, ITEM, ITEMS),
        tmp_path / "w.npz",
    )
    first = kept_neighbours(graph, config, file)
    walked = []
    monkeypatch.setattr(walks, "find_neighbours", lambda *of: walked.append(of) or first)
    again = kept_neighbours(graph, dataclasses.replace(config, steps=3), file)
    assert not walked
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
    for changed in ({"hops": 2}, {"seed": 1}, {"neighbours": 3}):
        kept_neighbours(graph, dataclasses.replace(config, **changed), file)
    kept_neighbours(build_graph(USER[1:], ITEM[1:], ITEMS), config, file)
    assert len(walked) == 4


@pytest.mark.parametrize("content", [b"", b"PK", b"not an npz"])
def test_a_broken_table_is_named(tmp_path, content):
    (tmp_path / "w.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"w\.npz: holds no neighbours .*; delete it to walk again"):
        kept_neighbours(build_graph(USER, ITEM, ITEMS), PinSageConfig(), tmp_path / "w.npz")
