"""The vector of an item of which the text alone is known, such as one that came after the training.

A built vector has two halves, of co-occurrence and of text (ingestion/item_vectors.py). A linear map, fitted
on the items that have both, gives the half of co-occurrence that an item of such a text has on average. The
paper has none of this, because its items are given vectors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    import jax

Array = TypeVar("Array", np.ndarray, "jax.Array")


def vectors_from_text(text: Array, text_map: Array) -> Array:
    """Vectors of N items. Ingest, the daily job and the train step share it: arrays of NumPy or of JAX.

    Args:
        text: float32 [N, K], the halves of text: unit rows, or zero where there is no text.
        text_map: float32 [K + 1, D - K]; the last row is added to each.

    Returns:
        float32 [N, D], unit rows; zero where there is no text.
    """
    if isinstance(text, np.ndarray):
        concatenate = np.concatenate
    else:
        import jax.numpy as jnp

        concatenate = jnp.concatenate
    co_occurrence = text @ text_map[:-1] + text_map[-1:]
    norm = (co_occurrence * co_occurrence).sum(axis=1, keepdims=True) ** 0.5
    there = (text * text).sum(axis=1, keepdims=True)  # 1 or 0
    return concatenate([there * co_occurrence / (norm + 1e-12), text], axis=1) * 0.5**0.5
