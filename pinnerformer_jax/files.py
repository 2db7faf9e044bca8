"""Files that are complete or absent (temporary name, fsync, rename), and checksums that verify them."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Generator, Iterable, Mapping
from pathlib import Path
from typing import Any

Facts = dict[str, dict[str, Any]]
"""{path below a folder: {"bytes": size, "sha256": hex digest}}, as manifests keep it."""


@contextlib.contextmanager
def atomic_path(path: Path) -> Generator[Path, None, None]:
    """A temporary path beside `path`; moved onto it, synced, if the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name that nobody can know: a link of that name would be followed.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp{path.suffix}")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Generator[Path, None, None]:
    """A temporary folder beside `path`; takes its place, synced, if the block ends without an error.

    An old folder is moved aside just before and removed just after. If a run is killed, the next one removes
    what it left, and brings back an old folder that it had moved aside.

    Raises:
        ValueError: another process is writing this folder, or a link has the temporary name.
    """
    temporary, old = (path.with_name(f".{path.name}.{kind}") for kind in ("tmp", "old"))
    with _only_writer(temporary, path):
        if old.exists() and not path.exists():
            os.rename(old, path)
        try:
            yield temporary
            for inner in temporary.rglob("*"):
                sync(inner)
            shutil.rmtree(old, ignore_errors=True)
            if path.exists():
                os.rename(path, old)
            try:
                os.rename(temporary, path)
            except OSError:
                if old.exists():
                    os.rename(old, path)
                raise
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync(path.parent)
        shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def _only_writer(folder: Path, meant: Path) -> Generator[None, None, None]:
    """Hold `folder`, empty, for this process; the lock ends with the process, even if that is killed."""
    if folder.is_symlink():  # what it points at is not ours to empty
        raise ValueError(f"{folder} is a link, in the way of writing {meant}: remove the link")
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = os.path.samestat(os.fstat(descriptor), folder.stat())
        except (BlockingIOError, FileNotFoundError):
            held = False  # or it was renamed to its place between the two lines above
        if not held:
            raise ValueError(f"{meant}: another process is writing it; wait until it has ended")
        for left in folder.iterdir():
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def folder_lock(folder: Path) -> Generator[None, None, None]:
    """Be the only writer of a folder, which is made if it does not exist. The lock, on its file LOCK, ends
    with the process, even if that is killed.

    Raises:
        ValueError: another process holds it, or there is a file of this name.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: name a folder")
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "LOCK", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{folder}: another run is writing here; wait until it has ended") from None
        yield


def write_text(path: Path, text: str) -> None:
    """Write `text` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def facts_of(folder: Path, names: Iterable[str] | None = None) -> Facts:
    """Size and checksum of files, for a manifest.

    Args:
        folder: where they are.
        names: paths below it; None: of all files there, in order.
    """
    if names is None:
        files = (file for file in sorted(folder.rglob("*")) if file.is_file())
        names = [str(file.relative_to(folder)) for file in files]
    return {
        name: {"bytes": (folder / name).stat().st_size, "sha256": sha256(folder / name)} for name in names
    }


def check_files(
    folder: Path, facts: Mapping[str, Mapping[str, Any]], cure: str, *, contents: bool = True
) -> None:
    """Compare files with what a manifest says of them; files that it does not name are not looked at.

    Args:
        folder: where they are.
        facts: of a manifest, see `Facts`.
        cure: what to do about damage, for the message.
        contents: also read each file and compare its checksum; else size alone.

    Raises:
        ValueError: a file is missing, short or altered; the message names it.
    """
    for name, expected in facts.items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != expected["bytes"]:
            raise ValueError(f"{file}: missing or not {expected['bytes']} bytes long; {cure}")
        if contents:
            check_contents(file, expected["sha256"], cure)


def check_contents(file: Path, digest: str, cure: str) -> None:
    """Compare a file's checksum with the one that was recorded.

    Args:
        file: to read.
        digest: the recorded hex digest, or the beginning of it.
        cure: what to do about damage, for the message.

    Raises:
        ValueError: they differ, so the file was altered; the message names it.
    """
    if not sha256(file).startswith(digest):
        raise ValueError(f"{file}: altered, its checksum is not the recorded one; {cure}")


def sync(path: Path) -> None:
    """Bring a file's or folder's contents from the cache to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
