"""Groups under each server: presence, the end of connections, slow members, and brokers."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from typing import Any

import postgres as postgresql
import pytest
import redis_server
from harness import PATIENCE, RawWebsocket, Server, eventually, reserve_port
from redis_server import RedisServer
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection

from aiopyramid.broadcast.publisher import Publisher

APP = "apps.broadcast:main()"


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    executable = redis_server.executable()
    if executable is None:
        pytest.skip(redis_server.NEEDS)
    server = RedisServer(executable)
    yield server
    server.stop()


@pytest.fixture
def database(postgres: postgresql.Postgres) -> postgresql.Database:
    return postgres.database()


Start = Callable[..., Server]


@pytest.fixture
def start(launch: Callable[..., Server], variant: str) -> Start:
    def start_server(workers: int = 2, **values: Any) -> Server:
        settings = {f"aiopyramid.broadcast.{name}": value for name, value in values.items()}
        return launch(variant=variant, app=APP, workers={"workers": workers}, settings=settings)

    return start_server


def joined(ws: ClientConnection) -> ClientConnection:
    """Wait until a connection is in its groups."""
    while json.loads(ws.recv(PATIENCE)) != "joined":
        pass
    return ws


def data(ws: ClientConnection) -> Any:
    return json.loads(ws.recv(PATIENCE)).get("data")


def ask(server: Server, path: str, **params: Any) -> Any:
    with server.client() as client:
        answer = client.get(path, params=params)
        answer.raise_for_status()
        return answer.json() if answer.headers["Content-Type"].startswith("application") else None


def members_in_both_workers(server: Server, stack: contextlib.ExitStack) -> list[ClientConnection]:
    """Open connections until each of two workers has some."""
    connections: list[ClientConnection] = []

    def spread() -> bool:
        path = f"/ws?group=g&info=n{len(connections)}"
        connections.append(joined(stack.enter_context(server.sync_connect(path))))
        workers = ask(server, "/who", group="g")["workers"]
        return len(workers) == 2 and min(workers.values()) > 0

    eventually(spread, "both workers have connections")
    return connections


@pytest.mark.parametrize("broker", ["redis", "database"])
def test_members_in_all_workers_get_what_any_of_them_publishes(
    start: Start, broker: str, request: pytest.FixtureRequest
) -> None:
    found = request.getfixturevalue(broker)
    url = found.url if broker == "redis" else found.url()
    server = start(url=url, prefix=f"test{reserve_port()}")
    with contextlib.ExitStack() as stack:
        connections = members_in_both_workers(server, stack)
        ask(server, "/plain_publish", group="g", text="plain")
        connections[0].send("said")
        with Publisher(url, prefix="another") as publisher:
            publisher.publish("g", "of another application")
        assert [data(ws) for ws in connections] == ["plain"] * len(connections)
        assert [data(ws) for ws in connections[1:]] == ["said"] * (len(connections) - 1)


def test_who_is_there_is_right_after_a_worker_was_killed(start: Start, redis: RedisServer) -> None:
    server = start(url=redis.url, prefix=f"test{reserve_port()}")
    with contextlib.ExitStack() as stack:
        connections = members_in_both_workers(server, stack)
        found = ask(server, "/who", group="g")
        assert found["count"] == len(connections)
        assert sorted(found["members"]) == sorted(f"n{n}" for n in range(len(connections)))
        victim, there = max(found["workers"].items(), key=lambda item: item[1])
        os.kill(int(victim), signal.SIGKILL)

        def is_right() -> bool:
            found = ask(server, "/who", group="g")
            assert found["count"] in (len(connections), len(connections) - there)
            return bool(found["count"] == len(connections) - there)

        eventually(is_right, "the members of the killed worker do not count")


def test_a_logout_closes_the_connections_of_a_user_everywhere(
    start: Start, redis: RedisServer
) -> None:
    server = start(url=redis.url, prefix=f"test{reserve_port()}")
    with contextlib.ExitStack() as stack:
        connections = members_in_both_workers(server, stack)
        other = joined(stack.enter_context(server.sync_connect("/ws?group=other")))
        ask(server, "/logout", group="g")
        for ws in connections:
            with pytest.raises(ConnectionClosed) as caught:
                ws.recv(PATIENCE)
            assert caught.value.rcvd is not None
            assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (4001, "logged out")
        ask(server, "/plain_publish", group="other", text="still here")
        assert data(other) == "still here"
        eventually(lambda: ask(server, "/who", group="g")["count"] == 0, "nobody is in the group")


def test_a_worker_that_is_drained_takes_no_more_connections(start: Start) -> None:
    server = start(workers=1)
    with contextlib.ExitStack() as stack:
        connections = [
            joined(stack.enter_context(server.sync_connect("/ws?group=g"))) for _ in range(5)
        ]
        ask(server, "/drain", over=0.2)
        for ws in connections:
            with pytest.raises(ConnectionClosed) as caught:
                ws.recv(PATIENCE)
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == 1012
        with pytest.raises(InvalidStatus) as refused:
            server.sync_connect("/ws?group=g")
        assert refused.value.response.status_code == 503
        assert b"drained" in refused.value.response.body
        found = ask(server, "/who", group="g")  # requests are answered as before
        assert found["draining"] == [int(pid) for pid in found["workers"]]


@pytest.mark.parametrize("overflow", ["close", "drop_oldest", "drop_newest"])
def test_a_member_that_reads_nothing_holds_up_nobody(start: Start, overflow: str) -> None:
    server = start(workers=1, overflow=overflow, max_queue=20)
    slow = server.raw_websocket("/ws?group=g")
    with (
        slow,
        server.sync_connect("/ws?group=g", max_size=None) as ws,
        server.sync_connect("/ws?group=g") as publisher,
    ):
        joined(ws)
        joined(publisher)
        for n in range(400):
            publisher.send(f"{n:03d}" + "x" * 50_000)
            assert data(ws)[:3] == f"{n:03d}"
        frames = read_texts(slow, overflow)
    numbers = [int(each["data"][:3]) for each in frames if "data" in each]
    gaps = [n for n, each in enumerate(frames) if "resync" in each]
    assert numbers == sorted(set(numbers))
    if overflow == "close":
        assert numbers == list(range(len(numbers)))
        assert len(numbers) < 400
        assert not gaps
    else:
        assert gaps
        assert {frames[n]["resync"] for n in gaps} == {"overflow"}
        assert (numbers[-1] == 399) is (overflow == "drop_oldest")


def read_texts(slow: RawWebsocket, overflow: str) -> list[Any]:
    """Read what a slow member has been sent, up to the last message or the close frame."""
    slow.socket.settimeout(PATIENCE)
    texts: list[Any] = []
    while True:
        first, payload = slow.receive()
        if first == 0x88:
            assert overflow == "close"
            assert payload[:2] == (1013).to_bytes(2, "big")
            return texts
        if first == 0x81:
            message = json.loads(payload)
            texts.append(message)
            if isinstance(message, dict) and message.get("data", "")[:3] == "399":
                return [each for each in texts if isinstance(each, dict) and len(each) > 1]
            if overflow == "drop_newest" and isinstance(message, dict) and "resync" in message:
                return [each for each in texts if isinstance(each, dict) and len(each) > 1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": "redsi://x"}, r"aiopyramid\.broadcast\.url = 'redsi://x' is not allowed"),
        ({"url": "redis://:wrong@127.0.0.1:{port}"}, r"the broker at .*:\*\*\*@.* refuses"),
        ({"max_queue": "many"}, r"aiopyramid\.broadcast\.max_queue = 'many' is not allowed"),
    ],
)
def test_a_wrong_setting_stops_the_start(
    launch: Callable[..., Server],
    variant: str,
    redis: RedisServer,
    settings: dict[str, Any],
    message: str,
) -> None:
    given = {
        f"aiopyramid.broadcast.{name}": str(value).format(port=redis.port)
        for name, value in settings.items()
    }
    server = launch(variant=variant, app=APP, settings=given, wait=False)
    eventually(lambda: re.search(message, server.log), "the log says why")


def test_an_application_runs_without_its_broker(start: Start) -> None:
    server = start(workers=1, url=f"redis://127.0.0.1:{reserve_port()}", timeout=1)
    with server.client() as client, server.sync_connect("/ws?group=g") as ws:
        joined(ws)
        answer = client.get("/publish?group=g")
        assert answer.status_code == 503
        assert client.get("/up").status_code == 200
    assert "cannot be reached" in server.log
    assert "Traceback" not in server.log


def test_several_workers_without_a_broker_are_warned(start: Start) -> None:
    server = start()
    with server.sync_connect("/ws?group=g") as ws:
        joined(ws)
    server.wait_for_log(r"Set aiopyramid\.broadcast\.url to a broker")
