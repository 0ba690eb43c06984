"""The WebSocket sessions of this process: admits them, counts them and ends them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Hashable
from typing import TYPE_CHECKING

from websockets.frames import CloseCode

from ..homes import home_here

if TYPE_CHECKING:
    from .session import Session


class Sessions:
    """
    All sessions of a process.

    A session is *accepted* when the response to its handshake has been made, and *open* when
    that response has been sent. Requests may run in threads, so a lock guards the accepted
    sessions.

    Attributes:
        open: The sessions whose views run. Changed on the loop only.
        ending: The close code for sessions that open while the process ends.
        draining: Whether no more sessions are admitted.
    """

    def __init__(self) -> None:
        self.open: set[Session] = set()
        self.ending: int | None = None
        self.draining = False
        self._accepted: set[Session] = set()
        self._counts: Counter[Hashable] = Counter()
        self._lock = threading.Lock()
        self._settled: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def has_room(self, limit: int) -> bool:
        """Return True if there are fewer than ``limit`` sessions, and they are not drained."""
        return not self.draining and len(self.open) + len(self._accepted) < limit

    def admit(self, session: Session, limit: int) -> bool:
        """
        Count a session from now on, unless there are too many already.

        The caller must call `opened` or `forget` for it by the time its request has ended.

        Args:
            session: The session, with its quotas.
            limit: The number of sessions that this process may have.

        Returns:
            True if the session is admitted.
        """
        with self._lock:
            admitted = self.has_room(limit) and not self.used_up(session)
            if admitted:
                self._accepted.add(session)
                self._counts.update(session.quotas.keys())
            return admitted

    def used_up(self, session: Session) -> list[Hashable]:
        """Return those of a session's quotas that other sessions have used up."""
        return [name for name, limit in session.quotas.items() if self._counts[name] >= limit]

    def forget(self, session: Session) -> None:
        """Stop counting a session that was not opened. May be called in any thread."""
        with self._lock:
            if session in self._accepted:
                self._accepted.remove(session)
                if session not in self.open:
                    self._give_back(session)
            if not self._accepted and self._settled is not None and self._loop is not None:
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    self._loop.call_soon_threadsafe(self._settled.set)

    def opened(self, session: Session) -> None:
        """Count a session as open: its view begins."""
        self.open.add(session)  # before `forget`, so that it is counted all the time
        self.forget(session)

    def ended(self, session: Session) -> None:
        """Stop counting a session whose view has ended."""
        with self._lock:
            self.open.discard(session)
            self._give_back(session)

    def _give_back(self, session: Session) -> None:
        self._counts.subtract(session.quotas.keys())
        for name in session.quotas:
            if not self._counts[name]:
                del self._counts[name]

    async def drain(self, over: float) -> None:
        """
        Admit no more sessions, and close those that are open one after the other.

        Args:
            over: How long that takes, in seconds.
        """
        self.draining = True
        loop = asyncio.get_running_loop()
        sessions = tuple(self.open)
        begin = loop.time()
        for number, session in enumerate(sessions):
            if session in self.open:
                session.close(CloseCode.SERVICE_RESTART)
            pause = begin + over * (number + 1) / len(sessions) - loop.time()
            if pause > 0:
                await asyncio.sleep(pause)

    async def end(self, code: int, timeout: float) -> None:
        """
        Close every connection and wait for the views.

        Views that have not ended after three quarters of the time are cancelled;
        the last quarter is for what they do then.

        Args:
            code: Close code: 1001 where the server stops, 1012 where it restarts.
            timeout: Time for all of it, in seconds.
        """
        self.ending = code
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout * 0.75):
                while self.open or self._accepted:
                    tasks = [session.close(code) for session in tuple(self.open)]
                    if tasks:
                        await asyncio.wait(tasks)
                    else:
                        # Accepted sessions close as soon as they open.
                        await self._until_settled()
        late = [session.cancel() for session in tuple(self.open)]
        if late:
            # A thread may block: the view goes on without it, to its end.
            home_here().give_up()
            await asyncio.wait(late, timeout=timeout * 0.25)

    async def _until_settled(self) -> None:
        """Wait until all accepted sessions are open or forgotten."""
        with self._lock:
            if not self._accepted:
                return
            self._loop = asyncio.get_running_loop()
            self._settled = asyncio.Event()
        try:
            await self._settled.wait()
        finally:
            self._settled = None


sessions = Sessions()
"""The sessions of this process."""
