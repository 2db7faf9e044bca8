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
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pinnerformer_jax.files import atomic_folder, check_replaceable, write_json
from pinnerformer_jax.retrieval.prior_vectors import (
    items_with_priors,
    own_basis,
    users_with_priors,
)
from pinnerformer_jax.retrieval.priors import Priors
from pinnerformer_jax.serving import snapshot
from pinnerformer_jax.serving.event_file import write_sorted
from pinnerformer_jax.serving.own_items import OwnItems
from pinnerformer_jax.serving.recommender import LoadedState, Recommender
from pinnerformer_jax.serving.tombstones import deleted_users

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
    import pyarrow as pa

    out = Path(out)
    check_replaceable(out, ABOUT, "vectors")
    state = Recommender.open(snapshots, keep_events=False).refresh()
    priors = state.priors
    assert isinstance(state.users, snapshot.SnapshotVectors)  # no feature store was named
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
    names = {"state": state.name, "model_version": state.model_version}
    users = pa.table({"user_id": state.users.user_ids, "embedding": snapshot.lists(state.users.vectors)})
    users = snapshot.without(users, deleted_users(Path(snapshots), state.user_type))
    columns = {"user_id": state.user_type, "embedding": pa.list_(pa.float32(), items.shape[1])}
    with atomic_folder(out) as folder:
        table = state.items.select(["item_id", "title"]).append_column("embedding", snapshot.lists(items))
        snapshot.write_parquet(table.replace_schema_metadata(names), folder / "items.parquet")
        schema = pa.schema(columns).with_metadata(names)
        joined = _with_priors(users, own_ids, own, basis, priors)
        about["users"] = write_sorted(joined, schema, folder / "users.parquet", USERS_AT_ONCE, False)
        write_json(folder / ABOUT, about)
    return about


def _own_counts(state: LoadedState) -> tuple[pa.Array, csr_matrix]:
    """Ids of users with events, and float32 [U, N], log(1 + decayed count) of their items."""
    from scipy.sparse import csr_matrix

    own = OwnItems.read(state.events, state.items["item_id"].combine_chunks(), state.counting)
    shape = len(own.user_ids), len(state.vectors)
    counts = csr_matrix((np.log1p(own.counts), own.rows, own.offsets), shape=shape)
    return own.user_ids.cast(state.user_type), counts


def _with_priors(
    users: pa.Table, own_ids: pa.Array, own: csr_matrix, basis: np.ndarray, priors: Priors
) -> Iterator[pa.Table]:
    """The users with the longer vectors, some at a time, with a progress bar.

    Args:
        users: user_id and embedding, of users with events.
        own_ids: users of `own`.
        own: see `_own_counts`.
        basis: float32 [N, K].
        priors: whose weights count.
    """
    import pyarrow.compute as pc
    from tqdm import tqdm

    with tqdm(total=len(users), desc="writing users", unit="user", leave=False, disable=None) as bar:
        for first in range(0, len(users), USERS_AT_ONCE):
            some = users.slice(first, USERS_AT_ONCE)
            counts = own[pc.index_in(some["user_id"], own_ids).to_numpy()]
            vectors = users_with_priors(snapshot.vectors_of(some), counts, basis, priors)
            yield some.set_column(1, "embedding", snapshot.lists(vectors))
            bar.update(len(some))
