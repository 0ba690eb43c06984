"""The Pyramid application with aiopyramid."""

from __future__ import annotations

import asyncio
from typing import Any

from peer_applications import plain
from pyramid.config import Configurator
from pyramid.response import Response

from aiopyramid.websocket.config import AutoWebsocketMapper


async def coroutine(request: Any) -> Response:
    await asyncio.sleep(0)
    return Response("hello")


async def waiting(request: Any) -> Response:
    await asyncio.sleep(0.05)
    return Response("hello")


async def echo(ws: Any) -> None:
    async for message in ws:
        await ws.send(message)


def main() -> Any:
    with Configurator() as config:
        config.include("aiopyramid")
        for view in plain, coroutine, waiting:
            config.add_route(view.__name__, f"/{view.__name__}")
            config.add_view(view, route_name=view.__name__)
        config.add_route("echo", "/echo")
        config.add_view(echo, route_name="echo", mapper=AutoWebsocketMapper)
        return config.make_wsgi_app()
