"""A WebSocket connection without a socket, and what can be seen of it from outside."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from aiopyramid.websocket.connection import WebsocketConnection
from aiopyramid.websocket.frames import encode_header
from aiopyramid.websocket.options import WebsocketOptions
from aiopyramid.websocket.protocol import WebsocketProtocol

DEFAULTS = WebsocketOptions(ping_interval=0)


class Transport:
    """Records what is written, and takes as much as it is told to."""

    def __init__(self, *, eof: bool = True) -> None:
        self.eof = eof
        self.written = bytearray()
        self.writes = 0
        self.calls: list[str] = []
        self.protocol: Any = None

    def write(self, data: bytes) -> None:
        self.written += data
        self.writes += 1

    def can_write_eof(self) -> bool:
        return self.eof

    def set_write_buffer_limits(self, high: int) -> None:
        self.high = high

    def __getattr__(self, name: str) -> Callable[[], None]:
        def call() -> None:
            self.calls.append(name)
            if name == "abort":
                asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

        return call


class Peer:
    """A connection under test, and what can be seen of it from outside."""

    def __init__(
        self,
        options: WebsocketOptions = DEFAULTS,
        extensions: list[Any] | None = None,
        *,
        eof: bool = True,
    ) -> None:
        self.events: list[str] = []
        judge = ServerProtocol(state=OPEN)
        judge.extensions = extensions or []
        self.protocol = WebsocketProtocol(
            options,
            judge,
            opened=lambda: self.events.append("opened"),
            closing=lambda: self.events.append("closing"),
            lost=lambda: self.events.append("lost"),
        )
        self.ws = WebsocketConnection(self.protocol, SimpleNamespace(path="/path"), None, None)
        self.transport = Transport(eof=eof)
        self.transport.protocol = self.protocol
        self.protocol.connection_made(self.transport)

    def feed(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.protocol.data_received(piece)

    def messages(self) -> list[str | bytes]:
        return list(self.protocol.queue.messages)

    def frames(self) -> list[tuple[int, bytes]]:
        """What the server has written, flushed or not."""
        self.protocol.writer.flush()
        return cut(bytes(self.transport.written))

    def lose(self) -> None:
        if self.protocol.transport is not None:
            self.protocol.connection_lost(None)


def cut(data: bytes) -> list[tuple[int, bytes]]:
    frames = []
    while data:
        size, start = data[1], 2
        assert not size & 0x80, "a server's frames are not masked"
        if size > 125:
            start = 4 if size == 126 else 10
            size = int.from_bytes(data[2:start], "big")
        assert len(data) >= start + size, "the last frame is not whole"
        frames.append((data[0], data[start : start + size]))
        data = data[start + size :]
    return frames


def frame(first_byte: int, payload: bytes = b"", mask: bytes = b"\x01\x02\x03\x04") -> bytes:
    header = bytearray(encode_header(first_byte, len(payload)))
    header[1] |= 0x80
    return bytes(header) + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(payload))


async def until(condition: Callable[[], Any]) -> None:
    while not condition():
        await asyncio.sleep(0)
