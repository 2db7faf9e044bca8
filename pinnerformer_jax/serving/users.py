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
from pinnerformer_jax.serving.user_parts import part_file, read_part, write_part

if TYPE_CHECKING:
    import pyarrow as pa


def write_users(
    plan: Plan, model: TrainedModel, embedder: Embedder, histories: Histories, folder: Path
) -> UserCounts:
    """Write users.parquet: a new vector for each history, also those of user_parts.py, and the vectors before
    of all others.

    Args:
        plan: of the run.
        model: whose version and settings the vectors have.
        embedder: of the model, with the features of all items.
        histories: of the users to embed.
        folder: of the state.

    Raises:
        ValueError: the vectors before are of another model version, or a part is damaged.
    """
    import pyarrow.compute as pc

    embedded = len(histories.user_ids)
    schema = snapshot.user_schema(
        histories.user_ids.type, model.config.model.output_dim, plan.job.dtype, model.version
    )
    tables = _embedded(plan, model, embedder, histories, schema)
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


def write_user_parts(
    plan: Plan, model: TrainedModel, embedder: Embedder, histories: Histories, part: tuple[int, int]
) -> Iterator[str]:
    """Embed every N-th group of the users into files of their own, see user_parts.py.

    Args:
        plan: of the run.
        model: as for `write_users`.
        embedder: likewise.
        histories: likewise.
        part: (i, N): the groups from the i-th, from 0 on.

    Returns:
        What was done, in lines to show.

    Raises:
        ValueError: a file that was read has changed meanwhile.
    """
    groups = _groups(histories)
    chosen = range(part[0], groups, part[1])
    for number in chosen:
        file = part_file(plan.job.snapshots, plan.name, number)
        if file.is_file():
            yield f"group {number} of {groups}: made before"
            continue
        table = _embed_group(plan, model, embedder, histories, number)
        model.timelines.check()
        plan.read.check()
        write_part(table, file)
        yield f"group {number} of {groups}: {len(table):,} users"
    if not chosen:
        yield f"nothing to do: the users are {groups} groups of {snapshot.GROUP:,}"


def _groups(histories: Histories) -> int:
    """How many times `snapshot.GROUP` users are embedded."""
    return -(-len(histories.user_ids) // snapshot.GROUP)


def _embedded(
    plan: Plan, model: TrainedModel, embedder: Embedder, histories: Histories, schema: pa.Schema
) -> Iterator[pa.Table]:
    """Rows of the users to embed, a group at a time; those of groups that were embedded before from there."""
    for number in range(_groups(histories)):
        users = histories.user_ids[_of_group(number)]
        table = read_part(part_file(plan.job.snapshots, plan.name, number), users, schema)
        yield _embed_group(plan, model, embedder, histories, number) if table is None else table


def _of_group(number: int) -> slice:
    return slice(number * snapshot.GROUP, (number + 1) * snapshot.GROUP)


def _embed_group(
    plan: Plan, model: TrainedModel, embedder: Embedder, histories: Histories, number: int
) -> pa.Table:
    part = _of_group(number)
    users = np.arange(len(histories.user_ids))[part]
    return snapshot.user_table(
        histories.user_ids[part],
        histories.newest[part],
        state.day_end(plan.date),
        embed_histories(embedder, histories, model, users).astype(plan.job.dtype),
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
