"""
Holds the signals that stop or reload a worker until its connections are closed.

uWSGI's own handlers are C functions. They end the process, or its requests, in the thread
that happens to get the signal. So handlers of Python's replace them and wake the loop. When
the connections are closed, uWSGI's handlers are restored and the signal is sent again, to the
main thread: no other thread can end the interpreter.

Blocking the signals would be simpler, but subprocesses inherit a thread's mask, and a
subprocess that blocks SIGTERM cannot be terminated.
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
    """A copy of what the process does at a signal: its ``struct sigaction``."""

    def __init__(self, signum: int) -> None:
        self.signum = signum
        self.value = ctypes.create_string_buffer(1024)  # larger than any system's
        self._call(None, self.value)

    def restore(self) -> None:
        """Make the process do again what it did when this copy was taken."""
        self._call(self.value, None)

    def _call(self, new: Any, old: Any) -> None:
        if _libc.sigaction(self.signum, new, old):
            raise OSError(ctypes.get_errno(), f"sigaction for signal {self.signum}")


def _prepare(signum: int, handler: Any) -> Action:
    # uWSGI sets its handlers only when the worker begins to serve. Until then this handler
    # gets the signal, which would be lost.
    signal.signal(signum, handler)
    return Action(signum)


class HeldSignals:
    """
    Replaces uWSGI's handlers of some signals by a call on the loop.

    Must be created in the main thread, because Python sets handlers only there.

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
        # Never given back to uWSGI: its handler calls Python without holding the GIL.
        # Python reports a write to a closed socket as an error in any case.
        self.no_sigpipe = _prepare(signal.SIGPIPE, signal.SIG_IGN)

    def _handle(self, signum: int, frame: object) -> None:
        self.loop.call_soon_threadsafe(self.on_signal, signum)

    def listen(self) -> None:
        """
        Pass signals to the loop also while the main thread waits in uWSGI's own code.

        Python's handlers do not run there. Must be called in the main thread.
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
        """Return True if `hold` has replaced uWSGI's handlers."""
        return bool(self.uwsgi)

    def hold(self) -> None:
        """Replace uWSGI's handlers; to be called after uWSGI has set them: from a request on."""
        if not self.uwsgi:
            with self.lock:
                if not self.uwsgi:
                    self.uwsgi = [Action(action.signum) for action in self.python]
                    for action in (*self.python, self.no_sigpipe):
                        action.restore()

    def release(self, signum: int) -> None:
        """Restore uWSGI's handlers, and send this signal again."""
        for action in self.uwsgi:
            action.restore()
        # If uWSGI has not set its handlers yet, our handler gets the signal once more.
        delay = 0 if self.uwsgi else 0.1
        self.loop.call_later(delay, signal.pthread_kill, self.main_thread, signum)
