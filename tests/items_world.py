"""A prepared log for tests of item vectors: four clusters, titles that tell them, one new item."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pinnerformer_jax.config import Config, DataConfig, ItemsConfig, PinSageConfig, PositiveRule
from pinnerformer_jax.data.contracts import DAY
from pinnerformer_jax.data.timelines import EVALUATION
from tests.prepared import write_prepared

T = 1_700_000_000
ITEMS, TRAINED = 41, 40
WORDS = ("red garden lamp", "blue wool scarf", "walnut cake tin", "retro alarm clock")


def config(prepared: Path) -> Config:
    """Small vectors, few steps."""
    return Config(
        data=DataConfig(prepared=str(prepared), positives=(PositiveRule(action="like"),)),
        items=ItemsConfig(built_dim=16),
        pinsage=PinSageConfig(
            width=16,
            steps=100,
            batch_size=32,
            random_negatives=16,
            neighbours=4,
            walkers=20,
            learning_rate=5e-3,
        ),
    )


def write_world(
    path: Path, *, marked: bool = False, new_title: str = "blue scarf", more_titles: tuple[str, ...] = ()
) -> Path:
    """Users like six items of their cluster (item i is of cluster i % 4) before t; evaluation users two more
    after it. Marked: after t everybody, training users too, likes item 40, which is new, and item 0. More
    titles: items of which nothing else is known."""
    rng = np.random.default_rng(0)
    users, roles = {}, {}
    for user in range(80):
        items = user % 4 + 4 * rng.integers(0, TRAINED // 4, 8)
        users[user] = [(int(i), 2, 1, T - 3600 * (k + 1), 1.0) for k, i in enumerate(items[:6])]
        if user >= 60:
            roles[user] = EVALUATION
            users[user] += [(int(i), 2, 1, T + DAY + k, 1.0) for k, i in enumerate(items[6:])]
        if marked:
            users[user] += [(i, 2, 1, T + k + 1, 1.0) for k, i in enumerate((40, 0, 40))]
    titles = [f"{WORDS[i % 4]} no {i}" for i in range(TRAINED)] + [new_title, *more_titles]
    return write_prepared(
        path,
        users,
        T,
        roles=roles,
        items=ITEMS + len(more_titles),
        titles=titles,
        trained=TRAINED,
        config=config(path),
        shards=2,
    )
