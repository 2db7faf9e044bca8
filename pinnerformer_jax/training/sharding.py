"""One device path: a mesh with the axis "data", of one device or many."""

from __future__ import annotations

from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "data"

Tree = TypeVar("Tree")


def make_mesh(devices: int | None = None) -> Mesh:
    """A mesh over all devices, or the first so many."""
    return Mesh(np.array(jax.devices()[:devices]), (AXIS,))


def shard_batch(mesh: Mesh, batch: Tree) -> Tree:
    """Shard arrays [B, ...] over the N devices, interleaved: row i goes to device i mod N. If the rows are
    sorted by length, every device then has the same share of long rows.

    Raises:
        ValueError: B is not a multiple of the number of devices.
    """
    size = jax.tree.leaves(batch)[0].shape[0]
    if size % mesh.size:
        raise ValueError(f"training.batch_size = {size}: must be a multiple of the {mesh.size} devices")
    shards = jax.tree.map(lambda rows: interleave(rows, mesh.size), batch)
    return jax.device_put(shards, NamedSharding(mesh, PartitionSpec(AXIS)))


def interleave(rows: np.ndarray, shards: int) -> np.ndarray:
    """[B, ...] reordered: rows 0, N, 2N ..., then 1, N + 1 ...; `collect` is the inverse, on the device."""
    return rows.reshape(-1, shards, *rows.shape[1:]).swapaxes(0, 1).reshape(rows.shape)


def shard_rows(users: int) -> jax.Array:
    """int32 [B / N]: this device's rows of the global batch. Call it inside a map over AXIS."""
    return jax.lax.axis_index(AXIS) + jax.lax.axis_size(AXIS) * jnp.arange(users)


def collect(rows: jax.Array) -> jax.Array:
    """[B / N, ...] of each device -> [B, ...] on every device, in the order of the global batch."""
    shards = jax.lax.all_gather(rows, AXIS, axis=1)  # [B / N, N, ...]
    return shards.reshape(-1, *rows.shape[1:])


def replicate(mesh: Mesh, tree: Tree) -> Tree:
    """Put a copy of each array on every device."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))
