"""Tells how long a server's loop was held, from inside the server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator

TICK = 0.001  # seconds
QUESTION = "?"
"""What a publisher sends to learn of the ticks, in place of a message."""


class Ticker:
    """
    A timer, and how late it was at most since the last question, in seconds.

    Attributes:
        late: By the clock on the wall.
        busy: The same, but at most the CPU time that the loop's thread took meanwhile: other
            programs on this core make a timer late too.
    """

    def __init__(self) -> None:
        self.late = self.busy = 0.0

    def answer(self) -> str:
        """Answer the question, and begin anew."""
        answer = json.dumps({"late": self.late, "busy": self.busy})
        self.late = self.busy = 0.0
        return answer

    async def _run(self) -> None:
        while True:
            due, used = time.perf_counter() + TICK, time.thread_time()
            await asyncio.sleep(TICK)
            late = time.perf_counter() - due
            self.late = max(self.late, late)
            self.busy = max(self.busy, min(late, time.thread_time() - used))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Ticker]:
        """Tick meanwhile."""
        task = asyncio.create_task(self._run())
        try:
            yield self
        finally:
            task.cancel()
