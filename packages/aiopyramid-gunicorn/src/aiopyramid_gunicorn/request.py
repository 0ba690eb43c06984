"""
A request over HTTP/2 or uwsgi: a WSGI call (PEP 3333) over gunicorn's asynchronous I/O.

gunicorn hands over a request's body by ``receive()`` and takes the response by
``send()``, both coroutines. The application and everything below it is plain
code, in a request thread or in a bridge greenlet: reading the body and sending
a chunk wait there without blocking the event loop.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from aiopyramid.app_iter import CoroutineAppIter, run
from aiopyramid.body import BodyStream
from aiopyramid.bridge import await_, in_worker_thread
from aiopyramid.exceptions import ClientDisconnected, is_cancellation

from . import compat

if TYPE_CHECKING:
    from _typeshed import OptExcInfo
    from _typeshed.wsgi import WSGIApplication, WSGIEnvironment

    from .protocol import HTTPProtocol

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Body = list[bytes] | tuple[bytes, ...] | CoroutineAppIter

T = TypeVar("T")

BODY_BUFFER = 65536


class Status(int):
    """An HTTP status code that knows the application's reason phrase."""

    reason: str

    @classmethod
    def parse(cls, text: str) -> Status:
        """
        Read the status that an application gives to ``start_response``.

        Raises:
            TypeError: If it is no `str`.
            ValueError: If it is no code with an optional phrase.
        """
        if not isinstance(text, str):
            raise TypeError(f"{text!r} is not a string")
        if not compat.STATUS.fullmatch(text):
            raise ValueError(f"Invalid status {text!r}")
        status = cls(text[:3])
        status.reason = text[4:]
        return status


class RequestBody(BodyStream):
    """``wsgi.input``: the body as the client sends it."""

    def __init__(self, receive: Receive) -> None:
        super().__init__()
        self.receive = receive
        self.complete = False

    def next_piece(self) -> bytes:
        """
        Return more of the body; nothing at its end.

        Raises:
            ClientDisconnected: If the client left, or sent nothing for gunicorn's ``timeout``.
        """
        piece = b""
        while not piece and not self.complete:
            event = await_(self.receive())
            if event["type"] == "http.disconnect":
                raise ClientDisconnected("the client did not send the whole request body")
            piece = event["body"]
            self.complete = not event["more_body"]
        return piece


class Call:
    """
    One call of a WSGI application.

    Args:
        app: The application.
        environ: Its environ, without ``wsgi.input`` yet.
        receive: Gives the messages of the request body.
        send: Takes the messages of the response.
        has_left: Returns True if the client has left.
    """

    def __init__(
        self,
        app: WSGIApplication,
        environ: WSGIEnvironment,
        receive: Receive,
        send: Send,
        has_left: Callable[[], bool],
    ) -> None:
        self.app = app
        self.environ = environ
        self.send = send
        self.has_left = has_left
        self.status: Status | None = None
        self.headers: list[tuple[str, str]] = []
        self.headers_sent = False
        environ["wsgi.input"] = (
            io.BufferedReader(RequestBody(receive), BODY_BUFFER)
            if _may_have_body(environ)
            else io.BytesIO()
        )
        environ["wsgi.early_hints"] = self.send_early_hints

    async def run(self, run_plain: Callable[[Callable[[], T]], Awaitable[T]]) -> None:
        """
        Call the application and send its response.

        Args:
            run_plain: Runs plain code where it can wait.
        """
        # No type checker sees that the method goes with this call of it.
        body: Any = await run_plain(self._call)  # type: ignore[arg-type]
        if isinstance(body, CoroutineAppIter):
            await self._send_coroutine(body)
        elif body is not None:
            for event in self._events(b"".join(map(_checked_bytes, body)), more=False):
                await self.send(event)

    def _call(self) -> Body | None:
        """Call the application; return what of its body needs no plain code to be sent."""
        app_iter = self.app(self.environ, self.start_response)
        if type(app_iter) in (list, tuple, CoroutineAppIter):
            return app_iter  # type: ignore[return-value]
        try:
            if isinstance(app_iter, compat.FileWrapper):
                self._send_file(app_iter)
            else:
                self._send_stream(app_iter)
        finally:
            close = getattr(app_iter, "close", None)
            if close is not None:
                close()
        return None

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: OptExcInfo | None = None
    ) -> Callable[[bytes], None]:
        """Take status and headers from the application (PEP 3333)."""
        if exc_info:
            try:
                if self.headers_sent:
                    raise exc_info[1].with_traceback(exc_info[2])  # type: ignore[union-attr]
            finally:
                exc_info = None
        elif self.status is not None:
            raise AssertionError("Response headers already set!")
        self.status = Status.parse(status)
        self.headers = self._checked(headers)
        return self.write

    def write(self, data: bytes) -> None:
        """Send a piece of the body, the old way (PEP 3333)."""
        self._send_body(data, more=True)

    def send_early_hints(self, headers: list[tuple[str, str]]) -> None:
        """
        Send a 103 response, unless the real one has begun (RFC 8297).

        Args:
            headers: Usually ``("Link", ...)``.
        """
        if not self.headers_sent:
            event = {"type": "http.response.informational", "status": 103, "headers": headers}
            self._send(event)

    def _checked(self, headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
        checked = []
        for name, value in headers:
            if not isinstance(name, str) or not isinstance(value, str):
                raise TypeError(f"{name!r}: {value!r} is not a header of two strings")
            if not compat.TOKEN.fullmatch(name):
                raise compat.InvalidResponseHeaderName(repr(name))
            if not compat.HEADER_VALUE.fullmatch(value):
                raise compat.InvalidResponseHeader(repr(name))
            if not compat.is_hoppish(name):  # the server's
                checked.append((name, value.strip(" \t")))
        if not any(name.lower() == "server" for name, _ in checked):
            checked.append(("Server", compat.SERVER))
        return checked

    def _send_stream(self, chunks: Iterable[bytes]) -> None:
        for chunk in chunks:
            if chunk:
                self._send_body(_checked_bytes(chunk), more=True)
                if not in_worker_thread():
                    # A fast producer with a fast client would never give way.
                    await_(asyncio.sleep(0))
        self._send_body(b"", more=False)

    def _send_file(self, file: compat.FileWrapper) -> None:
        # Reading may wait for the disk, so it is a thread's work.
        while chunk := run(file.filelike.read, max(file.blksize, BODY_BUFFER)):
            self._send_body(chunk, more=True)
        self._send_body(b"", more=False)

    async def _send_coroutine(self, chunks: CoroutineAppIter) -> None:
        # The request's plain code has ended: this holds no thread.
        try:
            async for chunk in chunks:
                if chunk:
                    await self._send_all(self._events(_checked_bytes(chunk), more=True))
                    await asyncio.sleep(0)
            await self._send_all(self._events(b"", more=False))
        finally:
            await chunks.aclose()

    def _send_body(self, data: bytes, *, more: bool) -> None:
        self._send(*self._events(data, more=more))

    def _events(self, data: bytes, *, more: bool) -> list[dict[str, Any]]:
        body = {"type": "http.response.body", "body": data, "more_body": more}
        if self.headers_sent:
            return [body]
        if self.status is None:
            raise AssertionError("the application sent a body before start_response")
        self.headers_sent = True
        return [
            {"type": "http.response.start", "status": self.status, "headers": self.headers},
            body,
        ]

    def _send(self, *events: dict[str, Any]) -> None:
        await_(self._send_all(events))

    async def _send_all(self, events: Iterable[dict[str, Any]]) -> None:
        for event in events:
            await self.send(event)
        if self.has_left():
            raise ClientDisconnected("the client has left")


def _may_have_body(environ: WSGIEnvironment) -> bool:
    return (
        environ.get("CONTENT_LENGTH", "0") != "0"
        or "HTTP_TRANSFER_ENCODING" in environ
        or not environ["SERVER_PROTOCOL"].startswith("HTTP/1")
    )


def _checked_bytes(chunk: bytes) -> bytes:
    if not isinstance(chunk, bytes):
        raise TypeError(f"the application's body has {chunk!r}, which is not bytes")
    return chunk


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
        parts = compat.split_request_uri(request.uri)
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
        _, environ = compat.create_environ(
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
    protocol = scope.protocol
    worker = protocol.worker
    call: Call | None = None
    worker.request_begins()
    try:
        environ = scope.build_environ()
        call = Call(worker.wsgi, environ, receive, send, protocol.has_left)
        await call.run(worker.run_plain(protocol.has_left))
    except compat.ClientDisconnected:
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
        if is_cancellation(exc) or (isinstance(exc, asyncio.CancelledError) and not worker.alive):
            raise
        protocol.log.exception(
            "Error handling request %s %s", scope.request.method, scope.request.uri
        )
        if call is not None and call.headers_sent:
            # Too late for a 500, and the client must not take this for the end.
            raise asyncio.CancelledError from None
        await _send_server_error(send)
    finally:
        worker.request_ends()


async def _send_server_error(send: Send) -> None:
    status = Status.parse("500 Internal Server Error")
    body = (
        b"<html><head><title>Internal Server Error</title></head>"
        b"<body><h1>Internal Server Error</h1></body></html>"
    )
    headers = [
        ("Server", compat.SERVER),
        ("Content-Type", "text/html"),
        ("Content-Length", str(len(body))),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
