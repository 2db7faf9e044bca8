"""The feature store of many servers: Redis 6 or newer.

    pinnerformer:live                 the live version
    pinnerformer:model:V              record of a version (JSON): its contents and its space
    pinnerformer:versions             set of versions, some expired
    pinnerformer:users:SPACE:BUCKET   hash of values by key; a user's bucket is the CRC-32 of the key
    pinnerformer:garbage              set of spaces that belong to no version (yet, or any more)
    pinnerformer:spaces               number of the newest space

A new version is written to a space of its own, in 1,024 hashes, so that it expires hash by hash. Then one
transaction makes it live and lets the version before expire in an hour. A version that is live already is
changed in place; until the change is complete, its record says so ("pending").

Users are published through one connection that is never reopened. If Redis restarts, it may lose what it was
given last; then the connection breaks, and publishing ends with an error.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import zlib
from collections import defaultdict
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pinnerformer_jax.serving.store import Contents, Rows, Store

OLD_SECONDS = 3600
"""How long the version that was live before can still be read."""

_SOON_GONE = 600
"""A version with fewer seconds to live is not made live again, but written again."""

_PREFIX = "pinnerformer:"
_BUCKETS = 1024

Send = Callable[[list[tuple[Any, ...]]], list[Any]]


@dataclass(frozen=True)
class _Record:
    """The value of pinnerformer:model:V."""

    contents: Contents
    space: str
    pending: str | None = None  # state that it is being changed to, or was when the publisher was killed

    def to_json(self) -> bytes:
        return json.dumps(dataclasses.asdict(self)).encode()

    @classmethod
    def of(cls, raw: bytes) -> _Record:
        values = json.loads(raw)
        return cls(Contents(**values.pop("contents")), **values)


class RedisStore(Store):
    """See the head of this file.

    Args:
        url: redis://USER:PASSWORD@HOST:PORT/DB, rediss:// with TLS, unix://PATH; settings of redis-py may
            follow (?ssl_ca_certs=FILE). A password that is not in it is taken from REDISCLI_AUTH, as
            redis-cli does, if that is set.
        old_seconds: how long the version that was live before can still be read.

    Raises:
        ValueError: no such URL, or redis-py is not installed.
    """

    def __init__(self, url: str, old_seconds: int = OLD_SECONDS) -> None:
        try:
            import redis
        except ImportError:
            raise ValueError("--store redis://...: redis-py is not installed; pip install redis") from None
        self._redis, self._old_seconds = redis, old_seconds
        settings: dict[str, Any] = {"socket_connect_timeout": 5, "socket_timeout": 30}
        try:
            parts = urlsplit(url)
            if parts.password is None and os.environ.get("REDISCLI_AUTH"):
                settings["password"] = os.environ["REDISCLI_AUTH"]
            self._place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
            self._client = redis.Redis.from_url(url, **settings)
            self._client.connection_pool.make_connection()  # checks the URL's options; connects to nothing
        except TypeError:
            options = urlsplit(url).query
            raise ValueError(f"--store: redis-py does not know an option of the URL, {options!r}") from None
        except ValueError:  # its message may show the password
            raise ValueError(
                "--store: not the URL of a Redis server; write redis://USER:PASSWORD@HOST:PORT/DB, special "
                "characters of the password as %XX"
            ) from None
        self._records: dict[str, tuple[bytes, _Record]] = {}
        self.mend = f"delete the keys {_PREFIX}* there and publish again, with embed --store"

    def __str__(self) -> str:
        return self._place

    def live(self) -> str | None:
        """See Store."""
        with self._failures():
            version = self._client.get(f"{_PREFIX}live")
        return None if version is None else version.decode()

    def contents(self, model_version: str) -> Contents | None:
        """See Store."""
        with self._failures():
            raw = self._client.get(_model(model_version))
        return None if raw is None else _Record.of(raw).contents

    def fetch(self, model_version: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """See Store. One round trip, unless the version's record changed since the last one."""
        rows = _by_bucket(keys)
        known, record = self._records.get(model_version, (None, None))
        while True:
            with self._failures():
                # No transaction: a server whose memory is full refuses those, even of reads. The record comes
                # last: if it is the known one then, its space had not been removed when the values were read.
                pipeline = self._client.pipeline(transaction=False)
                if record is not None:
                    for bucket, wanted in rows.items():
                        pipeline.hmget(_users(record.space, bucket), [keys[row] for row in wanted])
                pipeline.get(_model(model_version))
                *found, raw = pipeline.execute()
            if raw is None:
                raise self.lacks(model_version)
            if raw == known:
                break
            known, record = raw, _Record.of(raw)
            self._records[model_version] = known, record
        values: list[bytes | None] = [None] * len(keys)
        for wanted, part in zip(rows.values(), found, strict=True):
            for row, value in zip(wanted, part, strict=True):
                values[row] = value
        return values

    def update(self, contents: Contents, changed: Rows, removed: list[bytes]) -> bool:
        """See Store."""
        name = _model(contents.model_version)
        with self._failures(), self._publishing() as send:
            raw, seconds = send([("GET", name), ("TTL", name)])
            if raw is None or 0 <= seconds < _SOON_GONE:
                return False
            record = _Record.of(raw)
            if record.pending not in (None, contents.state):
                return False  # some users are of a state that was not completed
            send([("SET", name, dataclasses.replace(record, pending=contents.state).to_json(), "KEEPTTL")])
            _write(send, record.space, changed)
            for bucket, rows in _by_bucket(removed).items():
                send([("HDEL", _users(record.space, bucket), *[removed[row] for row in rows])])
            if _count(send, record.space) != contents.users:
                return False
            self._switch(send, _Record(contents, record.space))
            _sweep(send)
        return True

    def replace(self, contents: Contents, rows: Rows) -> None:
        """See Store."""
        with self._failures(), self._publishing() as send:
            _sweep(send)
            [number] = send([("INCR", f"{_PREFIX}spaces")])
            space = f"{contents.model_version}:{number}"
            send([("SADD", f"{_PREFIX}garbage", space)])
            try:
                _write(send, space, rows)
                count = _count(send, space)
                if count != contents.users:
                    raise OSError(
                        f"{self}: {contents.users:,} users written, {count:,} there; is it evicting?"
                    )
                self._switch(send, _Record(contents, space))
            except (OSError, self._redis.ResponseError):
                _sweep(send)  # a server whose memory is full takes removals
                raise
            _sweep(send)

    def delete(self, keys: list[bytes]) -> None:
        """See Store."""
        with self._failures(), self._publishing() as send:
            _sweep(send)  # a publisher that was killed may have left a space, with these users in it
            [versions] = send([("SMEMBERS", f"{_PREFIX}versions")])
            for version in versions:
                [raw] = send([("GET", _model(version.decode()))])
                if raw is not None:
                    for bucket, rows in _by_bucket(keys).items():
                        name = _users(_Record.of(raw).space, bucket)
                        send([("HDEL", name, *[keys[row] for row in rows])])

    def _switch(self, send: Send, record: _Record) -> None:
        """In one transaction make a version live, let the one before expire, and add an earlier space of this
        version to the garbage."""
        version = record.contents.model_version
        live, raw = send([("GET", f"{_PREFIX}live"), ("GET", _model(version))])
        commands: list[tuple[Any, ...]] = [
            ("SET", _model(version), record.to_json()),
            ("SET", f"{_PREFIX}live", version),
            ("SADD", f"{_PREFIX}versions", version),
            ("SREM", f"{_PREFIX}garbage", record.space),
            *[("PERSIST", name) for name in _all_users(record.space)],
        ]
        if raw is not None and _Record.of(raw).space != record.space:
            commands.append(("SADD", f"{_PREFIX}garbage", _Record.of(raw).space))
        if live is not None and live.decode() != version:
            name = _model(live.decode())
            [old] = send([("GET", name)])
            names = [] if old is None else [name, *_all_users(_Record.of(old).space)]
            commands += [("EXPIRE", name, self._old_seconds) for name in names]
        send([("MULTI",), *commands, ("EXEC",)])

    @contextlib.contextmanager
    def _publishing(self) -> Generator[Send, None, None]:
        """A function that sends commands in one go and returns the answers, through one connection. It reads
        all answers and then raises the first error among them, so that more commands can follow."""
        pool = self._client.connection_pool
        connection = pool.get_connection()

        def answer() -> Any:
            try:
                return connection.read_response()
            except self._redis.ResponseError as error:
                return error

        def send(commands: list[tuple[Any, ...]]) -> list[Any]:
            connection.send_packed_command(connection.pack_commands(commands))
            answers = [answer() for _ in commands]
            for refused in answers:
                if isinstance(refused, self._redis.ResponseError):
                    raise refused
            return answers

        try:
            yield send
        finally:
            connection.disconnect()  # after an interrupt answers may be left in it
            pool.release(connection)

    @contextlib.contextmanager
    def _failures(self) -> Generator[None, None, None]:
        try:
            yield
        except (self._redis.ConnectionError, self._redis.TimeoutError) as error:
            raise ConnectionError(f"{self}: {error}") from None
        except self._redis.RedisError as error:
            message = str(error).rstrip(".")
            raise OSError(f"{self}: {message}; the store goes on serving what it did before") from None


def _model(version: str) -> str:
    return f"{_PREFIX}model:{version}"


def _users(space: str, bucket: int) -> str:
    return f"{_PREFIX}users:{space}:{bucket}"


def _all_users(space: str) -> list[str]:
    return [_users(space, bucket) for bucket in range(_BUCKETS)]


def _by_bucket(keys: Sequence[bytes]) -> dict[int, list[int]]:
    """Rows of the keys by bucket."""
    rows: dict[int, list[int]] = defaultdict(list)
    for row, key in enumerate(keys):
        rows[zlib.crc32(key) % _BUCKETS].append(row)
    return rows


def _write(send: Send, space: str, rows: Rows) -> None:
    for keys, values in rows:
        commands = []
        for bucket, chosen in _by_bucket(keys).items():
            pairs = [part for row in chosen for part in (keys[row], values[row])]
            commands.append(("HSET", _users(space, bucket), *pairs))
        send(commands)


def _count(send: Send, space: str) -> int:
    return sum(send([("HLEN", name) for name in _all_users(space)]))


def _sweep(send: Send) -> None:
    """Free the memory of spaces that belong to no version."""
    [spaces] = send([("SMEMBERS", f"{_PREFIX}garbage")])
    for space in spaces:
        send([("UNLINK", name) for name in _all_users(space.decode())])
        send([("SREM", f"{_PREFIX}garbage", space)])
