"""A view's life on its connection: context, errors, closing, events."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Hashable, Mapping
from typing import Any

from pyramid.threadlocal import RequestContext
from websockets.frames import CloseCode

from ..bridge import spawn_greenlet
from ..exceptions import is_cancellation
from . import scope
from .connection import WebsocketConnection
from .events import WebsocketEnded, WebsocketOpened
from .exceptions import closing, is_quiet
from .filtered import connection_class
from .handshake import Handshake
from .options import WebsocketOptions
from .protocol import WebsocketProtocol
from .sessions import sessions

logger = logging.getLogger("aiopyramid.websocket")

# What a request has only until it is answered. Pyramid makes each anew for who asks for it.
FOR_RESPONSE = ("response", "response_callbacks", "finished_callbacks")

NO_QUOTAS: Mapping[Hashable, int] = {}


class Session:
    """
    Runs a view over a connection, in a task of its own.

    Args:
        view: Called with the connection.
        context: The context of the request.
        request: The request that opened the connection.
        options: The view's options.
        handshake: The accepted handshake.
        codec: The connection's codec, if it has one.
        quotas: What the connection counts for, and how many may (option ``admission``).
    """

    def __init__(
        self,
        view: Callable[[WebsocketConnection], Awaitable[Any]],
        context: Any,
        request: Any,
        options: WebsocketOptions,
        handshake: Handshake,
        codec: Any = None,
        quotas: Mapping[Hashable, int] = NO_QUOTAS,
    ) -> None:
        self.view = view
        self.context = context
        self.request = request
        self.options = options
        self.handshake = handshake
        self.codec = codec
        self.quotas = quotas
        self.task: asyncio.Task[None] | None = None
        self.grace: asyncio.TimerHandle | None = None
        self.aging: asyncio.TimerHandle | None = None

    def open(self) -> WebsocketProtocol:
        """
        Open the connection, when the response to the handshake is out.

        Returns:
            The protocol for the transport; the view begins with its
            ``connection_made``.
        """
        protocol = WebsocketProtocol(
            self.options,
            self.handshake.protocol,
            opened=self._start,
            closing=self._closing,
            lost=self._lost,
        )
        self.ws = connection_class(self.options)(
            protocol, self.request, self.context, self.handshake.subprotocol, self.codec
        )
        # There may be thousands.
        del self.handshake
        for name in FOR_RESPONSE:
            vars(self.request).pop(name, None)
        return protocol

    def close(self, code: int) -> asyncio.Task[None]:
        """Begin to close the open connection; return the task that runs the view."""
        self.ws.close_nowait(code)
        assert self.task is not None
        return self.task

    def cancel(self) -> asyncio.Task[None]:
        """Cancel the task that runs the view, and return it."""
        assert self.task is not None
        self.task.cancel()
        return self.task

    def _start(self) -> None:
        sessions.opened(self)
        self.task = asyncio.get_running_loop().create_task(self._run())
        self.task.add_done_callback(self._ended)
        if sessions.ending is not None:
            self.ws.close_nowait(sessions.ending)
        if self.options.max_age:
            earlier = random.uniform(0, self.options.max_age_jitter)  # noqa: S311 - no secret
            self.aging = asyncio.get_running_loop().call_later(
                self.options.max_age * (1 - earlier),
                self.ws.close_nowait,
                CloseCode.SERVICE_RESTART,
                "maximal age",
            )

    def _ended(self, task: asyncio.Task[None]) -> None:
        sessions.ended(self)
        if not sessions.open:
            scope.end_threads()
        for timer in (self.grace, self.aging):
            if timer is not None:
                timer.cancel()
        if not task.cancelled() and task.exception() is not None:
            # SystemExit: the process may go on without this task.
            self.ws.close_nowait(CloseCode.INTERNAL_ERROR)

    def _closing(self) -> None:
        self.ws.announce_ending()
        if not self.ws.closed_by_view:
            self._cancel_later()

    def _lost(self) -> None:
        if self.ws.closed_by_view:
            self._cancel_later()

    def _cancel_later(self) -> None:
        if self.grace is None and self.task is not None and not self.task.done():
            self.grace = asyncio.get_running_loop().call_later(
                self.options.disconnect_grace, self.task.cancel
            )

    async def _run(self) -> None:
        begin = time.monotonic()
        with RequestContext(self.request):
            try:
                await self._notify(WebsocketOpened(self.ws, self.request))
                await self.view(self.ws)
            except (Exception, BaseExceptionGroup, asyncio.CancelledError) as exc:
                if not is_quiet(exc):
                    self._log_error("its view")
                if is_cancellation(exc):
                    # The disconnect grace is over, or the loop ends: no time to wait.
                    self.ws.close_nowait(*closing(exc))
                else:
                    await self._close(*closing(exc))
            else:
                await self._close(CloseCode.NORMAL_CLOSURE)
            await self._report(time.monotonic() - begin)

    async def _close(self, code: int, reason: str = "") -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await self.ws.close(code, reason)

    async def _notify(self, event: WebsocketOpened | WebsocketEnded) -> None:
        registry = self.request.registry
        if registry.has_listeners:
            # Subscribers are plain code: in a greenlet, they can wait.
            await spawn_greenlet(registry.notify, event)

    async def _report(self, duration: float) -> None:
        protocol = self.ws.protocol
        status = protocol.close_status()
        facts: dict[str, Any] = {
            "code": int(status.code),
            "reason": status.reason,
            "duration": duration,
            "messages_received": protocol.queue.received,
            "messages_sent": protocol.messages_sent,
            "bytes_received": protocol.bytes_received,
            "bytes_sent": protocol.writer.bytes_sent,
            "messages_dropped": self.ws.messages_dropped,
        }
        if logger.isEnabledFor(logging.INFO):
            logger.info(
                "WebSocket %s from %s closed: code=%d reason=%r duration=%.3f "
                "messages_received=%d messages_sent=%d bytes_received=%d bytes_sent=%d "
                "messages_dropped=%d",
                self.request.path,
                self.request.remote_addr,
                *facts.values(),
                extra={"websocket": facts},
            )
        try:
            await self._notify(WebsocketEnded(self.ws, self.request, **facts))
        except Exception:
            self._log_error("a subscriber to WebsocketEnded")

    def _log_error(self, culprit: str) -> None:
        logger.exception(
            "WebSocket %s %s from %s: %s raised an exception",
            self.request.method,
            self.request.path,
            self.request.remote_addr,
            culprit,
        )
