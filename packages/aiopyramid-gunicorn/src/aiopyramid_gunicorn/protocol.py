"""
gunicorn's asynchronous HTTP protocol, for a WSGI application.

gunicorn parses, frames, limits, logs and keeps alive. What it takes for the scope of an
ASGI application is a :class:`aiopyramid_gunicorn.request.Scope`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

from . import compat
from .request import Scope

if TYPE_CHECKING:
    from .worker import LoopWorker


# How long a stop waits for the first request of a new connection, in seconds.
FIRST = 1.0


class Released(NamedTuple):
    """A transport that a connection has handed over, with its state."""

    transport: asyncio.Transport
    received: bytes  # behind the last request
    truncated: bool  # more was received than is kept
    half_closed: bool  # the client sends nothing more
    paused: bool  # the transport takes nothing more for now


class HTTPProtocol(compat.ASGIProtocol):  # type: ignore[misc]
    """A connection of the worker: HTTP requests, and at last perhaps a WebSocket."""

    worker: LoopWorker
    req_count: int  # with the one that is waited for
    _awaiting_request: bool
    _callback_parser: Any
    _task: Any
    _response_buffer: bytes

    def __init__(self, worker: LoopWorker) -> None:
        super().__init__(worker)
        self._scopes: dict[Any, Scope] = {}  # for the access log
        self._first_request: asyncio.TimerHandle | None = None
        self._half_closed: asyncio.TimerHandle | None = None
        self._left = False

    # The connection.

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        worker = self.worker
        worker.connections.add(self)
        self._made = worker.loop.time()
        if worker.nr_conns > worker.worker_connections:
            self._refuse(503, f"This worker already has {worker.worker_connections} connections.")
        elif self._callback_parser is not None and self.cfg.timeout:
            # Later requests are bounded by the keep-alive timeout.
            self._first_request = worker.loop.call_later(
                self.cfg.timeout, self._refuse, 408, "The request did not come in time."
            )

    def eof_received(self) -> bool:
        """
        Called when the client has closed its side of the connection.

        The client may still read (RFC 9112 section 9.6). So its requests go on for
        ``asgi_disconnect_grace_period``, and their answers are sent.
        """
        request, body = self._current_request, self._body_receiver
        if self._callback_parser is None or self._is_ssl or request is None:
            return False  # the transport closes
        if body is not None and not body._complete:
            return False  # the rest of the body will never come
        self._half_closed = self.worker.loop.call_later(
            self.cfg.asgi_disconnect_grace_period, self._cancel_request
        )
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.worker.connections.discard(self)
        self._cancel_first_request()
        if self._half_closed is not None:
            self._half_closed.cancel()
        super().connection_lost(exc)
        if self._current_request is None and self._request_ready is not None:
            # gunicorn would let its task wait for the next request until
            # asgi_disconnect_grace_period is over.
            self._request_ready.set()
        elif exc is not None:
            self._cancel_request()  # a reset: nobody is there to read an answer

    def _cancel_request(self) -> None:
        self._left = True
        self._cancel_task_if_pending()

    def _arm_keepalive_timer(self) -> None:
        super()._arm_keepalive_timer()
        if self._half_closed is not None:
            self._keepalive_timeout()  # no more requests come

    def close_if_idle(self) -> None:
        """
        Close the connection if it waits for a request, as when its keep-alive time is over.

        The first request of a new connection is on its way: it gets `FIRST` seconds.
        """
        if self.req_count == 1 and self.worker.loop.time() < self._made + FIRST:
            return
        # A request may have come, and its task not have begun.
        if self._awaiting_request and not self._request_ready.is_set():
            self._keepalive_timeout()

    def has_left(self) -> bool:
        """Return True if the client has left."""
        return bool(self._closed or self._left)

    def _refuse(self, status: int, message: str) -> None:
        self._send_error_response(status, message)
        self._close_transport()

    def _cancel_first_request(self) -> None:
        if self._first_request is not None:
            self._first_request.cancel()
            self._first_request = None

    # Requests.

    def _on_headers_complete(self) -> Any:
        self._cancel_first_request()
        return super()._on_headers_complete()

    def _build_http_scope(self, request: Any, sockname: Any, peername: Any) -> Scope:
        scope = Scope(self, request, sockname, peername)
        if self.log.access_log_enabled:
            self._scopes[request] = scope
        return scope

    _build_http2_scope = _build_http_scope

    def _build_environ(self, request: Any, sockname: Any, peername: Any) -> Any:
        # The very environ of the call, so that what the application put there
        # can be logged, as with gunicorn's WSGI workers.
        scope = self._scopes.pop(request, None)
        if scope is not None and scope.environ is not None:
            return scope.environ
        return super()._build_environ(request, sockname, peername)

    _build_http2_environ = _build_environ

    def _send_response_start(
        self, status: int, headers: Any, request: Any, close: bool = False
    ) -> None:
        super()._send_response_start(status, headers, request, close=close)
        reason = getattr(status, "reason", None)
        if reason is not None and reason != self._get_reason_phrase(status):
            _, rest = self._response_buffer.split(b"\r\n", 1)
            version = ".".join(map(str, request.version))
            line = f"HTTP/{version} {int(status)} {reason}\r\n"
            self._response_buffer = line.encode("latin-1") + rest

    # WebSockets.

    def _is_websocket_upgrade(self, request: Any) -> bool:
        # To gunicorn, a handshake is a request like any other: the application
        # decides about it, and it is logged and counted as others are.
        return False

    def can_become_websocket(self) -> bool:
        """Return True if this connection speaks HTTP/1, not HTTP/2 or uwsgi."""
        return self._callback_parser is not None

    def release(self) -> Released:
        """
        Give the transport up, with its state and with what the client has sent behind its request.

        To gunicorn, the connection ends here: ``worker_connections`` does not count it.
        """
        parser = self._callback_parser
        released = Released(
            self.transport,
            parser.remaining(),
            getattr(parser, "remaining_truncated", False),
            self._half_closed is not None,
            compat.writing_is_paused(self),
        )
        self._callback_parser = None
        self._task = None  # it ends by itself, and need not be watched
        self.connection_lost(None)
        return released
