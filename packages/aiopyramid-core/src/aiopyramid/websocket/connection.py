"""The WebSocket connection as a view holds it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from .codecs import JSONCodec
from .exceptions import check_close
from .frames import BINARY, TEXT
from .protocol import FULL, OPEN, WebsocketProtocol
from .typed import In, Out, Typed
from .writer import BURST_SIZE

BytesLike = bytes | bytearray | memoryview


@dataclass(slots=True)
class Scope:
    """What `aiopyramid.websocket.scope` gives a callback: a request of its own."""

    ws: WebsocketConnection[Any, Any]
    request: Any
    active: bool = True


_scope: ContextVar[Scope | None] = ContextVar("scope", default=None)


def scope_here(ws: WebsocketConnection[Any, Any] | None) -> Scope | None:
    """Return the scope of a connection that this code runs in, if it does."""
    scope = _scope.get()
    return scope if scope is not None and scope.ws is ws and scope.active else None


class WebsocketConnection(Typed[In, Out]):
    """
    A WebSocket connection: ``ws`` in a view.

    For type checkers, ``WebsocketConnection[In, Out]`` receives and sends objects of these types,
    by way of a codec; without types, it is text and bytes.

    Attributes:
        subprotocol: The subprotocol that was agreed upon, or ``None``.
        messages_dropped: Messages that were dropped because they came too fast.
    """

    messages_dropped = 0

    def __init__(
        self,
        protocol: WebsocketProtocol,
        request: Any,
        context: Any,
        subprotocol: str | None,
        codec: Any = None,
    ) -> None:
        self.protocol = protocol
        self._request = request
        self._context = context
        self.subprotocol = subprotocol
        self.codec = codec
        self.closed_by_view = False
        # None when they have been called.
        self._endings: tuple[Callable[[], None], ...] | None = ()

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open"
        return f"<WebsocketConnection {self.request.path} {state}>"

    @property
    def request(self) -> Any:
        """
        The request that opened the connection; within a `~aiopyramid.websocket.scope`, its own.

        The request that opened the connection has ended; its attributes can still be read.
        """
        scope = scope_here(self)
        return self._request if scope is None else scope.request

    @property
    def context(self) -> Any:
        """The context that Pyramid found for the request."""
        scope = scope_here(self)
        return self._context if scope is None else scope.request.context

    @contextmanager
    def scoped(self, request: Any) -> Iterator[None]:
        """Let the code that this context manager surrounds have a request of its own."""
        scope = Scope(self, request)
        token = _scope.set(scope)
        try:
            yield
        finally:
            scope.active = False  # for tasks that go on
            _scope.reset(token)

    async def recv(self) -> In | None:
        """
        Receive the next message.

        Returns:
            `str` for a text message, `bytes` for a binary one, and ``None`` once
            the connection is closed, in whatever way. With a codec, what it has made of the
            message.

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
        return message  # type: ignore[return-value]

    _next = recv  # the message as it is, in subclasses too

    async def send(self, message: Out) -> None:
        """
        Send a message. Waits while the peer reads too slowly.

        Args:
            message: `str` is sent as text; `bytes`, `bytearray` and
                `memoryview` are sent as binary. With a codec, what it can encode.

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

    @property
    def is_ending(self) -> bool:
        """Whether no more messages can be sent, or it would be of no use."""
        return self._endings is None

    def add_ending(self, ending: Callable[[], None]) -> None:
        """Let a function be called once, when the connection begins to end."""
        assert self._endings is not None
        self._endings = (*self._endings, ending)

    def announce_ending(self) -> None:
        """Call the functions of `add_ending`."""
        endings, self._endings = self._endings, None
        for ending in endings or ():
            ending()

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

        Args:
            value: What the renderer knows, by its adapters among others.

        Raises:
            WebsocketClosed: If the connection is closed.
            TypeError: For a value that the renderer does not know.
        """
        message: Any = JSONCodec(self.request).encode(value)
        await WebsocketConnection.send(self, message)

    async def recv_json(self) -> Any:
        """
        Receive the next message and parse it as JSON.

        Returns:
            The value. A peer that sends ``null`` gives ``None``, and so does a
            closed connection: tell them apart by ``closed``.

        Raises:
            ValueError: If the message is not JSON.
        """
        message: Any = await self._next()
        return None if message is None else JSONCodec(self.request).decode(message)

    def __aiter__(self) -> AsyncIterator[In]:
        """Receive messages until the connection is closed."""
        return self

    async def __anext__(self) -> In:
        message = await self.recv()
        if message is None:
            raise StopAsyncIteration
        return message

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
