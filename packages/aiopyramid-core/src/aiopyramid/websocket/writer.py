"""Writing to the peer: bursts, and peers that read slowly or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

# The frames of one turn of the loop are joined up to this size, in bytes.
BURST_SIZE = 65536


class Writer:
    """
    Writes frames to a transport.

    Args:
        loop: The transport's loop.
        timeout: How long the peer may leave the transport's buffer full, in seconds; 0 means
            no limit.
        overdue: Called when it has done so for longer.
    """

    # There may be thousands.
    __slots__ = (
        "_in_burst",
        "_last_pong",
        "_loop",
        "_overdue",
        "_pending",
        "_pending_size",
        "_timeout",
        "_timer",
        "_transport",
        "bytes_sent",
        "resumed",
        "unyielded",
        "writable",
    )

    def __init__(
        self, loop: asyncio.AbstractEventLoop, timeout: float, overdue: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._timeout = timeout
        self._overdue = overdue
        self._timer: asyncio.TimerHandle | None = None
        self._transport: Any = None
        self._pending: list[bytes] = []
        self._pending_size = 0
        self._in_burst = False
        self._last_pong: bytes | None = None
        #: Done when the transport takes more; set while its buffer is full.
        self.writable: asyncio.Future[None] | None = None
        #: Bytes of bursts that were written since a sender last let others run.
        self.unyielded = 0
        self.bytes_sent = 0
        #: Called when the transport takes more.
        self.resumed: Callable[[], None] | None = None

    def start(self, transport: Any) -> None:
        """Write to a transport from now on."""
        self._transport = transport

    def write(self, frame: bytes) -> None:
        """
        Write a frame, unless the transport is gone.

        The first frame after :meth:`flush` is written at once. Whoever writes more is
        busy sending, so these are joined until the loop's next turn.
        """
        transport = self._transport
        if transport is None:
            return
        self.bytes_sent += len(frame)
        if not self._in_burst:
            self._in_burst = True
            transport.write(frame)
            return
        if not self._pending:
            self._loop.call_soon(self.flush)
        self._pending.append(frame)
        self._pending_size += len(frame)
        if self._pending_size >= BURST_SIZE:
            self.flush()

    def write_shared(self, frames: bytes) -> None:
        """Write frames that others get as well, behind what is joined, and begin no burst."""
        if self._pending:
            self.write(frames)
        elif self._transport is not None:
            self.bytes_sent += len(frames)
            self._transport.write(frames)

    def flush(self) -> None:
        """Hand joined frames to the transport."""
        self._in_burst = False
        if self._pending and self._transport is not None:
            data = b"".join(self._pending)
            self._pending.clear()
            self._pending_size = 0
            self.unyielded += len(data)
            self._transport.write(data)

    def write_pong(self, frame: bytes) -> None:
        """Write a pong; to a peer that does not read, only the latest (RFC 6455 section 5.5.3)."""
        if self.writable is None:
            self.write(frame)
        else:
            self._last_pong = frame

    async def drain(self) -> None:
        """Wait until the transport takes more, and at least let others run."""
        if self.writable is not None:
            await asyncio.shield(self.writable)
        else:
            self.unyielded = 0
            await asyncio.sleep(0)

    def pause(self) -> None:
        """The transport's buffer is full."""
        self.writable = self._loop.create_future()
        if self._timeout:
            self._timer = self._loop.call_later(self._timeout, self._overdue)

    def resume(self) -> None:
        """The transport takes more."""
        self._release()
        if self._last_pong is not None:
            pong, self._last_pong = self._last_pong, None
            self.write(pong)
        if self.resumed is not None:
            self.resumed()

    def finish(self) -> bool:
        """
        Write what is pending, and nothing after it.

        Returns:
            True if the peer can still send; False if the transport closes.
        """
        self.flush()
        transport, self._transport = self._transport, None
        if transport.can_write_eof():
            transport.write_eof()
            return True
        transport.close()
        return False

    def stop(self) -> None:
        """The transport is gone: forget what is pending, and let senders go on."""
        self._transport = None
        self._pending.clear()
        self._release()

    def _release(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.writable is not None:
            if not self.writable.done():
                self.writable.set_result(None)
            self.writable = None
