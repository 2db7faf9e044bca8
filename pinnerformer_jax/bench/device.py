"""The device: versions, peak rate of matrix products, memory bandwidth."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from typing import Any

import jax
import jax.numpy as jnp

from pinnerformer_jax.bench.chips import chip_of
from pinnerformer_jax.bench.report import table
from pinnerformer_jax.bench.timing import alternate
from pinnerformer_jax.bench.workload import matmul
from pinnerformer_jax.config import Config

REST_SECONDS = 3.0

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "grain", "torch")


def measure(config: Config, *, seconds: float) -> dict[str, Any]:
    """Versions, and the rates of a large matrix product in bfloat16 and in float32 (at the device's default
    precision) and of a copy.

    Args:
        config: not used; every verb has one.
        seconds: to spend.
    """
    device = jax.devices()[0]
    chip = chip_of(device.device_kind)
    runs: dict[str, Any] = {}
    flops: dict[str, float] = {}
    for dtype in ("bfloat16", "float32"):
        runs[dtype], flops[dtype] = matmul(dtype)
    runs["copy"], moved = _copy()
    timings = alternate(runs, seconds)
    peaks = {f"{name}_tflops_per_second": flops[name] / timings[name].median / 1e12 for name in flops}
    # A GPU that multiplies without a pause lowers its clock. A short burst after a rest is fastest.
    time.sleep(REST_SECONDS)
    burst = alternate({"bfloat16": runs["bfloat16"]}, 0.0)["bfloat16"]
    peaks["bfloat16_burst_tflops_per_second"] = flops["bfloat16"] / burst.lower / 1e12
    return {
        "device_kind": device.device_kind,
        "devices": jax.device_count(),
        "compute_capability": getattr(device, "compute_capability", None),
        "memory_bytes": (device.memory_stats() or {}).get("bytes_limit"),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "platform_version": device.client.platform_version,
        **peaks,
        "copy_bytes_per_second": moved / timings["copy"].median,
        "data_sheet_tflops_per_second": chip.tflops if chip else None,
        "data_sheet_bytes_per_second": chip.bandwidth if chip else None,
        "timings": {name: timing.milliseconds() for name, timing in timings.items()},
    }


def _copy() -> tuple[Any, float]:
    """A function that copies an array larger than any cache several times, and the bytes that it moves."""
    megabytes, count = (64, 1) if jax.default_backend() == "cpu" else (2048, 4)
    values = jnp.arange(megabytes << 18, dtype=jnp.float32)
    run = jax.jit(jnp.negative)
    return (lambda: [run(values) for _ in range(count)]), 2.0 * count * values.nbytes


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def show(figures: dict[str, Any]) -> None:
    """Print the measured rates beside the data sheet's."""
    sheet = figures["data_sheet_tflops_per_second"], figures["data_sheet_bytes_per_second"]
    table(
        f"{figures['devices']} x {figures['device_kind']}",
        ("peak", "measured", "data sheet"),
        [
            ["bfloat16 products, TFLOP/s", figures["bfloat16_tflops_per_second"], sheet[0]],
            ["the same, a short burst", figures["bfloat16_burst_tflops_per_second"], sheet[0]],
            ["float32 products, TFLOP/s", figures["float32_tflops_per_second"], None],
            ["copy, GB/s", figures["copy_bytes_per_second"] / 1e9, sheet[1] and sheet[1] / 1e9],
        ],
    )
