"""The response of an HTTP/1 request: gunicorn's own, written to an event loop."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Any

from aiopyramid.app_iter import run
from aiopyramid.bridge import await_, in_worker_thread
from aiopyramid.exceptions import ClientDisconnected

from . import compat

if TYPE_CHECKING:
    from .http1 import HTTP1Connection

# How much a request may write before it looks whether the client reads, in bytes.
AHEAD = 65536

# How much of a file the kernel is asked to send at a time, in bytes.
FILE_BLOCK = 1024 * 1024


class Output:
    """
    What a response is written to: it has the methods of a socket that gunicorn uses for that.

    What is written waits here until `flush`, so that a short response is a single write.

    Args:
        connection: The connection to the client.
    """

    __slots__ = ("ahead", "connection", "flushed", "pieces", "unsent")

    def __init__(self, connection: HTTP1Connection) -> None:
        self.connection = connection
        self.pieces: list[bytes] = []
        self.flushed = False  # some of the response
        self.unsent: int | None = None  # of a file, in bytes
        self.ahead = 0  # written since the loop was last waited for

    def sendall(self, data: bytes) -> None:
        """Write data."""
        self.pieces.append(data)

    send = sendall

    def gettimeout(self) -> float:
        """Return 0.0: this does not block."""
        return 0.0

    def take(self) -> list[bytes]:
        """Return what waits here."""
        pieces, self.pieces = self.pieces, []
        return pieces

    async def send_from_loop(self) -> None:
        """
        Send what waits here, and wait if the client does not read as fast.

        Raises:
            ClientDisconnected: If the client has left.
        """
        self.flushed = True
        self.connection.write(self.take())
        await self.connection.drain()

    # In the request's thread or greenlet.

    def flush(self) -> None:
        """
        Send what waits here, and wait if the client does not read as fast.

        Raises:
            ClientDisconnected: If the client has left.
        """
        connection = self.connection
        if self.pieces:
            pieces = self.take()
            self.flushed = True
            self.ahead += sum(map(len, pieces))
            if in_worker_thread():
                connection.worker.home.call(connection.write, pieces)
            else:
                connection.write(pieces)
                await_(asyncio.sleep(0))  # or a fast client would have the loop for itself
        if connection.closed:
            raise ClientDisconnected("the client has left")
        if self.ahead > AHEAD or connection.writing_paused:
            self.ahead = 0
            await_(connection.drain())

    def send_interim(self, data: bytes) -> None:
        """Send a response before the response (1xx) at once, which may still become any other."""
        self.sendall(data)
        self.flush()
        self.flushed = False

    def sendfile(self, file: Any, offset: int, count: int) -> None:
        """
        Send a file, without copying it through this process.

        Args:
            file: The file.
            offset: Where in it to begin, in bytes.
            count: How much of it to send, in bytes.
        """
        self.flush()
        # Of its own: the connection's may be closed at any time.
        sock = await_(self.connection.duplicate_drained())
        try:
            while count > 0:
                try:
                    # Reading may wait for the disk, so it is a thread's work.
                    sent = run(os.sendfile, sock, file.fileno(), offset, min(count, FILE_BLOCK))
                except BlockingIOError:
                    await_(self._writable(sock))
                except (ConnectionError, TimeoutError) as exc:
                    raise ClientDisconnected("the client has left") from exc
                else:
                    if not sent:
                        break  # the file is shorter than it was
                    offset += sent
                    count -= sent
        finally:
            os.close(sock)
        self.unsent = count

    async def _writable(self, sock: int) -> None:
        loop = self.connection.worker.loop
        writable: asyncio.Future[None] = loop.create_future()
        loop.add_writer(sock, _set_result, writable)
        try:
            await self.connection.until_closed(writable)
        finally:
            loop.remove_writer(sock)


class Interim:
    """
    What gunicorn writes responses before the response to.

    Args:
        output: Where they go.
    """

    __slots__ = ("output",)

    def __init__(self, output: Output) -> None:
        self.output = output

    def sendall(self, data: bytes) -> None:
        """Send a whole one, at once."""
        self.output.send_interim(data)


def _set_result(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Response(compat.Response):  # type: ignore[misc]
    """gunicorn's response to a request."""

    #: Whether the connection is closed behind this response; known when its headers are sent.
    closes = True
    headers_sent: bool
    status_code: int | None = None  # until start_response

    def process_headers(self, headers: list[tuple[str, str]]) -> None:
        """Take the application's headers; what is beyond doubt faster than gunicorn does."""
        taken = self.headers
        for name, value in headers:
            if name.__class__ is str and value.__class__ is str:
                if name in _PLAIN and compat.HEADER_VALUE.fullmatch(value):
                    taken.append((name, value.strip(" \t")))
                    continue
                if name == "Content-Length" and value.isascii() and value.isdecimal():
                    self.response_length = int(value)
                    taken.append((name, value))
                    continue
            super().process_headers([(name, value)])
            if (
                len(_PLAIN) < MAX_PLAIN
                and name.lower() != "content-length"
                and not compat.is_hoppish(name)
            ):
                _PLAIN.add(name)

    def is_chunked(self) -> bool:
        """Return True if the body is sent in chunks; without a look at the settings for most."""
        return self.response_length is None and super().is_chunked()

    def send_headers(self) -> None:
        """Send status line and headers, once."""
        if self.headers_sent:
            return
        if self.status is None:
            raise AssertionError("the application sent a body before start_response")
        self.closes = self.should_close()
        connection = "upgrade" if self.upgrade else "close" if self.closes else "keep-alive"
        version = self.req.version
        lines = [
            f"HTTP/{version[0]}.{version[1]} {self.status}\r\nServer: {self.version}\r\n"
            f"Date: {date()}\r\nConnection: {connection}\r\n"
        ]
        if self.chunked:
            lines.append("Transfer-Encoding: chunked\r\n")
        lines += [f"{name}: {value}\r\n" for name, value in self.headers]
        lines.append("\r\n")
        self.sock.sendall("".join(lines).encode("latin-1"))
        self.headers_sent = True

    def is_short(self) -> bool:
        """Return True if less was sent than the headers promised."""
        if self.sock.unsent is not None:
            return bool(self.sock.unsent)
        return (
            self.response_length is not None
            and self.sent < self.response_length
            and not self._omits_body
        )


# Names of headers that gunicorn has found to be good and to have no meaning for it.
_PLAIN: set[str] = set()
MAX_PLAIN = 500

_date = (0, "")


def date() -> str:
    """Return the value of a ``Date`` header, made once a second."""
    global _date
    second = int(time.time())
    if _date[0] != second:
        _date = (second, compat.http_date())
    return _date[1]
