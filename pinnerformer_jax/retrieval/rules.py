"""Rules of a shop, over the rows of the items: which of them may be shown, and how many of a category.

Both keep the answer exact. An item that may not be shown has the score -inf. Under a cap the ranking takes
the best item that the cap still admits, again and again; no other choice of k items within the cap has a
larger sum of scores (the cap is a partition matroid, where greedy choice is optimal).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Rules:
    """For N items, by row."""

    allowed: np.ndarray | None = None  # bool [N]; None: all
    category: np.ndarray | None = None  # int [N], of each item; -1: it has none, and no cap; None: no caps
    at_most: int = 1  # items of one category in an answer


NO_RULES = Rules()


def within_cap(rows: np.ndarray, rules: Rules) -> np.ndarray:
    """bool [m]: which items of a ranking the cap admits.

    Args:
        rows: int [m], best first.
        rules: the cap and the categories.
    """
    if rules.category is None or not len(rows):
        return np.ones(len(rows), bool)
    category = rules.category[rows]
    order = np.argsort(category, kind="stable")  # by category, best first within each
    _, first, size = np.unique(category[order], return_index=True, return_counts=True)
    place = np.empty(len(rows), np.int64)  # of each item among those of its category
    place[order] = np.arange(len(rows)) - np.repeat(first, size)
    return (place < rules.at_most) | (category < 0)
