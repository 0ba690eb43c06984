"""
uWSGI's signals to its workers, held until the connections are closed.

uWSGI's handlers are C functions that end the process or its requests right
where the signal arrives, in whichever thread. Python's take their place, and
wake the loop; in the end uWSGI's come back and get the signal, in the main
thread, as any other could not end the interpreter.

Signals are not blocked instead, because subprocesses inherit a thread's mask,
and could not be terminated.
"""

from __future__ import annotations

import asyncio
import ctypes
import signal
import socket
import threading
from collections.abc import Callable, Iterable
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)


class Action:
    """What the process does at a signal: a ``struct sigaction``, whatever is in it."""

    def __init__(self, signum: int) -> None:
        self.signum = signum
        self.value = ctypes.create_string_buffer(1024)  # larger than any system's
        self._call(None, self.value)

    def restore(self) -> None:
        """Restore what the process did at this signal when this object was made."""
        self._call(self.value, None)

    def _call(self, new: Any, old: Any) -> None:
        if _libc.sigaction(self.signum, new, old):
            raise OSError(ctypes.get_errno(), f"sigaction for signal {self.signum}")


def _prepare(signum: int, handler: Any) -> Action:
    # This handler is in force until uWSGI sets its own. A new worker has no handlers yet,
    # and would lose the signal.
    signal.signal(signum, handler)
    return Action(signum)


class HeldSignals:
    """
    Holds signals of this process for a loop.

    To be made in the main thread, the only one that may set Python's handlers.

    Args:
        signums: The signals.
        loop: The loop, in whichever thread.
        on_signal: Called on the loop, with the signal's number.
    """

    def __init__(
        self,
        signums: Iterable[int],
        loop: asyncio.AbstractEventLoop,
        on_signal: Callable[[int], None],
    ) -> None:
        self.loop = loop
        self.on_signal = on_signal
        self.main_thread = threading.get_ident()
        self.lock = threading.Lock()
        self.uwsgi: list[Action] = []
        self.python = [_prepare(signum, self._handle) for signum in signums]
        # For good: uWSGI's handler asks Python for the request, without the GIL.
        # Writing to a closed socket is an error anyway.
        self.no_sigpipe = _prepare(signal.SIGPIPE, signal.SIG_IGN)

    def _handle(self, signum: int, frame: object) -> None:
        self.loop.call_soon_threadsafe(self.on_signal, signum)

    def listen(self) -> None:
        """
        Get signals while the main thread is in uWSGI's code, where no Python runs.

        To be called in the main thread.
        """
        receiver, self.sender = socket.socketpair()
        receiver.setblocking(False)
        self.sender.setblocking(False)
        signal.set_wakeup_fd(self.sender.fileno(), warn_on_full_buffer=False)

        def receive() -> None:
            for signum in receiver.recv(64):
                self.on_signal(signum)

        self.loop.call_soon_threadsafe(self.loop.add_reader, receiver, receive)

    @property
    def held(self) -> bool:
        """Return True if uWSGI has set its handlers, and lost them to Python's."""
        return bool(self.uwsgi)

    def hold(self) -> None:
        """Take the signals from uWSGI, which has set its handlers before its first request."""
        if not self.uwsgi:
            with self.lock:
                if not self.uwsgi:
                    self.uwsgi = [Action(action.signum) for action in self.python]
                    for action in (*self.python, self.no_sigpipe):
                        action.restore()

    def release(self, signum: int) -> None:
        """Give the signals back to uWSGI, and this one at once."""
        for action in self.uwsgi:
            action.restore()
        # While uWSGI has not set its handlers, the signal comes back to ours.
        delay = 0 if self.uwsgi else 0.1
        self.loop.call_later(delay, signal.pthread_kill, self.main_thread, signum)
