"""Published states: each is a folder that never changes, and a pointer names the one that is served.

    SNAPSHOTS/
      CURRENT                             path of the served state below SNAPSHOTS
      LOCK                                held by the process that writes
      tombstones/CHECKSUM.parquet         deleted users, see tombstones.py
      model_version=V/ds=DAY/run=INPUTS/  a state, named by its day and the digest of all that it is made of
        manifest.json                     what the state says of itself, see manifest.py
        users.parquet                     user vectors, see snapshot.py
        events*.parquet                   the newest events of each user, see event_store.py, event_file.py
        rejects.parquet                   rows of the day's log that were set aside
        items.parquet popular.npy         item vectors and titles; rows of them, most popular first
        popularity.npy                    decayed count of each of these rows, if a prior needs it
        new_items.parquet                 items that came after the model's training, if any, see new_items.py
        index/                            ScaNN over the item vectors

A run builds its state beside the others, syncs and renames it, and only then replaces the pointer. So the
pointer names a whole state at every moment, also if the run is killed. Files that a state shares with the one
before it are one file on disk with two names, where the file system can do that; removing a state removes its
names alone.
"""

from __future__ import annotations

import contextlib
import datetime
import re
import shutil
from collections.abc import Generator
from pathlib import Path

from pinnerformer_jax.files import folder_lock, sync, write_text
from pinnerformer_jax.serving.manifest import read_manifest, verify_state

_STATE = re.compile(r"model_version=[^/.][^/]*/ds=[^/.][^/]*/run=[^/.][^/]*")


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
        return datetime.datetime.combine(day, datetime.time(), datetime.UTC) + datetime.timedelta(days=1)
    except (ValueError, OverflowError):
        raise ValueError(f"--date {date!r}: write a day such as 2026-11-24") from None


def current(root: Path) -> str | None:
    """Path, below SNAPSHOTS, of the served state; None: no state was published yet.

    Raises:
        ValueError: the pointer names no state of this folder.
    """
    file = root / "CURRENT"
    if not file.is_file():
        return None
    name = file.read_text(encoding="utf-8", errors="replace").strip()
    if not _STATE.fullmatch(name):
        raise ValueError(
            f"{file}: names {name!r}, which is no state of this folder; write the path of one, below {root}, "
            "into it"
        )
    return name


@contextlib.contextmanager
def write_lock(root: Path) -> Generator[None, None, None]:
    """Hold the lock of SNAPSHOTS, and remove what killed runs left half-built.

    Raises:
        ValueError: another process is writing.
    """
    with folder_lock(root):
        for left in root.glob("model_version=*/ds=*/.run=*"):
            shutil.rmtree(left)
        for left in root.glob(".CURRENT.*"):
            left.unlink()
        yield


def publish_state(root: Path, name: str) -> None:
    """Replace the pointer, so that this state is served from now on."""
    for folder in list((root / name).parents)[:3]:  # ds=, model_version=, SNAPSHOTS
        sync(folder)
    write_text(root / "CURRENT", f"{name}\n")


def base_for(root: Path, date: str, *, again: bool) -> str | None:
    """The state that a run for this day is built on; None: there is no earlier one.

    Args:
        root: SNAPSHOTS.
        date: the day.
        again: the newest state of an earlier day, so that a log replaces an earlier one of the same day;
            else the served state.

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
        root: SNAPSHOTS.
        to: path of that state below `root`; None: the one that the served state was built on.

    Returns:
        The names of the state that was served before, and of the one that is served now.

    Raises:
        FileNotFoundError: nothing is served, or the state before was removed.
        ValueError: there is no state before, `to` is no state's path, or a file of it is damaged.
    """
    with write_lock(root):
        name = current(root)
        if name is None:
            raise FileNotFoundError(f"{root / 'CURRENT'}: nothing was published here")
        to = _typed_name(root, to) if to else read_manifest(root, name).base
        if to is None:
            raise ValueError(f"{root / name}: built on no other state; there is nothing to roll back to")
        verify_state(root, to)
        publish_state(root, to)
    return name, to


def _typed_name(root: Path, text: str) -> str:
    """The path of a state below SNAPSHOTS, from what a user typed: a longer path, or a slash at the end."""
    name = Path(*Path(text).parts[-3:])
    if not name.match("model_version=*/ds=*/run=*"):
        raise ValueError(f"--rollback {text}: write model_version=.../ds=.../run=..., a folder below {root}")
    return str(name)


def prune(root: Path, keep: int) -> None:
    """Remove states; the served one and those it was built on stay, `keep` in all."""
    kept: list[str] = []
    name = current(root)
    while name is not None and len(kept) < keep and (root / name / "manifest.json").is_file():
        kept.append(name)
        try:
            name = read_manifest(root, name).base
        except ValueError:  # damaged, so its base is unknown: keep all until this state is beyond `keep`
            return
    for folder in root.glob("model_version=*/ds=*/run=*"):
        if str(folder.relative_to(root)) not in kept:
            shutil.rmtree(folder)
    for folder in [*root.glob("model_version=*/ds=*"), *root.glob("model_version=*")]:
        if not any(folder.iterdir()):
            folder.rmdir()
