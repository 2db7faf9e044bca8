"""Step 6 of the daily job: the ScaNN index over the item vectors."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np

from pinnerformer_jax.config import IndexConfig
from pinnerformer_jax.files import link_or_copy
from pinnerformer_jax.retrieval import exact
from pinnerformer_jax.retrieval.scann_index import ScannIndex, check_saved, recall, version_of
from pinnerformer_jax.serving import snapshot
from pinnerformer_jax.serving.manifest import IndexReport

RECALL_USERS, RECALL_K = 1024, 10
"""The index is compared with exact search on so many users and nearest items."""


def write_index(
    before: Path | None, report: IndexReport | None, config: IndexConfig, folder: Path
) -> IndexReport:
    """Write index/ over the vectors of items.parquet, and compare it with exact search on users of
    users.parquet. Without ScaNN nothing is built, and the report says why.

    ScaNN does not build the same partitions twice, so that the index of the same vectors is linked. It is not
    loaded if its recall is known.

    Args:
        before: folder of a state whose items.parquet is the same; None: the index is built.
        report: on the index of that state; if it has a recall, that stays.
        config: settings of the index.
        folder: of the state.

    Raises:
        ValueError: there is no item, or the index to link is of another model version.
    """
    linked = before is not None and (before / "index").is_dir()
    version = snapshot.version_in(folder / "items.parquet")
    if linked:
        snapshot.check_same_version({"items.parquet": version, "index": version_of(before / "index")})
        shutil.copytree(before / "index", folder / "index", copy_function=link_or_copy)
        if report is not None and report.recall is not None:
            check_saved(folder / "index")
            return report
    vectors = snapshot.vectors_of(snapshot.read_parquet(folder / "items.parquet", ["embedding"]))
    if len(vectors) == 0:
        raise ValueError("no item of the catalogue has a vector")
    queries = snapshot.sample_vectors(folder / "users.parquet", RECALL_USERS).astype(np.float32)
    try:
        if linked:
            index = ScannIndex.load(folder / "index", vectors)
        else:
            index = ScannIndex.build(vectors, config, queries[::4])
            index.save(folder / "index", version)
    except ImportError as error:
        shutil.rmtree(folder / "index", ignore_errors=True)
        return IndexReport(error=str(error))
    settings = asdict(index.settings)
    if not len(queries):
        return IndexReport(**settings)
    k = min(RECALL_K, len(vectors))
    found = recall(index.search(queries, k)[1], exact.search(queries, vectors, k)[1], len(vectors))
    return IndexReport(**settings, k=k, queries=len(queries), recall=found)
