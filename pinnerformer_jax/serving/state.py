"""Published states: a folder each, which never changes, and a pointer to the one that is served.

    SNAPSHOTS/
      CURRENT                             path of the served state below SNAPSHOTS
      LOCK                                held by the process that writes
      tombstones/CHECKSUM.parquet         user_id: who was deleted, a file each time; never served again
      model_version=V/ds=DAY/run=INPUTS/  a state, named by its day and the digest of all that it is made of
        manifest.json                     the Manifest below, with the checksum of every file
        users.parquet                     the user snapshot, see snapshot.py
        events.parquet rejects.parquet    the newest events of each user, see event_store.py
        items.parquet popular.npy         item vectors and titles; their rows, most popular first
        new_items.parquet                 what the model reads of items that came after its training, if any
        index/                            ScaNN over them

A state is built aside, synced and renamed, and only then the pointer is replaced: whoever is killed, and
whenever, the pointer names a whole state.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import fcntl
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pinnerformer_jax.files import sha256, sync, write_json, write_text

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 1


@dataclass(frozen=True)
class Manifest:
    """What a state says of itself."""

    date: str  # the day, ISO: what happened up to its end, UTC, is in
    model_version: str  # see daily.model_version
    config: str  # digest of the run's config
    data: str  # digest of the prepared data whose catalogue numbers the items
    base: str | None  # path, below SNAPSHOTS, of the state this one was built on
    inputs: dict[str, str]  # checksums of what else it was built from
    max_length: int  # events kept of each user
    dim: int
    dtype: str  # of the embeddings: float16 or float32
    counts: dict[str, Any]  # users and events, by what became of them
    index: dict[str, Any]  # ScaNN's settings and its recall against exact search; {"error": ...}: no index
    files: dict[str, dict[str, Any]]  # relative path -> {"bytes", "sha256"}


def state_name(model_version: str, date: str, run: str) -> str:
    """Path of a state below SNAPSHOTS."""
    return f"model_version={model_version}/ds={date}/run={run}"


def day_end(date: str) -> datetime.datetime:
    """The first moment after a day, UTC.

    Raises:
        ValueError: not an ISO day.
    """
    try:
        day = datetime.datetime.strptime(date, "%Y-%m-%d").date()
        if day.isoformat() != date:  # days are compared as texts
            raise ValueError
    except ValueError:
        raise ValueError(f"--date {date!r}: write a day such as 2026-11-24") from None
    return datetime.datetime.combine(day, datetime.time(), datetime.UTC) + datetime.timedelta(days=1)


def current(root: Path) -> str | None:
    """Path, below SNAPSHOTS, of the served state; None: nothing was published yet."""
    file = root / "CURRENT"
    return file.read_text(encoding="utf-8").strip() if file.is_file() else None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest of a state, `files` filled in; the last file that is written."""
    files = {
        str(file.relative_to(folder)): {"bytes": file.stat().st_size, "sha256": sha256(file)}
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    values = dataclasses.asdict(dataclasses.replace(manifest, files=files))
    write_json(folder / "manifest.json", {"format": FORMAT, **values})


def read_manifest(root: Path, name: str) -> Manifest:
    """The manifest of a state.

    Raises:
        FileNotFoundError: there is no such state.
        ValueError: it is of another format, or no manifest.
    """
    file = root / name / "manifest.json"
    if not file.is_file():
        raise FileNotFoundError(f"{file}: this state is not there (any more); see --rollback and --keep")
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if values.pop("format") != FORMAT:
            raise ValueError(f"not format {FORMAT}")
        return Manifest(**values)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file}: not the manifest of a state ({error}); {_CURE}") from error


def verify(root: Path, name: str) -> Manifest:
    """The manifest of a state, all of whose files were read and have their checksums.

    Raises:
        FileNotFoundError: there is no such state.
        ValueError: a file is missing, short or altered; names it.
    """
    manifest = read_manifest(root, name)
    for relative, facts in manifest.files.items():
        file = root / name / relative
        if not file.is_file() or file.stat().st_size != facts["bytes"]:
            raise ValueError(f"{file}: missing or not {facts['bytes']} bytes long; {_CURE}")
        if sha256(file) != facts["sha256"]:
            raise ValueError(f"{file}: its checksum is not the manifest's, it was altered; {_CURE}")
    return manifest


def is_whole(root: Path, name: str) -> bool:
    """Whether a state is there, undamaged."""
    try:
        verify(root, name)
    except (FileNotFoundError, ValueError):
        return False
    return True


_CURE = "roll back (python -m pinnerformer_jax.embed --snapshots DIR --rollback [STATE]), run the day again"


@contextlib.contextmanager
def writing(root: Path) -> Iterator[None]:
    """Be the only one that writes; what killed runs left half-built is removed.

    Raises:
        ValueError: another process is writing.
    """
    root.mkdir(parents=True, exist_ok=True)
    with open(root / "LOCK", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{root}: another run is writing here; wait until it has ended") from None
        for left in root.glob("model_version=*/ds=*/.run=*"):
            shutil.rmtree(left)
        for left in root.glob(".CURRENT.*"):
            left.unlink()
        yield


def publish(root: Path, name: str) -> None:
    """Serve a state from now on."""
    for folder in list((root / name).parents)[:3]:  # ds=, model_version=, SNAPSHOTS
        sync(folder)
    write_text(root / "CURRENT", f"{name}\n")


def base_for(root: Path, date: str, *, again: bool) -> str | None:
    """The state that a run for this day is built on; None: there is none before it.

    Args:
        root: where states are published.
        date: the day.
        again: leave out the states of that very day, so that its log replaces what was made of one before;
            else on what is served.

    Raises:
        FileNotFoundError: the state to build on was removed.
        ValueError: a later day is served.
    """
    name = current(root)
    if name is not None and read_manifest(root, name).date > date:
        raise ValueError(
            f"--date {date}: {name} of a later day is served; roll back first "
            "(python -m pinnerformer_jax.embed --snapshots DIR --rollback), or name a later day"
        )
    while again and name is not None and (manifest := read_manifest(root, name)).date == date:
        name = manifest.base
    return name


def rollback(root: Path, to: str | None = None) -> tuple[str, str]:
    """Serve an earlier state: users, items and index.

    Args:
        root: where states are published.
        to: its path below `root`; None: the one that the served state was built on.

    Returns:
        The names of the state that was served and of the one that is.

    Raises:
        FileNotFoundError: nothing is served, or the state before was removed.
        ValueError: there is no state before, `to` is no state's path, or a file of it is damaged.
    """
    with writing(root):
        name = current(root)
        if name is None:
            raise FileNotFoundError(f"{root / 'CURRENT'}: nothing was published here")
        to = _named(root, to) if to else read_manifest(root, name).base
        if to is None:
            raise ValueError(f"{root / name}: built on no other state; there is nothing to roll back to")
        verify(root, to)
        publish(root, to)
    return name, to


def _named(root: Path, text: str) -> str:
    """A state's path below SNAPSHOTS as it is written everywhere, of how somebody typed it: from elsewhere
    too, or with a slash at the end."""
    name = Path(*Path(text).parts[-3:])
    if not name.match("model_version=*/ds=*/run=*"):
        raise ValueError(f"--rollback {text}: write model_version=.../ds=.../run=..., a folder below {root}")
    return str(name)


def bury(root: Path, user_ids: pa.Array) -> None:
    """Note users as deleted: from here on nobody serves them, whatever state is current."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"user_id": user_ids}).sort_by("user_id")
    folder = root / "tombstones"
    folder.mkdir(exist_ok=True)
    file = folder / "new.parquet"  # left by who is killed, overwritten by the next
    pq.write_table(table, file)
    sync(file)
    file.rename(folder / f"{sha256(file)[:16]}.parquet")
    sync(folder)


def tombstones(root: Path) -> list[Path]:
    """The files of deleted users, by name, which is the beginning of their checksum."""
    return [file for file in sorted((root / "tombstones").glob("*.parquet")) if file.stem != "new"]


def deleted(root: Path, user_type: pa.DataType) -> pa.Array:
    """Ids of all users who were ever deleted.

    Raises:
        ValueError: a file is damaged, or its ids are of another type.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    parts = [pa.array([], user_type)]
    for file in tombstones(root):
        if not sha256(file).startswith(file.stem):
            raise ValueError(f"{file}: its checksum is not its name, it was altered; delete the users again")
        ids = pq.read_table(file)["user_id"].combine_chunks()
        if ids.type != user_type:
            raise ValueError(f"{file}: user ids of type {ids.type}, in the data they are {user_type}")
        parts.append(ids)
    return pa.concat_arrays(parts)


def prune(root: Path, keep: int) -> None:
    """Remove all states but the served one and those it was built on, `keep` in all."""
    kept: list[str] = []
    name = current(root)
    while name is not None and len(kept) < keep and (root / name / "manifest.json").is_file():
        kept.append(name)
        try:
            name = read_manifest(root, name).base
        except ValueError:  # damaged: nobody knows what it was built on, so all stay until it is out of reach
            return
    for folder in root.glob("model_version=*/ds=*/run=*"):
        if str(folder.relative_to(root)) not in kept:
            shutil.rmtree(folder)
    for folder in [*root.glob("model_version=*/ds=*"), *root.glob("model_version=*")]:
        if not any(folder.iterdir()):
            folder.rmdir()
