"""The loss alone, forward and backward: all logits at once, in chunks of rows, in chunks of negatives."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from pinnerformer_jax.bench import flops
from pinnerformer_jax.bench.report import table
from pinnerformer_jax.bench.timing import alternate, keep_heap_of, temporary_bytes
from pinnerformer_jax.config import Config
from pinnerformer_jax.objective import loss
from pinnerformer_jax.objective.negatives import NO_USER, Pool

ROW_CHUNKS = (256, 1024, 4096)


def inputs(config: Config, items: int) -> tuple:
    """Arguments of the loss at a config's sizes: random unit vectors, users of P rows each."""
    rng = np.random.default_rng(0)
    each = flops.positions(config)
    rows, pool, dim = config.training.batch_size * each, flops.negatives(config), config.model.output_dim
    in_batch = pool - config.objective.random_negatives

    def unit(count: int) -> jax.Array:
        vectors = rng.standard_normal((count, dim), np.float32)
        return jnp.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))

    item = rng.integers(0, items, rows, np.int32)
    user = np.repeat(np.arange(config.training.batch_size, dtype=np.int32), each)
    taken = rng.choice(rows, in_batch, replace=False)
    pool_item = np.append(item[taken], rng.integers(0, items, pool - in_batch, np.int32))
    pool_user = np.append(user[taken], np.full(pool - in_batch, NO_USER, np.int32))
    weight = np.full(rows, 1 / rows, np.float32)
    facts = (
        loss.Rows(*map(jnp.asarray, (item, user, weight, np.zeros(rows, np.float32)))),
        Pool(*map(jnp.asarray, (pool_item, pool_user, np.ones(pool, bool)))),
        np.zeros(pool, np.float32),
    )
    return unit(rows), unit(rows), unit(pool), jnp.asarray(0.1), *jax.tree.map(jnp.asarray, facts)


def by_negatives(
    user: jax.Array,
    positive: jax.Array,
    pool_embedding: jax.Array,
    temperature: jax.Array,
    rows: loss.Rows,
    pool: Pool,
    pool_log_q: jax.Array,
    *,
    chunk: int = 1024,
) -> jax.Array:
    """The loss with an online log-sum-exp over chunks of negatives, whose logits the backward pass
    recomputes. This also avoids logits [R, N]. It was slower than chunks of rows, and is kept to compare."""
    own = jnp.sum(user * positive, axis=-1) / temperature - rows.log_q  # [R]
    padding = -pool_log_q.shape[0] % chunk

    def split(values: jax.Array) -> jax.Array:
        padded = jnp.pad(values, [(0, padding)] + [(0, 0)] * (values.ndim - 1))
        return padded.reshape(-1, chunk, *values.shape[1:])

    @jax.checkpoint
    def add(so_far: jax.Array, part: tuple) -> tuple[jax.Array, None]:
        embedding, candidates, log_q = part
        logits = user @ embedding.T / temperature - log_q[None, :]  # [R, chunk]
        other_item = rows.item[:, None] != candidates.item[None, :]
        other_user = rows.user[:, None] != candidates.user[None, :]
        logits = jnp.where(candidates.valid[None, :] & other_item & other_user, logits, -jnp.inf)
        everything = jnp.concatenate([so_far[:, None], logits], axis=1)
        return jax.nn.logsumexp(everything, axis=1), None

    chunks = jax.tree.map(split, (pool_embedding, pool, pool_log_q))
    return jnp.sum((jax.lax.scan(add, own, chunks)[0] - own) * rows.weight)


def measure(config: Config, *, items: int, seconds: float) -> dict[str, Any]:
    """Time and temporary memory of value and gradient, by implementation."""
    arguments = inputs(config, items)
    rows = arguments[0].shape[0]
    chunks = sorted({min(chunk, rows) for chunk in ROW_CHUNKS})
    programs = {"plain": _compiled(loss.sampled_softmax, arguments)}
    for chunk in chunks:
        with mock.patch.object(loss, "row_chunk", lambda chunk=chunk: chunk):  # read when it is traced
            # A new function, because jax caches traces by function.
            chunked = partial(lambda *values: loss.chunked_sampled_softmax(*values))
            programs[f"rows by {chunk}"] = _compiled(chunked, arguments)
    programs["negatives by 1024"] = _compiled(by_negatives, arguments)
    keep_heap_of(programs.values())
    timings = alternate({name: partial(run, *arguments[:4]) for name, run in programs.items()}, seconds)
    plain = temporary_bytes(programs["plain"])
    return {
        "rows": rows,
        "negatives": arguments[2].shape[0],
        "default_row_chunk": loss.row_chunk(),
        "ways": {
            name: {
                **timings[name].milliseconds(),
                "time_of_plain": timings[name].median / timings["plain"].median,
                "temporary_bytes": (memory := temporary_bytes(run)),
                "memory_of_plain": memory / plain,
                "loss": float(run(*arguments[:4])[0]),
            }
            for name, run in programs.items()
        },
    }


def _compiled(function: Callable, arguments: tuple) -> jax.stages.Compiled:
    """Compile value and gradient with respect to the embeddings and the temperature."""
    gradient = jax.value_and_grad(lambda *vectors: function(*vectors, *arguments[4:]), argnums=(0, 1, 2, 3))
    return jax.jit(gradient).lower(*arguments[:4]).compile()


def show(figures: dict[str, Any]) -> None:
    """Print a line for each implementation."""
    table(
        f"Loss, forward and backward: {figures['rows']:,} rows x {figures['negatives']:,} negatives",
        ("logits", "ms", "of plain", "temp MiB", "of plain"),
        [
            [name, way["ms"], way["time_of_plain"], way["temporary_bytes"] / 2**20, way["memory_of_plain"]]
            for name, way in figures["ways"].items()
        ],
    )
