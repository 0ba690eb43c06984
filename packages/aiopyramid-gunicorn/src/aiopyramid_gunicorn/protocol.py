"""
gunicorn's asynchronous protocol, for a WSGI application: HTTP/2, with TLS or without, and uwsgi.

gunicorn parses, frames, limits, logs and keeps alive. What it takes for the scope of an
ASGI application is a :class:`aiopyramid_gunicorn.request.Scope`. HTTP/1 takes a shorter way,
see :mod:`aiopyramid_gunicorn.http1`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import compat
from .request import Scope

if TYPE_CHECKING:
    from .worker import LoopWorker


class HTTPProtocol(compat.ASGIProtocol):  # type: ignore[misc]
    """A connection of the worker, of which gunicorn takes care."""

    worker: LoopWorker
    _h2_tasks: set[Any]
    _response_buffer: bytes

    def __init__(self, worker: LoopWorker) -> None:
        super().__init__(worker)
        self._scopes: dict[Any, Scope] = {}  # for the access log
        self._left = False

    # The connection.

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.worker.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.worker.connections.discard(self)
        super().connection_lost(exc)
        if exc is not None:
            self._left = True  # a reset: nobody is there to read an answer
            self._cancel_task_if_pending()
        self.worker.accept_again()

    def close_if_idle(self) -> None:
        """Close the connection if it speaks HTTP/2 and no request is open."""
        if self.cfg.protocol != "uwsgi" and not self._h2_tasks:
            self._close_transport()

    def has_left(self) -> bool:
        """Return True if the client has left."""
        return bool(self._closed or self._left)

    # Requests.

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

    def _is_websocket_upgrade(self, request: Any) -> bool:
        return False  # WebSockets come over HTTP/1
