"""A small world for tests of the model, the objective and the step: random histories, tiny towers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from pinnerformer_jax.config import Config, ModelConfig, ObjectiveConfig, TrainingConfig
from pinnerformer_jax.data.contracts import DAY, EPOCH, NO_TIME, Batch, Events
from pinnerformer_jax.model.towers import Sizes
from pinnerformer_jax.objective.frequency import Sketch, empty_sketch
from pinnerformer_jax.training.item_table import ItemTable
from pinnerformer_jax.training.state import Tables

ITEMS, ITEM_DIM, ACTIONS, SURFACES = 60, 12, 4, 3
SIZES = Sizes(ITEM_DIM, ACTIONS, SURFACES)
NOW = 1_795_000_000 - EPOCH  # late 2026


def config(**training) -> Config:
    # From an aligned start FFN and all features but items are zero, and mistakes in them would not show.
    return Config(
        model=ModelConfig(
            layers=2, width=32, heads=4, max_length=20, output_dim=16, item_hidden=24, aligned_start=False
        ),
        objective=ObjectiveConfig(
            positions=6, random_negatives=40, in_batch_negatives=50, sketch_width=1 << 10
        ),
        training=TrainingConfig(**{"batch_size": 16, "steps": 100, "future_events": 12} | training),
    )


def events(rng: np.random.Generator, users: int, width: int, start: int, days: float) -> Events:
    shape = (users, width)
    time = start + np.sort(rng.integers(1, int(days * DAY), shape), axis=1)
    return Events(
        item=rng.integers(0, ITEMS, shape).astype(np.int32),
        action=rng.integers(0, ACTIONS, shape).astype(np.uint8),
        surface=rng.integers(0, SURFACES, shape).astype(np.uint8),
        time=time.astype(np.int32),
        duration=rng.integers(0, 30, shape).astype(np.float32),
    )


def padded(values: Events, length: np.ndarray) -> Events:
    """What comes after the first `length` events replaced by padding."""
    real = np.arange(values.item.shape[1])[None, :] < length[:, None]
    blank = Events(0, 0, 0, NO_TIME, 0.0)
    return Events(*(np.where(real, v, v.dtype.type(b)) for v, b in zip(values, blank, strict=True)))


def batch(seed: int = 0, users: int = 16, width: int = 20, future: int = 12) -> Batch:
    """Jax arrays; the last users are the shortest, and one has no future."""
    rng = np.random.default_rng(seed)
    length = np.sort(rng.integers(1, width + 1, users))[::-1].astype(np.int32)
    count = rng.integers(0, future + 1, users).astype(np.int32)
    made = Batch(
        history=padded(events(rng, users, width, NOW - 40 * DAY, 40), length),
        length=length,
        future=padded(events(rng, users, future, NOW, 28), count),
        future_count=count,
        user=np.arange(users, dtype=np.int32),
    )
    return jax.tree.map(jnp.asarray, made)


def tables(seed: int = 0) -> Tables:
    features = np.random.default_rng(seed).normal(size=(ITEMS, ITEM_DIM)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    positive = np.full((ACTIONS, SURFACES), np.inf, np.float32)
    positive[1:3, 1] = 10.0
    positive[3, :] = 0.0
    return Tables(ItemTable(jnp.asarray(features)), jnp.asarray(positive), jnp.uint32(0))


def sketch(depth: int, width: int) -> Sketch:
    """A frequency sketch that has counted nothing."""
    return empty_sketch(ObjectiveConfig(sketch_depth=depth, sketch_width=width))
