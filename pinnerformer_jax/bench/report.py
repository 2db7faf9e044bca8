"""The output of a measurement: a table, and a line of JSON."""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from pinnerformer_jax.config import Config
from pinnerformer_jax.config_files import to_dict
from pinnerformer_jax.files import write_json


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows under a head, the first column left-aligned, the others right-aligned."""
    lines = [list(head), *([_text(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    print(f"\n{title}")
    for number, line in enumerate(lines):
        first, *others = (
            cell.rjust(width) if k else cell.ljust(width)
            for k, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        print("  ".join([first, *others]).rstrip())
        if number == 0:
            print("  ".join("-" * width for width in widths))
    sys.stdout.flush()


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def record(verb: str, config: Config, figures: Any) -> dict[str, Any]:
    """The figures with date, command, versions, device and sizes."""
    device = jax.devices()[0]
    sizes = {name: to_dict(getattr(config, name)) for name in ("model", "objective", "training")}
    return {
        "benchmark": verb,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python -m pinnerformer_jax.bench", *sys.argv[1:]]),
        "jax": jax.__version__,
        "platform": device.platform,
        "device": device.device_kind,
        "devices": jax.device_count(),
        "config": {"name": config.name, **sizes},
        "figures": figures,
    }


def finish(values: dict[str, Any], file: Path | None) -> None:
    """Print the JSON line, the last of stdout, and write it to a file, if one is named."""
    if file is not None:
        write_json(file, values)
    print(json.dumps(values), flush=True)
