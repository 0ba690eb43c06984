"""A view whose on_close takes a moment and prints."""

from __future__ import annotations

import asyncio

from pyramid.config import Configurator
from pyramid.response import Response

from aiopyramid.websocket.config import AutoWebsocketMapper
from aiopyramid.websocket.view import WebsocketConnectionView


class Waiting(WebsocketConnectionView):
    async def on_open(self):
        await self.send("opened")

    async def on_close(self):
        await asyncio.sleep(0.2)
        print("on_close ran:", self.ws.close_code, flush=True)


def up(request):
    return Response("up")


def main():
    with Configurator() as config:
        config.include("aiopyramid")
        config.add_route("up", "/up")
        config.add_view(up, route_name="up")
        config.add_route("waiting", "/waiting")
        config.add_view(Waiting, route_name="waiting", mapper=AutoWebsocketMapper)
        return config.make_wsgi_app()
