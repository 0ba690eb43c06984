"""Server-sent events under uWSGI: the event loop sends them, and no thread is held."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pyramid.threadlocal import get_current_request

from aiopyramid.app_iter import CoroutineAppIter
from aiopyramid.sse import EventStream

from . import options
from .connection import copy_of_connection, keep_environ, take_connection

if TYPE_CHECKING:
    import socket

    from .worker import Worker

# How long a client may read nothing of what it is sent, in seconds.
SEND_TIMEOUT = 20.0

logger = logging.getLogger("aiopyramid.uwsgi")


def prepare(environ: dict[str, Any], response: Any, worker: Worker) -> bool:
    """
    Have a response that sends events sent by the event loop, if the connection allows that.

    Returns:
        True if the response is one, and its connection is closed behind it.
    """
    body = response.app_iter
    if not (isinstance(body, CoroutineAppIter) and isinstance(body.chunks, EventStream)):
        return False
    with copy_of_connection() as connection:
        if options.obstacle(environ, connection.getsockname()):
            return False
    request = body.chunks.context.run(get_current_request)
    if request is not None:
        keep_environ(request)
    response.app_iter = TakenStream(body, worker, environ["REQUEST_URI"])
    return True


class TakenStream:
    """
    The body of such a response.

    Args:
        body: The body as the application has made it.
        worker: The worker, on whose loop it is sent.
        uri: Of the request.
    """

    def __init__(self, body: CoroutineAppIter, worker: Worker, uri: str) -> None:
        self.body = body
        self.worker = worker
        self.uri = uri
        self.taken = False

    def __iter__(self) -> Iterator[bytes]:
        if sys._getframe().f_back is not None:
            # Not called by uWSGI, but by middleware, which may make something else of the body.
            yield from self.body
            return
        # uWSGI writes the head with the first chunk, even an empty one.
        yield b""
        take_connection(self._hand_over)

    def _hand_over(self, sock: socket.socket) -> None:
        assert self.worker.home is not None
        self.worker.home.call(self._begin, sock)
        self.taken = True

    def _begin(self, sock: socket.socket) -> None:
        # The loop knows its tasks by weak references alone.
        task = self.worker.loop().create_task(self._send(sock), context=contextvars.Context())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def _send(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport = None
        leaving = None
        try:
            transport, _ = await loop.connect_accepted_socket(lambda: protocol, sock)
            writer = asyncio.StreamWriter(transport, protocol, reader, loop)
            leaving = loop.create_task(_until_left(reader, asyncio.current_task(loop)))
            async for chunk in self.body:
                if transport.is_closing():
                    raise ConnectionResetError
                writer.write(chunk)
                await _drain(writer)
            transport.close()
            _abort_later(transport)
        except BaseException as exc:
            if isinstance(exc, ConnectionError | TimeoutError | asyncio.CancelledError):
                logger.debug("The client of %s left, or does not read: %r", self.uri, exc)
            else:
                logger.exception("Error in the events of %s", self.uri)
            sock.close() if transport is None else transport.abort()
        finally:
            if leaving is not None:
                leaving.cancel()
            await self.body.aclose()

    def close(self) -> None:
        """Called by uWSGI when the response is out, or cannot go out (PEP 3333)."""
        if not self.taken:
            self.body.close()


async def _drain(writer: asyncio.StreamWriter) -> None:
    """
    Wait for a client that reads too slowly.

    Raises:
        TimeoutError: If it reads nothing.
    """
    while True:
        unread = writer.transport.get_write_buffer_size()
        try:
            async with asyncio.timeout(SEND_TIMEOUT):
                return await writer.drain()
        except TimeoutError:
            if writer.transport.get_write_buffer_size() >= unread:
                raise


def _abort_later(transport: asyncio.WriteTransport) -> None:
    """Drop a connection that is being closed, if its client does not read the rest."""
    unread = transport.get_write_buffer_size()

    def look() -> None:
        left = transport.get_write_buffer_size()
        if left >= unread:
            transport.abort()
        elif left:
            _abort_later(transport)

    if unread:
        asyncio.get_running_loop().call_later(SEND_TIMEOUT, look)


async def _until_left(reader: asyncio.StreamReader, task: asyncio.Task[Any] | None) -> None:
    with contextlib.suppress(ConnectionError):
        while await reader.read(65536):
            """A client has nothing to say here."""
    assert task is not None
    task.cancel()


tasks: set[asyncio.Task[None]] = set()
"""Those that send events now."""
