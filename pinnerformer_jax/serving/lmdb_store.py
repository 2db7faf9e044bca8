"""The embedded feature store: LMDB files, for servers on the machine of the daily job.

    DIR/live              symbolic link to model=V: the live version
    DIR/model=V           symbolic link to the environment of a version
    DIR/V-TOKEN/          an LMDB environment: values by key, and what it holds

A link is replaced in one step, and a change of an environment is one transaction. So a reader, in this or
another process, sees all of a change or nothing, and never waits. The version that was live before stays
until users are published again. Readers need to write to lock.mdb. Not for network file systems.

LMDB checks nothing that it reads. So checksum.json in an environment has size and checksum of its data.mdb,
which are compared when a process opens it and before it is changed; values have checksums of their own
(store.py). While an environment is changed, and in those of older versions, there is no checksum.json. One
that is damaged, or has none, is replaced as a whole by the next publishing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
import shutil
import struct
import threading
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pinnerformer_jax.files import check_files, facts_of, sync, write_json
from pinnerformer_jax.serving.store import Contents, DamagedError, Rows, Store

if TYPE_CHECKING:
    import lmdb

_MAP_SIZE = 1 << 40
"""Address space, not memory or disk: files grow as they are filled, and no reader has a map too small."""

_READERS = 1024
"""Threads of all processes that read at once."""

_CONTENTS = b"contents"  # no user's key begins with c
_DATA, _CHECKSUM = "data.mdb", "checksum.json"
_PAGE_SIZE = struct.Struct("<40xI")  # where data.mdb has it

_opening = threading.Lock()
_opened: dict[str, lmdb.Environment] = {}
"""By path: LMDB may open a file once in a process."""


def _after_fork() -> None:
    """A child may not use what its parent opened."""
    global _opening
    _opening = threading.Lock()  # another thread of the parent may have held it
    for environment in list(_opened.values()):
        environment.close()
    _opened.clear()


os.register_at_fork(after_in_child=_after_fork)


class LmdbStore(Store):
    """See the head of this file.

    Raises:
        ValueError: lmdb is not installed.
    """

    mend = "publish again with python -m pinnerformer_jax.embed --store, which replaces it"

    def __init__(self, folder: Path) -> None:
        try:
            import lmdb
        except ImportError:
            raise ValueError("--store lmdb:...: LMDB is not installed; pip install lmdb") from None
        self._lmdb, self._folder = lmdb, Path(os.path.abspath(folder))

    def __str__(self) -> str:
        return f"lmdb:{self._folder}"

    def live(self) -> str | None:
        """See Store."""
        target = self._target("live")
        return None if target is None else target.removeprefix("model=")

    def contents(self, model_version: str) -> Contents | None:
        """See Store."""
        with self._failures():
            environment = self._environment(model_version)
            if environment is None:
                return None
            with environment.begin() as transaction:
                raw = transaction.get(_CONTENTS) or b""
            try:
                return Contents(**json.loads(raw))
            except (ValueError, TypeError):
                raise DamagedError(f"{environment.path()}: its record is damaged; {self.mend}") from None

    def fetch(self, model_version: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """See Store."""
        with self._failures():
            environment = self._environment(model_version)
            if environment is None:
                raise self.lacks(model_version)
            with environment.begin() as transaction:
                return [transaction.get(key) for key in keys]

    def update(self, contents: Contents, changed: Rows, removed: list[bytes]) -> bool:
        """See Store."""
        with self._failures():
            try:
                environment = self._environment(contents.model_version)
                if environment is None or not self._verify(environment.path()):
                    return False
                with _changing(environment), environment.begin(write=True) as transaction:
                    _put(transaction, changed)
                    for key in removed:
                        transaction.delete(key)
                    transaction.put(_CONTENTS, _encode(contents))
                    if transaction.stat()["entries"] != contents.users + 1:
                        transaction.abort()
                        return False
            except (DamagedError, *self._damages()):
                return False
            self._switch(contents.model_version)
        return True

    def replace(self, contents: Contents, rows: Rows) -> None:
        """See Store."""
        with self._failures():
            self._folder.mkdir(parents=True, exist_ok=True)
            self._sweep(keep={contents.model_version, self.live()})
            folder = self._folder / f"{contents.model_version}-{secrets.token_hex(4)}"
            try:
                # No reader has it yet, so one sync at the end is enough.
                with self._lmdb.open(str(folder), _MAP_SIZE, sync=False) as environment:
                    for chunk in rows:
                        with environment.begin(write=True) as transaction:
                            _put(transaction, [chunk])
                    with environment.begin(write=True) as transaction:
                        transaction.put(_CONTENTS, _encode(contents))
                    environment.sync(True)
                    _append_missing_pages(environment)
                write_json(folder / _CHECKSUM, facts_of(folder, [_DATA]))
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            self._link(f"model={contents.model_version}", folder.name)
            self._switch(contents.model_version)

    def delete(self, keys: list[bytes]) -> None:
        """See Store."""
        with self._failures():
            for link in self._folder.glob("model=*"):
                try:
                    environment = self._environment(link.name.removeprefix("model="))
                    if environment is None:
                        continue  # another process has just removed this version
                    # None of these users may be in it: then it need not be read as a whole.
                    with environment.begin() as transaction:
                        held = [key for key in keys if transaction.get(key) is not None]
                    if not held:
                        continue
                    self._verify(environment.path())
                    with _changing(environment), environment.begin(write=True) as transaction:
                        for key in held:
                            transaction.delete(key)
                except (DamagedError, *self._damages()):
                    link.unlink()  # these users must leave, and nobody can be read from it for sure

    def _environment(self, model_version: str) -> lmdb.Environment | None:
        """The environment of a version, opened once; once replaced, it closes when no thread reads it."""
        while (target := self._target(f"model={model_version}")) is not None:
            try:
                environment = self._open(str(self._folder / target))
            except (self._lmdb.Error, OSError):
                if self._target(f"model={model_version}") == target:  # else it was just replaced
                    raise
            else:
                return environment
        return None

    def _open(self, folder: str) -> lmdb.Environment:
        environment = _opened.get(folder)
        if environment is None:
            with _opening:
                environment = _opened.get(folder) or self._open_whole(folder)
                _opened[folder] = environment
                for other in [other for other in _opened if not os.path.exists(other)]:
                    del _opened[other]
        return environment

    def _open_whole(self, folder: str) -> lmdb.Environment:
        """Open a file that is what was written. Where that is not known, at least no page is missing."""
        file = f"{folder}/{_DATA}"
        if not os.path.isfile(file):
            raise DamagedError(f"{file}: missing; {self.mend}")
        verified = self._verify(folder)
        if not verified:
            with open(file, "rb") as data:
                head = data.read(_PAGE_SIZE.size).ljust(_PAGE_SIZE.size)
            if os.path.getsize(file) < 2 * max(*_PAGE_SIZE.unpack(head), 4096):
                raise DamagedError(f"{file}: cut to {os.path.getsize(file)} bytes; {self.mend}")
        readonly = not os.access(file, os.W_OK)
        environment = self._lmdb.open(
            folder, _MAP_SIZE, create=False, readonly=readonly, max_readers=_READERS, readahead=False
        )
        if not verified and _missing_bytes(environment):
            if readonly:
                raise DamagedError(f"{file}: its end is missing; {self.mend}")
            _append_missing_pages(environment)
        return environment

    def _verify(self, folder: str) -> bool:
        """Compare data.mdb with its checksum; False: there is none, or it is being changed.

        Raises:
            DamagedError: they differ.
        """
        facts = Path(folder, _CHECKSUM)
        while facts.exists():
            with contextlib.suppress(FileNotFoundError):
                text = facts.read_text()
                try:
                    check_files(Path(folder), json.loads(text), self.mend)
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    if facts.read_text() == text:  # else it was changed meanwhile
                        message = str(error) if _DATA in str(error) else f"{facts}: damaged; {self.mend}"
                        raise DamagedError(message) from None
                else:
                    return True
        return False

    def _damages(self) -> tuple[type[Exception], ...]:
        """Errors of a file whose structure is damaged."""
        names = ("CorruptedError", "PageNotFoundError", "InvalidError", "VersionMismatchError",
                 "IncompatibleError")  # fmt: skip
        return tuple(getattr(self._lmdb, name) for name in names)

    def _target(self, link: str) -> str | None:
        try:
            return os.readlink(self._folder / link)
        except FileNotFoundError:
            return None

    def _link(self, name: str, target: str) -> None:
        new = self._folder / f".{name}"
        new.unlink(missing_ok=True)  # a killed process may have left it
        new.symlink_to(target)
        new.replace(self._folder / name)
        sync(self._folder)

    def _switch(self, model_version: str) -> None:
        before = self.live()
        if before != model_version:
            self._link("live", f"model={model_version}")
        self._sweep(keep={model_version, before})

    def _sweep(self, keep: set[str | None]) -> None:
        """Remove versions that are not in `keep`, and folders that belong to no version (any more)."""
        for link in self._folder.glob("model=*"):
            if link.name.removeprefix("model=") not in keep:
                link.unlink()
        linked = {os.readlink(link) for link in self._folder.glob("model=*")}
        for folder in self._folder.glob("*-*"):
            if not folder.is_symlink() and folder.name not in linked:
                # Renamed first, so that no reader opens it half removed.
                unlinked = folder.rename(folder.with_name(f".gone-{secrets.token_hex(4)}"))
                shutil.rmtree(unlinked, ignore_errors=True)

    @contextlib.contextmanager
    def _failures(self) -> Generator[None, None, None]:
        try:
            yield
        except self._damages() as error:
            raise DamagedError(f"{self}: damaged, {error}; {self.mend}") from None
        except self._lmdb.Error as error:
            raise OSError(
                f"{self}: {error}; is the disk full? It goes on serving what it did before"
            ) from None


def _put(transaction: lmdb.Transaction, rows: Rows) -> None:
    with transaction.cursor() as cursor:
        for keys, values in rows:
            cursor.putmulti(sorted(zip(keys, values, strict=True)))


def _encode(contents: Contents) -> bytes:
    return json.dumps(dataclasses.asdict(contents)).encode()


@contextlib.contextmanager
def _changing(environment: lmdb.Environment) -> Generator[None, None, None]:
    """Without a checksum while the environment is changed, and after that fails; or if it had none."""
    folder = Path(environment.path())
    known = (folder / _CHECKSUM).exists()
    (folder / _CHECKSUM).unlink(missing_ok=True)
    sync(folder)
    yield
    _append_missing_pages(environment)
    if known:
        write_json(folder / _CHECKSUM, facts_of(folder, [_DATA]))


def _missing_bytes(environment: lmdb.Environment) -> int:
    """Bytes between the end of the file and the end of its last page."""
    wanted = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    return max(wanted - os.path.getsize(f"{environment.path()}/{_DATA}"), 0)


def _append_missing_pages(environment: lmdb.Environment) -> None:
    """LMDB does not write free pages at the end of the file, and where it reads behind the end of a file that
    was cut, the process dies (SIGBUS). Pages of zeros are an error at most."""
    if _missing_bytes(environment):
        with environment.begin(write=True):  # no other process changes the size now
            file = f"{environment.path()}/{_DATA}"
            os.truncate(file, os.path.getsize(file) + _missing_bytes(environment))
