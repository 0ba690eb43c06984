"""Server-sent events of all kinds, and what becomes of those who send them."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import os
import threading
from collections import Counter
from typing import Any

from pyramid.config import Configurator
from pyramid.response import Response
from pyramid.threadlocal import get_current_request
from pyramid.view import view_config

from aiopyramid.sse import EventQueue, EventSourceResponse, ServerSentEvent, last_event_id

counts: Counter[str] = Counter()
queues: set[EventQueue] = set()
seen: list[dict[str, Any]] = []

PAGE = """<!doctype html>
<title>Events</title>
<script>
const source = new EventSource("/numbers");
source.addEventListener("number", (event) => {
  fetch("/seen", {method: "POST", body: JSON.stringify({id: event.lastEventId, data: event.data})});
});
</script>
"""


@view_config(route_name="page")
def page(request):
    return Response(PAGE)


@view_config(route_name="seen", request_method="POST", renderer="json")
def report(request):
    seen.append(request.json_body)
    return {}


@view_config(route_name="state", renderer="json")
def state(request):
    return {
        "pid": os.getpid(),
        "counts": counts,
        "seen": seen,
        "queues": len(queues),
        "threads": threading.active_count(),
    }


@view_config(route_name="numbers")
async def numbers(request):
    """Three numbers, and then the end: the browser comes again for the next."""
    first = int(last_event_id(request) or 0) + 1

    async def events():
        counts["connections"] += 1
        for number in range(first, first + 3):
            yield ServerSentEvent(event="number", id=str(number), data=f"number {number}\nof many")
            await asyncio.sleep(0.01)

    return EventSourceResponse(events(), retry=50)


@view_config(route_name="silent")
async def silent(request):
    async def events():
        counts["silent"] += 1
        try:
            await asyncio.sleep(3600)
            yield "never"
        finally:
            counts["silent ended"] += 1

    return EventSourceResponse(events())


@view_config(route_name="plain")
def plain(request):
    """A plain view, whose events need its request later."""
    name = request.params["name"]

    async def events():
        for _ in range(3):
            await asyncio.sleep(0.01)
            current = get_current_request()
            yield f"{name} {current.params['name']} {current is request} {request.headers['X-Me']}"

    return EventSourceResponse(events())


@view_config(route_name="patient")
async def patient(request):
    async def events():
        while counts["patient"] < 1:
            await asyncio.sleep(0.01)
        yield "at last"

    return EventSourceResponse(events(), keep_alive=0.02)


@view_config(route_name="go_on")
def go_on(request):
    counts["patient"] += 1
    return Response()


@view_config(route_name="failing")
async def failing(request):
    async def events():
        yield "one"
        raise ValueError("no more events")

    return EventSourceResponse(events())


@view_config(route_name="flood")
async def flood(request):
    """More than anybody reads."""

    async def events():
        try:
            for _ in itertools.count():
                counts["poured"] += 1
                yield "x" * 65536
        finally:
            counts["flood ended"] += 1

    return EventSourceResponse(events(), max_queue=4)


@view_config(route_name="listen")
async def listen(request):
    async def events():
        queue = EventQueue(max_size=3)
        queues.add(queue)
        try:
            async for event in queue:
                yield event
        finally:
            queues.discard(queue)

    return EventSourceResponse(events())


@view_config(route_name="tell", renderer="json")
async def tell(request):
    return [queue.put(text) for text in request.params.getall("text") for queue in queues]


def zipped(app):
    """Middleware that makes something else of each body of ``/zipped``."""

    def middleware(environ, start_response):
        if environ["PATH_INFO"] != "/zipped/numbers":
            return app(environ, start_response)
        environ["PATH_INFO"] = "/numbers"

        def start(status, headers, exc_info=None):
            return start_response(status, [*headers, ("Content-Encoding", "gzip")], exc_info)

        return (gzip.compress(chunk) for chunk in app(environ, start))

    return middleware


def main():
    with Configurator() as config:
        config.include("aiopyramid")
        config.add_route("up", "/up")
        config.add_view(lambda request: Response("up"), route_name="up")
        for name in (
            *("page", "seen", "state", "numbers", "silent", "plain", "patient", "go_on"),
            *("failing", "flood", "listen", "tell"),
        ):
            config.add_route(name, f"/{name}")
        config.scan(__name__)
        return zipped(config.make_wsgi_app())
