"""Recommendations: users a second and peak memory of a file for everybody, milliseconds of one request.

A state of random vectors with priors, in which each user has EVENTS events, is written to a temporary folder
(TMPDIR), and opened in a process of its own. The file is Parquet. The requests are of random users, one after
the other: without and with seen items left out (from memory, and from the file, which a Recommender reads
that keeps no events), and within rules of a shop: a tenth of the items blocked; at most two of each of 50
categories.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from pinnerformer_jax.bench.process import in_process, memory
from pinnerformer_jax.bench.report import table
from pinnerformer_jax.config import Config, PositiveRule
from pinnerformer_jax.data.contracts import DAY
from pinnerformer_jax.retrieval.priors import Priors
from pinnerformer_jax.serving import bulk, snapshot, state
from pinnerformer_jax.serving.manifest import Manifest, write_manifest
from pinnerformer_jax.serving.recommender import Recommender
from pinnerformer_jax.serving.shop_rules import ShopRules

VERSION, DATE = "benchmark", "2026-01-01"
K, EVENTS, CATEGORIES = 10, 20, 50
LEAST = 100
"""The fewest requests of a kind, whatever time they take."""


def measure(config: Config, *, items: int, users: int, row_groups: int, seconds: float) -> dict[str, Any]:
    """Users a second, MiB and milliseconds."""
    sizes = {"items": items, "users": users, "row_groups": row_groups, "dim": config.model.output_dim}
    with tempfile.TemporaryDirectory() as folder:
        _make_state(Path(folder), sizes)
        for part in (_measure_file, _measure_requests):
            sizes |= in_process(Path(folder), part, Path(folder), items, seconds)
    return {**sizes, "k": K, "events_per_user": EVENTS}


def show(figures: dict[str, Any]) -> None:
    """Print the file's figures, and a line for each kind of request."""
    table(
        f"A file for {figures['users']:,} users, {figures['k']} of {figures['items']:,} items, "
        f"{figures['dim']} numbers",
        ("open s", "seconds", "users/s", "MiB before", "MiB opened", "MiB at most", "MiB of the file"),
        [
            [
                figures[name]
                for name in (
                    "open_seconds", "seconds", "users_per_second", "before_mib", "opened_mib", "peak_mib",
                    "file_mib",
                )
            ]
        ],
    )  # fmt: skip
    table(
        f"Requests, in milliseconds; {figures['row_groups']:,} row groups of events",
        ("request", "p50", "p99"),
        [[name, *of.values()] for name, of in figures["requests_ms"].items()],
    )


def _measure_file(folder: Path, items: int, seconds: float) -> dict[str, Any]:
    before = memory("VmRSS")
    started = time.perf_counter()
    recommender = Recommender.open(folder)
    opened = time.perf_counter()
    opened_mib = memory("VmRSS")
    counts = bulk.write_recommendations(recommender, None, K, folder / "recs.parquet")
    taken = time.perf_counter() - opened
    return {
        "open_seconds": opened - started,
        "seconds": taken,
        "users_per_second": counts.users / taken,
        "before_mib": before,
        "opened_mib": opened_mib,
        "peak_mib": memory("VmHWM"),
        "file_mib": (folder / "recs.parquet").stat().st_size / 2**20,
    }


def _measure_requests(folder: Path, items: int, seconds: float) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    users = _users(folder)
    ids = [_item_id(number) for number in range(items)]
    capped = dict(zip(ids, rng.integers(0, CATEGORIES, items).tolist(), strict=True))
    blocked = ShopRules(block=[item for item in ids if rng.random() < 0.1])
    kinds: dict[str, tuple[bool, bool, ShopRules | None]] = {
        "all items": (True, False, None),
        "seen items left out": (True, True, None),
        "a tenth blocked": (True, False, blocked),
        "two of a category": (True, False, ShopRules(category=capped, at_most=2)),
        "events in the file": (False, False, None),
        "events in the file, seen left out": (False, True, None),
    }
    found = {}
    for kept in (True, False):
        recommender = Recommender.open(folder, keep_events=kept)
        for name, (keep_events, exclude_seen, rules) in kinds.items():
            if keep_events != kept:
                continue
            recommender.rules, taken = rules, []
            recommender.recommend(users[0], K, exclude_seen=exclude_seen)
            end = time.perf_counter() + seconds / len(kinds)
            while len(taken) < LEAST or time.perf_counter() < end:
                user = users[rng.integers(len(users))]
                started = time.perf_counter()
                recommender.recommend(user, K, exclude_seen=exclude_seen)
                taken.append(time.perf_counter() - started)
            p50, p99 = (1e3 * np.percentile(taken, [50, 99])).tolist()
            found[name] = {"p50": p50, "p99": p99}
    return {"requests_ms": found}


def _users(folder: Path) -> list[str]:
    """Ids of the users in the served state."""
    name = state.current(folder) or ""
    return snapshot.read_parquet(folder / name / "users.parquet", ["user_id"])["user_id"].to_pylist()


def _make_state(root: Path, sizes: dict[str, int]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng, folder = np.random.default_rng(0), root / state.state_name(VERSION, DATE, "made-up")
    folder.mkdir(parents=True)
    items, users, dim = (sizes[name] for name in ("items", "users", "dim"))
    end = state.day_end(DATE)
    vectors = [rng.standard_normal((count, dim), np.float32) for count in (items, users)]
    for of in vectors:
        of /= np.linalg.norm(of, axis=1, keepdims=True)
    item_ids = pa.array([_item_id(number) for number in range(items)])
    titles = [f"Item {number}" for number in range(items)]
    snapshot.write_parquet(
        snapshot.item_table(item_ids, titles, vectors[0], VERSION), folder / "items.parquet"
    )
    user_ids = pa.array([f"user-{number:08d}" for number in range(users)])
    made = snapshot.user_table(
        user_ids, np.zeros(users, np.int64), end, vectors[1].astype(np.float16),
        np.full(users, EVENTS), VERSION,
    )  # fmt: skip
    snapshot.write_parquet(made, folder / "users.parquet")
    popularity = rng.pareto(1, items)
    np.save(folder / "popularity.npy", popularity)
    np.save(folder / "popular.npy", np.argsort(-popularity).astype(np.int32))
    size = -(-users // max(1, min(sizes["row_groups"], users)))  # users of a row group
    writer: Any = None
    for start in range(0, users, size):
        some = user_ids.slice(start, size)
        count = len(some) * EVENTS
        seconds = int(end.timestamp()) - 1 - np.sort(rng.integers(0, 100 * DAY, (len(some), EVENTS)))[:, ::-1]
        events = pa.table(
            {
                "user_id": some.take(pa.array(np.repeat(np.arange(len(some)), EVENTS))),
                "item_id": item_ids.take(pa.array(rng.integers(0, items, count))),
                "action": pa.repeat("buy", count),
                "surface": pa.repeat("", count),
                "micros": seconds.ravel() * 10**6,
                "duration": np.zeros(count, np.float32),
            }
        )
        writer = writer or pq.ParquetWriter(folder / "events.parquet", events.schema, compression="zstd")
        writer.write_table(events, row_group_size=count)
    writer.close()
    facts: dict[str, Any] = {"config": "", "data": "", "inputs": {}}
    rules, priors = (PositiveRule(action="buy"),), Priors(0.1, 30.0, 0.05, 7.0, 1.0)
    manifest = Manifest(
        DATE, VERSION, base=None, max_length=EVENTS, dim=dim, dtype="float16", priors=priors,
        positives=rules, **facts,
    )  # fmt: skip
    write_manifest(folder, manifest)
    state.publish_state(root, str(folder.relative_to(root)))


def _item_id(number: int) -> str:
    return f"item-{number:07d}"
