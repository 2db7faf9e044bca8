"""Exact nearest items by inner product, on the device; other indexes are compared with it.

Dimensions: Q queries, N items, D numbers of an embedding.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

BLOCK = 64
"""Columns of a block; the first stage of `top_k` compares the maxima of blocks."""


def top_k(scores: Float[Array, "Q N"], k: int) -> tuple[Float[Array, "Q k"], Int[Array, "Q k"]]:
    """The k largest of each row and their columns, descending; exact, several times `lax.top_k`'s speed.

    Two stages: the k largest numbers of a row lie in the k blocks with the largest maxima (or in
    blocks that tie with them), so only those blocks are sorted.

    Args:
        scores: may hold -inf; a row with fewer than k other numbers returns -inf too.
        k: at most N.
    """
    rows, columns = scores.shape
    padded = jnp.pad(scores, ((0, 0), (0, -columns % BLOCK)), constant_values=-jnp.inf)
    blocks = padded.reshape(rows, -1, BLOCK)  # [Q, N / BLOCK, BLOCK]
    _, chosen = lax.top_k(blocks.max(axis=2), min(k, blocks.shape[1]))
    chosen = jnp.sort(chosen, axis=1)  # lax.top_k then prefers the lower column among equals
    finalists = jnp.take_along_axis(blocks, chosen[:, :, None], axis=1).reshape(rows, -1)
    best, place = lax.top_k(finalists, k)
    block = jnp.take_along_axis(chosen, place // BLOCK, axis=1)
    return best, block * BLOCK + place % BLOCK


def search(
    queries: np.ndarray,
    items: jax.Array | np.ndarray,
    k: int,
    *,
    query_chunk: int = 256,
    item_chunk: int = 65_536,
) -> tuple[np.ndarray, np.ndarray]:
    """The k items of largest inner product with each query.

    Beside the items, the device holds query_chunk * item_chunk float32 scores; every chunk has the
    same shape, so one program is compiled. Items of more than a chunk that are on no device yet are split
    over all devices of the process.

    Args:
        queries: float32 [Q, D].
        items: float32 [N, D]; put it on the device first when it is searched more than once.
        k: how many; at most N.
        query_chunk: queries scored at a time.
        item_chunk: items scored at a time.

    Returns:
        scores float32 [Q, k], descending, and rows int32 [Q, k].

    Raises:
        ValueError: k exceeds the number of items, or the widths differ.
    """
    if not 1 <= k <= len(items):
        raise ValueError(f"k = {k}: must be in 1..{len(items)}, the number of items")
    if queries.shape[1] != items.shape[1]:
        raise ValueError(f"queries have {queries.shape[1]} numbers, items {items.shape[1]}")
    parts = _on_devices(items, item_chunk)
    scores = np.empty((len(queries), k), np.float32)
    rows = np.empty((len(queries), k), np.int32)
    for start in range(0, len(queries), query_chunk):
        chunk = queries[start : start + query_chunk].astype(np.float32)
        real = len(chunk)
        chunk = np.pad(chunk, ((0, query_chunk - real), (0, 0)))
        found = [_search_chunk(chunk, part, min(k, len(part)), min(item_chunk, len(part))) for part in parts]
        best, row = _merge(found, [len(part) for part in parts], k)
        scores[start : start + real], rows[start : start + real] = best[:real], row[:real]
    return scores, rows


def _on_devices(items: jax.Array | np.ndarray, chunk: int) -> list[jax.Array]:
    if isinstance(items, jax.Array) or len(items) <= chunk:
        return [jnp.asarray(items, jnp.float32)]
    devices = jax.local_devices()
    parts = np.array_split(items, len(devices))
    return [jax.device_put(np.asarray(part, np.float32), devices[k]) for k, part in enumerate(parts)]


def _merge(
    found: list[tuple[jax.Array, jax.Array]], sizes: list[int], k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k best of what each part has, and their rows in all items."""
    first = np.cumsum([0, *sizes[:-1]])
    scores = np.concatenate([of for of, _ in found], axis=1)
    rows = np.concatenate([of + start for (_, of), start in zip(found, first, strict=True)], axis=1)
    place = np.argsort(-scores, axis=1, kind="stable")[:, :k]  # of equals the lower row, as on one device
    return np.take_along_axis(scores, place, axis=1), np.take_along_axis(rows, place, axis=1)


@partial(jax.jit, static_argnames=("k", "chunk"))
def _search_chunk(
    queries: Float[Array, "Q D"], items: Float[Array, "N D"], k: int, chunk: int
) -> tuple[Float[Array, "Q k"], Int[Array, "Q k"]]:
    last = len(items) - chunk

    def merge(
        best: tuple[jax.Array, jax.Array], start: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        first = jnp.minimum(start, last)  # the last chunk starts early; rows seen before are masked
        part = lax.dynamic_slice_in_dim(items, first, chunk)
        scores = jnp.matmul(queries, part.T, precision=lax.Precision.HIGHEST)  # [Q, chunk]
        row = first + jnp.arange(chunk)
        scores = jnp.where((row >= start)[None, :], scores, -jnp.inf)
        found, column = top_k(scores, min(k, chunk))
        scores = jnp.concatenate([best[0], found], axis=1)
        rows = jnp.concatenate([best[1], first + column], axis=1)
        kept, place = lax.top_k(scores, k)
        return (kept, jnp.take_along_axis(rows, place, axis=1)), None

    nothing = jnp.full((len(queries), k), -jnp.inf), jnp.zeros((len(queries), k), jnp.int32)
    best, _ = lax.scan(merge, nothing, jnp.arange(0, len(items), chunk))
    return best
