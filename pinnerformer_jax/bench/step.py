"""The train step: users and tokens a second, FLOP/s and MFU, memory, compile time, time waiting for input."""

from __future__ import annotations

from typing import Any

import jax

from pinnerformer_jax.bench.chips import chip_of
from pinnerformer_jax.bench.flops import step_parts
from pinnerformer_jax.bench.report import table
from pinnerformer_jax.bench.timing import Timing, TraceCount, alternate, keep_heap_of
from pinnerformer_jax.bench.workload import MADE_UP, SIZES, in_parts, matmul, peak_memory, prepare, with_input
from pinnerformer_jax.config import Config

HEAD = (
    "users a step", "users/s", "tokens/s", "step ms (quartiles)", "TFLOP/s", "MFU", "of data sheet",
    "temp MiB", "compile s",
)  # fmt: skip

STEPS_IN_ONE_GO = 20
"""Steps that are dispatched to an accelerator before one wait; the training loop does not wait at all."""


def measure(
    config: Config, *, kind: str, items: int, seconds: float, peak_tflops: float | None = None
) -> dict[str, Any]:
    """Time the step, in turns with the matmul that measures the peak.

    Args:
        config: sizes; the batch is split over all devices.
        kind: of the lengths, see `workload.lengths`.
        items: in the catalogue.
        seconds: for the measurement, without compiling.
        peak_tflops: rate of one device for a second MFU; None: that of its data sheet, if `chips` has it and
            the compute dtype is bfloat16.

    Returns:
        Figures. `mfu` is the model's FLOP/s over those of a large matmul in the compute dtype, measured in
        turns with the step, times the number of devices (simulated devices share one CPU and count as one).
        `in_parts` is the same batch in length parts, if lengths differ. `with_input` is the same step while
        the host reads a prepared folder, if `kind` names one and Grain is installed.
    """
    parts = step_parts(config, SIZES)
    work = prepare(config, kind, items)
    keep_heap_of([work.compiled], work.mesh.size)
    product, product_flops = matmul(config.model.compute_dtype)
    jax.block_until_ready(work())
    with TraceCount() as counter:
        jax.block_until_ready(work())
    together = 1 if jax.default_backend() == "cpu" else STEPS_IN_ONE_GO
    runs, lengths = {"step": lambda: [work() for _ in range(together)], "matmul": product}, ()
    if kind != "full":
        parted, lengths = in_parts(work)
        runs["in parts"] = lambda: [parted() for _ in range(together)]
    timings = alternate(runs, seconds)
    timings |= {name: timings[name].each(together) for name in runs if name != "matmul"}
    step, fed = timings["step"], None
    feeding = None if kind in MADE_UP else with_input(work, kind)
    if feeding:
        # Not in turns: Grain's threads would read ahead while others are timed.
        fed = alternate({"fed": lambda feeding=feeding: [feeding() for _ in range(together)]}, seconds / 2)[
            "fed"
        ]
        fed = fed.each(together)
    devices = 1 if jax.default_backend() == "cpu" else work.mesh.size
    if peak_tflops is None and config.model.compute_dtype == "bfloat16":
        chip = chip_of(jax.devices()[0].device_kind)
        peak_tflops = chip and chip.tflops
    peak = product_flops / timings["matmul"].median * devices
    pace = sum(part.flops for part in parts) / step.median
    users = config.training.batch_size
    return {
        "batch_size": users,
        "users_per_second": users / step.median,
        "tokens_per_second": work.real_tokens / step.median,
        "real_token_share": work.real_tokens / (users * config.model.max_length),
        **step.milliseconds(),
        "steps_in_one_go": together,
        "model_tflops_per_second": pace / 1e12,
        "matmul_tflops_per_second": peak / 1e12,
        "matmul": timings["matmul"].milliseconds(),
        "mfu": pace / peak,
        "mfu_of_vendor_peak": pace / (peak_tflops * 1e12 * devices) if peak_tflops else None,
        "temporary_bytes": work.temporary_bytes,
        "peak_bytes_in_use": peak_memory(work.mesh.devices.flat[0]),
        "compile_seconds": work.compile_seconds,
        "retraces": counter.traces,
        "loss": float(work()["loss"]),
        "in_parts": _in_parts(timings["in parts"], step, lengths, work.real_tokens) if lengths else None,
        "with_input": _with_input(fed, step) if fed else None,
        "parts": [part._asdict() for part in parts],
    }


def _in_parts(timing: Timing, whole: Timing, lengths: tuple[int, ...], tokens: int) -> dict[str, Any]:
    return {
        "lengths": lengths,
        **timing.milliseconds(),
        "tokens_per_second": tokens / timing.median,
        "of_the_step": timing.median / whole.median,
    }


def _with_input(fed: Timing, alone: Timing) -> dict[str, Any]:
    return {**fed.milliseconds(), "waiting": max(0.0, 1 - alone.median / fed.median)}


def row(figures: dict[str, Any]) -> list[Any]:
    """The cells of a line under HEAD."""
    low, high = figures["ms_quartiles"]
    return [
        figures["batch_size"],
        figures["users_per_second"],
        figures["tokens_per_second"],
        f"{figures['ms']:,.4g} ({low:,.4g}-{high:,.4g})",
        figures["model_tflops_per_second"],
        f"{figures['mfu']:.1%}",
        f"{figures['mfu_of_vendor_peak']:.1%}" if figures["mfu_of_vendor_peak"] else None,
        figures["temporary_bytes"] / 2**20,
        figures["compile_seconds"],
    ]


def show(figures: dict[str, Any]) -> None:
    """Print the step and its parts."""
    table("Train step", HEAD, [row(figures)])
    print(
        f"measured matmul peak {figures['matmul_tflops_per_second']:.3g} TFLOP/s; "
        f"{figures['real_token_share']:.0%} of the tokens are real; {figures['retraces']} retraces"
    )
    if parts := figures["in_parts"]:
        low, high = parts["ms_quartiles"]
        print(
            f"In parts of lengths {', '.join(map(str, parts['lengths']))}: {parts['ms']:,.4g} "
            f"({low:,.4g}-{high:,.4g}) ms, {parts['of_the_step']:.2f} of the step, "
            f"{parts['tokens_per_second']:,.0f} tokens/s"
        )
    if fed := figures["with_input"]:
        low, high = fed["ms_quartiles"]
        print(
            f"While the host reads the next batch: {fed['ms']:,.4g} ({low:,.4g}-{high:,.4g}) ms, "
            f"{fed['waiting']:.1%} of it waiting for input"
        )
    total = sum(part["forward"] + part["backward"] for part in figures["parts"])
    table(
        "Model FLOPs of a step, and the bytes its forward matmuls must move",
        ("part", "forward GFLOP", "backward GFLOP", "share", "MiB", "FLOP a byte"),
        [
            [
                part["name"],
                part["forward"] / 1e9,
                part["backward"] / 1e9,
                f"{(part['forward'] + part['backward']) / total:.1%}",
                part["bytes"] / 2**20,
                part["forward"] / part["bytes"],
            ]
            for part in figures["parts"]
        ],
    )
