from __future__ import annotations

import asyncio
import io
import threading

import pytest

from aiopyramid.app_iter import CoroutineAppIter
from aiopyramid.bridge import await_
from aiopyramid.exceptions import ClientDisconnected
from aiopyramid_gunicorn import exchange
from aiopyramid_gunicorn.worker import AsyncGunicornWorker, LoopGunicornWorker

GET = b"GET /path?q=1 HTTP/1.1\r\nHost: a\r\n\r\n"
HTTP_1_0 = b"GET / HTTP/1.0\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"
EXPECT = POST[:-2] + b"Expect: 100-continue\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
BOTH = pytest.mark.parametrize("kind", [AsyncGunicornWorker, LoopGunicornWorker])


def app_of(body, status="200 OK", headers=()):
    def app(environ, start_response):
        start_response(status, list(headers))
        return body() if callable(body) else body

    return app


async def ended(transport):
    await transport.protocol.worker.idle.wait()
    return transport.written


async def ask(connect, app, request=GET, **options):
    transport = connect(app, **options)
    transport.protocol.data_received(request)
    return await ended(transport)


async def coroutine_body():
    yield b"a"
    await asyncio.sleep(0)
    yield b""
    yield b"b"


def closing(closed):
    class Body(list):
        def close(self):
            closed.append(threading.current_thread())

    return Body([b"a", b"b"])


CHUNKED = b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n"


@BOTH
@pytest.mark.parametrize(
    ("body", "end"),
    [
        ([b"a", b"b"], CHUNKED),
        ((b"a", b"b"), CHUNKED),
        (lambda: iter([b"a", b"", b"b"]), CHUNKED),
        (lambda: CoroutineAppIter(coroutine_body()), CHUNKED),
        ([], b"0\r\n\r\n"),
        (lambda: closing([]), CHUNKED),
    ],
)
async def test_a_body_of_any_kind_is_sent(connect, kind, body, end):
    written = await ask(connect, app_of(body), kind=kind)
    assert written.split(b"\r\n\r\n", 1)[1] == end
    assert b"Transfer-Encoding: chunked\r\n" in written


async def test_a_short_response_is_one_write(connect):
    transport = connect(app_of([b"a", b"b"], headers=[("Content-Length", "2")]))
    writes = []
    transport.write = writes.append
    transport.protocol.data_received(GET)
    await ended(transport)
    assert len(writes) == 1


@BOTH
async def test_a_file_is_sent(connect, kind):
    def app(environ, start_response):
        start_response("200 OK", [("Content-Length", "5")])
        return environ["wsgi.file_wrapper"](io.BytesIO(b"hello"))

    assert (await ask(connect, app, kind=kind)).endswith(b"\r\n\r\nhello")


@BOTH
async def test_the_application_may_write_its_body(connect, kind):
    def app(environ, start_response):
        start_response("200 OK", [("Content-Length", "2")])(b"a")
        return [b"b"]

    assert (await ask(connect, app, kind=kind)).endswith(b"\r\n\r\nab")


# Bodies of requests.


@BOTH
@pytest.mark.parametrize("pieces", [[b"hello"], [b"he", b"llo"], [b"", b"hello"]])
async def test_a_body_is_read_as_it_comes(connect, kind, pieces):
    def app(environ, start_response):
        body = environ["wsgi.input"].read()
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]

    transport = connect(app, kind=kind)
    transport.protocol.data_received(POST + pieces[0])
    for piece in pieces[1:]:
        await asyncio.sleep(0)
        transport.protocol.data_received(piece)
    await transport.until(b"hello")
    await ended(transport)
    transport.protocol.data_received(GET)  # and it is where the next request begins
    assert (await ended(transport)).count(b"HTTP/1.1 200 OK") == 2


@BOTH
@pytest.mark.parametrize("body", ["list", "coroutine"])
async def test_what_was_not_read_is_read_after_the_response(connect, kind, body):
    chunks = [b"x"] if body == "list" else lambda: CoroutineAppIter(coroutine_body())
    transport = connect(app_of(chunks), kind=kind)
    transport.protocol.data_received(POST + b"he")
    await transport.until(b"0\r\n\r\n")
    transport.protocol.data_received(b"llo" + GET)
    while transport.written.count(b"0\r\n\r\n") < 2:
        await asyncio.sleep(0)
    await ended(transport)
    assert transport.written.count(b"HTTP/1.1 200 OK") == 2
    assert not transport.closing


@pytest.mark.parametrize("how", ["too much", "the end"])
async def test_what_is_not_read_in_the_end_closes_the_connection(connect, how):
    size = exchange.DRAIN_BYTES + 1
    transport = connect(app_of([b"x"]))
    head = f"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n"
    transport.protocol.data_received(head.encode() + bytes(size if how == "too much" else 1))
    if how == "the end":
        await transport.until(b"0\r\n\r\n")
        transport.protocol.eof_received()
    await ended(transport)
    assert transport.eof or transport.closing


@BOTH
async def test_100_continue_is_sent_when_the_body_is_asked_for(connect, kind):
    def app(environ, start_response):
        body = environ["wsgi.input"].read()
        return app_of([body])(environ, start_response)

    transport = connect(app, kind=kind)
    transport.protocol.data_received(EXPECT)
    await transport.until(CONTINUE)
    transport.protocol.data_received(b"hello")
    await transport.until(b"hello")
    assert (await ended(transport)).startswith(CONTINUE + b"HTTP/1.1 200 OK\r\n")


@BOTH
async def test_an_error_behind_100_continue_is_answered_by_a_500(connect, kind):
    def app(environ, start_response):
        environ["wsgi.input"].read()
        raise ValueError

    transport = connect(app, kind=kind)
    transport.protocol.data_received(EXPECT)
    await transport.until(CONTINUE)
    transport.protocol.data_received(b"hello")
    assert (await ended(transport)).startswith(CONTINUE + b"HTTP/1.1 500 ")


@BOTH
async def test_early_hints_are_sent_at_once(connect, kind):
    go_on = asyncio.Event()

    def app(environ, start_response):
        environ["wsgi.early_hints"]([("Link", "</style.css>")])
        await_(go_on.wait())
        start_response("200 OK", [("Content-Length", "1")])(b"x")
        environ["wsgi.early_hints"]([("Link", "</late.css>")])
        return []

    transport = connect(app, kind=kind)
    transport.protocol.data_received(GET)
    await transport.until(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n")
    go_on.set()
    written = await ended(transport)
    assert written.count(b"HTTP/1.1 ") == 2
    assert b"late" not in written


async def test_a_body_that_nobody_asks_for_may_come_all_the_same(connect):
    transport = connect(app_of([b"x"]))
    transport.protocol.data_received(EXPECT)
    await transport.until(b"0\r\n\r\n")
    transport.protocol.data_received(b"hello" + GET)
    while transport.written.count(b"0\r\n\r\n") < 2:
        await asyncio.sleep(0)
    assert CONTINUE not in await ended(transport)
    assert not transport.closing


async def test_a_body_that_stops_coming_is_given_up(connect):
    errors = []

    def app(environ, start_response):
        try:
            environ["wsgi.input"].read()
        except OSError as exc:
            errors.append(str(exc))
            raise

    transport = connect(app)
    transport.protocol.worker.heads.seconds = 0.01
    transport.protocol.data_received(POST)
    await ended(transport)
    assert errors == ["the client sent nothing for 0.01 s"]


# Errors.


@BOTH
@pytest.mark.parametrize("error", [ValueError, OSError, SystemExit, KeyboardInterrupt])
async def test_an_error_is_answered_by_a_500_and_logged_once(connect, kind, error):
    def app(environ, start_response):
        raise error

    transport = connect(app, kind=kind)
    transport.protocol.data_received(GET)
    written = await ended(transport)
    assert written.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    lines = transport.protocol.worker.log.lines
    assert lines.count(("exception", "Error handling request GET /path?q=1")) == 1
    assert transport.eof


async def test_an_error_before_anything_is_out_is_answered_by_a_500(connect):
    written = await ask(connect, app_of([b"a", "text"]))
    assert written.startswith(b"HTTP/1.1 500 ")
    assert b"200 OK" not in written


@BOTH
@pytest.mark.parametrize("length", [[("Content-Length", "8")], []])
@pytest.mark.parametrize("coroutine", [True, False])
async def test_an_error_behind_the_headers_breaks_the_connection_off(
    connect, kind, length, coroutine
):
    def body():
        yield b"half"
        raise ValueError

    async def coroutine_body():
        for chunk in body():
            yield chunk

    made = (lambda: CoroutineAppIter(coroutine_body())) if coroutine else body
    transport = connect(app_of(made, headers=length), kind=kind)
    transport.protocol.data_received(GET)
    written = await ended(transport)
    assert written.endswith(b"half" if length else b"half\r\n")
    assert transport.eof
    lines = transport.protocol.worker.log.lines
    assert lines.count(("exception", "Error handling request GET /path?q=1")) == 1


async def test_an_error_behind_headers_without_a_length_resets_the_connection(connect):
    class Socket:
        options = ()

        def setsockopt(self, *options):
            self.options = options

    def body():
        yield b"half"
        raise ValueError

    sock = Socket()
    transport = connect(app_of(body), sock=sock)
    transport.protocol.data_received(HTTP_1_0)
    await ended(transport)
    assert transport.aborted
    assert sock.options[-1][:4] == b"\1\0\0\0"


async def test_a_response_that_is_shorter_than_promised_closes_the_connection(connect):
    transport = connect(app_of([b"a"], headers=[("Content-Length", "2")]))
    transport.protocol.data_received(GET)
    assert (await ended(transport)).endswith(b"\r\n\r\na")
    assert transport.eof


@BOTH
async def test_a_body_is_closed_when_its_client_has_left(connect, kind):
    closed = []

    def body():
        try:
            yield b"a"
            transport.protocol.connection_lost(ConnectionResetError())
            while True:
                yield b"b"
        finally:
            closed.append(True)

    transport = connect(app_of(body), kind=LoopGunicornWorker)
    transport.protocol.data_received(GET)
    await ended(transport)
    assert closed == [True]
    assert b"b\r\n" not in transport.written


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

    transport = connect(app)
    worker = transport.protocol.worker
    transport.protocol.data_received(GET)
    await began.wait()
    transport.protocol.connection_lost(ConnectionResetError())
    await worker.idle.wait()
    assert transport.written == b""
    assert any("left" in text for lvl, text in worker.log.lines if lvl == level)


@BOTH
async def test_a_coroutine_body_is_closed_when_its_client_has_left(connect, kind):
    closed, began = [], asyncio.Event()

    async def body():
        try:
            yield b"a"
            began.set()
            await asyncio.Event().wait()
        finally:
            closed.append(True)

    transport = connect(app_of(lambda: CoroutineAppIter(body())), kind=kind)
    transport.protocol.data_received(GET)
    await began.wait()
    transport.protocol.connection_lost(ConnectionResetError())
    await ended(transport)
    assert closed == [True]


@BOTH
async def test_a_coroutine_body_that_is_interrupted_before_it_begins_never_begins(connect, kind):
    told = []

    class Body:
        def __aiter__(self):
            return self

        async def __anext__(self):
            told.append("began")
            raise StopAsyncIteration

    transport = connect(app_of(lambda: CoroutineAppIter(Body())), kind=kind)
    protocol = transport.protocol
    protocol.worker.post_request = lambda *args: told.append("post_request")
    protocol.data_received(GET)
    exchange = protocol.exchange
    send = type(exchange)._send

    def leave(body):
        protocol.connection_lost(ConnectionResetError())  # when the task is made, not begun
        return send(exchange, body)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(exchange), "_send", lambda _, body: leave(body))
        await ended(transport)
    assert told == ["post_request"]


# The worker ends.


@BOTH
async def test_an_exchange_that_is_cancelled_is_not_answered(connect, kind):
    began = asyncio.Event()

    async def wait():
        began.set()
        await asyncio.Event().wait()

    def app(environ, start_response):
        await_(wait())

    transport = connect(app, kind=kind)
    worker = transport.protocol.worker
    transport.protocol.data_received(GET)
    await began.wait()
    for request in tuple(worker.requests):
        request.cancel()
    await worker.idle.wait()
    assert transport.written == b""
    assert transport.eof


@BOTH
async def test_an_exchange_that_is_cancelled_before_it_begins_never_begins(connect, kind):
    calls = []
    transport = connect(lambda *args: calls.append(args), kind=kind)
    worker = transport.protocol.worker
    if kind is AsyncGunicornWorker:
        worker.threads.places = 0  # so that it queues
    transport.protocol.data_received(GET)
    (request,) = worker.requests
    request.cancel()
    await worker.idle.wait()
    assert calls == []
    assert transport.written == b""


# Hooks and the access log.


@BOTH
@pytest.mark.parametrize("body", ["list", "coroutine", "error"])
async def test_hooks_run_with_the_plain_code_and_see_request_and_response(connect, kind, body):
    seen = []

    def pre_request(worker, req):
        req.headers.append(("X-ADDED", "by the hook"))
        seen.append(("pre", req.method, req.path))

    def post_request(worker, req, environ, resp):
        added = environ.get("HTTP_X_ADDED")
        seen.append(("post", added, resp and resp.status, resp and resp.sent))

    def app(environ, start_response):
        seen.append(("app", environ["HTTP_X_ADDED"], None))
        if body == "error":
            raise ValueError
        start_response("200 OK", [])
        return [b"ab"] if body == "list" else CoroutineAppIter(coroutine_body())

    options = {"pre_request": pre_request, "post_request": post_request}
    await ask(connect, app, kind=kind, **options)
    status = (None, 0) if body == "error" else ("200 OK", 2)
    assert seen == [
        ("pre", "GET", "/path"),
        ("app", "by the hook", None),
        ("post", "by the hook", *status),
    ]


async def test_an_error_of_a_hook_is_an_error_of_the_request_or_logged(connect):
    def fail(worker=None, req=None):
        raise ValueError

    written = await ask(connect, app_of([b"x"]), pre_request=fail)
    assert written.startswith(b"HTTP/1.1 500 ")
    transport = connect(app_of([b"x"]), post_request=lambda worker, req, environ, resp: fail())
    transport.protocol.data_received(GET)
    assert b"200 OK" in await ended(transport)
    lines = transport.protocol.worker.log.lines
    assert ("exception", "Exception in post_request hook") in lines


@BOTH
async def test_the_access_log_gets_the_environ_of_the_application(connect, kind):
    def app(environ, start_response):
        environ["app.note"] = "noted"
        return app_of([b"x"])(environ, start_response)

    transport = connect(app, kind=kind)
    transport.protocol.data_received(GET)
    await ended(transport)
    (environ,) = transport.protocol.worker.log.environs
    assert environ["app.note"] == "noted"


async def test_the_body_is_closed_in_the_thread_of_the_request(connect):
    closed = []
    threads = []

    def body():
        threads.append(threading.current_thread())
        return closing(closed)

    await ask(connect, app_of(body), kind=AsyncGunicornWorker)
    assert closed == threads
    assert closed[0].name.startswith("aiopyramid-request")


async def test_what_breaks_outside_of_the_application_is_logged(connect, monkeypatch):
    def fail(self):
        raise ValueError

    monkeypatch.setattr(exchange.Exchange, "run", fail)
    transport = connect(app_of([b"x"]))
    transport.protocol.data_received(GET)
    await ended(transport)
    assert ("error", "Error in request") in transport.protocol.worker.log.lines
    assert transport.eof
