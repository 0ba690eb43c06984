"""The base class of WebSocket views with callbacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .callbacks import call_on_loop
from .exceptions import closing_code, is_quiet

if TYPE_CHECKING:
    from .connection import BytesLike, WebsocketConnection


class WebsocketConnectionView:
    """
    A WebSocket view made of callbacks.

    The callbacks may be coroutines, generators, or plain functions; plain ones
    run in a worker thread. A view may also have a method
    ``select_subprotocol(offered)`` that returns one of the subprotocols that
    the client offers, or ``None``; without it, the first of the option
    ``subprotocols`` is taken that the client offers.

    Attributes:
        context: The context of the request.
        request: The request that opened the connection.
        ws: The connection, from ``on_open`` on.

    Args:
        context: The context of the request.
        request: The request that opens the connection. The constructor runs
            before the connection is accepted: an HTTP exception that it raises
            is the answer.
    """

    ws: WebsocketConnection

    def __init__(self, context: Any, request: Any) -> None:
        self.context = context
        self.request = request

    async def __call__(self, ws: WebsocketConnection) -> None:
        """Run the callbacks over a connection."""
        self.ws = ws
        try:
            await self._call(self.on_open)
            while (message := await ws.recv()) is not None:
                await self._call(self.on_message, message)
        except BaseException as exc:
            ws.close_nowait(closing_code(exc))
            await self._close_after(exc)
            raise
        await self._call(self.on_close)

    async def _call(self, callback: Callable[..., Any], *args: Any) -> None:
        await call_on_loop(callback, self.ws.protocol.options.disconnect_grace, *args)

    async def _close_after(self, exc: BaseException) -> None:
        try:
            await self._call(self.on_close)
        except BaseException as another:
            # The first exception is the one to be seen, with this as a note.
            if is_quiet(another):
                return
            if is_quiet(exc):
                raise
            exc.add_note(f"Then on_close raised {another!r}.")

    async def send(self, message: str | BytesLike) -> None:
        """Send a message; see `WebsocketConnection.send`."""
        await self.ws.send(message)

    async def on_handshake(self) -> None:
        """
        Decide whether to accept the connection, before it is accepted.

        Raises:
            pyramid.httpexceptions.HTTPException: To answer with it instead.
        """

    async def on_open(self) -> None:
        """Called when the connection is open."""

    async def on_message(self, message: str | bytes) -> None:
        """Called with each message: `str` for text, `bytes` for binary."""

    async def on_close(self) -> None:
        """
        Called once when the connection has ended, in whatever way.

        After a disconnect, the option ``disconnect_grace`` is the time for what
        is left to do, this callback included. A plain callback that has to wait for
        a free thread has that time from when it begins.
        """
