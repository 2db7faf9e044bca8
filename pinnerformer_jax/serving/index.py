"""Step 6 of the daily job: the ScaNN index over the item vectors."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pinnerformer_jax.config import IndexConfig
from pinnerformer_jax.retrieval import exact
from pinnerformer_jax.retrieval.scann_index import ScannIndex, recall, version_of
from pinnerformer_jax.serving import snapshot
from pinnerformer_jax.serving.manifest import IndexReport

if TYPE_CHECKING:
    import pyarrow as pa

RECALL_USERS, RECALL_K = 1024, 10
"""The index is compared with exact search on so many users and nearest items."""


def write_index(before: Path | None, config: IndexConfig, folder: Path) -> IndexReport:
    """Write index/ over the vectors of items.parquet, and compare it with exact search on users of
    users.parquet. Without ScaNN nothing is written, and the report says why.

    ScaNN does not build the same partitions twice, so that the index of the same vectors is copied.

    Args:
        before: folder of a state whose items.parquet is the same; None: the index is built.
        config: settings of the index.
        folder: of the state.

    Raises:
        ValueError: there is no item, or the index to copy is of another model version.
    """
    items = snapshot.read_parquet(folder / "items.parquet", ["embedding"])
    vectors, version = snapshot.vectors_of(items), snapshot.version_of(items)
    if len(vectors) == 0:
        raise ValueError("no item of the catalogue has a vector")
    try:
        if before is not None and (before / "index").is_dir():
            snapshot.check_same_version({"items.parquet": version, "index": version_of(before / "index")})
            shutil.copytree(before / "index", folder / "index", copy_function=shutil.copy)
            index = ScannIndex.load(folder / "index", vectors)
        else:
            index = ScannIndex.build(vectors, config)
            index.save(folder / "index", version)
    except ImportError as error:
        shutil.rmtree(folder / "index", ignore_errors=True)
        return IndexReport(error=str(error))
    return _compare(index, vectors, snapshot.read_parquet(folder / "users.parquet", ["embedding"]))


def _compare(index: ScannIndex, vectors: np.ndarray, users: pa.Table) -> IndexReport:
    settings = asdict(index.settings)
    if not len(users):
        return IndexReport(**settings)
    rows = np.unique(np.linspace(0, len(users) - 1, RECALL_USERS).astype(np.int64))
    queries = snapshot.vectors_of(users)[rows].astype(np.float32)
    k = min(RECALL_K, len(vectors))
    found = recall(index.search(queries, k)[1], exact.search(queries, vectors, k)[1], len(vectors))
    return IndexReport(**settings, k=k, queries=len(queries), recall=found)
