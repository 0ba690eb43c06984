"""
Shows what uWSGI's own WebSocket calls do, beside what aiopyramid does.

Starts both applications of ``apps/native.py`` under the installed uWSGI, sends
the same bytes to both, and prints what came of it:

    hatch run test:python integration-tests/native_calls.py

Arguments go to the uWSGI with the native calls, as in ``--ugreen --async 4
--threads 1``. ``docs/examples/native_calls.txt`` is the output without any.
"""

from __future__ import annotations

import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
from harness import RawWebsocket, Server, UWSGIServer, eventually, frame

APPS = {"native": "apps.native:native", "aiopyramid": "apps.native:main()"}
THREADS = 4
ARGS = ["--threads", str(THREADS), "--websockets-max-size", "1"]  # in KiB
PINGS = ["--websockets-ping-freq", "1", "--websockets-pong-tolerance", "1"]

TEXT, BINARY, CLOSE, PING, PONG = 0x81, 0x82, 0x88, 0x89, 0x8A
BEGIN, END = 0x01, 0x80  # of a text in two fragments
COMPRESSED = 0x40  # the first reserved bit
HELLO = bytes.fromhex("f248cdc9c90700")  # RFC 7692, section 7.2.3.1

Attempt = Callable[[Server], str]
claims: dict[str, Attempt] = {}


def claim(title: str) -> Callable[[Attempt], Attempt]:
    def add(attempt: Attempt) -> Attempt:
        claims[title] = attempt
        return attempt

    return add


def hear(ws: RawWebsocket) -> str:
    """Return what comes until the answer to what ``ask`` sends last, or the end."""
    heard: list[str] = []
    while True:
        try:
            first_byte, payload = ws.receive()
        except (AssertionError, ConnectionError):
            return ", ".join([*heard, "connection lost"])
        if first_byte & COMPRESSED:
            payload = zlib.decompressobj(-15).decompress(payload + b"\0\0\xff\xff")
        if first_byte == PONG or payload.endswith(b"'enough'"):
            return ", ".join(heard) or "nothing"
        if first_byte | COMPRESSED == TEXT | COMPRESSED:
            heard.append(payload.decode())
        elif first_byte == CLOSE:
            code = int.from_bytes(payload[:2], "big")
            return ", ".join([*heard, f"closed with {code or 'no code'}"])


ENOUGH = frame(TEXT, b"enough")


def ask(ws: RawWebsocket, *frames: bytes, last: bytes = ENOUGH) -> str:
    """Send frames, and return what comes of them."""
    try:
        ws.send(b"".join([*frames, last]))
    except ConnectionError:
        return "connection lost"
    return hear(ws)


def begin(ws: RawWebsocket, data: bytes) -> str:
    """Send a first fragment, inside of which no message may come, but a ping."""
    return ask(ws, frame(BEGIN, data), last=frame(PING))


def report(server: Server, *frames: bytes) -> str:
    with server.raw_websocket("/report") as ws:
        return ask(ws, *frames)


@contextmanager
def two(server: Server) -> Iterator[tuple[RawWebsocket, RawWebsocket]]:
    with server.raw_websocket("/report") as one, server.raw_websocket("/report") as other:
        yield one, other


def page(server: Server, path: str) -> str:
    with server.client() as client:
        return client.get(path).text


@claim("The first of two fragments has come")
def first_fragment(server: Server) -> str:
    with server.raw_websocket("/report") as ws:
        return begin(ws, b"my ")


@claim("Two clients send fragments in turn")
def two_fragmented(server: Server) -> str:
    with two(server) as (one, other):
        begin(one, b"my ")
        begin(other, b"your ")
        return ask(one, frame(END, b"secret"))


@claim("Another client's message comes between two fragments")
def whole_between(server: Server) -> str:
    with two(server) as (one, other):
        begin(one, b"my ")
        ask(other, frame(TEXT, b"whole"))
        return end_and_survivor(server, one, other)


@claim("A fragment comes that continues nothing")
def stray_fragment(server: Server) -> str:
    with two(server) as (one, other):
        return end_and_survivor(server, one, other)


def end_and_survivor(server: Server, one: RawWebsocket, other: RawWebsocket) -> str:
    pid = page(server, "/pid")
    outcome = f"{ask(one, frame(END, b'secret'))}; other client: {ask(other, frame(TEXT, b'hi'))}"
    eventually(server.answers, "the server answers")
    return outcome if page(server, "/pid") == pid else f"{outcome}; the worker process died"


@claim("The same bytes come as text and as binary")
def text_and_binary(server: Server) -> str:
    return report(server, frame(TEXT, b"same"), frame(BINARY, b"same"))


@claim("A text is not UTF-8")
def bad_utf8(server: Server) -> str:
    return report(server, frame(TEXT, b"\xff"))


@claim("A frame is not masked")
def unmasked(server: Server) -> str:
    return report(server, b"\x81\x05plain")


@claim("A client offers compression, and sends a compressed message")
def compressed(server: Server) -> str:
    offer = "permessage-deflate; client_no_context_takeover; server_no_context_takeover"
    with server.raw_websocket("/report", Sec_WebSocket_Extensions=offer) as ws:
        answer = "accepted" if b"permessage-deflate" in ws.head else "not accepted"
        return f"{answer}; {ask(ws, frame(TEXT | COMPRESSED, HELLO))}"


@claim("The limit is 1 KiB, and a frame has 2000 bytes")
def large_frame(server: Server) -> str:
    return report(server, frame(BINARY, bytes(2000)))


@claim("The limit is 1 KiB, and a message has two fragments of 1000 bytes")
def large_message(server: Server) -> str:
    with server.raw_websocket("/report") as ws:
        begin(ws, bytes(1000))
        return ask(ws, frame(END, bytes(1000)))


@claim("One client closes with 4001, another loses its connection")
def endings(server: Server) -> str:
    with server.raw_websocket("/ending") as ws:
        answer = ask(ws, frame(CLOSE, (4001).to_bytes(2, "big") + b"bye"))
    first = eventually(lambda: page(server, "/endings"), "the first view has ended")
    server.raw_websocket("/ending").socket.close()
    eventually(lambda: page(server, "/endings") != first, "the second view has ended")
    return f"{answer}; the views see: {page(server, '/endings')}"


@claim("The view closes, with 4001 where it can")
def leave(server: Server) -> str:
    with server.raw_websocket("/leave") as ws:
        return hear(ws)


@claim("The view asks without waiting: nothing has come, then an empty message")
def nothing_and_empty(server: Server) -> str:
    with server.raw_websocket("/poll") as ws:
        while (nothing := ws.receive())[0] == PING:
            pass
        return f"{nothing[1].decode()}, {ask(ws, frame(TEXT))}"


@claim("A ping comes while the view is not receiving")
def ping_while_busy(server: Server) -> str:
    with server.raw_websocket("/busy") as ws:
        heard = ask(ws, last=frame(PING))
    return "answered at once" if heard == "nothing" else f"answered after: {heard}"


@claim("A client answers no ping")
def silent_client(server: Server) -> str:
    with server.raw_websocket("/silent") as ws:
        return hear(ws)


@claim("A thread that the view has started sends")
def other_thread(server: Server) -> str:
    with server.raw_websocket("/thread") as one, server.raw_websocket("/release") as other:
        others = ask(other)
        return f"{ask(one)}; other client: {others}"


@claim(f"{THREADS} threads, {THREADS} open WebSockets, and a request for a page")
def full_house(server: Server) -> str:
    with ExitStack() as stack:
        for _ in range(THREADS):
            stack.enter_context(server.raw_websocket("/report"))
        try:
            with server.client(timeout=1) as client:
                return f"answered: {client.get('/up').text}"
        except httpx.ReadTimeout:
            return "no answer"


@claim("A message comes in the same packet as the handshake")
def early_message(server: Server) -> str:
    with RawWebsocket(server.socket(), "/report", {}, early=frame(TEXT, b"early")) as ws:
        return ask(ws)


def measure(folder: Path, native_args: list[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Try all claims on both; the one about pings has a native server of its own."""
    with ExitStack() as stack:

        def start(kind: str, name: str, args: list[str]) -> Server:
            server = UWSGIServer(folder / f"{name}.log")
            stack.callback(server.stop)
            server.launch(APPS[kind], [*ARGS, *args])
            server.wait_until_up()
            return server

        native = start("native", "native", native_args)
        pinging = start("native", "pinging", native_args + PINGS)
        ours = start("aiopyramid", "aiopyramid", [])
        for title, attempt in claims.items():
            server = pinging if attempt is silent_client else native
            yield title, {"native": attempt(server), "aiopyramid": attempt(ours)}


def as_text(title: str, outcomes: dict[str, str]) -> str:
    lines = [f"  {kind + ':':<12}{outcome}" for kind, outcome in outcomes.items()]
    return "\n".join([title, *lines, ""])


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for title, outcomes in measure(Path(folder), sys.argv[1:]):
            print(as_text(title, outcomes), flush=True)


if __name__ == "__main__":
    main()
