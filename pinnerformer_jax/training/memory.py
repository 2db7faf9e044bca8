"""Whether a training fits in the memory there is, before it takes any: else it would end without a message,
or after a long time."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from pinnerformer_jax.config import Config
from pinnerformer_jax.data.windows import Windows
from pinnerformer_jax.runtime import total_memory

_EVENT = 14
"""Bytes of an event in a batch."""


def check_memory(config: Config, state: Any, windows: Windows, mesh: Mesh) -> None:
    """Refuse what cannot fit: much less is counted than a step takes.

    Args:
        config: the experiment.
        state: a `TrainState` of shapes; its parameters, moments and gradients are held whole on each device.
        windows: of the users to train on, whose shortest possible windows are counted.
        mesh: the devices.

    Raises:
        ValueError: it does not fit; names what is large, and the settings.
    """
    model, training = config.model, config.training
    cut = np.concatenate([shard.cut for shard in windows.timelines.shards])[windows.users]
    shortest = float(np.minimum(cut // 2, model.max_length).mean())
    rows = training.batch_size / mesh.size
    number = 2 if model.compute_dtype == "bfloat16" else 4
    parts = {
        "parameters, moments and gradients": _bytes(state) + _bytes(state.params),
        "activations": rows * shortest * model.width * model.layers * number,
        "the batch": rows * (model.max_length + training.future_events) * _EVENT,
    }
    refuse(sum(parts.values()), mesh, ", ".join(f"{_gib(size)} {name}" for name, size in parts.items()))


def refuse(size: float, mesh: Mesh, what: str) -> None:
    """Raise a ValueError if each device of the mesh would need more bytes than it has."""
    there = total_memory(mesh)
    if there and size > there:
        raise ValueError(
            f"a train step takes {_gib(size)} at least on each of {mesh.size} devices ({what}), and a device "
            f"has {_gib(there)}: lower model.width, model.layers, model.max_length, training.batch_size, "
            "training.future_events or objective.exact_counts"
        )


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _gib(size: float) -> str:
    return f"{size / 2**30:,.3g} GiB"
