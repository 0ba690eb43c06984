"""Clients that do their worst to HTTP, and to the handshakes of WebSockets."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import time
from collections import Counter

import pytest
from harness import HANDSHAKE, Server, UWSGIServer, eventually, reserve_port
from test_attacks_websocket import APP, open_gate, reset, settled
from test_http import MIB
from test_websocket_limits import peak_grows_less_than

# Which loop it is makes no difference to what is accepted.
ONE_LOOP = ["gunicorn-uvloop", "gunicorn-loop", "uwsgi-threads", "uwsgi-uvloop"]
GUNICORN = ["gunicorn-uvloop", "gunicorn-asyncio", "gunicorn-loop"]


def head(path: str, method: str = "GET", **headers: str) -> bytes:
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode()


def asked(server: Server) -> Counter[str]:
    """What was asked for and done, this question left aside."""
    state = server.state()
    return Counter(path for path in state["records"]["paths"] if path != "/state") + Counter(
        state["counts"]
    )


def handshake(path: str) -> bytes:
    return head(path, **HANDSHAKE)


@pytest.mark.parametrize("variant", GUNICORN, scope="session")
def test_a_handshake_behind_answers_that_nobody_reads_does_not_fill_the_memory(
    launch, variant: str
):
    server = launch(variant=variant, app=APP)
    with socket.socket() as sock, peak_grows_less_than(server, 60 * MIB):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", server.port))
        # Without bodies, gunicorn does not wait for the client to read; 13 MB fill all buffers.
        sock.sendall(head("/big_head", "HEAD") * 400 + handshake("/pour"))
        counts = settled(lambda: asked(server))
    assert counts.get("poured", 0) < 400  # 25 MiB


@pytest.mark.parametrize("lost", ["wait", "block", "replace", "raise"])
@pytest.mark.parametrize("then", ["a handshake", "a stop"])
@pytest.mark.parametrize("variant", ONE_LOOP, scope="session")
def test_handshakes_that_never_finish_are_forgotten(launch, variant: str, lost: str, then: str):
    """
    Their clients reset the connection, or a tween answers something else.

    The tween that waits for a coroutine can be cancelled; the one that blocks its thread cannot.
    """
    if lost == "block" and variant not in ("gunicorn-uvloop", "gunicorn-asyncio", "uwsgi-threads"):
        pytest.skip("a tween must not block the loop")
    settings = {"attacks.gc": "off"}  # what is lost in a cycle stays
    server = launch(variant=variant, app=APP, settings=settings, workers={"graceful_timeout": 30})
    for n in range(1, 3):
        sock = server.socket()
        sock.sendall(handshake(f"/two?tween={lost}&gate={n}"))
        if lost in ("wait", "block"):
            server.eventually_state(
                lambda state, n=n: state["counts"].get("tween waits") == n, "the tween waits"
            )
            reset(sock)
            server.state()  # so that the server sees it first
            open_gate(server, str(n))
            server.eventually_state(
                lambda state, n=n: state["counts"].get("tween waited") == n, "it has waited"
            )
        else:
            sock.recv(65536)
            sock.close()
    if then == "a handshake":
        statuses = []

        def accepted() -> bool:
            with server.raw_websocket("/two") as ws:
                statuses.append(ws.status)
            return ws.status == 101 or len(statuses) >= 50

        eventually(accepted, "there is room")
        assert statuses[-1] == 101
    else:
        begin = time.monotonic()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        # gunicorn would wait for 22.5 s, uWSGI for 7.5.
        assert time.monotonic() - begin < 5


# uWSGI with connections that are kept.


@pytest.fixture
def keeping(launch, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A uWSGI that keeps connections, and refuses bodies of more than 1000 bytes."""
    monkeypatch.setattr(UWSGIServer, "bind", ("--http11-socket", f"127.0.0.1:{reserve_port()}"))
    return launch(variant="uwsgi-threads", app=APP, args=["--limit-post", "1000"])


SMUGGLED = head("/smuggled")


def chunked(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))


# The second chunk exceeds the limit.
CHUNKED = chunked(b"x" * 900, b"x" * 200, *[SMUGGLED] * 40)
LONG = b"x" * 500 + SMUGGLED * 10


@pytest.mark.parametrize("path", ["/read_body", "/catch_body", "/ignore_body"])
@pytest.mark.parametrize("kind", ["chunked", "length"])
@pytest.mark.parametrize("together", [True, False])
def test_a_body_is_never_taken_for_a_request(keeping: Server, path: str, kind: str, together: bool):
    if kind == "chunked":
        request, body = head(path, "POST", Transfer_Encoding="chunked"), CHUNKED
    else:
        request, body = head(path, "POST", Content_Length=str(len(LONG))), LONG
    answers, kept = b"", False
    with keeping.socket() as sock, contextlib.suppress(ConnectionError):
        sock.sendall(request)
        # Each piece but the first begins with what looks like a request.
        pieces = [body] if together else re.split(b"(?=GET /smuggled)", body)
        for piece in pieces:
            sock.sendall(piece)
            keeping.state()  # so that they come one by one
        sock.settimeout(5)
        try:
            while data := sock.recv(65536):
                answers += data
        except TimeoutError:
            kept = True
    assert "/smuggled" not in keeping.state()["records"]["paths"]
    assert answers.count(b"HTTP/1.1 ") <= 1
    if kind == "chunked":
        assert not kept  # nobody has read the body to its end
