"""The input: users a second that one host process reads and copies to the device."""

from __future__ import annotations

import itertools
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pinnerformer_jax.bench.report import table
from pinnerformer_jax.bench.timing import alternate
from pinnerformer_jax.bench.workload import input_batches
from pinnerformer_jax.config import Config
from pinnerformer_jax.data.contracts import DAY
from pinnerformer_jax.data.timelines import (
    COLUMNS,
    TRAIN,
    Manifest,
    Timelines,
    shard_path,
    write_manifest,
)
from pinnerformer_jax.data.windows import Windows
from pinnerformer_jax.training.sharding import make_mesh, shard_batch

USERS, EVENTS, SHARDS, ITEMS, DAYS = 20_000, 200, 4, 100_000, 60
SPLIT = 1_795_000_000  # seconds since 1970, late 2026


def write_store(path: Path, users: int = USERS, events: int = EVENTS) -> None:
    """Write timelines of random events in the sixty days up to the split, without a catalogue."""
    rng = np.random.default_rng(0)
    for shard, numbers in enumerate(np.array_split(np.arange(users), SHARDS)):
        shape = (len(numbers), events)
        columns = {
            "item": rng.integers(0, ITEMS, shape),
            "action": rng.integers(1, 9, shape),
            "surface": rng.integers(1, 9, shape),
            "time": SPLIT - np.sort(rng.integers(0, DAYS * DAY, shape), axis=1)[:, ::-1],
            "duration": rng.integers(0, 60, shape),
        }
        folder = shard_path(path, shard)
        folder.mkdir(parents=True)
        for name, values in columns.items():
            np.save(folder / f"{name}.npy", values.astype(COLUMNS[name]).ravel())
        np.save(folder / "offsets.npy", np.arange(len(numbers) + 1, dtype=np.int64) * events)
        np.save(folder / "cut.npy", np.full(len(numbers), events, np.int64))
        np.save(folder / "role.npy", np.full(len(numbers), TRAIN, np.uint8))
    names = ["", *(f"name {k}" for k in range(1, 9))]
    write_manifest(path, Manifest(names, names, SPLIT, SPLIT + 14 * DAY, SHARDS, {}, {}, {}))


def measure(config: Config, *, prepared: str | None, seconds: float) -> dict[str, Any]:
    """Users a second of `Windows.batch`, of the Grain pipeline if Grain is installed, of copying a batch to
    the device, and of the whole input.

    Args:
        config: batch size, T, F, horizon; training.input_workers are Grain's.
        prepared: folder of prepared timelines; None: a temporary one of 20,000 users with 200 events.
        seconds: to spend.
    """
    if prepared is not None:
        return _measure(config, Timelines.open(prepared), seconds)
    with tempfile.TemporaryDirectory() as folder:
        write_store(Path(folder) / "prepared")
        return _measure(config, Timelines.open(Path(folder) / "prepared"), seconds)


def _measure(config: Config, timelines: Timelines, seconds: float) -> dict[str, Any]:
    windows, mesh = Windows(timelines, config), make_mesh()
    steps = itertools.count()
    batch = windows.batch(0)
    runs: dict[str, Any] = {
        "Windows.batch": lambda: windows.batch(next(steps)),
        "put on the device": partial(shard_batch, mesh, batch),
    }
    results = alternate(runs, seconds / 2)
    grain = input_batches(timelines, config)
    if grain is not None:
        # Not in turns: its threads would read ahead while others are timed.
        results |= alternate({"Grain": lambda: next(grain)}, seconds / 4)
        results |= alternate({"Grain, on the device": lambda: shard_batch(mesh, next(grain))}, seconds / 4)
    users = config.training.batch_size
    return {
        "users": len(windows.users),
        "batch_size": users,
        "batch_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(batch)),
        "mean_length": float(batch.length.mean()),
        "input_workers": config.training.input_workers,
        "ways": {
            name: {"users_per_second": users / timing.median, **timing.milliseconds()}
            for name, timing in results.items()
        },
    }


def show(figures: dict[str, Any]) -> None:
    """Print a line for each stage."""
    table(
        f"Input of one process: batches of {figures['batch_size']} users, "
        f"{figures['batch_bytes'] / 2**20:.1f} MiB, {figures['mean_length']:.0f} real actions each",
        ("stage", "users/s", "ms a batch"),
        [[name, way["users_per_second"], way["ms"]] for name, way in figures["ways"].items()],
    )
    if "Grain" not in figures["ways"]:
        print("Grain is not installed, so its pipeline is not measured")
