"""Clients that do their worst to WebSockets: the others notice nothing of it."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import pytest
from harness import PATIENCE, RawWebsocket, Server, eventually, frame
from test_http import MIB
from test_websocket_limits import peak_grows_less_than

APP = "apps.attacks:main()"
SIZE = 4 * MIB
EMPTY = {
    "pings": frame(0x89),
    "pongs": frame(0x8A),
    "continuations": frame(0x00),
    "messages": frame(0x82),
}


def many(kind: str) -> bytes:
    """Make as many empty frames as fit into `SIZE`."""
    first = frame(0x01) if kind == "continuations" else b""
    return first + EMPTY[kind] * (SIZE // len(EMPTY[kind]))


# Each server, and each kind of transport.
@pytest.fixture(scope="session", params=["gunicorn-uvloop", "gunicorn-asyncio", "uwsgi-threads"])
def variant(request):
    return request.param


@pytest.fixture(scope="module")
def app() -> str:
    return APP


def open_gate(server: Server, gate: str) -> None:
    with server.client() as client:
        assert client.get("/open", params={"gate": gate}).text == "open"


@contextlib.contextmanager
def flood(ws: RawWebsocket, data: bytes) -> Iterator[Callable[[], bool]]:
    """Send all as fast as it can, and a close frame; give what tells if the server is at it."""

    def send() -> None:
        with contextlib.suppress(OSError):  # the server may drop us, and so may the test
            ws.send(data + frame(0x88, b"\x03\xe8"))

    threads = [threading.Thread(target=send), threading.Thread(target=ws.read)]
    for thread in threads:
        thread.start()
    try:
        yield threads[1].is_alive
    finally:
        with contextlib.suppress(OSError):
            ws.socket.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(PATIENCE)


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/sink", "pings"), ("/sink", "pongs"), ("/sink", "continuations"), ("/echo", "messages")],
)
def test_a_flood_of_empty_frames_keeps_nobody_waiting(server: Server, path: str, kind: str):
    waits = []
    with (
        server.raw_websocket(path) as attacker,
        server.sync_connect("/echo") as ws,
        server.client() as client,
    ):
        begin = time.monotonic()
        with flood(attacker, many(kind)) as goes_on:
            while goes_on() and len(waits) < 2000:
                asked = time.monotonic()
                assert client.get("/up").text == "up"
                ws.send("x")
                assert ws.recv() == "x"
                waits.append(time.monotonic() - asked)
            duration = time.monotonic() - begin
    # Before, one wait was as long as the flood: 4 s on two cores, or 9 s for twice as much.
    assert max(waits, default=0) < max(1, duration / 4)


def test_six_floods_at_once_do_not_stop_the_heart_of_gunicorns_worker(launch, variant: str):
    if variant != "gunicorn-uvloop":
        pytest.skip("takes long: once, on a server that has such a timeout")
    args = ["--timeout", "5"]
    server = launch(variant=variant, app=APP, args=args, workers={"graceful_timeout": 5})
    pid = server.state()["pid"]
    with contextlib.ExitStack() as stack:
        attackers = [stack.enter_context(server.raw_websocket("/sink")) for _ in range(6)]
        go_on = [stack.enter_context(flood(ws, many("pings"))) for ws in attackers]
        deadline = time.monotonic() + 2 * PATIENCE
        while any(goes_on() for goes_on in go_on) and time.monotonic() < deadline:
            time.sleep(0.01)
    assert "WORKER TIMEOUT" not in server.log
    assert server.state()["pid"] == pid


@contextlib.contextmanager
def busy_threads(server: Server, gate: str) -> Iterator[None]:
    """Keep both threads busy that plain callbacks could run in."""
    with contextlib.ExitStack() as sockets:
        for _ in range(2):
            sock = sockets.enter_context(server.socket())
            sock.sendall(f"GET /block?gate={gate} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        server.eventually_state(lambda state: state["counts"].get("blocked") == 2, "all are busy")
        try:
            yield
        finally:
            open_gate(server, gate)


def reset(sock: socket.socket) -> None:
    """Close with a reset, which loses what was on its way."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def test_plain_callbacks_run_though_all_threads_are_busy_beyond_the_grace(launch, variant: str):
    args = (
        ["--threads", "2"] if variant.startswith("gunicorn") else ["--set", "aiopyramid-threads=2"]
    )
    server = launch(variant=variant, app=APP, args=args)
    with busy_threads(server, "busy"):
        with server.raw_websocket("/plain?id=one") as ws:
            reset(ws.socket)
        # Its grace, which begins later and is as long, tells that the other's is over too.
        with server.raw_websocket("/graceful") as ws:
            reset(ws.socket)
        server.eventually_state(lambda state: state["counts"].get("grace over"), "grace is over")
    called(server, {"one": ["open", "close"]})


def called(server: Server, expected: dict[str, list[str]]) -> None:
    """Check which plain callbacks ran, once those have that close."""

    def calls() -> dict[str, list[str]]:
        records = server.state()["records"]
        return {key: records.get(key, []) for key in expected}

    with contextlib.suppress(AssertionError):  # below, it says more
        eventually(lambda: all(got.count("close") for got in calls().values()), "all are closed")
    assert calls() == expected


def test_without_grace_plain_callbacks_run_as_well(server: Server):
    numbers = [f"at once {n}" for n in range(30)]
    for number in numbers:
        with server.raw_websocket(f"/plain_at_once?id={quote(number)}") as ws:
            reset(ws.socket)
    called(server, {number: ["open", "close"] for number in numbers})


def test_a_ping_and_a_close_frame_wait_for_a_peer_that_does_not_read(launch, variant: str):
    server = launch(variant=variant, app=APP)
    with server.raw_websocket("/pour") as ws:
        poured = settled(lambda: server.state()["counts"].get("poured"))
        assert 0 < poured < 1000
        ws.send(frame(0x89, b"ping"))
        server.state()  # so that they come one after the other
        ws.send(frame(0x88, b"\x03\xe8"))
        server.state()
        assert ws.close_code() == 1000
    server.state()
    assert "write_eof" not in server.log
    assert "Traceback" not in server.log


def settled(value: Callable[[], Any]) -> Any:
    """Return a value when it changes no more."""
    values: list[Any] = [value()]

    def same() -> bool:
        values.append(value())
        return len(values) > 20 and len({*map(repr, values[-20:])}) == 1

    eventually(same, "it changes no more")
    return values[-1]


@pytest.mark.parametrize(("size", "code"), [(1000, 1000), (1001, 1009), (1126, 1009)])
def test_the_limit_is_the_same_for_what_is_not_compressed(server: Server, size: int, code: int):
    offer = "permessage-deflate; client_max_window_bits"
    with server.raw_websocket("/little", Sec_WebSocket_Extensions=offer) as ws:
        assert b"permessage-deflate" in ws.head
        ws.send(frame(0x82, bytes(size)) + frame(0x88, b"\x03\xe8"))
        assert ws.close_code() == code


@pytest.mark.parametrize("tls", [False, True])
def test_what_came_before_the_end_of_the_stream_is_received(
    launch, variant: str, tls_files, tls: bool
):
    if tls and not variant.startswith("gunicorn"):
        pytest.skip("uWSGI leaves WebSockets over TLS to its router")
    server = launch(variant=variant, app=APP, **({"tls": tls_files} if tls else {}))
    sock = server.socket()
    if server.trust is not None:
        sock = server.trust.wrap_socket(sock, server_hostname="127.0.0.1")
    with RawWebsocket(sock, "/late?gate=end", {}) as ws:
        ws.send(b"".join(frame(0x81, f"{n:03}".encode()) for n in range(1000)))
        ws.socket.shutdown(socket.SHUT_WR)
        open_gate(server, "end")
        ended = server.eventually_state(
            lambda state: state["records"].get("end ended"), "the view has ended"
        )
    assert ended == [[1000, 1006]]


def test_messages_that_wait_are_bounded_in_bytes(launch, variant: str):
    server = launch(variant=variant, app=APP, settings={PING: "0"})
    # With one such character, Python takes four bytes for each.
    text = "x" * (MIB - 4) + "😀"
    data = memoryview(frame(0x81, text.encode()) * 16)
    with server.raw_websocket("/late?gate=bytes") as ws:
        sent = 0
        with peak_grows_less_than(server, 30 * MIB):
            ws.socket.settimeout(1)
            with contextlib.suppress(TimeoutError):  # it reads no more
                while sent < len(data):
                    sent += ws.socket.send(data[sent : sent + 65536])
        open_gate(server, "bytes")
        ws.socket.settimeout(PATIENCE)
        ws.send(bytes(data[sent:]) + frame(0x88, b"\x03\xe8"))
        assert ws.close_code() == 1000
    records = server.eventually_state(
        lambda state: "bytes ended" in state["records"] and state["records"], "the view has ended"
    )
    assert records["bytes"] == [[len(text), "😀"]] * 16


PING = "aiopyramid.websocket.ping_interval"


def test_a_pong_may_stand_behind_a_lot_of_data(launch, variant: str):
    server = launch(variant=variant, app=APP)
    turn = threading.Lock()  # for one whole frame
    with server.raw_websocket("/slow") as ws:

        def send() -> None:
            with contextlib.suppress(OSError):
                for _ in range(200):
                    with turn:
                        ws.send(frame(0x82, bytes(32768)))
                with turn:
                    ws.send(frame(0x88, b"\x03\xe8"))

        sender = threading.Thread(target=send)
        sender.start()
        pings = 0
        while (received := ws.receive())[0] == 0x89:
            pings += 1
            with turn:
                ws.send(frame(0x8A, received[1]))
        sender.join(PATIENCE)
    assert received == (0x88, b"\x03\xe8")
    assert pings


def test_frames_that_come_before_the_responses_close_has_returned_are_received(
    launch, variant: str
):
    if not variant.startswith("gunicorn"):
        pytest.skip("uWSGI's upgrade is part of the response's iterable")
    server = launch(variant=variant, app="apps.attacks:held()")
    # With line ends, which an HTTP parser would not wait for in silence.
    frames = [(0x81, b"%d\r\n\r\n" % n) for n in range(10)]
    sock = server.socket()

    def send_early() -> None:
        server.eventually_state(lambda state: state["counts"].get("close waits"), "it waits")
        for each in frames:
            sock.sendall(frame(*each))
            server.state()  # so that they come one by one
        open_gate(server, "held")

    with ThreadPoolExecutor(1) as executor, sock:
        sending = executor.submit(send_early)
        ws = RawWebsocket(sock, "/echo?hold=held", {})
        assert ws.status == 101
        assert [ws.receive() for _ in frames] == frames
        sending.result()
