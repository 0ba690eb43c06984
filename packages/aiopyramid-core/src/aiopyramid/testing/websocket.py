"""
The client's side of a WebSocket connection to an application in the same process.

The handshake is an ordinary request through the application, tweens and all. After its 101
response, the session that the application has made runs as under a server, over a connection
in memory; what speaks to it is the client of the websockets library, which masks, compresses,
answers pings and checks what it is sent.
"""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import functools
import json
import os
import re
import textwrap
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from types import EllipsisType, FrameType
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeVar

from websockets.client import ClientProtocol
from websockets.datastructures import Headers
from websockets.exceptions import InvalidHandshake
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import DATA_OPCODES, Frame, Opcode
from websockets.http11 import Response as HTTPResponse
from websockets.protocol import OPEN
from websockets.typing import Origin, Subprotocol
from websockets.uri import parse_uri

from .. import bridge, threads
from ..bridge import await_
from ..request_threads import run_as_request
from ..websocket import session
from ..websocket.connection import BytesLike
from ..websocket.exceptions import WebsocketClosed, check_close, is_quiet
from ..websocket.upgrade import KEY, Upgrade
from .transport import MemoryTransport, pair

if TYPE_CHECKING:
    from ..websocket.connection import WebsocketConnection
    from ..websocket.session import Session

P = ParamSpec("P")
T = TypeVar("T")

Timeout = float | None | EllipsisType
"""Seconds, ``None`` for no limit, or ``...`` for what was chosen one level above."""

Compression = Literal["deflate"] | None

TIMEOUT = float(os.environ.get("AIOPYRAMID_TESTING_TIMEOUT", "1"))
"""Seconds that a client waits for a view, unless a test says otherwise."""
NOTHING_TIMEOUT = 0.1

# Characters of a refusal's body that stand in the error's message.
BODY_WIDTH = 500

# Whose frames say nothing to those who write views.
HIDDEN = {__file__, bridge.__file__, threads.__file__, session.__file__}

LONGER = "Pass timeout= if it needs longer; timeout=None waits without limit, for a debugger."
PAUSED = "Nothing is read from the server: call resume_reading() first."


class HandshakeRefused(Exception):
    """
    The application did not accept a WebSocket.

    Attributes:
        response: The `webtest.TestResponse` to the handshake.
    """

    def __init__(self, response: Any, problem: str = "") -> None:
        body = textwrap.shorten(response.testbody, BODY_WIDTH)
        super().__init__(
            f"the WebSocket handshake was answered with {response.status}"
            + (f", but {problem}" if problem else "")
            + (f": {body}" if body else "")
        )
        self.response = response


def where(task: asyncio.Task[Any]) -> str:
    """
    Describe where a task waits.

    Returns:
        Its frames as in a traceback, the innermost one last; empty if the task has ended.
    """
    frames = [frame for frame in _frames(task.get_coro()) if frame.f_code.co_filename not in HIDDEN]
    return "".join(traceback.StackSummary.extract((f, f.f_lineno) for f in frames).format())


def _frames(step: Any) -> Iterator[FrameType]:
    """Find the frames of a suspended coroutine, the outermost one first."""
    while step is not None:
        kind = next((kind for kind in ("cr", "gi", "ag") if hasattr(step, f"{kind}_frame")), None)
        if kind is None:  # a future
            return
        frame = getattr(step, f"{kind}_frame")
        if frame is not None:
            yield frame
            if frame.f_code is bridge.spawn_greenlet.__code__:
                yield from _frames_of_greenlet(frame.f_locals["child"].gr_frame)
        step = getattr(step, "gi_yieldfrom" if kind == "gi" else f"{kind}_await")


def _frames_of_greenlet(innermost: FrameType | None) -> Iterator[FrameType]:
    frames = []
    frame = innermost
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    for frame in reversed(frames):
        yield frame
        # A coroutine that is stepped there is on nobody's stack while it waits.
        if frame.f_code is bridge._step.__code__:
            yield from _frames(frame.f_locals["steps"])


class Opening:
    """
    The opening handshake of a client.

    Args:
        app: The `webtest.TestApp`.
        url: The path of the WebSocket view, or its whole address.
        headers: More headers of the request.
        extra_environ: More values for its environ.
        subprotocols: The subprotocols to offer, the preferred one first.
        origin: The origin of the page that opens the connection, as browsers tell it.
        compression: ``"deflate"`` to offer compression, or ``None``.
        timeout: How long each wait may take, in seconds.
        raise_exceptions: Whether exceptions of the view are raised in the test.
    """

    what = "handshake"

    def __init__(
        self,
        app: Any,
        url: str,
        *,
        headers: Mapping[str, str] | None,
        extra_environ: Mapping[str, Any] | None,
        subprotocols: Sequence[str] | None,
        origin: str | None,
        compression: Compression,
        timeout: float | None,
        raise_exceptions: bool,
    ) -> None:
        if compression not in ("deflate", None):
            raise ValueError(f"compression is 'deflate' or None, not {compression!r}")
        self.app = app
        self.url = re.sub(r"^ws(s?)://", r"http\1://", url)
        self.headers = headers or {}
        self.extra_environ = extra_environ or {}
        self.timeout = timeout
        self.raise_exceptions = raise_exceptions
        self.upgrade = Upgrade()
        # Open already: the handshake does not come to it as bytes.
        self.protocol = ClientProtocol(
            parse_uri("ws://localhost/"),
            origin=None if origin is None else Origin(origin),
            extensions=[ClientPerMessageDeflateFactory()] if compression else None,
            subprotocols=None if subprotocols is None else [Subprotocol(s) for s in subprotocols],
            state=OPEN,
            max_size=None,
        )

    def request(self) -> Any:
        """Make the request, in a thread where the application's plain code may run."""
        headers = dict(self.protocol.connect().headers.raw_items())
        del headers["Host"]  # the TestApp has its own
        return self.app.get(
            self.url,
            headers={**headers, **self.headers},
            # WebTest's requests are HTTP/1.0.
            extra_environ={"SERVER_PROTOCOL": "HTTP/1.1", **self.extra_environ, KEY: self.upgrade},
            expect_errors=True,
        )

    async def finish(self, response: Any) -> Websocket:
        """
        Open the connection, on the loop.

        Args:
            response: The response to the request.

        Raises:
            HandshakeRefused: If it accepts no WebSocket.
        """
        session = self.upgrade.session
        if response.status_int != 101:
            raise HandshakeRefused(response)
        if session is None:
            raise HandshakeRefused(response, "it does not come from a WebSocket view")
        try:
            headers = Headers(response.headerlist)
            self.protocol.process_response(HTTPResponse(101, "Switching Protocols", headers))
        except InvalidHandshake as exc:
            raise HandshakeRefused(response, f"the response is invalid ({exc})") from exc
        return Websocket(self, session, response)

    async def forget(self) -> None:
        """Give up a session that was not opened."""
        self.upgrade.forget()

    def sync(self, ws: Websocket) -> SyncWebsocket:
        """Return what plain code holds."""
        return SyncWebsocket(ws)


class ClientEnd(asyncio.Protocol):
    """
    Lets the library's client speak over a transport.

    Args:
        protocol: The library's client, as the handshake has left it.
    """

    transport: asyncio.Transport

    def __init__(self, protocol: ClientProtocol) -> None:
        self.protocol = protocol
        self.messages: deque[str | bytes] = deque()
        self.ponged = 0  # the number of the ping that was answered last
        self.writable = True
        self.lost = False
        self._fragments: list[Frame] = []
        self._changed = asyncio.Event()

    # The transport's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.protocol.receive_data(data)
        for event in self.protocol.events_received():
            assert isinstance(event, Frame)
            self._take(event)
        self.flush()
        self.wake()

    def eof_received(self) -> None:
        self.protocol.receive_eof()
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self.protocol.receive_eof()
        self.lost = True
        self.wake()

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        self.wake()

    # The test's side.

    def flush(self) -> None:
        """Write what the library's client has to send."""
        for data in self.protocol.data_to_send():
            if data:
                self.transport.write(data)
            else:
                self.transport.write_eof()

    def wake(self, *_: object) -> None:
        """Let all who wait look again."""
        self._changed.set()
        self._changed.clear()

    async def until(self, condition: Callable[[], object], timeout: float | None) -> bool:
        """
        Wait for a condition.

        Args:
            condition: Looked at now, and whenever something has happened.
            timeout: How long, in seconds.

        Returns:
            False if it was not met in time.
        """
        try:
            async with asyncio.timeout(timeout):
                while not condition():
                    await self._changed.wait()
        except TimeoutError:
            return bool(condition())
        return True

    def _take(self, frame: Frame) -> None:
        if frame.opcode is Opcode.PONG:
            self.ponged = int.from_bytes(frame.data)
        elif frame.opcode in DATA_OPCODES:
            self._fragments.append(frame)
            if frame.fin:
                data = b"".join(fragment.data for fragment in self._fragments)
                text = self._fragments[0].opcode is Opcode.TEXT
                self.messages.append(data.decode() if text else data)
                self._fragments.clear()


class Websocket:
    """
    An open WebSocket connection: what a test speaks to a view with.

    Each wait is bounded: when ``timeout`` seconds have passed, `TimeoutError` says what was
    waited for, and where the view is.

    Attributes:
        response: The 101 response to the handshake, a `webtest.TestResponse`.
    """

    def __init__(self, opening: Opening, session: Session, response: Any) -> None:
        self.response = response
        self._encoder = opening.app.JSONEncoder
        self._timeout = opening.timeout
        self._raise_exceptions = opening.raise_exceptions
        self._protocol = opening.protocol
        self._pings = 0
        self._exception: BaseException | None = None  # of the view
        self._raised = False
        ours, theirs = pair()
        self._end = ClientEnd(opening.protocol)
        ours.set_protocol(self._end)
        self._end.connection_made(ours)
        session.view = self._observed(session.view)
        if self._timeout is not None:
            # As under a server, a view that does not see the end is cancelled, but in time.
            grace = min(session.options.disconnect_grace, self._timeout / 2)
            session.options = dataclasses.replace(session.options, disconnect_grace=grace)
        # As under a server, the view belongs to no request, and to no test.
        contextvars.Context().run(self._begin, session, theirs)
        assert session.task is not None
        self._task = session.task
        self._task.add_done_callback(self._end.wake)

    @staticmethod
    def _begin(session: Session, transport: MemoryTransport) -> None:
        protocol = session.open()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)

    def __repr__(self) -> str:
        state = "open" if self._is_open else "closed"
        return f"<Websocket {self.response.request.path} {state}>"

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that was agreed upon, or ``None``."""
        return self._protocol.subprotocol

    @property
    def close_code(self) -> int | None:
        """
        The server's close code (RFC 6455 section 7.1.5); ``None`` while the connection lasts.

        1005 if it gave none, and 1006 if the connection ended without a closing handshake.
        """
        code = self._protocol.close_code
        return None if code is None else int(code)

    @property
    def close_reason(self) -> str | None:
        """The server's close reason (RFC 6455 section 7.1.6); ``None`` while open."""
        return self._protocol.close_reason

    async def send(self, message: str | BytesLike, *, timeout: Timeout = ...) -> None:
        """
        Send a message. Waits while the view does not take what was sent before.

        Args:
            message: `str` is sent as text; `bytes`, `bytearray` and `memoryview` as binary.
            timeout: How long to wait, in seconds; the message is on its way all the same.

        Raises:
            WebsocketClosed: If the connection is closed.
            TypeError: If ``message`` is of another type.
            TimeoutError: If the view takes too little.
        """
        if not isinstance(message, str | BytesLike):
            raise TypeError(
                f"a message is str, bytes, bytearray or memoryview, not {type(message).__name__}"
            )
        await self._check_open(timeout)
        if isinstance(message, str):
            self._protocol.send_text(message.encode())
        else:
            self._protocol.send_binary(message)
        end = self._end
        end.flush()
        await self._until(lambda: end.writable or end.lost, "the view did not read", timeout)

    async def send_json(self, value: Any, *, timeout: Timeout = ...) -> None:
        """
        Send a value as JSON, in a text message, with the encoder of the TestApp.

        Args:
            value: What to send.
            timeout: As for `send`.

        Raises:
            WebsocketClosed: If the connection is closed.
            TimeoutError: If the view takes too little.
        """
        await self.send(json.dumps(value, cls=self._encoder), timeout=timeout)

    async def receive(self, *, timeout: Timeout = ...) -> str | bytes:
        """
        Receive the next message.

        Args:
            timeout: How long to wait, in seconds.

        Returns:
            `str` for a text message, `bytes` for a binary one.

        Raises:
            WebsocketClosed: If the connection is closed, and all that came before was received.
            TimeoutError: If no message comes in time.
        """
        end = self._end
        await self._until(lambda: end.messages or end.lost, "no message came", timeout)
        if not end.messages:
            raise self._closed_error()
        return end.messages.popleft()

    async def receive_json(self, *, timeout: Timeout = ...) -> Any:
        """
        Receive the next message and parse it as JSON.

        Args:
            timeout: How long to wait, in seconds.

        Returns:
            The value.

        Raises:
            ValueError: If the message is not JSON.
            WebsocketClosed: As for `receive`.
            TimeoutError: If no message comes in time.
        """
        message = await self.receive(timeout=timeout)
        try:
            return json.loads(message)
        except ValueError as exc:
            raise ValueError(f"the message is not JSON ({exc}): {message!r}") from None

    async def receive_nothing(self, *, timeout: float = NOTHING_TIMEOUT) -> None:
        """
        Check that no message comes.

        Args:
            timeout: For how long, in seconds. All of it is waited.

        Raises:
            AssertionError: If a message comes. It can still be received.
            WebsocketClosed: If the connection is closed.
        """
        end = self._end
        if not await end.until(lambda: end.messages or end.lost, timeout):
            return
        if not end.messages:
            raise self._closed_error()
        raise AssertionError(f"a message came where none was expected: {end.messages[0]!r}")

    async def ping(self, *, timeout: Timeout = ...) -> None:
        """
        Ping the server and wait for its pong. It comes after all that was sent before.

        Args:
            timeout: How long to wait, in seconds.

        Raises:
            WebsocketClosed: If the connection is closed, now or while waiting.
            TimeoutError: If no pong comes in time.
        """
        await self._check_open(timeout)
        end = self._end
        number = self._pings = self._pings + 1
        self._protocol.send_ping(number.to_bytes(4))
        end.flush()
        await self._until(lambda: end.ponged >= number or end.lost, "no pong came", timeout)
        if end.ponged < number:
            raise self._closed_error()

    async def close(self, code: int = 1000, reason: str = "", *, timeout: Timeout = ...) -> None:
        """
        Close the connection and wait for the end of the closing handshake.

        The view may go on for some time; leaving ``with`` waits for it. A second call does
        nothing but wait.

        Args:
            code: Close code (RFC 6455 section 7.4).
            reason: Close reason, at most 123 bytes in UTF-8.
            timeout: How long to wait, in seconds.

        Raises:
            ValueError: If no close frame may carry the code or reason.
            TimeoutError: If the server does not answer in time.
        """
        check_close(code, reason)
        self._close_nowait(code, reason)
        await self.wait_closed(timeout=timeout)

    async def wait_closed(self, *, timeout: Timeout = ...) -> None:
        """
        Wait until the connection is closed: by the server, unless this side has begun.

        Args:
            timeout: How long to wait, in seconds.

        Raises:
            TimeoutError: If that does not happen in time.
        """
        await self._until(lambda: self._end.lost, "the server did not close", timeout)

    def abort(self) -> None:
        """Drop the connection without a closing handshake, as when a client loses its network."""
        self._end.transport.abort()

    def pause_reading(self) -> None:
        """Read nothing more from the server, not even pings: its buffer fills up."""
        self._end.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again what the server has sent and sends."""
        self._end.transport.resume_reading()

    async def leave(self, code: int) -> BaseException | None:
        """
        Close the connection if it is open, and wait until the view has ended.

        Args:
            code: Close code (RFC 6455 section 7.4).

        Returns:
            What the test is to be told: `TimeoutError` if the view did not end in time, or
            the exception of the view; else ``None``.
        """
        end = self._end
        self.resume_reading()
        self._close_nowait(code)
        try:
            await self._until(
                lambda: self._task.done() and end.lost, "the view did not end", self._timeout
            )
        except TimeoutError as exc:
            self.abort()
            self._task.cancel()
            await end.until(self._task.done, self._timeout)
            return exc
        return self._exception_to_raise()

    @property
    def _is_open(self) -> bool:
        return self._protocol.state is OPEN and not self._end.transport.is_closing()

    def _close_nowait(self, code: int, reason: str = "") -> None:
        if self._is_open:
            self._protocol.send_close(code, reason)
            self._end.flush()

    async def _check_open(self, timeout: Timeout) -> None:
        if not self._is_open:
            await self.wait_closed(timeout=timeout)
            raise self._closed_error()

    async def _until(self, condition: Callable[[], object], what: str, timeout: Timeout) -> None:
        seconds = self._timeout if isinstance(timeout, EllipsisType) else timeout
        if not await self._end.until(condition, seconds):
            raise TimeoutError(f"{what} within {seconds} s. {self._state()}")

    def _state(self) -> str:
        reading = self._end.transport.is_reading() or self._end.transport.is_closing()
        advice = LONGER if reading else PAUSED
        if self._task.done():
            return f"The view has ended. {advice}"
        return f"{advice} The view waits here:\n{where(self._task)}"

    def _observed(
        self, view: Callable[[WebsocketConnection], Awaitable[Any]]
    ) -> Callable[[WebsocketConnection], Awaitable[Any]]:
        async def observed(ws: WebsocketConnection) -> None:
            try:
                await view(ws)
            except (Exception, BaseExceptionGroup) as exc:
                if not is_quiet(exc):
                    self._exception = exc
                raise

        return observed

    def _closed_error(self) -> BaseException:
        exception = self._exception_to_raise()
        if exception is not None:
            return exception
        assert self.close_code is not None
        error = WebsocketClosed(self.close_code, self.close_reason or "")
        error.__cause__ = self._exception or self._protocol.parser_exc
        return error

    def _exception_to_raise(self) -> BaseException | None:
        if not self._raise_exceptions or self._raised:
            return None
        self._raised = self._exception is not None
        return self._exception


def wait_for(coroutine: Coroutine[Any, Any, T]) -> T:
    """Wait in a plain test, as in a request: nothing of other applications begins for it."""
    return run_as_request(await_, coroutine)


def _waiting(
    method: Callable[Concatenate[Websocket, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[SyncWebsocket, P], T]:
    """Make a plain method of `SyncWebsocket` from a coroutine of `Websocket`."""

    @functools.wraps(method)
    def call(self: SyncWebsocket, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return wait_for(method(self.connection, *args, **kwargs))

    return call


def _on_loop(
    method: Callable[Concatenate[Websocket, P], T],
) -> Callable[Concatenate[SyncWebsocket, P], T]:
    """Make a method of `SyncWebsocket` from a plain one of `Websocket`, which the loop runs."""

    async def coroutine(ws: Websocket, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return method(ws, *args, **kwargs)

    return _waiting(functools.wraps(method)(coroutine))


class SyncWebsocket:
    """
    An open WebSocket connection for plain code: as `Websocket`, without ``await``.

    Args:
        connection: That connection, which lives on a loop in another thread.
    """

    def __init__(self, connection: Websocket) -> None:
        self.connection = connection
        self.response = connection.response
        self.subprotocol = connection.subprotocol

    def __repr__(self) -> str:
        return f"<Sync{repr(self.connection)[1:]}"

    @property
    def close_code(self) -> int | None:
        """As `Websocket.close_code`."""
        return self.connection.close_code

    @property
    def close_reason(self) -> str | None:
        """As `Websocket.close_reason`."""
        return self.connection.close_reason

    send = _waiting(Websocket.send)
    send_json = _waiting(Websocket.send_json)
    receive = _waiting(Websocket.receive)
    receive_json = _waiting(Websocket.receive_json)
    receive_nothing = _waiting(Websocket.receive_nothing)
    ping = _waiting(Websocket.ping)
    close = _waiting(Websocket.close)
    wait_closed = _waiting(Websocket.wait_closed)
    abort = _on_loop(Websocket.abort)
    pause_reading = _on_loop(Websocket.pause_reading)
    resume_reading = _on_loop(Websocket.resume_reading)
