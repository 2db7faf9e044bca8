"""Vectors of histories with events left out: of one without each of its events, to say what an event carries,
and of any choice of events."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pinnerformer_jax.data.contracts import NO_TIME, Events
from pinnerformer_jax.model.inference import Embedder

_PADDING = Events(0, 0, 0, NO_TIME, 0.0)


def without_each(
    embedder: Embedder, events: Events, places: np.ndarray, max_length: int, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Embed one user with the whole history, and without each event that the model reads. Where an event
    leaves a history of T, the next older one comes in.

    Args:
        embedder: of all items of the events.
        events: [E] of the user, oldest first.
        places: int, ascending, of the events that the model may read.
        max_length: T.
        batch_size: histories at a time.

    Returns:
        int [R], the places of the events that the model reads; float32 [1 + R, D], the vectors: with all of
        them, and without each. Zeros stand for a history without events.

    Raises:
        ValueError: there is no event that the model may read.
    """
    read = places[-max_length:]
    reserve = places[-max_length - 1 :]
    kept = [read, *(reserve[reserve != event][-max_length:] for event in read)]
    vectors = embed_chosen(embedder, events, kept, max_length, batch_size)
    if not vectors.any():
        raise ValueError("no event that the model can read")
    return read, vectors


def embed_chosen(
    embedder: Embedder, events: Events, chosen: Sequence[np.ndarray], max_length: int, batch_size: int
) -> np.ndarray:
    """Embed R histories, each a choice among the same events.

    Args:
        embedder: of all items of the events that are chosen.
        events: [E], of one user or more; those of a user oldest first.
        chosen: R, int, ascending: the places of each history's events; of more than T the newest count.
        max_length: T.
        batch_size: histories at a time.

    Returns:
        float32 [R, D], unit rows; zeros stand for a history without events.
    """
    length = np.array([len(history) for history in chosen], np.int64)
    full = np.flatnonzero(length)

    def padded(rows: np.ndarray, width: int) -> tuple[Events, np.ndarray]:
        count = np.minimum(length[full[rows]], width)
        real = np.arange(width)[None, :] < count[:, None]
        where = np.concatenate([chosen[full[row]][-width:] for row in rows])
        histories = []
        for values, blank in zip(events, _PADDING, strict=True):
            filled = np.full(real.shape, blank, values.dtype)
            filled[real] = values[where]
            histories.append(filled)
        return Events(*histories), count.astype(np.int32)

    if not len(full):
        return np.zeros((len(length), 0), np.float32)
    found = embedder.users_by_length(padded, length[full], max_length, batch_size)
    vectors = np.zeros((len(length), found.shape[1]), np.float32)
    vectors[full] = found
    return vectors
