"""A run small enough to train in a test: forty users, a tiny model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from prepared import write_prepared

from pinnerformer_jax.config import Config, DataConfig, ModelConfig, ObjectiveConfig, TrainingConfig
from pinnerformer_jax.data.contracts import DAY
from pinnerformer_jax.data.timelines import TRAIN, VALIDATION

SPLIT = 1_795_000_000  # late 2026


def write_data(path: Path, *, seed: int = 0, validation: int = 8) -> Path:
    """Forty users with ten to thirty events in the two months before the split."""
    rng = np.random.default_rng(seed)
    users = {
        f"user-{k}": [
            (int(item), int(action), int(surface), int(SPLIT - age), float(duration))
            for item, action, surface, age, duration in zip(
                rng.integers(0, 50, n),
                rng.integers(1, 3, n),
                rng.integers(1, 3, n),
                rng.integers(1, 60 * DAY, n),
                rng.integers(0, 60, n),
                strict=True,
            )
        ]
        for k, n in enumerate(rng.integers(10, 31, 40))
    }
    roles = {user: VALIDATION if k < validation else TRAIN for k, user in enumerate(users)}
    return write_prepared(path, users, SPLIT, roles=roles, items=50)


def config(prepared: Path, **training) -> Config:
    return Config(
        data=DataConfig(prepared=str(prepared)),
        model=ModelConfig(layers=1, width=16, heads=2, max_length=8, output_dim=8, item_hidden=16),
        objective=ObjectiveConfig(
            positions=4, random_negatives=16, in_batch_negatives=16, sketch_width=1 << 8, sketch_depth=2
        ),
        training=TrainingConfig(
            **{
                "batch_size": 16, "steps": 12, "future_events": 16, "log_every": 2, "checkpoint_every": 4,
                "validation_batches": 2, "learning_rate": 1e-2,
            } | training
        ),
    )  # fmt: skip
