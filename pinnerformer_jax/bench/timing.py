"""Wall-clock times that can be compared: medians and quartiles of synchronised calls, taken in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from pinnerformer_jax.runtime import keep_heap

LEAST = 3
"""The fewest repeats of each, whatever time they take."""


class Timing(NamedTuple):
    """Seconds a call."""

    median: float
    lower: float  # quartiles
    upper: float
    repeats: int

    def each(self, calls: int) -> Timing:
        """The time of one call, if so many were timed together."""
        return Timing(self.median / calls, self.lower / calls, self.upper / calls, self.repeats)

    def milliseconds(self) -> dict[str, Any]:
        """Median and quartiles, for the JSON line."""
        return {
            "ms": self.median * 1e3,
            "ms_quartiles": [self.lower * 1e3, self.upper * 1e3],
            "repeats": self.repeats,
        }

    def __str__(self) -> str:
        return f"{self.median * 1e3:,.4g} ({self.lower * 1e3:,.4g}-{self.upper * 1e3:,.4g})"


def alternate(runs: Mapping[str, Callable[[], Any]], seconds: float) -> dict[str, Timing]:
    """Time callables in turns, so that other load of the machine affects all of them alike.

    Args:
        runs: by name; each call does the work once. The arrays that it returns are waited for.
        seconds: for all of them together, without one first call of each, which is not timed. There are at
            least 3 turns and at most 200.

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
    """On a CPU keep freed memory, as a training run does; otherwise the allocator's time is measured too."""
    if jax.default_backend() == "cpu":
        keep_heap(devices * max(map(temporary_bytes, programs)))


def temporary_bytes(program: jax.stages.Compiled) -> int:
    """Memory of a call beside its arguments and results, by XLA's analysis; 0 if the backend has none."""
    memory = program.memory_analysis()
    return memory.temp_size_in_bytes if memory else 0


def _timing(seconds: list[float]) -> Timing:
    lower, median, upper = np.percentile(seconds, [25, 50, 75]).tolist()
    return Timing(median, lower, upper, len(seconds))


class TraceCount:
    """Counts the traces of jax within a `with` block. A train loop has none after its first step."""

    def __enter__(self) -> TraceCount:
        self.traces = 0
        jax.monitoring.register_event_duration_secs_listener(self._count)  # ty: ignore[invalid-argument-type]
        return self

    def __exit__(self, *error: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._count)  # ty: ignore[invalid-argument-type]

    def _count(self, event: str, duration: float, **facts: str | int) -> None:
        self.traces += event == "/jax/core/compile/jaxpr_trace_duration"
