"""Who embeds the parts of all users: this machine's GPUs or cores, or a Ray cluster that shares the folders.

A worker loads the model and orders the events of all users before it embeds its part, so there are no more
parts than workers. A worker that dies costs no group of users that was written, see user_parts.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
import time
from collections.abc import Callable, Generator
from functools import partial

import jax

from pinnerformer_jax.runtime import set_up_process
from pinnerformer_jax.serving.daily import ActiveUsersOnly, run, run_part
from pinnerformer_jax.serving.plan import Job, date_of
from pinnerformer_jax.serving.stores import open_store
from pinnerformer_jax.workers import Call, Engine, by_processes, by_ray, start_ray


def run_in_parts(
    job: Job,
    engine: Engine,
    workers: int | None = None,
    ray_address: str | None = None,
    gpus: int | None = None,
    report: Callable[[str], None] = print,
) -> str:
    """Embed all users in parts, and make and publish the state as `daily.run` does, with the same bytes if
    the devices are of one kind. This process uses no device before the parts are made.

    Args:
        job: what to run.
        engine: "processes" of this machine, or "ray".
        workers: how many parts; None: as many as run at once, by the GPUs or, without them, by the machines.
        ray_address: of a running cluster whose machines have the run, its prepared folder, the states and the
            job's files under the same paths; None: Ray on this machine.
        gpus: of a part; None: 1 if there are any, else 0, which is on CPU.
        report: gets what was done, line by line.

    Returns:
        Path of the state below job.snapshots.

    Raises:
        FileNotFoundError: as for `daily.run`.
        OSError: likewise.
        ValueError: likewise; Ray is not installed or not there; no machine has so many GPUs; a part failed.
    """
    if job.store:
        open_store(job.store)  # a wrong URL is refused before the work
    job = dataclasses.replace(job, date=date_of(job))  # a new day may begin meanwhile
    shared = dataclasses.replace(job, store=None)  # workers need no password
    if engine == "ray":
        machines = start_ray(ray_address)
        gpus = int(any(machine.get("GPU", 0) >= 1 for machine in machines)) if gpus is None else gpus
        room = sum(_parts_on(machine, gpus) for machine in machines)
        if not room:
            raise ValueError(f"--gpus {gpus}: no machine of the cluster has so many GPUs, and a core")
        # A process keeps the GPU that it began with, and its memory: Ray ends it after its part.
        options = {"num_gpus": gpus, "max_calls": 1, "scheduling_strategy": "SPREAD"}
        count = workers or room
        embed = partial(by_ray, at_once=count, **options)
    else:
        own = [] if gpus == 0 else _own_gpus(report)
        gpus = int(bool(own)) if gpus is None else gpus
        if gpus > len(own):
            raise ValueError(f"--gpus {gpus}: more than the {len(own)} GPUs that JAX finds on this machine")
        places = [{}] * (workers or 1)
        if gpus:
            groups = [own[end - gpus : end] for end in range(gpus, len(own) + 1, gpus)]
            places = [{"CUDA_VISIBLE_DEVICES": ",".join(group)} for group in groups]
        count = workers or len(places)
        embed = partial(by_processes, places=places)
    report(f"embedding in {count} parts, each {f'with {gpus} GPU' if gpus else 'on CPU'}")
    calls = [Call(f"part {part + 1}/{count}", _part, (shared, part, count, gpus)) for part in range(count)]
    began, done = time.perf_counter(), 0
    with contextlib.closing(embed(calls, report)) as ends:
        for embeds_all in ends:
            if not embeds_all:
                report("only the users with new events are embedded, for which this process is enough")
                break
            done += 1
            report(f"{done} of {count} parts ({time.perf_counter() - began:.1f} s)")
    return run(job, report)


def _parts_on(machine: dict[str, float], gpus: int) -> int:
    """How many parts a machine of the cluster has room for; without GPUs one, which uses all cores."""
    cores = int(machine.get("CPU", 0))
    return min(int(machine.get("GPU", 0)) // gpus, cores) if gpus else min(cores, 1)


def _own_gpus(report: Callable[[str], None]) -> list[str]:
    """This machine's GPUs as CUDA_VISIBLE_DEVICES names them; another process looks, as JAX takes their
    memory."""
    [(kind, number)] = by_processes([Call("looking for GPUs", _devices, ())], report, [{}])
    if kind not in ("cpu", "gpu"):
        raise ValueError(
            f"--engine processes: one process holds all devices of kind {kind}; leave it out, or take --gpus "
            "0 for the CPU"
        )
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return (named or [str(index) for index in range(number)])[:number] if kind == "gpu" else []


def _devices() -> Generator[str, None, tuple[str, int]]:
    yield from ()
    return jax.default_backend(), jax.local_device_count()


def _part(job: Job, part: int, count: int, gpus: int) -> Generator[str, None, bool]:
    """What a worker does; whether the job embeds all users."""
    set_up_process()
    if not gpus:
        jax.config.update("jax_platforms", "cpu")
    elif jax.default_backend() != "gpu":
        raise ValueError(f"JAX finds no GPU on {platform.node()}: pip install 'pinnerformer_jax[gpu]' there")
    try:
        for line in run_part(job, (part, count)):
            yield f"part {part + 1}/{count}: {line}"
    except ActiveUsersOnly:
        return False
    return True
