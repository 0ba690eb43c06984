"""The WebSocket connection as a view holds it."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from pyramid.renderers import render

from .exceptions import WebsocketClosed
from .protocol import BINARY, FLUSH_SIZE, TEXT, WebsocketProtocol, check_close

if TYPE_CHECKING:
    from websockets.extensions import Extension

    from .options import WebsocketOptions

BytesLike = bytes | bytearray | memoryview


class WebsocketConnection:
    """
    A WebSocket connection: ``ws`` in a view.

    Attributes:
        request: The request that opened the connection. It has ended; its
            attributes can still be read.
        context: The context that Pyramid found for that request.
        subprotocol: The subprotocol that was agreed upon, or ``None``.
        latency: Round-trip time in seconds, as the last pong told; 0.0 before.
    """

    def __init__(
        self,
        request: Any,
        context: Any,
        subprotocol: str | None,
        options: WebsocketOptions,
        extensions: list[Extension],
        *,
        on_opened: Callable[[], None],
        on_closing: Callable[[], None],
    ) -> None:
        self.request = request
        self.context = context
        self.subprotocol = subprotocol
        self.latency = 0.0
        self.protocol = WebsocketProtocol(self, options, extensions)
        self.opened = on_opened
        self._on_closing = on_closing
        self._closed_by_view = False
        self._messages: deque[str | bytes] = deque()
        self._max_queue = options.max_queue
        self._receiver: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open"
        return f"<WebsocketConnection {self.request.path} {state}>"

    # For views.

    async def recv(self) -> str | bytes | None:
        """
        Receive the next message.

        Returns:
            `str` for a text message, `bytes` for a binary one, and ``None`` once
            the connection is closed, in whatever way.

        Raises:
            RuntimeError: If another task waits for a message already.
        """
        while not self._messages:
            if not self.protocol.open:
                return None
            if self._receiver is not None and not self._receiver.cancelled():
                raise RuntimeError("another task is waiting for a message of this connection")
            self.protocol.flush()
            receiver = self._receiver = self.protocol.loop.create_future()
            try:
                await receiver
            finally:
                # Unless this was cancelled and another waits already.
                if self._receiver is receiver:
                    self._receiver = None
        message = self._messages.popleft()
        if not self.protocol.reading and len(self._messages) <= self._max_queue // 2:
            # By way of the loop, so that a peer with a lot to say does not
            # keep the other connections waiting.
            self.protocol.loop.call_soon(self.protocol.resume_reading)
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
        if not protocol.open:
            raise self.closed_error()
        if isinstance(message, str):
            protocol.send_message(TEXT, message.encode())
        elif isinstance(message, BytesLike):
            protocol.send_message(BINARY, bytes(message))
        else:
            raise TypeError(
                f"a message is str, bytes, bytearray or memoryview, not {type(message).__name__}"
            )
        if protocol.writable is not None:
            await asyncio.shield(protocol.writable)
            if protocol.lost:
                raise self.closed_error()
        elif protocol.flushed >= FLUSH_SIZE:
            protocol.flushed = 0
            await asyncio.sleep(0)  # a view that only sends lets others run

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
        if not self.protocol.lost:
            waiter = self.protocol.loop.create_future()
            self.protocol.waiters.append(waiter)
            await waiter

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
        if self.protocol.open:
            check_close(code, reason)
            self._closed_by_view = by_view
            self._messages.clear()
            self.protocol.close(code, reason)

    async def ping(self) -> float:
        """
        Ping the peer and wait for its pong.

        Returns:
            The round-trip time in seconds.

        Raises:
            WebsocketClosed: If the connection is closed, now or while waiting.
        """
        if not self.protocol.open:
            raise self.closed_error()
        waiter: asyncio.Future[float] = self.protocol.loop.create_future()
        payload = self.protocol.ping(waiter)
        try:
            return await waiter
        finally:
            self.protocol.pings.pop(payload, None)

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
    def closed(self) -> bool:
        """Whether either side has begun to close the connection, or it is lost."""
        return not self.protocol.open

    @property
    def close_code(self) -> int | None:
        """
        The close code (RFC 6455 section 7.1.5): the peer's, or ours if we closed.

        1005 if the peer gave none, 1006 if there was no close frame, and
        ``None`` while the connection is open.
        """
        return None if self.protocol.open else int(self.protocol.close_status().code)

    @property
    def close_reason(self) -> str | None:
        """The close reason (RFC 6455 section 7.1.6); ``None`` while open."""
        return None if self.protocol.open else self.protocol.close_status().reason

    # For the protocol.

    def deliver(self, message: str | bytes) -> None:
        """Take a message from the protocol."""
        self._messages.append(message)
        if self._receiver is not None and not self._receiver.done():
            self._receiver.set_result(None)
        if len(self._messages) >= self._max_queue:
            self.protocol.pause_reading()

    def has_messages(self) -> bool:
        """Tell whether messages wait to be received."""
        return bool(self._messages)

    def closing(self) -> None:
        """Learn that the connection is closing; called once."""
        if self._receiver is not None and not self._receiver.done():
            self._receiver.set_result(None)
        if not self._closed_by_view:
            self._on_closing()

    def lost(self) -> None:
        """Learn that the connection has ended."""
        if self._closed_by_view:
            self._on_closing()

    def closed_error(self) -> WebsocketClosed:
        """Make the error for what needs an open connection."""
        status = self.protocol.close_status()
        return WebsocketClosed(int(status.code), status.reason)
