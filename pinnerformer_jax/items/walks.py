"""Importance by random walks: which items a short walk from an item visits, and how often.

A move goes from an item to one of its users and on to one of that user's items, all equally likely. Before
each move but the first the walk goes back to its start with the chance `restart`; the visits then follow
personalised PageRank, cut off after `hops` moves. The T most visited other items are an item's
neighbourhood, and their shares of the visits the weights it is pooled with (Ying et al., section 3.1).

All walks of a chunk of items move at once. Memory is a few arrays of CHUNK_VISITS numbers, beside the
result; the visits are a function of (seed, chunk). A table that a file holds is not walked for again.
"""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from tqdm import tqdm

from pinnerformer_jax.config import PinSageConfig
from pinnerformer_jax.files import atomic_path
from pinnerformer_jax.items.graph import Graph

CHUNK_VISITS = 1 << 22


class Neighbours(NamedTuple):
    """T neighbours of each of N items, the most important first."""

    item: np.ndarray  # int32 [N, T]; 0 where the weight is 0
    weight: np.ndarray  # float32 [N, T]: adds up to 1, or to 0 where an item has no neighbour

    def first(self, count: int) -> Neighbours:
        """The most important ones alone."""
        weight = self.weight[:, :count]
        total = weight.sum(axis=1, keepdims=True)
        return Neighbours(self.item[:, :count], weight / np.where(total > 0, total, 1))


def find_neighbours(
    graph: Graph, config: PinSageConfig, items: Int[np.ndarray, " n"] | None = None
) -> Neighbours:
    """The T most visited items of the walks from each item; ties go to the lower number.

    Args:
        graph: of items and users.
        config: walkers, hops, restart, neighbours and seed are used.
        items: where to start; None: at every item of the graph.
    """
    items = np.arange(graph.items, dtype=np.int32) if items is None else items.astype(np.int32)
    shape = len(items), config.neighbours
    found = Neighbours(np.zeros(shape, np.int32), np.zeros(shape, np.float32))
    size = max(CHUNK_VISITS // (config.walkers * config.hops), 1)
    begins = range(0, len(items), size)
    for chunk, begin in enumerate(tqdm(begins, desc="walking", unit="chunk", leave=False, disable=None)):
        rng = np.random.Generator(np.random.Philox(key=config.seed, counter=[0, 0, 0, chunk]))
        starts = items[begin : begin + size]
        row, visited, visits = count_visits(graph, starts, config, rng)
        other = visited != starts[row]
        _most_visited(row[other], visited[other], visits[other], begin, found)
    return found


def kept_neighbours(graph: Graph, config: PinSageConfig, file: Path) -> Neighbours:
    """`find_neighbours`, from a file if it holds those of this graph and these settings, else into it.

    Raises:
        ValueError: the file is none that this wrote.
    """
    digest = hashlib.sha256(repr((*_walk_settings(config), graph.items)).encode())
    for array in graph:
        digest.update(np.ascontiguousarray(array).data)
    key = digest.hexdigest()
    if file.is_file():
        try:
            with np.load(file, allow_pickle=False) as stored:
                if str(stored["key"]) == key:
                    return Neighbours(stored["item"], stored["weight"])
        except (KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{file}: holds no neighbours ({error}); delete it to walk again") from error
    found = find_neighbours(graph, config)
    with atomic_path(file) as temporary:
        np.savez(temporary, key=key, **found._asdict())
    return found


def _walk_settings(config: PinSageConfig) -> tuple[float, ...]:
    return config.walkers, config.hops, config.restart, config.neighbours, config.seed


def count_visits(
    graph: Graph, starts: Int[np.ndarray, " n"], config: PinSageConfig, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Walk from each start, and count where the moves end.

    Returns:
        int64 [entries] place in `starts`, ascending; the item, ascending within a start; how often it was
        visited. An item without users visits nothing.
    """
    connected = np.flatnonzero(graph.connected[starts])
    row = np.repeat(connected, config.walkers)
    home = starts[row]
    keys, at = [], home
    for hop in range(config.hops):
        if hop:
            at = np.where(rng.random(len(at), np.float32) < config.restart, home, at)
        user = _one_of(graph.item_offsets, graph.item_users, at, rng)
        at = _one_of(graph.user_offsets, graph.user_items, user, rng)
        keys.append(row * graph.items + at)
    key, visits = np.unique(np.concatenate(keys), return_counts=True)
    return *np.divmod(key, graph.items), visits


def _one_of(offsets: np.ndarray, values: np.ndarray, row: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random entry of each row; no row is empty."""
    start = offsets[row]
    return values[start + (rng.random(len(row)) * (offsets[row + 1] - start)).astype(np.int64)]


def _most_visited(
    row: np.ndarray, item: np.ndarray, visits: np.ndarray, begin: int, found: Neighbours
) -> None:
    """Write the top T of each row."""
    order = np.lexsort((item, -visits, row))
    row, item, visits = row[order], item[order], visits[order]
    place = np.arange(len(row)) - np.searchsorted(row, row)
    top = place < found.item.shape[1]
    row, place = row[top] + begin, place[top]
    found.item[row, place] = item[top]
    found.weight[row, place] = visits[top]
    rows = np.unique(row)
    found.weight[rows] /= found.weight[rows].sum(axis=1, keepdims=True)
