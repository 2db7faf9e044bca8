"""Tiny prepared folders for tests, written by hand in the format of data/timelines.py and data/catalog.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pinnerformer_jax.config import Config
from pinnerformer_jax.config_files import to_dict
from pinnerformer_jax.data.contracts import DAY
from pinnerformer_jax.data.timelines import (
    COLUMNS,
    EVALUATION,
    FORMAT,
    TRAIN,
    VALIDATION,
    Manifest,
    shard_path,
)
from pinnerformer_jax.files import sha256, write_json

ACTIONS = ("", "view", "like")
SURFACES = ("", "home", "search")

Event = tuple[int, int, int, int, float]
"""item (row of the catalogue), action id, surface id, time [s since 1970], duration [s]"""


def write_prepared(
    path: Path,
    users: Mapping[Any, Sequence[Event]],
    split_time: int,
    *,
    roles: Mapping[Any, int] | None = None,
    actions: Sequence[str] = ACTIONS,
    surfaces: Sequence[str] = SURFACES,
    evaluation_days: float = 14.0,
    shards: int = 1,
    items: int | None = None,
    item_ids: Sequence[Any] | None = None,
    titles: Sequence[str | None] | None = None,
    topics: Sequence[str | None] | None = None,
    features: np.ndarray | None = None,
    trained: int | None = None,
    config: Config | None = None,
) -> Path:
    """Write a prepared folder, manifest and checksums included.

    Args:
        path: folder to write.
        users: events by user id, sorted here by time. The k-th user of the mapping is user number k,
            whatever the number of shards: shards hold runs of users here, not hashes.
        split_time: t, seconds since 1970.
        roles: by user id; TRAIN where none is given.
        actions: names by id, the unknown first.
        surfaces: names by id, the unknown first.
        evaluation_days: length of the evaluation window.
        shards: number of shards.
        items: rows of the catalogue; by default as many as the features, ids or events need.
        item_ids: ids as they came; default "item-0", "item-1", ...
        titles: default none.
        topics: default none.
        features: [N, D_item]; default random unit rows of 8 numbers. A zero row is not reachable.
        trained: rows 0 : trained are items of the training period; default all.
        config: whose data and items sections the manifest keeps.

    Returns:
        `path`.
    """
    config, roles = config or Config(), roles or {}
    events = {user: sorted(rows, key=lambda row: row[3]) for user, rows in users.items()}
    if items is None:
        needed = 1 + max((row[0] for rows in events.values() for row in rows), default=-1)
        items = max(needed, len(features if features is not None else ()), len(item_ids or ()))
    if features is None:
        features = np.random.default_rng(0).normal(size=(items, 8))
        features /= np.linalg.norm(features, axis=1, keepdims=True)

    for shard, numbers in enumerate(np.array_split(np.arange(len(events)), shards)):
        _write_shard(shard_path(path, shard), [list(events)[k] for k in numbers], events, roles, split_time)

    none = [None] * items
    catalog = {
        "item_id": list(item_ids) if item_ids is not None else [f"item-{row}" for row in range(items)],
        "title": pa.array(titles if titles is not None else none, pa.string()),
        "topic": pa.array(topics if topics is not None else none, pa.string()),
        "trained": np.arange(items) < (items if trained is None else trained),
        "reachable": np.any(features != 0, axis=1),
    }
    (path / "catalog").mkdir(parents=True)
    pq.write_table(pa.table(catalog), path / "catalog" / "items.parquet")
    np.save(path / "catalog" / "features.npy", features.astype(np.float16))

    role_of = [roles.get(user, TRAIN) for user in events]
    manifest = Manifest(
        actions=list(actions),
        surfaces=list(surfaces),
        split_time=split_time,
        evaluation_end=split_time + int(evaluation_days * DAY),
        shards=shards,
        counts={
            "events": sum(len(rows) for rows in events.values()),
            "users": {
                name: role_of.count(role)
                for name, role in (("train", TRAIN), ("validation", VALIDATION), ("evaluation", EVALUATION))
            },
            "items": items,
        },
        config={"data": to_dict(config.data), "items": to_dict(config.items)},
        files={
            str(file.relative_to(path)): {"bytes": file.stat().st_size, "sha256": sha256(file)}
            for file in sorted(path.rglob("*"))
            if file.is_file()
        },
    )
    write_json(path / "manifest.json", {"format": FORMAT, **dataclasses.asdict(manifest)})
    return path


def _write_shard(
    path: Path,
    user_ids: list[Any],
    events: Mapping[Any, Sequence[Event]],
    roles: Mapping[Any, int],
    split: int,
) -> None:
    path.mkdir(parents=True)
    pq.write_table(pa.table({"user_id": user_ids}), path / "users.parquet")
    rows = [row for user in user_ids for row in events[user]]
    for (name, dtype), column in zip(
        COLUMNS.items(), zip(*rows, strict=True) if rows else [()] * 5, strict=True
    ):
        np.save(path / f"{name}.npy", np.asarray(column, dtype))
    lengths = [len(events[user]) for user in user_ids]
    cut = [sum(row[3] <= split for row in events[user]) for user in user_ids]
    np.save(path / "offsets.npy", np.cumsum([0, *lengths], dtype=np.int64))
    np.save(path / "cut.npy", np.asarray(cut, np.int64))
    np.save(path / "role.npy", np.asarray([roles.get(user, TRAIN) for user in user_ids], np.uint8))
