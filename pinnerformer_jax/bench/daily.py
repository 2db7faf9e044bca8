"""The daily job: seconds, peak memory and bytes written, by how many users are active.

Timelines of random events (EVENTS of a user on average) and a model as it is born are written to a temporary
folder (TMPDIR). The job then makes the first state, and a state for each share of active users, whose log
has NEW events of each. Each job is a process of its own, the states follow each other, and ScaNN's index is
built with the first, which also compiles.
"""

from __future__ import annotations

import dataclasses
import datetime
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pinnerformer_jax.bench.process import in_process, memory
from pinnerformer_jax.bench.report import table
from pinnerformer_jax.bench.workload import make_features
from pinnerformer_jax.config import ColumnsConfig, Config, DataConfig, ItemsConfig, PositiveRule
from pinnerformer_jax.data import catalog
from pinnerformer_jax.data.contracts import DAY
from pinnerformer_jax.data.ragged import offsets_of
from pinnerformer_jax.data.timelines import COLUMNS, TRAIN, Manifest, shard_path, write_manifest
from pinnerformer_jax.files import facts_of
from pinnerformer_jax.model.towers import Sizes
from pinnerformer_jax.runtime import set_up_process
from pinnerformer_jax.serving.daily import run
from pinnerformer_jax.serving.plan import Job
from pinnerformer_jax.training.checkpoint import Checkpoints
from pinnerformer_jax.training.run_record import RunRecord, claim, data_digest
from pinnerformer_jax.training.sharding import make_mesh, replicate
from pinnerformer_jax.training.state import create

EVENTS, NEW, DAYS = 32, 5, 60
NAMES = ["", "view", "like", "buy"]
END = 1_795_046_400  # seconds since 1970: the timelines end here, at the start of a day late in 2026


def measure(config: Config, *, users: int, items: int, active: list[float]) -> dict[str, Any]:
    """CPU and wall seconds, MiB and bytes of each job.

    Args:
        config: sizes of the model, data.memory_limit, data.shards.
        users: in the timelines.
        items: in the catalogue.
        active: shares of the users, a day for each.
    """
    data = DataConfig(
        columns=ColumnsConfig(action="action"), positives=(PositiveRule(action="like"),),
        memory_limit=config.data.memory_limit, shards=config.data.shards,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = dataclasses.replace(
            config, data=dataclasses.replace(data, prepared=str(folder / "prepared")), items=ItemsConfig()
        )
        _write_run(folder, config, users, items)
        figures = {}
        for number, share in enumerate([0.0, *active]):
            log: tuple[str, ...] = ()
            if number:
                log = (_write_log(folder, users, items, share, number),)
            day = datetime.datetime.fromtimestamp(END + (number - 1) * DAY, datetime.UTC).date().isoformat()
            job = Job(folder / "run", folder / "snapshots", day, log)
            figures["first state" if not number else f"{share:.2%} active"] = in_process(folder, _run, job)
    return {"users": users, "items": items, "events_per_user": EVENTS, "jobs": figures}


def show(figures: dict[str, Any]) -> None:
    """Print a line for each job."""
    table(
        f"Daily job: {figures['users']:,} users of {figures['events_per_user']} events, "
        f"{figures['items']:,} items",
        ("job", "CPU s", "s", "MiB before", "MiB at most", "MiB written"),
        [[name, *of.values()] for name, of in figures["jobs"].items()],
    )


def _run(job: Job) -> dict[str, float]:
    """Run a job; its figures. "before" is what the process with its imports holds."""
    set_up_process()
    import duckdb  # noqa: F401
    import pyarrow.parquet  # noqa: F401

    before, written = memory("VmRSS"), _written()
    cpu, wall = _cpu(), time.perf_counter()
    run(job, lambda text: None)
    return {
        "cpu_seconds": _cpu() - cpu,
        "seconds": time.perf_counter() - wall,
        "before_mib": before,
        "peak_mib": memory("VmHWM"),
        "written_mib": (_written() - written) / 2**20,
    }


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _written() -> int:
    """Bytes that this process gave to files, also to those that it removed."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("wchar"))


def _write_run(folder: Path, config: Config, users: int, items: int) -> None:
    """Write prepared timelines and a workdir with one checkpoint, of a model as it is born."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng, prepared = np.random.default_rng(0), folder / "prepared"
    for shard, numbers in enumerate(np.array_split(rng.permutation(users), config.data.shards)):
        count = rng.integers(2, 2 * EVENTS - 1, len(numbers))
        owner, size = np.repeat(np.arange(len(numbers)), count), int(count.sum())
        age = rng.integers(1, DAYS * DAY, size)
        columns = {
            "item": rng.integers(0, items, size),
            "action": rng.integers(1, len(NAMES), size),
            "surface": np.zeros(size),
            "time": END - age[np.lexsort((-age, owner))],
            "duration": np.zeros(size),
        }
        path = shard_path(prepared, shard)
        path.mkdir(parents=True)
        pq.write_table(pa.table({"user_id": _ids("user", numbers)}), path / "users.parquet")
        for name, values in columns.items():
            np.save(path / f"{name}.npy", values.astype(COLUMNS[name]))
        np.save(path / "offsets.npy", offsets_of(count))
        np.save(path / "cut.npy", count.astype(np.int64))
        np.save(path / "role.npy", np.full(len(numbers), TRAIN, np.uint8))
    path, text = catalog.catalog_path(prepared), pa.nulls(items, pa.string())
    path.mkdir()
    features = make_features(items)
    np.save(path / catalog.FEATURES, features)
    rows = {"item_id": _ids("item", np.arange(items)), "title": text, "topic": text}
    flags = dict.fromkeys(("trained", "reachable"), pa.array(np.ones(items, bool)))
    pq.write_table(pa.table(rows | flags), path / catalog.ITEMS)
    manifest = Manifest(NAMES, [""], END - 1, END - 1, config.data.shards, {}, {}, facts_of(prepared))
    write_manifest(prepared, manifest)
    sizes = Sizes(features.shape[1], len(NAMES), 1, items=items)
    claim(folder / "run", RunRecord(config, sizes, data_digest(manifest)))
    born = jax.device_get(jax.jit(lambda: create(config, sizes)[1])())
    with Checkpoints(folder / "run") as checkpoints:
        checkpoints.save(replicate(make_mesh(1), born._replace(step=np.int32(1))))


def _write_log(folder: Path, users: int, items: int, share: float, number: int) -> str:
    """The log of a day, the first after the timelines is 1; its path."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng([1, number])
    active = np.repeat(rng.choice(users, max(1, round(share * users)), replace=False), NEW)
    log = {
        "user": _ids("user", active),
        "item": _ids("item", rng.integers(0, items, len(active))),
        "time": END + (number - 1) * DAY + rng.integers(0, DAY, len(active)),
        "action": pa.array(NAMES).take(pa.array(rng.integers(1, len(NAMES), len(active)))),
    }
    file = folder / f"day-{number}.parquet"
    pq.write_table(pa.table(log), file)
    return str(file)


def _ids(kind: str, numbers: np.ndarray) -> Any:
    import pyarrow as pa

    return pa.array([f"{kind}-{number:09d}" for number in numbers.tolist()])
