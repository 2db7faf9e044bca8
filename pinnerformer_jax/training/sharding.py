"""One device path: a mesh with the axis "data", of one device or many."""

from __future__ import annotations

from typing import TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "data"

Tree = TypeVar("Tree")


def make_mesh(devices: int | None = None) -> Mesh:
    """A mesh over all devices, or the first so many."""
    return Mesh(np.array(jax.devices()[:devices]), (AXIS,))


def shard_batch(mesh: Mesh, batch: Tree) -> Tree:
    """Put arrays [B, ...] on the devices, B split over them.

    Raises:
        ValueError: B is not a multiple of the number of devices.
    """
    size = jax.tree.leaves(batch)[0].shape[0]
    if size % mesh.size:
        raise ValueError(f"training.batch_size = {size}: must be a multiple of the {mesh.size} devices")
    return jax.device_put(batch, NamedSharding(mesh, PartitionSpec(AXIS)))


def replicate(mesh: Mesh, tree: Tree) -> Tree:
    """Put a copy of each array on every device."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))
