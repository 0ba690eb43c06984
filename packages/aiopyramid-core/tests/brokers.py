"""Real brokers, for the tests of what speaks to them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

INTEGRATION_TESTS = Path(__file__).parents[3] / "integration-tests"


class Received:
    """Notes what a backend receives."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, bytes]] = []
        self.positions: list[object] = []
        self.gaps: list[tuple[str, str]] = []
        self._changed = asyncio.Event()

    def received(self, channel: str, data: bytes, position: object = None) -> None:
        self.messages.append((channel, data))
        self.positions.append(position)
        self._changed.set()

    def resync(self, channel: str, reason: str) -> None:
        self.gaps.append((channel, reason))
        self._changed.set()

    async def until(self, *, messages: int = 0, gaps: int = 0) -> None:
        """Wait for so many of each."""
        async with asyncio.timeout(20):
            while len(self.messages) < messages or len(self.gaps) < gaps:
                self._changed.clear()
                await self._changed.wait()


def _helpers() -> None:
    if not INTEGRATION_TESTS.is_dir():
        pytest.skip("needs the folder integration-tests of the repository")
    if str(INTEGRATION_TESTS) not in sys.path:
        sys.path.append(str(INTEGRATION_TESTS))


def run_redis(*options: str) -> Iterator[object]:
    """Run a Redis, or skip."""
    _helpers()
    import redis_server

    executable = redis_server.executable()
    if executable is None:
        pytest.skip(redis_server.NEEDS)
    server = redis_server.RedisServer.with_tls(executable, *options)
    yield server
    server.stop()


def run_sentinel(master: object) -> Iterator[object]:
    """Run a sentinel of Redis that names a server."""
    import redis_server

    executable = redis_server.executable()
    assert executable is not None
    server = redis_server.RedisServer.sentinel(executable, master)
    yield server
    server.stop()


def run_postgresql() -> Iterator[object]:
    """Run a PostgreSQL, or skip."""
    _helpers()
    import postgres

    binaries = postgres.binaries()
    if binaries is None:
        pytest.skip(postgres.NEEDS)
    server = postgres.Postgres(binaries)
    yield server
    server.stop()
