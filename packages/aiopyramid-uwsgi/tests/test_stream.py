from __future__ import annotations

import _thread
import asyncio
import contextlib
import logging
from types import SimpleNamespace

import pytest
from pyramid.request import Request
from pyramid.response import Response
from pyramid.threadlocal import RequestContext

from aiopyramid import homes, threadlocal
from aiopyramid.sse import EventSourceResponse


@pytest.fixture
def stream(load):
    return load("stream")


@pytest.fixture
async def worker():
    home = homes.home_here()
    return SimpleNamespace(home=home, loop=lambda: home.loop)


class Events:
    """Events that tell when they have ended."""

    def __init__(self, *texts):
        self.texts = texts
        self.ended = asyncio.Event()

    async def iterate(self):
        try:
            for text in self.texts:
                if isinstance(text, Exception):
                    raise text
                yield text
            if not self.texts:
                await asyncio.sleep(3600)
        finally:
            self.ended.set()


def prepared(stream, worker, events):
    threadlocal.install()
    request = Request.blank("/", {"REQUEST_URI": "/"})
    request.registry = None
    with RequestContext(request):
        response = EventSourceResponse(events.iterate())
    environ = request.environ
    assert stream.prepare(environ, response, worker)
    assert request.environ is not environ  # which uWSGI empties
    return response.app_iter


async def iterated(body):
    """Iterate over a body in a thread as uWSGI does, without a Python function that calls."""
    chunks = []
    _thread.start_new_thread(chunks.extend, (body,))
    async with asyncio.timeout(20):
        while not body.taken:
            await asyncio.sleep(0.001)
    body.close()
    return chunks


async def read(connection, size):
    data = b""
    async with asyncio.timeout(20):
        while len(data) < size:
            more = await asyncio.get_running_loop().sock_recv(connection, 65536)
            if not more:
                break
            data += more
    return data


def test_other_responses_are_left_alone(stream, connection):
    for response in (Response("text"), Response(app_iter=iter([b"a"]))):
        assert not stream.prepare({}, response, None)


async def test_a_connection_that_cannot_be_taken_is_left_to_uwsgi(stream, uwsgi, connection):
    uwsgi.opt = {"http": b":80"}
    response = EventSourceResponse(Events("a").iterate())
    assert not stream.prepare({"UWSGI_ROUTER": "http"}, response, None)


async def test_the_loop_sends_the_events(stream, worker, connection):
    events = Events("one", "two")
    assert await iterated(prepared(stream, worker, events)) == [b""]
    assert await read(connection, 1000) == b": \n\ndata: one\n\ndata: two\n\n"
    assert events.ended.is_set()


async def test_a_client_that_leaves_ends_the_events(stream, worker, connection):
    events = Events()
    await iterated(prepared(stream, worker, events))
    assert await read(connection, 4) == b": \n\n"
    connection.send(b"what a client should not send")
    assert not events.ended.is_set()
    connection.close()
    await asyncio.wait_for(events.ended.wait(), 20)
    async with asyncio.timeout(20):
        while stream.tasks:
            await asyncio.sleep(0)


async def test_a_failure_is_logged_once_and_drops_the_connection(
    stream, worker, connection, caplog
):
    await iterated(prepared(stream, worker, Events("one", ValueError("no more"))))
    with contextlib.suppress(ConnectionResetError):
        await read(connection, 1000)
    [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.getMessage() == "Error in the events of /"
    assert str(record.exc_info[1]) == "no more"


async def test_a_client_that_does_not_read_is_dropped(stream, worker, connection, monkeypatch):
    monkeypatch.setattr(stream, "SEND_TIMEOUT", 0.05)
    events = Events(*["x" * 100_000] * 100)
    await iterated(prepared(stream, worker, events))
    await asyncio.wait_for(events.ended.wait(), 20)
    async with asyncio.timeout(20):
        while stream.tasks:
            await asyncio.sleep(0)


async def test_a_client_that_reads_slowly_gets_all(stream, worker, connection, monkeypatch):
    monkeypatch.setattr(stream, "SEND_TIMEOUT", 0.05)
    events = Events("x" * 1_000_000)
    await iterated(prepared(stream, worker, events))
    received = b""
    while more := await asyncio.get_running_loop().sock_recv(connection, 100_000):
        received += more
        await asyncio.sleep(0.02)
    assert received.count(b"x") == 1_000_000


async def test_middleware_gets_the_events_itself(stream, worker, connection):
    body = prepared(stream, worker, Events("one"))

    def middleware():
        return [chunk.upper() for chunk in body]

    chunks = await asyncio.to_thread(middleware)
    assert b"".join(chunks) == b": \n\nDATA: ONE\n\n"
    assert not body.taken


async def test_a_response_that_does_not_go_out_closes_its_events(stream, worker, connection):
    events = Events("one")
    body = prepared(stream, worker, events)
    await asyncio.to_thread(body.close)
    assert not body.taken
