"""The train step at a config's sizes, on random users: no data are needed."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from pinnerformer_jax.bench.timing import temporary_bytes
from pinnerformer_jax.config import Config
from pinnerformer_jax.data.contracts import DAY, NO_TIME, Batch, Events, computed_lengths, longest_in_parts
from pinnerformer_jax.data.popularity import PopularityOverTime, moments_of
from pinnerformer_jax.data.timelines import Timelines
from pinnerformer_jax.data.windows import Windows, training_batches
from pinnerformer_jax.model.towers import Sizes
from pinnerformer_jax.training.item_table import place
from pinnerformer_jax.training.sharding import make_mesh, replicate, shard_batch
from pinnerformer_jax.training.state import Tables, TrainState, create
from pinnerformer_jax.training.step import compiler_options, make_train_step

NOW = 10_000 * DAY  # seconds since EPOCH
SIZES = Sizes(item_dim=256, actions=9, surfaces=9)
MADE_UP = ("full", "uniform")
"""Kinds of lengths that need no data."""


def lengths(kind: str, config: Config) -> np.ndarray:
    """Real actions of each user's history, int32 [B], the longest first as in a training batch.

    Args:
        kind: "full" (T each), "uniform" (1 to T), or a folder of prepared timelines, whose first training
            batch gives the lengths.
        config: sizes.
    """
    users, length = config.training.batch_size, config.model.max_length
    if kind == "full":
        return np.full(users, length, np.int32)
    if kind == "uniform":
        return np.sort(np.random.default_rng(0).integers(1, length + 1, users).astype(np.int32))[::-1]
    return Windows(Timelines.open(kind), config).batch(0).length


def make_batch(config: Config, length: np.ndarray, items: int) -> Batch:
    """Random histories of two weeks, and futures of the two weeks after them. Every future has F events, so
    that with a horizon of four weeks every position has positives."""
    rng = np.random.default_rng(0)
    users, future = config.training.batch_size, config.training.future_events
    count = np.full(users, future, np.int32)
    return Batch(
        history=_events(rng, length, config.model.max_length, items, NOW - 14 * DAY),
        length=length,
        future=_events(rng, count, future, items, NOW),
        future_count=count,
        user=np.arange(users, dtype=np.int32),
    )


def _events(rng: np.random.Generator, length: np.ndarray, width: int, items: int, start: int) -> Events:
    shape = (len(length), width)
    real = np.arange(width)[None, :] < length[:, None]

    def integers(high: int, dtype: type[np.generic]) -> np.ndarray:
        return np.where(real, rng.integers(0, high, shape), 0).astype(dtype)

    times = start + np.sort(rng.integers(1, 14 * DAY, shape), axis=1)
    return Events(
        item=integers(items, np.int32),
        action=integers(SIZES.actions, np.uint8),
        surface=integers(SIZES.surfaces, np.uint8),
        time=np.where(real, times, NO_TIME).astype(np.int32),
        duration=integers(60, np.float32),
    )


def make_features(items: int) -> np.ndarray:
    """Random unit vectors, float16 as in a catalogue."""
    features = np.random.default_rng(0).standard_normal((items, SIZES.item_dim), np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return features.astype(np.float16)


def make_tables(config: Config, mesh: Mesh, items: int) -> Tables:
    """The tables that the step reads, stored as the config says; every event is a positive, and all items are
    equally popular."""
    positive_table = np.zeros((SIZES.actions, SIZES.surfaces), np.float32)
    features = place(mesh, make_features(items), config.training)
    popularity = None
    if config.objective.popularity_half_life_days:
        log_share = np.zeros((moments_of(items), items), np.float32)
        popularity = PopularityOverTime(log_share, np.int32(0), np.int32(DAY))
    whole = positive_table, np.uint32(config.training.seed), None, popularity
    return Tables(features, *replicate(mesh, whole))


@dataclass
class Workload:
    """A compiled train step with all that it reads. A call takes one step."""

    config: Config
    mesh: Mesh
    graphdef: nnx.GraphDef
    state: TrainState
    batch: Batch
    tables: Tables
    compiled: jax.stages.Compiled
    compile_seconds: float
    real_tokens: int
    items: int

    def __call__(self) -> dict[str, jax.Array]:
        """Take a step; its metrics."""
        self.state, metrics = self.compiled(self.state, self.batch, self.tables)
        return metrics

    @property
    def temporary_bytes(self) -> int:
        """Memory of a step on one device beside its arguments, by XLA's analysis."""
        return temporary_bytes(self.compiled)


def prepare(config: Config, kind: str, items: int, devices: int | None = None) -> Workload:
    """Build the model and compile the step.

    Args:
        config: sizes.
        kind: see `lengths`.
        items: in the catalogue.
        devices: how many to use; None: all.

    Raises:
        ValueError: the devices do not divide the batch, or `kind` names no prepared folder.
    """
    length = lengths(kind, config)
    mesh = make_mesh(devices)
    batch = shard_batch(mesh, make_batch(config, length, items))
    sizes = SIZES._replace(items=items)
    graphdef, _ = jax.eval_shape(lambda: create(config, sizes))
    state = jax.jit(lambda: create(config, sizes)[1])()
    state, tables = replicate(mesh, state), make_tables(config, mesh, items)
    started = time.perf_counter()
    lowered = make_train_step(config, graphdef, mesh, items).lower(state, batch, tables)
    compiled = lowered.compile(compiler_options(config.training))
    seconds = time.perf_counter() - started
    return Workload(
        config, mesh, graphdef, state, batch, tables, compiled, seconds, int(np.asarray(length).sum()), items
    )


def in_parts(work: Workload) -> tuple[Workload, tuple[int, ...]]:
    """The same step with the batch in length parts (`training.length_parts`), and the lengths of the
    parts."""
    config, devices = work.config, work.mesh.size
    count = min(config.training.length_parts, config.training.batch_size // devices)
    lengths = np.sort(np.asarray(work.batch.length))[::-1]
    parts = computed_lengths(longest_in_parts(lengths, count, devices), config.model.max_length)
    step = make_train_step(config, work.graphdef, work.mesh, work.items, parts)
    started = time.perf_counter()
    lowered = step.lower(work.state, work.batch, work.tables)
    compiled = lowered.compile(compiler_options(config.training))
    seconds = time.perf_counter() - started
    own = jax.tree.map(jnp.copy, work.state)  # a step reuses its state's memory
    return dataclasses.replace(work, state=own, compiled=compiled, compile_seconds=seconds), parts


def input_batches(timelines: Timelines, config: Config) -> Iterator[Batch] | None:
    """The batches of training, more than any measurement takes; None if Grain is not installed."""
    try:
        stream = training_batches(timelines, config, start_step=0, steps=1_000_000)
        return (batch for batch, _ in stream)
    except ImportError:
        return None


def with_input(work: Workload, prepared: str) -> Callable[[], Any] | None:
    """The step as in the training loop: while the device computes, the host reads the next batch and copies
    it to the device. The step itself goes on with the random batch, whose ids fit its tables.

    Args:
        work: compiled.
        prepared: folder of prepared timelines, read by training.input_workers.

    Returns:
        A function that takes a step; None if Grain is not installed.
    """
    batches = input_batches(Timelines.open(prepared), work.config)
    return None if batches is None else lambda: (work(), shard_batch(work.mesh, next(batches)))


def peak_memory(device: jax.Device) -> int | None:
    """Peak bytes that the process held on the device; None if the device does not say (CPU)."""
    statistics: dict[str, Any] | None = device.memory_stats()
    return statistics.get("peak_bytes_in_use") if statistics else None


def matmul(dtype: str) -> tuple[Any, float]:
    """A chain of large square matmuls, whose rate is the peak that MFU is measured against.

    Args:
        dtype: of both operands.

    Returns:
        A function that runs it, and its FLOPs.
    """
    size, count = (2048, 1) if jax.default_backend() == "cpu" else (8192, 8)
    key = jax.random.key(0)
    square = (jax.random.normal(key, (size, size)) / size**0.5).astype(dtype)  # keeps the products' magnitude

    @jax.jit
    def chain(start: jax.Array, square: jax.Array) -> jax.Array:
        for _ in range(count):  # unrolled, because a loop would copy its operands
            start = jnp.matmul(start, square)
        return start

    return (lambda: chain(square, square)), 2.0 * size**3 * count
