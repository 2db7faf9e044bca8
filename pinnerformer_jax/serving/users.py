"""Step 4 of the daily job: users embedded, and merged with the vectors of the state before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pinnerformer_jax.model.inference import Embedder, embed_users
from pinnerformer_jax.serving import snapshot, state
from pinnerformer_jax.serving.event_file import merged, overlay
from pinnerformer_jax.serving.histories import Histories
from pinnerformer_jax.serving.manifest import UserCounts
from pinnerformer_jax.serving.plan import Plan
from pinnerformer_jax.serving.trained_model import TrainedModel

if TYPE_CHECKING:
    import pyarrow as pa


def write_users(
    plan: Plan, model: TrainedModel, embedder: Embedder, histories: Histories, folder: Path
) -> UserCounts:
    """Write users.parquet: a new vector for each history, the vectors before of all others.

    Args:
        plan: of the run.
        model: whose version and settings the vectors have.
        embedder: of the model, with the features of all items.
        histories: of the users to embed.
        folder: of the state.

    Raises:
        ValueError: the vectors before are of another model version.
    """
    import pyarrow.compute as pc

    embedded = len(histories.user_ids)
    schema = snapshot.user_schema(
        histories.user_ids.type, model.config.model.output_dim, plan.job.dtype, model.version
    )
    tables = _embedded(plan, model, embedder, histories)
    if plan.same_model:
        before = plan.previous_file("users.parquet")
        snapshot.check_same_version(
            {"the earlier snapshot": snapshot.version_in(before), "the new one": model.version}
        )
        tables = overlay(merged([before]), tables, schema, plan.deleted)
    users = snapshot.write_users(tables, schema, folder / "users.parquet")
    requested = pc.sum(pc.is_in(plan.requested, histories.user_ids)).as_py() or 0
    return UserCounts(
        embedded_users=embedded,
        named_without_vector=len(plan.requested) - requested,
        users=users,
        tombstones=len(plan.deleted),
    )


def _embedded(
    plan: Plan, model: TrainedModel, embedder: Embedder, histories: Histories
) -> Iterator[pa.Table]:
    """Rows of the users to embed, a part of the users at a time."""
    created, users = state.day_end(plan.date), np.arange(len(histories.user_ids))
    for start in range(0, len(users), snapshot.GROUP):
        part = slice(start, start + snapshot.GROUP)
        yield snapshot.user_table(
            histories.user_ids[part],
            histories.newest[part],
            created,
            embed_histories(embedder, histories, model, users[part]).astype(plan.job.dtype),
            histories.count[part],
            model.version,
        )


def embed_histories(
    embedder: Embedder, histories: Histories, model: TrainedModel, users: np.ndarray
) -> np.ndarray:
    """float32 [U, D]: the vectors of users, int [U], as of the newest event."""
    config = model.config
    length, batch_size = config.model.max_length, config.embedding.batch_size
    counts = histories.count[users]
    return embed_users(embedder, histories.timelines, users, length, batch_size, counts)
