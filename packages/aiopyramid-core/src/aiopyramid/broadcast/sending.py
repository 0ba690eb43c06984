"""What this worker publishes, on its way to the broker: in order, and bounded."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Generator
from typing import NamedTuple

from .. import bridge
from .backends import Backend, Outgoing
from .exceptions import BroadcastError, BrokerUnavailable
from .members import Counters
from .settings import BroadcastSettings

logger = logging.getLogger("aiopyramid.broadcast")

# What the broker is given at a time: messages, and their bytes.
MAX_BATCH = 256
MAX_BATCH_SIZE = 2**20

# How long to wait before trying a broker that is gone again, in seconds: first, and at most.
FIRST_DELAY = 0.05
MAX_DELAY = 1.0


class Publication:
    """
    A message that was published. Nobody needs to wait for it.

    ``await publication`` on the loop, or ``publication.wait()`` in plain code, waits until the
    broker has the message, and raises `BroadcastError` if it did not get there.
    """

    __slots__ = ("_error", "_waiters", "done")

    def __init__(self) -> None:
        self.done = False
        self._error: BaseException | None = None
        self._waiters: list[asyncio.Future[None]] = []

    def finish(self, error: BaseException | None) -> None:
        """Let those who wait go on. On the loop."""
        self.done, self._error = True, error
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def __await__(self) -> Generator[None, None, None]:
        return self._until_done().__await__()

    def wait(self) -> None:
        """
        Wait in plain code.

        Raises:
            BroadcastError: If the message did not reach the broker, or may not have.
            ScopeError: On the event loop: await it there.
        """
        bridge.await_(self._until_done())

    async def _until_done(self) -> None:
        if not self.done:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
        if self._error is not None:
            raise BroadcastError(str(self._error)) from self._error


class Item(NamedTuple):
    """What waits for the broker, and until when, by the loop's clock."""

    outgoing: Outgoing
    size: int
    publication: Publication
    until: float


class Sender:
    """
    Gives messages to a backend, in the order in which they come.

    A broker that is gone is tried again, and gets what waits for it when it is back. What has
    waited for too long has failed. What may have been published is not published again.

    Args:
        backend: The backend, started.
        settings: The bounds.
        counters: Where to count.
    """

    def __init__(self, backend: Backend, settings: BroadcastSettings, counters: Counters) -> None:
        self._backend = backend
        self._settings = settings
        self._counters = counters
        self._items: deque[Item] = deque()
        self._size = 0
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._failing = False
        self._task = self._loop.create_task(self._run(), name="aiopyramid broadcast sender")

    def add(self, outgoing: Outgoing, publication: Publication) -> None:
        """
        Send a message when its turn comes.

        Args:
            outgoing: The message.
            publication: What those who wait for it hold.
        """
        settings, size = self._settings, len(outgoing.data)
        size_left = settings.max_outgoing_size - self._size
        if len(self._items) >= settings.max_outgoing or size > size_left:
            self._finish(publication, BroadcastError("too many messages wait for the broker"))
            return
        until = self._loop.time() + settings.timeout
        self._items.append(Item(outgoing, size, publication, until))
        self._size += size
        self._changed.set()
        self._idle.clear()

    async def stop(self) -> None:
        """Send what waits, if the broker takes it in time; what is left has failed."""
        idle = self._loop.create_task(self._idle.wait())
        try:
            # The task has ended if everything on this loop was cancelled.
            both, timeout = (idle, self._task), self._settings.timeout
            await asyncio.wait(both, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if self._items:
                text = "%d messages did not reach the broker before the end"
                logger.error(text, len(self._items))
        finally:
            idle.cancel()
            self._task.cancel()
            await asyncio.wait([idle, self._task])
            while self._items:
                self._finish(self._items.popleft().publication, BroadcastError("the worker ends"))

    async def _run(self) -> None:
        delay = FIRST_DELAY
        while True:
            await self._changed.wait()
            batch, size = self._batch()
            try:
                results = await self._backend.publish([item.outgoing for item in batch])
            except BrokerUnavailable as exc:
                await self._wait(delay, exc)
                delay = min(2 * delay, MAX_DELAY)
                continue
            except Exception as exc:
                results = [exc] * len(batch)
            delay = FIRST_DELAY
            for _ in batch:
                self._items.popleft()
            self._size -= size
            for item, error in zip(batch, results, strict=True):
                self._finish(item.publication, error)
            self._settle()

    def _batch(self) -> tuple[list[Item], int]:
        batch: list[Item] = []
        size = 0
        for item in self._items:
            if batch and (len(batch) == MAX_BATCH or size + item.size > MAX_BATCH_SIZE):
                break
            batch.append(item)
            size += item.size
        return batch, size

    async def _wait(self, delay: float, exc: BrokerUnavailable) -> None:
        """Wait for a broker that is gone; give up on what has waited too long."""
        now = self._loop.time()
        while self._items and self._items[0].until <= now:
            item = self._items.popleft()
            self._size -= item.size
            self._finish(item.publication, exc)
        self._settle()
        if self._items:
            pause = delay * random.uniform(0.5, 1)  # noqa: S311 - no secret
            await asyncio.sleep(min(pause, max(self._items[0].until - now, 0.001)))

    def _settle(self) -> None:
        if not self._items:
            self._changed.clear()
            self._idle.set()

    def _finish(self, publication: Publication, error: BaseException | None) -> None:
        if error is not None:
            self._counters.failed += 1
        if (error is not None) is not self._failing:
            self._failing = error is not None
            if error is not None:
                logger.error("messages do not reach the broker: %s", error)
            else:
                logger.warning("messages reach the broker again")
        publication.finish(error)
