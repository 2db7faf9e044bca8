"""manifest.json of a state: what the state was made of, what the run counted, the checksum of every file."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pinnerformer_jax.config import PositiveRule
from pinnerformer_jax.files import Facts, check_files, facts_of, read_checked_json, write_checked_json
from pinnerformer_jax.retrieval.priors import Priors

FORMAT = 2
READABLE = (1, 2)
"""Formats of states that can be read; 1: all events are in events.parquet."""

CURE = "roll back (python -m pinnerformer_jax.embed --snapshots DIR --rollback [STATE]), run the day again"


@dataclass(frozen=True)
class LogCounts:
    """Rows of the day's log. `rows` is the sum of the others, those in `rejected` among them."""

    rows: int = 0
    out_of_scope: int = 0  # data.where left them out
    rejected: dict[str, int] = field(default_factory=dict)  # by reason
    other_actions: int = 0  # not in data.sequence_actions
    after_day: int = 0
    arrived: int = 0  # went on to be merged


@dataclass(frozen=True)
class TimelineCounts:
    """Events of the prepared timelines that the state does not take."""

    without_item: int = 0  # the catalogue does not have their item (any more)
    timelines_after_day: int = 0


@dataclass(frozen=True)
class EventCounts:
    """The merge of the events that arrived with those that were stored."""

    deleted_users: int = 0  # deleted users who had stored events
    of_deleted_users: int = 0  # events that arrived of deleted users
    known_already: int = 0  # events that arrived and were stored already
    new_events: int = 0
    stored_events: int = 0  # of the state


@dataclass(frozen=True)
class UserCounts:
    """Users of the snapshot."""

    embedded_users: int = 0  # by this run
    named_without_vector: int = 0  # ids in --users that are unknown, deleted or have too few events
    users: int = 0  # in users.parquet
    tombstones: int = 0  # users who were ever deleted


@dataclass(frozen=True)
class ItemCounts:
    """Items that came after the training of the model."""

    new_items: int = 0  # with this run
    items_after_training: int = 0  # in all


@dataclass(frozen=True)
class Counts:
    """What a run counted, a part for each step."""

    timelines: TimelineCounts | None = None  # None: the state before had all that the timelines have
    log: LogCounts | None = None  # None: there was no log
    events: EventCounts = EventCounts()
    users: UserCounts = UserCounts()
    items: ItemCounts = ItemCounts()

    def to_json(self) -> dict[str, Any]:
        """The counts of all parts in one flat object, as manifest.json has them."""
        parts = [getattr(self, part.name) for part in dataclasses.fields(self)]
        return {name: n for part in parts if part is not None for name, n in dataclasses.asdict(part).items()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Counts:
        """The inverse of `to_json`. A part that may be None is None if the object has none of its counts;
        any other count that is missing is 0."""
        values = {**values}  # TypeError if it is no object
        log, timelines = (_part(kind, values) for kind in (LogCounts, TimelineCounts))
        events, users, items = (_part(kind, values) for kind in (EventCounts, UserCounts, ItemCounts))
        return cls(timelines, log, events or EventCounts(), users or UserCounts(), items or ItemCounts())


@dataclass(frozen=True)
class IndexReport:
    """ScaNN's settings and its recall against exact search; or why there is no index."""

    leaves: int | None = None  # these four and `parts`: see scann_index.Settings
    leaves_searched: int | None = None
    reorder: int | None = None
    soar: bool | None = None
    k: int | None = None  # these three: None if the state has no users
    queries: int | None = None
    recall: float | None = None
    error: str | None = None  # None: there is an index
    parts: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields that are not None."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Manifest:
    """What a state says of itself."""

    date: str  # ISO day; the state knows the events up to the end of this day, UTC
    model_version: str  # see trained_model.model_version
    config: str  # digest of the run's config
    data: str  # digest of the prepared data whose catalogue numbers the items
    base: str | None  # path, below SNAPSHOTS, of the state that this one was built on
    inputs: dict[str, str]  # checksums of the other inputs
    max_length: int  # T
    dim: int  # D
    dtype: str  # of the user vectors: float16 or float32
    kept_events: int = 0  # newest events of each user in the state; T in manifests that do not say
    priors: Priors = field(default_factory=Priors)  # of the served score
    positives: tuple[PositiveRule, ...] = ()  # the events that the user's own counts count
    counts: Counts = Counts()
    index: IndexReport = IndexReport()
    files: Facts = field(default_factory=dict)  # `write_manifest` fills it in


def write_manifest(folder: Path, manifest: Manifest, known: Facts | None = None) -> None:
    """Write manifest.json, with size and checksum of each file that is in the folder; the last file to write.

    Args:
        folder: of the state.
        manifest: its `files` are replaced.
        known: facts of files that are those of a verified state.
    """
    values = {item.name: getattr(manifest, item.name) for item in dataclasses.fields(manifest)}
    values["counts"], values["index"] = manifest.counts.to_json(), manifest.index.to_json()
    values["priors"] = dataclasses.asdict(manifest.priors)
    values["positives"] = [dataclasses.asdict(rule) for rule in manifest.positives]
    values["files"] = facts_of(folder, known=known)
    write_checked_json(folder / "manifest.json", {"format": FORMAT, **values})


def read_manifest(root: Path, name: str) -> Manifest:
    """The manifest of a state, of this version of the package or an earlier one.

    Args:
        root: SNAPSHOTS.
        name: path of the state below it.

    Raises:
        FileNotFoundError: there is no such state.
        ValueError: the file is of another format, or no manifest.
    """
    file = root / name / "manifest.json"
    if not file.is_file():
        raise FileNotFoundError(f"{file}: this state is not there (any more); see --rollback and --keep")
    values = read_checked_json(file, "the manifest of a state", CURE)
    try:
        if values.pop("format") not in READABLE:
            raise ValueError(f"not of a format in {READABLE}")
        counts, index = Counts.from_json(values.pop("counts")), IndexReport(**values.pop("index"))
        values["kept_events"] = values.get("kept_events") or values["max_length"]
        values["priors"] = Priors(**values.get("priors", {}))
        values["positives"] = tuple(PositiveRule(**rule) for rule in values.get("positives", ()))
        return Manifest(**values, counts=counts, index=index)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file}: not the manifest of a state ({error}); {CURE}") from error


def verify_state(root: Path, name: str) -> Manifest:
    """The manifest of a state, after every file was read and has its checksum.

    Raises:
        FileNotFoundError: there is no such state.
        ValueError: a file is missing, short or altered; the message names it.
    """
    manifest = read_manifest(root, name)
    check_files(root / name, manifest.files, CURE)
    return manifest


def is_whole(root: Path, name: str) -> bool:
    """Whether a state is there, undamaged."""
    try:
        verify_state(root, name)
    except (FileNotFoundError, ValueError):
        return False
    return True


def _part(kind: Any, values: dict[str, Any]) -> Any:
    found = {part.name: values[part.name] for part in dataclasses.fields(kind) if part.name in values}
    return kind(**found) if found else None
