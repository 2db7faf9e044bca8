"""Calls run at once, in processes of this machine or as tasks of a Ray cluster, and again if they die."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import socket
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

RETRIES = 2
"""Times that a call runs again whose worker died or failed; wrong input is not tried again."""

Engine = Literal["processes", "ray"]


@dataclass(frozen=True)
class Call:
    """What a worker does: a function of a module, which yields lines to show and returns the result."""

    name: str  # in messages
    function: Callable[..., Iterator[str]]
    arguments: tuple[Any, ...]


def by_processes(
    calls: Sequence[Call], report: Callable[[str], None], places: Sequence[dict[str, str]]
) -> Generator[Any, None, None]:
    """Run each call in a process of its own, so that a crash or the lack of memory ends that one alone.

    Args:
        calls: what to run.
        report: gets the lines of the calls, and one for each that runs again.
        places: one for each process that runs at once: its additional environment variables.

    Returns:
        The results, as the calls end.

    Raises:
        ValueError: a call found wrong input, or failed with all retries.
    """
    context = multiprocessing.get_context("spawn")
    waiting, free = [(call, 0) for call in reversed(calls)], list(reversed(places))
    running: dict[Any, tuple[Any, Call, int, dict[str, str]]] = {}
    try:
        while waiting or running:
            while waiting and free:
                (call, tried), place = waiting.pop(), free.pop()
                pipe, end = context.Pipe(duplex=False)
                process = context.Process(target=_in_process, args=(end, call, place))
                process.start()
                end.close()
                running[pipe] = (process, call, tried, place)
            ready: list[Any] = multiprocessing.connection.wait(list(running))
            for pipe in ready:
                try:
                    kind, value = pipe.recv()
                except (EOFError, OSError):  # OSError: it died while it sent
                    kind, value = "failed", ""
                if kind == "said":
                    report(value)
                    continue
                process, call, tried, place = running.pop(pipe)
                process.join()
                free.append(place)
                if kind == "failed":
                    why = value or f"its process ended with code {process.exitcode}"
                    if tried == RETRIES:
                        raise ValueError(f"{call.name} failed {tried + 1} times: {why}")
                    report(f"{call.name} failed: {why}; running it again")
                    waiting.append((call, tried + 1))
                else:
                    yield _result(kind, value)
    finally:
        for process, *_ in running.values():
            process.terminate()
            process.join()


def by_ray(
    calls: Sequence[Call], report: Callable[[str], None], at_once: int, **options: Any
) -> Generator[Any, None, None]:
    """Run each call as a task of Ray, which runs that of a worker that died again by itself.

    Args:
        calls: what to run.
        report: gets the lines of the calls; of one that runs again, those that it had not said before.
        at_once: the most tasks at a time.
        options: of a task, such as `memory` and `num_gpus`, what Ray keeps free for it.

    Returns:
        The results, as the calls end.

    Raises:
        ValueError: a call found wrong input, or failed with all retries.
    """
    import ray

    settings = {"num_cpus": 1, "max_retries": RETRIES, "retry_exceptions": True, "num_returns": "streaming"}
    attempt = ray.remote(**settings | options)(_attempt)
    waiting, running = list(reversed(calls)), {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                call = waiting.pop()
                running[attempt.remote(os.getcwd(), call)] = call
            ready, _ = ray.wait(list(running))
            for answers in ready:
                try:
                    kind, value = ray.get(next(answers))
                except ray.exceptions.RayError as error:
                    why = str(error).strip().splitlines()[-1]
                    name = running.pop(answers).name
                    raise ValueError(f"{name} failed {RETRIES + 1} times: {why}") from None
                if kind == "said":
                    report(value)
                    continue
                del running[answers]
                yield _result(kind, value)
    finally:
        for answers in running:
            ray.cancel(answers)


def start_ray(address: str | None) -> list[dict[str, float]]:
    """Connect to a cluster, or start one here; what each of its machines has: CPU, GPU, memory [bytes].

    Raises:
        ValueError: Ray is not installed, or there is no cluster at this address.
    """
    try:
        import ray
    except ImportError:
        raise ValueError("--engine ray needs Ray: pip install 'pinnerformer_jax[ray]'") from None
    if not ray.is_initialized():
        _check_address(address)
        # What the parts make goes through files, not through Ray's memory.
        here = {} if address else {"object_store_memory": 10**8, "include_dashboard": False}
        try:
            ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **here)
        except Exception as error:
            raise ValueError(f"--ray-address {address}: {str(error).splitlines()[0]}") from None
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _check_address(address: str | None) -> None:
    """Ray itself looks for minutes for a cluster that is not there."""
    host, colon, port = (address or "").rpartition(":")
    if not colon or "://" in host:  # what else Ray takes, such as "auto"
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise ValueError(f"--ray-address {address}: nothing answers there ({error})") from None


def _attempt(folder: str, call: Call) -> Iterator[tuple[str, Any]]:
    """("said", line) of each line; then ("done", result), or ("wrong", message), which no retry mends."""
    os.chdir(folder)  # files may be named from there
    lines = call.function(*call.arguments)
    while True:
        try:
            answer = "said", next(lines)
        except StopIteration as end:
            answer = "done", end.value
        except (ValueError, FileNotFoundError) as error:
            answer = "wrong", str(error)
        yield answer
        if answer[0] != "said":
            return


def _in_process(pipe: Any, call: Call, place: dict[str, str]) -> None:
    os.environ.update(place)
    try:
        for answer in _attempt(os.getcwd(), call):
            pipe.send(answer)
    except Exception as error:
        pipe.send(("failed", f"{type(error).__name__}: {error}"))


def _result(kind: str, value: Any) -> Any:
    if kind == "wrong":
        raise ValueError(value)
    return value
