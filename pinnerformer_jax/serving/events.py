"""Step 3 of the daily job: the day's events, merged into the newest events of each user."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pinnerformer_jax.data.contracts import DAY
from pinnerformer_jax.ingestion.ingest import set_up_engine
from pinnerformer_jax.ingestion.log_reader import engine, restrict
from pinnerformer_jax.serving import event_store
from pinnerformer_jax.serving.day_log import load_log
from pinnerformer_jax.serving.event_file import event_files, merged
from pinnerformer_jax.serving.histories import Histories, write_histories
from pinnerformer_jax.serving.manifest import EventCounts, LogCounts, TimelineCounts
from pinnerformer_jax.serving.new_items import ItemSet
from pinnerformer_jax.serving.plan import Plan
from pinnerformer_jax.serving.trained_model import TrainedModel

POPULAR_DAYS = 28
"""Days before the end of the day whose positives make an item popular."""


class DayEvents(NamedTuple):
    """What the later steps need of the events."""

    histories: Histories  # of the users to embed
    popular: np.ndarray  # int32, numbers of the items with positives of late, the item with the most first
    popularity: np.ndarray | None  # float64 [N], decayed counts by item number; None: the score needs none
    timelines: TimelineCounts | None
    log: LogCounts | None
    counts: EventCounts


def write_events(plan: Plan, model: TrainedModel, items: ItemSet, folder: Path, work: Path) -> DayEvents:
    """Write the files of events and, if there is a log, rejects.parquet.

    Users are embedded who have an event among their newest T that the state before did not have, or are in
    --users; all users if the state before is of another model or with --everyone. Users with fewer than
    data.min_user_events events are left out.

    Args:
        plan: of the run.
        model: its prepared timelines, rules and names.
        items: numbers of the items.
        folder: of the state.
        work: folder for temporary files, the timelines of the histories among them.

    Raises:
        ValueError: the log cannot be used, see `day_log.load_log`, or the engine ran out of memory or disk.
    """

    config, length = model.config, model.config.model.max_length
    root, end = plan.job.snapshots, plan.end * 10**6
    data = config.data
    if plan.job.max_reject_share is not None:
        data = dataclasses.replace(data, max_reject_share=plan.job.max_reject_share)
    kept = plan.kept_events
    previous = plan.previous if plan.same_data else None
    from_timelines = previous is None or previous.kept_events != kept
    failed = root / "rejects.parquet"
    with engine(work / "events.duckdb", data.memory_limit, root) as connection:
        set_up_engine(connection, data.memory_limit, work)
        event_store.load_catalogue(connection, model.catalog, items.new["item_id"].combine_chunks())
        stored, timelines = event_store.load_stored(
            connection, plan.base_folder, model.catalog if from_timelines else None, kept, end, work
        )
        restrict(connection, plan.log, [folder, work, plan.base_folder])
        log = load_log(
            connection,
            plan.log,
            data,
            end,
            work / "log",
            folder / "rejects.parquet",
            failed,
            plan.deleted,
        )
        failed.unlink(missing_ok=True)  # of an earlier attempt
        counts = event_store.merge_events(connection, plan.deleted, kept)
        whole = counts.deleted_users > 0
        stored_events = event_store.write_kept(connection, stored, plan.deleted, folder, whole=whole)
        if plan.embeds_all:
            events = merged(event_files(folder))
        else:
            events = event_store.events_to_embed(connection, plan.requested, length)
        histories = write_histories(
            events,
            items.ids,
            model.timelines.manifest,
            min(data.min_user_events, kept),  # the store has no more events of a user
            length,
            work / "timelines",
        )
        since = (plan.end - POPULAR_DAYS * DAY) * 10**6
        priors = model.priors
        life = priors.popularity_half_life_days if priors.popularity_weight else None
        popular, popularity = event_store.popularity(
            connection, data.positives, since, plan.end, life, len(items.features)
        )
        if popularity is not None:
            popularity *= priors.popularity_share
    counts = dataclasses.replace(counts, stored_events=stored_events)
    return DayEvents(histories, popular, popularity, timelines, log, counts)
