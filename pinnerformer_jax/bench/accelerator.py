"""All measurements on a GPU or TPU, the most important first, into one folder.

Each part is a process with its own deadline, so a part that fails, hangs or is killed stops no other. A part
writes NAME.json (its figures) and NAME.log (its output). summary.json is written after each part and says how
every part ended. The same command resumes: a part whose figures are in the folder is not measured again.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pinnerformer_jax.files import write_json
from pinnerformer_jax.runtime import end_with_parent

CUBLAS = "--xla_gpu_enable_triton_gemm=false"
"""Matrix products by cuBLAS alone, so that XLA need not compile and time other kernels first."""

NO_GRAPHS = f"{CUBLAS} --xla_gpu_enable_command_buffer="


class Part(NamedTuple):
    """One process: `python -m pinnerformer_jax.bench VERB ...`."""

    name: str
    verb: str
    deadline: float  # seconds
    arguments: tuple[str, ...] = ()
    flags: str = CUBLAS  # of XLA
    small: bool = False  # takes its sizes from the small config


def parts(folder: Path, sizes: Sequence[int], seconds: float) -> list[Part]:
    """All parts, the most important first.

    Args:
        folder: of the trace, and of the kernels that XLA chose by timing.
        sizes: batch sizes; the first is the main one.
        seconds: for each measurement, without compiling.
    """
    main, *others = sizes
    spend = ("--seconds", f"{seconds:g}")

    def users(size: int) -> tuple[str, ...]:
        return ("--training.batch-size", str(size))

    step = (*users(main), *spend)
    trace = ("--trace", str(folder / "profile.xplane.pb.gz"))
    # XLA writes each choice here at once and reads it in the next run, even if this part is ended half-way.
    kept = f"--xla_gpu_per_fusion_autotune_cache_dir={folder / 'kernels'}"
    # XLA fails on cuDNN's deterministic attention in two equal layers (openxla/xla pull request 46500).
    deterministic = ("--model.attention", "blocks", "--training.deterministic", "true")

    def at(size: int) -> Part:
        return Part(f"step-{size}", "step", 80, (*users(size), *spend))

    return [
        Part("device", "device", 60, ("--seconds", "3")),
        Part("gradients", "correctness", 100, ("--only", "gradients"), small=True),
        Part("attention-check", "correctness", 60, ("--only", "attention")),
        Part(f"step-{main}", "step", 100, step),
        Part("profile", "profile", 100, (*users(main), *trace), NO_GRAPHS),
        Part("train", "train", 120, (*users(main), "--steps", "100", "--training.length-parts", "1")),
        *map(at, others[:2]),
        Part("embed", "embed", 180, step),
        Part("length-parts", "step", 150, (*step, "--lengths", "uniform")),
        Part("resume", "correctness", 90, ("--only", "resume"), small=True),
        Part("deterministic", "step", 80, (*step, *deterministic)),
        *map(at, others[2:]),
        Part("heads-6", "step", 80, (*step, "--model.heads", "6")),
        Part("heads-12", "step", 80, (*step, "--model.heads", "12")),
        Part("attention", "attention", 60, step),
        Part("loss", "loss", 90, step),
        Part("triton", "step", 150, step, kept),  # on an H200 more than 97 s of compiling
    ]


def measure(
    *,
    config_file: str,
    small_file: str,
    overrides: Sequence[str],
    folder: Path,
    sizes: Sequence[int],
    seconds: float,
    limit: float,
) -> dict[str, Any]:
    """Run the parts, one after the other.

    Args:
        config_file: sizes, such as configs/paper.py.
        small_file: sizes of the correctness checks, such as configs/demo.py.
        overrides: `--section.setting value ...`, for all parts but the small ones.
        folder: of all output.
        sizes: batch sizes; the first is the main one.
        seconds: for each measurement, without compiling.
        limit: seconds after which the running part is stopped and no other is started.

    Returns:
        By part: how it ended (done, left out, failed), the reason, and its seconds.
    """
    (folder / "kernels").mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + limit
    summary: dict[str, dict[str, Any]] = {}
    for part in parts(folder, sizes, seconds):
        summary[part.name] = _run(part, config_file, small_file, overrides, folder, end)
        write_json(folder / "summary.json", summary)
    return summary


def _run(
    part: Part, config_file: str, small_file: str, overrides: Sequence[str], folder: Path, end: float
) -> dict[str, Any]:
    figures, log = folder / f"{part.name}.json", folder / f"{part.name}.log"
    if figures.is_file():
        return {"ended": "done", "reason": "its figures are in the folder", "seconds": 0.0}
    left = min(part.deadline, end - time.monotonic())
    if left <= 0:
        return {"ended": "left out", "reason": "time was up", "seconds": 0.0}
    file, settings = (small_file, ()) if part.small else (config_file, overrides)
    command = [sys.executable, "-m", "pinnerformer_jax.bench", part.verb, "--config", file]
    command += ["--json", str(figures), *settings, *part.arguments]  # the part's own come last and count
    environment = os.environ | {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {part.flags}".strip(),
        "PYTHONUNBUFFERED": "1",
    }
    started = time.monotonic()
    print(f"{part.name} ...", flush=True)
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True,
            preexec_fn=end_with_parent(),
        )  # fmt: skip
        try:
            code = process.wait(left)
            reason = "" if code == 0 else f"ended with code {code}: {_last_line(log)}"
        except subprocess.TimeoutExpired:
            reason = f"ended after {left:.0f} s, its time: {_last_line(log)}"
        finally:
            _end(process)
    seconds = time.monotonic() - started
    ended = "done" if figures.is_file() else "failed"
    print(f"{part.name}: {ended} in {seconds:.0f} s {reason}", flush=True)
    return {"ended": ended, "reason": reason, "seconds": round(seconds, 1)}


def _end(process: subprocess.Popen) -> None:
    """Kill the process and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return next((line.strip()[:300] for line in reversed(lines) if not line.startswith("{")), "")


def lines(folder: Path) -> Iterator[str]:
    """Lines `name: value` of the figures in the folder."""
    for file in sorted(folder.glob("*.json")):
        record = json.loads(file.read_text())
        figures = record.get("figures") if isinstance(record, dict) else None
        if not isinstance(figures, dict):
            continue
        for name in HEADLINES.get(record["benchmark"], ()):
            value = figures.get(name)
            if value is not None:
                text = f"{value:.4g}" if isinstance(value, float) else value
                yield f"{file.stem}.{name}: {text}"


HEADLINES = {
    "device": (
        "device_kind", "bfloat16_tflops_per_second", "bfloat16_burst_tflops_per_second",
        "float32_tflops_per_second", "copy_bytes_per_second",
    ),
    "correctness": ("passed",),
    "step": (
        "users_per_second", "tokens_per_second", "ms", "model_tflops_per_second", "mfu", "mfu_of_vendor_peak",
        "peak_bytes_in_use", "compile_seconds",
    ),
    "profile": ("ms_a_step", "busy_ms_a_step", "kernels_a_step", "idle_share"),
    "train": ("users_per_second", "tokens_per_second", "input_wait_share"),
}  # fmt: skip
"""The figures of each verb that the last block of the output shows."""


def show(summary: dict[str, Any], folder: Path) -> None:
    """Print the parts that are not done, then a block of `name: value` lines."""
    for name, part in summary.items():
        if part["ended"] != "done":
            print(f"{name} {part['ended']}: {part['reason']}")
    print()
    for line in lines(folder):
        print(line)
    done = sum(part["ended"] == "done" for part in summary.values())
    print(f"parts: {done} of {len(summary)} done")
    print(f"folder: {folder}")
