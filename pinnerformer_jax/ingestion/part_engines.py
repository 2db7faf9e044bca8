"""Who runs the parts of an ingest: this machine's cores, or a Ray cluster that shares the folder."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

from pinnerformer_jax.config import Config
from pinnerformer_jax.data.timelines import Manifest
from pinnerformer_jax.ingestion import parts
from pinnerformer_jax.ingestion.part_job import STAGES, Job
from pinnerformer_jax.workers import Call, Engine, by_processes, by_ray, start_ray


def prepare_in_parts(
    config: Config,
    engine: Engine,
    workers: int | None = None,
    ray_address: str | None = None,
    report: Callable[[str], None] = print,
) -> Manifest:
    """Write the folder config.data.prepared with many workers, the same to the byte as `ingest.prepare` does.
    The same call after a kill goes on where it was.

    Args:
        config: as for `ingest.prepare`; each worker gets its share of data.memory_limit.
        engine: "processes" of this machine, or "ray".
        workers: how many parts run at once; None: as many as cores (of the cluster, with Ray).
        ray_address: of a running cluster whose machines have the log and the prepared folder under the same
            paths; None: Ray on this machine.
        report: called with a line as parts are done, and with warnings.

    Raises:
        FileNotFoundError: there is no such log.
        ValueError: the log or a setting cannot be used; a part failed; Ray is not installed.
    """
    job = Job.of(config)
    if engine == "ray":
        machines = start_ray(ray_address)
        cores = int(sum(machine.get("CPU", 0) for machine in machines)) or 1
        local = min(cores, os.cpu_count() or 1)
    else:
        cores = local = os.cpu_count() or 1
    at_once = workers or cores
    if engine == "ray" and ray_address:  # one machine's memory is not another's
        limit, threads = config.data.memory_limit, 1
    else:
        limit, threads = parts.share_memory(config.data.memory_limit, at_once), max(local // at_once, 1)
    if engine == "ray":
        run = partial(by_ray, at_once=at_once, memory=_reserved_memory(limit, machines) if ray_address else 0)
    else:
        run = partial(by_processes, places=[{}] * at_once)
    for stage in STAGES[:-1]:
        began, rows, done, count = time.perf_counter(), 0, 0, job.parts(stage)
        waiting = []
        for part in range(count):
            if (facts := job.facts(stage, part)) is None:
                waiting.append(part)
            else:
                done, rows = done + 1, rows + facts["rows"]
        if done:
            report(f"{stage}: {done} of {count} parts were done before")
        alone = count == 1
        means = (config.data.memory_limit, local) if alone else (limit, threads)
        calls = [Call(_name(job, stage, part), _part, (job, stage, part, *means)) for part in waiting]
        for facts in run(calls, report):
            done, rows = done + 1, rows + facts["rows"]
            report(f"{stage}: {done} of {count} parts, {rows:,} rows ({time.perf_counter() - began:.1f} s)")
    return parts.finish(job, config.data.memory_limit, report)


def _part(job: Job, stage: str, part: int, limit: str, threads: int | None) -> Generator[str, None, Any]:
    """What a worker does; what the part says, and its counts."""
    facts = parts.run_part(job, stage, part, limit, threads)
    yield from facts["said"]
    return facts


def _name(job: Job, stage: str, part: int) -> str:
    what = ""
    if stage in ("scatter", "items"):
        first, *others = (job.log if stage == "scatter" else job.table)[part]
        what = f" ({first}{f' and {len(others):,} more files' if others else ''})"
    return f"part {part} of stage {stage}{what}"


def _reserved_memory(limit: str, machines: list[dict[str, float]]) -> int:
    """Bytes that Ray keeps free for a part on a machine of its cluster.

    Raises:
        ValueError: no machine has so many, and Ray would wait for one for ever.
    """
    largest = max(machine.get("memory", 0) for machine in machines)
    size = memory_bytes(limit, largest)
    if size > largest:
        raise ValueError(
            f"data.memory_limit = {limit!r} is what a part takes: the largest machine of the cluster has "
            f"{largest / 10**9:.1f} GB for tasks of Ray; lower it, or start Ray with a larger --memory"
        )
    return size


def memory_bytes(limit: str, whole: float) -> int:
    """Bytes of a data.memory_limit; a share, such as 80%, is of `whole`."""
    number, unit = re.findall(r"[\d.]+|[^\d.\s]+", limit.lower())
    if unit == "%":
        return int(float(number) / 100 * whole)
    power = "bkmgt".index(unit[0])
    return int(float(number) * (1024 if unit.endswith("ib") else 1000) ** power)
