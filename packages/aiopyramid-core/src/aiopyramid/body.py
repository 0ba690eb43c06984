"""The body of a request, as a stream that a server's package feeds."""

from __future__ import annotations

import io
from typing import Any


class BodyStream(io.RawIOBase):
    """A stream (``wsgi.input``, PEP 3333) over pieces of any size."""

    def __init__(self) -> None:
        super().__init__()
        self._rest = memoryview(b"")

    def next_piece(self) -> bytes:
        """Return more of the body; nothing at its end, each time."""
        raise NotImplementedError

    def readable(self) -> bool:
        """Return True: this stream can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read up to ``len(buffer)`` bytes; 0 at the end."""
        if not self._rest:
            self._rest = memoryview(self.next_piece())
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size
