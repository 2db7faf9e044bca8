"""The catalogue's vectors on the devices, as the step looks them up: whole on each or split by rows, as
float16 or as int8 with a scale a row.

C items, D numbers of a vector, N devices, R rows that a device asks for.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from pinnerformer_jax.config import TrainingConfig
from pinnerformer_jax.training.sharding import AXIS, assemble, replicate

BLOCK = 16
"""Rows of a split table that lie on one device together: some pages of the file."""

_CHUNK = 1 << 16


@partial(jax.tree_util.register_dataclass, data_fields=("values", "scale"), meta_fields=("sharded",))
@dataclass(frozen=True)
class ItemTable:
    """`table[ids]` are the ids' vectors, so that towers take it as they take an array."""

    # Arrays, or their shapes in a program that is only compiled.
    values: Any  # float16, float32 or int8 [C, D]; of the device's own C / N items where sharded
    scale: Any = None  # float32 [C]: what int8 values are multiplied with
    sharded: bool = False  # rows are dealt out as `place` says; look-ups are inside a map over AXIS

    def __getitem__(self, ids: Int[Array, "*dims"]) -> Float[Array, "*dims d"]:
        """Vectors of this device's ids.

        Where sharded, each device asks the owners for the different ids among its own and receives their rows
        as stored. A round takes up to `capacity` ids from each owner. One is enough as a rule; if any device
        asks one owner for more, all take another, so that no id is left out. Each device receives N capacity
        ids and as many rows, about R in all for any N.
        """
        if not self.sharded:
            return self._decode(self.values[ids], None if self.scale is None else self.scale[ids])
        rows = self._exchanged(ids.reshape(-1))
        return self._decode(*rows).reshape(*ids.shape, -1)

    def common(self, ids: Int[Array, " r"]) -> Float[Array, "r d"]:
        """Vectors of ids that are the same on every device: R rows are reduced, for any N."""
        if not self.sharded:
            return self[ids]
        owner, local = self._home(ids)
        mine = owner == jax.lax.axis_index(AXIS)
        values, scale = self._own(jnp.where(mine, local, 0))
        values = jnp.where(mine[:, None], values, 0)
        scale = None if scale is None else jnp.where(mine, scale, 0)
        return self._decode(*jax.lax.psum((values, scale), AXIS))  # exact: one term alone is not zero

    def _exchanged(self, ids: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        """Rows [R, D], as stored."""
        devices = jax.lax.axis_size(AXIS)
        size = capacity(len(ids), devices)
        owner, local = self._home(ids)
        place, most = _places(owner, local, len(self.values), devices)

        def exchange(blocks: jax.Array) -> jax.Array:
            return jax.lax.all_to_all(blocks, AXIS, 0, 0)

        def take(turn: jax.Array, rows: tuple[jax.Array, jax.Array | None]) -> Any:
            slot = place - turn * size
            now = (slot >= 0) & (slot < size)
            asked = jnp.zeros((devices, size), jnp.int32)
            asked = asked.at[owner, jnp.where(now, slot, size)].set(local, mode="drop")
            received = jax.tree.map(exchange, self._own(exchange(asked)))
            slot = jnp.where(now, slot, 0)
            return jax.tree.map(
                lambda old, new: jnp.where(now[:, None] if new.ndim == 3 else now, new[owner, slot], old),
                rows, received,
            )  # fmt: skip

        turns = jax.lax.pmax(-(-most // size), AXIS)
        nothing = jax.tree.map(lambda held: jnp.zeros((len(ids), *held.shape[1:]), held.dtype), self._all())
        return jax.lax.fori_loop(0, turns, take, nothing)

    def _home(self, ids: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The device that holds each row, and the row's place there."""
        block = ids // BLOCK
        devices = jax.lax.axis_size(AXIS)
        return block % devices, block // devices * BLOCK + ids % BLOCK

    def _all(self) -> tuple[jax.Array, jax.Array | None]:
        return self.values, self.scale

    def _own(self, local: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        return self.values[local], None if self.scale is None else self.scale[local]

    @staticmethod
    def _decode(values: jax.Array, scale: jax.Array | None) -> jax.Array:
        return values if scale is None else values.astype(jnp.float32) * scale[..., None]


def capacity(ids: int, devices: int) -> int:
    """Ids that a device may ask one owner for in a round. Different ids are spread over the owners by chance,
    as blocks are dealt out, so four standard deviations above the mean are rarely exceeded."""
    mean = ids / devices
    return min(math.ceil(mean + 4 * mean**0.5), ids)


def _places(owner: jax.Array, local: jax.Array, held: int, devices: int) -> tuple[jax.Array, jax.Array]:
    """For each id its place among the different ids that are asked of its owner; and how many are asked of
    the owner with the most."""
    row = owner * held + local  # in the order of the table as it is held
    order = jnp.argsort(row)
    ordered = row[order]
    different = jnp.concatenate([jnp.ones(1, bool), ordered[1:] != ordered[:-1]])
    counts = jnp.zeros(devices, jnp.int32).at[owner[order]].add(different.astype(jnp.int32))
    rank = jnp.cumsum(different) - 1 - (jnp.cumsum(counts) - counts)[owner[order]]
    return jnp.zeros_like(row).at[order].set(rank), counts.max()


def place(mesh: Mesh, features: Float[np.ndarray, "c d"], config: TrainingConfig) -> ItemTable:
    """Put the catalogue's vectors, perhaps memory-mapped, on the devices as the config says.

    Where they are split, blocks of BLOCK rows are dealt out to the devices in turn, since a catalogue begins
    with the items of most events. Each process reads the blocks of its own devices alone.
    """
    if not config.shard_items:
        return ItemTable(*replicate(mesh, _stored(np.asarray(features), config)))
    held = -(-len(features) // (BLOCK * mesh.size)) * BLOCK  # zero rows at the end, which no id refers to
    values, scales = [], []
    for number, device in enumerate(mesh.devices.flat):
        if device.process_index == jax.process_index():
            stored, scale = _stored(_dealt(features, number, mesh.size, held), config)
            values.append(stored)
            scales.append(scale)
    split = PartitionSpec(AXIS)
    table = assemble(mesh, (held * mesh.size, features.shape[1]), split, values)
    whole_scale = assemble(mesh, (held * mesh.size,), split, scales) if scales[0] is not None else None
    return ItemTable(table, whole_scale, sharded=True)


def split_over_own(features: Float[np.ndarray, "c d"], config: TrainingConfig) -> ItemTable | None:
    """The catalogue's vectors, for `model.inference.Embedder`, split over the devices of this process as they
    are stored; None: the config does not split them, or there is one device."""
    if not config.shard_items or jax.local_device_count() == 1:
        return None
    mesh = Mesh(np.array(jax.local_devices()), (AXIS,))
    return place(mesh, features, dataclasses.replace(config, item_dtype="float16"))


def _dealt(features: np.ndarray, number: int, devices: int, held: int) -> np.ndarray:
    """The blocks of a device, zero rows behind them: [held, D]."""
    rounds = len(features) // (devices * BLOCK)
    full, last = np.split(features, [rounds * devices * BLOCK])
    numbers = features.shape[1]
    rows = full.reshape(rounds, devices, BLOCK, numbers)[:, number].reshape(rounds * BLOCK, numbers)
    rest = last[number * BLOCK : (number + 1) * BLOCK]
    return np.pad(np.concatenate([rows, rest]), ((0, held - len(rows) - len(rest)), (0, 0)))


def _stored(features: np.ndarray, config: TrainingConfig) -> tuple[np.ndarray, np.ndarray | None]:
    """Values, and a scale a row where they are int8."""
    return quantised(features) if config.item_dtype == "int8" else (features, None)


def quantised(features: Float[np.ndarray, "c d"]) -> tuple[np.ndarray, np.ndarray]:
    """int8 values and a float32 scale of each row. The largest number of a row becomes 127; a row of zeros
    stays zero."""
    values, scale = np.empty(features.shape, np.int8), np.empty(len(features), np.float32)
    for start in range(0, len(features), _CHUNK):
        rows = slice(start, start + _CHUNK)
        chunk = np.asarray(features[rows], np.float32)
        scale[rows] = np.abs(chunk).max(axis=1) / 127
        values[rows] = np.rint(chunk / np.maximum(scale[rows, None], np.finfo(np.float32).tiny))
    return values, scale
