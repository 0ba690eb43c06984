"""WebSocket views that ``config.scan`` finds, for the tests of the decorators."""

from __future__ import annotations

from pyramid.response import Response
from pyramid.view import view_config, view_defaults

from aiopyramid.websocket.view import websocket_view_config, websocket_view_defaults


@websocket_view_config(route_name="a", max_queue=5, request_param="yes")
@websocket_view_config(route_name="b", origins=["https://a.example"])
async def echo(ws):
    async for message in ws:
        await ws.send(message)


@view_defaults(route_name="c")
@websocket_view_defaults(max_queue=5)
class Room:
    def __init__(self, request):
        self.request = request

    @view_config()
    def page(self):
        return Response("the page")

    @websocket_view_config()
    async def talk(self, ws):
        await ws.send(f"{self.request.path}")

    @websocket_view_config(attr="talk", request_param="more", max_queue=6)
    async def unused(self, ws):
        await ws.send("not this one")


def in_the_room(view):
    """A decorator that is built on ours, for views of another category."""
    return websocket_view_config(route_name="d", _depth=1, _category="rooms")(view)


@in_the_room
async def special(ws):
    await ws.send("special")
