"""Step 4 of the daily job: users embedded, and merged with the vectors of the state before."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pinnerformer_jax.model.inference import Embedder, embed_users
from pinnerformer_jax.serving import snapshot, state
from pinnerformer_jax.serving.histories import Histories
from pinnerformer_jax.serving.manifest import UserCounts
from pinnerformer_jax.serving.plan import Plan
from pinnerformer_jax.serving.trained_model import TrainedModel


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

    vectors = embed_histories(embedder, histories, model)
    users = snapshot.user_table(
        histories.user_ids,
        histories.newest,
        state.day_end(plan.date),
        vectors.astype(plan.job.dtype),
        histories.count,
        model.version,
    )
    requested = pc.sum(pc.is_in(plan.requested, histories.user_ids)).as_py() or 0
    if plan.same_model:
        before = snapshot.read_parquet(plan.previous_file("users.parquet"))
        users = snapshot.merge_users(before, users, plan.deleted)
    snapshot.write_parquet(users, folder / "users.parquet")
    return UserCounts(
        embedded_users=len(vectors),
        named_without_vector=len(plan.requested) - requested,
        users=len(users),
        tombstones=len(plan.deleted),
    )


def embed_histories(embedder: Embedder, histories: Histories, model: TrainedModel) -> np.ndarray:
    """float32 [U, D]: the vector of each user as of the newest event."""
    users, config = np.arange(len(histories.count)), model.config
    if not len(users):
        return np.zeros((0, config.model.output_dim), np.float32)
    length, batch_size = config.model.max_length, config.embedding.batch_size
    return embed_users(embedder, histories.timelines, users, length, batch_size, histories.count)
