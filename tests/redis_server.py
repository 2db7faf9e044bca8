"""A Redis server for tests: Debian's, on a free loopback port, without persistence unless asked."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


class Server:
    """Started at once; can be killed and started again, on the same port."""

    def __init__(self, folder: Path, *options: str, tls: bool = False) -> None:
        redis = pytest.importorskip("redis", reason="redis-py is not installed: pip install redis")
        if shutil.which("redis-server") is None:
            pytest.skip("redis-server is not installed: apt install redis-server")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.options, self.redis, self.tls = folder, options, redis, tls
        self.url = f"redis://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        where = [
            "--tls-port" if self.tls else "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--dir",
            str(self.folder),
        ]
        self.process = subprocess.Popen(
            ["redis-server", *where, "--save", "", *(["--port", "0"] if self.tls else []), *self.options],
            stdout=subprocess.DEVNULL,
        )
        for _ in range(500):
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", self.port), 5) as connection,
            ):
                if self.tls:
                    return
                connection.sendall(b"PING\r\n")
                if not connection.recv(64).startswith(b"-LOADING"):  # else it still reads what it had saved
                    return
            time.sleep(0.02)
        raise TimeoutError("redis-server does not start")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def redis_server(folder: Path, *options: str, tls: bool = False) -> Iterator[Server]:
    """A server, stopped at the end. The test is skipped if Redis is not installed."""
    server = Server(folder, *options, tls=tls)
    try:
        yield server
    finally:
        server.kill()
