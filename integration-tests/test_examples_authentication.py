"""The applications of docs/howto/authentication.rst, under each server."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import browser
import httpx
import pytest
from harness import WEBSOCKET_VARIANTS, Server, closing, cookies
from redis_server import RedisServer
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection

Launch = Callable[..., Server]

PASSWORDS = {"ann": "apple", "bob": "banana"}
TOKEN = "c29tZXRoaW5nLXNlY3JldA"
SIGNED_OUT = (4401, "signed out")
FORBIDDEN, TOO_MANY_REQUESTS = 403, 429


@pytest.fixture(scope="session", params=WEBSOCKET_VARIANTS)
def variant(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def start(launch: Launch, variant: str, folder: Path, **settings: str) -> Server:
    settings |= {
        "session.secret": "of the tests",
        "session.secure": "false",  # there is no TLS
        "sign_ins": str(folder / "sign_ins"),
    }
    app = "apps.examples:signed_in()"
    workers = {"workers": 2 if "aiopyramid.broadcast.url" in settings else 1}
    server = launch(variant=variant, app=app, settings=settings, workers=workers, wait=False)
    server.up = "/"
    server.wait_until_up()
    return server


def csrf_token(client: httpx.Client) -> str:
    found = re.search(r'name="csrf_token" value="(\w+)"', client.get("/").text)
    assert found
    return found[1]


def post(client: httpx.Client, path: str, **fields: str) -> httpx.Response:
    return client.post(path, data=fields | {"csrf_token": csrf_token(client)})


@contextlib.contextmanager
def user(server: Server, name: str) -> Iterator[httpx.Client]:
    """A browser in which somebody has signed in."""
    with server.client() as client:
        assert post(client, "/sign_in", user=name, password=PASSWORDS[name]).status_code == 303
        yield client


class Connections(contextlib.ExitStack):
    """WebSockets, until the block ends."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self.server = server

    def open(self, client: httpx.Client, **options: Any) -> ClientConnection:
        ws = self.server.sync_connect("/inbox", additional_headers=cookies(client), **options)
        self.enter_context(ws)
        assert ws.recv(timeout=30) == "connected"
        return ws

    def refused(self, client: httpx.Client, **options: Any) -> int:
        with pytest.raises(InvalidStatus) as refused:
            self.server.sync_connect("/inbox", additional_headers=cookies(client), **options)
        return refused.value.response.status_code


def test_who_has_not_signed_in_gets_no_websocket(
    launch: Launch, variant: str, tmp_path: Path
) -> None:
    server = start(launch, variant, tmp_path)
    with server.client() as nobody, Connections(server) as connections:
        assert connections.refused(nobody) == FORBIDDEN
        assert post(nobody, "/sign_in", user="ann", password="x").status_code == FORBIDDEN
        assert connections.refused(nobody) == FORBIDDEN


def test_forms_need_a_token_and_websockets_an_origin(
    launch: Launch, variant: str, tmp_path: Path
) -> None:
    server = start(launch, variant, tmp_path)
    with server.client() as client:
        fields = {"user": "ann", "password": "apple"}
        assert client.post("/sign_in", data=fields).status_code == 400
    with user(server, "ann") as ann, Connections(server) as connections:
        assert connections.refused(ann, origin="https://evil.example") == FORBIDDEN
        connections.open(ann, origin=server.url)
        connections.open(ann)  # no browser


def test_permissions_count_for_each_group(launch: Launch, variant: str, tmp_path: Path) -> None:
    server = start(launch, variant, tmp_path)
    with (
        user(server, "ann") as ann,
        user(server, "bob") as bob,
        Connections(server) as connections,
    ):
        first, second = connections.open(ann), connections.open(bob)
        for room in ("kitchen", "cellar"):
            first.send(room)
            assert first.recv(timeout=30) == "ann enters"
        second.send("cellar")
        assert second.recv(timeout=30) == "you may not enter"
        second.send("kitchen")
        assert second.recv(timeout=30) == "bob enters"
        assert first.recv(timeout=30) == "bob enters"


def test_signed_out_is_signed_out_everywhere(
    launch: Launch, variant: str, tmp_path: Path, redis: RedisServer
) -> None:
    redis.query("flushall")
    server = start(launch, variant, tmp_path, **{"aiopyramid.broadcast.url": redis.url})
    with (
        user(server, "ann") as desk,
        user(server, "ann") as phone,
        user(server, "bob") as bob,
        Connections(server) as connections,
    ):
        open_ones = [connections.open(client) for client in (desk, phone) * 3]
        other = connections.open(bob)
        assert post(desk, "/sign_out").status_code == 303
        assert [closing(ws) for ws in open_ones] == [SIGNED_OUT] * len(open_ones)
        assert connections.refused(phone) == FORBIDDEN
        assert "You are" not in phone.get("/").text
        other.send("kitchen")
        assert other.recv(timeout=30) == "bob enters"


def test_each_message_asks_again(launch: Launch, variant: str, tmp_path: Path) -> None:
    server = start(launch, variant, tmp_path)
    with user(server, "ann") as ann, Connections(server) as connections:
        ws = connections.open(ann)
        with contextlib.closing(sqlite3.connect(tmp_path / "sign_ins")) as database, database:
            database.execute("DELETE FROM sign_ins")  # and nobody tells the connection
        ws.send("kitchen")
        assert closing(ws) == SIGNED_OUT


def test_a_user_has_ten_connections(launch: Launch, variant: str, tmp_path: Path) -> None:
    server = start(launch, variant, tmp_path)
    with (
        user(server, "ann") as ann,
        user(server, "bob") as bob,
        Connections(server) as connections,
    ):
        for _ in range(10):
            connections.open(ann)
        assert connections.refused(ann) == TOO_MANY_REQUESTS
        connections.open(bob)


def test_a_token_is_a_header_or_a_subprotocol(launch: Launch, variant: str) -> None:
    server = launch(variant=variant, app="apps.examples:tokens()", wait=False)
    server.port = int(server.wait_for_log(server.listening).group(1))
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    with server.sync_connect("/feed", additional_headers=bearer) as ws:
        assert ws.recv(timeout=30) == "hello, ann"
    with server.sync_connect("/feed", subprotocols=["feed.v1", f"token.{TOKEN}"]) as ws:
        assert ws.recv(timeout=30) == "hello, ann"
        assert ws.subprotocol == "feed.v1"
    for offered in (["feed.v1"], ["feed.v1", "token.wrong"]):
        with pytest.raises(InvalidStatus) as refused:
            server.sync_connect("/feed", subprotocols=offered)
        assert refused.value.response.status_code == FORBIDDEN
    assert TOKEN not in server.log


# In a browser.

in_a_browser = pytest.mark.skipif(not browser.is_installed(), reason=browser.NEEDS)
ONCE = pytest.mark.parametrize("variant", ["gunicorn-uvloop", "uwsgi-threads"])

OPEN = """
const [path, protocols, done] = arguments;
const socket = new WebSocket(path, protocols);
socket.onmessage = ({ data }) => done({ data, protocol: socket.protocol });
socket.onclose = ({ code, reason }) => done({ code, reason });
"""


@in_a_browser
@ONCE
def test_a_page_signs_in_listens_and_is_signed_out(
    launch: Launch, variant: str, tmp_path: Path
) -> None:
    server = start(launch, variant, tmp_path)
    with browser.open_browser(tmp_path / "browser") as page, user(server, "ann") as phone:
        page.get(server.url)
        # A script does not learn why it is refused.
        assert page.execute_async_script(OPEN, "/inbox", []) == {"code": 1006, "reason": ""}
        for name, text in {"user": "ann", "password": "apple"}.items():
            page.find_element("name", name).send_keys(text)
        page.find_element("tag name", "button").click()
        browser.until(page, "document.getElementById('state')?.textContent === 'connected'")
        assert post(phone, "/sign_out").status_code == 303
        browser.until(page, "document.querySelector('[name=password]')")


@in_a_browser
@ONCE
def test_a_page_sends_a_token_as_a_subprotocol(
    launch: Launch, variant: str, tmp_path: Path
) -> None:
    server = launch(variant=variant, app="apps.examples:tokens()", wait=False)
    server.port = int(server.wait_for_log(server.listening).group(1))
    token = f"token.{TOKEN}"
    with browser.open_browser(tmp_path / "browser") as page:
        page.get(f"{server.url}/none")
        opened = page.execute_async_script(OPEN, "/feed", ["feed.v1", token])
        assert opened == {"data": "hello, ann", "protocol": "feed.v1"}
        # The server chooses none of those that are offered.
        failed = page.execute_async_script(OPEN, "/feed", [token])
        assert failed == {"code": 1006, "reason": ""}
