"""The step at batch sizes that double until the memory is full, and a plot of them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from pinnerformer_jax.bench import step
from pinnerformer_jax.bench.report import table
from pinnerformer_jax.config import Config
from pinnerformer_jax.files import atomic_path

Sizes = list[dict[str, Any]]


def measure(
    config: Config,
    *,
    first: int,
    last: int | None,
    seconds: float,
    png: Path,
    deadline: float = float("inf"),
    measure_step: Callable[..., dict[str, Any]] = step.measure,
    **of_step: Any,
) -> dict[str, Any]:
    """The step's figures for batch sizes first, 2 first, 4 first ...

    Args:
        config: sizes but for the batch's.
        first: batch size to begin with.
        last: largest batch size; None: until the memory is full.
        seconds: for each size, without compiling.
        png: file of the plot.
        deadline: `time.perf_counter()` after which no further size is started.
        measure_step: measures one size.
        of_step: its other arguments.

    Raises:
        ValueError: `last` is None on a CPU.
    """
    check_end(last)
    sizes: Sizes = []
    ended = "--to was reached"
    size = first
    while last is None or size <= last:
        if time.perf_counter() > deadline:
            ended = "time was up"
            break
        training = dataclasses.replace(config.training, batch_size=size)
        try:
            sizes.append(
                measure_step(dataclasses.replace(config, training=training), seconds=seconds, **of_step)
            )
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" in str(error):
                ended = f"memory ended at {size}"
            elif sizes:  # keep what was measured
                ended = f"failed at {size}: {str(error)[:500]}"
            else:
                raise
            break
        print(f"batch size {size}: {sizes[-1]['users_per_second']:,.0f} users/s", flush=True)
        size *= 2
    drawn = draw(sizes, f"{config.name} on {jax.devices()[0].device_kind}", png)
    return {"sizes": sizes, "ended": ended, "png": str(png) if drawn else None}


def check_end(last: int | None) -> None:
    """On a CPU a sweep needs a last batch size, because a process that runs out of memory is killed.

    Raises:
        ValueError: there is none.
    """
    if last is None and jax.default_backend() == "cpu":
        raise ValueError("--to is needed on a CPU, where a process that runs out of memory is killed")


def show(figures: dict[str, Any]) -> None:
    """Print a line for each batch size."""
    table("Train step by batch size", step.HEAD, [step.row(size) for size in figures["sizes"]])
    print(f"{figures['ended']}; curve: {figures['png'] or 'not drawn'}")


def draw(sizes: Sizes, title: str, file: Path) -> bool:
    """Users a second and MFU over the batch size, as a PNG.

    Returns:
        Whether it was drawn: there must be a size, and matplotlib installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("matplotlib is not installed, so no plot is drawn")
        return False
    if not sizes:
        print("no batch size fits, so no plot is drawn")
        return False
    users = [size["batch_size"] for size in sizes]
    figure = Figure(figsize=(7, 4), layout="constrained")
    pace = figure.subplots()
    share = pace.twinx()
    lines = [
        *pace.plot(users, [s["users_per_second"] for s in sizes], "o-", label="users/s"),
        *share.plot(users, [100 * s["mfu"] for s in sizes], "s--", color="tab:orange", label="MFU"),
    ]
    pace.set_xscale("log", base=2)
    pace.set_xticks(users, [f"{size:,}" for size in users])
    pace.set(xlabel="users a step", ylabel="users/s", ylim=(0, None), title=title)
    share.set(ylabel="MFU, % of the measured matmul peak", ylim=(0, 100))
    pace.legend(handles=lines, loc="upper left")
    with atomic_path(file) as temporary:
        figure.savefig(temporary, dpi=150)
    return True
