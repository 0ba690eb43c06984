"""The application that most integration tests talk to."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import threading
import time
from collections import Counter, deque
from contextvars import ContextVar

from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPForbidden
from pyramid.response import FileResponse, Response
from pyramid.threadlocal import get_current_request
from pyramid.view import view_config

from aiopyramid.helpers import synchronize, use_executor
from aiopyramid.websocket.config import AutoWebsocketMapper
from aiopyramid.websocket.events import WebsocketEnded, WebsocketOpened
from aiopyramid.websocket.view import WebsocketConnectionView, websocket_view_config

CHUNK = b"x" * 65536
counts: Counter[str] = Counter()
records: deque[object] = deque(maxlen=1000)


# Plain HTTP.


@view_config(route_name="up", renderer="string")
async def up(request):
    return "up"


@view_config(route_name="state", renderer="json")
async def state(request):
    if request.params.get("gc"):
        gc.collect()
    return {
        "pid": os.getpid(),
        "counts": dict(counts),
        "records": list(records),
        "tasks": len(asyncio.all_tasks()),
        "fds": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
    }


@view_config(route_name="sleep", renderer="json")
async def sleep(request):
    counts["sleep started"] += 1
    try:
        await asyncio.sleep(float(request.params["s"]))
    except asyncio.CancelledError:
        counts["sleep cancelled"] += 1
        raise
    return {"thread": threading.current_thread().name, "same": get_current_request() is request}


@view_config(route_name="generator", renderer="json")
def generator(request):
    yield from asyncio.sleep(0.01)
    return {"thread": threading.current_thread().name, "same": get_current_request() is request}


@view_config(route_name="threaded", renderer="json")
def threaded(request):
    time.sleep(float(request.params.get("s", "0")))
    waited = synchronize(async_value)("waited")
    return {
        "thread": threading.current_thread().name,
        "same": get_current_request() is request,
        "waited": waited,
    }


user: ContextVar[str] = ContextVar("user", default="nobody")


@view_config(route_name="user", renderer="json")
def plain_user(request):
    user.set(request.params.get("name", user.get()))
    return user.get()


@view_config(route_name="user_async", renderer="json")
async def coroutine_user(request):
    await asyncio.sleep(0.001)
    user.set(request.params.get("name", user.get()))
    return user.get()


@view_config(route_name="exit")
async def exit_view(request):
    raise SystemExit("exit")


async def async_value(value):
    await asyncio.sleep(0.001)
    return value


@view_config(route_name="environ", renderer="json")
def environ(request):
    def known(value):
        return value if isinstance(value, str | int | bool | tuple | None) else type(value).__name__

    request.environ["app.note"] = "noted"
    return {key: known(value) for key, value in request.environ.items()}


@view_config(route_name="echo_body")
async def echo_body(request):
    return Response(request.body, content_type="application/octet-stream")


@view_config(route_name="form", renderer="json")
async def form(request):
    upload = request.POST["file"]
    size = len(upload.file.read())
    return {"name": upload.filename, "size": size, "text": request.POST["text"]}


@view_config(route_name="count_body", renderer="json")
def count_body(request):
    """Read an upload as it comes, in a thread."""
    size = 0
    while chunk := request.environ["wsgi.input"].read(65536):
        size += len(chunk)
        counts["body bytes"] += len(chunk)
    return {"size": size}


@view_config(route_name="count_body_async", renderer="json")
async def count_body_async(request):
    size = 0
    while chunk := request.environ["wsgi.input"].read(65536):
        size += len(chunk)
    return {"size": size}


@view_config(route_name="stream")
async def stream(request):
    """Stream from an async generator."""

    async def chunks():
        try:
            for _ in range(int(request.params["n"])):
                counts["chunks"] += 1
                yield CHUNK
                await asyncio.sleep(0)
        finally:
            counts["stream closed"] += 1

    return Response(app_iter=chunks(), content_type="application/octet-stream")


@view_config(route_name="stream_threaded")
def stream_threaded(request):
    """Stream from a plain generator that may block."""

    def chunks():
        try:
            for _ in range(int(request.params["n"])):
                counts["chunks"] += 1
                counts[f"chunk in {threading.current_thread().name}"] += 1
                yield CHUNK
        finally:
            counts["stream closed"] += 1

    return Response(app_iter=chunks(), content_type="application/octet-stream")


@view_config(route_name="stream_held")
async def stream_held(request):
    """Stream a little, and the rest when told to, over HTTP."""

    async def chunks():
        yield b"begin"
        await use_executor(go_on.wait)()
        yield b"end"

    return Response(app_iter=chunks())


@view_config(route_name="stream_fails")
async def stream_fails(request):
    async def chunks():
        yield b"begin"
        raise RuntimeError("the stream fails")

    return Response(app_iter=chunks())


@view_config(route_name="file")
def file(request):
    return FileResponse(os.environ["AIOPYRAMID_TEST_FILE"], request=request)


@view_config(route_name="error")
async def error(request):
    raise RuntimeError("the view fails")


@view_config(context=ValueError, renderer="json")
async def exception_view(exc, request):
    await asyncio.sleep(0.01)
    request.response.status = 418
    return {"error": str(exc), "same": get_current_request() is request}


@view_config(route_name="value_error")
def value_error(request):
    raise ValueError("handled")


@view_config(route_name="hints", renderer="string")
async def hints(request):
    request.environ["wsgi.early_hints"]([("Link", "</style.css>; rel=preload")])
    return "hinted"


@view_config(route_name="status")
async def status(request):
    return Response(status="299 All Fine")


# WebSockets.


@view_config(route_name="page", websocket=False, renderer="string")
async def page(request):
    return "the page"


@view_config(route_name="page", websocket=True, mapper=AutoWebsocketMapper)
async def socket_of_page(ws):
    await ws.send("the socket")


@view_config(route_name="echo", mapper=AutoWebsocketMapper)
async def echo(ws):
    async for message in ws:
        await ws.send(message)


@websocket_view_config(route_name="echo_deflate", compression="deflate")
async def echo_deflate(ws):
    async for message in ws:
        await ws.send(message)


@websocket_view_config(
    route_name="echo_autobahn", compression="deflate", max_message_size=2**24, ping_interval=0
)
async def echo_autobahn(ws):
    async for message in ws:
        await ws.send(message)


@websocket_view_config(route_name="echo_plain", max_message_size=2**24, ping_interval=0)
async def echo_plain(ws):
    async for message in ws:
        await ws.send(message)


@view_config(route_name="json", mapper=AutoWebsocketMapper)
async def echo_json(ws):
    while not ws.closed:
        await ws.send_json({"got": await ws.recv_json()})


@view_config(route_name="recorder", mapper=AutoWebsocketMapper)
class Recorder(WebsocketConnectionView):
    """Does what its messages say, and records what happens."""

    async def on_open(self):
        counts["opened"] += 1
        await self.send("opened")

    async def on_message(self, message):
        if message == "fail":
            raise RuntimeError("on_message fails")
        if message == "close":
            await self.ws.close(4001, "asked for")
            await self.ws.close(4002, "asked again")
        elif message == "sleep":
            counts["sleeping"] += 1
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                counts["cancelled"] += 1
                raise
        elif message == "exit":
            raise SystemExit("exit")
        elif message == "send for ever":
            while True:
                await self.send(CHUNK)
                counts["sent"] += 1
        elif message == "tick":
            while True:
                await self.send("tick")
                await asyncio.sleep(0.01)
        elif message == "latency":
            await self.send(f"{await self.ws.ping() >= 0} {self.ws.latency >= 0}")
        else:
            await self.send(f"{type(message).__name__} {len(message)}")

    async def on_close(self):
        counts["closed"] += 1
        records.append([self.ws.close_code, self.ws.close_reason])


@view_config(route_name="context", mapper=AutoWebsocketMapper)
async def context(ws):
    """Check the thread-locals around every wait."""
    while (message := await ws.recv()) is not None:
        before = get_current_request()
        await asyncio.sleep(0.001)
        same = before is ws.request and get_current_request() is ws.request
        await ws.send(f"{same} {ws.request.params['n']} {message}")


@view_config(route_name="secret", mapper=AutoWebsocketMapper, permission="enter")
async def secret(ws):
    await ws.send("welcome")


@view_config(route_name="constructor", mapper=AutoWebsocketMapper)
class Constructor(WebsocketConnectionView):
    """Refuses in the constructor, or in the asynchronous hook."""

    def __init__(self, context, request):
        super().__init__(context, request)
        if "constructor" in request.params:
            raise HTTPForbidden("the constructor says no")
        request.response.set_cookie("constructor", "yes")

    async def on_handshake(self):
        await asyncio.sleep(0.001)
        if "hook" in self.request.params:
            raise HTTPForbidden("the hook says no")
        if "error" in self.request.params:
            raise ValueError("handled")

    def select_subprotocol(self, offered):
        return offered[-1] if offered else None

    async def on_open(self):
        await self.send(str(self.ws.subprotocol))


@view_config(route_name="headers", mapper=AutoWebsocketMapper)
async def headers(ws):
    """Tell a header of the request, for each message, when the request has long ended."""
    async for _ in ws:
        await ws.send(ws.request.headers["X-Test"] + ws.request.environ["HTTP_X_TEST"])


@websocket_view_config(route_name="subprotocols", subprotocols=["b", "a"])
async def subprotocols(ws):
    await ws.send(str(ws.subprotocol))


@view_config(route_name="attr", mapper=AutoWebsocketMapper, attr="talk")
class WithAttr:
    def __init__(self, request):
        self.request = request

    def talk(self, ws):
        yield from ws.send("talked")


@view_config(route_name="callbacks", mapper=AutoWebsocketMapper)
class PlainCallbacks(WebsocketConnectionView):
    """Callbacks that are plain functions run in threads, and can wait."""

    def on_open(self):
        synchronize(self.ws.send)(threading.current_thread().name)

    def on_message(self, message):
        synchronize(self.send)(f"{message} {get_current_request() is self.request}")


@view_config(route_name="slow_reader", mapper=AutoWebsocketMapper)
async def slow_reader(ws):
    """Receive nothing until told to, over HTTP."""
    await use_executor(go_on.wait)()
    n = 0
    while await ws.recv() is not None:
        n += 1
        await ws.send(str(n))


go_on = threading.Event()


@view_config(route_name="go_on", renderer="string")
async def let_go_on(request):
    go_on.set()
    return "ok"


@websocket_view_config(route_name="slow_handshake", max_connections=2)
class SlowHandshake(WebsocketConnectionView):
    async def on_handshake(self):
        await asyncio.sleep(0.3)


@view_config(route_name="cancelled")
async def cancelled(request):
    """Wait for something that is cancelled, without being cancelled itself."""
    task = asyncio.create_task(asyncio.sleep(3600))
    task.cancel()
    await task


class Policy:
    """A security policy with coroutines."""

    async def identity(self, request):
        await asyncio.sleep(0.001)
        return request.params.get("user")

    async def authenticated_userid(self, request):
        return await self.identity(request)

    async def permits(self, request, context, permission):
        return await self.identity(request) == "jo"

    async def remember(self, request, userid, **kw):
        return []

    async def forget(self, request, **kw):
        return []


def tween_factory(handler, registry):
    wait = synchronize(async_value)

    def tween(request):
        assert wait("waited") == "waited"
        assert get_current_request() is request
        response = handler(request)
        assert get_current_request() is request
        response.headers["X-Tween"] = wait("seen")
        response.headers["X-User"] = user.get()
        response.set_cookie("tween", "yes")
        return response

    return tween


def record_opened(event: WebsocketOpened) -> None:
    counts["event opened"] += 1


def record_ended(event: WebsocketEnded) -> None:
    counts["event ended"] += 1
    counts[f"ended with {event.request.headers.get('X-Test')}"] += 1
    records.append(
        ["ended", event.code, event.reason, event.messages_received, event.messages_sent]
    )


ROUTES = (
    "up state sleep generator threaded environ echo_body form count_body count_body_async "
    "stream stream_threaded stream_held stream_fails file error value_error hints status page echo "
    "echo_deflate echo_plain echo_autobahn json recorder context secret constructor subprotocols "
    "attr callbacks headers user user_async exit slow_reader go_on slow_handshake cancelled"
)


def main(**settings):
    settings |= json.loads(os.environ.get("AIOPYRAMID_TEST_SETTINGS", "{}"))
    with Configurator(settings=settings) as config:
        config.include("aiopyramid")
        config.set_security_policy(Policy())
        config.add_tween(f"{__name__}.tween_factory")
        config.add_subscriber(record_opened, WebsocketOpened)
        config.add_subscriber(record_ended, WebsocketEnded)
        for route in ROUTES.split():
            config.add_route(route, f"/{route}")
        config.scan(__name__)
        return config.make_wsgi_app()


def paste_main(global_config, **settings):
    return main(**settings)
