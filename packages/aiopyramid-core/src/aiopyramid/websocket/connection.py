"""The WebSocket connection as a view holds it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from pyramid.renderers import render

from .frames import BINARY, TEXT
from .judge import check_close
from .protocol import FULL, OPEN, WebsocketProtocol
from .writer import BURST_SIZE

BytesLike = bytes | bytearray | memoryview


class WebsocketConnection:
    """
    A WebSocket connection: ``ws`` in a view.

    Attributes:
        request: The request that opened the connection. It has ended; its
            attributes can still be read.
        context: The context that Pyramid found for that request.
        subprotocol: The subprotocol that was agreed upon, or ``None``.
    """

    def __init__(
        self, protocol: WebsocketProtocol, request: Any, context: Any, subprotocol: str | None
    ) -> None:
        self.protocol = protocol
        self.request = request
        self.context = context
        self.subprotocol = subprotocol
        self.closed_by_view = False

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open"
        return f"<WebsocketConnection {self.request.path} {state}>"

    async def recv(self) -> str | bytes | None:
        """
        Receive the next message.

        Returns:
            `str` for a text message, `bytes` for a binary one, and ``None`` once
            the connection is closed, in whatever way.

        Raises:
            RuntimeError: If another task waits for a message already.
        """
        protocol = self.protocol
        queue = protocol.queue
        while not queue.messages:
            if protocol.state is not OPEN:
                return None
            protocol.writer.flush()
            await queue.wait()
        message = queue.messages.popleft()
        if protocol.reading is FULL and queue.has_room_again():
            protocol.resume()
        return message

    async def send(self, message: str | BytesLike) -> None:
        """
        Send a message. Waits while the peer reads too slowly.

        Args:
            message: `str` is sent as text; `bytes`, `bytearray` and
                `memoryview` are sent as binary.

        Raises:
            WebsocketClosed: If the connection is closed.
            TypeError: If ``message`` is of another type.
        """
        protocol = self.protocol
        if protocol.state is not OPEN:
            raise protocol.closed_error()
        if isinstance(message, str):
            protocol.send_message(TEXT, message.encode())
        elif isinstance(message, BytesLike):
            protocol.send_message(BINARY, bytes(message))
        else:
            raise TypeError(
                f"a message is str, bytes, bytearray or memoryview, not {type(message).__name__}"
            )
        writer = protocol.writer
        if writer.writable is not None or writer.unyielded >= BURST_SIZE:
            await writer.drain()
            if protocol.transport is None:
                raise protocol.closed_error()

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """
        Close the connection and wait for the end of the closing handshake.

        A second call does nothing but wait as well.

        Args:
            code: Close code (RFC 6455 section 7.4).
            reason: Close reason, at most 123 bytes in UTF-8.

        Raises:
            ValueError: If no close frame may carry the code or reason.
        """
        self.close_nowait(code, reason, by_view=True)
        await self.protocol.wait_until_lost()

    def close_nowait(self, code: int = 1000, reason: str = "", *, by_view: bool = False) -> None:
        """
        Begin to close the connection, and do not wait.

        Args:
            code: Close code (RFC 6455 section 7.4).
            reason: Close reason, at most 123 bytes in UTF-8.
            by_view: Whether the view will wait for the end, so that its grace
                period begins only then.

        Raises:
            ValueError: If no close frame may carry the code or reason.
        """
        if not self.closed:
            check_close(code, reason)
            self.closed_by_view = by_view
            self.protocol.queue.clear()
            self.protocol.close(code, reason)

    async def ping(self) -> float:
        """
        Ping the peer and wait for its pong.

        Returns:
            The round-trip time in seconds.

        Raises:
            WebsocketClosed: If the connection is closed, now or while waiting.
        """
        if self.closed:
            raise self.protocol.closed_error()
        return await self.protocol.keepalive.ping()

    async def send_json(self, value: Any) -> None:
        """
        Send a value as a text message, rendered by Pyramid's ``json`` renderer.

        Raises:
            WebsocketClosed: If the connection is closed.
        """
        await self.send(render("json", value, request=self.request))

    async def recv_json(self) -> Any:
        """
        Receive the next message and parse it as JSON.

        Returns:
            The value. A peer that sends ``null`` gives ``None``, and so does a
            closed connection: tell them apart by ``closed``.

        Raises:
            ValueError: If the message is not JSON.
        """
        message = await self.recv()
        return None if message is None else json.loads(message)

    async def __aiter__(self) -> AsyncIterator[str | bytes]:
        """Receive messages until the connection is closed."""
        while (message := await self.recv()) is not None:
            yield message

    @property
    def latency(self) -> float:
        """Round-trip time in seconds, as the last pong told; 0.0 before."""
        return self.protocol.keepalive.latency

    @property
    def closed(self) -> bool:
        """Whether either side has begun to close the connection, or it is lost."""
        return self.protocol.state is not OPEN

    @property
    def close_code(self) -> int | None:
        """
        The close code (RFC 6455 section 7.1.5): the peer's, or ours if we closed.

        1005 if the peer gave none, 1006 if there was no close frame, and
        ``None`` while the connection is open.
        """
        return int(self.protocol.close_status().code) if self.closed else None

    @property
    def close_reason(self) -> str | None:
        """The close reason (RFC 6455 section 7.1.6); ``None`` while open."""
        return self.protocol.close_status().reason if self.closed else None
