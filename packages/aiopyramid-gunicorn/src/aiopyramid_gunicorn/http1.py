"""
A connection that speaks HTTP/1: one request after the other, and at last perhaps a WebSocket.

What the client sends waits in `HTTP1Connection.buffer` until the head of a request is whole;
then an :class:`~aiopyramid_gunicorn.exchange.Exchange` answers it. What comes meanwhile is the
request's body or the next request: it waits as well, and beyond a limit the client has to.

A connection is *waiting* for a request, *busy* with one, *lingering* (it reads until the client
has seen the end), or *closed*. HTTP/2 takes over where it begins: gunicorn speaks it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

from aiopyramid.exceptions import ClientDisconnected

from . import compat
from .exchange import Exchange
from .message import TLSSocket
from .protocol import HTTPProtocol
from .response import Output
from .upgrade import become_websocket

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

    from .deadlines import Deadlines
    from .worker import LoopWorker

# How much may wait for a request to end or to read its body, in bytes.
READ_AHEAD = 256 * 1024

# From what size on pieces are written without being joined, in bytes.
NO_COPY = 65536

# How much is read and dropped of what comes behind the last request, in bytes.
LINGER_BYTES = 65536


class Released(NamedTuple):
    """A transport that a connection has handed over, with its state."""

    transport: asyncio.Transport
    received: bytes  # behind the last request
    half_closed: bool  # the client sends nothing more
    paused: bool  # the transport takes nothing more for now


class HTTP1Connection(asyncio.Protocol):
    """
    A connection to a client.

    Args:
        worker: The worker that has accepted it.
        sock: Its socket.
        peer: The client's address.
        server: The address of the listener.
    """

    transport: asyncio.Transport

    def __init__(self, worker: LoopWorker, sock: socket.socket, peer: Any, server: Any) -> None:
        self.worker = worker
        self.sock = sock
        self.peer = peer
        self.server = server
        self.socket_of_environ: Any = sock
        self.environ: WSGIEnvironment | None = None
        self.proxy_protocol_info: Any = None
        self.exchange: Exchange | None = None
        self.number = 0  # of requests
        self.buffer = b""
        self.parsed = 0  # how much of the buffer is known not to be a whole head
        self.waits: Deadlines[HTTP1Connection] | None = None
        self.made = False
        self.closed = False
        self.lingering = False
        self.lingered = 0
        self.half_closed = False
        self.left = False
        self.reading_paused = False
        self.writing_paused = False
        self.is_tls = False
        self._sniffs = False
        self._unread = 0  # how much was written and not read, when it was last looked at
        self._reader: asyncio.Future[Any] | None = None  # what waits for the client to send
        self._drained: list[asyncio.Future[None]] = []  # and for it to read
        self._grace: asyncio.TimerHandle | None = None

    # The connection.

    def connection_made(self, transport: Any) -> None:
        self.made = True
        self.transport = transport
        worker = self.worker
        ssl_object = transport.get_extra_info("ssl_object")
        if ssl_object is not None:
            self.is_tls = True
            self.socket_of_environ = TLSSocket(self.sock, ssl_object)
            if ssl_object.selected_alpn_protocol() == "h2":
                self._hand_over(HTTPProtocol(worker))
                return
        self._sniffs = worker.may_begin_with_h2c and (
            compat.negotiation.prior_knowledge_allowed(worker.cfg, self.peer)
        )
        worker.connections.add(self)
        self._wait(worker.heads)

    def data_received(self, data: bytes) -> None:
        if self.lingering:
            self.lingered += len(data)
            if self.lingered > LINGER_BYTES:
                self._close_transport()
            return
        self.buffer = self.buffer + data if self.buffer else data
        if self.exchange is None:
            self.next_request()
        else:
            self.reader_reads()
        self._pace_reading()

    def eof_received(self) -> bool:
        """
        Called when the client has closed its side of the connection.

        The client may still read (RFC 9112 section 9.6). So its requests go on for
        ``asgi_disconnect_grace_period``, and their answers are sent.
        """
        self.half_closed = True
        if self.exchange is None or self.lingering or self.is_tls:
            return False  # the transport closes
        self.reader_reads()
        self._leave_later()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        for drained in self._drained:
            _wake(drained)
        self.reader_reads()
        if self.exchange is not None:
            if exc is not None:
                self._leave()  # a reset: nobody is there to read an answer
            elif self._grace is None:
                self._leave_later()

    def pause_writing(self) -> None:
        self.writing_paused = True
        self._unread = self.transport.get_write_buffer_size()
        self.worker.unread.add(self)

    def resume_writing(self) -> None:
        self.writing_paused = False
        self.worker.unread.discard(self)
        for drained in self._drained:
            _wake(drained)
        self._drained.clear()
        if self.exchange is None and not self.lingering:
            self._go_on()

    def has_left(self) -> bool:
        """Return True if the client has left."""
        return self.closed or self.left

    def _leave_later(self) -> None:
        assert self.exchange is not None
        grace = 0 if self.exchange.ends_with_client else self.worker.disconnect_grace
        self._grace = self.worker.loop.call_later(grace, self._leave)

    def _leave(self) -> None:
        self.left = True
        self._grace = None
        if self.exchange is not None:
            self.exchange.interrupt()

    def _forget(self) -> None:
        """Take leave of the worker."""
        if not self.closed:
            self.closed = True
            self._wait(None)
            self.worker.unread.discard(self)
            self.worker.connections.discard(self)
            self.worker.connection_ended()

    def _wait(self, deadlines: Deadlines[HTTP1Connection] | None) -> None:
        """Wait for something else from now on."""
        if self.waits is not deadlines:
            if self.waits is not None:
                self.waits.discard(self)
            self.waits = deadlines
            if deadlines is not None:
                deadlines.add(self)

    # Requests.

    def next_request(self) -> None:
        """Answer the next request, if its head has come."""
        if not self.buffer or self.writing_paused or self.lingering or self.closed:
            return
        if self._sniffs and not self._is_http1():
            return
        number = self.number + 1
        try:
            head = self.worker.heads_reader.read(self.buffer, self.parsed, self.peer, number)
        except Exception as exc:
            self._refuse(exc)
            return
        if head is None:
            self.parsed = len(self.buffer)
            if self.half_closed:
                self.close()
            else:
                self._wait(self.worker.heads)
            return
        request, rest = head
        if self.worker.may_upgrade_to_h2c and self._becomes_http2(request):
            return
        self._wait(None)
        self.number = number
        self.parsed = 0
        if number == 1:
            self.environ = self.worker.environs.of_connection(
                self.peer, self.server, self.socket_of_environ
            )
            self.proxy_protocol_info = request.proxy_protocol_info
        elif self.proxy_protocol_info is not None:
            request.proxy_protocol_info = self.proxy_protocol_info
        self.buffer = rest
        self.exchange = Exchange(self, request)
        self.worker.exchange_begins(self.exchange)

    def finished(self, exchange: Exchange) -> None:
        """Called when an exchange is over: send the rest of it, and go on."""
        self.exchange = None
        worker = self.worker
        worker.exchange_ends(exchange)
        pieces = exchange.output.take()
        upgrade, unreader = exchange.upgrade, exchange.request.unreader
        if unreader.more is not None:
            unreader.more = None  # the application may keep the body
            self.buffer = unreader.take_buffered() + self.buffer
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None
        if self.closed:
            if upgrade is not None:
                upgrade.forget()
            return
        if pieces:
            self.write(pieces)
        if upgrade is not None:
            session = upgrade.session
            if session is not None and exchange.switches():
                upgrade.session = None
                # The view keeps the request, which need not keep all of this.
                exchange.environ.pop("wsgi.early_hints", None)
                become_websocket(self, session)
                return
            upgrade.forget()
        if exchange.broken:
            self._break_off(exchange)
        elif not exchange.keep or (self.half_closed and not self.buffer):
            self.close()
        else:
            self._go_on()

    def _go_on(self) -> None:
        """Answer the next request, or wait for one once the client has the last answer."""
        self.next_request()
        self._pace_reading()
        busy = self.exchange is not None or self.writing_paused or self.closed
        if self.waits is None and not busy:
            self._wait(self.worker.kept)

    def _pace_reading(self) -> None:
        """Read on, unless enough waits for a request to end or for the client to read."""
        busy = self.exchange is not None or self.writing_paused
        pause = busy and len(self.buffer) >= READ_AHEAD
        if pause is not self.reading_paused and not self.closed:
            self.reading_paused = pause
            if pause:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    def may_be_kept(self) -> bool:
        """Return True if the connection may be kept for another request."""
        worker = self.worker
        return worker.alive and worker.kept.seconds > 0 and len(worker.kept) < worker.max_kept

    def write(self, pieces: list[bytes]) -> None:
        """Send something."""
        if self.closed or self.transport.is_closing():
            return
        if len(pieces) == 1:
            self.transport.write(pieces[0])
        elif sum(map(len, pieces)) < NO_COPY:
            self.transport.write(b"".join(pieces))
        else:
            self.transport.writelines(pieces)

    # For exchanges, on the loop.

    async def more(self, timeout: float) -> bytes:
        """
        Wait until the client has sent more.

        Args:
            timeout: For how long, in seconds; with 0, for ever.

        Raises:
            ClientDisconnected: If nothing more comes.
        """
        while not self.buffer:
            if self.half_closed or self.closed:
                raise ClientDisconnected("the client did not send the whole request body")
            self._reader = self.worker.loop.create_future()
            try:
                async with asyncio.timeout(timeout or None):
                    await self._reader
            except TimeoutError:
                raise ClientDisconnected(f"the client sent nothing for {timeout} s") from None
            finally:
                self._reader = None
        data, self.buffer = self.buffer, b""
        if self.reading_paused:
            self.reading_paused = False
            self.transport.resume_reading()
        return data

    def reader_reads(self) -> None:
        """Wake what waits for the client to send something."""
        if self._reader is not None:
            _wake(self._reader)

    async def drain(self) -> None:
        """
        Wait until the client has read enough for more to be written.

        Raises:
            ClientDisconnected: If it has left.
        """
        while self.writing_paused and not self.closed:
            drained = self.worker.loop.create_future()
            self._drained.append(drained)
            await drained
        if self.closed:
            raise ClientDisconnected("the client has left")

    async def until_closed(self, future: asyncio.Future[None]) -> None:
        """
        Wait for something that the client does.

        Raises:
            ClientDisconnected: If it leaves, or does not do it in time.
        """
        if self.closed:
            raise ClientDisconnected("the client has left")
        self._drained.append(future)
        timeout = self.worker.heads.seconds or None
        try:
            async with asyncio.timeout(timeout):
                await future
        except TimeoutError:
            raise ClientDisconnected(f"the client read nothing for {timeout} s") from None
        finally:
            if future in self._drained:
                self._drained.remove(future)
        if self.closed:
            raise ClientDisconnected("the client has left")

    async def duplicate_drained(self) -> int:
        """
        Duplicate the socket's file descriptor, once the system has all that was written.

        Raises:
            ClientDisconnected: If the client has left.
        """
        self.transport.set_write_buffer_limits(0)
        try:
            await self.drain()
        finally:
            self.transport.set_write_buffer_limits()
        return os.dup(self.sock.fileno())

    # The end.

    def overdue(self) -> None:
        """Called when the client has taken too long for a request's head."""
        self.waits = None
        output = Output(self)
        compat.write_error(output, 408, "Request Timeout", "The request did not come in time.")
        self.write(output.take())
        self.close()

    def close(self) -> None:
        """Close the connection, once the client has what was written (RFC 9112 section 9.6)."""
        if self.closed or self.lingering:
            return
        self.buffer = b""
        if self.half_closed or self.is_tls or self.transport.is_closing():
            self._close_transport()
            return
        self.lingering = True
        if self.reading_paused:
            self.reading_paused = False
            self.transport.resume_reading()
        try:
            self.transport.write_eof()
        except OSError:  # the client has reset the connection just now
            self._close_transport()
        else:
            self._wait(self.worker.lingering)

    def abort(self) -> None:
        """Close the connection at once."""
        if not self.closed:
            self.transport.abort()

    def close_if_idle(self) -> None:
        """Close the connection if it waits for a request."""
        if self.exchange is None and not self.lingering:
            self._close_transport()

    def _refuse(self, exc: Exception) -> None:
        """Answer a bad request, as gunicorn does, and close the connection."""
        output = Output(self)
        self.worker.handle_error(None, output, self.peer, exc)
        self.write(output.take())
        self.close()

    def read_nothing(self) -> None:
        """Called when the client may have read nothing for some time."""
        size = self.transport.get_write_buffer_size()
        if size >= self._unread:
            self.abort()
        else:
            self._unread = size
            self.worker.unread.add(self)

    def lingered_enough(self) -> None:
        """Called when the client has had time to see the end."""
        self.waits = None
        self._close_transport()

    def _close_transport(self) -> None:
        """Close the transport, when the client has read what is written, if it reads."""
        self._wait(None)
        self._unread = self.transport.get_write_buffer_size()
        if self._unread and self not in self.worker.unread:
            self.worker.unread.add(self)
        self.transport.close()

    def _break_off(self, exchange: Exchange) -> None:
        response = exchange.response
        ends_with_connection = (
            response is not None
            and response.headers_sent
            and response.response_length is None
            and not response.chunked
            and not response._omits_body
        )
        if ends_with_connection and not self.is_tls:
            # Without a length, the end of the connection looks like the end of the body.
            with contextlib.suppress(OSError):
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()
        else:
            self.close()

    # Other protocols.

    def _is_http1(self) -> bool:
        """Look at the first bytes of a client that may speak HTTP/2; False if it may."""
        state = compat.negotiation.preface_match(self.buffer)
        if state is compat.negotiation.MISMATCH and not compat.negotiation.mismatch_is_error(
            self.worker.cfg
        ):
            self._sniffs = False
            return True
        if state is not compat.negotiation.PARTIAL:
            self._hand_over(HTTPProtocol(self.worker))
        return False

    def _becomes_http2(self, request: Any) -> bool:
        """Let gunicorn have a connection that asks for HTTP/2 by an upgrade."""
        if compat.negotiation.upgrade_allowed(self.worker.cfg, self.peer) and (
            compat.negotiation.upgrade_settings(request) is not None
        ):
            self._hand_over(HTTPProtocol(self.worker))
            return True
        return False

    def _hand_over(self, protocol: HTTPProtocol) -> None:
        received = self.buffer
        self._forget()
        self.transport.set_protocol(protocol)
        protocol.connection_made(self.transport)
        if received:
            protocol.data_received(received)

    def release(self) -> Released:
        """
        Give the transport up, with its state and with what the client has sent behind its request.

        To gunicorn, the connection ends here: ``worker_connections`` does not count it.
        """
        received, self.buffer = self.buffer, b""
        if self.reading_paused:
            self.transport.resume_reading()
        self._forget()
        return Released(self.transport, received, self.half_closed, self.writing_paused)


def _wake(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_result(None)
