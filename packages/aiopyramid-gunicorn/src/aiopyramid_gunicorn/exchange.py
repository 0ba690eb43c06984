"""
A request over HTTP/1 and its response: a WSGI call (PEP 3333), as gunicorn's workers make it.

All of it is plain code, in a request thread or in a bridge greenlet: hooks, the making of the
environ, the application, the access log. The connection learns the outcome.
"""

from __future__ import annotations

import asyncio
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

from aiopyramid.app_iter import CoroutineAppIter
from aiopyramid.bridge import await_
from aiopyramid.exceptions import ClientDisconnected
from aiopyramid.request_threads import PlacedCall
from aiopyramid.threads import INTERRUPTIONS
from aiopyramid.websocket.upgrade import KEY, Upgrade

from . import compat
from .message import NOTHING, has_body
from .response import Interim, Output, Response

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

    from aiopyramid.request_threads import RequestThreads

    from .http1 import HTTP1Connection

SWITCHING_PROTOCOLS = 101

# How much of a body that the application did not read is read after the response, in bytes,
# and for how long, in seconds, as gunicorn does. Beyond that, the connection is closed.
DRAIN_BYTES = 65536
DRAIN_SECONDS = 5.0

SERVER_ERROR = "500 Internal Server Error"

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Exchange:
    """
    A request and its response.

    Args:
        connection: The connection that the request came on.
        request: The request, of which the head is known.
    """

    __slots__ = (
        "body_timeout",
        "broken",
        "call",
        "cancelled",
        "connection",
        "ends_with_client",
        "environ",
        "expects_continue",
        "keep",
        "output",
        "request",
        "response",
        "start",
        "task",
        "upgrade",
    )

    def __init__(self, connection: HTTP1Connection, request: Any) -> None:
        self.connection = connection
        self.request = request
        self.output = Output(connection)
        self.response: Response | None = None
        self.environ: WSGIEnvironment = {}
        self.upgrade: Upgrade | None = None
        self.keep = False  # the connection, for another request
        self.broken = False  # the response is not whole, and must not look like it
        self.body_timeout = connection.worker.heads.seconds
        self.cancelled = False
        self.expects_continue = False
        self.ends_with_client = False  # at once, even if that has closed its own side only
        self.start: datetime | None = None
        self.call: ExchangeCall | None = None
        self.task: asyncio.Task[Any] | None = None

    # In the request's thread or greenlet.

    def run(self) -> CoroutineAppIter | None:
        """
        Call the application and write its response.

        Returns:
            The body, if it is to be sent on the event loop.
        """
        body: CoroutineAppIter | None = None
        try:
            body = self._call()
        except BaseException as exc:  # SystemExit among them, or a view could end the worker
            self._failed(exc)
        finally:
            if body is None:
                self._post_request()
        return body

    def _call(self) -> CoroutineAppIter | None:
        worker, request = self.connection.worker, self.request
        if worker.pre_request is not None:
            worker.pre_request(worker, request)
        if worker.access is not None:
            self.start = datetime.now()
        response = self._make_environ()
        if not self.connection.may_be_kept():
            response.force_close()
        app_iter: Any = worker.wsgi(self.environ, response.start_response)
        kind = type(app_iter)
        if kind is CoroutineAppIter:
            return app_iter  # type: ignore[no-any-return]
        close = None if kind is list else getattr(app_iter, "close", None)
        try:
            if kind is list or kind is tuple:
                for item in app_iter:
                    response.write(item)
            elif isinstance(app_iter, compat.FileWrapper):
                response.write_file(app_iter)
            else:
                for item in app_iter:
                    response.write(item)
                    self._flush()
            self._finish(response)
            if close is not None or worker.post_request is not None:
                self._flush()
        finally:
            self._log()
            if close is not None:
                close()
        return None

    def _make_environ(self) -> Response:
        connection, request = self.connection, self.request
        worker = connection.worker
        if request.unreader is not NOTHING and has_body(request):
            request.unreader.more = self._more
        if request._expected_100_continue:
            # It is sent when the application asks for the body.
            self.expects_continue = True
            request._expected_100_continue = False
        environ = None
        if connection.environ is not None:
            environ = worker.environs.of_request(request, connection.environ)
        if environ is None:
            response, environ = compat.create_environ(
                request,
                self.output,
                connection.peer,
                connection.server,
                worker.cfg,
                response_class=Response,
            )
            environ["gunicorn.socket"] = connection.socket_of_environ
            environ["wsgi.multithread"] = True
        else:
            response = Response(request, self.output, worker.cfg)
        interim = Interim(self.output)
        environ["wsgi.early_hints"] = compat.make_early_hints(request, interim, response)
        if "HTTP_UPGRADE" in environ:
            self.upgrade = environ[KEY] = Upgrade()
        self.response, self.environ = response, environ
        return response  # type: ignore[no-any-return]

    def switches(self) -> bool:
        """Return True if the response switches protocols (101)."""
        response = self.response
        return (
            response is not None and response.status_code == SWITCHING_PROTOCOLS and not self.broken
        )

    def _flush(self) -> None:
        # The end of a handshake's response is sent when the connection is handed over.
        if not self.switches():
            self.output.flush()

    def _finish(self, response: Response) -> None:
        """End the response, and decide whether another request may follow."""
        response.close()
        self.keep = not response.closes and not response.is_short()
        if self.keep and self.request.unreader.more is not None:
            self.keep = self._drain_body()

    def _drain_body(self) -> bool:
        """Read what is left of the request's body; return False if that takes too much."""
        body = self.request.body
        self.body_timeout = DRAIN_SECONDS
        drained, until = 0, time.monotonic() + DRAIN_SECONDS
        while not body.failed and drained < DRAIN_BYTES and time.monotonic() < until:
            try:
                data = body.read(1024)
            except Exception:
                return False
            if not data:
                return True
            drained += len(data)
        return False

    def _more(self) -> bytes:
        if self.expects_continue and not self.connection.buffer:
            self.expects_continue = False
            if self.response is not None and not self.response.headers_sent:
                self.output.send_interim(CONTINUE)
        self.output.flush()
        try:
            return await_(self.connection.more(self.body_timeout))
        except ClientDisconnected:
            reader = self.request.body.reader
            if self.connection.half_closed and reader.__class__ is not compat.LengthReader:
                return b""  # which chunk is not whole, gunicorn's reader says
            raise

    def _failed(self, exc: BaseException) -> None:
        """Answer an error of the application or of a hook, or of the request's own."""
        connection, request = self.connection, self.request
        self.keep = False
        log = connection.worker.log
        if connection.has_left():
            self.output.take()
            self.broken = self.output.flushed
            if isinstance(exc, ClientDisconnected | asyncio.CancelledError):
                log.debug("The client of %s left: %r", request.uri, exc)
            else:
                log.exception(
                    "Error handling request %s %s, whose client has left",
                    request.method,
                    request.uri,
                )
            self._log_failure()
        elif self.cancelled and is_interruption(exc):
            self.output.take()
            self.broken = True
        elif self.output.flushed:
            # Too late for a 500, and the client must not take this for the end.
            log.exception("Error handling request %s %s", request.method, request.uri)
            self.broken = True
        elif isinstance(exc, ClientDisconnected | compat.NoMoreData):
            # It has not sent its whole request.
            self.output.take()
            log.debug("The client of %s: %s", request.uri, exc)
            compat.write_error(self.output, 500, "Internal Server Error", "")
            self._log_failure()
        else:
            self.output.take()
            connection.worker.handle_error(request, self.output, connection.peer, exc)

    def _log_failure(self) -> None:
        if self.response is not None:
            self.response.status = self.response.status or SERVER_ERROR
            self._log()

    def _log(self) -> None:
        worker = self.connection.worker
        if worker.access is not None and self.start is not None:
            elapsed, self.start = datetime.now() - self.start, None
            worker.access(self.response, self.request, self.environ, elapsed)

    def _post_request(self) -> None:
        worker = self.connection.worker
        if worker.post_request is not None:
            try:
                worker.post_request(worker, self.request, self.environ, self.response)
            except Exception:
                worker.log.exception("Exception in post_request hook")

    # On the loop.

    def ended(self, body: CoroutineAppIter | None, exc: BaseException | None) -> None:
        """Called when the plain code of the request has ended."""
        if exc is not None:  # not of the application: `run` has answered that
            self.connection.worker.log.error("Error in request", exc_info=exc)
            self.keep, self.broken = False, True
        if body is None:
            self.connection.finished(self)
        else:
            self.call = None
            task = self.connection.worker.loop.create_task(self._send(body))
            task.add_done_callback(lambda _: self.connection.finished(self))

    def task_ended(self, task: asyncio.Task[CoroutineAppIter | None]) -> None:
        """Called when the plain code of the request has ended in a task."""
        self.task = None
        if task.cancelled():  # before it began
            self.connection.finished(self)
        elif (exc := task.exception()) is not None:
            self.ended(None, exc)
        else:
            self.ended(task.result(), None)

    async def _send(self, body: CoroutineAppIter) -> None:
        # The request's plain code has ended: this holds no thread.
        self.task = asyncio.current_task()  # may be cancelled from now on
        response = self.response
        assert response is not None
        connection = self.connection
        run_plain = connection.worker.run_plain(connection.has_left)
        try:
            try:
                self.ends_with_client = getattr(body.chunks, "ends_with_client", False)
                if self.ends_with_client and connection.half_closed:
                    connection.left = True
                if self.cancelled or connection.left:  # before this began
                    raise asyncio.CancelledError
                async for chunk in body:
                    response.write(chunk)
                    await self.output.send_from_loop()
                    await asyncio.sleep(0)
                response.close()
                self.keep = not response.closes and not response.is_short()
                if self.keep and self.request.unreader.more is not None:
                    self.keep = await run_plain(self._drain_body)
            finally:
                await body.aclose()
        except BaseException as exc:
            self._failed(exc)
        finally:
            self._log()
            if connection.worker.post_request is not None:
                await run_plain(self._post_request)

    def cancel(self) -> None:
        """End the exchange without an answer, because the worker ends."""
        self.cancelled = True
        self.interrupt()

    def interrupt(self) -> None:
        """Raise an exception in the request's code where it waits, now or next."""
        if self.task is not None:
            self.task.cancel()
        elif self.call is not None:
            if self.call.begin():
                self.call.withdraw()
                self.call.forget()
                self.output.take()
                self.connection.finished(self)
            else:
                self.call.interrupt()


def is_interruption(exc: BaseException) -> bool:
    """Return True if this is what plain code or a coroutine gets that is interrupted."""
    return isinstance(exc, INTERRUPTIONS)


class ExchangeCall(PlacedCall[CoroutineAppIter | None]):
    """The plain code of an exchange, in a request thread."""

    def __init__(self, exchange: Exchange, pool: RequestThreads) -> None:
        super().__init__(exchange.run, pool)
        self.exchange = exchange
        self.has_left = exchange.connection.has_left

    def deliver(self, result: Any, exception: BaseException | None) -> None:
        """Receive the outcome from the thread."""
        self.pool.ended()
        self.forget()
        self.exchange.ended(result, exception)

    def forget(self) -> None:
        """Drop what would be a cycle of references."""
        del self.context
