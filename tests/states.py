"""States of users alone, for tests of stores: real manifests and user snapshots, no model, no items."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pinnerformer_jax.serving import snapshot, state
from pinnerformer_jax.serving.manifest import Manifest, write_manifest

DIM = 8


def vector(user: Any, value: float) -> np.ndarray:
    """float32 [D]; as exact in float16."""
    return np.full(DIM, value, np.float32) + np.arange(DIM, dtype=np.float32) / 8


def make_state(
    root: Path, day: int, users: dict[Any, float], version: str = "a", dtype: str = "float16"
) -> str:
    """Publish a state of these users and values; its name."""
    date = f"2026-03-{day:02d}"
    name = state.state_name(version, date, f"{day}")
    (root / name).mkdir(parents=True)
    ids = pa.array(sorted(users))
    table = snapshot.user_table(
        ids,
        np.arange(len(users)) + 1,
        state.day_end(date),
        np.array([vector(user, users[user]) for user in sorted(users)], dtype).reshape(-1, DIM),
        np.ones(len(users), int),
        version,
    )
    snapshot.write_parquet(table, root / name / "users.parquet")
    facts = {"config": "", "data": "", "base": None, "inputs": {}, "max_length": 1}
    write_manifest(root / name, Manifest(date, version, dim=DIM, dtype=dtype, **facts))
    state.publish_state(root, name)
    return name
