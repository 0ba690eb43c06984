from __future__ import annotations

import asyncio

from aiopyramid.bridge import await_
from aiopyramid_gunicorn import request

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab"
UPGRADE = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
TIMEOUT, GRACE = 31, 7  # settings, to tell the timers apart


def hello(environ, start_response):
    environ["hello.seen"] = True
    start_response("200 Fine", [("Content-Length", "5")])
    return [b"hello"]


class Waits:
    """An application that waits for the test."""

    def __init__(self):
        self.began = asyncio.Event()
        self.go_on = asyncio.Event()
        self.error = None

    def __call__(self, environ, start_response):
        self.began.set()
        try:
            await_(self.go_on.wait())
        except Exception as exc:
            self.error = exc
            raise
        return hello(environ, start_response)


async def test_requests_on_one_connection_are_answered(connect):
    transport = connect(http1=False, wsgi=hello)
    transport.protocol.data_received(GET)
    await transport.until(b"hello")
    transport.protocol.data_received(GET)
    while transport.written.count(b"hello") < 2:
        await asyncio.sleep(0)
    assert not transport.closing


async def test_a_reason_of_the_applications_own_is_sent(connect):
    transport = connect(http1=False, wsgi=hello)
    transport.protocol.data_received(GET)
    await transport.until(b"hello")
    assert transport.written.startswith(b"HTTP/1.1 200 Fine\r\n")


# The connection is lost.


async def test_a_reset_cancels_the_request_at_once(connect):
    app = Waits()
    transport = connect(http1=False, wsgi=app)
    transport.protocol.data_received(GET)
    await app.began.wait()
    transport.protocol.connection_lost(ConnectionResetError())
    await transport.protocol.worker.idle.wait()
    assert isinstance(app.error, ConnectionError)


async def test_an_end_without_an_error_lets_the_request_go_on(connect):
    app = Waits()
    transport = connect(http1=False, wsgi=app, asgi_disconnect_grace_period=GRACE)
    protocol = transport.protocol
    protocol.data_received(GET)
    await app.began.wait()
    protocol.connection_lost(None)
    assert protocol.has_left()
    for _ in range(5):
        await asyncio.sleep(0)
    assert protocol.worker.requests
    protocol.worker.loop.go_off(GRACE)
    await protocol.worker.idle.wait()
    assert isinstance(app.error, ConnectionError)


# The access log.


async def test_the_access_log_gets_the_environ_of_the_application(connect):
    transport = connect(http1=False, wsgi=hello)
    transport.protocol.data_received(GET)
    await transport.until(b"hello")
    await transport.protocol.worker.idle.wait()
    (environ,) = transport.protocol.log.environs
    assert environ["hello.seen"]
    assert not transport.protocol._scopes


async def test_without_an_environ_the_access_log_gets_gunicorns(connect, monkeypatch):
    def fail(scope):
        raise ValueError

    monkeypatch.setattr(request.Scope, "build_environ", fail)
    transport = connect(http1=False, wsgi=hello)
    transport.protocol.data_received(GET)
    await transport.until(b"</html>")
    await transport.protocol.worker.idle.wait()
    (environ,) = transport.protocol.log.environs
    assert environ["REQUEST_METHOD"] == "GET"


async def test_without_an_access_log_nothing_is_kept_for_it(connect):
    worker = connect(http1=False, wsgi=hello).protocol.worker
    worker.log.access_log_enabled = False
    transport = connect(http1=False, worker=worker)
    transport.protocol.data_received(GET)
    await transport.until(b"hello")
    assert not transport.protocol._scopes
    assert worker.log.environs == []
