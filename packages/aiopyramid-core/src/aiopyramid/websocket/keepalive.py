"""Pings and pongs (RFC 6455 section 5.5.2): the latency, and peers that have gone silent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class Keepalive:
    """
    Pings the peer of one connection.

    Args:
        loop: The connection's loop.
        interval: Time between pings, in seconds; 0 turns pings off.
        timeout: How long to wait for a sign of life after a ping, in seconds; 0 means no limit.
        send: Sends a ping with a payload.
        activity: Returns a value that changes with all that comes from the peer, or
            ``None`` while nothing of it is read.
        silent: Called when no sign of life has come in time.
    """

    # There may be thousands.
    __slots__ = (
        "_activity",
        "_count",
        "_interval",
        "_loop",
        "_pings",
        "_send",
        "_silent",
        "_timeout",
        "_timer",
        "latency",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        interval: float,
        timeout: float,
        send: Callable[[bytes], None],
        activity: Callable[[], int | None],
        silent: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._interval = interval
        self._timeout = timeout
        self._send = send
        self._activity = activity
        self._silent = silent
        self._timer: asyncio.TimerHandle | None = None
        self._pings: dict[bytes, tuple[float, asyncio.Future[float] | None]] = {}
        self._count = 0
        #: Round-trip time as the last pong told, in seconds; 0.0 before.
        self.latency = 0.0

    def start(self, elapsed: float = 0) -> None:
        """Ping when the interval is over, of which ``elapsed`` seconds already are."""
        if self._timer is not None:
            self._timer.cancel()
        if self._interval:
            self._timer = self._loop.call_later(max(0, self._interval - elapsed), self._ping)

    def stop(self, error: Callable[[], Exception]) -> None:
        """
        Send no more pings.

        Args:
            error: Makes what those get who wait for a pong.
        """
        self._interval = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for _, waiter in self._pings.values():
            if waiter is not None and not waiter.done():
                waiter.set_exception(error())
        self._pings.clear()

    async def ping(self) -> float:
        """Ping the peer, wait for the pong, and return the latency in seconds."""
        waiter: asyncio.Future[float] = self._loop.create_future()
        payload = self._send_ping(waiter)
        try:
            return await waiter
        finally:
            self._pings.pop(payload, None)

    def pong_received(self, payload: bytes) -> None:
        """Take a pong, which answers all earlier pings as well (RFC 6455 section 5.5.3)."""
        if payload not in self._pings:
            return  # unsolicited
        now = time.monotonic()
        for earlier in list(self._pings):
            sent, waiter = self._pings.pop(earlier)
            latency = now - sent
            if waiter is None:  # a ping of the interval's
                self.start(latency)
            elif not waiter.done():
                waiter.set_result(latency)
            if earlier == payload:
                self.latency = latency
                break

    def _send_ping(self, waiter: asyncio.Future[float] | None) -> bytes:
        self._count += 1
        payload = self._count.to_bytes(4, "big")
        # Not loop.time(): uvloop's is in whole milliseconds.
        self._pings[payload] = (time.monotonic(), waiter)
        self._send(payload)
        return payload

    def _ping(self) -> None:
        payload = self._send_ping(None)
        if self._timeout:
            self._timer = self._loop.call_later(
                self._timeout, self._check, payload, self._activity()
            )
        else:
            del self._pings[payload]
            self.start()

    def _check(self, payload: bytes, activity: int | None) -> None:
        # The pong may stand behind data that the view is slow to take.
        now = self._activity()
        if now is not None and now == activity:
            self._silent()
        else:
            del self._pings[payload]
            self.start(self._timeout)
