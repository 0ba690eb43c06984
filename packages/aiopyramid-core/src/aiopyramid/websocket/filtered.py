"""Connections whose messages are limited in rate, or turned into objects."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from websockets.frames import CloseCode

from .codecs import describe
from .connection import WebsocketConnection
from .exceptions import WebsocketClosed
from .judge import MAX_REASON_SIZE
from .options import WebsocketOptions
from .protocol import OPEN, WebsocketProtocol
from .rates import Allowance
from .typed import In, Out

END = object()
"""No more messages will come. A codec may make ``None`` of one."""


def connection_class(options: WebsocketOptions) -> type[WebsocketConnection]:
    """Return the class for connections with these options."""
    plain = options.codec is None and not (options.max_message_rate or options.max_byte_rate)
    return WebsocketConnection if plain else FilteredConnection


def _size(message: Any) -> int:
    return len(message.encode() if isinstance(message, str) else message)


class FilteredConnection(WebsocketConnection[In, Out]):
    """A connection with a codec, rates, or both."""

    def __init__(self, protocol: WebsocketProtocol, *args: Any) -> None:
        super().__init__(protocol, *args)
        options = protocol.options
        self._loop = asyncio.get_running_loop()
        self._allowance = None
        if options.max_message_rate or options.max_byte_rate:
            self._allowance = Allowance(options, self._loop.time())

    async def recv(self) -> In | None:
        """As `WebsocketConnection.recv`, with the codec and within the rates."""
        message = await self._decoded()
        return None if message is END else message

    async def __anext__(self) -> In:
        message: In = await self._decoded()
        if message is END:
            raise StopAsyncIteration
        return message

    async def _decoded(self) -> Any:
        codec = self.codec
        binary = getattr(codec, "binary", False)
        while (message := await self._next()) is not None:
            if codec is None:
                return message
            if isinstance(message, bytes) is not binary:
                expected = "binary" if binary else "text"
                self.close_nowait(CloseCode.UNSUPPORTED_DATA, f"expected a {expected} message")
                return END
            try:
                return codec.decode(message)
            except getattr(codec, "errors", ValueError) as exc:
                await self._refuse(exc)
        return END

    async def send(self, message: Out) -> None:
        """As `WebsocketConnection.send`, with the codec."""
        codec = self.codec
        if codec is None:
            await super().send(message)
            return
        encoded = codec.encode(message)
        if isinstance(encoded, bytes) and not getattr(codec, "binary", False):
            encoded = encoded.decode()
        await super().send(encoded)

    async def _next(self) -> Any:
        allowance = self._allowance
        if allowance is None:
            return await super().recv()
        options = self.protocol.options
        if options.rate_policy == "delay":
            await self._until_allowed(allowance)
        while (message := await super().recv()) is not None:
            size = _size(message)
            if options.rate_policy == "delay" or not allowance.time_to(size, self._loop.time()):
                allowance.take(size)
                return message
            if options.rate_policy == "close":
                self.close_nowait(CloseCode.POLICY_VIOLATION, "messages come too fast")
            else:
                self.messages_dropped += 1
                if self.closed:
                    await asyncio.sleep(0)  # there may be a lot left
        return None

    async def _until_allowed(self, allowance: Allowance) -> None:
        # What a client sent before it closed is received at once.
        protocol, loop = self.protocol, self._loop
        while protocol.state is OPEN and (seconds := allowance.time_to(1, loop.time())):
            protocol.writer.flush()
            timer = loop.call_later(seconds, protocol.queue.wake)
            try:
                await protocol.queue.wait()
            finally:
                timer.cancel()

    async def _refuse(self, exc: BaseException) -> None:
        if self.closed:
            # Nobody hears the answer, and there may be a lot of messages left.
            await asyncio.sleep(0)
            return
        if self.protocol.options.invalid_message == "close":
            text = f"invalid message: {exc}".encode(errors="replace")
            reason = text[:MAX_REASON_SIZE].decode(errors="ignore")
            self.close_nowait(CloseCode.INVALID_DATA, reason)
            return
        message: Any = getattr(self.codec, "error_message", describe)(exc)
        with contextlib.suppress(WebsocketClosed):
            await self.send(message)
