"""The demo, with its own files of settings: in one worker, and in two with Redis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from demos import SERVERS, Tab
from harness import Server
from redis_server import RedisServer


@pytest.fixture(params=SERVERS)
def start(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Server]]:
    """Start the demo."""
    servers: list[Server] = []
    monkeypatch.setattr(Server, "up", "/")
    monkeypatch.delenv("REDIS_URL", raising=False)

    def start(redis: RedisServer | None = None) -> Server:
        if redis is not None:
            redis.query("flushall")
            monkeypatch.setenv("REDIS_URL", redis.url)
        servers.append(request.param(tmp_path))
        servers[0].wait_until_up()
        return servers[0]

    yield start
    for server in servers:
        server.stop()
        assert "Traceback" not in server.log


def names(tabs: list[dict[str, Any]]) -> list[str]:
    return [tab["name"] for tab in tabs]


def check_chat(ann: Tab, bob: Tab) -> None:
    ann.send(type="say", text=" hello ")
    for tab in (ann, bob):
        message = tab.until("message")
        assert message["text"] == "hello"
        assert message["id"] == ann.welcome["id"]
    bob.send(type="rename", name="Bobby")
    assert bob.until("name")["name"] == "Bobby"
    ann.until("notice", text="Bob is now Bobby")
    ann.until_tabs(lambda tabs: "Bobby" in names(tabs) and "Bob" not in names(tabs))
    for _ in range(5):
        bob.send(type="say", text="again")
    assert bob.until("refused")["text"].startswith("Not so fast")
    bob.send(type="ping", sent=7)
    assert bob.until("pong")["sent"] == 7
    bob.send(no="type")
    bob.ws.close()
    ann.until("notice", text="Bobby left")
    ann.until_tabs(lambda tabs: "Bobby" not in names(tabs))


def test_one_worker_needs_no_redis(start: Callable[..., Server]) -> None:
    server = start()
    with ExitStack() as stack:
        ann, bob = Tab(stack, server, "name=Ann"), Tab(stack, server, "name=Bob")
        ann.until_tabs(lambda tabs: names(tabs) == ["Ann", "Bob"])
        check_chat(ann, bob)
        new = Tab(stack, server, "")
        assert new.welcome["name"].startswith("Guest ")
        assert [new.until("message")["text"] for _ in range(2)] == ["hello", "again"]
        with server.client() as client:
            answers = client.post("/race").text.splitlines()
            steps = client.get("/steps").json()
    assert len(answers) == 40
    assert steps[0][0] == "tween, before the view"


def test_with_redis_there_is_one_chat_in_two_workers(
    start: Callable[..., Server], redis: RedisServer
) -> None:
    server = start(redis)
    with ExitStack() as stack:
        ann = Tab(stack, server, "name=Ann")
        others: dict[str, Tab] = {}
        apart: list[dict[str, Any]] = []

        def elsewhere(tabs: list[dict[str, Any]]) -> bool:
            """Find one that is not in Ann's worker; ask for another tab if there is none."""
            process = next(tab["process"] for tab in tabs if tab["id"] == ann.welcome["id"])
            apart[:] = [tab for tab in tabs if tab["process"] != process]
            if not apart and len(tabs) == len(others) + 1:
                tab = Tab(stack, server, "name=Bob")
                others[tab.welcome["id"]] = tab
            return bool(apart)

        ann.until_tabs(elsewhere)
        bob = others.pop(apart[0]["id"])
        for tab in others.values():
            tab.ws.close()
        ann.until_tabs(lambda tabs: names(tabs) == ["Ann", "Bob"])
        check_chat(ann, bob)
