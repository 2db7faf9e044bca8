"""One device path: a mesh with the axis "data", of one device or many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

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
    """Put arrays [B, ...] on the devices. Row i goes to device i mod N, so that each device has an equal
    share of the long histories of a batch that is sorted by length.

    One of several processes gives the rows of its own devices alone, see `hosts.rows_of`.

    Raises:
        ValueError: B is not a multiple of the number of devices.
    """
    if jax.process_count() > 1:
        return jax.tree.map(lambda rows: _from_own(mesh, rows), batch)
    size = jax.tree.leaves(batch)[0].shape[0]
    if size % mesh.size:
        raise ValueError(f"training.batch_size = {size}: must be a multiple of the {mesh.size} devices")
    shards = jax.tree.map(lambda rows: interleave(rows, mesh.size), batch)
    return jax.device_put(shards, NamedSharding(mesh, PartitionSpec(AXIS)))


def _from_own(mesh: Mesh, rows: np.ndarray) -> jax.Array:
    """The array of all devices, of which this process has the rows of its own, device by device."""
    parts = np.split(rows, len(mesh.local_devices))
    shape = (len(parts[0]) * mesh.size, *rows.shape[1:])
    return assemble(mesh, shape, PartitionSpec(AXIS), parts)


def assemble(
    mesh: Mesh, shape: tuple[int, ...], spec: PartitionSpec, parts: Sequence[np.ndarray]
) -> jax.Array:
    """An array on the mesh, from what each device of this process holds of it, in the mesh's order. Nothing
    is compared between processes, as `jax.device_put` of a host's array would."""
    devices = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
    placed = [jax.device_put(part, device) for part, device in zip(parts, devices, strict=True)]
    return jax.make_array_from_single_device_arrays(shape, NamedSharding(mesh, spec), placed)


def interleave(rows: np.ndarray | jax.Array, shards: int) -> np.ndarray | jax.Array:
    """[B, ...] reordered: rows 0, N, 2N ..., then 1, N + 1 ...; `collect` is the inverse, on the device."""
    return rows.reshape(-1, shards, *rows.shape[1:]).swapaxes(0, 1).reshape(rows.shape)


def is_mapped() -> bool:
    """Whether the caller runs inside a map (`jax.shard_map`, `jax.pmap`) over AXIS. Outside of one, the
    functions below treat the caller as the only device."""
    try:
        jax.lax.axis_size(AXIS)
    except NameError:  # JAX knows no axis of this name here
        return False
    return True


def device_count() -> int:
    """N, the devices of the map over AXIS; 1 outside."""
    return jax.lax.axis_size(AXIS) if is_mapped() else 1


def total(values: jax.Array) -> jax.Array:
    """Sum over the devices, on every device."""
    return jax.lax.psum(values, AXIS) if is_mapped() else values


def shard_rows(users: int) -> jax.Array:
    """int32 [B / N], numbers in the global batch of this device's rows."""
    rows = jnp.arange(users)
    return jax.lax.axis_index(AXIS) + device_count() * rows if is_mapped() else rows


def collect(rows: jax.Array) -> jax.Array:
    """[B / N, ...] of each device -> [B, ...] on every device, in the order of the global batch."""
    if not is_mapped():
        return rows
    shards = jax.lax.all_gather(rows, AXIS, axis=1)  # [B / N, N, ...]
    return shards.reshape(-1, *rows.shape[1:])


def replicate(mesh: Mesh, tree: Any) -> Any:
    """Put a copy of each array on every device; every process has the same."""
    if jax.process_count() == 1:
        return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))
    count = len(mesh.local_devices)
    return jax.tree.map(
        lambda leaf: assemble(mesh, np.shape(leaf), PartitionSpec(), [np.asarray(leaf)] * count), tree
    )
