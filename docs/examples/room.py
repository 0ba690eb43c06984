"""A WebSocket view with callbacks: every message goes to all who are connected."""

from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPForbidden

from aiopyramid.websocket.view import WebsocketConnectionView, websocket_view_config


@websocket_view_config(route_name="room", max_message_size=4096)
class Room(WebsocketConnectionView):
    def __init__(self, context, request):
        super().__init__(context, request)
        self.groups = request.groups
        self.name = request.params.get("name")
        if not self.name:
            raise HTTPForbidden("say who you are")  # the answer to the handshake

    async def on_open(self):
        await self.groups.join("room", self.ws)
        self.tell("joined")

    async def on_message(self, message):
        self.tell(str(message))

    async def on_close(self):
        self.tell("left")

    def tell(self, text):
        self.groups.publish_json("room", {"from": self.name, "text": text})


def main(global_config=None, **settings):
    with Configurator(settings=settings) as config:
        config.include("aiopyramid")
        config.add_route("room", "/room")
        config.scan(__name__)
        return config.make_wsgi_app()
