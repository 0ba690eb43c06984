"""
What the peers serve to groups, without aiopyramid.

``/member`` joins the one group and says so, with the id of its process. What ``/publisher`` is sent
goes to the group. Libraries are imported where they are used, as in `peer_applications`.
"""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

from ticker import QUESTION, Ticker

GROUP = "g"


def joined() -> str:
    return f"joined {os.getpid()}"


def redis_url() -> str:
    return os.environ["BENCHMARK_REDIS"]


def websockets(port: int) -> None:
    """Run the ``websockets`` library's own server, with its own broadcast."""
    import uvloop
    from websockets.asyncio.server import broadcast, serve

    members: set[Any] = set()

    async def serve_one(ws: Any) -> None:
        if ws.request.path == "/member":
            members.add(ws)
            try:
                await ws.send(joined())
                await ws.wait_closed()
            finally:
                members.discard(ws)
        else:
            async with Ticker().running() as ticker:
                async for text in ws:
                    if text == QUESTION:
                        await ws.send(ticker.answer())
                    else:
                        broadcast(members, text)

    async def main() -> None:
        options = {"compression": None, "ping_interval": None, "backlog": 1024}
        async with serve(serve_one, "127.0.0.1", port, **options) as server:
            await server.serve_forever()

    uvloop.run(main())


def starlette() -> Any:
    """Make an application that sends to one member after the other."""
    from starlette.applications import Starlette
    from starlette.routing import WebSocketRoute

    members: set[Any] = set()

    async def member(ws: Any) -> None:
        await ws.accept()
        members.add(ws)
        await ws.send_text(joined())
        async for _ in ws.iter_text():
            pass
        members.discard(ws)

    async def publisher(ws: Any) -> None:
        await ws.accept()
        async with Ticker().running() as ticker:
            async for text in ws.iter_text():
                if text == QUESTION:
                    await ws.send_text(ticker.answer())
                else:
                    for each in list(members):
                        await each.send_text(text)

    routes = [WebSocketRoute("/member", member), WebSocketRoute("/publisher", publisher)]
    return Starlette(routes=routes)


def _litestar(backend: Any) -> Any:
    from litestar import Litestar, WebSocket, websocket
    from litestar.channels import ChannelsPlugin
    from litestar.exceptions import WebSocketDisconnect

    async def member(socket: WebSocket, channels: ChannelsPlugin) -> None:
        await socket.accept()
        async with channels.start_subscription([GROUP]) as subscriber:
            await socket.send_text(joined())
            async with subscriber.run_in_background(socket.send_text):
                with contextlib.suppress(WebSocketDisconnect):
                    await socket.receive_text()

    async def publisher(socket: WebSocket, channels: ChannelsPlugin) -> None:
        await socket.accept()
        async with Ticker().running() as ticker:
            with contextlib.suppress(WebSocketDisconnect):
                while True:
                    text = await socket.receive_text()
                    if text == QUESTION:
                        await socket.send_text(ticker.answer())
                    else:
                        channels.publish(text, GROUP)

    names = {"WebSocket": WebSocket, "ChannelsPlugin": ChannelsPlugin}
    return Litestar(
        [websocket("/member")(member), websocket("/publisher")(publisher)],
        plugins=[ChannelsPlugin(backend, channels=[GROUP])],
        signature_namespace=names,
    )


def litestar_memory() -> Any:
    from litestar.channels.backends.memory import MemoryChannelsBackend

    return _litestar(MemoryChannelsBackend())


def litestar_redis() -> Any:
    from litestar.channels.backends.redis import RedisChannelsPubSubBackend
    from redis.asyncio import Redis

    return _litestar(RedisChannelsPubSubBackend(redis=Redis.from_url(redis_url())))


def _channels(backend: str, **config: Any) -> Any:
    import django
    from django.conf import settings

    layer = {"BACKEND": backend, "CONFIG": config}
    settings.configure(INSTALLED_APPS=["channels"], CHANNEL_LAYERS={"default": layer})
    django.setup()

    from channels.generic.websocket import AsyncWebsocketConsumer
    from channels.routing import ProtocolTypeRouter, URLRouter
    from django.urls import path

    class Member(AsyncWebsocketConsumer):  # type: ignore[misc]
        groups = (GROUP,)

        async def connect(self) -> None:
            await self.accept()
            await self.send(joined())

        async def told(self, event: Any) -> None:
            await self.send(event["text"])

    class Publisher(AsyncWebsocketConsumer):  # type: ignore[misc]
        async def connect(self) -> None:
            self.ticking = Ticker().running()
            self.ticker = await self.ticking.__aenter__()
            await self.accept()

        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            if text_data == QUESTION:
                await self.send(self.ticker.answer())
            else:
                event = {"type": "told", "text": text_data}
                await self.channel_layer.group_send(GROUP, event)

        async def disconnect(self, code: int) -> None:
            await self.ticking.__aexit__(None, None, None)

    urls = [path("member", Member.as_asgi()), path("publisher", Publisher.as_asgi())]
    return ProtocolTypeRouter({"websocket": URLRouter(urls)})


def channels_memory() -> Any:
    return _channels("channels.layers.InMemoryChannelLayer")


def channels_redis() -> Any:
    return _channels("channels_redis.core.RedisChannelLayer", hosts=[redis_url()])


def channels_pubsub() -> Any:
    return _channels("channels_redis.pubsub.RedisPubSubChannelLayer", hosts=[redis_url()])


if __name__ == "__main__":
    websockets(int(sys.argv[1]))
