"""Views for clients that attack, and what they can see of it."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import threading
from collections import Counter, defaultdict

from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPException, HTTPOk
from pyramid.response import Response
from pyramid.view import view_config

from aiopyramid.helpers import synchronize, use_executor
from aiopyramid.websocket.config import AutoWebsocketMapper
from aiopyramid.websocket.view import WebsocketConnectionView, websocket_view_config

MIB = 2**20
CHUNK = b"x" * 65536
counts: Counter[str] = Counter()
records: defaultdict[str, list[object]] = defaultdict(list)


class Gate:
    """What a test opens over HTTP, for coroutines and for threads."""

    def __init__(self) -> None:
        self.for_threads = threading.Event()
        self.for_coroutines = asyncio.Event()

    def open(self) -> None:
        self.for_threads.set()
        self.for_coroutines.set()

    async def wait(self) -> None:
        await self.for_coroutines.wait()

    def block(self) -> None:
        # Bounded, so that a test that fails can stop its server.
        self.for_threads.wait(30)


gates: defaultdict[str, Gate] = defaultdict(Gate)


@view_config(route_name="up", renderer="string")
async def up(request):
    return "up"


@view_config(route_name="state", renderer="json")
async def state(request):
    return {"pid": os.getpid(), "counts": dict(counts), "records": dict(records)}


@view_config(route_name="open", renderer="string")
async def open_gate(request):
    gates[request.GET["gate"]].open()
    return "open"


# Bodies and paths.


@view_config(route_name="ignore_body", renderer="string")
async def ignore_body(request):
    return "ignored"


@view_config(route_name="read_body", renderer="string")
async def read_body(request):
    return str(len(request.body))


@view_config(route_name="catch_body", renderer="string")
async def catch_body(request):
    """Read the body, and answer as if nothing was wrong with it."""
    try:
        return str(len(request.body))
    except HTTPException as exc:
        return f"caught {exc.status_code}"


@view_config(route_name="smuggled", renderer="string")
async def smuggled(request):
    return "smuggled"


@view_config(route_name="big_head")
async def big_head(request):
    return Response(headerlist=[("X-Big", "x" * 32768), ("Content-Length", "0")])


@view_config(route_name="block", renderer="string")
async def block(request):
    """Keep a thread busy of those that plain callbacks run in."""
    counts["blocked"] += 1
    await use_executor(gates[request.GET["gate"]].block)()
    return "released"


# WebSockets.


@view_config(route_name="echo", mapper=AutoWebsocketMapper)
async def echo(ws):
    async for message in ws:
        await ws.send(message)


@view_config(route_name="sink", mapper=AutoWebsocketMapper)
async def sink(ws):
    async for _ in ws:
        pass


@view_config(route_name="pour", mapper=AutoWebsocketMapper)
async def pour(ws):
    """Send for ever, as far as a test can tell."""
    for _ in range(300 * MIB // len(CHUNK)):
        await ws.send(CHUNK)
        counts["poured"] += 1
    counts["poured all"] += 1


@websocket_view_config(route_name="two", max_connections=2)
async def two(ws):
    async for message in ws:
        await ws.send(message)


@websocket_view_config(route_name="little", compression="deflate", max_message_size=1000)
async def little(ws):
    async for message in ws:
        await ws.send(str(len(message)))


@view_config(route_name="late", mapper=AutoWebsocketMapper)
async def late(ws):
    """Receive nothing until the gate is open, and then record all."""
    gate = ws.request.GET["gate"]
    await gates[gate].wait()
    received = 0
    while (message := await ws.recv()) is not None:
        received += 1
        records[gate].append([len(message), message[-1:]])
    records[f"{gate} ended"].append([received, ws.close_code])


@websocket_view_config(route_name="slow", max_queue=2, ping_interval=0.2, ping_timeout=0.2)
async def slow(ws):
    """Take a message each 20 ms."""
    while await ws.recv() is not None:
        await asyncio.sleep(0.02)
        counts["taken slowly"] += 1
    records["slow"].append([ws.close_code, ws.close_reason])


@websocket_view_config(route_name="graceful", disconnect_grace=0.1)
async def graceful(ws):
    """Tell when its grace is over."""
    try:
        await asyncio.sleep(3600)
    finally:
        counts["grace over"] += 1


class Plain(WebsocketConnectionView):
    """Plain callbacks, which run in threads, and record that they did."""

    def record(self, what: str) -> None:
        records[self.request.GET["id"]].append(what)

    def on_open(self):
        self.record("open")

    def on_message(self, message):
        self.record(f"message {message}")

    def on_close(self):
        self.record("close")


@websocket_view_config(route_name="plain", disconnect_grace=0.1)
class PlainWithGrace(Plain):
    pass


@websocket_view_config(route_name="plain_at_once", disconnect_grace=0)
class PlainAtOnce(Plain):
    pass


def tween_factory(handler, registry):
    """Do to the response what the request's parameter says, after the view."""

    def tween(request):
        records["paths"].append(request.path)
        response = handler(request)
        match request.GET.get("tween"):
            case "wait" | "block" as how:
                counts["tween waits"] += 1
                gate = gates[request.GET["gate"]]
                try:
                    gate.block() if how == "block" else synchronize(gate.wait)()
                finally:
                    counts["tween waited"] += 1
            case "replace":
                return HTTPOk("no WebSocket after all")
            case "raise":
                raise RuntimeError("the tween fails")
        return response

    return tween


class HeldIterable:
    """A response's iterable whose close() waits."""

    def __init__(self, chunks, gate: str) -> None:
        self.chunks = chunks
        self.gate = gate

    def __iter__(self):
        return iter(self.chunks)

    def close(self) -> None:
        counts["close waits"] += 1
        gates[self.gate].block()
        close = getattr(self.chunks, "close", None)
        if close is not None:
            close()


def holding(app):
    """A WSGI middleware that holds back the close() of responses to ``?hold=GATE``."""

    def middleware(environ, start_response):
        chunks = app(environ, start_response)
        _, found, gate = environ["QUERY_STRING"].partition("hold=")
        return HeldIterable(chunks, gate) if found else chunks

    return middleware


ROUTES = (
    "up state open ignore_body read_body catch_body smuggled big_head block "
    "echo sink pour two little late slow graceful plain plain_at_once"
)


def main(**settings):
    settings |= json.loads(os.environ.get("AIOPYRAMID_TEST_SETTINGS", "{}"))
    if settings.get("attacks.gc") == "off":
        gc.disable()
    with Configurator(settings=settings) as config:
        config.include("aiopyramid")
        config.add_tween(f"{__name__}.tween_factory")
        for route in ROUTES.split():
            config.add_route(route, f"/{route}")
        config.scan(__name__)
        return config.make_wsgi_app()


def held():
    return holding(main())
