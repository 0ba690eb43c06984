"""
Turns for connections whose peers send more than is handled at once.

The loop calls a connection when bytes have arrived, and the connection handles a number
of frames right then. With what is left, it stops reading and queues here, where all
connections together handle as many frames in each turn of the loop. So a peer that sends
as fast as it can slows down nobody but itself.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol
from weakref import WeakKeyDictionary

# Frames in one turn. Judging one takes about 15 µs, so this is about a millisecond.
BUDGET = 64
# A larger frame counts as several: one more for each of these many bytes.
FRAME_SIZE = 4096


class TakesTurns(Protocol):
    """A member of the queue: a connection with frames to handle."""

    def take_turn(self, budget: int) -> int:
        """Handle up to ``budget`` frames, and return what is left of the budget."""


class Turns:
    """The queue of one loop: its members get their turns in the order in which they came."""

    def __init__(self) -> None:
        self._queue: deque[TakesTurns] = deque()
        self._scheduled = False

    def join(self, member: TakesTurns) -> None:
        """Give ``member`` a turn, but not in this turn of the loop."""
        self._queue.append(member)
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._run)

    def _run(self) -> None:
        self._scheduled = False
        budget = BUDGET
        try:
            # Those who join meanwhile have had their turn.
            for _ in range(len(self._queue)):
                budget = self._queue.popleft().take_turn(budget)
                if budget <= 0:
                    break
        finally:
            if self._queue:
                self._schedule()


_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, Turns] = WeakKeyDictionary()


def turns_of(loop: asyncio.AbstractEventLoop) -> Turns:
    """Return the queue of a loop."""
    turns = _turns.get(loop)
    if turns is None:
        turns = _turns[loop] = Turns()
    return turns
