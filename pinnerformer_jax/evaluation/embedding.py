"""The vectors that evaluated users are scored by."""

from __future__ import annotations

import numpy as np
from tqdm import tqdm

from pinnerformer_jax.data.timelines import Timelines
from pinnerformer_jax.data.windows import histories_at_split
from pinnerformer_jax.model.inference import Embedder


def embed_users(
    embedder: Embedder, timelines: Timelines, users: np.ndarray, max_length: int, batch_size: int
) -> np.ndarray:
    """float32 [U, D]: each user as of t."""
    parts = []
    with tqdm(total=len(users), desc="embedding users", unit="user", leave=False, disable=None) as bar:
        for start in range(0, len(users), batch_size):
            chunk = users[start : start + batch_size]
            padded = np.pad(chunk, (0, batch_size - len(chunk)), mode="edge")  # one shape, one program
            parts.append(embedder.users(*histories_at_split(timelines, padded, max_length))[: len(chunk)])
            bar.update(len(chunk))
    return np.concatenate(parts)
