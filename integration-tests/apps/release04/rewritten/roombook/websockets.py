import asyncio

from aiopyramid.websocket.codecs import JSONCodec
from aiopyramid.websocket.exceptions import WebsocketClosed
from aiopyramid.websocket.view import WebsocketConnectionView, websocket_view_config

from .resources import Room


@websocket_view_config(route_name="ask", codec=JSONCodec)
async def ask(ws):
    async for question in ws:
        await asyncio.sleep(0.01)
        await ws.send({"free": question["day"] != "sunday"})


@websocket_view_config(route_name="farewell")
async def farewell(ws):
    """Say goodbye, and remember who did not wait for it."""
    name = await ws.recv()
    await ws.send(f"hello {name}")
    await ws.recv()
    try:
        await ws.send(f"goodbye {name}")
    except WebsocketClosed:
        ws.request.registry.farewells.append(name)


@websocket_view_config(context=Room, route_name="watch")
class Watch(WebsocketConnectionView):
    """Tell who books the room, and answer questions."""

    async def on_open(self):
        self.request.registry.watchers.add(self)

    async def on_message(self, day):
        await self.send(f"{day}: {self.context.bookings.get(day, 'nobody')}")

    async def on_close(self):
        self.request.registry.watchers.discard(self)
