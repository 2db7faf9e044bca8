"""Files in object stores, s3://BUCKET/KEY and all else that fsspec opens, read where they are."""

from __future__ import annotations

import contextlib
import functools
import io
import re
import textwrap
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import duckdb
    import fsspec

_PACKAGES = {
    "s3": "'pinnerformer_jax[s3]'",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
}
_PLACES = {
    "s3": "Keys are taken from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, from AWS_PROFILE or from the "
    "machine's role, another server from AWS_ENDPOINT_URL: does `aws s3 ls` list it?",
    "hdfs": "Hadoop's client must be installed, with JAVA_HOME, HADOOP_HOME and CLASSPATH.",
    "gs": "Credentials are those of gcloud: does `gcloud storage ls` list it?",
}


@dataclass(frozen=True)
class RemoteFile:
    """A file as it was when it was listed: after another was written in its place, it is not equal."""

    url: str
    size: int  # bytes
    checksum: str  # as the store gives it, such as of an ETag

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        """Behind the last slash."""
        return self.parts[-1]

    @property
    def parts(self) -> tuple[str, ...]:
        """Between slashes."""
        return tuple(self.url.split("/"))

    def open(self) -> io.BufferedReader:
        """The file, opened to read its bytes.

        Raises:
            FileNotFoundError: it is not there any more.
            ValueError: the store does not give it; the message names it.
        """
        with _named(self.url, self.url):
            system, path = _system(self.url)
            return io.BufferedReader(_Bytes(self.url, system.open(path, "rb")), 1 << 20)

    def now(self) -> RemoteFile | None:
        """The file as it is now; None: it is gone."""
        return next(iter(find(self.url, self.url)), None)


class _Bytes(io.RawIOBase):
    """Bytes of a file, whose errors name it."""

    def __init__(self, url: str, file: Any) -> None:
        self.url, self.file = url, file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with _named(self.url, self.url):
            found = self.file.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        return self.file.seek(place, whence)

    def tell(self) -> int:
        return self.file.tell()

    def close(self) -> None:
        self.file.close()
        super().close()


File: TypeAlias = Path | RemoteFile


def is_remote(name: str) -> bool:
    """Whether a file or a pattern is in an object store."""
    return re.match(r"[a-z][a-z0-9+.-]+://", name, re.IGNORECASE) is not None


def path_or_url(name: str) -> Path | str:
    """A path, or the URL of a file in an object store as it is."""
    return name if is_remote(name) else Path(name)


def find(what: str, pattern: str) -> list[RemoteFile]:
    """The files that a URL names, with its patterns, by name; none: there is none.

    Args:
        what: setting and pattern, for messages.
        pattern: a URL; `*`, `?`, `[...]` and `**` are patterns, unless a file is called just so.

    Raises:
        ValueError: the package for such URLs is not installed, the store does not answer or does not allow
            it, or the URL is a folder. The message says what to do.
    """
    with _named(what, pattern):
        system, path = _system(pattern)
        system.invalidate_cache()
        try:
            found = {path: system.info(path)}
        except FileNotFoundError:
            found = system.glob(path, detail=True)
        files = [
            RemoteFile(system.unstrip_protocol(name), info["size"], str(system.checksum(name)))
            for name, info in sorted(found.items())
            if info["type"] == "file"
        ]
    if not files and path in found:
        raise ValueError(f"{what} is a folder: write {pattern.rstrip('/')}/*.parquet")
    return files


def open_bytes(file: File) -> io.BufferedReader:
    """A file, wherever it is, opened to read its bytes."""
    return file.open() if isinstance(file, RemoteFile) else open(file, "rb")


def identity(file: File) -> tuple[str, int, str]:
    """Name, size, and what tells another in its place from it: the time, or the store's checksum."""
    if isinstance(file, RemoteFile):
        return file.url, file.size, file.checksum
    return str(file), file.stat().st_size, str(file.stat().st_mtime_ns)


def let_engine_read(connection: duckdb.DuckDBPyConnection, files: Iterable[File]) -> None:
    """Let the engine read files of object stores: the byte ranges that it needs, no more."""
    for file in files:
        if isinstance(file, RemoteFile) and _scheme(file.url) not in connection.list_filesystems():
            system, _ = _system(file.url, skip_instance_cache=True)
            # The engine asks for whole chunks of columns; a buffer of s3fs would read 50 MB for each.
            system.open = functools.partial(system.open, cache_type="none")
            connection.register_filesystem(system)


def _system(url: str, **options: bool) -> tuple[fsspec.AbstractFileSystem, str]:
    from fsspec.core import url_to_fs

    return url_to_fs(url, **options)


def _scheme(url: str) -> str:
    return url.partition("://")[0].lower()


@contextlib.contextmanager
def _named(what: str, url: str) -> Generator[None, None, None]:
    """Errors of a store, whatever its client calls them, as one line that names the file and the fix."""
    scheme = _scheme(url)
    try:
        yield
    except ImportError as error:
        package = _PACKAGES.get(scheme)
        cure = f"pip install {package}" if package else str(error)
        raise ValueError(f"{what}: reading {scheme}:// needs another package: {cure}") from None
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{what}: no such bucket or key ({error})") from None
    except Exception as error:
        why = textwrap.shorten(f"{type(error).__name__}: {error}", 300, placeholder=" ...")
        raise ValueError(f"{what} cannot be read: {why}. {_PLACES.get(scheme, '')}".rstrip()) from None
