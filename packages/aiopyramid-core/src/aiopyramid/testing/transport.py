"""
Connections in memory, between two protocols on one event loop.

What is written on one end arrives at the other in a later turn of the loop, in pieces, and
only while that end reads. Until then it counts as written and not sent, so a protocol whose
peer does not read is told to pause, as by a socket whose buffers are full.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable

# What arrives in one turn of the loop, in bytes.
READ_SIZE = 65536

HIGH = 65536
LOW_SHARE = 4  # the low limit is this part of the high one, as with asyncio's own transports


class MemoryTransport(asyncio.Transport):
    """One end of a connection; :func:`pair` makes both."""

    peer: MemoryTransport

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._loop = loop
        # Not that of whoever happens to write.
        self._context = contextvars.copy_context()
        self._protocol: asyncio.Protocol
        self._buffer = bytearray()  # written, and not taken by the peer
        self._eof = False  # written after it
        self._eof_taken = False
        self._reading = True
        self._closing = False
        self._lost = False
        self._paused = False  # the protocol, in its writing
        self._scheduled = False
        self.set_write_buffer_limits()

    # What asyncio's transports do.

    def get_protocol(self) -> asyncio.Protocol:
        """Return the protocol of this end."""
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """
        Set the protocol of this end.

        Args:
            protocol: As with all transports, its ``connection_made`` is the caller's to call.
        """
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol

    def is_closing(self) -> bool:
        """Return True if this end is closed, or will be when all is sent."""
        return self._closing

    def is_reading(self) -> bool:
        """Return True if this end takes what the peer writes."""
        return self._reading and not self._closing

    def pause_reading(self) -> None:
        """Leave what the peer writes with the peer."""
        self._reading = False

    def resume_reading(self) -> None:
        """Take what the peer has written and writes."""
        self._reading = True
        self.peer._deliver_soon()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """
        Set when the protocol is told to pause, and to resume, its writing.

        Args:
            high: It pauses when more bytes than these are not sent.
            low: It resumes when no more bytes than these are left.

        Raises:
            ValueError: If ``low`` is higher than ``high``, or negative.
        """
        if high is None:
            high = HIGH if low is None else LOW_SHARE * low
        if low is None:
            low = high // LOW_SHARE
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self._high, self._low = high, low
        self._pause_or_resume()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return the low and the high limit, in bytes."""
        return self._low, self._high

    def get_write_buffer_size(self) -> int:
        """Return how many bytes are written and not sent."""
        return len(self._buffer)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """
        Write bytes; nothing happens if the connection is closed.

        Raises:
            RuntimeError: After `write_eof`.
        """
        if self._closing:
            return
        if self._eof:
            raise RuntimeError("cannot write after write_eof()")
        self._buffer += data
        self._deliver_soon()
        self._pause_or_resume()

    def can_write_eof(self) -> bool:
        """Return True: one direction can end before the other."""
        return True

    def write_eof(self) -> None:
        """End this direction, after what is written."""
        self._eof = True
        self._deliver_soon()

    def close(self) -> None:
        """Close the connection when all is sent; take nothing more from the peer."""
        if not self._closing:
            self._closing = True
            self.write_eof()
            self.peer._deliver_soon()
            if not self._buffer:
                self._lose(None)

    def abort(self) -> None:
        """Drop the connection, and what is not sent. The peer is told even if it does not read."""
        if not self._lost:
            self._lose(None)
            self.peer._lose(ConnectionResetError("the peer has dropped the connection"))

    # From end to end.

    def _deliver_soon(self) -> None:
        if self._scheduled or not (self._buffer or (self._eof and not self._eof_taken)):
            return
        if self.peer._reading or self.peer._closing:
            self._scheduled = True
            self._call_soon(self._deliver)

    def _deliver(self) -> None:
        self._scheduled = False
        peer = self.peer
        if peer._closing:
            self._deliver_to_nobody()
        elif not peer._reading:
            return
        elif self._buffer:
            data = bytes(self._buffer[:READ_SIZE])
            del self._buffer[:READ_SIZE]
            peer._protocol.data_received(data)
        elif self._eof:
            self._eof_taken = True
            if not peer._protocol.eof_received():
                peer.close()
        self._pause_or_resume()
        if self._closing and not self._buffer:
            self._lose(None)
        self._deliver_soon()

    def _deliver_to_nobody(self) -> None:
        if self._buffer and self.peer._lost:
            self._lose(ConnectionResetError("the peer has closed the connection"))
        self._buffer.clear()
        self._eof_taken = self._eof

    def _pause_or_resume(self) -> None:
        if self._lost:
            return
        size = len(self._buffer)
        if not self._paused and size > self._high:
            self._paused = True
            self._protocol.pause_writing()
        elif self._paused and size <= self._low:
            self._paused = False
            self._protocol.resume_writing()

    def _lose(self, reason: Exception | None) -> None:
        if not self._lost:
            self._lost = self._closing = True
            self._buffer.clear()
            self._call_soon(self._protocol.connection_lost, reason)

    def _call_soon(self, function: Callable[..., object], *args: object) -> None:
        self._loop.call_soon(function, *args, context=self._context)


def pair() -> tuple[MemoryTransport, MemoryTransport]:
    """
    Make a connection on the running loop.

    Returns:
        Its two ends. Give each a protocol, and call that one's ``connection_made``.
    """
    loop = asyncio.get_running_loop()
    one, other = MemoryTransport(loop), MemoryTransport(loop)
    one.peer, other.peer = other, one
    return one, other
