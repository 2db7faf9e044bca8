"""A measurement in a process of its own, so that its memory is that of what is measured alone."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any


def in_process(folder: Path, part: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """What a function gives in a process of its own, through a file of `folder`.

    Raises:
        ValueError: the process failed.
    """
    file = folder / "figures.json"
    process = multiprocessing.get_context("spawn").Process(target=_to_json, args=(file, part, *arguments))
    process.start()
    process.join()
    if process.exitcode:
        raise ValueError(f"{part} ended with code {process.exitcode}")
    return json.loads(file.read_text())


def memory(field: str) -> float:
    """MiB of this process: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def _to_json(file: Path, part: Callable[..., dict[str, Any]], *arguments: Any) -> None:
    file.write_text(json.dumps(part(*arguments)))
