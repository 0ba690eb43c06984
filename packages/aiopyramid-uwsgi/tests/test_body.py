from __future__ import annotations

import asyncio
import io
import tempfile
import threading

import pytest
from pyramid.httpexceptions import HTTPLengthRequired, HTTPRequestEntityTooLarge

from aiopyramid import homes, threads
from aiopyramid.bridge import await_
from aiopyramid.exceptions import ClientDisconnected
from aiopyramid.request_threads import run_as_request

CHUNKED = {"HTTP_TRANSFER_ENCODING": "Chunked"}


@pytest.fixture
def body(load):
    return load("body")


@pytest.fixture
def files(monkeypatch):
    """The temporary files that were made, which are closed in the end."""
    made, make = [], tempfile.SpooledTemporaryFile

    def make_file(size):
        made.append(make(size))
        return made[-1]

    monkeypatch.setattr(tempfile, "SpooledTemporaryFile", make_file)
    yield made
    for each in made:
        each.close()


@pytest.fixture
def prepare(body, load, files):
    """Prepare a body as in one of the modes, and return the environ."""

    def prepare(content=b"", mode="ThreadModeWorker", **environ):
        worker = object.__new__(getattr(load("worker"), mode))
        environ = {
            "PATH_INFO": "/path",
            "wsgi.input": io.BytesIO(content),
            "wsgi.file_wrapper": object(),
            **environ,
        }
        body.prepare(environ, worker)
        return environ

    return prepare


@pytest.fixture
def chunks(uwsgi):
    """Let uWSGI have chunks of a body."""

    def chunks(*pieces):
        pieces = [*pieces, b""]
        uwsgi.chunked_read = lambda: pieces.pop(0)  # fails behind the end

    return chunks


def test_in_thread_mode_the_body_is_read_from_uwsgi(prepare, body):
    environ = prepare(b"a\nb\nc\nd", CONTENT_LENGTH="7")
    stream = environ["wsgi.input"]
    assert isinstance(stream, body.RequestThreadInput)
    assert stream.read(1) == b"a"
    assert stream.readline() == b"\n"
    assert next(iter(stream)) == b"b\n"
    assert stream.readlines() == [b"c\n", b"d"]
    assert list(stream) == []
    assert "wsgi.file_wrapper" in environ


async def test_another_thread_reads_the_body_through_the_requests_thread(body, monkeypatch):
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(homes, "process_home", homes.home_here())
    readers = []

    class Source(io.BytesIO):
        def read(self, *args):
            readers.append(threading.get_ident())
            return super().read(*args)

    def request():
        stream = body.RequestThreadInput(Source(b"content"))

        def elsewhere():
            return threading.get_ident(), stream.read()

        return threading.get_ident(), await_(threads.run_in_executor(None, elsewhere))

    own, (other, content) = await loop.run_in_executor(None, run_as_request, request)
    assert content == b"content"
    assert other != own
    assert readers == [own]


def test_in_loop_mode_the_body_is_read_beforehand(prepare):
    environ = prepare(b"content and more", "LoopModeWorker", CONTENT_LENGTH="7")
    assert environ["wsgi.input"].read() == b"content"
    assert "wsgi.file_wrapper" not in environ


@pytest.mark.parametrize("mode", ["ThreadModeWorker", "LoopModeWorker"])
@pytest.mark.parametrize("length", [{}, {"CONTENT_LENGTH": ""}])
def test_a_request_without_a_length_has_no_body(prepare, mode, length):
    environ = prepare(b"content", mode, **length)
    assert environ["wsgi.input"].read() == b""


def test_a_body_that_breaks_off_is_an_error(prepare):
    with pytest.raises(ClientDisconnected, match="did not send the whole request body"):
        prepare(b"short", "LoopModeWorker", CONTENT_LENGTH="7")


@pytest.mark.parametrize("kind", ["with a length", "in chunks"])
def test_no_file_is_left_open_when_a_body_cannot_be_read(prepare, uwsgi, chunks, files, kind):
    uwsgi.opt = {"limit-post": b"3"}
    chunks(b"ab", b"cd")
    environ = CHUNKED if kind == "in chunks" else {"CONTENT_LENGTH": "7"}
    with pytest.raises((ClientDisconnected, HTTPRequestEntityTooLarge)):
        prepare(b"short", "LoopModeWorker", **environ)
    (file,) = files
    assert file.closed


@pytest.mark.parametrize("mode", ["ThreadModeWorker", "LoopModeWorker"])
def test_a_chunked_body_is_read_by_uwsgis_own_function(prepare, chunks, mode):
    chunks(b"ab", b"c")
    environ = prepare(b"not this", mode, **CHUNKED)
    assert environ["wsgi.input_terminated"] is True
    assert environ["wsgi.input"].read() == b"abc"
    assert environ["wsgi.input"].read() == b""


def test_a_chunked_body_that_a_proxy_has_read_has_a_length(prepare):
    environ = prepare(b"content", CONTENT_LENGTH="7", **CHUNKED)
    assert environ["wsgi.input"].read() == b"content"
    assert "wsgi.input_terminated" not in environ


@pytest.mark.parametrize(("limit", "fits"), [(b"0", True), (b"4", True), (b"3", False)])
def test_a_chunked_body_has_the_limit_of_others(prepare, chunks, uwsgi, limit, fits):
    uwsgi.opt = {"limit-post": limit}
    chunks(b"ab", b"cd")
    stream = prepare(**CHUNKED)["wsgi.input"]
    if fits:
        assert stream.read() == b"abcd"
    else:
        with pytest.raises(HTTPRequestEntityTooLarge, match="the body exceeds 3 bytes"):
            stream.read()


def test_a_chunked_body_that_the_router_keeps_back_is_refused(prepare, uwsgi, caplog):
    uwsgi.opt = {"http": b":80"}
    with pytest.raises(HTTPLengthRequired, match="set http-chunked-input = true"):
        prepare(UWSGI_ROUTER="http", **CHUNKED)
    assert "/path refused: uWSGI's router passes no chunked bodies on" in caplog.text
