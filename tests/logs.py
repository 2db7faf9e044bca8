"""Small event logs, and configs to ingest them, for tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pinnerformer_jax.config import ColumnsConfig, Config, DataConfig, ItemsConfig
from pinnerformer_jax.data.contracts import DAY

START = 1_700_000_000
DAYS = 40
COLUMNS = ColumnsConfig(action="action", surface="surface", duration="duration")


def make_events(users: int = 40, items: int = 15, per_user: int = 12, seed: int = 0) -> list[dict[str, Any]]:
    """Events over DAYS days; times repeat within a user, so that there are ties."""
    rng = np.random.default_rng(seed)
    return [
        {
            "user": f"u{user:03d}",
            "item": f"i{rng.integers(items)}",
            "time": START + int(rng.integers(DAYS * 4)) * DAY // 4,
            "action": ("view", "like", "save")[rng.choice(3, p=(0.6, 0.3, 0.1))],
            "surface": ("home", "search")[rng.integers(2)],
            "duration": float(rng.integers(1, 600)) / 10,
        }
        for user in range(users)
        for _ in range(per_user)
    ]


def write_parquet(path: Path, rows: Sequence[dict[str, Any]], **types: pa.DataType) -> str:
    """Write rows to a Parquet file, columns of the given types; the path as text."""
    names = rows[0] if rows else types
    columns = {name: pa.array([row[name] for row in rows], types.get(name)) for name in names}
    pq.write_table(pa.table(columns), path)
    return str(path)


def write_items(path: Path, items: int = 15, **columns: Any) -> str:
    """Write an item table of items i0, i1, ... with 4-d vectors and titles; other columns as given."""
    vectors = np.random.default_rng(1).normal(size=(items, 4)).astype(np.float32)
    table = {
        "item": [f"i{k}" for k in range(items)],
        "vector": list(vectors),
        "title": [f"Item {k}" for k in range(items)],
    }
    pq.write_table(pa.table(table | columns), path)
    return str(path)


def given(tmp_path: Path, **data: Any) -> Config:
    """Config of a log in tmp_path/log.parquet with given vectors in tmp_path/items.parquet; files that do
    not exist yet are made, and `data` are fields of the data section."""
    items = tmp_path / "items.parquet"
    if not items.exists():
        write_items(items)
    if "events" not in data and not (tmp_path / "log.parquet").exists():
        write_parquet(tmp_path / "log.parquet", make_events())
    defaults = {
        "events": (str(tmp_path / "log.parquet"),),
        "prepared": str(tmp_path / "prepared"),
        "columns": COLUMNS,
        "evaluation_share": 0.3,
        "validation_share": 0.1,
        "memory_limit": "500MB",
        "shards": 3,
    }
    return Config(data=DataConfig(**defaults | data), items=ItemsConfig(table=str(items), vector="vector"))


def without_vectors(config: Config) -> Config:
    """The config with no item table, so that vectors are built."""
    return dataclasses.replace(config, items=ItemsConfig(built_dim=8))
