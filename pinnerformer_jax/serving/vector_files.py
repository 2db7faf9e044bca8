"""A state's vectors with the priors in them, as files for a vector database.

    users.parquet    user_id, embedding          of users who have a vector
    items.parquet    item_id, title, embedding
    vectors.json     the state, the score in words, how many numbers hold what, and how to search

The inner product of a user's and an item's embedding is the method "vectors" of the evaluation
(`retrieval.prior_vectors`). Cosine gives another order, as the vectors are not of equal length. Both files
are of one call: the directions of the own counts are found anew in each, so that users of one and items of
another do not go together.

Dimensions: U users, N items.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pinnerformer_jax.files import atomic_folder, write_json
from pinnerformer_jax.retrieval.prior_vectors import (
    items_with_priors,
    own_basis,
    users_with_priors,
)
from pinnerformer_jax.serving import snapshot
from pinnerformer_jax.serving.own_items import OwnItems
from pinnerformer_jax.serving.recommender import LoadedState, Recommender

if TYPE_CHECKING:
    import pyarrow as pa
    from scipy.sparse import csr_matrix

ABOUT = "vectors.json"
USERS_AT_ONCE = 1 << 14
"""Users whose vectors memory holds at a time; a row group of the file."""


def write_vectors(snapshots: str | Path, out: str | Path) -> dict[str, Any]:
    """Write the vectors of the state that is served now.

    Args:
        snapshots: folder that python -m pinnerformer_jax.embed publishes to.
        out: folder to write, or to replace.

    Returns:
        What is in vectors.json.

    Raises:
        FileNotFoundError: no state was published.
        ValueError: a file of the state is damaged, or `out` is something else.
    """
    out = Path(out)
    if out.exists() and not (out / ABOUT).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out}: not a folder that vectors wrote, and not empty; name another with --out")
    recommender = Recommender.open(snapshots, keep_events=False)
    state = recommender.refresh()
    users, priors = state.users, state.priors
    assert isinstance(users, snapshot.SnapshotVectors)  # no feature store was named
    own_ids, own = _own_counts(state)
    basis = own_basis(own, priors.vectors_own_dim)
    items = items_with_priors(state.vectors, basis, state.popularity, priors)
    about = {
        "state": state.name,
        "model_version": state.model_version,
        "date": state.manifest.date,
        "score": priors.vectors_formula,
        "search": "by inner product; cosine gives another order",
        "leave_out_what_a_user_had": priors.hide_seen,
        "numbers": {
            "all": items.shape[1],
            "model": state.vectors.shape[1],
            "own_counts": basis.shape[1],
            "popularity": items.shape[1] - state.vectors.shape[1] - basis.shape[1],
        },
        "priors": dataclasses.asdict(priors),
        "items": len(items),
    }
    gone = recommender.deleted_users()
    with atomic_folder(out) as folder:
        table = state.items.select(["item_id", "title"]).append_column("embedding", snapshot.lists(items))
        snapshot.write_parquet(_named(table, state), folder / "items.parquet")
        about["users"] = _write_users(state, users, own_ids, own, basis, gone, folder / "users.parquet")
        write_json(folder / ABOUT, about)
    return about


def _own_counts(state: LoadedState) -> tuple[pa.Array, csr_matrix]:
    """Ids of users with events, and float32 [U, N], log(1 + decayed count) of their items."""
    from scipy.sparse import csr_matrix

    own = OwnItems.read(state.events, state.items["item_id"].combine_chunks(), state.counting)
    shape = len(own.user_ids), len(state.vectors)
    return own.user_ids.cast(state.user_type), csr_matrix(
        (np.log1p(own.counts), own.rows, own.offsets), shape=shape
    )


def _write_users(
    state: LoadedState,
    users: snapshot.SnapshotVectors,
    own_ids: pa.Array,
    own: csr_matrix,
    basis: np.ndarray,
    gone: set[Any],
    file: Path,
) -> int:
    """Write users.parquet, with a progress bar; how many users it has.

    Args:
        state: that is written.
        users: of it.
        own_ids: users of `own`.
        own: see `_own_counts`.
        basis: float32 [N, K].
        gone: ids of users who are left out, as they were deleted after the state was made.
        file: to write.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq
    from tqdm import tqdm

    written, writer = 0, None
    deleted = pa.array(sorted(gone), users.user_ids.type)
    with tqdm(total=len(users.user_ids), desc="writing users", unit="user", leave=False, disable=None) as bar:
        for first in range(0, max(len(users.user_ids), 1), USERS_AT_ONCE):
            ids = users.user_ids.slice(first, USERS_AT_ONCE)
            kept = np.flatnonzero(~pc.is_in(ids, deleted).to_numpy(zero_copy_only=False))
            vectors, mine = users.vectors[first : first + len(ids)][kept], ids.take(pa.array(kept))
            counts = own[pc.index_in(mine, own_ids).to_numpy()]  # who has a vector has events
            joined = users_with_priors(vectors, counts, basis, state.priors)
            table = _named(pa.table({"user_id": mine, "embedding": snapshot.lists(joined)}), state)
            writer = writer or pq.ParquetWriter(file, table.schema, compression="zstd", use_dictionary=False)
            writer.write_table(table)
            written += len(kept)
            bar.update(len(ids))
    assert writer is not None  # the loop runs at least once
    writer.close()
    return written


def _named(table: pa.Table, state: LoadedState) -> pa.Table:
    """The table, which names its state."""
    return table.replace_schema_metadata({"state": state.name, "model_version": state.model_version})
