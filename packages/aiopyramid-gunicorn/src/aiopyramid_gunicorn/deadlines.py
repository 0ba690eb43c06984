"""Many waits of the same length, with one timer."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Deadlines(Generic[T]):
    """
    Calls a function for whatever has been in here for too long.

    All wait equally long, so the one that came first is due first, and a request need not set a
    timer of its own.

    Args:
        loop: The event loop.
        seconds: How long; with 0, for ever.
        overdue: Called with what is due, which is removed first.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, seconds: float, overdue: Callable[[T], object]
    ) -> None:
        self.loop = loop
        self.seconds = seconds
        self.overdue = overdue
        self._due: dict[T, float] = {}  # in the order of their deadlines
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._due)

    def __contains__(self, item: T) -> bool:
        return item in self._due

    def add(self, item: T) -> None:
        """Let an item wait from now on; it must not wait here already."""
        if self.seconds > 0:
            self._due[item] = self.loop.time() + self.seconds
            if self._timer is None:
                self._timer = self.loop.call_later(self.seconds, self._look)

    def discard(self, item: T) -> None:
        """Remove an item, if it waits."""
        self._due.pop(item, None)

    def close(self) -> None:
        """Forget everything."""
        self._due.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        now = self.loop.time()
        overdue = list(itertools.takewhile(lambda item: self._due[item] <= now, self._due))
        for item in overdue:
            del self._due[item]
        first = next(iter(self._due.values()), None)
        self._timer = None if first is None else self.loop.call_at(first, self._look)
        for item in overdue:
            self.overdue(item)
