"""An open Recommender under load, while states and their feature store are published beside it.

    python -m benchmarks.serving_load RUN [RUN ...] [--states 20 --threads 32 --seconds 60]

RUN are workdirs of one prepared log; the states take turns among them, each a day later than the one before,
and are published by a process of their own to a temporary folder with an LMDB store. Threads ask for ten
items of random users as fast as they are answered. Afterwards each different answer is compared with the
vectors of its model version: "mixed" counts those that these do not explain.
"""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import os
import random
import tempfile
import threading
import time
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np

from pinnerformer_jax.serving import snapshot, state
from pinnerformer_jax.serving.daily import run
from pinnerformer_jax.serving.manifest import read_manifest
from pinnerformer_jax.serving.plan import Job
from pinnerformer_jax.serving.recommender import Recommender
from pinnerformer_jax.serving.stores import open_store


def publish(
    runs: list[Path], root: Path, url: str, states: int, seconds: float, ready: Event, start: Event
) -> None:
    """Publish a state of each run, which compiles; then, from the start, so many states over the seconds."""
    day = datetime.date(2030, 1, 1)
    for number in range(len(runs) + states):
        if number == len(runs):
            ready.set()
            start.wait()
            started = time.monotonic()
        date = (day + datetime.timedelta(number)).isoformat()
        job = Job(runs[number % len(runs)], root, date, store=url, keep=len(runs) + states)
        run(job, lambda line: None)
        if number >= len(runs):
            time.sleep(max(started + (number - len(runs) + 1) * seconds / states - time.monotonic(), 0))


def resources() -> dict[str, int]:
    """Memory and open files of this process."""
    status = Path("/proc/self/status").read_text().splitlines()
    resident = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
    return {"MiB": resident // 1024, "open files": len(os.listdir("/proc/self/fd"))}


def ask(recommender: Recommender, users: list[Any], end: float, found: dict[str, Any]) -> None:
    """One thread: random users until the end."""
    rng = random.Random(threading.get_ident())
    while (started := time.perf_counter()) < end:
        user = rng.choice(users)
        try:
            answer = recommender.recommend(user)
        except Exception as error:  # whatever it is, it counts
            found["errors"].append(repr(error))
            continue
        found["times"].append(time.perf_counter() - started)
        rows = tuple((item.id, round(item.score, 5)) for item in answer.items)
        found["answers"].add((answer.model_version, answer.cold, user, rows))


def _names(root: Path) -> list[str]:
    """All states."""
    return [str(file.parent.relative_to(root)) for file in root.glob("model_version=*/*/*/manifest.json")]


def mixed(root: Path, answers: set[Any]) -> int:
    """Answers that the vectors of their model version do not explain."""
    versions: dict[str, Any] = {}
    for name in _names(root):
        version = read_manifest(root, name).model_version
        if version not in versions:
            items, users = (
                snapshot.read_parquet(root / name / f"{kind}.parquet") for kind in ("items", "users")
            )
            ids = items["item_id"].to_pylist(), users["user_id"].to_pylist()
            rows = [{key: row for row, key in enumerate(keys)} for keys in ids]
            versions[version] = *rows, snapshot.vectors_of(items), snapshot.vectors_of(users)
    wrong = 0
    for version, cold, user, rows in answers:
        items, users, item_vectors, user_vectors = versions[version]
        if cold or user not in users:
            wrong += cold == (user in users)
            continue
        scores = item_vectors.astype(np.float32) @ user_vectors[users[user]].astype(np.float32)
        own = np.array([scores[items[item]] for item, _ in rows])
        told = np.array([score for _, score in rows])
        wrong += not (np.abs(own - told).max() < 1e-3 and told[-1] >= np.sort(scores)[-len(rows)] - 1e-3)
    return wrong


def main() -> None:
    """Measure, and print a line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--states", type=int, default=20)
    parser.add_argument("--threads", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60.0)
    values = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        root, url = Path(folder) / "snapshots", f"lmdb:{folder}/store"

        ready, start = context.Event(), context.Event()
        plan = values.runs, root, url, values.states, values.seconds * 0.8, ready, start
        process = context.Process(target=publish, args=plan)
        process.start()
        ready.wait()
        recommender = Recommender.open(root, open_store(url))
        users = snapshot.read_parquet(root / state.current(root) / "users.parquet")["user_id"].to_pylist()
        for user in users[:200]:
            recommender.recommend(user)
        before = resources()
        found: list[dict[str, Any]] = [
            {"times": [], "errors": [], "answers": set()} for _ in range(values.threads)
        ]
        start.set()
        end = time.perf_counter() + values.seconds
        threads = [threading.Thread(target=ask, args=(recommender, users, end, part)) for part in found]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        still = process.is_alive()
        process.join()
        recommender.recommend(users[0])
        times = np.concatenate([part["times"] for part in found])
        errors = [error for part in found for error in part["errors"]]
        answers = set().union(*(part["answers"] for part in found))
        figures = {
            "threads": values.threads, "seconds": values.seconds, "users": len(users),
            "items": recommender.refresh().items.num_rows, "states": len(_names(root)) - len(values.runs),
            "publisher ended in time": not still, "code": process.exitcode,
            "answers": len(times), "errors": len(errors), "error": errors[:1],
            "versions": len({answer[0] for answer in answers}), "mixed": mixed(root, answers),
            "p50_ms": float(1e3 * np.percentile(times, 50)), "p99_ms": float(1e3 * np.percentile(times, 99)),
            "before": before, "after": resources(),
        }  # fmt: skip
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
