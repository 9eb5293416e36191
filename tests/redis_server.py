"""A Redis server on loopback, for the tests of several folders."""

from __future__ import annotations

import shutil
import subprocess
import time
from typing import TYPE_CHECKING, Self

import pytest
import redis
from loopback import free_port

if TYPE_CHECKING:
    from pathlib import Path


class RedisServer:
    """A Redis server that a test can stop and start; the test is skipped if Redis is missing.

    Args:
        folder: for its files.
        keeps: whether its data survives a stop.
        password: required from every client, if given.
    """

    def __init__(self, folder: Path, *, keeps: bool = False, password: str = "") -> None:
        self._program = shutil.which("redis-server") or ""
        if not self._program:
            pytest.skip("no redis-server is installed")
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._keeps, self._password = folder, keeps, password
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        settings = ['save ""', "bind 127.0.0.1", f"port {self.port}", f'dir "{self._folder}"']
        if self._keeps:
            settings += ["appendonly yes", "appendfsync always"]
        if self._password:
            settings.append(f'requirepass "{self._password}"')
        # From standard input, because other users can read the arguments of a process.
        self.process = subprocess.Popen(
            [self._program, "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
        assert self.process.stdin
        self.process.stdin.write("\n".join(settings))
        self.process.stdin.close()
        deadline = time.monotonic() + 10
        while self.process.poll() is None and time.monotonic() < deadline:
            try:
                self.client().ping()
                return
            except redis.ConnectionError:
                time.sleep(0.01)
        pytest.fail("redis-server does not start")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, password=self._password or None, retry=None)

    def empty(self) -> None:
        self.client().flushall()
