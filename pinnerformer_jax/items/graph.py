"""The bipartite graph of items and users (or sessions), as compressed rows in both directions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from pinnerformer_jax.data.ragged import offsets_of


class Graph(NamedTuple):
    """An edge for each item that a user has, however often. N items, U users, E edges."""

    item_offsets: (
        np.ndarray
    )  # int64 [N + 1]: item i has users item_users[item_offsets[i] : item_offsets[i + 1]]
    item_users: np.ndarray  # int32 [E]
    user_offsets: np.ndarray  # int64 [U + 1]
    user_items: np.ndarray  # int32 [E]

    @property
    def items(self) -> int:
        """N."""
        return len(self.item_offsets) - 1

    @property
    def connected(self) -> np.ndarray:
        """bool [N]: items with an edge."""
        return np.diff(self.item_offsets) > 0


def build_graph(user: Int[np.ndarray, " e"], item: Int[np.ndarray, " e"], items: int) -> Graph:
    """The graph of a list of events.

    Args:
        user: number of the user; a session may be given as a user.
        item: row of the catalogue; repeats count once.
        items: N, rows of the catalogue.

    Raises:
        ValueError: an item number outside 0 : items.
    """
    if item.size and not 0 <= item.min() <= item.max() < items:
        raise ValueError(f"item numbers span {item.min()}..{item.max()}, the catalogue has {items} rows")
    users, row = np.unique(user, return_inverse=True)
    edges = np.unique(row.astype(np.int64) * items + item)  # by user, then item
    row, item = np.divmod(edges, items)
    by_item = np.argsort(item, kind="stable")
    return Graph(
        _offsets(item, items),
        row[by_item].astype(np.int32),
        _offsets(row, len(users)),
        item.astype(np.int32),
    )


def _offsets(row: np.ndarray, rows: int) -> np.ndarray:
    return offsets_of(np.bincount(row, minlength=rows))
