from __future__ import annotations

import asyncio

import pytest

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
    transport = connect(hello)
    transport.protocol.data_received(GET)
    await transport.until(b"hello")
    transport.protocol.data_received(GET)
    while transport.written.count(b"hello") < 2:
        await asyncio.sleep(0)
    assert not transport.closing


async def waits_for_a_request(protocol):
    while not protocol._awaiting_request:
        await asyncio.sleep(0)


async def test_a_connection_is_idle_while_it_waits_for_a_request(connect):
    app = Waits()
    transport = connect(app)
    protocol = transport.protocol
    await waits_for_a_request(protocol)
    protocol.data_received(GET)
    protocol.close_if_idle()  # the request has come, but its task has not begun
    await app.began.wait()
    protocol.close_if_idle()
    assert not transport.closing
    app.go_on.set()
    await transport.until(b"hello")
    await waits_for_a_request(protocol)
    assert transport.protocol in protocol.worker.connections
    protocol.close_if_idle()
    await transport.closed.wait()
    assert not protocol.worker.connections


async def test_a_new_connection_gets_time_for_its_first_request(connect, monkeypatch):
    transport = connect(hello)
    protocol = transport.protocol
    await waits_for_a_request(protocol)
    protocol.close_if_idle()
    assert not transport.closing
    monkeypatch.setattr("aiopyramid_gunicorn.protocol.FIRST", 0.0)
    protocol.close_if_idle()
    assert transport.closing


async def test_a_reason_of_the_applications_own_is_sent(connect):
    transport = connect(hello)
    transport.protocol.data_received(GET)
    await transport.until(b"hello")
    assert transport.written.startswith(b"HTTP/1.1 200 Fine\r\n")


async def test_a_connection_too_many_is_refused(connect):
    first = connect(hello, worker_connections=1)
    worker = first.protocol.worker
    second = connect(worker=worker)
    await second.closed.wait()
    assert second.written.startswith(b"HTTP/1.1 503 ")
    assert b"This worker already has 1 connections." in second.written
    assert not first.closing
    assert worker.nr_conns == 1


async def test_a_first_request_that_does_not_come_is_refused(connect):
    transport = connect(hello, timeout=TIMEOUT)
    transport.protocol.data_received(GET[:10])
    transport.protocol.worker.loop.go_off(TIMEOUT)
    await transport.closed.wait()
    assert transport.written.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("timeout", [TIMEOUT, 0])
async def test_a_request_that_has_come_has_no_timeout(connect, timeout):
    transport = connect(hello, timeout=timeout)
    transport.protocol.data_received(GET)
    assert timeout not in transport.protocol.worker.loop.delays()
    await transport.until(b"hello")


async def test_a_lost_connection_has_no_timeout(connect):
    transport = connect(hello, timeout=TIMEOUT)
    transport.close()
    await transport.closed.wait()
    assert TIMEOUT not in transport.protocol.worker.loop.delays()


# The client has closed its side.


@pytest.mark.parametrize("data", [b"", GET[:10], POST])
async def test_the_end_before_the_whole_request_closes_the_connection(connect, data):
    transport = connect(Waits())
    transport.protocol.data_received(data)
    assert not transport.protocol.eof_received()


async def test_the_end_behind_a_request_lets_it_be_answered(connect):
    app = Waits()
    transport = connect(app, asgi_disconnect_grace_period=GRACE)
    protocol = transport.protocol
    protocol.data_received(GET)
    await app.began.wait()
    assert protocol.eof_received()
    assert not protocol.has_left()
    app.go_on.set()
    await transport.closed.wait()  # nothing more can come, so it is not kept
    assert transport.written.endswith(b"hello")
    assert protocol.worker.loop.delays() == []


async def test_the_end_behind_a_request_cancels_it_after_the_grace(connect):
    app = Waits()
    transport = connect(app, asgi_disconnect_grace_period=GRACE)
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


async def test_a_reset_cancels_the_request_at_once(connect):
    app = Waits()
    transport = connect(app)
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
    for _ in range(5):
        await asyncio.sleep(0)
    assert protocol.worker.requests
    protocol.worker.loop.go_off(GRACE)
    await protocol.worker.idle.wait()
    assert isinstance(app.error, ConnectionError)


async def test_the_task_of_an_idle_connection_ends_with_it(connect):
    transport = connect(hello, asgi_disconnect_grace_period=GRACE)
    task = transport.protocol._task
    await asyncio.sleep(0)
    transport.close()
    await asyncio.wait([task])
    assert not task.cancelled()


# The access log.


async def test_the_access_log_gets_the_environ_of_the_application(connect):
    transport = connect(hello)
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
    transport = connect(hello)
    transport.protocol.data_received(GET)
    await transport.until(b"</html>")
    await transport.protocol.worker.idle.wait()
    (environ,) = transport.protocol.log.environs
    assert environ["REQUEST_METHOD"] == "GET"


async def test_without_an_access_log_nothing_is_kept_for_it(connect, new_worker):
    worker = new_worker(wsgi=hello)
    worker.log.access_log_enabled = False
    transport = connect(worker=worker)
    transport.protocol.data_received(GET)
    await transport.until(b"hello")
    assert not transport.protocol._scopes
    assert worker.log.environs == []


# WebSockets.


async def test_a_handshake_is_a_request_like_any_other(connect):
    transport = connect(hello)
    transport.protocol.data_received(UPGRADE)
    await transport.until(b"hello")


@pytest.mark.parametrize(("protocol", "can"), [("http", True), ("uwsgi", False)])
async def test_http1_can_become_a_websocket(connect, protocol, can):
    transport = connect(hello, protocol=protocol)
    assert transport.protocol.can_become_websocket() is can


async def test_a_released_transport_comes_with_its_state(connect):
    app = Waits()
    transport = connect(app, asgi_disconnect_grace_period=GRACE)
    protocol = transport.protocol
    protocol.data_received(UPGRADE + b"early")
    await app.began.wait()
    task = protocol._task
    protocol.pause_writing()
    protocol.eof_received()
    assert protocol.release() == (transport, b"early", False, True, True)
    assert protocol.worker.nr_conns == 0
    assert protocol.worker.loop.delays() == []  # nor is the task cancelled later
    assert not transport.closing
    task.cancel()
    await asyncio.wait([task])


async def test_an_ordinary_transport_is_released_as_it_is(connect):
    app = Waits()
    transport = connect(app)
    transport.protocol.data_received(UPGRADE)
    await app.began.wait()
    assert transport.protocol.release() == (transport, b"", False, False, False)
