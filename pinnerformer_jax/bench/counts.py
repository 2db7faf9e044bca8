"""Counts of the positives: exact or in a sketch, by the size of the catalogue.

The counts are those after very many steps, of items whose frequencies are those of Zipf's law (the k-th item
1 / k). The error is that of log Q, in nats, of random items and of in-batch negatives, against the log Q of
the true frequencies. A step is `frequency.update` of the config's positives, and log Q of the pool.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pinnerformer_jax.bench import flops
from pinnerformer_jax.bench.report import table
from pinnerformer_jax.bench.timing import alternate
from pinnerformer_jax.config import Config
from pinnerformer_jax.objective.frequency import Sketch, empty_sketch, places, update
from pinnerformer_jax.objective.negatives import NO_USER, Pool, log_q

_ITEMS = 20_000  # whose error is taken


def measure(config: Config, *, items: list[int], seconds: float) -> dict[str, Any]:
    """Memory, error of log Q and time a step of each way, for each size of the catalogue.

    Args:
        config: sizes; the sketch is that of its `objective` section.
        items: sizes of the catalogue.
        seconds: to spend on the times.
    """
    return {"sizes": [_of_size(config, size, seconds / len(items)) for size in items]}


def _of_size(config: Config, items: int, seconds: float) -> dict[str, Any]:
    rng, objective = np.random.default_rng(0), config.objective
    share = 1 / np.arange(1, items + 1)
    share = rng.permutation(share / share.sum())
    positives = config.training.batch_size * flops.positions(config)
    # What the counts tend to: those of 1 / (1 - decay) steps.
    counted = rng.poisson(share * positives / max(1 - objective.sketch_decay, 1e-9))
    batch = jnp.asarray(rng.choice(items, positives, p=share), jnp.int32)
    in_batch = batch[: objective.in_batch_negatives]
    at_random = jnp.asarray(rng.integers(0, items, objective.random_negatives), jnp.int32)
    pool = Pool(
        jnp.concatenate([in_batch, at_random]),
        jnp.concatenate([jnp.zeros_like(in_batch), jnp.full_like(at_random, NO_USER)]),
        jnp.ones(len(in_batch) + len(at_random), bool),
    )
    ways = {
        "exact": dataclasses.replace(objective, exact_counts=items),
        "sketch": dataclasses.replace(objective, exact_counts=0),
    }
    sketches = {name: _after(counted, empty_sketch(way, items)) for name, way in ways.items()}
    queries = {"random": rng.integers(0, items, _ITEMS), "in-batch": rng.choice(items, _ITEMS, p=share)}
    expected = len(in_batch) * share + objective.random_negatives / items

    @jax.jit
    def count(sketch: Sketch) -> tuple[Sketch, jax.Array]:
        sketch = update(sketch, batch, jnp.ones(len(batch), bool), decay=objective.sketch_decay)
        return sketch, log_q(sketch, pool.item, pool, random=len(at_random), corpus=items)

    timings = alternate({name: partial(count, sketch) for name, sketch in sketches.items()}, seconds)
    figures: dict[str, Any] = {"items": items, "ways": {}}
    for name, sketch in sketches.items():
        error = {}
        for kind, rows in queries.items():
            wanted = jnp.asarray(rows, jnp.int32)
            found = np.asarray(log_q(sketch, wanted, pool, random=len(at_random), corpus=items))
            error[kind] = float(np.abs(found - np.log(expected[rows])).mean())
        size = sketch.counts.nbytes
        figures["ways"][name] = {"error": error, "bytes": size, **timings[name].milliseconds()}
    return figures


def _after(counted: np.ndarray, empty: Sketch) -> Sketch:
    """The sketch that has counted each item so often."""
    where = tuple(map(np.asarray, places(empty, jnp.arange(len(counted), dtype=jnp.int32))))
    counts = np.zeros(empty.counts.shape)
    np.add.at(counts, where, np.broadcast_to(counted, where[-1].shape))
    return Sketch(jnp.asarray(counts, jnp.float32), jnp.asarray(counted.sum(), jnp.float32))


def show(figures: dict[str, Any]) -> None:
    """Print a line for each size and way."""
    table(
        "Counts of positives",
        ("items", "way", "MiB", "ms a step", "error of random items", "of in-batch negatives"),
        [
            [
                f"{size['items']:,}", name, way["bytes"] / 2**20, way["ms"],
                f"{way['error']['random']:.3f}", f"{way['error']['in-batch']:.3f}",
            ]
            for size in figures["sizes"]
            for name, way in size["ways"].items()
        ],
    )  # fmt: skip
