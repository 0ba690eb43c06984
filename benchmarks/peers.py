"""WebSocket echo servers to compare with: ``python peers.py NAME PORT``."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import sys

import uvloop
from websockets.asyncio.server import serve
from websockets.speedups import apply_mask


async def websockets(port: int) -> None:
    """Serve with the server of the websockets library, set as aiopyramid is by default."""

    async def echo(ws):
        async for message in ws:
            await ws.send(message)

    async with serve(echo, "127.0.0.1", port, compression=None) as server:
        await server.serve_forever()


class BareProtocol(asyncio.Protocol):
    """
    Answers the handshake, then each read as one small masked frame.

    Checks nothing and buffers nothing: the least that an echo takes in Python.
    """

    def connection_made(self, transport):
        self.transport = transport
        self.open = False

    def data_received(self, data):
        if self.open:
            self.transport.write(data[:1] + b"\x40" + apply_mask(data[6:], data[2:6]))
        else:
            self.open = True
            key = data.split(b"Sec-WebSocket-Key: ")[1].split(b"\r\n")[0]
            digest = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
            self.transport.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                b"Connection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n\r\n"
                % base64.b64encode(digest)
            )


async def protocol(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(BareProtocol, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run({"websockets": websockets, "protocol": protocol}[sys.argv[1]](int(sys.argv[2])))
