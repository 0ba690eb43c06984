"""Waits for what the debugging aids log."""

from __future__ import annotations

import logging
import queue

PATIENCE = 30


class Log(logging.Handler):
    """Keeps what is logged, and tells those who wait for it at that moment."""

    def __init__(self):
        super().__init__()
        self.messages = queue.SimpleQueue()
        self.listeners = []

    def emit(self, record):
        message = record.getMessage()
        self.messages.put(message)
        for listener in self.listeners:
            listener(message)

    def next(self):
        """Wait for the next message."""
        return self.messages.get(timeout=PATIENCE)

    def is_empty(self):
        return self.messages.empty()
