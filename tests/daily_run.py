"""A trained run and daily logs, small enough for tests of serving: fifty users, a tiny model."""

from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
from logs import COLUMNS, write_items, write_parquet

from pinnerformer_jax.config import (
    Config,
    DataConfig,
    EmbeddingConfig,
    ItemsConfig,
    ModelConfig,
    TrainingConfig,
)
from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.data.contracts import DAY, NO_TIME, Events, parse_time, to_device_time
from pinnerformer_jax.data.timelines import read_manifest
from pinnerformer_jax.files import sha256
from pinnerformer_jax.ingestion.ingest import prepare
from pinnerformer_jax.model.inference import Embedder
from pinnerformer_jax.model.towers import Sizes
from pinnerformer_jax.serving.daily import run
from pinnerformer_jax.serving.event_file import event_files
from pinnerformer_jax.serving.plan import Job
from pinnerformer_jax.serving.snapshot import read_parquet
from pinnerformer_jax.serving.state import current
from pinnerformer_jax.serving.trained_model import TrainedModel
from pinnerformer_jax.serving.user_events import UserEvents
from pinnerformer_jax.training.checkpoint import Checkpoints
from pinnerformer_jax.training.run_record import RunRecord, claim, data_digest
from pinnerformer_jax.training.sharding import make_mesh, replicate
from pinnerformer_jax.training.state import create

FIRST = parse_time("2026-03-01", "first")
TRAINED = 30  # days of the log that the run is trained on
ITEMS = 20

Row = dict[str, Any]


def day(number: int) -> str:
    """ISO day; day 0 is the first of the log."""
    return datetime.datetime.fromtimestamp(FIRST + number * DAY, datetime.UTC).date().isoformat()


def make_rows(users: int = 50, seed: int = 0) -> list[Row]:
    """Two thirds of the users in the trained days, no two events of a user in one second; on each of the
    five days after it some of them, and some new ones."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        old = user < users * 2 // 3
        times = rng.choice(TRAINED * DAY, int(rng.integers(3, 40)), replace=False) if old else []
        later = [
            (TRAINED + d) * DAY + second
            for d in range(5)
            if rng.random() < 0.25
            for second in rng.choice(DAY, 3, replace=False)
        ]
        rows += [
            {
                "user": f"u{user:03d}",
                "item": f"i{rng.integers(ITEMS)}",
                "time": FIRST + int(second),
                "action": ("view", "like")[rng.integers(2)],
                "surface": ("home", "search")[rng.integers(2)],
                "duration": float(rng.integers(1, 600)) / 10,
            }
            for second in [*times, *later]
        ]
    return rows


ROWS = make_rows()


def of_days(rows: list[Row], first: int, last: int) -> list[Row]:
    """Rows of the days first .. last - 1."""
    return [row for row in rows if first <= (row["time"] - FIRST) // DAY < last]


def write_log(folder: Path, rows: list[Row], number: int) -> str:
    """The log of a day; its path."""
    return write_parquet(folder / f"day-{number}.parquet", of_days(rows, number, number + 1))


def make_run(
    folder: Path, rows: list[Row], seed: int = 0, items: ItemsConfig | None = None, **model: Any
) -> Path:
    """A workdir with one checkpoint, of a model as it was born from the seed; vectors are given, or as the
    section `items` says."""
    prepared = folder / "prepared"
    config = Config(
        data=DataConfig(
            events=(write_parquet(folder / "log.parquet", of_days(rows, 0, TRAINED)),),
            prepared=str(prepared),
            columns=COLUMNS,
            evaluation_share=0.3,
            validation_share=0.1,
            memory_limit="500MB",
            shards=2,
        ),
        items=items
        or ItemsConfig(table=write_items(folder / "items.parquet", ITEMS), vector="vector", title="title"),
        model=ModelConfig(
            **{
                "layers": 1, "width": 16, "heads": 2, "max_length": 24, "output_dim": 8, "item_hidden": 16,
            } | model
        ),
        training=TrainingConfig(seed=seed),
    )  # fmt: skip
    config = dataclasses.replace(config, embedding=EmbeddingConfig(batch_size=8))
    if not prepared.exists():
        prepare(config, lambda text: None)
    manifest = read_manifest(prepared)
    dim = Catalog.open(prepared).features.shape[1]
    sizes = Sizes(dim, len(manifest.actions), len(manifest.surfaces))
    workdir = folder / f"run-{seed}"
    claim(workdir, RunRecord(config, sizes, data_digest(manifest)))
    state = jax.device_get(jax.jit(lambda: create(config, sizes)[1])())
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(replicate(make_mesh(), state._replace(step=np.int32(1))))
    return workdir


def publish(workdir: Path, snapshots: Path, **job: Any) -> str:
    """Run the job, in silence."""
    return run(Job(workdir, snapshots, **job), lambda text: None)


def make_first_state(folder: Path, **job: Any) -> tuple[Path, Path]:
    """A run of ROWS and the state of its last day; the workdir, the folder of the states."""
    workdir, snapshots = make_run(folder, ROWS), folder / "snapshots"
    publish(workdir, snapshots, date=day(TRAINED - 1), **job)
    return workdir, snapshots


def run_day(where: tuple[Path, Path, Path], number: int, rows: list[Row] = ROWS, **job: Any) -> str:
    """Run the job of a day over its rows, at (folder for logs, workdir, snapshots); the state's name."""
    folder, workdir, snapshots = where
    log = write_log(folder, rows, number)
    return publish(workdir, snapshots, date=day(number), dtype="float32", events=(log,), **job)


def users_of(snapshots: Path, name: str | None = None) -> tuple[dict[str, int], pa.Table]:
    """{user: row} and table of the users in a state, by default the served one."""
    table = read_parquet(snapshots / (name or current(snapshots)) / "users.parquet")
    return dict(zip(table["user_id"].to_pylist(), range(len(table)), strict=True)), table


def events_of(snapshots: Path, name: str | None = None) -> pa.Table:
    """The events of all users in a state, by default the served one."""
    return pa.concat_tables(UserEvents(event_files(snapshots / (name or str(current(snapshots))))).of_all())


def contents(folder: Path) -> dict[str, str]:
    """{file: checksum} of all files."""
    return {str(file.relative_to(folder)): sha256(file) for file in folder.rglob("*") if file.is_file()}


def expected(workdir: Path, rows: list[Row]) -> dict[str, np.ndarray]:
    """{user: vector}, straight from rows, by the model; of users with two events or more."""
    model = TrainedModel.load(workdir, "best")
    number = {item: row for row, item in enumerate(model.catalog.item_ids)}
    manifest, width = model.timelines.manifest, model.config.model.max_length
    embedder = Embedder(model.graphdef, model.params, model.catalog.features)
    vectors = {}
    for user in sorted({row["user"] for row in rows}):
        mine = sorted((row for row in rows if row["user"] == user), key=lambda row: row["time"])[-width:]
        if len(mine) < 2:
            continue
        events = Events(
            item=np.array([number[row["item"]] for row in mine], np.int32),
            action=np.array([manifest.actions.index(row["action"]) for row in mine], np.uint8),
            surface=np.array([manifest.surfaces.index(row["surface"]) for row in mine], np.uint8),
            time=to_device_time(np.array([row["time"] for row in mine])),
            duration=np.array([row["duration"] for row in mine], np.float32),
        )
        blank = Events(0, 0, 0, NO_TIME, 0.0)
        padded = Events(
            *(
                np.pad(values, (0, width - len(mine)), constant_values=fill)[None]
                for values, fill in zip(events, blank, strict=True)
            )
        )
        vectors[user] = embedder.users(padded, np.array([len(mine)], np.int32))[0]
    return vectors
