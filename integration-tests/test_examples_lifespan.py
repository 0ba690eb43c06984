"""The application of docs/howto/lifespan.rst, and the script of docs/howto/anywhere.rst."""

from __future__ import annotations

import configparser
import contextlib
import json
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from apps.examples import FOLDER
from harness import HANDSHAKE, OTHERS, Server, eventually
from servers import COROUTINES, SERVERS, serve

SHOP = {"tea": 3.5, "coffee": 5.0}


class Rates(ThreadingHTTPServer):
    """The server of exchange rates, which counts its connections."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), RatesHandler)
        self.rates = {"EUR": 1.0}
        self.connections: set[object] = set()
        self.accepted: list[object] = []
        self.broken = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class RatesHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Rates

    def setup(self) -> None:
        super().setup()
        self.server.connections.add(self)
        self.server.accepted.append(self)

    def finish(self) -> None:
        super().finish()
        self.server.connections.discard(self)

    def do_GET(self) -> None:
        answer: Any = self.server.rates
        if self.path.startswith("/history/"):
            answer = [self.path.rpartition("/")[2], 0.9, 1.1]
        body = json.dumps(answer).encode()
        self.send_response(500 if self.server.broken else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def rates() -> Iterator[Rates]:
    server = Rates()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "shop.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE products (name VARCHAR PRIMARY KEY, price FLOAT)")
        connection.executemany("INSERT INTO products VALUES (?, ?)", SHOP.items())
    connection.close()
    return path


@pytest.fixture
def settings(database: Path, redis, rates: Rates, monkeypatch) -> dict[str, str]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    redis.query("flushall")
    return {
        "sqlalchemy.url": f"sqlite+aiosqlite:///{database}",
        "redis.url": redis.url,
        "rates.url": rates.url,
        "rates.interval": "0.05",
    }


def start(launch: Callable[..., Server], name: str, settings: dict[str, str], **options) -> Server:
    options |= {"app": "apps.examples:shop()", "settings": settings, "wait": False}
    options |= {"variant": name} if name in OTHERS else SERVERS[name]
    server = launch(**options)
    server.up = "/rates"
    server.wait_until_up()
    return server


def stop(server: Server) -> None:
    server.signal(signal.SIGINT if server.name == "waitress" else signal.SIGTERM)


def files(server: Server, path: Path) -> int:
    """Count how often a server's processes have a file open."""
    assert server.process is not None
    found, pids = 0, [server.process.pid]
    for pid in pids:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        pids += [int(child) for child in children.split()]
        for each in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed just now
                found += each.readlink() == path
    return found


@pytest.mark.parametrize("name", [*COROUTINES, "waitress"])
def test_views_share_what_is_closed_at_the_end(
    launch, name: str, settings: dict[str, str], redis, rates: Rates, database: Path, tmp_path: Path
) -> None:
    go_on = tmp_path / "go_on"
    settings |= {
        "pyramid.includes": "aiopyramid apps.examples.include_outermost",
        "test.go_on": str(go_on),
    }
    server = start(launch, name, settings)
    with server.client() as client:
        eventually(lambda: client.get("/rates").json() == rates.rates, "the rates are known")
        assert [client.get("/products").json() for _ in range(3)] == [SHOP] * 3
        assert [client.get("/visits").json() for _ in range(3)] == [1, 2, 3]
        assert client.get("/history/EUR").json() == ["EUR", 0.9, 1.1]
    assert len(rates.accepted) <= 2  # by the task and a view
    assert redis.clients() == 1
    assert files(server, database)

    assert rates.connections
    stop(server)
    # The process lives on until it is told to go.
    eventually(lambda: not rates.connections, "the HTTP client is closed")
    eventually(lambda: redis.clients() == 0, "the client for Redis is closed")
    eventually(lambda: files(server, database) == 0, "the connections to the database are closed")
    assert server.process.poll() is None
    go_on.touch()
    server.wait()
    assert "Traceback" not in server.log
    # waitress leaves its own sockets open.
    assert name == "waitress" or "ResourceWarning" not in server.log
    assert "never awaited" not in server.log


@pytest.mark.parametrize("name", COROUTINES)
def test_new_rates_are_told_to_open_websockets(
    launch, name: str, settings: dict[str, str], rates: Rates
) -> None:
    server = start(launch, name, settings)
    with server.sync_connect("/rates") as one, server.sync_connect("/rates") as other:
        for number in range(2, 5):
            rates.rates = {"EUR": 1.0, "number": number}
            for ws in one, other:
                while json.loads(ws.recv(timeout=30)) != rates.rates:
                    pass  # that of before
        one.close()
        rates.rates = {"EUR": 2.0}
        assert json.loads(other.recv(timeout=30)) == {"EUR": 2.0}
    with server.client() as client:
        assert client.get("/rates").json() == {"EUR": 2.0}
    stop(server)
    assert server.wait() == 0
    assert "Traceback" not in server.log


def test_a_feed_that_fails_is_asked_again(launch, settings: dict[str, str], rates: Rates) -> None:
    rates.broken = True
    server = start(launch, "gunicorn", settings)
    server.wait_for_log("Background task follow_rates failed, and begins again in 1 s")
    rates.broken = False
    with server.client() as client:
        eventually(lambda: client.get("/rates").json() == rates.rates, "the rates are known")


@pytest.mark.parametrize(
    ("name", "missing"), [("gunicorn", "redis.url"), ("uwsgi", "sqlalchemy.url")]
)
def test_no_worker_begins_without_its_servers(
    launch, name: str, settings: dict[str, str], missing: str, tmp_path: Path
) -> None:
    settings[missing] = {
        "sqlalchemy.url": f"sqlite+aiosqlite:///{tmp_path / 'no' / 'such' / 'folder'}",
        "redis.url": "redis://127.0.0.1:1/0",
    }[missing]
    options = {"app": "apps.examples:shop()", "settings": settings, "wait": False}
    server = serve(launch, name, **options)
    assert server.wait() == (3 if name == "gunicorn" else 0)
    assert "ifespan could not be entered" in server.log


def test_waitress_carries_no_websockets(launch, settings: dict[str, str]) -> None:
    server = start(launch, "waitress", settings)
    with server.client() as client:
        response = client.get("/rates", headers=HANDSHAKE)
    assert response.status_code == 501


def test_a_script_uses_the_application(settings: dict[str, str], redis, tmp_path: Path) -> None:
    script = FOLDER / "add_product.py"
    ini = configparser.ConfigParser()
    ini.read(FOLDER / "shop.ini")
    assert {"use", *settings} == set(ini["app:main"])
    ini["app:main"].update(settings)
    with (tmp_path / "shop.ini").open("w") as file:
        ini.write(file)
    result = subprocess.run(
        [sys.executable, "-W", "ignore", script, tmp_path / "shop.ini", "milk", "1"],
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert result.stderr == ""
    assert json.loads(result.stdout) == {**SHOP, "milk": 1.0}
    assert redis.clients() == 0
