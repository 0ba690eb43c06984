"""The Pyramid application with aiopyramid."""

from __future__ import annotations

import asyncio
from typing import Any

from fan_out_applications import GROUP, joined, redis_url
from peer_applications import plain
from pyramid.config import Configurator
from pyramid.response import Response
from ticker import QUESTION, Ticker

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


async def member(ws: Any) -> None:
    await ws.request.groups.join(GROUP, ws)
    await ws.send(joined())
    async for _ in ws:
        pass


async def publisher(ws: Any) -> None:
    async with Ticker().running() as ticker:
        async for text in ws:
            if text == QUESTION:
                await ws.send(ticker.answer())
            else:
                ws.request.groups.publish(GROUP, text)


def main(**settings: str) -> Any:
    with Configurator(settings=settings) as config:
        config.include("aiopyramid")
        for view in plain, coroutine, waiting:
            config.add_route(view.__name__, f"/{view.__name__}")
            config.add_view(view, route_name=view.__name__)
        # A ping would not be a delivery, and 10,000 members leave no place for a publisher.
        of_groups = {"ping_interval": 0, "max_connections": 20_000}
        for socket, options in (echo, {}), (member, of_groups), (publisher, of_groups):
            config.add_route(socket.__name__, f"/{socket.__name__}")
            config.add_view(
                socket,
                route_name=socket.__name__,
                mapper=AutoWebsocketMapper,
                websocket_options=options,
            )
        return config.make_wsgi_app()


def by_redis() -> Any:
    return main(**{"aiopyramid.broadcast.url": redis_url()})
