"""The examples of the founding page, in their own syntax, and as coroutines."""

from __future__ import annotations

from pyramid.config import Configurator
from pyramid.response import Response
from pyramid.view import view_config

from aiopyramid.websocket.config import UWSGIWebsocketMapper, WebsocketMapper
from aiopyramid.websocket.helpers import ignore_websocket_closed
from aiopyramid.websocket.view import WebsocketConnectionView


class MyWebsocketContext:
    pass


class MyUWSGIContext:
    pass


@view_config(route_name="ws", mapper=WebsocketMapper)
def echo(ws):
    while True:
        message = yield from ws.recv()
        if message is None:
            break
        yield from ws.send(message)


@view_config(route_name="ws_async", mapper=WebsocketMapper)
async def echo_async(ws):
    while True:
        message = await ws.recv()
        if message is None:
            break
        await ws.send(message)


class MyWebsocket(WebsocketConnectionView):
    __view_mapper__ = WebsocketMapper


@view_config(context=MyWebsocketContext)
class EchoWebsocket(MyWebsocket):
    def on_message(self, message):
        yield from self.send(message)


@view_config(context=MyWebsocketContext, name="async")
class EchoWebsocketAsync(MyWebsocket):
    async def on_message(self, message):
        await self.send(message)


class MyUWSGIWebsocket(WebsocketConnectionView):
    __view_mapper__ = UWSGIWebsocketMapper


@view_config(context=MyUWSGIContext)
class EchoUWSGIWebsocket(MyUWSGIWebsocket):
    def on_message(self, message):
        yield from self.send(message)


def root_factory(request):
    return {"traversed": MyWebsocketContext(), "uwsgi": MyUWSGIContext()}


def up(request):
    return Response("up")


def main():
    config = Configurator(root_factory=root_factory)
    config.include("aiopyramid")
    config.add_route("up", "/up")
    config.add_view(up, route_name="up")
    config.add_route("ws", "/ws")
    config.add_route("ws_async", "/ws_async")
    config.scan(__name__)
    app = config.make_wsgi_app()
    return ignore_websocket_closed(app)
