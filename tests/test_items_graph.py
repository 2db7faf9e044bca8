"""The bipartite graph, by hand."""

import numpy as np
import pytest

from pinnerformer_jax.items.graph import build_graph


def test_edges_both_ways_repeats_once():
    user = np.array([9, 9, 5, 9, 7], np.int64)
    item = np.array([2, 0, 2, 2, 3], np.int32)
    graph = build_graph(user, item, 5)  # users 5, 7, 9 are 0, 1, 2
    assert graph.item_offsets.tolist() == [0, 1, 1, 3, 4, 4]
    assert graph.item_users.tolist() == [2, 0, 2, 1]
    assert graph.user_offsets.tolist() == [0, 1, 2, 4]
    assert graph.user_items.tolist() == [2, 3, 0, 2]
    assert graph.connected.tolist() == [True, False, True, True, False]


def test_no_events_no_edges():
    graph = build_graph(np.zeros(0, np.int64), np.zeros(0, np.int32), 3)
    assert graph.items == 3
    assert not graph.connected.any()


def test_an_item_outside_the_catalogue():
    with pytest.raises(ValueError, match=r"3\.\.3, the catalogue has 3 rows"):
        build_graph(np.zeros(1, np.int64), np.array([3], np.int32), 3)
