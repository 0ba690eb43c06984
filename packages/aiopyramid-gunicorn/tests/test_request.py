from __future__ import annotations

import asyncio
import io
import sys

import pytest

from aiopyramid.app_iter import CoroutineAppIter
from aiopyramid.bridge import await_, spawn_greenlet
from aiopyramid.exceptions import ClientDisconnected
from aiopyramid_gunicorn import compat, request
from aiopyramid_gunicorn.request import Call, RequestBody, Status

GET = b"GET /path?q=1 HTTP/1.1\r\nHost: a\r\n\r\n"


class Client:
    """Calls an application, and keeps the events of its response."""

    def __init__(self):
        self.events = []
        self.left = False

    async def send(self, event):
        self.events.append(event)

    async def call(self, app, receive=None, **environ):
        environ = {"SERVER_PROTOCOL": "HTTP/1.1", **environ}
        call = Call(app, environ, receive, self.send, lambda: self.left)
        await call.run(spawn_greenlet)

    @property
    def start(self):
        assert self.events[0]["type"] == "http.response.start"
        return self.events[0]

    @property
    def body(self):
        assert all(event["type"] == "http.response.body" for event in self.events[1:])
        return [event["body"] for event in self.events[1:]]

    @property
    def ended(self):
        return [event.get("more_body") for event in self.events].count(False) == 1


@pytest.fixture
def client():
    return Client()


def app_of(body, status="200 OK", headers=()):
    def app(environ, start_response):
        start_response(status, list(headers))
        return body() if callable(body) else body

    return app


def receiver(*events):
    events = list(events)

    async def receive():
        await asyncio.sleep(0)
        return events.pop(0)

    return receive


def piece(body, *, more):
    return {"type": "http.request", "body": body, "more_body": more}


@pytest.mark.parametrize(
    ("text", "code", "reason"), [("200 OK", 200, "OK"), ("599 My Own", 599, "My Own")]
)
def test_a_status_keeps_its_reason(text, code, reason):
    status = Status.parse(text)
    assert (status, status.reason) == (code, reason)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (200, TypeError, "200 is not a string"),
        ("OK", ValueError, "Invalid status 'OK'"),
        ("200 OK\r\nX: y", ValueError, "Invalid status"),
    ],
)
def test_a_bad_status_is_an_error(text, error, message):
    with pytest.raises(error, match=message):
        Status.parse(text)


async def test_a_body_is_read_piece_by_piece_to_its_end():
    pieces = piece(b"ab", more=True), piece(b"", more=True), piece(b"c", more=False)
    body = io.BufferedReader(RequestBody(receiver(*pieces)))
    assert await spawn_greenlet(body.read) == b"abc"
    assert await spawn_greenlet(body.read) == b""


async def test_a_body_that_breaks_off_is_an_error():
    events = piece(b"ab", more=True), {"type": "http.disconnect"}
    body = io.BufferedReader(RequestBody(receiver(*events)))
    with pytest.raises(ClientDisconnected, match="did not send the whole request body"):
        await spawn_greenlet(body.read)


@pytest.mark.parametrize(
    ("environ", "reads"),
    [
        ({}, False),
        ({"CONTENT_LENGTH": "0"}, False),
        ({"CONTENT_LENGTH": "1"}, True),
        ({"HTTP_TRANSFER_ENCODING": "chunked"}, True),
        ({"SERVER_PROTOCOL": "HTTP/2"}, True),
    ],
)
async def test_a_body_is_asked_for_where_there_may_be_one(client, environ, reads):
    def app(environ, start_response):
        start_response("200 OK", [])
        return [environ["wsgi.input"].read()]

    await client.call(app, receiver(piece(b"x", more=False)), **environ)
    assert client.body == [b"x" if reads else b""]


async def chunks(*items):
    for item in items:
        yield item


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        ([b"a", b"b"], [b"ab"]),
        ((b"a", b"b"), [b"ab"]),
        ([], [b""]),
        (lambda: iter([b"a", b"", b"b"]), [b"a", b"b", b""]),
        (lambda: compat.FileWrapper(io.BytesIO(b"ab")), [b"ab", b""]),
        (lambda: CoroutineAppIter(chunks(b"a", b"", b"b")), [b"a", b"b", b""]),
    ],
)
async def test_a_body_of_any_kind_is_sent(client, body, sent):
    await client.call(app_of(body, headers=[("X-A", " 1\t"), ("Connection", "close")]))
    assert client.start["status"] == 200
    assert client.start["headers"] == [("X-A", "1"), ("Server", compat.SERVER)]
    assert client.body == sent
    assert client.ended


@pytest.mark.parametrize(
    "body", [["a"], lambda: iter(["a"]), lambda: CoroutineAppIter(chunks("a"))]
)
async def test_a_body_of_text_is_an_error(client, body):
    with pytest.raises(TypeError, match="the application's body has 'a', which is not bytes"):
        await client.call(app_of(body))
    assert not client.ended


async def test_an_application_may_write_its_body(client):
    def app(environ, start_response):
        write = start_response("200 OK", [])
        write(b"a")
        write(b"b")
        return []

    await client.call(app)
    assert client.body == [b"a", b"b", b""]
    assert client.ended


async def test_a_body_without_start_response_is_an_error(client):
    with pytest.raises(AssertionError, match="sent a body before start_response"):
        await client.call(lambda environ, start_response: [b"a"])
    assert client.events == []


async def test_start_response_may_be_called_once(client):
    def app(environ, start_response):
        start_response("200 OK", [])
        start_response("404 Not Found", [])

    with pytest.raises(AssertionError, match="Response headers already set!"):
        await client.call(app)


async def test_start_response_with_an_error_replaces_headers_that_are_not_out(client):
    def app(environ, start_response):
        start_response("200 OK", [("X-A", "1")])
        try:
            raise ValueError
        except ValueError:
            start_response("500 Oh", [("X-B", "2")], sys.exc_info())
        return [b"sorry"]

    await client.call(app)
    assert client.start["status"].reason == "Oh"
    assert client.start["headers"] == [("X-B", "2"), ("Server", compat.SERVER)]


async def test_start_response_with_an_error_raises_it_when_headers_are_out(client):
    def app(environ, start_response):
        start_response("200 OK", [])(b"a")
        try:
            raise ValueError("the reason")
        except ValueError:
            start_response("500 Oh", [], sys.exc_info())

    with pytest.raises(ValueError, match="the reason"):
        await client.call(app)
    assert not client.ended


@pytest.mark.parametrize(
    ("header", "error"),
    [
        ((b"X-A", b"1"), TypeError),
        (("X-A", 1), TypeError),
        (("X A", "1"), compat.InvalidResponseHeaderName),
        (("X-A", "1\r\nX-B: 2"), compat.InvalidResponseHeader),
    ],
)
async def test_a_bad_header_is_an_error(client, header, error):
    with pytest.raises(error):
        await client.call(app_of([b""], headers=[header]))
    assert client.events == []


async def test_early_hints_go_out_before_the_response_alone(client):
    links = [("Link", "</style.css>")]

    def app(environ, start_response):
        environ["wsgi.early_hints"](links)
        start_response("200 OK", [])(b"a")
        environ["wsgi.early_hints"](links)
        return []

    await client.call(app)
    hint = {"type": "http.response.informational", "status": 103, "headers": links}
    assert client.events.pop(0) == hint
    assert client.body == [b"a", b""]


@pytest.mark.parametrize("kind", ["iterator", "coroutine"])
async def test_a_body_is_closed_when_its_client_has_left(client, kind):
    closed = []

    def plain():
        try:
            yield b"a"
            yield b"b"
        finally:
            closed.append(True)

    async def coroutine():
        try:
            yield b"a"
            yield b"b"
        finally:
            closed.append(True)

    client.left = True
    body = plain if kind == "iterator" else lambda: CoroutineAppIter(coroutine())
    with pytest.raises(ClientDisconnected, match="the client has left"):
        await client.call(app_of(body))
    assert closed == [True]
    assert client.body == [b"a"]


# A request of a connection.


async def test_the_environ_is_gunicorns(connect):
    environs = []

    def app(environ, start_response):
        environs.append(environ)
        return app_of([b"hello"])(environ, start_response)

    transport = connect(http1=False, wsgi=app)
    transport.protocol.data_received(GET)
    await transport.until(b"hello")
    assert transport.written.startswith(b"HTTP/1.1 200 OK\r\n")
    environ = environs[0]
    assert (environ["PATH_INFO"], environ["QUERY_STRING"]) == ("/path", "q=1")
    assert (environ["REMOTE_ADDR"], environ["SERVER_PORT"]) == ("192.0.2.1", "80")
    assert environ["wsgi.multithread"] is True


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
async def test_an_error_is_answered_by_a_500_and_logged(connect, error):
    def app(environ, start_response):
        raise error

    transport = connect(http1=False, wsgi=app)
    worker = transport.protocol.worker
    transport.protocol.data_received(GET)
    await transport.until(b"</html>")
    assert transport.written.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert ("exception", "Error handling request GET /path?q=1") in worker.log.lines
    await worker.idle.wait()


async def test_an_error_behind_the_headers_breaks_the_connection_off(connect):
    def body():
        yield b"half"
        raise ValueError

    transport = connect(http1=False, wsgi=app_of(body, headers=[("Content-Length", "8")]))
    transport.protocol.data_received(GET)
    await transport.closed.wait()
    assert transport.written.endswith(b"half")
    assert ("exception", "Error handling request GET /path?q=1") in (
        transport.protocol.worker.log.lines
    )


async def test_a_cancellation_of_something_else_is_an_error(connect):
    async def cancelled():
        raise asyncio.CancelledError

    transport = connect(http1=False, wsgi=lambda environ, start_response: await_(cancelled()))
    transport.protocol.data_received(GET)
    await transport.until(b"</html>")


@pytest.mark.parametrize("alive", [True, False])
async def test_a_stray_cancellation_is_an_error_unless_the_worker_stops(connect, alive):
    def app(environ, start_response):
        raise asyncio.CancelledError

    transport = connect(http1=False, wsgi=app)
    transport.protocol.worker.alive = alive
    transport.protocol.data_received(GET)
    if alive:
        await transport.until(b"</html>")
    else:
        await transport.closed.wait()
        assert transport.written == b""


async def test_a_request_that_is_cancelled_is_not_answered(connect):
    began = asyncio.Event()

    async def wait():
        began.set()
        await asyncio.Event().wait()

    def app(environ, start_response):
        try:
            await_(wait())
        except BaseException:
            raise asyncio.CancelledError from None

    transport = connect(http1=False, wsgi=app)
    worker = transport.protocol.worker
    transport.protocol.data_received(GET)
    await began.wait()
    for task in worker.requests:
        task.cancel()
    await transport.closed.wait()
    assert transport.written == b""
    assert not worker.requests


@pytest.mark.parametrize(("error", "level"), [(None, "debug"), (ValueError, "exception")])
async def test_an_error_of_a_request_whose_client_has_left_is_told(connect, error, level):
    began = asyncio.Event()

    async def wait():
        began.set()
        await asyncio.Event().wait()

    def app(environ, start_response):
        try:
            await_(wait())
        except ClientDisconnected:
            if error is not None:
                raise error from None
            raise

    transport = connect(http1=False, wsgi=app)
    worker = transport.protocol.worker
    transport.protocol.data_received(GET)
    await began.wait()
    transport.protocol.connection_lost(ConnectionResetError())
    await worker.idle.wait()
    assert transport.written == b""
    lines = [text for lvl, text in worker.log.lines if lvl == level]
    assert any("left" in line for line in lines)


async def test_gunicorns_own_error_for_a_client_that_left_is_passed_on():
    class Worker:
        wsgi = staticmethod(app_of([b"x"]))
        ended = 0

        def request_begins(self):
            pass

        def request_ends(self):
            self.ended += 1

        def run_plain(self, has_left):
            return spawn_greenlet

    class Protocol:
        worker = Worker()

        def has_left(self):
            return True

    class Scope:
        protocol = Protocol()

        def build_environ(self):
            return {"SERVER_PROTOCOL": "HTTP/1.1"}

    async def send(event):
        raise compat.ClientDisconnected

    with pytest.raises(compat.ClientDisconnected):
        await request.serve(Scope(), None, send)
    assert Protocol.worker.ended == 1
