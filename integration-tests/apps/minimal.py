"""The least that a WebSocket needs; no coroutine but its view."""

from __future__ import annotations

from pyramid.config import Configurator

from aiopyramid.websocket.config import AutoWebsocketMapper


def up(request):
    return "up"


async def echo(ws):
    async for message in ws:
        await ws.send(message)


def main():
    with Configurator() as config:
        config.include("aiopyramid")
        config.add_route("up", "/up")
        config.add_view(up, route_name="up", renderer="string")
        config.add_route("echo", "/echo")
        config.add_view(echo, route_name="echo", mapper=AutoWebsocketMapper)
        return config.make_wsgi_app()
