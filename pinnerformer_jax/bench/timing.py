"""Wall-clock times that can be compared: warm, synchronised, alternating, medians and quartiles."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from pinnerformer_jax.runtime import keep_heap

LEAST = 3
"""Repeats of each, however little time there is."""


class Timing(NamedTuple):
    """Seconds a call."""

    median: float
    lower: float  # quartiles
    upper: float
    repeats: int

    def each(self, calls: int) -> Timing:
        """Of one of so many calls that were timed together."""
        return Timing(self.median / calls, self.lower / calls, self.upper / calls, self.repeats)

    def milliseconds(self) -> dict[str, Any]:
        """For the JSON line."""
        return {
            "ms": self.median * 1e3,
            "ms_quartiles": [self.lower * 1e3, self.upper * 1e3],
            "repeats": self.repeats,
        }

    def __str__(self) -> str:
        return f"{self.median * 1e3:,.4g} ({self.lower * 1e3:,.4g}-{self.upper * 1e3:,.4g})"


def alternate(runs: Mapping[str, Callable[[], Any]], seconds: float) -> dict[str, Timing]:
    """Time some callables in turns, so that what else the machine does meets all of them alike.

    Args:
        runs: by name; each call does the work once. Arrays that it returns are waited for.
        seconds: to spend on all of them together, beside one call each to warm up. At least three turns
            are taken, and no more than 200.

    Returns:
        Seconds a call, by name.
    """
    for run in runs.values():
        jax.block_until_ready(run())
    taken: dict[str, list[float]] = {name: [] for name in runs}
    end = time.perf_counter() + seconds
    for turn in range(200):
        if turn >= LEAST and time.perf_counter() > end:
            break
        for name, run in runs.items():
            started = time.perf_counter()
            jax.block_until_ready(run())
            taken[name].append(time.perf_counter() - started)
    return {name: _timing(values) for name, values in taken.items()}


def keep_heap_of(programs: Iterable[jax.stages.Compiled], devices: int = 1) -> None:
    """On CPU, keep freed memory as a training run does, or the allocator is what is timed."""
    if jax.default_backend() == "cpu":
        keep_heap(devices * max(map(temporary_bytes, programs)))


def temporary_bytes(program: jax.stages.Compiled) -> int:
    """What a call takes beside its arguments and results, by XLA's analysis; 0 where the backend has none."""
    memory = program.memory_analysis()
    return memory.temp_size_in_bytes if memory else 0


def _timing(seconds: list[float]) -> Timing:
    lower, median, upper = np.percentile(seconds, [25, 50, 75]).tolist()
    return Timing(median, lower, upper, len(seconds))


class TraceCount:
    """Counts what jax traces inside a `with` block: in a train loop, after the first step, nothing."""

    def __enter__(self) -> TraceCount:
        self.traces = 0
        jax.monitoring.register_event_duration_secs_listener(self._count)  # ty: ignore[invalid-argument-type]
        return self

    def __exit__(self, *error: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._count)  # ty: ignore[invalid-argument-type]

    def _count(self, event: str, duration: float, **facts: str | int) -> None:
        self.traces += event == "/jax/core/compile/jaxpr_trace_duration"
