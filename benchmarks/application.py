"""The Pyramid applications of the benchmarks."""

from __future__ import annotations

import asyncio

from pyramid.config import Configurator
from pyramid.response import Response

from aiopyramid.websocket.config import AutoWebsocketMapper


def plain(request):
    return Response("Hello")


async def coroutine(request):
    await asyncio.sleep(0)
    return Response("Hello")


async def echo(ws):
    async for message in ws:
        await ws.send(message)


def without():
    """Serve the plain view without aiopyramid."""
    with Configurator() as config:
        config.add_route("plain", "/plain")
        config.add_view(plain, route_name="plain")
        return config.make_wsgi_app()


def main():
    """Serve all views with aiopyramid."""
    with Configurator() as config:
        config.include("aiopyramid")
        for view, options in (plain, {}), (coroutine, {}), (echo, {"mapper": AutoWebsocketMapper}):
            config.add_route(view.__name__, f"/{view.__name__}")
            config.add_view(view, route_name=view.__name__, **options)
        return config.make_wsgi_app()
