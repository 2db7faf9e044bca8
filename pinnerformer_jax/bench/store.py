"""The feature store: time to publish users, time of a look-up, bytes a user; LMDB, and Redis if it is named.

States of random users are written to a temporary folder (TMPDIR), with the LMDB store beside them. First all
users are published, then a day of the same model in which 2 % changed. One process then looks up random
users. The Redis server must hold no vectors before, and keeps those of the benchmark.
"""

from __future__ import annotations

import datetime
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pinnerformer_jax.bench.report import table
from pinnerformer_jax.config import Config
from pinnerformer_jax.serving import snapshot, state
from pinnerformer_jax.serving.manifest import Manifest, write_manifest
from pinnerformer_jax.serving.store import Store, publish_users
from pinnerformer_jax.serving.stores import open_store

VERSION, DATES = "benchmark", ("2026-01-01", "2026-01-02")
ACTIVE = 0.02
BATCH = 100
LEAST = 100
"""The fewest look-ups of each size, whatever time they take."""


def measure(config: Config, *, users: int, redis: str | None, seconds: float) -> dict[str, Any]:
    """Users published a second, microseconds of a look-up, bytes a user.

    Raises:
        ValueError: the Redis server holds vectors.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "snapshots"
        names = _make_states(root, users, config.model.output_dim)
        ways = {}
        for kind, url in (("LMDB", f"lmdb:{folder}/store"), ("Redis", redis)):
            if url is not None:
                ways[kind] = _measure(open_store(url), _bytes_of(url), root, names, users, seconds)
    return {"users": users, "dim": config.model.output_dim, "batch": BATCH, "ways": ways}


def show(figures: dict[str, Any]) -> None:
    """Print a line for each store."""
    table(
        f"Feature store: {figures['users']:,} users of {figures['dim']} numbers; look-ups in microseconds",
        ("store", "users/s, all", "users/s, a day", "day s", "bytes/user", "p50", "p99",
         f"p50 of {figures['batch']}", f"p99 of {figures['batch']}"),
        [
            [
                name,
                *[way[fact] for fact in ("users_per_second", "changed_per_second", "day_seconds", "bytes")],
                *[way[size][rank] for size in ("single_us", "batch_us") for rank in ("p50", "p99")],
            ]
            for name, way in figures["ways"].items()
        ],
    )  # fmt: skip


def _measure(
    store: Store, size: Callable[[], int], root: Path, names: list[str], users: int, seconds: float
) -> dict[str, Any]:
    if store.live() is not None:
        raise ValueError(f"{store}: has vectors of model version {store.live()}; name an empty one")
    before, taken = size(), []
    for name in names:
        started = time.perf_counter()
        publish_users(store, root, name)
        taken.append(time.perf_counter() - started)
        if name == names[0]:
            after = size()
    vectors = store.of(VERSION)
    rng = np.random.default_rng(1)
    return {
        "users_per_second": users / taken[0],
        "day_seconds": taken[1],
        "changed_per_second": _changed(users) / taken[1],
        "bytes": (after - before) / users,
        "single_us": _percentiles(lambda ids: vectors.get(ids[0]), 1, rng, users, seconds / 2),
        "batch_us": _percentiles(vectors.get_many, BATCH, rng, users, seconds / 2),
    }


def _percentiles(
    look_up: Callable[[list[str]], Any], count: int, rng: np.random.Generator, users: int, seconds: float
) -> dict[str, float]:
    taken = []
    end = time.perf_counter() + seconds
    while len(taken) < LEAST or time.perf_counter() < end:
        ids = [_user_id(number) for number in rng.integers(0, users, count).tolist()]
        started = time.perf_counter()
        look_up(ids)
        taken.append(time.perf_counter() - started)
    p50, p99 = (1e6 * np.percentile(taken, [50, 99])).tolist()
    return {"p50": p50, "p99": p99, "look_ups": len(taken)}


def _make_states(root: Path, users: int, dim: int) -> list[str]:
    """Write two days of one model; the names of the states."""
    import pyarrow as pa

    rng = np.random.default_rng(0)
    ids = pa.array([_user_id(number) for number in range(users)])
    vectors = rng.standard_normal((users, dim), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    newest = np.zeros(users, np.int64)
    names = []
    for number, date in enumerate(DATES):
        if number:
            active = rng.choice(users, _changed(users), replace=False)
            vectors[active] = -vectors[active]
            newest[active] = 1
        name = state.state_name(VERSION, date, "made-up")
        created = datetime.datetime.fromisoformat(f"{date}T00:00+00:00")
        made = snapshot.user_table(
            ids, newest, created, vectors.astype(np.float16), np.ones(users, int), VERSION
        )
        (root / name).mkdir(parents=True)
        snapshot.write_parquet(made, root / name / "users.parquet")
        facts: dict[str, Any] = {"config": "", "data": "", "inputs": {}}
        manifest = Manifest(date, VERSION, base=None, max_length=1, dim=dim, dtype="float16", **facts)
        write_manifest(root / name, manifest)
        names.append(name)
    return names


def _bytes_of(url: str) -> Callable[[], int]:
    """A function that returns the bytes a store uses now, on disk or in the server's memory."""
    if url.startswith("lmdb:"):
        folder = Path(url.removeprefix("lmdb:"))
        return lambda: sum(file.stat().st_blocks * 512 for file in folder.rglob("data.mdb"))
    import redis

    return lambda: redis.Redis.from_url(url).info("memory")["used_memory"]


def _user_id(number: int) -> str:
    return f"user-{number:08d}"


def _changed(users: int) -> int:
    return max(1, round(ACTIVE * users))
