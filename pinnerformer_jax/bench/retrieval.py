"""Nearest items: exact search on the device, and ScaNN if it is installed."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pinnerformer_jax.bench.report import table
from pinnerformer_jax.bench.timing import alternate
from pinnerformer_jax.config import Config
from pinnerformer_jax.retrieval import exact
from pinnerformer_jax.retrieval.scann_index import ScannIndex

QUERIES, CLUSTERS, K = 1024, 500, 10


def vectors(items: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Clustered items, and queries that are mixtures of two items, like a user's taste; unit rows."""
    rng = np.random.default_rng(0)

    def unit(rows: np.ndarray) -> np.ndarray:
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    centres = unit(rng.standard_normal((CLUSTERS, dim), np.float32))
    spread = unit(rng.standard_normal((items, dim), np.float32))
    catalogue = unit(centres[rng.integers(0, CLUSTERS, items)] + 0.7 * spread)
    first, second = rng.integers(0, items, (2, QUERIES))
    return catalogue, unit(catalogue[first] + catalogue[second])


def measure(config: Config, *, items: int, seconds: float) -> dict[str, Any]:
    """Queries a second from host arrays to host arrays, recall@10 against exact search, and build time."""
    catalogue, queries = vectors(items, config.model.output_dim)
    on_device = jax.block_until_ready(jnp.asarray(catalogue))
    truth = exact.search(queries, on_device, K)[1]
    runs: dict[str, Any] = {"exact": partial(exact.search, queries, on_device, K)}
    facts: dict[str, dict[str, Any]] = {"exact": {"recall": 1.0, "build_seconds": 0.0}}
    started = time.perf_counter()
    try:
        index = ScannIndex.build(catalogue, config.index)
    except ImportError as error:
        print(f"ScaNN is not measured: {error}")
    else:
        built = time.perf_counter() - started
        found = index.search(queries, K)[1]
        hits = (truth[:, :, None] == found[:, None, :]).any(axis=2)
        runs["ScaNN"] = partial(index.search, queries, K)
        facts["ScaNN"] = {"recall": float(hits.mean()), "build_seconds": built}
    timings = alternate(runs, seconds)
    return {
        "items": items,
        "dim": config.model.output_dim,
        "queries": QUERIES,
        "k": K,
        "ways": {
            name: {
                "queries_per_second": QUERIES / timings[name].median,
                **facts[name],
                **timings[name].milliseconds(),
            }
            for name in runs
        },
    }


def show(figures: dict[str, Any]) -> None:
    """Print a line for each index."""
    table(
        f"Retrieval: {figures['k']} of {figures['items']:,} items of {figures['dim']} numbers, "
        f"{figures['queries']:,} queries at a time",
        ("index", "queries/s", f"recall@{figures['k']}", "build s", "ms"),
        [
            [name, way["queries_per_second"], way["recall"], way["build_seconds"], way["ms"]]
            for name, way in figures["ways"].items()
        ],
    )
