"""Communication between the devices in a train step: collectives of the compiled program and their bytes."""

from __future__ import annotations

import re
from typing import Any

import jax

from pinnerformer_jax.bench import flops
from pinnerformer_jax.bench.program import array_bytes
from pinnerformer_jax.bench.report import table
from pinnerformer_jax.bench.workload import prepare
from pinnerformer_jax.config import Config

_KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_SHOWN = ("all-reduce", "all-gather", "reduce-scatter")
_INSTRUCTION = re.compile(rf"= (?P<shape>.+?) (?P<kind>{'|'.join(_KINDS)})(?:-start)?\(")


def count(hlo: str) -> dict[str, dict[str, int]]:
    """Collectives of a compiled program's text: how many of each kind, and the bytes of their results.

    An asynchronous pair counts once, by its start. (Of an asynchronous all-gather the start's result also
    holds the operand, which then counts too.)
    """
    found: dict[str, dict[str, int]] = {}
    for match in _INSTRUCTION.finditer(hlo):
        kind = found.setdefault(match["kind"], {"count": 0, "bytes": 0})
        kind["count"] += 1
        kind["bytes"] += array_bytes(match["shape"])
    return found


def measure(config: Config, *, devices: int, items: int) -> dict[str, Any]:
    """Count collectives on 1, 2, 4 ... devices.

    Returns:
        Figures. `gradient_bytes` and `positive_bytes` are the bytes that the design must communicate: the
        parameters, the loss and three counts; and item, user and validity of every pair of the global batch.
        `by_devices` has the collectives of the compiled programs. Bytes are those of the results, which every
        device holds. If the item table is sharded, its look-ups are in the programs' figures alone.

    Raises:
        ValueError: there are fewer devices.
    """
    if devices > jax.device_count():
        raise ValueError(
            f"--devices {devices}: there are {jax.device_count()}; JAX_PLATFORMS=cpu simulates them"
        )
    by_devices = {}
    parameters = 0
    for shift in range(devices.bit_length()):
        work = prepare(config, "full", items, 1 << shift)
        parameters = sum(leaf.nbytes for leaf in jax.tree.leaves(work.state.params))
        by_devices[str(1 << shift)] = count(work.compiled.as_text() or "")
    pairs = config.training.batch_size * flops.positions(config)
    return {
        "gradient_bytes": parameters + 4 + 3 * 4,
        "positive_bytes": pairs * (4 + 4 + 1),
        "by_devices": by_devices,
    }


def show(figures: dict[str, Any]) -> None:
    """A line a number of devices."""
    rows = []
    for devices, kinds in figures["by_devices"].items():
        row: list[Any] = [devices]
        for kind in _SHOWN:
            row += [kinds.get(kind, {}).get("count", 0), kinds.get(kind, {}).get("bytes", 0)]
        others = sum(facts["count"] for kind, facts in kinds.items() if kind not in _SHOWN)
        rows.append([*row, others])
    table(
        "Collectives of a step",
        ("devices", *(name for kind in _SHOWN for name in (kind, "bytes")), "others"),
        rows,
    )
    print(
        f"by design: {figures['gradient_bytes']:,} bytes of gradients, loss and counts are reduced, "
        f"{figures['positive_bytes']:,} bytes of positives gathered"
    )
