"""The daily job: the day's events in, vectors of the active users out, all other vectors carried over.

The paper's claim is that such a batch job can take the place of a real-time pipeline. One run makes one state
(state.py): users, items, index and popular items are published together. Each step is a module of its own
and writes its files into the state's folder; it returns its counts, and what a later step needs beside the
files.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from pinnerformer_jax.config_files import digest
from pinnerformer_jax.files import atomic_folder
from pinnerformer_jax.serving import state, store
from pinnerformer_jax.serving.events import POPULAR_DAYS, write_events
from pinnerformer_jax.serving.index import write_index
from pinnerformer_jax.serving.items import write_items, write_popular, write_popularity
from pinnerformer_jax.serving.manifest import Counts, ItemCounts, Manifest, is_whole, write_manifest
from pinnerformer_jax.serving.new_items import write_new_items
from pinnerformer_jax.serving.plan import Job, Plan, make_plan
from pinnerformer_jax.serving.stores import open_store
from pinnerformer_jax.serving.summary import summary
from pinnerformer_jax.serving.trained_model import TrainedModel
from pinnerformer_jax.serving.user_lists import names
from pinnerformer_jax.serving.user_parts import parts_folder, remove_parts
from pinnerformer_jax.serving.users import write_user_parts, write_users


def run(job: Job, report: Callable[[str], None] = print) -> str:
    """Make a state and publish it.

    Args:
        job: what to run.
        report: gets what was done, line by line.

    Returns:
        Path of the state below job.snapshots.

    Raises:
        FileNotFoundError: no run, no log, no state to build on.
        OSError: the disk is full; nothing was published, and the unfinished state is removed. Or the feature
            store failed: before anything was done, or after the state was published, which the message says.
        ValueError: an input is wrong, a file of the state to build on is damaged, or another run is
            writing.
    """
    feature_store = open_store(job.store) if job.store else None
    model = TrainedModel.load(job.workdir, job.checkpoint, job.prepared)
    with state.write_lock(job.snapshots):
        plan = make_plan(job, model)
        if plan.unknown:
            report(
                f"WARNING: users to delete who are in no data: {len(plan.unknown):,}: {names(plan.unknown)}"
            )
        if feature_store:
            feature_store.delete([store.key(user_id) for user_id in plan.deleted.to_pylist()])
        if is_whole(job.snapshots, plan.name):
            report(f"{plan.name}: made before, of the same inputs")
        else:
            with atomic_folder(job.snapshots / plan.name) as folder:
                for line in build_state(plan, model, folder):
                    report(line)
                model.timelines.check()
                plan.read.check()
        state.publish_state(job.snapshots, plan.name)
        remove_parts(job.snapshots, plan.name)
        if feature_store:
            report(store.publish_users(feature_store, job.snapshots, plan.name))
        state.prune(job.snapshots, job.keep)
    return plan.name


class ActiveUsersOnly(ValueError):
    """The job embeds only the users with new events, not in parts."""


def run_part(job: Job, part: tuple[int, int]) -> Iterator[str]:
    """Embed a share of all users for a state, which `run` of the same job makes then: see user_parts.py.

    Args:
        job: what to run; nothing is published.
        part: (i, N): the i-th, from 0 on, of N shares.

    Returns:
        What was done, in lines to show.

    Raises:
        FileNotFoundError: as for `run`.
        OSError: the disk is full.
        ValueError: as for `run`; or ActiveUsersOnly.
    """
    model = TrainedModel.load(job.workdir, job.checkpoint, job.prepared)
    plan = make_plan(job, model)
    if is_whole(job.snapshots, plan.name):
        yield f"{plan.name}: made before, of the same inputs"
        return
    if not plan.embeds_all:
        raise ActiveUsersOnly(
            "--part: only the users with new events are embedded, for which one run is enough; parts are for "
            "the first state of a model and for --everyone"
        )
    job.snapshots.mkdir(parents=True, exist_ok=True)  # a log with too many rejects leaves them there
    place = parts_folder(job.snapshots, plan.name)
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place, prefix=".") as name:
        folder, work = Path(name), Path(name) / "work"
        work.mkdir()
        items = write_new_items(plan, model, folder)
        events = write_events(plan, model, items, folder, work)
        embedder = model.embedder(items.features)
        yield from write_user_parts(plan, model, embedder, events.histories, part)


def build_state(plan: Plan, model: TrainedModel, folder: Path) -> Iterable[str]:
    """Write the files of a state.

    Args:
        plan: what it is made of.
        model: the trained run.
        folder: empty.

    Returns:
        What was done, in lines to show.
    """
    work = folder / "work"  # for temporary files, on the disk of the state
    work.mkdir()
    items = write_new_items(plan, model, folder)
    events = write_events(plan, model, items, folder, work)
    embedder = model.embedder(items.features)
    users = write_users(plan, model, embedder, events.histories, folder)
    write_items(plan, model.version, embedder, items, folder)
    write_popular(events.popular, items, folder)
    if events.popularity is not None:
        write_popularity(events.popularity, items, folder)
    before, report = None, None
    if plan.previous is not None and plan.same_model and items.added == 0:
        before, report = plan.base_folder, plan.previous.index
    index = write_index(before, report, model.config.index, folder)
    shutil.rmtree(work)
    item_counts = ItemCounts(new_items=items.added, items_after_training=len(items.new))
    counts = Counts(events.timelines, events.log, events.counts, users, item_counts)
    write_manifest(
        folder,
        Manifest(
            date=plan.date,
            model_version=model.version,
            config=digest(model.config),
            data=model.data,
            base=plan.base,
            inputs=plan.inputs,
            max_length=model.config.model.max_length,
            kept_events=plan.kept_events,
            priors=model.priors,
            positives=model.config.data.positives,
            dim=model.config.model.output_dim,
            dtype=plan.job.dtype,
            counts=counts,
            index=index,
        ),
        plan.linked(folder),
    )
    lines = [f"score: {model.priors_note}", *summary(counts, index)]
    if not len(events.popular):
        lines.append(
            f"no positive event in the {POPULAR_DAYS} days up to {plan.date}: what is popular is unknown, "
            "and the counts of the score have decayed; if the log ended earlier, name its last day (--date)"
        )
    return lines
