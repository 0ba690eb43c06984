"""Server-sent events under each server, to real clients and a real browser."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import browser
import httpx
import pytest
from harness import Server, eventually
from redis_server import RedisServer

APP = "apps.events:main()"


@pytest.fixture(scope="module")
def app() -> str:
    return APP


def counts(server: Server) -> dict[str, int]:
    return server.state()["counts"]


def eventually_counts(server: Server, **expected: int) -> None:
    def as_expected() -> bool:
        now = counts(server)
        return all(now.get(name.replace("_", " "), 0) == value for name, value in expected.items())

    eventually(as_expected, f"the application counts {expected}")


def request(server: Server, path: str, **headers: str) -> socket.socket:
    """Send a request by hand."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    sock = server.socket()
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode())
    return sock


def read_until(sock: socket.socket, text: bytes) -> bytes:
    data = b""
    while text not in data:
        more = sock.recv(65536)
        assert more, data
        data += more
    return data


@contextlib.contextmanager
def stream(server: Server, path: str, **options: Any) -> Iterator[httpx.Response]:
    with server.client() as client, client.stream("GET", path, **options) as response:
        yield response


def test_events_come_as_the_standard_says(server: Server) -> None:
    with stream(server, "/numbers", headers={"Last-Event-ID": "7"}) as response:
        assert response.status_code == 200
        assert response.headers["Content-Type"] == "text/event-stream"
        assert response.headers["Cache-Control"] == "no-cache"
        assert response.headers["X-Accel-Buffering"] == "no"
        assert "Content-Length" not in response.headers
        text = "".join(response.iter_text())
    assert text == "retry: 50\n\n" + "".join(
        f"event: number\nid: {number}\ndata: number {number}\ndata: of many\n\n"
        for number in (8, 9, 10)
    )


def test_a_plain_view_s_request_lives_as_long_as_its_events(server: Server) -> None:
    streams = [
        stream(server, f"/plain?name={name}", headers={"X-Me": name}) for name in ("ann", "bob")
    ]
    with streams[0] as first, streams[1] as second:
        for name, response in (("ann", first), ("bob", second)):
            lines = [line for line in response.iter_lines() if line.startswith("data")]
            assert lines == [f"data: {name} {name} True {name}"] * 3


def test_comments_keep_the_connection_alive(server: Server) -> None:
    with stream(server, "/patient") as response:
        lines = response.iter_lines()
        kept = 0
        for line in lines:
            kept += line == ": keep-alive"
            if kept == 3:
                with server.client() as client:
                    client.get("/go_on")
            if line == "data: at last":
                break
    assert kept >= 3


def leave_by_fin(sock: socket.socket) -> None:
    sock.shutdown(socket.SHUT_WR)


def leave_by_reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.mark.parametrize("leave", [leave_by_fin, leave_by_reset, socket.socket.close])
def test_a_client_that_leaves_is_noticed_at_once(
    server: Server, leave: Callable[[socket.socket], None]
) -> None:
    before = counts(server).get("silent", 0)
    sock = request(server, "/silent")
    read_until(sock, b": \n\n")
    eventually_counts(server, silent=before + 1, silent_ended=before)
    leave(sock)
    # No event is sent, and the next comment would be in 15 s.
    eventually_counts(server, silent_ended=before + 1)
    sock.close()


def test_a_client_that_has_left_before_its_events_begin_is_no_error(server: Server) -> None:
    before = counts(server).get("silent", 0)
    for _ in range(20):
        with request(server, "/silent") as sock:
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65536):
                """To the end."""

    def settled() -> bool:
        now = counts(server)
        return now.get("silent", 0) == now.get("silent ended", 0) >= before

    eventually(settled, "all have ended")
    assert "Error handling request GET /silent" not in server.log
    assert "Error in the events of /silent" not in server.log


def test_listeners_hold_no_threads(server: Server) -> None:
    """More than the server has threads, while it serves others."""
    sockets = [request(server, "/listen") for _ in range(60)]
    for sock in sockets:
        read_until(sock, b": \n\n")
    state = server.eventually_state(
        lambda state: state if state["queues"] == 60 else None, "all listen"
    )
    assert state["threads"] < 40
    with server.client() as client:
        assert client.get("/tell", params={"text": "hello"}).json() == [True] * 60
    for sock in sockets:
        assert b"data: hello\n\n" in read_until(sock, b"hello\n\n")
        sock.close()
    server.eventually_state(lambda state: state["queues"] == 0, "all have left")


def test_a_listener_that_falls_behind_is_disconnected(server: Server) -> None:
    with stream(server, "/listen") as response:
        server.eventually_state(lambda state: state["queues"] == 1, "it listens")
        texts = [str(number) for number in range(5)]
        with server.client() as client:
            # In one go, so that no listener can keep up.
            answer = client.get("/tell", params={"text": texts}).json()
        assert answer == [True, True, True, False, False]
        assert "data" not in "".join(response.iter_text())
    server.eventually_state(lambda state: state["queues"] == 0, "it is gone")


def test_an_iterator_that_fails_is_logged_once_and_does_not_look_complete(
    launch: Callable[..., Server], variant: str
) -> None:
    server = launch(variant=variant, app=APP)
    sock = request(server, "/failing")
    data = read_until(sock, b"data: one\n\n")
    with sock:
        while more := sock.recv(65536):
            data += more
    assert not data.endswith(b"0\r\n\r\n")
    eventually(lambda: "ValueError: no more events" in server.log, "it is logged")
    server.stop()
    assert server.log.count("ValueError: no more events") == 1


def test_a_client_that_does_not_read_holds_up_its_iterator_alone(server: Server) -> None:
    sock = request(server, "/flood")
    eventually(lambda: counts(server).get("poured", 0) > 5, "the flood begins")
    poured = -1

    def has_stopped() -> bool:
        nonlocal poured
        before, poured = poured, counts(server)["poured"]
        return before == poured

    eventually(has_stopped, "the iterator waits")
    assert poured < 1000
    leave_by_reset(sock)
    eventually_counts(server, flood_ended=1)


def test_middleware_may_change_the_body(server: Server) -> None:
    with stream(server, "/zipped/numbers") as response:
        raw = b"".join(response.iter_raw())
    assert gzip.decompress(raw).endswith(b"id: 3\ndata: number 3\ndata: of many\n\n")


def test_head_has_no_events(server: Server) -> None:
    with server.client() as client:
        response = client.head("/numbers")
    assert response.headers["Content-Type"] == "text/event-stream"
    before = counts(server).get("connections", 0)
    assert counts(server).get("connections", 0) == before


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_the_end_of_the_server_ends_the_events(
    launch: Callable[..., Server], variant: str, signum: int
) -> None:
    server = launch(variant=variant, app=APP)
    sock = request(server, "/silent")
    read_until(sock, b": \n\n")
    server.signal(signum)
    with sock:
        while sock.recv(65536):
            """To the end."""
    assert server.wait() == 0
    assert "Traceback" not in server.log
    assert "did not end in time" not in server.log


@pytest.fixture
def page(launch: Callable[..., Server], variant: str, tmp_path: Path) -> Iterator[Server]:
    if not browser.is_installed():
        pytest.skip(browser.NEEDS)
    server = launch(variant=variant, app=APP)
    with browser.open_browser(tmp_path / "browser") as driver:
        driver.get(f"{server.url}/page")
        yield server


def test_a_browser_comes_again_for_what_it_has_not_seen(page: Server) -> None:
    def seen() -> list[str]:
        return [event["id"] for event in page.state()["seen"]]

    eventually(lambda: len(seen()) >= 9, "the browser has come three times")
    ids = [int(number) for number in seen()]
    assert sorted(ids) == list(range(1, len(ids) + 1))
    assert page.state()["seen"][0]["data"].endswith("\nof many")
    pid, last = page.state()["pid"], max(ids)
    page.signal(signal.SIGHUP)

    def goes_on() -> bool:
        try:
            state = page.state()
        except httpx.TransportError:
            return False
        return state["pid"] != pid and len(state["seen"]) >= 3

    eventually(goes_on, "the browser has come to the new worker")
    assert min(int(number) for number in seen()) > last


def test_the_example_of_the_documentation(
    launch: Callable[..., Server], variant: str, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("redis", reason="needs redis")
    monkeypatch.setattr(Server, "up", "/")
    redis.query("flushall")
    server = launch(
        variant=variant,
        app="apps.examples:events()",
        workers={"workers": 2},
        settings={"aiopyramid.broadcast.url": redis.url},
    )

    def publish(text: str) -> int:
        with server.client() as client:
            return int(client.post("/news", data={"text": text}).json()["listeners"])

    def read(count: int) -> list[str]:
        return list(itertools.islice(lines, count))

    publish("one")
    with stream(server, "/events", headers={"Last-Event-ID": "nonsense"}) as response:
        lines = response.iter_lines()
        assert read(5) == ["retry: 1000", "", "event: gap", "data: history", ""]
        event, first, data, _ = read(4)
        assert (event, data) == ("event: news", "data: one")
        publish("two")
        event, second, data, _ = read(4)
        assert (event, data) == ("event: news", "data: two")
        assert first.startswith("id: ")
        assert second != first
        eventually(lambda: publish("three") == 1, "the listener is counted")
    eventually(lambda: publish("four") == 0, "the listener is forgotten")
    last = {"Last-Event-ID": first.removeprefix("id: ")}
    with stream(server, "/events", headers=last) as response:
        lines = response.iter_lines()
        assert read(5)[2:] == ["event: news", second, "data: two"]
    with stream(server, "/events") as response:
        lines = response.iter_lines()
        assert read(3)[2] == "event: news"  # one of the last ten
