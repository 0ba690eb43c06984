"""An application whose views hold the event loop, or wait, until they are let go by a file."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

from pyramid.config import Configurator
from pyramid.response import Response

from aiopyramid.helpers import synchronize, use_request_thread
from aiopyramid.websocket.config import AutoWebsocketMapper

PAGE = "<html><body>a page</body></html>"


def may_go_on(request: Any) -> bool:
    return Path(request.registry.settings["go_on"]).exists()


def hold(request: Any) -> None:
    while not may_go_on(request):
        time.sleep(0.01)


async def wait(request: Any) -> None:
    while not may_go_on(request):
        await asyncio.sleep(0.01)


def up(request: Any) -> Response:
    return Response("up")


async def holding(request: Any) -> Response:
    hold(request)
    return Response("held")


async def waiting(request: Any) -> Response:
    await wait(request)
    return Response("waited")


def plain(request: Any) -> Response:
    hold(request)
    return Response("waited")


def synchronized(request: Any) -> Response:
    synchronize(wait)(request)
    return Response("waited")


async def nested(request: Any) -> Response:
    await use_request_thread(hold)(request)
    return Response("waited")


async def ws(ws: Any) -> None:
    async for message in ws:
        if message == "hold":
            hold(ws.request)
        await ws.send(message)


def page(request: Any) -> Response:
    return Response(PAGE)


async def coroutine_page(request: Any) -> Response:
    return Response(PAGE)


def main() -> Any:
    settings = json.loads(os.environ["AIOPYRAMID_TEST_SETTINGS"])
    with Configurator(settings=settings) as config:
        config.include("aiopyramid")
        for view in up, holding, waiting, plain, synchronized, nested, page, coroutine_page:
            config.add_route(view.__name__, f"/{view.__name__}")
            config.add_view(view, route_name=view.__name__)
        config.add_route("ws", "/ws*subpath")
        config.add_view(ws, route_name="ws", mapper=AutoWebsocketMapper)
        return config.make_wsgi_app()
