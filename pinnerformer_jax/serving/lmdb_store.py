"""The embedded feature store: LMDB files, for servers on the machine of the daily job.

    DIR/live              symbolic link to model=V: the live version
    DIR/model=V           symbolic link to the environment of a version
    DIR/V-TOKEN/          an LMDB environment: values by key, and what it holds

A link is replaced in one step, and a change of an environment is one transaction. So a reader, in this or
another process, sees all of a change or nothing, and never waits. The version that was live before stays
until users are published again. Readers need to write to lock.mdb. Not for network file systems.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
import shutil
import threading
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pinnerformer_jax.files import sync
from pinnerformer_jax.serving.store import Contents, Rows, Store

if TYPE_CHECKING:
    import lmdb

_MAP_SIZE = 1 << 40
"""Address space, not memory or disk: files grow as they are filled, and no reader has a map too small."""

_READERS = 1024
"""Threads of all processes that read at once."""

_CONTENTS = b"contents"  # no user's key begins with c

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
                return Contents(**json.loads(transaction.get(_CONTENTS)))

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
            environment = self._environment(contents.model_version)
            if environment is None:
                return False
            with environment.begin(write=True) as transaction:
                _put(transaction, changed)
                for key in removed:
                    transaction.delete(key)
                transaction.put(_CONTENTS, json.dumps(dataclasses.asdict(contents)).encode())
                if transaction.stat()["entries"] != contents.users + 1:
                    transaction.abort()
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
                        transaction.put(_CONTENTS, json.dumps(dataclasses.asdict(contents)).encode())
                    environment.sync(True)
                sync(folder)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            self._link(f"model={contents.model_version}", folder.name)
            self._switch(contents.model_version)

    def delete(self, keys: list[bytes]) -> None:
        """See Store."""
        with self._failures():
            for link in self._folder.glob("model=*"):
                environment = self._environment(link.name.removeprefix("model="))
                if environment is None:
                    continue  # another process has just removed this version
                with environment.begin(write=True) as transaction:
                    for key in keys:
                        transaction.delete(key)

    def _environment(self, model_version: str) -> lmdb.Environment | None:
        """The environment of a version, opened once; once replaced, it closes when no thread reads it."""
        while (target := self._target(f"model={model_version}")) is not None:
            try:
                environment = self._open(str(self._folder / target))
            except self._lmdb.Error:
                if self._target(f"model={model_version}") == target:  # else it was just replaced
                    raise
            else:
                return environment
        return None

    def _open(self, folder: str) -> lmdb.Environment:
        environment = _opened.get(folder)
        if environment is None:
            with _opening:
                environment = _opened.get(folder) or self._lmdb.open(
                    folder,
                    _MAP_SIZE,
                    create=False,
                    readonly=not os.access(f"{folder}/data.mdb", os.W_OK),
                    max_readers=_READERS,
                    readahead=False,
                )
                _opened[folder] = environment
                for other in [other for other in _opened if not os.path.exists(other)]:
                    del _opened[other]
        return environment

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
        except self._lmdb.Error as error:
            raise OSError(
                f"{self}: {error}; is the disk full? It goes on serving what it did before"
            ) from None


def _put(transaction: lmdb.Transaction, rows: Rows) -> None:
    with transaction.cursor() as cursor:
        for keys, values in rows:
            cursor.putmulti(sorted(zip(keys, values, strict=True)))
