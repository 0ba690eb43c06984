from __future__ import annotations

import asyncio
import os
import socket

import pytest

from aiopyramid.bridge import await_
from aiopyramid.exceptions import ClientDisconnected
from aiopyramid.websocket.upgrade import KEY, Upgrade
from aiopyramid_gunicorn import http1
from aiopyramid_gunicorn.protocol import HTTPProtocol
from aiopyramid_gunicorn.worker import LINGER, AsyncGunicornWorker, LoopGunicornWorker

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
CLOSE = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"
UPGRADE = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
H2C = (
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n"
)
TIMEOUT, KEEP, GRACE = 31, 5, 7  # settings, to tell the timers apart
BOTH = pytest.mark.parametrize("kind", [AsyncGunicornWorker, LoopGunicornWorker])


def hello(environ, start_response):
    start_response("200 Fine", [("Content-Length", "5")])
    return [b"hello"]


class Waits:
    """An application that waits for the test."""

    def __init__(self, app=hello):
        self.app = app
        self.calls = 0
        self.began = asyncio.Event()
        self.go_on = asyncio.Event()
        self.error = None

    def __call__(self, environ, start_response):
        self.calls += 1

        async def wait():
            self.began.set()
            await self.go_on.wait()

        try:
            await_(wait())
        except Exception as exc:
            self.error = exc
            raise
        return self.app(environ, start_response)


async def answers(transport, number):
    while transport.written.count(b"hello") < number:
        await asyncio.sleep(0)
    await transport.protocol.worker.idle.wait()


async def rounds(number=10):
    for _ in range(number):
        await asyncio.sleep(0)


# Requests.


@BOTH
async def test_requests_on_one_connection_are_answered(connect, kind):
    transport = connect(hello, kind=kind, keepalive=KEEP)
    for number in (1, 2, 3):
        transport.protocol.data_received(GET)
        await answers(transport, number)
    assert transport.written.count(b"HTTP/1.1 200 Fine\r\n") == 3
    assert transport.written.count(b"Connection: keep-alive\r\n") == 3
    assert not transport.closing


@BOTH
async def test_pipelined_requests_are_answered_one_after_the_other(connect, kind):
    app = Waits()
    transport = connect(app, kind=kind)
    transport.protocol.data_received(GET * 3)
    await app.began.wait()
    await rounds()
    assert app.calls == 1
    app.go_on.set()
    await answers(transport, 3)


async def test_a_head_may_come_in_pieces(connect):
    transport = connect(hello, timeout=TIMEOUT)
    for byte in GET:
        transport.protocol.data_received(bytes([byte]))
    await answers(transport, 1)


async def test_a_bad_request_is_refused_as_gunicorn_does_and_the_connection_closed(connect):
    transport = connect(hello)
    transport.protocol.data_received(b"GET\r\n\r\n")
    assert transport.written.startswith(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n")
    assert transport.eof
    assert transport.protocol.lingering


async def test_a_client_that_resets_while_its_connection_closes_is_no_error(connect, monkeypatch):
    transport = connect(hello)

    def write_eof():
        raise OSError("not connected")

    monkeypatch.setattr(transport, "write_eof", write_eof)
    transport.protocol.data_received(b"GET\r\n\r\n")
    await rounds()
    assert transport.protocol.closed


async def test_requests_are_not_answered_while_the_client_does_not_read(connect):
    app = Waits()
    transport = connect(app)
    transport.protocol.data_received(GET * 2)
    await app.began.wait()
    transport.protocol.pause_writing()
    app.go_on.set()
    await answers(transport, 1)
    await rounds()
    assert app.calls == 1
    transport.protocol.resume_writing()
    await answers(transport, 2)


async def test_what_comes_during_a_request_is_bounded(connect):
    app = Waits()
    transport = connect(app)
    transport.protocol.data_received(GET)
    await app.began.wait()
    transport.protocol.data_received(b"x" * (http1.READ_AHEAD - 1))
    assert transport.reading
    transport.protocol.data_received(b"x")
    assert not transport.reading
    app.go_on.set()
    await answers(transport, 1)
    assert transport.reading


async def test_requests_that_wait_are_bounded_all_the_time(connect):
    transport = connect(hello)
    protocol = transport.protocol
    many = GET * (http1.READ_AHEAD // len(GET) + 5)
    protocol.data_received(many)
    assert not transport.reading
    while len(protocol.buffer) >= http1.READ_AHEAD:
        assert not transport.reading  # not even between two of them
        await rounds()
    protocol.pause_writing()  # the client does not read
    await protocol.worker.idle.wait()
    assert transport.reading
    protocol.data_received(many)
    assert not transport.reading
    protocol.resume_writing()
    assert not transport.reading


async def test_each_request_counts_and_the_last_one_ends_the_worker(connect):
    transport = connect(hello, max_requests=2)
    worker = transport.protocol.worker
    transport.protocol.data_received(GET)
    await answers(transport, 1)
    assert worker.alive
    transport.protocol.data_received(GET)
    await answers(transport, 2)
    assert not worker.alive
    assert worker.wake.is_set()
    assert transport.written.count(b"Connection: close\r\n") == 1
    assert transport.eof


@pytest.mark.parametrize("settings", [{"keepalive": 0}, {"worker_connections": 1}])
async def test_a_connection_may_not_be_kept(connect, settings):
    transport = connect(hello, **settings)
    transport.protocol.data_received(GET)
    await answers(transport, 1)
    assert b"Connection: close\r\n" in transport.written
    assert transport.eof


# Timeouts.


async def test_a_first_request_that_does_not_come_is_refused(connect):
    transport = connect(hello, timeout=TIMEOUT)
    transport.protocol.data_received(GET[:10])
    transport.protocol.worker.loop.go_off(TIMEOUT)
    assert transport.written.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert transport.eof


async def test_a_request_that_has_come_has_no_timeout(connect):
    app = Waits()
    transport = connect(app, timeout=TIMEOUT)
    transport.protocol.data_received(GET)
    await app.began.wait()
    transport.protocol.worker.loop.go_off(TIMEOUT)
    assert not transport.closing
    app.go_on.set()
    await answers(transport, 1)


async def test_a_kept_connection_is_closed_when_no_request_comes(connect):
    transport = connect(hello, timeout=TIMEOUT, keepalive=KEEP)
    transport.protocol.data_received(GET)
    await answers(transport, 1)
    transport.protocol.worker.loop.go_off(KEEP)
    await transport.closed.wait()


async def test_a_kept_connection_that_sends_half_a_head_has_the_time_of_a_first_one(connect):
    transport = connect(hello, timeout=TIMEOUT, keepalive=KEEP)
    worker = transport.protocol.worker
    transport.protocol.data_received(GET)
    await answers(transport, 1)
    transport.protocol.data_received(GET[:10])
    assert transport.protocol in worker.heads
    assert transport.protocol not in worker.kept


async def test_a_client_that_reads_nothing_is_given_up(connect):
    app = Waits()
    transport = connect(app, timeout=TIMEOUT)
    loop = transport.protocol.worker.loop
    transport.protocol.data_received(GET)
    await app.began.wait()
    loop.go_off(TIMEOUT)  # of heads
    transport.unsent = 100
    transport.protocol.pause_writing()
    transport.unsent = 50  # it reads
    loop.go_off(TIMEOUT)
    assert not transport.aborted
    loop.go_off(TIMEOUT)
    assert transport.aborted


async def test_a_client_that_reads_is_not_given_up(connect):
    transport = connect(hello, timeout=TIMEOUT)
    transport.unsent = 100
    transport.protocol.pause_writing()
    transport.protocol.resume_writing()
    assert transport.protocol not in transport.protocol.worker.unread


# The client has closed its side.


@pytest.mark.parametrize("data", [b"", GET[:10]])
async def test_the_end_before_the_whole_head_closes_the_connection(connect, data):
    transport = connect(Waits())
    if data:
        transport.protocol.data_received(data)
    assert not transport.protocol.eof_received()


@BOTH
async def test_the_end_before_the_whole_body_is_an_error(connect, kind):
    errors = []

    def app(environ, start_response):
        try:
            environ["wsgi.input"].read()
        except OSError as exc:
            errors.append(str(exc))
            raise

    transport = connect(app, kind=kind)
    transport.protocol.data_received(HEAD + b"ab")
    await rounds()
    transport.protocol.eof_received()
    await transport.closed.wait()
    assert errors == ["the client did not send the whole request body"]
    assert transport.written.startswith(b"HTTP/1.1 500 ")  # it may still read
    levels = [level for level, text in transport.protocol.worker.log.lines]
    assert not {"error", "exception", "warning"}.intersection(levels)  # no fault of ours


@BOTH
async def test_the_end_behind_a_request_lets_it_be_answered(connect, kind):
    app = Waits()
    transport = connect(app, kind=kind, asgi_disconnect_grace_period=GRACE, timeout=0)
    protocol = transport.protocol
    protocol.data_received(GET)
    await app.began.wait()
    assert protocol.eof_received()
    assert not protocol.has_left()
    app.go_on.set()
    await transport.closed.wait()  # nothing more can come, so it is not kept
    assert transport.written.endswith(b"hello")
    assert protocol.worker.loop.delays() == []


@BOTH
async def test_the_end_behind_a_request_cancels_it_after_the_grace(connect, kind):
    app = Waits()
    transport = connect(app, kind=kind, asgi_disconnect_grace_period=GRACE)
    protocol = transport.protocol
    protocol.data_received(GET)
    await app.began.wait()
    protocol.eof_received()
    protocol.worker.loop.go_off(GRACE)
    assert protocol.has_left()
    await transport.closed.wait()
    assert isinstance(app.error, ConnectionError)
    assert transport.written == b""


# The connection is lost.


@BOTH
async def test_a_reset_cancels_the_request_at_once(connect, kind):
    app = Waits()
    transport = connect(app, kind=kind)
    transport.protocol.data_received(GET)
    await app.began.wait()
    transport.protocol.connection_lost(ConnectionResetError())
    await transport.protocol.worker.idle.wait()
    assert isinstance(app.error, ConnectionError)


async def test_an_end_without_an_error_lets_the_request_go_on(connect):
    app = Waits()
    transport = connect(app, asgi_disconnect_grace_period=GRACE)
    protocol = transport.protocol
    protocol.data_received(GET)
    await app.began.wait()
    protocol.connection_lost(None)
    assert protocol.has_left()
    await rounds()
    assert protocol.worker.requests
    protocol.worker.loop.go_off(GRACE)
    await protocol.worker.idle.wait()
    assert isinstance(app.error, ConnectionError)


async def test_a_lost_connection_is_forgotten(connect):
    transport = connect(hello, timeout=TIMEOUT)
    worker = transport.protocol.worker
    assert (worker.nr_conns, worker.connections) == (1, {transport.protocol})
    transport.close()
    await transport.closed.wait()
    assert (worker.nr_conns, worker.connections) == (0, set())
    assert not worker.heads


# The end.


async def test_a_connection_is_closed_when_the_client_has_seen_the_end(connect):
    transport = connect(hello)
    transport.protocol.data_received(CLOSE)
    await answers(transport, 1)
    assert transport.eof
    assert not transport.closing
    transport.protocol.data_received(b"more, which is dropped")
    assert not transport.protocol.eof_received()  # the transport closes


async def test_a_connection_is_closed_when_the_client_does_not_look(connect):
    transport = connect(hello)
    transport.protocol.data_received(CLOSE)
    await answers(transport, 1)
    transport.protocol.worker.loop.go_off(LINGER)
    await transport.closed.wait()


async def test_a_client_that_only_sends_is_not_read_for_long(connect):
    transport = connect(hello)
    transport.protocol.data_received(CLOSE)
    await answers(transport, 1)
    transport.protocol.data_received(bytes(http1.LINGER_BYTES + 1))
    await transport.closed.wait()


async def test_an_end_that_is_not_read_is_given_up(connect):
    transport = connect(hello, timeout=TIMEOUT)
    transport.protocol.data_received(CLOSE)
    await answers(transport, 1)
    transport.unsent = 10
    transport.protocol.worker.loop.go_off(LINGER)
    assert transport.protocol in transport.protocol.worker.unread


async def test_a_connection_is_idle_while_it_waits_for_a_request(connect):
    app = Waits()
    transport = connect(app)
    protocol = transport.protocol
    protocol.data_received(GET)
    await app.began.wait()
    protocol.close_if_idle()
    assert not transport.closing
    app.go_on.set()
    await answers(transport, 1)
    protocol.close_if_idle()
    await transport.closed.wait()


async def test_a_large_answer_is_not_copied(connect):
    pieces = []

    def app(environ, start_response):
        start_response("200 OK", [("Content-Length", str(http1.NO_COPY))])
        return [bytes(http1.NO_COPY)]

    transport = connect(app)
    transport.writelines = pieces.extend
    transport.protocol.data_received(GET)
    while not pieces:
        await asyncio.sleep(0)
    assert [len(piece) for piece in pieces][1:] == [http1.NO_COPY]


# Other protocols.


async def test_a_tls_connection_speaks_the_protocol_that_was_agreed(connect, monkeypatch):
    class TLS:
        def selected_alpn_protocol(self):
            return "h2"

    made = []
    monkeypatch.setattr(HTTPProtocol, "connection_made", lambda self, transport: made.append(self))
    monkeypatch.setattr(HTTPProtocol, "connection_lost", lambda self, exc: None)
    transport = connect(hello)
    worker = transport.protocol.worker
    before = transport.protocol
    monkeypatch.setattr(transport, "get_extra_info", lambda name: TLS())
    worker.nr_conns += 1
    again = http1.HTTP1Connection(worker, None, ("192.0.2.1", 1), ("127.0.0.1", 80))
    again.connection_made(transport)
    assert transport.protocol is made[0]
    assert again.closed
    transport.protocol = before


@pytest.mark.parametrize(
    ("cleartext", "data", "hands_over"),
    [
        ("prior-knowledge", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", True),
        ("both", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", True),
        ("both", GET, False),
        ("upgrade", H2C, True),
        ("upgrade", GET, False),
        ("prior-knowledge", GET, True),  # gunicorn refuses it
    ],
)
async def test_http2_is_gunicorns(connect, monkeypatch, cleartext, data, hands_over):
    received = []
    monkeypatch.setattr(HTTPProtocol, "data_received", lambda self, data: received.append(data))
    transport = connect(
        hello, peer="", http_protocols="h2,h1", http2_cleartext=cleartext, timeout=TIMEOUT
    )
    transport.protocol.data_received(data[:2])
    assert (not received) or cleartext == "prior-knowledge"
    transport.protocol.data_received(data[2:])
    if hands_over:
        assert b"".join(received) == data
        assert isinstance(transport.protocol, HTTPProtocol)
    else:
        await answers(transport, 1)


# WebSockets.


@pytest.fixture
def opened(monkeypatch):
    opened = []
    monkeypatch.setattr(
        http1, "become_websocket", lambda *args: opened.append((*args, args[0].release()))
    )
    return opened


@BOTH
async def test_a_session_is_opened_behind_a_101(connect, opened, kind):
    environs = []

    def app(environ, start_response):
        environs.append(environ)
        environ[KEY].session = "the session"
        start_response("101 Switching Protocols", [("Upgrade", "websocket")])
        return [b""]

    transport = connect(app, kind=kind)
    protocol = transport.protocol
    protocol.data_received(UPGRADE + b"early")
    await protocol.worker.idle.wait()
    assert transport.written.endswith(b"\r\n\r\n")
    assert opened == [(protocol, "the session", (transport, b"early", False, False))]
    assert "wsgi.early_hints" not in environs[0]
    assert protocol.worker.nr_conns == 0


@BOTH
@pytest.mark.parametrize("raises", [True, False])
async def test_a_session_is_forgotten_behind_anything_else(
    connect, opened, monkeypatch, kind, raises
):
    forgotten = []
    monkeypatch.setattr(Upgrade, "forget", lambda self: forgotten.append(self.session))

    def app(environ, start_response):
        environ[KEY].session = "the session"
        if raises:
            raise ValueError
        return hello(environ, start_response)

    transport = connect(app, kind=kind)
    transport.protocol.data_received(UPGRADE)
    await transport.protocol.worker.idle.wait()
    assert b"HTTP/1.1 500" in transport.written if raises else b"hello" in transport.written
    assert opened == []
    assert "the session" in forgotten


async def test_a_released_transport_comes_with_its_state(connect):
    app = Waits()
    transport = connect(app, asgi_disconnect_grace_period=GRACE)
    protocol = transport.protocol
    protocol.data_received(UPGRADE + bytes(http1.READ_AHEAD))
    await app.began.wait()
    protocol.data_received(b"early")
    assert not transport.reading
    protocol.pause_writing()
    protocol.eof_received()
    released = protocol.release()
    assert released == (transport, bytes(http1.READ_AHEAD) + b"early", True, True)
    assert transport.reading
    assert protocol.worker.nr_conns == 0
    assert not transport.closing
    app.go_on.set()
    await protocol.worker.idle.wait()


# What an exchange waits for.


async def test_more_is_what_the_client_sends(connect):
    app = Waits()
    transport = connect(app)
    protocol = transport.protocol
    protocol.data_received(GET)
    await app.began.wait()
    more = asyncio.create_task(protocol.more(0))
    await rounds()
    protocol.data_received(bytes(http1.READ_AHEAD))
    assert not transport.reading
    assert await more == bytes(http1.READ_AHEAD)
    assert transport.reading
    with pytest.raises(ClientDisconnected, match=r"the client sent nothing for 0\.01 s"):
        await protocol.more(0.01)
    more = asyncio.create_task(protocol.more(0))
    await rounds()
    protocol.eof_received()
    with pytest.raises(ClientDisconnected, match="did not send the whole"):
        await more
    app.go_on.set()
    await protocol.worker.idle.wait()


@pytest.mark.parametrize("leaves", [True, False])
async def test_draining_waits_until_the_client_reads_or_leaves(connect, leaves):
    transport = connect(hello)
    protocol = transport.protocol
    await protocol.drain()
    protocol.pause_writing()
    drained = asyncio.create_task(protocol.drain())
    await rounds()
    assert not drained.done()
    if leaves:
        protocol.connection_lost(None)
        with pytest.raises(ClientDisconnected):
            await drained
    else:
        protocol.resume_writing()
        await drained


async def test_a_duplicate_is_made_of_a_socket_that_has_all(connect):
    sock = socket.socket()
    transport = connect(hello, sock=sock)
    protocol = transport.protocol
    protocol.pause_writing()
    duplicate = asyncio.create_task(protocol.duplicate_drained())
    await rounds()
    assert not duplicate.done()
    protocol.resume_writing()
    fd = await duplicate
    assert fd != sock.fileno()
    assert os.fstat(fd).st_ino == os.fstat(sock.fileno()).st_ino
    os.close(fd)
    sock.close()


@pytest.mark.parametrize("how", ["done", "too late", "left", "has left"])
async def test_something_that_the_client_does_is_waited_for(connect, how):
    transport = connect(hello)
    protocol = transport.protocol
    protocol.worker.heads.seconds = 0.01 if how == "too late" else 0
    future = asyncio.get_running_loop().create_future()
    if how == "has left":
        protocol.connection_lost(None)
    waits = asyncio.create_task(protocol.until_closed(future))
    await rounds()
    if how == "done":
        future.set_result(None)
        await waits
        return
    if how == "left":
        protocol.connection_lost(None)
    message = "the client read nothing for" if how == "too late" else "the client has left"
    with pytest.raises(ClientDisconnected, match=message):
        await waits


@BOTH
@pytest.mark.parametrize("length", [True, False])
async def test_a_response_that_is_not_whole_does_not_look_like_it(connect, kind, length):
    def body():
        yield b"half"
        raise ValueError

    def app(environ, start_response):
        start_response("200 OK", [("Content-Length", "8")] if length else [])
        return body()

    with socket.socket() as sock:
        transport = connect(app, kind=kind, sock=sock)
        transport.protocol.data_received(GET.replace(b"1.1", b"1.0"))
        await transport.protocol.worker.idle.wait()
        assert transport.aborted is not length
        linger = sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)
        assert (linger[:4] == b"\1\0\0\0") is not length
