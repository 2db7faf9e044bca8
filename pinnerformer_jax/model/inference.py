"""Embeddings from trained parameters: users as of their newest action, and the whole catalogue."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pinnerformer_jax.data.contracts import Events
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
    """

    def __init__(self, graphdef: nnx.GraphDef, params: Any, item_features: np.ndarray) -> None:
        self._graphdef, self._params = graphdef, jax.device_put(params)
        self._features = jnp.asarray(np.asarray(item_features))

    def users(self, history: Events, length: np.ndarray) -> np.ndarray:
        """Embedding of each user as of the newest action: the vector that is served.

        Args:
            history: [B, T] arrays, padded at the tail.
            length: int32 [B], real events of each; 0 gives a vector without meaning.

        Returns:
            float32 [B, D], unit rows.
        """
        return np.asarray(_users(self._graphdef, self._params, self._features, history, length))

    def users_by_length(
        self,
        read: Callable[[np.ndarray, int], tuple[Events, np.ndarray]],
        length: np.ndarray,
        max_length: int,
        batch_size: int,
    ) -> np.ndarray:
        """`users` for many users, in buckets of similar length, each computed only as long as it needs.
        Positions count back from the newest action, so that less padding changes nothing but rounding.

        Args:
            read: read(places, width) -> (histories, lengths) of the users at these places in `length`, [B],
                with at most `width` events each.
            length: int [U], events of each user, at least one each.
            max_length: T; the longest bucket.
            batch_size: B, users at a time. The last batch of a bucket is padded with repetitions, to B or a
                half, a quarter ... of B, at least `FEWEST`.

        Returns:
            float32 [U, D], unit rows.

        Raises:
            ValueError: there is no user.
        """
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
        if embeddings is None:
            raise ValueError("no user to embed")
        return embeddings

    def items(self, first: int = 0) -> np.ndarray:
        """Embeddings of the items from row `first` on, float32 [C - first, D], unit rows."""
        features = np.asarray(self._features[first:])
        chunks = []
        for start in range(0, len(features), ITEM_CHUNK):
            chunk = features[start : start + ITEM_CHUNK]
            padded = np.pad(chunk, ((0, ITEM_CHUNK - len(chunk)), (0, 0)))
            chunks.append(np.asarray(_items(self._graphdef, self._params, padded))[: len(chunk)])
        return np.concatenate(chunks)


# Jitted at module level, by structure, so that a second Embedder in a process compiles nothing.
@partial(jax.jit, static_argnums=0)
def _users(
    graphdef: nnx.GraphDef, params: Any, features: jax.Array, history: Events, length: jax.Array
) -> jax.Array:
    model: PinnerFormer = nnx.merge(graphdef, params)
    return model.embed_users(history, length, features)


@partial(jax.jit, static_argnums=0)
def _items(graphdef: nnx.GraphDef, params: Any, features: jax.Array) -> jax.Array:
    return nnx.merge(graphdef, params).embed_items(features)
