"""Step 1 of the daily job: from what the user asked for to what the state is made of.

All that can be refused without work is refused here, before a user is deleted or a file of the state is
written.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pinnerformer_jax.files import Facts, Unchanged, sha256
from pinnerformer_jax.ingestion.log_reader import log_files
from pinnerformer_jax.remote_files import File, find
from pinnerformer_jax.serving import state
from pinnerformer_jax.serving.event_file import event_files
from pinnerformer_jax.serving.manifest import FORMAT, Manifest, read_manifest, verify_state
from pinnerformer_jax.serving.tombstones import add_tombstones, deleted_users, tombstone_files
from pinnerformer_jax.serving.trained_model import TrainedModel
from pinnerformer_jax.serving.user_lists import names, read_list

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Job:
    """What to run."""

    workdir: Path  # of the trained run
    snapshots: Path  # SNAPSHOTS, where states are published
    date: str | None = None  # ISO; None: today (UTC) with events, else the served state's day
    events: tuple[str, ...] = ()  # the day's log: files, globs or URLs
    items: Path | str | None = None  # that came after the training: a table, its URL, a prepared folder
    users: Path | None = None  # ids, one a line, of users to embed whether they are active or not
    everyone: bool = False  # embed all users
    tombstones: Path | None = None  # ids, one a line, of users to delete for good
    strict: bool = False  # an unknown user in `tombstones` is an error
    checkpoint: Literal["best", "last"] = "best"
    dtype: Literal["float16", "float32"] = "float16"  # of the user vectors
    max_reject_share: float | None = None  # of the log; None: the run's
    keep: int = 7  # states that stay, the served one among them
    prepared: Path | None = None  # where the run's prepared folder is now; None: where the run found it
    store: str | None = None  # URL of a feature store, which gets the user vectors after publishing

    def __post_init__(self) -> None:
        if self.keep < 2:
            raise ValueError(f"--keep {self.keep}: at least 2, the served state and the one it was built on")


@dataclass(frozen=True)
class Plan:
    """What a run makes its state from; read only."""

    job: Job
    name: str  # path of the new state below SNAPSHOTS
    date: str  # ISO day
    base: str | None  # path of the state it is built on
    previous: Manifest | None  # of that state, whose files were verified
    log: list[File]
    read: Unchanged  # files that were given, and must stay until the state is published
    deleted: pa.Array  # ids of all deleted users
    unknown: list[str]  # of the ids in --tombstones, those that no data have
    requested: pa.Array  # ids in --users
    inputs: dict[str, str]  # checksums
    same_data: bool  # the base was made with this run's prepared data
    kept_events: int  # newest events of each user that the state keeps
    same_model: bool  # the base's vectors are of this model and dtype, so that they can be carried over

    @property
    def base_folder(self) -> Path | None:
        """Folder of the base."""
        return self.job.snapshots / self.base if self.base else None

    def previous_file(self, name: str) -> Path:
        """A file of the base.

        Raises:
            ValueError: the state is built on no other.
        """
        if self.base_folder is None:
            raise ValueError(f"{self.name} is built on no other state, so there is no earlier {name}")
        return self.base_folder / name

    def linked(self, folder: Path) -> Facts:
        """Facts of the files of a folder that are files of the base under a second name."""
        if self.previous is None or self.base_folder is None:
            return {}
        return {
            name: facts
            for name, facts in self.previous.files.items()
            if (folder / name).is_file() and (folder / name).samefile(self.base_folder / name)
        }

    @property
    def embeds_all(self) -> bool:
        """Whether all users are embedded, not only those with new events."""
        return self.job.everyone or not self.same_model

    @property
    def end(self) -> int:
        """The first second after the day, since 1970."""
        return int(state.day_end(self.date).timestamp())


def make_plan(job: Job, model: TrainedModel) -> Plan:
    """Decide the day and the base, verify the base, read the lists of users, record deletions.

    Args:
        job: what to run.
        model: the trained run; `Plan` says how it is related to the base.

    Raises:
        FileNotFoundError: a file of the job is not there, or the state to build on was removed.
        ValueError: an input is wrong, or a file of the base is damaged.
    """
    import pyarrow as pa

    root = job.snapshots
    user_type = model.timelines.shards[0].user_ids.type
    date = date_of(job)
    base = state.base_for(root, date, again=bool(job.events))
    if any(pattern.startswith("tfds:") for pattern in job.events):
        raise ValueError(f"--events {' '.join(job.events)}: a day's log is files, not a TFDS data set")
    log = log_files("--events", job.events, root) if job.events else []
    read = Unchanged()
    read.watch(*log, *(file for file in (job.users, job.tombstones) if file))
    inputs = {f"events {number}": sha256(file) for number, file in enumerate(log)}
    if job.items:
        file = _file_of_items(job.items)
        read.watch(file)
        inputs["items"] = sha256(file)
    deleted = deleted_users(root, user_type)
    known = [shard.path / "users.parquet" for shard in model.timelines.shards]
    known += event_files(root / base) if base else []
    requested = pa.array([], user_type)
    if job.users:
        requested = read_list(job.users, user_type, known, deleted).ids
        inputs["users"] = sha256(job.users)
    inputs |= {"everyone": "yes"} if job.everyone else {}
    unknown: list[str] = []
    if job.tombstones:
        listed, unknown = read_list(job.tombstones, user_type, known, deleted)
        if unknown and job.strict:
            raise ValueError(
                f"--tombstones {job.tombstones}: of {len(listed):,} users {len(unknown):,} are in no data: "
                f"{names(unknown)}; nothing was deleted"
            )
        add_tombstones(root, listed)
    inputs |= {f"tombstones {file.stem}": file.stem for file in tombstone_files(root)}
    if model.priors.used:
        inputs["priors"] = json.dumps(dataclasses.asdict(model.priors))
    previous = verify_state(root, base) if base else None
    facts = [FORMAT, base, date, model.version, job.dtype, inputs]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
    return Plan(
        job=job,
        name=state.state_name(model.version, date, digest),
        date=date,
        base=base,
        previous=previous,
        log=log,
        read=read,
        deleted=deleted_users(root, user_type),
        unknown=unknown,
        requested=requested,
        inputs=inputs,
        kept_events=model.kept_events,
        same_data=previous is not None and previous.data == model.data,
        same_model=previous is not None
        and (previous.model_version, previous.dtype) == (model.version, job.dtype),
    )


def date_of(job: Job) -> str:
    """The day of the job, checked: ISO."""
    served = state.current(job.snapshots)
    if job.date is not None or job.events or served is None:
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        date = today if job.date is None else job.date
    else:
        date = read_manifest(job.snapshots, served).date
    state.day_end(date)
    return date


def _file_of_items(source: Path | str) -> File:
    """An item table, or a prepared folder's manifest, which has the checksums of its files."""
    if isinstance(source, str):
        files = find(f"--items {source}", source)
        if len(files) != 1:
            raise FileNotFoundError(f"--items {source}: {len(files)} files: name an item table")
        return files[0]
    file = source / "manifest.json" if source.is_dir() else source
    if not file.is_file():
        raise FileNotFoundError(f"--items {source}: neither an item table nor a prepared folder")
    return file
