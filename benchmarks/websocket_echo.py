"""Echo of small WebSocket messages: aiopyramid, websockets, and a bare asyncio.Protocol."""

from __future__ import annotations

import asyncio
import sys

from bench import CONNECTIONS, HERE, UWSGI, Server, aiopyramid_gunicorn, compare, uwsgi

SIZE = 64
MESSAGES = 4000  # on each connection
HEAD = (
    b"GET %b HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODw==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
FRAME = bytes([0x81, 0x80 | SIZE]) + b"mask" + bytes(ord("x") ^ b for b in b"mask" * (SIZE // 4))
CLOSE = b"\x88\x80mask"
ANSWER = bytes([0x81, SIZE]) + b"x" * SIZE


class Client(asyncio.Protocol):
    """Sends the next message when it has the answer to the last."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.data = b""
        self.left = MESSAGES
        loop = asyncio.get_running_loop()
        self.opened = loop.create_future()
        self.done = loop.create_future()

    def connection_made(self, transport):
        self.transport = transport
        transport.write(HEAD % self.path.encode())

    def data_received(self, data):
        self.data += data
        if not self.opened.done():
            if self.data.endswith(b"\r\n\r\n"):
                assert b" 101 " in self.data, self.data
                self.data = b""
                self.opened.set_result(None)
        elif len(self.data) >= len(ANSWER):
            assert self.data == ANSWER, self.data
            self.data = b""
            self.left -= 1
            if self.left:
                self.transport.write(FRAME)
            else:
                self.done.set_result(None)

    def connection_lost(self, exc):
        for future in self.opened, self.done:
            if not future.done():
                future.set_exception(ConnectionError("the server has closed"))


async def echo(server: Server) -> float:
    loop = asyncio.get_running_loop()
    clients = [
        (await loop.create_connection(lambda: Client(server.path), "127.0.0.1", server.port))[1]
        for _ in range(CONNECTIONS)
    ]
    await asyncio.gather(*(client.opened for client in clients))
    before = server.cpu()
    for client in clients:
        client.transport.write(FRAME)
    await asyncio.gather(*(client.done for client in clients))
    used = server.cpu() - before
    for client in clients:
        client.transport.write(CLOSE)
        client.transport.close()
    return used / (CONNECTIONS * MESSAGES)


def peer(name: str) -> list[str]:
    return [sys.executable, str(HERE / "peers.py"), name, "{port}"]


if __name__ == "__main__":
    servers = [
        Server("websockets.asyncio.server, uvloop", "/", peer("websockets")),
        Server("aiopyramid, gunicorn, uvloop", "/echo", aiopyramid_gunicorn("application:main()")),
        Server("bare asyncio.Protocol, uvloop", "/", peer("protocol")),
    ]
    if UWSGI.exists():
        command = uwsgi("--module", "application:main()")
        servers.insert(2, Server("aiopyramid, uWSGI with threads, uvloop", "/echo", command))
    compare(f"WebSocket echo, {SIZE} bytes, {CONNECTIONS} connections", servers, echo)
