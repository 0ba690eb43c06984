"""A WebSocket view with callbacks: every message goes to all who are connected."""

from contextlib import suppress

from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPForbidden

from aiopyramid.websocket.exceptions import WebsocketClosed
from aiopyramid.websocket.view import WebsocketConnectionView, websocket_view_config

members: set["Room"] = set()


@websocket_view_config(route_name="room", max_message_size=4096)
class Room(WebsocketConnectionView):
    def __init__(self, context, request):
        super().__init__(context, request)
        self.name = request.params.get("name")
        if not self.name:
            raise HTTPForbidden("say who you are")  # the answer to the handshake

    async def on_open(self):
        members.add(self)

    async def on_message(self, message):
        for member in tuple(members):
            with suppress(WebsocketClosed):  # of one that has left just now
                await member.ws.send_json({"from": self.name, "text": str(message)})

    async def on_close(self):
        members.discard(self)


def main(global_config=None, **settings):
    with Configurator(settings=settings) as config:
        config.include("aiopyramid")
        config.add_route("room", "/room")
        config.scan(__name__)
        return config.make_wsgi_app()
