"""Embedding of users as in the daily job, beside the forward pass of training."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import numpy as np

from pinnerformer_jax.bench.report import table
from pinnerformer_jax.bench.timing import alternate
from pinnerformer_jax.bench.workload import SIZES, lengths, make_batch, make_features, make_tables
from pinnerformer_jax.config import Config
from pinnerformer_jax.data.contracts import Events
from pinnerformer_jax.model.inference import Embedder
from pinnerformer_jax.training.sharding import make_mesh, replicate, shard_batch
from pinnerformer_jax.training.state import create
from pinnerformer_jax.training.step import make_validation_step


def measure(config: Config, *, items: int, seconds: float, kind: str = "uniform") -> dict[str, Any]:
    """Users a second, from host arrays to host arrays.

    Three measurements: full histories in batches of a quarter, one and four times the config's size; the
    validation step on the same, which is the forward pass of training with sampling and loss; and four
    batches of users with different lengths, padded to T or in length buckets.

    Args:
        config: sizes.
        items: in the catalogue.
        seconds: to spend.
        kind: of the different lengths, see `workload.lengths`.
    """
    graphdef, state = create(config, SIZES._replace(items=items))
    embedder = Embedder(graphdef, state.params, make_features(items))
    size = config.training.batch_size
    runs: dict[str, Any] = {}
    sizes: dict[str, int] = {}
    for users in sorted({max(size // 4, 1), size, 4 * size}):
        resized = _with_batch(config, users)
        batch = make_batch(resized, lengths("full", resized), items)
        runs[f"embed {users}"] = partial(embedder.users, batch.history, batch.length)
        sizes[f"embed {users}"] = users
    resized = _with_batch(config, 4 * size)
    many = make_batch(resized, lengths(kind, resized), items)

    def read(users: np.ndarray, width: int) -> tuple[Events, np.ndarray]:
        return Events(*(column[users, :width] for column in many.history)), many.length[users]

    def in_batches() -> list[np.ndarray]:
        rows = np.arange(4 * size).reshape(4, size)
        return [embedder.users(*read(users, config.model.max_length)) for users in rows]

    runs["many lengths, as long as T"] = in_batches
    runs["many lengths, in buckets"] = partial(
        embedder.users_by_length, read, many.length, config.model.max_length, size
    )
    sizes |= dict.fromkeys(list(runs)[-2:], 4 * size)
    mesh = make_mesh(1)
    batch = shard_batch(mesh, make_batch(config, lengths("full", config), items))
    state, tables = replicate(mesh, state), make_tables(config, mesh, items)
    forward = make_validation_step(config, graphdef, mesh, items).lower(state, batch, tables).compile()
    runs["training's forward pass"] = partial(forward, state, batch, tables)
    sizes["training's forward pass"] = size
    timings = alternate(runs, seconds)
    return {
        name: {"users": sizes[name], "users_per_second": sizes[name] / timing.median, **timing.milliseconds()}
        for name, timing in timings.items()
    }


def _with_batch(config: Config, users: int) -> Config:
    return dataclasses.replace(config, training=dataclasses.replace(config.training, batch_size=users))


def show(figures: dict[str, Any]) -> None:
    """Print a line for each batch size."""
    table(
        "User embeddings",
        ("what", "users", "users/s", "ms"),
        [[name, way["users"], way["users_per_second"], way["ms"]] for name, way in figures.items()],
    )
