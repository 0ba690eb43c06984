from __future__ import annotations

import asyncio

import pytest
from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPForbidden

from aiopyramid.sse import EventQueue, EventSourceResponse, ServerSentEvent, last_event_id
from aiopyramid.testing import NoEvents, client, sync_client


class Feed:
    """Views that send events, and what became of them."""

    def __init__(self):
        self.queue = None
        self.ended = []

    async def numbers(self, request):
        first = int(last_event_id(request) or 0) + 1
        request.response.set_cookie("unused", "x")

        async def events():
            try:
                for number in range(first, first + 2):
                    yield ServerSentEvent(id=str(number), event="number", data=f"{number}\nof 2")
                yield ServerSentEvent(comment="a comment")
                yield ServerSentEvent(retry=7)
                yield "the last one"
            finally:
                self.ended.append("numbers")

        return EventSourceResponse(events(), headerlist=[("Set-Cookie", "seen=yes")])

    async def queued(self, request):
        self.queue = EventQueue()
        return EventSourceResponse(self.queue, keep_alive=0.01)

    async def silent(self, request):
        async def events():
            try:
                await asyncio.sleep(3600)
                yield "never"
            finally:
                self.ended.append("silent")

        return EventSourceResponse(events())

    async def failing(self, request):
        async def events():
            yield "one"
            raise LookupError("no more events")

        return EventSourceResponse(events())

    async def refusing(self, request):
        raise HTTPForbidden("not for you")

    async def slow(self, request):
        await asyncio.sleep(3600)

    def cookie(self, request):
        return request.cookies["seen"]

    def app(self):
        with Configurator() as config:
            config.include("aiopyramid")
            for name in ("numbers", "queued", "silent", "failing", "refusing", "slow", "cookie"):
                config.add_route(name, f"/{name}")
                config.add_view(getattr(self, name), route_name=name, renderer="string")
            return config.make_wsgi_app()


@pytest.fixture
def feed():
    return Feed()


async def test_events_are_received_as_a_browser_does(feed):
    async with client(feed.app()) as c:
        async with c.events("/numbers", last_event_id="7") as events:
            assert events.response.content_type == "text/event-stream"
            assert await events.receive() == ServerSentEvent(event="number", id="8", data="8\nof 2")
            assert (await events.receive()).id == "9"
            assert (await events.receive()) == ServerSentEvent(data="the last one", id="9")
            assert events.comments == ["", "a comment"]
            assert events.retry == 7
            assert events.last_event_id == "9"
            for _ in range(2):
                with pytest.raises(EOFError, match="the response has ended"):
                    await events.receive()
            assert "/numbers" in repr(events)
        assert (await c.get("/cookie")).text == "yes"
    assert feed.ended == ["numbers"]


async def test_what_comes_later_is_waited_for(feed):
    async with client(feed.app()) as c, c.events("/queued") as events:
        with pytest.raises(TimeoutError, match=r"no event came within 0\.05 s"):
            await events.receive(timeout=0.05)
        assert events.comments[1:] == ["keep-alive"] * len(events.comments[1:])
        feed.queue.put("a")
        assert (await events.receive()).data == "a"
    assert feed.queue.closed


async def test_leaving_is_leaving_as_a_client(feed):
    async with client(feed.app()) as c:
        async with c.events("/silent") as events:
            with pytest.raises(TimeoutError):
                await events.receive(timeout=0.01)
        assert feed.ended == ["silent"]
        connecting = c.events("/silent")
        await connecting.__aenter__()
    assert feed.ended == ["silent"]  # nobody had listened


async def test_what_the_iterator_raises_is_raised_in_the_test(feed):
    async with client(feed.app()) as c, c.events("/failing") as events:
        assert (await events.receive()).data == "one"
        with pytest.raises(LookupError, match="no more events"):
            await events.receive()


async def test_another_answer_is_not_mistaken(feed):
    async with client(feed.app()) as c:
        with pytest.raises(NoEvents, match="403 Forbidden") as refused:
            async with c.events("/refusing"):
                pass
        assert refused.value.response.status_int == 403
        with pytest.raises(TimeoutError, match="the request was not answered within 0.05 s"):
            async with c.events("/slow", timeout=0.05):
                pass


def test_plain_tests_listen_too(feed):
    with sync_client(feed.app()) as c:
        with c.events("/numbers", headers={"X-A": "b"}) as events:
            assert events.receive().data == "1\nof 2"
            assert events.last_event_id == "2"
            assert events.receive(timeout=5).id == "2"
        with pytest.raises(NoEvents), c.events("/refusing"):
            pass
    assert feed.ended == ["numbers"]
