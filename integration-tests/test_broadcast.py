"""Groups over several workers and servers, which share a broker, while all of them fail."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import redis_server
from harness import PATIENCE, Server, eventually
from redis_server import RedisServer
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import InvalidHandshake, WebSocketException

from aiopyramid.broadcast.exceptions import BroadcastError
from aiopyramid.broadcast.publisher import Publisher

APP = "apps.broadcast:main()"
SERVERS = ("gunicorn-uvloop", "uwsgi-threads", "uwsgi-uvloop")
CLIENTS = 500
HISTORY = "kept* = 10000"
GROUPS = "group=plain&group=kept"


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """A Redis that keeps what it has told to have, even if it is killed."""
    executable = redis_server.executable()
    if executable is None:
        pytest.skip(redis_server.NEEDS)
    server = RedisServer(executable, "--appendonly", "yes", "--appendfsync", "always")
    yield server
    server.stop()


def settings(redis: RedisServer, **others: Any) -> dict[str, Any]:
    given = {"url": redis.url, "history": HISTORY, "timeout": 2, **others}
    return {f"aiopyramid.broadcast.{name}": value for name, value in given.items()}


class Client:
    """Connects again and again, as the client in JavaScript does, and notes what it gets."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.last: str | None = None
        self.plain: list[str | None] = []  # None is a gap
        self.kept: list[tuple[str, str]] = []
        self.kept_gaps: list[str] = []
        self.joined = asyncio.Event()
        self.done = asyncio.Event()
        self.connections = 0

    async def run(self) -> None:
        while not self.done.is_set():
            path = f"/ws?{GROUPS}" + (f"&after.kept={self.last}" if self.last else "")
            with contextlib.suppress(OSError, WebSocketException, InvalidHandshake, EOFError):
                async with self.server.connect(path, compression=None) as ws:
                    await self.receive(ws)
            await asyncio.sleep(random.uniform(0.05, 0.5))

    async def receive(self, ws: ClientConnection) -> None:
        self.connections += 1
        self.plain.append(None)
        async for text in ws:
            self.take(json.loads(text))
            if self.done.is_set():
                return

    def take(self, message: Any) -> None:
        if message == "joined":
            self.joined.set()
            return
        kept = message["group"] == "kept"
        if "resync" in message:
            if kept:
                self.kept_gaps.append(message["resync"])
            else:
                self.plain.append(None)
        elif not kept:
            self.plain.append(message.get("data"))  # it has joined: a gap
        else:
            self.last = message["id"]
            if "data" in message:
                self.kept.append((message["id"], message["data"]))
                if message["data"] == "end":
                    self.done.set()


class Load:
    """Publishes from all sides, and notes what the broker has."""

    def __init__(self, servers: list[Server], redis: RedisServer) -> None:
        self.servers = servers
        self.url = redis.url
        self.published: list[str] = []
        self.failed = 0
        self.stopped = False
        self.tasks: list[asyncio.Task[None]] = []

    def begin(self, tasks: asyncio.TaskGroup) -> None:
        self.tasks = [tasks.create_task(self.by_http(server)) for server in self.servers]
        self.tasks.append(tasks.create_task(asyncio.to_thread(self.by_script)))

    async def by_http(self, server: Server) -> None:
        async with server.async_client() as client:
            while not self.stopped:
                with contextlib.suppress(httpx.TransportError):
                    answer = await client.get(f"/publish?{GROUPS}")
                    if answer.status_code == 200:
                        self.published.append(answer.text)
                    else:
                        self.failed += 1
                await asyncio.sleep(0.05)

    def by_script(self) -> None:
        number = 0
        with Publisher(self.url, history=HISTORY, timeout=2) as publisher:
            while not self.stopped:
                number += 1
                try:
                    for group in ("plain", "kept"):
                        publisher.publish(group, f"script:{number}")
                    self.published.append(f"script:{number}")
                except BroadcastError:
                    self.failed += 1
                time.sleep(0.05)

    async def more(self, count: int = 30) -> None:
        """Wait until so many more have been published."""
        goal = len(self.published) + count
        async with asyncio.timeout(4 * PATIENCE):
            while len(self.published) < goal:
                await asyncio.sleep(0.02)

    async def end(self, clients: list[Client]) -> None:
        """Publish the last message, and wait until all clients have got it."""
        self.stopped = True
        await asyncio.wait(self.tasks)
        await asyncio.to_thread(eventually, self._publish_end, "the end is published")
        for client in clients:
            async with asyncio.timeout(4 * PATIENCE):
                await client.done.wait()

    def _publish_end(self) -> bool:
        with Publisher(self.url, history=HISTORY, timeout=2) as publisher:
            try:
                publisher.publish("kept", "end")
            except BroadcastError:
                return False
        return True


def reload(server: Server) -> None:
    old = server.children()
    server.signal(signal.SIGHUP)
    eventually(
        lambda: len(server.children()) == 2 and not old & server.children(),
        "the server has new workers",
    )
    eventually(server.answers, "it answers")


def kill_a_worker(server: Server) -> None:
    killed = max(server.children())
    os.kill(killed, signal.SIGKILL)
    eventually(
        lambda: len(server.children()) == 2 and killed not in server.children(),
        "the server has a new worker",
    )


async def fail_in_every_way(load: Load, servers: list[Server], redis: RedisServer) -> None:
    for server in servers:
        await asyncio.to_thread(reload, server)
        await load.more()
    for server in servers:
        await asyncio.to_thread(kill_a_worker, server)
        await load.more()
    for _ in range(2):
        redis.kill()
        await asyncio.to_thread(redis.start)
        await load.more()
    redis.query("client", "kill", "type", "pubsub")
    await load.more()
    redis.pause()
    await asyncio.sleep(0.5)
    redis.go_on()
    await load.more()


def assert_in_order_or_announced(client: Client) -> None:
    """Check that of each publisher nothing is missing but where a gap was told."""
    last: dict[str, int] = {}
    for text in client.plain:
        if text is None:
            last.clear()
            continue
        publisher, _, number = text.rpartition(":")
        if publisher in last:
            assert int(number) == last[publisher] + 1, client.plain
        last[publisher] = int(number)


def assert_whole(client: Client, load: Load, order: list[str]) -> None:
    """Check that everything is there from the first message on, in order, once."""
    numbers = [int(id_.rpartition(".")[2]) for id_, _ in client.kept]
    assert numbers == sorted(set(numbers))
    assert client.kept_gaps == []
    assert [text for _, text in client.kept] == order[-len(client.kept) :]


@pytest.mark.timeout(900)
async def test_nothing_is_lost_unnoticed_whatever_fails(
    launch: Callable[..., Server], redis: RedisServer
) -> None:
    servers = [
        launch(variant=variant, app=APP, workers={"workers": 2}, settings=settings(redis))
        for variant in SERVERS
    ]
    clients = [Client(servers[n % len(servers)]) for n in range(CLIENTS)]
    load = Load(servers, redis)
    async with asyncio.TaskGroup() as tasks:
        try:
            for client in clients:
                tasks.create_task(client.run())
            for client in clients:
                async with asyncio.timeout(4 * PATIENCE):
                    await client.joined.wait()
            load.begin(tasks)
            await load.more()
            await fail_in_every_way(load, servers, redis)
            await load.end(clients)
        finally:
            load.stopped = True
    longest = max(clients, key=lambda client: len(client.kept))
    order = [text for _, text in longest.kept]
    assert sum(client.connections for client in clients) > CLIENTS  # they have come again
    assert len(set(order)) == len(order)
    assert set(load.published) <= set(order)
    for client in clients:
        assert_in_order_or_announced(client)
        assert_whole(client, load, order)
