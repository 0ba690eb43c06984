"""
gunicorn's asynchronous HTTP protocol, with a WSGI call inside.

Everything of gunicorn that this package uses and that gunicorn does not document
as API is named in `REQUIRED`, and checked when the worker class is loaded.
gunicorn parses, frames, limits, logs and keeps alive; what it takes for an ASGI
scope is a `Scope` of ours, and what it takes for an ASGI application is `serve`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import gunicorn
from gunicorn import SERVER, util
from gunicorn.asgi import protocol as gunicorn_protocol
from gunicorn.http import errors as gunicorn_errors
from gunicorn.http import message as gunicorn_message
from gunicorn.http import wsgi as gunicorn_wsgi
from gunicorn.workers import gasgi
from websockets.frames import CloseCode

from aiopyramid.exceptions import ClientDisconnected
from aiopyramid.websocket.upgrade import KEY, Upgrade

from .wsgi import Call, Receive, Send, Status

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

    from aiopyramid.websocket.session import Session

    from .worker import LoopWorker

REQUIRED = {
    gunicorn_protocol.ASGIProtocol: (
        "_arm_keepalive_timer",
        "_build_environ",
        "_build_http2_environ",
        "_build_http2_scope",
        "_build_http_scope",
        "_cancel_task_if_pending",
        "_close_transport",
        "_get_reason_phrase",
        "_is_websocket_upgrade",
        "_keepalive_timeout",
        "_on_headers_complete",
        "_send_error_response",
        "_send_response_start",
        "_serve_http_request",  # gives each request a task, and so a context, of its own
        "_will_close",
        "connection_lost",
        "connection_made",
    ),
    gunicorn_protocol: ("ClientDisconnected",),
    gasgi.ASGIWorker: (
        "_cleanup",
        "_get_ssl_context",
        "_serve",
        "_setup_event_loop",
        "_shutdown",
        "handle_exit_signal",
        "handle_quit_signal",
    ),
    gunicorn_errors: ("InvalidResponseHeader", "InvalidResponseHeaderName"),
    gunicorn_message: ("TOKEN_RE",),
    gunicorn_wsgi: ("FileWrapper", "HEADER_VALUE_RE", "STATUS_RE", "create"),
}

for owner, names in REQUIRED.items():
    for name in names:
        if not hasattr(owner, name):
            raise ImportError(
                f"gunicorn {gunicorn.__version__} has no {owner.__name__}.{name}, "
                "which aiopyramid-gunicorn builds on; install a version of gunicorn "
                "that its metadata allows"
            )


class WSGIRequest:
    """A request as gunicorn's WSGI workers have it, to make the same environ."""

    body = None
    _expected_100_continue = False  # the body receiver answers it

    def __init__(self, request: Any) -> None:
        self.method = request.method
        self.uri = request.uri
        self.version = request.version
        self.headers = request.headers
        self.scheme = request.scheme
        self.proxy_protocol_info = getattr(request, "proxy_protocol_info", None)
        parts = util.split_request_uri(request.uri)
        self.path = parts.path or ""
        self.query = parts.query or ""
        if hasattr(request, "priority_weight"):
            self.priority_weight = request.priority_weight
            self.priority_depends_on = request.priority_depends_on


class Scope:
    """What a WSGI call needs besides ``receive`` and ``send``."""

    __slots__ = ("environ", "peername", "protocol", "request", "sockname")

    def __init__(self, protocol: HTTPProtocol, request: Any, sockname: Any, peername: Any) -> None:
        self.protocol = protocol
        self.request = request
        self.sockname = sockname
        self.peername = peername
        self.environ: WSGIEnvironment | None = None

    def build_environ(self) -> WSGIEnvironment:
        """Make the WSGI environ, by gunicorn's own function for it."""
        _, environ = gunicorn_wsgi.create(
            WSGIRequest(self.request),
            self.protocol.transport.get_extra_info("socket"),
            self.peername or "",
            self.sockname or "",
            self.protocol.cfg,
        )
        environ["wsgi.multithread"] = True
        self.environ = environ
        return environ  # type: ignore[no-any-return]


async def serve(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request; gunicorn calls this as if it were an ASGI application."""
    protocol, upgrade = scope.protocol, Upgrade()
    worker = protocol.worker
    call: Call | None = None
    worker.request_begins()
    try:
        environ = scope.build_environ()
        if "HTTP_UPGRADE" in environ and protocol.can_become_websocket():
            environ[KEY] = upgrade
        call = Call(worker.wsgi, environ, receive, send, protocol.has_left)
        await call.run(worker.run_plain(protocol.has_left))
    except gunicorn_protocol.ClientDisconnected:
        raise  # gunicorn knows what to do
    except (Exception, asyncio.CancelledError, SystemExit, KeyboardInterrupt) as exc:
        # The last two, or one request would end the worker.
        if protocol.has_left():
            if isinstance(exc, ClientDisconnected | asyncio.CancelledError):
                protocol.log.debug("The client of %s left: %r", scope.request.uri, exc)
            else:
                protocol.log.exception(
                    "Error handling request %s %s, whose client has left",
                    scope.request.method,
                    scope.request.uri,
                )
            raise asyncio.CancelledError from None
        if isinstance(exc, asyncio.CancelledError) and (_is_cancelled() or not worker.alive):
            raise
        protocol.log.exception(
            "Error handling request %s %s", scope.request.method, scope.request.uri
        )
        if call is not None and call.headers_sent:
            # Too late for a 500, and the client must not take this for the end.
            raise asyncio.CancelledError from None
        await _send_server_error(send)
    else:
        if call.status == 101 and upgrade.session is not None:
            # The view keeps the request, which need not keep all of this.
            del environ["wsgi.early_hints"]
            protocol.become_websocket(upgrade.session)
    finally:
        worker.request_ends()


def _is_cancelled() -> bool:
    """Return True if this task was cancelled, not one that the application waited for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _send_server_error(send: Send) -> None:
    status = Status.parse("500 Internal Server Error")
    body = (
        b"<html><head><title>Internal Server Error</title></head>"
        b"<body><h1>Internal Server Error</h1></body></html>"
    )
    headers = [
        ("Server", SERVER),
        ("Content-Type", "text/html"),
        ("Content-Length", str(len(body))),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


class HTTPProtocol(gunicorn_protocol.ASGIProtocol):  # type: ignore[misc]
    """A connection of the worker: HTTP requests, and at last perhaps a WebSocket."""

    worker: LoopWorker
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
        if worker.nr_conns > worker.worker_connections:
            self._refuse(503, f"This worker has its {worker.worker_connections} connections.")
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

    def become_websocket(self, session: Session) -> None:
        """Hand the connection over to a WebSocket; the 101 response is out."""
        parser, transport = self._callback_parser, self.transport
        # What the client sent behind its request; it had better waited.
        early, ended = parser.remaining(), self._half_closed is not None
        # To gunicorn, the connection ends here: worker_connections does not count it.
        self._callback_parser = None
        self._task = None  # it ends by itself, and need not be watched
        self.connection_lost(None)
        protocol = session.open()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if getattr(parser, "remaining_truncated", False):
            protocol.fail(CloseCode.MESSAGE_TOO_BIG, "too much was sent before the handshake")
        elif early:
            protocol.data_received(early)
        if ended:
            protocol.eof_received()
            transport.close()
        if not self.worker.alive:
            session.close(self.worker.closing_code())
