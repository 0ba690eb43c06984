"""
Tells what holds the event loop, while it does.

The loop notes the time twice in each `limit`, by a timer of its own; nobody else wakes it. A
thread looks whether a note is overdue by the limit.
"""

from __future__ import annotations

import asyncio
import math
import selectors
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FrameType

from ..homes import Home
from ..websocket.sessions import sessions
from . import stacks
from .watch import Watch, logger

# The part of the limit after which the loop notes the time.
INTERVAL = 0.5


@contextmanager
def watching(home: Home, limit: float) -> Iterator[None]:
    """
    Watch this thread's event loop.

    Args:
        home: The loop. It is watched once, with the limit of who came first.
        limit: How long it may be held, in seconds.
    """
    watch = _watches.get(home)
    if watch is None:
        watch = _watches[home] = LoopWatch(home, limit)
        watch.start()
    watch.users += 1
    try:
        yield
    finally:
        watch.users -= 1
        if not watch.users:
            del _watches[home]
            watch.stop()


class LoopWatch(Watch):
    """
    A thread that looks at an event loop. Start and stop it on the loop.

    Args:
        home: The loop.
        limit: How long it may be held, in seconds.
    """

    def __init__(self, home: Home, limit: float) -> None:
        super().__init__("aiopyramid-debug-blocks")
        self.home = home
        self.limit = limit
        self.users = 0
        self.due = math.inf  # when the next note is due
        self.held = 0.0  # how long the last block was
        self.ident = 0
        self.runner: CodeType | None = None  # what calls callbacks, as far as that is in Python
        # In the thread.
        self._block: float | None = None  # that is reported: the note that was due
        self._idle: float | None = None  # the same, if nothing was seen to run
        self._since = 0.0  # when the loop was last known not to be held

    # On the loop.

    def start(self) -> None:
        """Start to watch."""
        self._note()
        super().start()

    def stop(self) -> None:
        """Stop to watch."""
        self._timer.cancel()
        self._ended(time.monotonic())
        self.due = math.inf
        super().stop()

    def _note(self) -> None:
        now, caller = time.monotonic(), sys._getframe().f_back
        self._ended(now)
        self.ident = threading.get_ident()  # uWSGI's asyncio plugin runs the loop anew
        self.runner = caller.f_code if caller is not None else None
        self.due = now + self.limit * INTERVAL
        self._timer = self.home.loop.call_later(
            self.limit * INTERVAL, self._note, context=self.home.context
        )

    def _ended(self, now: float) -> None:
        if now - self.due > self.limit:
            self.held = now - self.due
            self.wake()

    # In the thread.

    def look(self) -> float:
        """Look whether the loop is held."""
        due = self.due
        if self._block is not None and self._block != due:
            self._block = None
            logger.warning("The event loop goes on, after %.2f s", self.held)
        late = time.monotonic() - max(due, self._since)
        if self._block is not None or late < self.limit:
            return self.limit - max(late, 0) if self._block is None else self.limit
        frame = sys._current_frames().get(self.ident)
        if not self.home.is_running():
            self._since = time.monotonic()
        elif self._is_idle(frame) and self._idle != due:
            # Perhaps the whole process did not run. Or else this is a C function.
            self._idle, self._since = due, time.monotonic()
        else:
            self._block = due
            self._report(frame, time.monotonic() - due)
        return self.limit

    def _is_idle(self, frame: FrameType | None) -> bool:
        if frame is None:
            return True
        code = frame.f_code
        return code is self.runner or code.co_filename == selectors.__file__

    def _report(self, frame: FrameType | None, held: float) -> None:
        frames = stacks.outermost_first(frame)
        stack = stacks.format_stack(frame for frame in frames if stacks.is_shown(frame))
        where = "a function that is not Python's"
        if frames and not self._is_idle(frame):
            culprit = stacks.culprit(frames)
            code = culprit.f_code
            where = f"{code.co_filename}:{culprit.f_lineno} in {code.co_qualname}"
        logger.warning(
            "The event loop has been held for %.2f s by %s%s:\n%s",
            held,
            where,
            self._on_behalf(frames),
            stack,
        )

    def _on_behalf(self, frames: list[FrameType]) -> str:
        """Tell for whom that code runs."""
        facts = []
        name = stacks.coroutine_name(frames)
        if name is not None:
            facts.append(f"coroutine {name}")
        task = asyncio.current_task(self.home.loop)
        if task is not None:
            facts.append(f"task {task.get_name()!r}")
            facts += [
                f"WebSocket {session.request.path}"
                for session in sessions.open.copy()
                if session.task is task
            ]
        return f" ({', '.join(facts)})" if facts else ""


_watches: dict[Home, LoopWatch] = {}
