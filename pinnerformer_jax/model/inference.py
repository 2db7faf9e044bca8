"""Embeddings from trained parameters: users as of their newest action, and the whole catalogue."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pinnerformer_jax.data.contracts import Events
from pinnerformer_jax.data.timelines import Timelines
from pinnerformer_jax.data.windows import histories_up_to
from pinnerformer_jax.model.pinnerformer import PinnerFormer

ITEM_CHUNK = 8192

SHORTEST = 16
"""Positions of the first length bucket; each further bucket is twice as long."""

FEWEST = 32
"""Users in the smallest batch, which is computed for the rest of a bucket."""


class Embedder:
    """Both towers with fixed parameters, for embedding users and items. Each new shape of a batch compiles
    once in a process.

    Args:
        graphdef: structure of the model, from `load_for_inference` or `PinnerFormer.split`.
        params: its parameters, likewise.
        item_features: the catalogue's vectors, [C, D_item], unit rows; `Catalog.features`.
        table: the same, split over several devices, see `training.item_table.split_over_own`; a batch of
            users is then split over them, too. None: the first device holds the catalogue.
    """

    def __init__(
        self, graphdef: nnx.GraphDef, params: Any, item_features: np.ndarray, table: Any = None
    ) -> None:
        self._graphdef, self._features = graphdef, item_features
        self.mesh: Mesh | None = None if table is None else jax.tree.leaves(table)[0].sharding.mesh
        self._table = jnp.asarray(np.asarray(item_features)) if table is None else table
        everywhere = NamedSharding(self.mesh, PartitionSpec()) if self.mesh else None
        self._params = jax.device_put(params, everywhere)

    def users(self, history: Events, length: np.ndarray) -> np.ndarray:
        """Embedding of each user as of the newest action: the vector that is served.

        Args:
            history: [B, T] arrays, padded at the tail.
            length: int32 [B], real events of each; 0 gives a vector without meaning.

        Returns:
            float32 [B, D], unit rows.
        """
        if self.mesh is None:
            return np.asarray(_users(self._graphdef, self._params, self._table, history, length))
        rows = len(length)
        missing = -rows % self.mesh.size
        history, length = jax.tree.map(
            lambda of: np.pad(of, ((0, missing), *((0, 0),) * (of.ndim - 1)), mode="edge"), (history, length)
        )
        split = _users_split(self._graphdef, self.mesh, self._params, self._table, history, length)
        return np.asarray(split)[:rows]

    def users_by_length(
        self,
        read: Callable[[np.ndarray, int], tuple[Events, np.ndarray]],
        length: np.ndarray,
        max_length: int,
        batch_size: int,
    ) -> np.ndarray:
        """`users` for many users, in buckets of similar length. A bucket is padded to its own width, not to
        T: positions count back from the newest action, so that less padding changes nothing but rounding.

        Args:
            read: gives histories and lengths, see `users`, of some users: from their places in `length`, [B],
                and the width of the history, an int.
            length: int [U], events of each user, at least one.
            max_length: T; the width of the last bucket, which also takes longer users.
            batch_size: B, users at a time. The last batch of a bucket is filled up with repetitions of its
                last user, to B or a half, a quarter ... of it, at least `FEWEST`.

        Returns:
            float32 [U, D], unit rows.

        Raises:
            ValueError: there is no user, or one without an event.
        """
        if not len(length):
            raise ValueError("no user to embed")
        if empty := np.count_nonzero(length < 1):
            raise ValueError(f"{empty:,} of {len(length):,} users to embed have no event; leave them out")
        embeddings: np.ndarray | None = None
        shorter, width = 0, min(SHORTEST, max_length)
        while shorter < max_length:
            longest = length.max(initial=0) if width == max_length else width
            bucket = np.flatnonzero((length > shorter) & (length <= longest))
            for start in range(0, len(bucket), batch_size):
                chunk = bucket[start : start + batch_size]
                rows = batch_size
                while rows // 2 >= max(len(chunk), FEWEST):
                    rows //= 2
                filled = np.pad(chunk, (0, rows - len(chunk)), mode="edge")  # few shapes, few programs
                vectors = self.users(*read(filled, width))[: len(chunk)]
                if embeddings is None:
                    embeddings = np.empty((len(length), vectors.shape[1]), np.float32)
                embeddings[chunk] = vectors
            shorter, width = width, min(2 * width, max_length)
        assert embeddings is not None  # each user is in a bucket
        return embeddings

    def items(self, first: int = 0) -> np.ndarray:
        """Embeddings of the items from row `first` on, float32 [C - first, D], unit rows."""
        chunks = []
        for start in range(first, len(self._features), ITEM_CHUNK):
            chunk = np.asarray(self._features[start : start + ITEM_CHUNK])
            padded = np.pad(chunk, ((0, ITEM_CHUNK - len(chunk)), (0, 0)))
            ids = start + np.arange(ITEM_CHUNK, dtype=np.int32)
            chunks.append(np.asarray(_items(self._graphdef, self._params, padded, ids))[: len(chunk)])
        return np.concatenate(chunks)


def embed_users(
    embedder: Embedder,
    timelines: Timelines,
    users: np.ndarray,
    max_length: int,
    batch_size: int,
    counts: np.ndarray | None = None,
) -> np.ndarray:
    """Embed users from their timelines, with a progress bar.

    Args:
        embedder: whose item table has the numbers of the timelines.
        timelines: where the events are.
        users: int [U] numbers of the users there.
        max_length: T, how many of the newest events of each user are read.
        batch_size: users at a time.
        counts: int [U], as of which event each user is embedded: after the first `counts`, at least one;
            None: as of t, the split.

    Returns:
        float32 [U, D], unit rows.

    Raises:
        ValueError: there is no user, or one without an event.
    """
    from tqdm import tqdm

    if counts is None:
        counts = np.concatenate([shard.cut for shard in timelines.shards])[users]
    with tqdm(total=len(users), desc="embedding users", unit="user", leave=False, disable=None) as bar:

        def read(rows: np.ndarray, width: int) -> tuple[Events, np.ndarray]:
            bar.update(len(np.unique(rows)))
            return histories_up_to(timelines, users[rows], counts[rows], width)

        return embedder.users_by_length(read, counts, max_length, batch_size)


# Jitted at module level, by structure, so that a second Embedder in a process compiles nothing.
@partial(jax.jit, static_argnums=0)
def _users(
    graphdef: nnx.GraphDef, params: Any, features: jax.Array, history: Events, length: jax.Array
) -> jax.Array:
    model: PinnerFormer = nnx.merge(graphdef, params)
    return model.embed_users(history, length, features)


@partial(jax.jit, static_argnums=(0, 1))
def _users_split(
    graphdef: nnx.GraphDef, mesh: Mesh, params: Any, table: Any, history: Events, length: jax.Array
) -> jax.Array:
    def of_device(params: Any, table: Any, history: Events, length: jax.Array) -> jax.Array:
        model: PinnerFormer = nnx.merge(graphdef, params)
        return model.embed_users(history, length, table)

    whole, split = PartitionSpec(), PartitionSpec(mesh.axis_names)
    mapped = jax.shard_map(
        of_device, mesh=mesh, in_specs=(whole, split, split, split), out_specs=split, check_vma=False
    )
    return mapped(params, table, history, length)


@partial(jax.jit, static_argnums=0)
def _items(graphdef: nnx.GraphDef, params: Any, features: jax.Array, ids: jax.Array) -> jax.Array:
    return nnx.merge(graphdef, params).embed_items(features, ids)
