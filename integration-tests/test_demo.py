"""The demo, with its own files of settings: in one worker, and in two with Redis."""

from __future__ import annotations

import functools
import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import browser
import pytest
from harness import HERE, Server, UWSGILoopServer, reserve_port
from redis_server import RedisServer
from selenium.webdriver.common.by import By

ROOT = HERE.parent


def gunicorn(folder: Path) -> Server:
    command = [sys.executable, "-m", "gunicorn", "-c", "demo/gunicorn.conf.py"]
    server = Server(folder / "server.log")
    server.launch(command=[*command, "--bind", "127.0.0.1:0", "--no-control-socket"], cwd=ROOT)
    return server


def uwsgi(folder: Path) -> Server:
    settings = (ROOT / "demo" / "uwsgi.ini").read_text()
    # The port may be somebody's, and a second socket would not replace it.
    settings = settings.replace("127.0.0.1:8000", f"127.0.0.1:{reserve_port()}")
    (folder / "uwsgi.ini").write_text(settings)
    command = [UWSGILoopServer.executable(), "--ini", folder / "uwsgi.ini"]
    server = UWSGILoopServer(folder / "server.log")
    server.launch(
        command=[*map(str, command), "--virtualenv", sys.prefix],
        cwd=ROOT,
    )
    return server


@pytest.fixture(params=[gunicorn, uwsgi])
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


class Tab:
    """A tab of the page, without the page."""

    def __init__(self, stack: ExitStack, server: Server, query: str) -> None:
        self.ws = stack.enter_context(server.sync_connect(f"/?{query}"))
        self.welcome = self.until("welcome")

    def send(self, **message: Any) -> None:
        self.ws.send(json.dumps(message))

    def until(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Wait for a message of a kind, with these fields."""
        while True:
            message = json.loads(self.ws.recv(30))
            if "group" in message:
                message = json.loads(message["data"]) if "data" in message else message
            if message.get("type") == kind and message.items() >= fields.items():
                return message

    def until_tabs(self, condition: Callable[[list[dict[str, Any]]], bool]) -> None:
        """Wait until it is told of tabs as the condition wants them."""
        while not condition(self.until("members")["tabs"]):
            """The next."""


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


def test_the_page_shows_what_was_said_while_the_server_restarted(
    start: Callable[..., Server], redis: RedisServer, tmp_path: Path
) -> None:
    if not browser.is_installed():
        pytest.skip(browser.NEEDS)
    server = start(redis)
    with browser.open_browser(tmp_path / "browser") as page, ExitStack() as stack:
        page.get(f"{server.url}/")

        find, find_all = (
            functools.partial(find, By.CSS_SELECTOR)
            for find in (page.find_element, page.find_elements)
        )

        def shown() -> list[str]:
            return [span.text for span in find_all("#log li span")]

        def say(text: str) -> None:
            find("#text").send_keys(text)
            find("#say button").click()

        is_open = "document.querySelector('#state').innerText === 'Connected'"
        browser.until(page, is_open)
        browser.until(page, "document.querySelector('#members').innerText.startsWith('Here: G')")
        assert find("#tabs").text == "1 tab open"
        say("one")
        browser.until(page, "document.querySelector('#log .own') !== null")
        server.signal(signal.SIGHUP)
        browser.until(page, "document.querySelector('#log .gap') !== null")
        browser.until(page, is_open)
        bob = Tab(stack, server, "name=Bob")
        assert bob.until("message")["text"] == "one"
        bob.send(type="say", text="two")
        browser.until(page, "document.querySelectorAll('#log li span').length >= 2")
        browser.until(page, "document.querySelector('#members').innerText.includes('Bob')")
        say("three")
        bob.until("message", text="three")
        browser.until(page, "document.querySelectorAll('#log .own').length === 2")
        assert shown() == ["one", "two", "three"]
        find("#start").click()
        browser.until(page, "document.querySelector('#meanwhile').innerText.startsWith('Slowest')")
        find("#follow").click()
        browser.until(page, "document.querySelectorAll('#steps dt').length >= 5")
