"""An application with lifespans and background tasks, which fail as its settings say."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
from collections.abc import AsyncIterator
from typing import Any

from pyramid.config import Configurator
from pyramid.response import Response

from aiopyramid.helpers import synchronize, use_request_thread
from aiopyramid.websocket.config import AutoWebsocketMapper


def say(*words: object) -> None:
    os.write(2, f"[{' '.join(map(str, words))} in {os.getpid()}]\n".encode())


@contextlib.asynccontextmanager
async def first(registry: Any) -> AsyncIterator[None]:
    say("enter first")
    registry.loop = asyncio.get_running_loop()
    await asyncio.sleep(0.01)
    try:
        yield
    finally:
        await asyncio.to_thread(say, "leave first")


@contextlib.asynccontextmanager
async def second(registry: Any) -> AsyncIterator[None]:
    say("enter second")
    if registry.settings.get("enter") == "fails once":
        registry.settings["enter"] = ""
        raise ValueError("no database")
    if registry.settings.get("enter") == "fails":
        raise ValueError("no database")
    if registry.settings.get("enter") == "hangs":
        await asyncio.Event().wait()
    yield
    if registry.settings.get("leave") == "hangs":
        say("leaving")
        await asyncio.Event().wait()
    say("leave second")


async def task(registry: Any) -> None:
    say("task begins")
    try:
        await registry.event.wait()
        registry.event.clear()
        raise ValueError("the task is broken")
    finally:
        say("task ends")


async def up(request: Any) -> Response:
    same = request.registry.loop is asyncio.get_running_loop()
    return Response(json_body={"pid": os.getpid(), "same": same})


def plain(request: Any) -> Response:
    return Response(json_body={"loop": repr(request.registry.loop)})


async def threads(request: Any) -> Response:
    request_thread = await use_request_thread(thread_name)()
    names = {"coroutine": thread_name(), "request": request_thread, "plain": request.plain_thread}
    return Response(json_body=names)


def thread_name() -> str:
    return threading.current_thread().name


async def break_task(request: Any) -> Response:
    request.registry.event.set()
    return Response(json_body={"pid": os.getpid()})


async def ws(ws: Any) -> None:
    await ws.send(str(ws.request.registry.loop is asyncio.get_running_loop()))
    async for _ in ws:
        pass
    await asyncio.sleep(0.05)
    say("view ends")


def tween(handler: Any, registry: Any) -> Any:
    def look(request: Any) -> Any:
        assert request.plain_thread
        return handler(request)

    return look


async def wait() -> str:
    await asyncio.sleep(0.01)
    return "waited"


def paste_main(global_config: Any, **settings: Any) -> Any:
    return main()


def main() -> Any:
    settings = json.loads(os.environ.get("AIOPYRAMID_TEST_SETTINGS", "{}"))
    if settings.get("wait"):
        say("loading", synchronize(wait)())
    with Configurator(settings=settings) as config:
        config.include("aiopyramid")
        config.registry.event = asyncio.Event()
        config.add_background_task(task, on_error=settings.get("on_error", "restart"))
        config.add_lifespan(first)
        config.add_lifespan("apps.lifespan.second")
        for view in up, plain, threads, break_task:
            config.add_route(view.__name__, f"/{view.__name__}")
            config.add_view(view, route_name=view.__name__)
        # Reified in a tween: plain code, in its request's thread.
        config.add_request_method(lambda request: thread_name(), "plain_thread", reify=True)
        config.add_tween("apps.lifespan.tween")
        config.add_route("ws", "/ws")
        config.add_view(ws, route_name="ws", mapper=AutoWebsocketMapper)
        return config.make_wsgi_app()
