"""A thread that looks at its process now and then."""

from __future__ import annotations

import logging
import threading

logger = logging.getLogger("aiopyramid.debug")

# How long the end of such a thread is waited for, in seconds. It may be writing to the log.
END_TIMEOUT = 1.0

# The time until the next look after one that failed, in seconds.
AFTER_ERROR = 1.0


class Watch:
    """
    A daemon thread that looks, and sleeps, until it is stopped.

    Args:
        name: The thread's name.
    """

    def __init__(self, name: str) -> None:
        self._wake = threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Let the thread look once more, and end it."""
        self._stopped = True
        self._wake.set()
        self._thread.join(END_TIMEOUT)

    def wake(self) -> None:
        """Let the thread look now."""
        self._wake.set()

    def look(self) -> float:
        """
        Look, in the thread.

        Returns:
            The time until the next look, in seconds.
        """
        raise NotImplementedError

    def _run(self) -> None:
        delay = 0.0
        while True:
            self._wake.wait(delay)
            self._wake.clear()
            is_last = self._stopped
            try:
                delay = self.look()
            except Exception:
                # The process changes meanwhile, and what is shown of it may raise anything.
                logger.exception("%s could not look", self._thread.name)
                delay = AFTER_ERROR
            if is_last:
                return
