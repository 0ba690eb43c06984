"""The messages of a connection that wait for its view."""

from __future__ import annotations

import asyncio
from collections import deque
from sys import getsizeof


class MessageQueue:
    """
    A queue of messages, bounded by their number and by the memory that they take.

    Args:
        loop: The connection's loop.
        max_count: Number of messages at which the queue is full.
        max_size: Memory in bytes at which the queue is full.
    """

    # There may be thousands.
    __slots__ = ("_loop", "_max_count", "_max_size", "_messages", "_receiver", "_size")

    def __init__(self, loop: asyncio.AbstractEventLoop, max_count: int, max_size: int) -> None:
        self._loop = loop
        self._max_count = max_count
        self._max_size = max_size
        self._messages: deque[str | bytes] = deque()
        self._size = 0
        self._receiver: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        return len(self._messages)

    def room(self) -> int:
        """Return how many more messages may be put, as far as is known before their size is."""
        return self._max_count - len(self._messages) if self._size < self._max_size else 0

    def has_room_again(self) -> bool:
        """Return True if a queue that was full is at most half full."""
        return len(self._messages) <= self._max_count // 2 and self._size <= self._max_size // 2

    def put(self, message: str | bytes) -> None:
        """Add a message, and wake who waits for one."""
        self._messages.append(message)
        self._size += getsizeof(message)
        self.wake()

    def take(self) -> str | bytes:
        """
        Remove the oldest message and return it.

        Raises:
            IndexError: If there is none.
        """
        message = self._messages.popleft()
        self._size -= getsizeof(message)
        return message

    def clear(self) -> None:
        """Drop all messages."""
        self._messages.clear()
        self._size = 0

    async def wait(self) -> None:
        """
        Wait until a message is put, or `wake` is called.

        Raises:
            RuntimeError: If another task waits already.
        """
        if self._receiver is not None and not self._receiver.cancelled():
            raise RuntimeError("another task is waiting for a message of this connection")
        receiver = self._receiver = self._loop.create_future()
        try:
            await receiver
        finally:
            # Unless this was cancelled and another waits already.
            if self._receiver is receiver:
                self._receiver = None

    def wake(self) -> None:
        """Wake who waits for a message."""
        if self._receiver is not None and not self._receiver.done():
            self._receiver.set_result(None)
