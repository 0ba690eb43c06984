"""The messages of a connection that wait for its view."""

from __future__ import annotations

import asyncio
from collections import deque
from sys import getsizeof

# A text takes up to four bytes of memory for each byte on the wire.
WIDTH = 4
OVERHEAD = 80


class MessageQueue:
    """
    A queue of messages, bounded by their number and by the memory that they take.

    Args:
        loop: The connection's loop.
        max_count: Number of messages at which the queue is full.
        max_size: Memory in bytes at which the queue is full.
    """

    # There may be thousands.
    __slots__ = (
        "_loop",
        "_max_size",
        "_receiver",
        "_resume_at",
        "_size",
        "max_count",
        "messages",
        "received",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, max_count: int, max_size: int) -> None:
        self._loop = loop
        #: May be raised later.
        self.max_count = max_count
        self._max_size = max_size
        #: The messages: appended on the right (and then `added`), taken from the left.
        self.messages: deque[str | bytes] = deque()
        self.received = 0  # in all
        # An upper bound; the exact size would take time to find out for each message.
        self._size = 0
        self._resume_at = 0
        self._receiver: asyncio.Future[None] | None = None

    def room(self) -> int:
        """Return how many more messages may be put; their size may reduce the number."""
        messages = self.messages
        room = self.max_count - len(messages)
        if self._size >= self._max_size:
            self._size = sum(map(getsizeof, messages))
            if self._size >= self._max_size:
                room = 0
        if room <= 0:
            self._resume_at = len(messages) // 2
        return room

    def has_room_again(self) -> bool:
        """Return True if half of a full queue was taken."""
        return len(self.messages) <= self._resume_at

    def added(self, count: int, size: int) -> None:
        """
        Count what was appended to `messages`, and wake who waits for a message.

        Args:
            count: How many messages.
            size: Their size on the wire, in bytes.
        """
        self.received += count
        self._size += WIDTH * size + OVERHEAD * count
        receiver = self._receiver
        if receiver is not None and not receiver.done():
            receiver.set_result(None)

    def clear(self) -> None:
        """Drop all messages."""
        self.messages.clear()
        self._size = 0

    def wait(self) -> asyncio.Future[None]:
        """
        Return a future that is done when a message is put, or `wake` is called.

        Raises:
            RuntimeError: If another task waits already.
        """
        if self._receiver is not None and not self._receiver.done():
            raise RuntimeError("another task is waiting for a message of this connection")
        self._receiver = self._loop.create_future()
        return self._receiver

    def wake(self) -> None:
        """Wake the task that waits for a message."""
        if self._receiver is not None and not self._receiver.done():
            self._receiver.set_result(None)
