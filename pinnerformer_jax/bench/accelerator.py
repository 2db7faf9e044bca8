"""All that matters on a GPU or TPU in nine minutes, written down after every part.

jax takes three quarters of a GPU's memory: XLA_PYTHON_CLIENT_MEM_FRACTION=0.95 lets the sweep go further.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from pinnerformer_jax.bench import attention, embed, loss, step, sweep
from pinnerformer_jax.bench.report import record
from pinnerformer_jax.config import Config
from pinnerformer_jax.files import write_json


def measure(
    config: Config,
    *,
    folder: Path,
    items: int,
    first: int,
    last: int | None,
    limit: float,
    seconds: float,
    peak_tflops: float | None,
) -> dict[str, Any]:
    """Attention, loss, sweep and embedding.

    A part that fails is named with its error and the others still run. Each part begins only before the
    limit, and the file is written anew after each, so that a machine that is taken away leaves what there
    was.

    Args:
        config: sizes.
        folder: for CONFIG-DEVICE.json and .png.
        items: in the catalogue.
        first: batch size the sweep begins with.
        last: and ends with; None: until memory ends.
        limit: seconds after which no part is begun, and after three quarters of it no size of the sweep.
        seconds: to spend on each measurement.
        peak_tflops: of the vendor.

    Raises:
        ValueError: no `last` on a CPU.
    """
    sweep.check_end(last)
    started = time.perf_counter()
    of_step = {"kind": "full", "items": items, "peak_tflops": peak_tflops}
    parts: dict[str, tuple[Callable[[], dict[str, Any]], Callable[[dict[str, Any]], None]]] = {
        "attention": (lambda: attention.measure(config, seconds=seconds), attention.show),
        "loss": (lambda: loss.measure(config, items=items, seconds=seconds), loss.show),
        "sweep": (
            lambda: sweep.measure(
                config, first=first, last=last, seconds=seconds, png=file.with_suffix(".png"),
                deadline=started + 0.75 * limit, **of_step,
            ),
            sweep.show,
        ),
        "embed": (lambda: embed.measure(config, items=items, seconds=seconds), embed.show),
    }  # fmt: skip
    device = "-".join(jax.devices()[0].device_kind.lower().split())
    file = folder / f"{config.name}-{device}.json"
    figures: dict[str, Any] = {}
    for part, (run, show) in parts.items():
        if time.perf_counter() - started > limit:
            figures[part] = {"left_out": "time was up"}
        else:
            try:
                figures[part] = run()
                show(figures[part])
            except Exception as error:  # whatever it is, the machine is still there for the others
                figures[part] = {"failed": f"{type(error).__name__}: {error}"[:500]}
        for outcome in ("left_out", "failed"):
            if outcome in figures[part]:
                print(f"{part} {outcome.replace('_', ' ')}: {figures[part][outcome]}")
        figures["seconds"] = time.perf_counter() - started
        write_json(file, record("accelerator", config, figures))
    print(f"written: {file}")
    return figures


def show(figures: dict[str, Any]) -> None:
    """The parts of the best step; the rest was shown as it came."""
    if sizes := figures["sweep"].get("sizes"):
        step.show(max(sizes, key=lambda size: size["users_per_second"]))
