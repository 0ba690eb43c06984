"""Requests that look at their threads, wait, block, and leave traces."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from collections import Counter
from contextvars import ContextVar

from pyramid.config import Configurator
from pyramid.response import Response
from pyramid.threadlocal import get_current_request, manager
from pyramid.view import view_config

from aiopyramid.exceptions import ScopeError
from aiopyramid.helpers import synchronize, use_executor, use_request_thread
from aiopyramid.websocket.config import AutoWebsocketMapper
from aiopyramid.websocket.view import WebsocketConnectionView

counts: Counter[str] = Counter()
steps: list[str] = []
local = threading.local()
variable: ContextVar[str] = ContextVar("variable", default="unset")
closed = threading.Event()
logger = logging.getLogger(__name__)


async def answer(value):
    await asyncio.sleep(0.001)
    return value


wait = synchronize(answer)


@view_config(route_name="up", renderer="string")
async def up(request):
    return "up"


@view_config(route_name="state", renderer="json")
def state(request):
    return {
        "steps": steps,
        "counts": dict(counts),
        "threads": [thread.name for thread in threading.enumerate()],
        "pid": os.getpid(),
    }


# One thread.


class Seen(list):
    def __call__(self, what):
        self.append((what, threading.get_ident()))


class Body:
    def __init__(self, seen):
        self.seen = seen

    def __iter__(self):
        self.seen("iteration")
        yield b"body"
        wait("while the body is sent")
        self.seen("iteration")

    def close(self):
        self.seen("close")
        closed.seen = list(self.seen)
        closed.set()


def middleware(app):
    def call(environ, start_response):
        environ["seen"] = Seen()
        environ["seen"]("middleware")
        response = app(environ, start_response)
        environ["seen"]("middleware")
        return response

    return call


def tween_factory(handler, registry):
    def tween(request):
        request.environ["seen"]("tween")
        variable.set("by the tween")
        if request.path == "/waits_in_tween":
            waits(request)
        response = handler(request)
        request.environ["seen"]("tween")
        return response

    return tween


@view_config(route_name="thread")
def plain(request):
    seen = request.environ["seen"]
    seen("view")
    wait("a coroutine")
    seen("view")
    request.add_response_callback(lambda request, response: seen("response callback"))
    request.add_finished_callback(lambda request: seen("finished callback"))
    return Response(app_iter=Body(seen))


@view_config(route_name="thread_of_coroutine")
async def coroutine(request):
    seen = request.environ["seen"]
    loop_thread = threading.get_ident()
    await asyncio.sleep(0.001)
    assert threading.get_ident() == loop_thread
    await use_request_thread(seen)("called by a coroutine")
    await asyncio.gather(*(use_request_thread(seen)("called by a coroutine") for _ in range(3)))
    request.add_response_callback(lambda request, response: seen("response callback"))
    assert loop_thread not in {ident for _, ident in seen}
    return Response(app_iter=Body(seen))


@view_config(route_name="seen", renderer="json")
def seen(request):
    closed.wait(10)
    closed.clear()
    return closed.seen


@view_config(route_name="nested", renderer="json")
async def nested(request):
    """Coroutines and plain code below each other, some levels deep."""

    def down(level):
        thread = threading.get_ident()
        if not level:
            return [thread]

        async def below():
            return await use_request_thread(down)(level - 1)

        return [thread, *synchronize(below)(), threading.get_ident()]

    threads = await use_request_thread(down)(5)
    return len(threads), len(set(threads))


@view_config(route_name="context", renderer="json")
async def context(request):
    """Values go from the tween to the view, into the request's thread, and back."""
    seen = [variable.get()]
    variable.set("by the view")

    def plain():
        seen.append(variable.get())
        seen.append(get_current_request() is request)
        variable.set("by the request's thread")

    await use_request_thread(plain)()
    return [*seen, variable.get()]


@view_config(route_name="locals", renderer="json")
def thread_locals(request):
    """What a request leaves in its thread, and what it leaves on Pyramid's stack."""
    before = getattr(local, "value", None)
    local.value = "left by another request"
    manager.push({"request": "left by another request", "registry": None})
    variable.set("left by another request")
    return [before, variable.get(), get_current_request()]


@view_config(route_name="pyramid_locals", renderer="json")
def pyramid_locals(request):
    return [get_current_request() is request, variable.get()]


# Scope.


@view_config(route_name="background", renderer="string")
async def background(request):
    """A task that outlives its request has no thread any more."""
    result = asyncio.get_running_loop().create_future()
    go = asyncio.Event()

    async def later():
        await go.wait()
        try:
            await use_request_thread(threading.get_ident)()
        except ScopeError as exc:
            result.set_result(str(exc))

    background.task = asyncio.create_task(later())
    background.result, background.go = result, go
    return "begun"


@view_config(route_name="background_result", renderer="string")
async def background_result(request):
    background.go.set()
    return await background.result


@view_config(route_name="socket", mapper=AutoWebsocketMapper)
class Socket(WebsocketConnectionView):
    async def on_open(self):
        try:
            await use_request_thread(threading.get_ident)()
        except ScopeError as exc:
            await self.send(str(exc))

    def on_message(self, message):
        """Plain, so it runs in a thread of the executor."""
        synchronize(self.send)(threading.current_thread().name)


@view_config(route_name="executor", renderer="string")
async def executor(request):
    return await use_executor(lambda: threading.current_thread().name)()


# Exceptions.


class Oops(Exception):
    pass


def helper():
    raise Oops("of the helper")


@view_config(route_name="fails")
def fails(request):
    helper()


async def coroutine_helper():
    await asyncio.sleep(0.001)
    helper()


@view_config(route_name="fails_below_synchronize")
def fails_below_synchronize(request):
    synchronize(coroutine_helper)()


class Handled(Exception):
    pass


@view_config(route_name="handled")
def handled(request):
    raise Handled(request.params["by"])


@view_config(context=Handled, renderer="json", request_param="by=plain")
def plain_exception_view(exc, request):
    logger.exception("logged by an exception view")
    try:
        raise
    except Handled as raised:
        return [raised is exc, sys.exc_info()[1] is exc, wait(0)]


@view_config(context=Handled, renderer="json", request_param="by=coroutine")
async def coroutine_exception_view(exc, request):
    before = sys.exc_info()[1] is exc
    await asyncio.sleep(0.001)
    after = sys.exc_info()[1] is exc
    below = await use_executor(lambda: sys.exc_info()[1] is exc)()
    logger.exception("logged by an exception view")
    try:
        raise
    except Handled as raised:
        return [raised is exc, before, after, below]


@view_config(route_name="exit")
def exit_view(request):
    sys.exit("a plain view")


@view_config(route_name="exit_async")
async def exit_async(request):
    sys.exit("a coroutine view")


# The client leaves.


async def lasting():
    """Work that takes its time to end."""
    steps.append("begun")
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        steps.append("cancelled")
        raise
    finally:
        await asyncio.sleep(0.05)
        steps.append("coroutine ended")


@view_config(route_name="waits")
def waits(request):
    try:
        synchronize(lasting)()
    except Exception as exc:
        steps.append(f"view got {type(exc).__name__}, OSError: {isinstance(exc, OSError)}")
        wait("cleaning up")
        raise
    finally:
        steps.append("view ended")


@view_config(route_name="waits_async")
async def waits_async(request):
    await lasting()


@view_config(route_name="waits_below")
async def waits_below(request):
    """A coroutine that lets its request's thread wait."""
    try:
        await use_request_thread(waits)(request)
    finally:
        steps.append("coroutine view ended")


@view_config(route_name="waits_in_tween")
def never(request):
    raise AssertionError("the tween was interrupted")


@view_config(route_name="busy")
def busy(request):
    """Not interrupted, as it does not wait."""
    steps.append("begun")
    release.wait()
    steps.append("view ended")
    return Response("done")


@view_config(route_name="lasts", renderer="string")
def lasts(request):
    counts["lasts"] += 1
    time.sleep(float(request.params["s"]))
    print("the view has ended", flush=True)
    return "ended"


@view_config(route_name="release", renderer="string")
async def let_go(request):
    release.set()
    return "released"


release = threading.Event()


@view_config(route_name="sleep", renderer="string")
async def sleep(request):
    await asyncio.sleep(float(request.params["s"]))
    return "slept"


# Blocking.


@view_config(route_name="stuck")
def stuck(request):
    counts["stuck"] += 1
    while True:
        time.sleep(0.01)


@view_config(route_name="stuck_in_executor")
async def stuck_in_executor(request):
    counts["stuck"] += 1
    await use_executor(stuck)(request)


@view_config(route_name="spin", renderer="string")
def spin(request):
    counts["spinning"] += 1
    end = time.monotonic() + float(request.params["s"])
    while time.monotonic() < end:
        pass
    return "spun"


@view_config(route_name="echo", mapper=AutoWebsocketMapper)
async def echo(ws):
    async for message in ws:
        await ws.send(message)


resource = threading.Lock()


@view_config(route_name="holds", renderer="string")
def holds(request):
    """Wait for a coroutine with a lock that others want."""
    with resource:
        counts["holds"] += 1
        synchronize(others_want_it)(int(request.params["others"]))
    return "held"


async def others_want_it(number):
    while counts["wants"] < number:
        await asyncio.sleep(0.01)


@view_config(route_name="wants", renderer="string")
def wants(request):
    counts["wants"] += 1
    with resource:
        return "had it"


ROUTES = (
    "up state thread thread_of_coroutine seen nested context locals pyramid_locals background "
    "background_result socket executor fails fails_below_synchronize handled exit exit_async "
    "waits waits_in_tween waits_async waits_below busy lasts release sleep stuck stuck_in_executor "
    "spin echo holds wants"
)


def main(**settings):
    with Configurator(settings=settings) as config:
        config.include("aiopyramid")
        config.add_tween(f"{__name__}.tween_factory")
        for route in ROUTES.split():
            config.add_route(route, f"/{route}")
        config.scan(__name__)
        return middleware(config.make_wsgi_app())
