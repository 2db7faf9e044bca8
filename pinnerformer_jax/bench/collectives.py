"""Communication between the devices in a train step: collectives of the compiled program and their bytes.

The programs are compiled for devices that a CPU simulates, and not run. --users-a-device N lets the batch
grow with the devices; without it, --training.batch-size users are divided among them.
--training.shard-items true splits the item table.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from typing import Any

import jax

from pinnerformer_jax.bench import flops, workload
from pinnerformer_jax.bench.compile import traced
from pinnerformer_jax.bench.program import array_bytes
from pinnerformer_jax.bench.report import table
from pinnerformer_jax.config import Config
from pinnerformer_jax.training.sharding import make_mesh
from pinnerformer_jax.training.state import create
from pinnerformer_jax.training.step import compiler_options

_KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
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


def received(found: dict[str, dict[str, int]], devices: int) -> int:
    """Bytes that each device receives, and as many that it sends, where N devices exchange in a ring.

    An all-gather brings (N - 1) / N of its result, an all-to-all likewise, a reduce-scatter N - 1 times its
    result, an all-reduce 2 (N - 1) / N times.

    Args:
        found: by `count`.
        devices: N.
    """
    share = (devices - 1) / devices
    times = {"all-reduce": 2 * share, "reduce-scatter": devices - 1, "collective-permute": 1}
    return round(sum(times.get(kind, share) * facts["bytes"] for kind, facts in found.items()))


def measure(config: Config, *, devices: int, items: int, users_a_device: int | None = None) -> dict[str, Any]:
    """Count collectives on 1, 2, 4 ... devices.

    Args:
        config: sizes.
        devices: the largest number of them.
        items: in the catalogue.
        users_a_device: so many are the batch of each device; None: the config's batch is divided.

    Returns:
        Figures. `gradient_bytes`, the parameters, the loss and three counts, and `positive_bytes`, item, user
        and validity of every pair of the global batch, are what the design must communicate beside the rows
        of a sharded item table. `by_devices` has, by the number of devices: users of the batch; `collectives`
        of the compiled program, whose bytes are those of the results, which every device holds;
        `received_bytes` of each device; and its memory, `argument_bytes` and `temporary_bytes`. A look-up in
        a sharded table counts for one round.

    Raises:
        ValueError: there are fewer devices, or they do not divide the batch.
    """
    if devices > jax.device_count():
        raise ValueError(
            f"--devices {devices}: there are {jax.device_count()}; JAX_PLATFORMS=cpu simulates them"
        )
    _, state = jax.eval_shape(lambda: create(config, workload.SIZES._replace(items=items)))
    parameters = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.params))
    by_devices = {}
    for shift in range(devices.bit_length()):
        number = 1 << shift
        users = users_a_device * number if users_a_device else config.training.batch_size
        if users % number:
            raise ValueError(f"training.batch_size = {users}: must be a multiple of the {number} devices")
        training = dataclasses.replace(config.training, batch_size=users)
        program = traced(dataclasses.replace(config, training=training), make_mesh(number), items).lower()
        compiled = program.compile(compiler_options(training))
        found = count(compiled.as_text() or "")
        memory: Any = compiled.memory_analysis()
        by_devices[str(number)] = {
            "users": users,
            "positive_bytes": users * flops.positions(config) * (4 + 4 + 1),
            "collectives": found,
            "received_bytes": received(found, number),
            "argument_bytes": memory.argument_size_in_bytes,
            "temporary_bytes": memory.temp_size_in_bytes,
        }
        print(f"compiled for {number} devices", file=sys.stderr, flush=True)
    return {"gradient_bytes": parameters + 4 + 3 * 4, "by_devices": by_devices}


def show(figures: dict[str, Any]) -> None:
    """A line a number of devices."""
    rows = []
    for devices, facts in figures["by_devices"].items():
        kinds = facts["collectives"]
        results = [f"{kinds[kind]['bytes'] / 1e6:,.3f}" if kind in kinds else "" for kind in _KINDS]
        memory = [facts[name] / 1e6 for name in ("argument_bytes", "temporary_bytes")]
        mb = facts["positive_bytes"] / 1e6, facts["received_bytes"] / 1e6
        rows.append([devices, facts["users"], *results, *mb, *memory])
    table(
        "A step on each device, in MB: results of its collectives, what it receives, and memory",
        ("devices", "users", *_KINDS, "of positives", "received", "arguments", "temporaries"),
        rows,
    )
    print(f"by design: {figures['gradient_bytes']:,} bytes of gradients, loss and counts are reduced")
