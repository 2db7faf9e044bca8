"""Time of the train step by part of the model, by kind of kernel and by kernel, from a trace."""

from __future__ import annotations

import gzip
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.profiler import ProfileData

from pinnerformer_jax.bench import program
from pinnerformer_jax.bench.chips import REACHED_BANDWIDTH, REACHED_FLOPS, chip_of
from pinnerformer_jax.bench.report import table
from pinnerformer_jax.bench.timing import keep_heap_of
from pinnerformer_jax.bench.workload import prepare
from pinnerformer_jax.config import Config

STEPS = 5
LONGEST = 60
"""Kernels that are listed; the others are summed."""

UNNAMED = "not of the program"


class Kernel(NamedTuple):
    """One kernel as the device ran it."""

    instruction: str  # of the compiled program; "" if the trace does not name it
    name: str
    start: float  # ns
    duration: float  # ns


def measure(config: Config, *, items: int, trace: Path | None = None) -> dict[str, Any]:
    """Trace some steps of full histories.

    On a GPU set XLA_FLAGS=--xla_gpu_enable_command_buffer= : a kernel that XLA starts as part of a CUDA graph
    does not name its instruction.

    Args:
        config: sizes.
        items: in the catalogue.
        trace: keep the trace here (.xplane.pb.gz), for XProf, and the program beside it, program.hlo.gz.

    Returns:
        Milliseconds a step: in all, by group, by part and by kernel, each kernel beside its minimum at the
        rates in `chips`; and the share of the traced time in which the device was idle.
    """
    work = prepare(config, "full", items)
    text = work.compiled.as_text() or ""
    keep_heap_of([work.compiled], work.mesh.size)
    jax.block_until_ready([work() for _ in range(2)])
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready([work() for _ in range(STEPS)])
        (file,) = Path(folder).rglob("*.xplane.pb")
        if trace is not None:
            trace.parent.mkdir(parents=True, exist_ok=True)
            with file.open("rb") as source, gzip.open(trace, "wb") as target:
                shutil.copyfileobj(source, target)
            with gzip.open(trace.with_name("program.hlo.gz"), "wt") as target:
                target.write(text)
        kernels = list(read(ProfileData.from_file(str(file))))
    return summarise(kernels, text, STEPS)


def read(profile: ProfileData) -> Iterator[Kernel]:
    """The kernels of the first device: those in a GPU's streams, a TPU's operations, or the calls of a CPU
    that name an instruction."""
    planes = {plane.name: plane for plane in profile.planes}
    device = next((name for name in sorted(planes) if name.startswith("/device:") and ":0" in name), None)
    plane = planes[device or "/host:CPU"]
    streams = device is not None and "GPU" in device
    for line in plane.lines:
        if (streams and not line.name.startswith("Stream")) or line.name in ("Steps", "XLA Modules"):
            continue
        for event in line.events:
            facts = dict(event.stats)
            instruction = str(facts.get("hlo_op", ""))
            if instruction or device is not None:
                yield Kernel(instruction, event.name, event.start_ns, event.duration_ns)


def summarise(kernels: list[Kernel], hlo: str, steps: int) -> dict[str, Any]:
    """Sum the times of kernels by the part and the group that the program's text gives them.

    Args:
        kernels: of all steps.
        hlo: text of the compiled program.
        steps: how many steps were traced.
    """
    instructions = {instruction.name: instruction for instruction, _ in program.executed(hlo)}
    known = [kernel for kernel in kernels if kernel.instruction in instructions]
    # A CPU's trace nests calls; only instructions of the program count there.
    counted = kernels if jax.default_backend() == "gpu" else known
    chip = chip_of(jax.devices()[0].device_kind)
    by_kernel: dict[tuple[str, str], list[float]] = {}
    groups: dict[str, float] = {}
    parts: dict[str, float] = {}
    for kernel in counted:
        instruction = instructions.get(kernel.instruction)
        milliseconds = kernel.duration / 1e6 / steps
        group = instruction.group if instruction else UNNAMED
        part = (instruction.part or "no part") if instruction else UNNAMED
        groups[group] = groups.get(group, 0.0) + milliseconds
        parts[part] = parts.get(part, 0.0) + milliseconds
        sums = by_kernel.setdefault((kernel.instruction, kernel.name), [0.0, 0.0])
        sums[0] += milliseconds
        sums[1] += 1 / steps
    rows = []
    for (name, kernel_name), (milliseconds, count) in sorted(by_kernel.items(), key=lambda row: -row[1][0]):
        row: dict[str, Any] = {"kernel": kernel_name, "instruction": name, "ms": milliseconds, "count": count}
        if instruction := instructions.get(name):
            row |= {"group": instruction.group, "part": instruction.part, "flops": instruction.flops}
            row["moved_bytes"] = program.moved_bytes(instruction)
            if chip:
                pace, bandwidth = REACHED_FLOPS * 1e12 * chip.tflops, REACHED_BANDWIDTH * chip.bandwidth
                least = max(instruction.flops / pace, row["moved_bytes"] / bandwidth)
                row["least_ms"] = 1e3 * least * count
        rows.append(row)
    span = (max(k.start + k.duration for k in counted) - min(k.start for k in counted)) if counted else 0.0
    busy = sum(kernel.duration for kernel in counted)
    return {
        "steps": steps,
        "kernels_a_step": len(counted) / steps,
        "ms_a_step": span / 1e6 / steps,
        "busy_ms_a_step": busy / 1e6 / steps,
        "idle_share": max(0.0, 1 - busy / span) if span else None,
        "groups_ms": dict(sorted(groups.items(), key=lambda row: -row[1])),
        "parts_ms": dict(sorted(parts.items(), key=lambda row: -row[1])),
        "kernels": rows[:LONGEST],
        "other_kernels_ms": sum(row["ms"] for row in rows[LONGEST:]),
    }


def show(figures: dict[str, Any]) -> None:
    """Print the groups, the parts and the longest kernels."""
    whole = figures["busy_ms_a_step"] or 1.0
    for word in ("groups", "parts"):
        table(
            f"Time by {word[:-1]}",
            (word[:-1], "ms a step", "share"),
            [[name, ms, f"{ms / whole:.1%}"] for name, ms in figures[f"{word}_ms"].items()],
        )
    table(
        f"{figures['kernels_a_step']:,.0f} kernels a step, the longest",
        ("kernel", "part", "times", "ms a step", "least ms"),
        [
            [row["kernel"][:60], row.get("part", ""), row["count"], row["ms"], row.get("least_ms")]
            for row in figures["kernels"][:20]
        ],
    )
    idle = "" if figures["idle_share"] is None else f", {figures['idle_share']:.1%} of it idle"
    print(f"{figures['ms_a_step']:.4g} ms a step while traced{idle}")
