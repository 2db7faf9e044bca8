"""Who runs the parts of an ingest: this machine's cores, or a Ray cluster that shares the folder."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal

from pinnerformer_jax.config import Config
from pinnerformer_jax.data.timelines import Manifest
from pinnerformer_jax.ingestion import parts
from pinnerformer_jax.ingestion.part_job import STAGES, Job

RETRIES = 2
"""Times that a part runs again whose worker died or failed; wrong input is not tried again."""

Engine = Literal["processes", "ray"]


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
        cores = _start_ray(ray_address)
        local = min(cores, os.cpu_count() or 1)
    else:
        cores = local = os.cpu_count() or 1
    at_once = workers or cores
    if engine == "ray" and ray_address:  # one machine's memory is not another's
        limit, threads = config.data.memory_limit, 1
    else:
        limit, threads = parts.share_memory(config.data.memory_limit, at_once), max(local // at_once, 1)
    run = _by_processes
    if engine == "ray":
        run = partial(_by_ray, reserved=_reserved_memory(limit) if ray_address else 0)
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
        calls = [
            (job, stage, part, config.data.memory_limit if alone else limit, local if alone else threads)
            for part in waiting
        ]
        for facts in run(calls, at_once, report):
            done, rows = done + 1, rows + facts["rows"]
            report(f"{stage}: {done} of {count} parts, {rows:,} rows ({time.perf_counter() - began:.1f} s)")
            for line in facts["said"]:
                report(line)
    return parts.finish(job, config.data.memory_limit, report)


def _attempt(folder: str, *call: Any) -> tuple[str, Any]:
    """("done", counts), or ("wrong", message) if no retry would do better."""
    os.chdir(folder)  # the log's files may be named from there
    try:
        return "done", parts.run_part(*call)
    except (ValueError, FileNotFoundError) as error:
        return "wrong", str(error)


def _name(call: tuple[Any, ...]) -> str:
    job, stage, part = call[:3]
    what = ""
    if stage == "scatter":
        first, *others = job.log[part]
        what = f" ({first}{f' and {len(others):,} more files' if others else ''})"
    return f"part {part} of stage {stage}{what}"


def _result(kind: str, value: Any) -> dict[str, Any]:
    if kind == "wrong":
        raise ValueError(value)
    return value


def _in_process(pipe: Any, call: tuple[Any, ...]) -> None:
    try:
        answer = _attempt(os.getcwd(), *call)
    except Exception as error:
        answer = "failed", f"{type(error).__name__}: {error}"
    pipe.send(answer)


def _by_processes(
    calls: list[tuple[Any, ...]], at_once: int, report: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    """Run each part in a process of its own, so that a crash or the lack of memory ends that one alone."""
    context = multiprocessing.get_context("spawn")
    waiting = [(call, 0) for call in reversed(calls)]
    running: dict[Any, tuple[Any, tuple[Any, ...], int]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                call, tried = waiting.pop()
                pipe, end = context.Pipe(duplex=False)
                process = context.Process(target=_in_process, args=(end, call))
                process.start()
                end.close()
                running[pipe] = (process, call, tried)
            ready: list[Any] = multiprocessing.connection.wait(list(running))
            for pipe in ready:
                process, call, tried = running.pop(pipe)
                try:
                    kind, value = pipe.recv()
                except EOFError:
                    kind, value = "failed", ""
                process.join()
                if kind == "failed":
                    why = value or f"its process ended with code {process.exitcode}"
                    if tried == RETRIES:
                        raise ValueError(f"{_name(call)} failed {tried + 1} times: {why}")
                    report(f"{_name(call)} failed: {why}; running it again")
                    waiting.append((call, tried + 1))
                else:
                    yield _result(kind, value)
    finally:
        for process, _, _ in running.values():
            process.terminate()
            process.join()


def _start_ray(address: str | None) -> int:
    """Connect to a cluster, or start one here; how many cores it has."""
    try:
        import ray
    except ImportError:
        raise ValueError("--engine ray needs Ray: pip install 'pinnerformer_jax[ray]'") from None
    if not ray.is_initialized():
        # What the parts make goes through files, not through Ray's memory.
        here = {} if address else {"object_store_memory": 10**8, "include_dashboard": False}
        try:
            ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **here)
        except Exception as error:
            raise ValueError(f"--ray-address {address}: {str(error).splitlines()[0]}") from None
    return int(ray.cluster_resources().get("CPU", 1))


def _reserved_memory(limit: str) -> int:
    """Bytes that Ray keeps free for a part on a machine of its cluster.

    Raises:
        ValueError: no machine has so many, and Ray would wait for one for ever.
    """
    import ray

    largest = max(node["Resources"].get("memory", 0) for node in ray.nodes() if node["Alive"])
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


def _by_ray(
    calls: list[tuple[Any, ...]], at_once: int, report: Callable[[str], None], reserved: int
) -> Iterator[dict[str, Any]]:
    """Run each part as a task of Ray, at most `at_once` of them at a time, and no more on a machine than its
    memory has room for."""
    import ray

    # Ray runs the part of a worker that died again by itself.
    attempt = ray.remote(max_retries=RETRIES, retry_exceptions=True)(_attempt)
    waiting, running = list(reversed(calls)), {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                call = waiting.pop()
                running[attempt.options(num_cpus=1, memory=reserved).remote(os.getcwd(), *call)] = call
            ready, _ = ray.wait(list(running))
            for reference in ready:
                call = running.pop(reference)
                try:
                    kind, value = ray.get(reference)
                except ray.exceptions.RayError as error:
                    why = str(error).strip().splitlines()[-1]
                    raise ValueError(f"{_name(call)} failed {RETRIES + 1} times: {why}") from None
                yield _result(kind, value)
    finally:
        for reference in running:
            ray.cancel(reference)
