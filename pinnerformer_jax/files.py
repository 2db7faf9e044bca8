"""Files that are complete or absent (temporary name, fsync, rename), checksums that verify them, and locks of
folders."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import hashlib
import json
import os
import secrets
import shutil
import sys
import weakref
from collections.abc import Generator, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pinnerformer_jax.remote_files import File, RemoteFile, open_bytes

Facts = dict[str, dict[str, Any]]
"""{path below a folder: {"bytes": size, "sha256": hex digest}}, as manifests keep it."""

_HASHERS = min(os.cpu_count() or 1, 8)
"""Threads that take checksums, 1.4 GB/s each."""

_VERIFIED: set[tuple[Any, str]] = set()
"""Stamps and checksums of the files that this process has verified."""


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
    what it left, and brings back an old folder that it had moved aside. An old folder that someone reads is
    refused at the start; if a reader came later, the move waits for its end.

    Raises:
        ValueError: another process is writing or reading this folder, or a link has the temporary name.
    """
    temporary, old = (path.with_name(f".{path.name}.{kind}") for kind in ("tmp", "old"))
    with _only_writer(temporary, path):
        if old.exists() and not path.exists():
            os.rename(old, path)
        try:
            check_not_read(path)
            yield temporary
            for inner in temporary.rglob("*"):
                sync(inner)
            shutil.rmtree(old, ignore_errors=True)
            with _no_reader(path):
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


def check_replaceable(folder: Path, mark: str, verb: str) -> None:
    """Refuse to replace what a verb did not write.

    Args:
        folder: that the verb is to write.
        mark: name of a file that is in every folder that it wrote.
        verb: its name.

    Raises:
        ValueError: the folder is there, is not empty, and has no such file; or it is no folder.
    """
    if folder.exists() and not (folder / mark).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: not a folder that {verb} wrote, and not empty; name another with --out")


@contextlib.contextmanager
def _only_writer(folder: Path, meant: Path) -> Generator[None, None, None]:
    """Hold `folder`, empty, for this process; the lock ends with the process, even if that is killed."""
    if folder.is_symlink():  # what it points at is not ours to empty
        raise ValueError(f"{folder} is a link, in the way of writing {meant}: remove the link")
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
    try:
        # It may have been renamed to its place between the lines above.
        if not (_flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB) and _is_at(descriptor, folder)):
            raise ValueError(f"{meant}: another process is writing it; wait until it has ended")
        for left in folder.iterdir():
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def folder_lock(folder: Path, *, wait: bool = False) -> Generator[None, None, None]:
    """Be the only writer of a folder, which is made if it does not exist. The lock, on its file LOCK, ends
    with the process, even if that is killed.

    Args:
        folder: to lock.
        wait: until it is free, instead of raising.

    Raises:
        ValueError: another process holds it, or there is a file of this name.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: name a folder")
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "LOCK", "a") as lock:
        if not _flock(lock.fileno(), fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB)):
            raise ValueError(f"{folder}: another run is writing here; wait until it has ended")
        yield


class Unchanged:
    """Files that must stay as they are until what was made of them is written."""

    def __init__(self) -> None:
        self._stamps: dict[File, tuple[int, ...] | RemoteFile | None] = {}

    def watch(self, *files: File) -> None:
        """Note size, time of change and inode of files, before they are read; of files in an object store
        what they were when they were listed."""
        for file in files:
            if isinstance(file, RemoteFile):
                self._stamps[file] = file
            else:
                self._stamps[file.absolute()] = _stamp(file)

    def check(self) -> None:
        """Compare, before a result is written.

        Raises:
            ValueError: a file was changed, replaced or removed; the message names it.
        """
        for file, stamp in self._stamps.items():
            if (file.now() if isinstance(file, RemoteFile) else _stamp(file)) != stamp:
                raise ValueError(
                    f"{file}: changed while this process was reading it, so nothing was written; run the "
                    "same command again"
                )


class ReadLock(Unchanged):
    """A folder, opened for reading: while this object lives, `atomic_folder` does not replace the folder.
    Many may read at a time. The lock is on the folder itself, which may be read-only, and ends with the
    process. A file system that knows no locks has `check` alone.

    Args:
        folder: to read.

    Raises:
        FileNotFoundError: it is not there.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder.absolute()
        while True:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            _flock(descriptor, fcntl.LOCK_SH)  # waits for a rename that is under way
            if _is_at(descriptor, folder):
                break
            os.close(descriptor)
        weakref.finalize(self, os.close, descriptor)

    def verify(self, facts: Mapping[str, Mapping[str, Any]], cure: str, *, contents: bool = True) -> None:
        """`check_files`, and `watch` these files."""
        self.watch(*(self.folder / name for name in facts))
        check_files(self.folder, facts, cure, contents=contents)


def check_not_read(folder: Path) -> None:
    """Whether a folder may be replaced.

    Raises:
        ValueError: a `ReadLock` holds it.
    """
    if folder.is_dir():
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if not _flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB):
                gc.collect()  # a reader of this process that nobody uses any more
                if not _flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    raise ValueError(
                        f"{folder}: a process is reading it, such as a training; wait until it has ended, or "
                        "write another folder"
                    )
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _no_reader(folder: Path) -> Generator[None, None, None]:
    """Wait until nobody reads a folder, and keep readers waiting."""
    if not folder.is_dir():
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if not _flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB):
            print(f"{folder}: waiting until nobody reads it, to replace it", file=sys.stderr, flush=True)
            _flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _flock(descriptor: int, operation: int) -> bool:
    """Whether the lock is not held by another. A file system without locks has none that do."""
    try:
        fcntl.flock(descriptor, operation)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK, errno.EINVAL):
            raise
    return True


def _is_at(descriptor: int, folder: Path) -> bool:
    """Whether a path names the folder that is open."""
    try:
        return os.path.samestat(os.fstat(descriptor), folder.stat())
    except FileNotFoundError:
        return False


def _stamp(file: Path) -> tuple[int, int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def write_text(path: Path, text: str) -> None:
    """Write `text` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_checked_json(path: Path, values: dict[str, Any]) -> None:
    """Write an object as indented JSON, atomically, see `with_checksum`."""
    write_json(path, with_checksum(values))


def with_checksum(values: dict[str, Any]) -> dict[str, Any]:
    """An object for JSON, with its own checksum as "sha256" behind its fields."""
    return {**values, "sha256": _digest(values)}


def read_checked_json(path: Path, what: str, cure: str) -> dict[str, Any]:
    """An object that `write_checked_json` wrote, without the checksum; or one of an older version, which has
    none.

    Args:
        path: an existing file.
        what: it is, for the message: "the manifest of a state".
        cure: what to do about damage, for the message.

    Raises:
        ValueError: it is no JSON object, such as a file that was cut, or not what was written; the message
            names it.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("no JSON object")
    except ValueError as error:
        raise ValueError(f"{path}: not {what}: damaged ({error}); {cure}") from error
    digest = values.pop("sha256", None)
    if digest not in (None, _digest(values)):
        raise ValueError(
            f"{path}: altered since it was written, its checksum is not the recorded one; {cure}; or, if you "
            'meant the change, remove its line "sha256"'
        )
    return values


def checked_lines(path: Path) -> list[tuple[str, dict[str, Any] | None]]:
    """Lines of JSON objects that end with their checksums (`with_checksum`): each as it is in the file, and
    its values without the checksum; None: it is damaged. Lines of an older version have no checksum. A last
    line without an end, which a kill cut short, is left out. No file, no lines."""
    found: list[tuple[str, dict[str, Any] | None]] = []
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    for line in lines:
        if not line.endswith(b"\n"):
            continue
        text = line.decode("utf-8", "replace")
        try:
            values = json.loads(text)
            intact = isinstance(values, dict) and values.pop("sha256", None) in (None, _digest(values))
        except ValueError:
            intact = False
        found.append((text, values if intact else None))
    return found


def _digest(values: dict[str, Any]) -> str:
    plain = json.loads(json.dumps(values))  # as they are read back
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def sha256(path: File) -> str:
    """Hex digest of a file's bytes."""
    with open_bytes(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def facts_of(folder: Path, names: Iterable[str] | None = None, known: Facts | None = None) -> Facts:
    """Size and checksum of files, for a manifest.

    Args:
        folder: where they are.
        names: paths below it; None: of all files there, in order.
        known: facts of some of them, which are not read again.
    """
    if names is None:
        files = (file for file in sorted(folder.rglob("*")) if file.is_file())
        names = [str(file.relative_to(folder)) for file in files]
    names, known = list(names), known or {}

    def facts(name: str) -> dict[str, Any]:
        file = folder / name
        return known.get(name) or {"bytes": file.stat().st_size, "sha256": sha256(file)}

    with ThreadPoolExecutor(_HASHERS) as pool:
        return dict(zip(names, pool.map(facts, names), strict=True))


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
        with ThreadPoolExecutor(_HASHERS) as pool:
            checks = [
                pool.submit(check_contents, folder / name, of["sha256"], cure) for name, of in facts.items()
            ]
            for check in checks:
                check.result()


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Give a file a second name, which takes no space, or copy it where the file system refuses. Neither name
    may be written to after that; replacing or removing one does not change the other."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def check_contents(file: Path, digest: str, cure: str) -> None:
    """Compare a file's checksum with the one that was recorded. A process reads a file once, as long as its
    size, time of change and inode stay.

    Args:
        file: to read.
        digest: the recorded hex digest, or the beginning of it.
        cure: what to do about damage, for the message.

    Raises:
        ValueError: they differ, so the file was altered; the message names it.
    """
    known = (_stamp(file), digest)
    if known in _VERIFIED:
        return
    if not sha256(file).startswith(digest):
        raise ValueError(f"{file}: altered, its checksum is not the recorded one; {cure}")
    _VERIFIED.add(known)


def sync(path: Path) -> None:
    """Bring a file's or folder's contents from the cache to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
