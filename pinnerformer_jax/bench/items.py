"""Item vectors by PinSage: random walks, training steps and the vectors of all items, by catalogue size.

The graph is random, with ten edges an item and half as many users as items. Content and pairs are random too.
Walks start at a sample of the items, and a few training steps are timed. tqdm is needed. Peak memory is that
of the process so far, so sizes should ascend.
"""

from __future__ import annotations

import resource
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pinnerformer_jax.bench.report import table
from pinnerformer_jax.config import Config

EDGES, STARTS, STEPS = 10, 20_000, 10
"""Edges an item; the most items that walks start at; steps that are timed."""


def measure(config: Config, *, sizes: list[int]) -> dict[str, Any]:
    """Times and peak memory by catalogue size.

    Args:
        config: the section pinsage, and items.built_dim, the width of content and vectors.
        sizes: numbers of items.
    """
    return {
        "dim": config.items.built_dim,
        "edges_per_item": EDGES,
        "sizes": [_measure(config, items) for items in sizes],
    }


def _measure(config: Config, items: int) -> dict[str, Any]:
    from pinnerformer_jax.items.fit import World, embed_all, make_step
    from pinnerformer_jax.items.graph import build_graph
    from pinnerformer_jax.items.pinsage import ItemGraph
    from pinnerformer_jax.items.walks import find_neighbours

    settings, dim = config.pinsage, config.items.built_dim
    rng = np.random.default_rng(0)
    started = time.perf_counter()
    graph = build_graph(
        rng.integers(0, items // 2, EDGES * items), rng.integers(0, items, EDGES * items), items
    )
    built = time.perf_counter() - started
    starts = rng.permutation(items)[:STARTS].astype(np.int32)
    started = time.perf_counter()
    find_neighbours(graph, settings, starts)
    walked = time.perf_counter() - started
    del graph

    neighbour = rng.integers(0, items, (items, settings.neighbours), np.int32)
    weight = np.full(neighbour.shape, 1 / settings.neighbours, np.float32)
    features = rng.standard_normal((items, dim), np.float32)
    known = ItemGraph(*map(jnp.asarray, (features, neighbour, weight)))
    del features, neighbour, weight
    no_hard = jnp.zeros((items, 1), jnp.int32), jnp.zeros((items, 1), bool)
    world = World(known, jnp.full(items, 1 / items), jnp.arange(items, dtype=jnp.int32), *no_hard)
    graphdef, state, step_of = make_step(world, dim, settings)
    taken = []
    for step in range(STEPS + 1):
        first, second = rng.integers(0, items, (2, settings.batch_size), np.int32)
        started = time.perf_counter()
        state, loss = step_of(state, np.int32(step), first, second, world)
        jax.block_until_ready(loss)
        taken.append(time.perf_counter() - started)
    del world

    model = nnx.merge(graphdef, state[0])
    embed_all(model, known)
    started = time.perf_counter()
    embed_all(model, known)
    embedded = time.perf_counter() - started
    return {
        "items": items,
        "graph_us_per_item": 1e6 * built / items,
        "walks_per_second": len(starts) * settings.walkers / walked,
        "walking_us_per_item": 1e6 * walked / len(starts),
        "step_ms": 1e3 * float(np.median(taken[1:])),
        "embedding_seconds": embedded,
        "embedding_us_per_item": 1e6 * embedded / items,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def show(figures: dict[str, Any]) -> None:
    """Print a line for each size."""
    table(
        f"PinSage: {figures['edges_per_item']} edges an item, {figures['dim']} numbers a vector",
        (
            "items",
            "graph us/item",
            "walks/s",
            "walking us/item",
            "step ms",
            "embedding s",
            "us/item",
            "peak GB",
        ),
        [list(size.values()) for size in figures["sizes"]],
    )
