from __future__ import annotations

import asyncio
import errno
import io
import os
import socket
from types import SimpleNamespace

import pytest
from gunicorn.config import Config
from gunicorn.http.wsgi import FileWrapper
from gunicorn.http.wsgi import Response as GunicornResponse
from hypothesis import given, settings
from hypothesis import strategies as st

from aiopyramid.bridge import await_, spawn_greenlet
from aiopyramid.exceptions import ClientDisconnected
from aiopyramid.helpers import use_executor
from aiopyramid.homes import home_here
from aiopyramid_gunicorn import response as module
from aiopyramid_gunicorn.response import AHEAD, Output, Response

NOW = 1_700_000_000.5


class Connection:
    """A connection that keeps what is written, and lets tests say what the client does."""

    def __init__(self, sock=None):
        self.loop = asyncio.get_running_loop()
        self.worker = SimpleNamespace(loop=self.loop, home=home_here())
        self.sock = sock
        self.closed = False
        self.writing_paused = False
        self.written = []
        self.drains = []
        self.wakes = []  # what `until_closed` waits for
        self.leaves = asyncio.Event()
        self.reads = asyncio.Event()
        self.reads.set()

    @property
    def data(self):
        return b"".join(b"".join(pieces) for pieces in self.written)

    def write(self, pieces):
        assert asyncio.get_running_loop() is self.loop
        self.written.append(pieces)
        if self.sock is not None:
            self.sock.send(b"".join(pieces))

    async def drain(self):
        assert asyncio.get_running_loop() is self.loop
        self.drains.append(len(self.data))
        await self.reads.wait()
        if self.closed:
            raise ClientDisconnected("the client has left")

    async def duplicate_drained(self):
        await self.drain()
        return os.dup(self.sock.fileno())

    async def until_closed(self, future):
        self.wakes.append(future)
        leaves = asyncio.ensure_future(self.leaves.wait())
        await asyncio.wait([future, leaves], return_when=asyncio.FIRST_COMPLETED)
        leaves.cancel()
        if self.closed:
            raise ClientDisconnected("the client has left")

    def leave(self):
        self.closed = True
        self.leaves.set()
        self.reads.set()


in_greenlet = spawn_greenlet


async def in_thread(func, *args):
    return await use_executor(func)(*args)


BOTH = pytest.mark.parametrize("run", [in_thread, in_greenlet])


async def turns():
    for _ in range(5):
        await asyncio.sleep(0)


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


# Output


async def test_what_is_sent_waits_for_a_flush():
    output = Output(Connection())
    output.sendall(b"one")
    output.send(b"two")
    assert output.gettimeout() == 0.0
    assert not output.flushed
    assert output.connection.written == []
    assert output.take() == [b"one", b"two"]
    assert output.take() == []


@BOTH
async def test_a_flush_is_a_single_write(run):
    output = Output(Connection())

    def request():
        output.sendall(b"one")
        output.sendall(b"two")
        output.flush()
        output.flush()  # nothing more
        output.sendall(b"three")
        output.flush()

    await run(request)
    assert output.connection.written == [[b"one", b"two"], [b"three"]]
    assert output.flushed
    assert output.connection.drains == []


async def test_a_flush_of_nothing_has_sent_nothing():
    output = Output(Connection())
    output.flush()
    assert not output.flushed


async def test_in_a_greenlet_a_flush_lets_others_have_the_loop():
    output = Output(Connection())
    seen = []

    def request():
        for number in range(3):
            output.sendall(b"x")
            output.flush()
            seen.append(number)

    async def other():
        for _ in range(3):
            seen.append("other")
            await asyncio.sleep(0)

    await asyncio.gather(in_greenlet(request), other())
    assert seen[:4] == ["other", 0, "other", 1]


@BOTH
async def test_a_request_that_is_ahead_of_its_client_waits(run):
    connection = Connection()
    output = Output(connection)

    def request():
        output.sendall(b"x" * AHEAD)
        output.flush()
        assert connection.drains == []
        output.sendall(b"y")
        output.flush()
        assert connection.drains == [AHEAD + 1]
        assert output.ahead == 0
        output.sendall(b"z")
        output.flush()

    await run(request)
    assert connection.drains == [AHEAD + 1]


@BOTH
async def test_a_request_waits_while_its_client_does_not_read(run):
    connection = Connection()
    connection.writing_paused = True
    connection.reads.clear()
    output = Output(connection)

    def request():
        output.sendall(b"x")
        output.flush()

    task = asyncio.create_task(run(request))
    await until(lambda: connection.drains)
    await turns()
    assert not task.done()
    connection.reads.set()
    await task
    assert connection.data == b"x"


@BOTH
@pytest.mark.parametrize("before", [True, False])
async def test_a_request_is_told_that_its_client_has_left(run, before):
    connection = Connection()
    connection.writing_paused = True
    connection.reads.clear()
    output = Output(connection)
    if before:
        connection.closed = True

    def request():
        output.sendall(b"x")
        with pytest.raises(ClientDisconnected):
            output.flush()
        return True

    task = asyncio.create_task(run(request))
    if not before:
        await until(lambda: connection.drains)
        connection.leave()
    assert await task
    assert bool(connection.drains) is not before


async def test_the_loop_sends_and_waits_as_well():
    connection = Connection()
    connection.reads.clear()
    output = Output(connection)
    output.sendall(b"x")
    task = asyncio.create_task(output.send_from_loop())
    await until(lambda: connection.drains)
    assert (connection.data, output.flushed, task.done()) == (b"x", True, False)
    connection.leave()
    with pytest.raises(ClientDisconnected):
        await task


# Files


@pytest.fixture
async def pair():
    """A server's socket, whose buffers are small, and its client's."""
    server, client = socket.socketpair()
    for sock in (server, client):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        sock.setblocking(False)
    yield server, client
    server.close()
    client.close()


@pytest.fixture
def file_of(tmp_path):
    files = []

    def file_of(data):
        path = tmp_path / str(len(files))
        path.write_bytes(data)
        files.append(path.open("rb"))
        return files[-1]

    yield file_of
    for file in files:
        file.close()


async def received(client, size):
    loop = asyncio.get_running_loop()
    data = b""
    async with asyncio.timeout(20):
        while len(data) < size:
            piece = await loop.sock_recv(client, 65536)
            assert piece
            data += piece
    return data


def open_files():
    return len(os.listdir("/proc/self/fd"))


@BOTH
async def test_a_file_is_sent_behind_what_waits(run, pair, file_of):
    server, client = pair
    output = Output(Connection(server))
    file = file_of(b"0123456789")

    def request():
        output.sendall(b"head:")
        output.sendfile(file, 2, 5)
        assert output.unsent == 0

    await run(request)
    assert await received(client, 10) == b"head:23456"
    assert output.connection.drains == [5]
    assert server.fileno() > 0  # and not closed


@BOTH
async def test_a_long_file_waits_for_its_client_again_and_again(run, monkeypatch, pair, file_of):
    server, client = pair
    connection = Connection(server)
    output = Output(connection)
    content = os.urandom(1024) * 3000  # more than a block
    file = file_of(content)
    before, duplicates, dup = open_files(), [], os.dup
    monkeypatch.setattr(os, "dup", lambda fd: duplicates.append(dup(fd)) or duplicates[-1])
    task = asyncio.create_task(run(output.sendfile, file, 0, len(content)))
    data, waits = b"", 0
    while len(data) < len(content):
        await until(lambda waits=waits: task.done() or len(connection.wakes) > waits)
        assert len(data) < len(content)
        waits = len(connection.wakes)
        data += await received(client, 1)
    await task
    assert data == content
    assert output.unsent == 0
    assert waits > 1
    assert open_files() == before
    # Nothing waits for the duplicate any more, whose number others may get.
    assert [connection.loop.remove_writer(fd) for fd in duplicates] == [False]


@BOTH
async def test_the_kernel_is_asked_for_a_block_at_a_time(run, monkeypatch, pair, file_of):
    server, client = pair
    monkeypatch.setattr(module, "FILE_BLOCK", 100)
    asked = []
    real = os.sendfile

    def sendfile(out, source, offset, count):
        asked.append((offset, count))
        return real(out, source, offset, count)

    monkeypatch.setattr(os, "sendfile", sendfile)
    await run(Output(Connection(server)).sendfile, file_of(b"x" * 300), 10, 250)
    assert asked == [(10, 100), (110, 100), (210, 50)]
    await received(client, 250)


@BOTH
async def test_a_short_file_ends_early(run, pair, file_of):
    server, client = pair
    output = Output(Connection(server))
    await run(output.sendfile, file_of(b"x" * 100), 50, 1000)
    assert output.unsent == 950
    assert await received(client, 50) == b"x" * 50


@BOTH
async def test_a_client_that_has_left_gets_no_file(run, pair, file_of):
    server, client = pair
    client.close()
    before = open_files()
    with pytest.raises(ClientDisconnected) as caught:
        await run(Output(Connection(server)).sendfile, file_of(b"x" * 100), 0, 100)
    assert isinstance(caught.value.__cause__, BrokenPipeError)
    assert open_files() == before + 1  # the file


@BOTH
async def test_a_file_that_cannot_be_read_is_an_error_of_the_application(
    run, pair, file_of, monkeypatch
):
    def sendfile(out, source, offset, count):
        raise OSError(errno.EIO, "the disk is broken")

    monkeypatch.setattr(os, "sendfile", sendfile)
    file, before = file_of(b"x"), open_files()
    with pytest.raises(OSError, match="the disk is broken"):
        await run(Output(Connection(pair[0])).sendfile, file, 0, 1)
    assert open_files() == before


@BOTH
@pytest.mark.parametrize("how", ["closes", "is lost"])
async def test_a_client_that_leaves_ends_the_sending_of_its_file(run, how, pair, file_of):
    server, client = pair
    connection = Connection(server)
    task = asyncio.create_task(
        run(Output(connection).sendfile, file_of(b"x" * 1_000_000), 0, 1_000_000)
    )
    await until(lambda: connection.wakes)
    if how == "closes":
        client.close()
    else:
        connection.leave()
    with pytest.raises(ClientDisconnected):
        await task


async def test_a_client_that_has_left_is_sent_no_file(pair, file_of):
    server, _ = pair
    connection = Connection(server)
    connection.leave()
    with pytest.raises(ClientDisconnected):
        await in_thread(Output(connection).sendfile, file_of(b"x"), 0, 1)


async def test_a_wait_that_is_over_may_be_woken_again():
    future = asyncio.get_running_loop().create_future()
    module._set_result(future)
    module._set_result(future)
    assert await future is None


# Responses


class Socket:
    """What gunicorn writes to."""

    def __init__(self):
        self.written = b""

    def sendall(self, data):
        self.written += data


def request_of(method="GET", version=(1, 1), closes=False):
    return SimpleNamespace(method=method, version=version, should_close=lambda: closes)


CFG = Config()


@pytest.fixture(autouse=True)
def one_moment(monkeypatch):
    """Let everything happen at the same time."""
    monkeypatch.setattr("time.time", lambda: NOW)


@pytest.fixture(autouse=True)
def as_in_a_new_process(monkeypatch):
    monkeypatch.setattr(module, "_PLAIN", set())
    monkeypatch.setattr(module, "_date", (0, ""))


def answer(kind, sock, request, status, headers, body, *, force_close=False):
    """Let a response be written; return it, or the class and text of the error."""
    response = kind(request, sock, CFG)
    if force_close:
        response.force_close()
    try:
        write = response.start_response(status, headers)
        for chunk in body:
            write(chunk)
        response.close()
    except Exception as exc:
        return type(exc), str(exc)
    return response


def compare(status, headers, body=(), *, force_close=False, **of_request):
    """Compare a response with gunicorn's, byte for byte."""
    request = request_of(**of_request)
    sock, output = Socket(), Output(None)
    theirs = answer(GunicornResponse, sock, request, status, headers, body, force_close=force_close)
    for _ in range(2):  # what is remembered of the first must not change the second
        mine = answer(Response, output, request, status, headers, body, force_close=force_close)
        if isinstance(theirs, tuple):
            assert mine == theirs
        else:
            expected, attributes = dict(vars(theirs)), dict(vars(mine))
            del expected["sock"], attributes["sock"]
            assert attributes.pop("closes") == theirs.should_close()
            assert attributes == expected
        assert b"".join(output.take()) == sock.written
    return mine


class Text(str):
    """A string of a framework's own class."""

    __slots__ = ()


STATUSES = [
    "200 OK",
    "200",
    "200 ",
    "204 No Content",
    "304 Not Modified",
    "101 Switching Protocols",
    "100 Continue",
    "103 Early Hints",
    "404 Not Found",
    "500 Internal Server Error",
    "599 Gr\xfc\xdfe",
    "999 x\ty",
    "000 Zero",
    "",
    "OK",
    "20 OK",
    "2000 OK",
    "200  OK",
    " 200 OK",
    "200 OK\r\nX: y",
    "200 OK\n",
    "200 \u20ac",
    "\xb2\xb2\xb2 OK",
    b"200 OK",
    200,
]

HEADERS = [
    [],
    [("Content-Type", "text/plain"), ("X-A", "1"), ("x-a", "2")],
    [("Content-Length", "3")],
    [("content-LENGTH", " 3 ")],
    [("Content-Length", "0")],
    [("Content-Length", "x")],
    [("Content-Length", "")],
    [("Content-Length", "-1")],
    [("Content-Length", "\u0663")],
    [("Content-Length", "\xb3")],
    [("Content-Length", 3)],
    [("Content-Length", b"3")],
    [("Content-Length", "3"), ("Content-Length", "5")],
    [("Connection", "close")],
    [("Connection", "keep-alive")],
    [("Connection", "Upgrade"), ("Upgrade", "WebSocket")],
    [("connection", "upgrade"), ("upgrade", "h2c")],
    [("Transfer-Encoding", "chunked"), ("Keep-Alive", "x"), ("TE", "x"), ("Trailers", "x")],
    [("Server", "mine"), ("Date", "mine"), ("Proxy-Authenticate", "x")],
    [("X", " \tspaces\t ")],
    [("X", "")],
    [("X", "\xe4\xff")],
    [("X", "\u20ac")],
    [("X", "a\r\nY: b")],
    [("X", "a\nb")],
    [("X", "a\x00b")],
    [("X", "a\x7fb")],
    [("X\xe4", "a")],
    [("X Y", "a")],
    [("X:", "a")],
    [("X\r\n", "a")],
    [("", "a")],
    [("X", 1)],
    [("X", None)],
    [("X", b"bytes")],
    [(b"X", "a")],
    [(1, "a")],
    [("X", "good"), ("X", "bad\n")],
    [("X",)],
    [("X", "a", "b")],
    [["X", "a"]],
    [("Content-Length", "3"), ("Content-Type", "text/plain"), ("Bad\n", "")],
]

REQUESTS = [
    {"method": method, "version": version, "closes": closes}
    for method in ("GET", "HEAD", "CONNECT")
    for version in ((1, 1), (1, 0), (1, 2))
    for closes in (False, True)
]


@pytest.mark.parametrize("status", STATUSES)
def test_a_status_is_sent_as_by_gunicorn(status):
    for request in REQUESTS:
        for headers in ([], [("Content-Length", "3")], [("X", "y")]):
            compare(status, headers, [b"abc"], **request)


@pytest.mark.parametrize("headers", HEADERS, ids=repr)
def test_headers_are_sent_as_by_gunicorn(headers):
    for request in REQUESTS:
        for status in ("200 OK", "204 No Content", "101 Switching Protocols"):
            for force_close in (False, True):
                compare(status, headers, [b"abc"], force_close=force_close, **request)


@pytest.mark.parametrize("value", [1, None, b"bytes", "bad\n", "\u20ac", " spaces ", "", Text("x")])
def test_a_name_that_is_remembered_does_not_let_bad_values_through(value):
    compare("200 OK", [("X", "good"), ("Y", "good")])
    assert {"X", "Y"} == module._PLAIN
    compare("200 OK", [("X", "good"), ("Y", value)])


@pytest.mark.parametrize(
    "body",
    [[], [b""], [b"a", b"", b"bc", b"more"], [b"x" * 100_000], ["text"], [b"a", None], [b"a"]],
    ids=lambda body: repr(body)[:20],
)
def test_bodies_are_sent_as_by_gunicorn(body):
    for request in REQUESTS:
        for headers in ([], [("Content-Length", "3")], [("Content-Length", "0")]):
            for status in ("200 OK", "204 No Content", "304 Not Modified"):
                compare(status, headers, body, **request)


@pytest.mark.parametrize("name", ["X", "Content-Length", "Connection"])
def test_strings_of_other_classes_are_taken_as_by_gunicorn(name):
    compare("200 OK", [(Text(name), Text("3"))], [b"abc"])
    compare("200 OK", [(name, "3")], [b"abc"])
    compare("200 OK", [(Text(name), "3"), (name, Text("3"))], [b"abc"])
    compare(Text("200 OK"), [], [b"abc"])


names = st.one_of(
    st.sampled_from(
        [
            "Content-Length",
            "Content-Type",
            "Connection",
            "Upgrade",
            "Transfer-Encoding",
            "Date",
            "Server",
            "Set-Cookie",
            "X",
        ]
    ),
    st.text("abXY09-_.!~", min_size=1, max_size=6),
    st.text(max_size=3),
)
spelled = st.builds(
    lambda name, how: how(name), names, st.sampled_from([str, str.upper, str.lower])
)
values = st.one_of(
    st.sampled_from(["3", "0", "upgrade", "websocket", "close", "chunked", " x ", ""]),
    st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=20),
    st.text(max_size=3),
)
statuses = st.one_of(
    st.integers(0, 999).map("{:03d} Reason".format),
    st.sampled_from(["200 OK", "204 No Content", "304 Not Modified", "101 Switching Protocols"]),
    st.text(max_size=6),
)


@settings(deadline=None, max_examples=500)
@given(
    statuses,
    st.lists(st.tuples(spelled, values), max_size=6),
    st.lists(st.binary(max_size=6), max_size=3),
    st.sampled_from(REQUESTS),
    st.booleans(),
)
def test_any_response_is_sent_as_by_gunicorn(status, headers, body, request, force_close):
    compare(status, headers, body, force_close=force_close, **request)


def test_an_error_replaces_a_response_that_was_not_sent():
    response = Response(request_of(), Output(None), CFG)
    response.start_response("200 OK", [("X", "old"), ("Content-Type", "a")])
    with pytest.raises(AssertionError, match="already set"):
        response.start_response("200 OK", [])
    error = ValueError("of the application")
    response.start_response("500 Error", [], (ValueError, error, None))
    response.write(b"x")
    with pytest.raises(ValueError, match="of the application"):
        response.start_response("500 Error", [], (ValueError, error, None))


def test_a_body_before_its_status_is_an_error():
    response = Response(request_of(), Output(None), CFG)
    with pytest.raises(AssertionError, match="before start_response"):
        response.write(b"x")
    assert not response.headers_sent


def test_headers_are_sent_once():
    output = Output(None)
    response = Response(request_of(), output, CFG)
    response.start_response("200 OK", [("Content-Length", "1")])
    response.send_headers()
    response.send_headers()
    assert len(output.take()) == 1


def test_until_its_headers_are_sent_a_response_closes_the_connection():
    response = Response(request_of(), Output(None), CFG)
    assert response.closes
    response.start_response("200 OK", [("Content-Length", "1")])
    response.send_headers()
    assert not response.closes


def test_the_names_that_are_remembered_are_good_and_bounded(monkeypatch):
    monkeypatch.setattr(module, "MAX_PLAIN", 3)
    compare("200 OK", [("Content-Length", "3"), ("Connection", "close"), ("Date", "x")], [b"abc"])
    compare("200 OK", [("Bad Name", "x")])
    compare("200 OK", [("X-Bad-Value", "x\n")])
    assert set() == module._PLAIN
    for number in range(10):
        compare("200 OK", [(f"X-{number}", str(number))])
    assert {"X-0", "X-1", "X-2"} == module._PLAIN


def test_the_date_is_made_once_a_second(monkeypatch):
    made = []

    def http_date():
        made.append(1)
        return f"date {len(made)}"

    monkeypatch.setattr(module.compat, "http_date", http_date)
    dates = []
    for now in (10.0, 10.2, 10.999, 11.0, 11.5, 10.5):
        monkeypatch.setattr("time.time", lambda now=now: now)
        dates.append(module.date())
    assert dates == ["date 1"] * 3 + ["date 2"] * 2 + ["date 3"]


def test_the_date_is_gunicorn_s():
    assert module.date() == "Tue, 14 Nov 2023 22:13:20 GMT"


@pytest.mark.parametrize(
    ("status", "headers", "body", "method", "short"),
    [
        ("200 OK", [("Content-Length", "3")], [b"abc"], "GET", False),
        ("200 OK", [("Content-Length", "3")], [b"abcdef"], "GET", False),
        ("200 OK", [("Content-Length", "3")], [b"ab"], "GET", True),
        ("200 OK", [("Content-Length", "3")], [], "GET", True),
        ("200 OK", [("Content-Length", "0")], [], "GET", False),
        ("200 OK", [("Content-Length", "3")], [], "HEAD", False),
        ("304 Not Modified", [("Content-Length", "3")], [], "GET", False),
        ("204 No Content", [("Content-Length", "3")], [], "GET", False),
        ("200 OK", [], [b"ab"], "GET", False),
    ],
)
def test_a_response_is_short_if_its_length_promised_more(status, headers, body, method, short):
    response = answer(Response, Output(None), request_of(method), status, headers, body)
    assert response.is_short() is short


# Responses that are files


async def send_file(run, server, file, headers, *, method="GET", cfg=CFG, status="200 OK"):
    output = Output(Connection(server))
    response = Response(request_of(method), output, cfg)

    def request():
        response.start_response(status, headers)
        response.write_file(FileWrapper(file))
        response.close()
        output.flush()

    await run(request)
    return response


@BOTH
async def test_a_file_is_a_whole_response(run, pair, file_of):
    server, client = pair
    file = file_of(b"0123456789")
    file.seek(2)
    response = await send_file(run, server, file, [("Content-Length", "8")])
    assert not response.is_short()
    assert (await received(client, 9)).endswith(b"\r\n\r\n23456789")
    assert file.tell() == 2


@BOTH
async def test_a_file_without_a_length_is_a_chunk(run, pair, file_of):
    server, client = pair
    response = await send_file(run, server, file_of(b"0123456789"), [])
    assert not response.is_short()
    data = await received(client, 9)
    assert data.endswith(b"\r\n\r\nA\r\n0123456789\r\n0\r\n\r\n")


@BOTH
async def test_a_file_that_is_shorter_than_promised_makes_a_short_response(run, pair, file_of):
    server, client = pair
    response = await send_file(run, server, file_of(b"0123456789"), [("Content-Length", "11")])
    assert response.is_short()
    assert (await received(client, 9)).endswith(b"\r\n\r\n0123456789")


@BOTH
async def test_a_file_that_shrinks_makes_a_short_response(run, monkeypatch, pair, file_of):
    server, client = pair
    monkeypatch.setattr(os, "fstat", lambda fd: SimpleNamespace(st_size=20))
    response = await send_file(run, server, file_of(b"0123456789"), [])
    assert response.is_short()
    assert b"\r\n\r\n14\r\n0123456789" in await received(client, 9)


@BOTH
async def test_an_empty_file_is_not_short(run, pair, file_of):
    server, client = pair
    response = await send_file(run, server, file_of(b""), [("Content-Length", "0")])
    assert not response.is_short()
    assert (await received(client, 9)).endswith(b"\r\n\r\n")


@BOTH
@pytest.mark.parametrize(("method", "status"), [("HEAD", "200 OK"), ("GET", "304 Not Modified")])
async def test_where_no_body_may_be_no_file_is_sent(run, method, status, pair, file_of):
    server, client = pair
    headers = [("Content-Length", "10")]
    response = await send_file(
        run, server, file_of(b"0123456789"), headers, method=method, status=status
    )
    assert not response.is_short()
    assert (await received(client, 9)).endswith(b"Content-Length: 10\r\n\r\n")


@BOTH
async def test_without_sendfile_a_file_is_read_and_sent(run, monkeypatch, pair, file_of):
    cfg = Config()
    cfg.set("sendfile", False)
    monkeypatch.setattr(os, "sendfile", None)
    server, client = pair
    headers = [("Content-Length", "10")]
    for file in (file_of(b"0123456789"), io.BytesIO(b"0123456789")):
        response = await send_file(run, server, file, headers, cfg=cfg)
        assert not response.is_short()
        assert (await received(client, 9)).endswith(b"\r\n\r\n0123456789")


def test_early_hints_are_sent_before_a_response():
    output = Output(None)
    request = request_of()
    response = Response(request, output, CFG)
    hints = module.compat.make_early_hints(request, output, response)
    hints([("Link", "</a>")])
    response.start_response("200 OK", [])
    response.send_headers()
    hints([("Link", "</b>")])
    data = b"".join(output.take())
    assert data.startswith(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n")
    assert b"</b>" not in data


async def test_a_request_may_wait_between_its_pieces():
    output = Output(Connection())

    def request():
        response = Response(request_of(), output, CFG)
        write = response.start_response("200 OK", [])
        for piece in (b"one", b"two"):
            write(piece)
            output.flush()
            await_(asyncio.sleep(0))
        response.close()
        output.flush()

    await in_greenlet(request)
    assert [len(pieces) for pieces in output.connection.written] == [2, 1, 1]
    assert output.connection.data.endswith(b"\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")
