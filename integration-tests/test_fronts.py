"""The application behind nginx and behind uWSGI's own routers: the same as without."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fronts import Front, fronts_of
from harness import NEEDS_TLS, RawWebsocket, frame, uwsgi_has_tls
from test_websocket import closed_with
from websockets.exceptions import InvalidStatus
from websockets.frames import Close

FRONTS = fronts_of("gunicorn-uvloop", "uwsgi-threads", "uwsgi-uvloop")
# For tests that need a server of their own, and so take long.
ONCE = fronts_of("gunicorn-uvloop", "uwsgi-threads")
SETTINGS = {"aiopyramid.websocket.disconnect_grace": "0.1"}


@pytest.fixture
def start(tmp_path: Path, tls_files: dict[str, Path]) -> Iterator[Callable[[str, str], Front]]:
    """Make fronts for one test, to be launched by it."""
    fronts: list[Front] = []

    def make(variant: str, name: str) -> Front:
        fronts.append(make_front(variant, name, tmp_path, tls_files))
        return fronts[-1]

    yield make
    for front in fronts:
        front.stop()


@pytest.fixture(scope="module", params=FRONTS, ids=": ".join)
def front(request, tmp_path_factory, tls_files) -> Iterator[Front]:
    """Each front with the test application, for all tests of this module."""
    front = make_front(*request.param, tmp_path_factory.mktemp("front"), tls_files)
    try:
        front.launch(settings=SETTINGS)
        yield front
    finally:
        front.stop()


def make_front(variant: str, name: str, folder: Path, tls_files: dict[str, Path]) -> Front:
    if "_pass" in name and shutil.which("nginx") is None:
        pytest.skip("needs nginx, Debian's package of that name")
    if name == "https" and not uwsgi_has_tls():
        pytest.skip(NEEDS_TLS)
    return Front(variant, name, folder, tls_files)


# HTTP.


def test_coroutine_views_and_threaded_views_answer(front: Front):
    with front.clients.client() as client:
        assert client.get("/sleep?s=0").json()["same"]
        assert client.get("/generator").json()["same"]
        assert client.get("/threaded").json()["waited"] == "waited"


def test_a_large_body_comes_and_goes_whole(front: Front):
    body = os.urandom(3 * 2**20)
    with front.clients.client() as client:
        assert client.post("/echo_body", content=body).content == body


def test_a_body_of_unknown_length_arrives(front: Front):
    with front.clients.client() as client:
        chunks = iter([b"x" * 65536] * 16)
        assert client.post("/count_body", content=chunks).json() == {"size": 2**20}


def test_a_stream_is_passed_on_as_it_comes(front: Front):
    with front.clients.client() as client, client.stream("GET", "/stream_held") as response:
        chunks = response.iter_raw()
        assert next(chunks) == b"begin"
        with front.clients.client() as other:
            assert other.get("/go_on").text == "ok"
        assert b"".join(chunks) == b"end"


SPOOFED = {
    "Forwarded": "for=192.0.2.1;host=evil.example;proto=gopher",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Port": "1",
    "X-Forwarded-Proto": "gopher",
    "X_Forwarded_Proto": "gopher",
}


@pytest.mark.parametrize("headers", [{}, SPOOFED], ids=["plain", "spoofed"])
def test_the_application_sees_the_address_that_the_browser_has(front: Front, headers):
    with front.clients.client() as client:
        environ = client.get("/environ", headers=headers).json()
    seen = f"{environ['wsgi.url_scheme']}://{environ['HTTP_HOST']}"
    assert seen == front.clients.url


# WebSockets.


@pytest.mark.parametrize("path", ["/echo", "/echo_deflate"])
def test_messages_are_echoed(front: Front, path: str):
    with front.clients.sync_connect(path, max_size=None) as ws:
        assert ("Sec-WebSocket-Extensions" in ws.response.headers) == (path == "/echo_deflate")
        for message in ["text", b"binary", "", os.urandom(2**20), "ü" * 2**17]:
            ws.send(message)
            assert ws.recv() == message


def test_a_frame_right_behind_the_handshake_is_kept_by_nginx(front: Front):
    with RawWebsocket(dial(front), "/echo", {}, early=frame(0x81, b"early")) as ws:
        assert ws.status == 101
        ws.send(frame(0x81, b"late"))
        # uWSGI's routers drop what comes too early.
        assert ws.receive() == (0x81, b"early" if front.is_nginx else b"late")


def dial(front: Front) -> socket.socket:
    sock = front.clients.socket()
    context = front.clients.trust
    return context.wrap_socket(sock, server_hostname="127.0.0.1") if context else sock


def test_the_own_origin_alone_is_accepted(front: Front):
    own = front.clients.url
    other_scheme = own.replace("https", "http") if front.tls else own.replace("http", "https")
    foreign = [other_scheme, f"{own}1", own.rpartition(":")[0], "https://evil.example", "null"]
    for headers in {}, SPOOFED, SPOOFED | {"X-Forwarded-Proto": other_scheme.partition(":")[0]}:
        with front.clients.sync_connect("/echo", origin=own, additional_headers=headers) as ws:
            ws.send("same origin")
            assert ws.recv() == "same origin"
        for origin in foreign:
            with pytest.raises(InvalidStatus) as refused:
                front.clients.sync_connect("/echo", origin=origin, additional_headers=headers)
            assert refused.value.response.status_code == 403


# The end, and idleness.


def wait_for_record(front: Front, record: list[object], count: int = 1) -> None:
    front.clients.eventually_state(
        lambda state: state["records"].count(record) == count, f"{record} is recorded"
    )


def test_the_servers_close_code_arrives(front: Front):
    with front.clients.sync_connect("/recorder") as ws:
        ws.send("close")
        assert closed_with(ws) == Close(4001, "asked for")
    with front.clients.sync_connect("/recorder") as ws:
        ws.send("fail")
        assert closed_with(ws).code == 1011


def test_the_clients_close_code_arrives(front: Front):
    with front.clients.sync_connect("/recorder") as ws:
        ws.close(4321, "client's reason")
        assert ws.close_code == 4321
    wait_for_record(front, [4321, "client's reason"])


@pytest.mark.parametrize("activity", ["sleep", "tick", "nothing"])
def test_a_view_is_told_that_its_client_is_gone(front: Front, activity: str):
    lost = [1006, ""]
    before = front.clients.state()["records"].count(lost)
    with front.clients.sync_connect("/recorder") as ws:
        assert ws.recv() == "opened"
        ws.send(activity)
        # Reset, without a closing handshake.
        ws.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        ws.socket.shutdown(socket.SHUT_RDWR)
        wait_for_record(front, lost, before + 1)


@pytest.mark.parametrize("pair", ONCE, ids=": ".join)
def test_a_server_that_ends_tells_its_clients(start, pair: tuple[str, str], tmp_path: Path):
    front, fifo = start(*pair), tmp_path / "fifo"
    gunicorn = front.server.name == "gunicorn"
    front.launch(args=[] if gunicorn else ["--master-fifo", str(fifo)])
    with front.clients.sync_connect("/recorder") as ws:
        assert ws.recv() == "opened"
        if gunicorn:
            front.server.signal(signal.SIGTERM)
        else:
            # Replaces the workers; a signal would end the router before them.
            fifo.write_text("c")
        assert closed_with(ws).code == (1001 if gunicorn else 1012)


@pytest.mark.parametrize(
    "pair",
    [pair for pair in ONCE if pair[1] in ("http", "proxy_pass", "uwsgi_pass tls")],
    ids=": ".join,
)
def test_pings_keep_a_front_from_ending_what_is_idle(start, pair: tuple[str, str]):
    front = start(*pair)
    front.launch(
        settings={"aiopyramid.websocket.ping_interval": "0.2"},
        args=[] if front.is_nginx else ["--http-timeout", "2"],
        nginx="proxy_read_timeout 2s; uwsgi_read_timeout 2s;",
    )
    with (
        front.clients.sync_connect("/recorder") as pinged,
        front.clients.sync_connect("/echo_plain") as never_pinged,
    ):
        assert pinged.recv() == "opened"
        # Silent for less long than the other, which was opened before.
        assert closed_with(never_pinged) is None
        pinged.send("still there")
        assert pinged.recv() == "str 11"
    wait_for_record(front, ["ended", 1006, "", 0, 0])


# What cannot work, and says so.


@pytest.mark.parametrize(
    ("name", "changes", "hint"),
    [
        ("http", {"http-websockets = true\n": ""}, "set http-websockets"),
        ("https", {"http-websockets = true\n": ""}, "set http-websockets"),
        ("https", {"https =": "https-socket ="}, "replace https-socket"),
    ],
)
def test_uwsgi_refuses_websockets_that_would_be_deaf_or_mute(start, name, changes, hint):
    front = start("uwsgi-threads", name)
    front.launch(changes=changes)
    with pytest.raises(InvalidStatus) as refused:
        front.clients.sync_connect("/echo")
    assert refused.value.response.status_code == 501
    assert hint in refused.value.response.body.decode()


def test_uwsgi_refuses_chunks_that_its_router_keeps_back(start):
    front = start("uwsgi-threads", "http")
    front.launch(changes={"http-chunked-input = true\n": ""})
    with front.clients.client() as client:
        response = client.post("/count_body", content=iter([b"x", b"y"]))
    assert response.status_code == 411
    assert "set http-chunked-input = true" in response.text


def test_gunicorn_believes_the_proxies_that_it_is_told_of(start):
    front = start("gunicorn-uvloop", "proxy_pass tls")
    front.launch(args=["--forwarded-allow-ips", "192.0.2.1"])
    with pytest.raises(InvalidStatus) as refused:
        front.clients.sync_connect("/echo", origin=front.clients.url)
    assert refused.value.response.status_code == 403
