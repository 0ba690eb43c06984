from __future__ import annotations

import asyncio
import contextlib
import datetime

import pytest
from pyramid.config import Configurator
from pyramid.renderers import JSON
from pyramid.request import Request
from pyramid.threadlocal import RequestContext, get_current_request

from aiopyramid import threadlocal
from aiopyramid.sse import (
    KEEP_ALIVE,
    EventQueue,
    EventSourceResponse,
    ServerSentEvent,
    Streams,
    last_event_id,
)


@pytest.fixture(autouse=True)
def streams(monkeypatch):
    streams = Streams()
    monkeypatch.setattr("aiopyramid.sse.streams", streams)
    yield streams
    assert not streams._open


# Events


@pytest.mark.parametrize(
    ("fields", "encoded"),
    [
        ({"data": "one"}, "data: one\n\n"),
        ({"data": ""}, "data: \n\n"),
        ({"data": "a\nb\r\nc\rd\n"}, "data: a\ndata: b\ndata: c\ndata: d\ndata: \n\n"),
        ({"data": "a\x0bb\x85c\u2028d"}, "data: a\x0bb\x85c\u2028d\n\n"),
        ({"data": "ü", "event": "e", "id": "1"}, "event: e\nid: 1\ndata: ü\n\n"),
        ({"id": ""}, "id: \n\n"),
        ({"retry": 0}, "retry: 0\n\n"),
        ({"comment": "a\nb"}, ": a\n: b\n\n"),
        ({}, "\n"),
    ],
)
def test_events_are_encoded(fields, encoded):
    assert ServerSentEvent(**fields).encode() == encoded.encode()


@pytest.mark.parametrize(
    "fields",
    [
        {"event": "a\nid: 7"},
        {"event": "a\rb"},
        {"id": "1\n\ndata: forged"},
        {"id": "1\0"},
        {"retry": -1},
        {"retry": 1.5},
        {"retry": "1\ndata: x"},
        {"retry": True},
    ],
)
def test_what_would_forge_an_event_is_refused(fields):
    with pytest.raises(ValueError, match=f"{next(iter(fields))} = .* must be"):
        ServerSentEvent(**fields)


@pytest.mark.parametrize("value", [7, b"bytes", {"a": 1}])
@pytest.mark.parametrize("field", ["data", "event", "id", "comment"])
def test_what_is_no_text_is_refused(field, value):
    with pytest.raises(TypeError, match=f"{field} = .* must be a str"):
        ServerSentEvent(**{field: value})
    with pytest.raises(ValueError, match="surrogates not allowed"):
        ServerSentEvent(**{field: "\ud800"})


def test_json_has_the_adapters_of_the_application():
    renderer = JSON()
    renderer.add_adapter(datetime.date, lambda value, request: value.isoformat())
    request = Request.blank("/")
    with Configurator() as config:
        config.add_renderer("json", renderer)
        request.registry = config.registry
    with RequestContext(request):
        event = ServerSentEvent.json([datetime.date(2026, 1, 2)], event="dates")
    assert event == ServerSentEvent(data='["2026-01-02"]', event="dates")


def test_the_last_id_is_text():
    assert last_event_id(Request.blank("/")) is None
    for sent, text in (("7", "7"), ("ü".encode().decode("latin-1"), "ü"), ("\xff", "\ufffd")):
        assert last_event_id(Request.blank("/", environ={"HTTP_LAST_EVENT_ID": sent})) == text


# The response


def response_of(events, **options):
    return EventSourceResponse(events, **options)


async def read(response):
    return b"".join([chunk async for chunk in response.app_iter])


async def numbers(count=3, closed=None):
    try:
        for number in range(count):
            yield str(number)
    finally:
        if closed is not None:
            closed.set()


def test_the_headers_are_those_of_events():
    headers = response_of(numbers(), headerlist=[("X-A", "b")], status=201).headers
    assert headers["Content-Type"] == "text/event-stream"
    assert headers["Cache-Control"] == "no-cache"
    assert headers["X-A"] == "b"
    assert "Content-Length" not in headers


@pytest.mark.parametrize(
    "options", [{"keep_alive": 0}, {"max_queue": 0}, {"retry": -1}, {"retry": "x"}]
)
def test_bad_arguments_are_refused(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} = "):
        response_of(numbers(), **options)


async def test_texts_are_the_data_of_events():
    assert await read(response_of(numbers(), retry=5)) == (
        b"retry: 5\n\ndata: 0\n\ndata: 1\n\ndata: 2\n\n"
    )
    assert await read(response_of(numbers(0))) == b": \n\n"


async def test_the_head_does_not_wait_for_the_first_event():
    response = response_of(asyncio_forever())
    assert await anext(response.app_iter) == b": \n\n"
    await response.app_iter.aclose()


async def asyncio_forever(ended=None):
    try:
        await asyncio.Event().wait()
        yield "never"
    finally:
        if ended is not None:
            ended.append(asyncio.current_task())


async def test_a_comment_is_sent_when_nothing_happens():
    response = response_of(asyncio_forever(), keep_alive=0.01)
    chunks = [await anext(response.app_iter) for _ in range(3)]
    assert chunks[1:] == [KEEP_ALIVE, KEEP_ALIVE]
    await response.app_iter.aclose()


async def test_what_waits_is_sent_in_one_go_and_no_more_is_made():
    made = []

    async def events():
        for number in range(100):
            made.append(number)
            yield str(number)

    response = response_of(events(), max_queue=4)
    await anext(response.app_iter)
    for _ in range(50):
        await asyncio.sleep(0)
    assert made == [0, 1, 2, 3, 4]  # the last one waits for room
    assert (await anext(response.app_iter)).count(b"data") == 4
    assert (await read(response)).count(b"data") == 96


async def test_events_are_made_with_the_view_s_request():
    threadlocal.install()
    request = Request.blank("/")
    request.registry = None

    async def events():
        yield str(get_current_request() is request)

    with RequestContext(request):
        response = response_of(events())
    assert b"True" in await read(response)


async def test_closing_ends_the_iterator():
    ended = []
    response = response_of(asyncio_forever(ended))
    await anext(response.app_iter)
    await asyncio.sleep(0)
    await response.app_iter.aclose()
    assert len(ended) == 1


async def test_a_response_that_nobody_listens_to_closes_its_iterator(streams):
    queue = EventQueue()
    await response_of(queue).app_iter.aclose()
    assert queue.closed


async def test_an_iterator_that_fails_ends_the_response():
    async def events():
        yield "one"
        raise LookupError("no more")

    response = response_of(events())
    with pytest.raises(LookupError, match="no more"):
        await read(response)


async def test_what_is_no_event_is_named():
    async def events():
        yield 7

    with pytest.raises(TypeError, match="an event is a ServerSentEvent or a str, not 7"):
        await read(response_of(events()))


async def test_all_streams_end_with_the_worker(streams):
    ended = []
    first = response_of(asyncio_forever(ended))
    await anext(first.app_iter)
    reading = asyncio.ensure_future(read(first))
    await asyncio.sleep(0)
    streams.end()
    assert await reading == b""
    assert len(ended) == 1
    late = response_of(asyncio_forever(ended))
    assert await read(late) == b": \n\n"


def test_a_server_without_a_loop_can_send_it():
    body = response_of(numbers()).app_iter
    assert b"".join(body).endswith(b"data: 2\n\n")
    body.close()


# Queues


async def test_a_queue_gives_what_was_put():
    queue = EventQueue()
    assert queue.put("a")
    reading = asyncio.ensure_future(anext(queue))
    assert await reading == ServerSentEvent(data="a")
    reading = asyncio.ensure_future(anext(queue))
    await asyncio.sleep(0)
    assert queue.put(ServerSentEvent(data="b"))
    assert (await reading).data == "b"


@pytest.mark.parametrize("event", [7, b"bytes", "\ud800", None])
async def test_what_cannot_be_sent_is_refused_where_it_is_put(event):
    queue = EventQueue()
    with pytest.raises((TypeError, ValueError)):
        queue.put(event)
    assert not queue.closed


async def test_a_full_queue_is_closed():
    queue = EventQueue(max_size=2)
    assert [queue.put(text) for text in "abcd"] == [True, True, False, False]
    assert queue.closed
    assert [event async for event in queue] == []


async def test_a_queue_ends_behind_what_waits():
    queue = EventQueue()
    queue.put("a")
    queue.close()
    assert not queue.put("b")
    assert [event.data async for event in queue] == ["a"]


async def test_a_queue_whose_client_leaves_is_closed():
    queue = EventQueue()
    response = response_of(queue)
    await anext(response.app_iter)
    queue.put("a")
    await response.app_iter.aclose()
    assert not queue.put("b")
    with contextlib.suppress(StopAsyncIteration):
        raise AssertionError(await anext(queue))


def test_a_queue_has_room_for_one():
    with pytest.raises(ValueError, match="max_size = 0 must be at least 1"):
        EventQueue(0)
