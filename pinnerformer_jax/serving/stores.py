"""Feature stores by their URL."""

from __future__ import annotations

from pathlib import Path

from pinnerformer_jax.serving.lmdb_store import LmdbStore
from pinnerformer_jax.serving.redis_store import RedisStore
from pinnerformer_jax.serving.store import Store


def open_store(url: str) -> Store:
    """A store by its URL: lmdb:DIR, redis://, rediss:// (TLS) or unix:// (a Redis socket).

    Raises:
        ValueError: no such URL, or the package for it is not installed.
    """
    scheme, _, place = url.partition(":")
    if scheme == "lmdb" and place:
        return LmdbStore(Path(place))
    if scheme in ("redis", "rediss", "unix"):
        return RedisStore(url)
    raise ValueError(
        "--store: write lmdb:DIR, redis://USER:PASSWORD@HOST:PORT/DB, rediss://... or unix://..."
    )
