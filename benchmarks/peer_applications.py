"""
What the peers serve, without aiopyramid.

Each runs in an environment of its own, so libraries are imported where they
are used. ``python peer_applications.py NAME PORT`` runs a WebSocket server.
"""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import asyncio
import logging
import sys
import time
from typing import Any


def plain(request: Any) -> Any:
    from pyramid.response import Response

    return Response("hello")


def waiting(request: Any) -> Any:
    time.sleep(0.05)
    return plain(request)


def wsgi() -> Any:
    """Make the Pyramid application."""
    from pyramid.config import Configurator

    with Configurator() as config:
        for view in plain, waiting:
            config.add_route(view.__name__, f"/{view.__name__}")
            config.add_view(view, route_name=view.__name__)
        return config.make_wsgi_app()


def wsgi_of_waitress() -> Any:
    # It would log each request that has to wait.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    return wsgi()


def asgi() -> Any:
    """Make the Pyramid application for a server that speaks ASGI."""
    from a2wsgi import WSGIMiddleware

    return WSGIMiddleware(wsgi(), workers=16)


async def asgi_echo(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


def websockets(port: int) -> None:
    import uvloop
    from websockets.asyncio.server import serve

    async def echo(ws: Any) -> None:
        async for message in ws:
            await ws.send(message)

    async def main() -> None:
        async with serve(echo, "127.0.0.1", port, compression=None) as server:
            await server.serve_forever()

    uvloop.run(main())


def aiohttp(port: int) -> None:
    import uvloop
    from aiohttp import web

    async def echo(request: Any) -> Any:
        ws = web.WebSocketResponse(compress=False)
        await ws.prepare(request)
        async for message in ws:
            await ws.send_str(message.data)
        return ws

    app = web.Application()
    app.router.add_get("/", echo)
    loop = uvloop.new_event_loop()
    web.run_app(app, host="127.0.0.1", port=port, access_log=None, print=None, loop=loop)


def picows(port: int) -> None:
    import uvloop
    from picows import WSListener, WSMsgType, ws_create_server

    class Echo(WSListener):  # type: ignore[misc]
        def on_ws_frame(self, transport: Any, frame: Any) -> None:
            if frame.msg_type == WSMsgType.CLOSE:
                transport.send_close(frame.get_close_code(), frame.get_close_message())
                transport.disconnect()
            else:
                # The text as a str, as all others hand it over.
                text = frame.get_payload_as_utf8_text()
                transport.send(WSMsgType.TEXT, text.encode())

    async def main() -> None:
        server = await ws_create_server(lambda _: Echo(), "127.0.0.1", port)
        await server.serve_forever()

    uvloop.run(main())


def bare(port: int) -> None:
    """Take each read for one small frame: no server, but what an echo takes at the least."""
    import base64
    import hashlib

    import uvloop
    from websockets.speedups import apply_mask

    class Bare(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport
            self.open = False

        def data_received(self, data: bytes) -> None:
            if self.open:
                self.transport.write(data[:1] + b"\x40" + apply_mask(data[6:], data[2:6]))
                return
            self.open = True
            key = data.split(b"Sec-WebSocket-Key: ")[1].split(b"\r\n")[0]
            digest = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
            self.transport.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                b"Connection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n\r\n"
                % base64.b64encode(digest)
            )

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Bare, "127.0.0.1", port)
        await server.serve_forever()

    uvloop.run(main())


if __name__ == "__main__":
    servers = {each.__name__: each for each in (websockets, aiohttp, picows, bare)}
    servers[sys.argv[1]](int(sys.argv[2]))
