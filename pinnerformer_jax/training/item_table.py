"""The catalogue's vectors on the devices, as the step looks them up: whole on each or split by rows, as
float16 or as int8 with a scale a row.

C items, D numbers of a vector, N devices, R rows that a device asks for.
"""

from __future__ import annotations

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

_CHUNK = 1 << 16


@partial(jax.tree_util.register_dataclass, data_fields=("values", "scale"), meta_fields=("sharded",))
@dataclass(frozen=True)
class ItemTable:
    """`table[ids]` are the ids' vectors, so that towers take it as they take an array."""

    # Arrays, or their shapes in a program that is only compiled.
    values: Any  # float16, float32 or int8 [C, D]; of the device's own C / N items where sharded
    scale: Any = None  # float32 [C]: what int8 values are multiplied with
    sharded: bool = False  # device i holds rows i C / N : (i + 1) C / N; look-ups are inside a map over AXIS

    def __getitem__(self, ids: Int[Array, "*dims"]) -> Float[Array, "*dims d"]:
        """Vectors of this device's ids.

        Where sharded, every device receives the ids of all devices and returns the rows it owns, and zero for
        the others. The device that asked receives their sum, which is exact, as only one term is not zero.
        Each device receives (N - 1) R ids and sends (N - 1) R rows, in their stored type.
        """
        if not self.sharded:
            return self._decode(self.values[ids], None if self.scale is None else self.scale[ids])
        wanted = jax.lax.all_gather(ids.reshape(-1), AXIS)  # [N, R]
        values, scale = jax.lax.psum_scatter(self._own(wanted), AXIS)
        return self._decode(values, scale).reshape(*ids.shape, -1)

    def common(self, ids: Int[Array, " r"]) -> Float[Array, "r d"]:
        """Vectors of ids that are the same on every device: R rows are reduced, for any N."""
        return self._decode(*jax.lax.psum(self._own(ids), AXIS)) if self.sharded else self[ids]

    def _own(self, ids: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        """Rows as stored, zero for those of other devices."""
        local = ids - jax.lax.axis_index(AXIS) * len(self.values)
        mine = (local >= 0) & (local < len(self.values))
        local = jnp.where(mine, local, 0)
        scale = None if self.scale is None else jnp.where(mine, self.scale[local], 0)
        return jnp.where(mine[..., None], self.values[local], 0), scale

    @staticmethod
    def _decode(values: jax.Array, scale: jax.Array | None) -> jax.Array:
        return values if scale is None else values.astype(jnp.float32) * scale[..., None]


def place(mesh: Mesh, features: Float[np.ndarray, "c d"], config: TrainingConfig) -> ItemTable:
    """Put the catalogue's vectors, perhaps memory-mapped, on the devices as the config says. Where they are
    split, each process reads the rows of its own devices alone."""
    if not config.shard_items:
        return ItemTable(*replicate(mesh, _stored(np.asarray(features), config)))
    held = -(-len(features) // mesh.size)  # the last devices also hold zero rows, which no id refers to
    values, scales = [], []
    for number, device in enumerate(mesh.devices.flat):
        if device.process_index == jax.process_index():
            rows = np.asarray(features[number * held : (number + 1) * held])
            stored, scale = _stored(np.pad(rows, ((0, held - len(rows)), (0, 0))), config)
            values.append(stored)
            scales.append(scale)
    split = PartitionSpec(AXIS)
    table = assemble(mesh, (held * mesh.size, features.shape[1]), split, values)
    whole_scale = assemble(mesh, (held * mesh.size,), split, scales) if scales[0] is not None else None
    return ItemTable(table, whole_scale, sharded=True)


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
